//! TLS for the HTTPS API: which certificate it shows, which clients it recognises. A client without
//! a certificate is let through as nobody; what nobody may do is the API's decision.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};

use super::{Identity, IdentityError};

/// No earlier than this is it ever, whatever the clock says: 2026-01-01T00:00:00Z, in seconds.
const EARLIEST_NOW: u64 = 1_767_225_600;

/// Who a client is, by its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The certificate's CN.
    pub name: String,
    /// The certificate's O values.
    pub groups: Vec<String>,
}

/// TLS settings of the HTTPS API: serves `certificate` (PEM, signed for
/// [`Identity::serving_public_key`]) and accepts clients with no certificate or one of `authority`
/// (PEM).
pub fn tls_server_config(
    authority: &str,
    certificate: &str,
    identity: &Identity,
) -> Result<Arc<ServerConfig>, IdentityError> {
    let fail = |reason: &dyn std::fmt::Display| IdentityError::crypto("set up TLS for the HTTPS API", reason);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(authority.as_bytes()).map_err(|e| fail(&e))?;
    roots.add(authority).map_err(|e| fail(&e))?;
    let verifier = Tolerant::new(Arc::new(roots), provider.clone()).map_err(|e| fail(&e))?;
    let chain =
        CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(|e| fail(&e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| fail(&e))?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain, identity.serving_private_key())
        .map_err(|e| fail(&e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Sessions would cost memory for each client, and outlive a client's removal.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Who a verified client certificate belongs to; `None` when it names nobody.
pub fn client_user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok().map(str::to_owned)).collect();
    if name.is_empty() { None } else { Some(User { name, groups }) }
}

/// The ordinary verifier, on a clock that never runs before this release was made: a device whose
/// clock was lost recognises its users.
#[derive(Debug)]
struct Tolerant(Arc<dyn ClientCertVerifier>);

impl Tolerant {
    fn new(
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, rustls::server::VerifierBuilderError> {
        let builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
        Ok(Self(builder.allow_unauthenticated().build()?))
    }
}

impl ClientCertVerifier for Tolerant {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.as_secs().max(EARLIEST_NOW)));
        self.0.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
