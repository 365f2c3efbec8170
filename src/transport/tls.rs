//! Who may talk: TLS 1.3 with both sides' keys. On [`PEER`] a key is accepted only if the fleet
//! trusts it; on [`JOIN`] any key may be proved, and nothing follows from it but the right to name a
//! join token. No decision here looks at a date.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::rustls;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::quic::Suite;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};

use crate::identity::{DeviceKey, Identity, Trust};

/// Application protocol between members.
pub(super) const PEER: &[u8] = b"kith/1";

/// Application protocol of those who hold a join token.
pub(super) const JOIN: &[u8] = b"kith-join/1";

/// The name in handshakes; it is not sent, and nothing depends on it.
pub(super) const SERVER_NAME: &str = "kith";

/// Whose key a dialled device must prove.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expect {
    /// This one's.
    Key(DeviceKey),
    /// Anyone's: its proof follows over the connection.
    Anyone,
}

/// This device's side of every handshake.
#[derive(Clone)]
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    certified: Arc<CertifiedKey>,
    initial: Suite,
}

/// TLS can not be set up with these keys.
#[derive(Debug, thiserror::Error)]
#[error("set up TLS: {0}")]
pub struct TlsError(String);

impl Tls {
    pub(super) fn new(identity: &Identity) -> Result<Self, TlsError> {
        let fail = |error: rustls::Error| TlsError(error.to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = provider.key_provider.load_private_key(identity.device_private_key()).map_err(fail)?;
        let certified = Arc::new(CertifiedKey::new(vec![identity.certificate()], key));
        let initial = provider
            .cipher_suites
            .iter()
            .find(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256)
            .and_then(|suite| suite.tls13()?.quic_suite())
            .ok_or_else(|| TlsError("the provider has no TLS13_AES_128_GCM_SHA256".into()))?;
        Ok(Self { provider, certified, initial })
    }

    /// The settings of one dialled connection.
    pub(super) fn client(&self, expect: Expect, protocol: &[u8]) -> Result<quinn::ClientConfig, TlsError> {
        let fail = |error: rustls::Error| TlsError(error.to_string());
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(fail)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ServerKey { expect, provider: self.provider.clone() }))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.certified.clone())));
        config.alpn_protocols = vec![protocol.to_vec()];
        config.enable_sni = false;
        // A resumed session would skip the check of the peer's key.
        config.resumption = Resumption::disabled();
        let config = QuicClientConfig::with_initial(Arc::new(config), self.initial)
            .map_err(|error| TlsError(error.to_string()))?;
        Ok(quinn::ClientConfig::new(Arc::new(config)))
    }

    /// The settings of one accepted connection: its own, because which keys are accepted follows
    /// from the protocol that the other side asks for.
    pub(super) fn server(&self, trust: Trust) -> Result<QuicServerConfig, TlsError> {
        let fail = |error: rustls::Error| TlsError(error.to_string());
        let joining = Arc::new(AtomicBool::new(false));
        let verifier = ClientKey { trust, joining: joining.clone(), provider: self.provider.clone() };
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(fail)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(OwnKey { certified: self.certified.clone(), joining }));
        config.alpn_protocols = vec![PEER.to_vec(), JOIN.to_vec()];
        // A resumed session would skip the check of the peer's key.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        QuicServerConfig::with_initial(Arc::new(config), self.initial).map_err(|error| TlsError(error.to_string()))
    }
}

/// The protocol that a finished handshake agreed on.
pub(super) fn protocol(connection: &quinn::Connection) -> Option<Vec<u8>> {
    let agreed = connection.handshake_data()?.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?;
    agreed.protocol
}

/// The key that the other side of a finished handshake proved.
pub(super) fn peer_key(connection: &quinn::Connection) -> Option<DeviceKey> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    key_of(chain.first()?).ok()
}

/// The Ed25519 key in a certificate; whatever else it says is ignored.
pub(super) fn key_of(certificate: &CertificateDer<'_>) -> Result<DeviceKey, rustls::Error> {
    let malformed = || rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
    let (rest, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| malformed())?;
    let public_key = parsed.public_key();
    if !rest.is_empty() || public_key.algorithm.algorithm != x509_parser::oid_registry::OID_SIG_ED25519 {
        return Err(malformed());
    }
    <[u8; 32]>::try_from(public_key.subject_public_key.data.as_ref()).map(DeviceKey).map_err(|_| malformed())
}

fn untrusted() -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

/// Checks that the handshake was signed with the key in the certificate.
fn verify(
    provider: &CryptoProvider,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    if signature.scheme != SignatureScheme::ED25519 {
        return Err(rustls::PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    }
    rustls::crypto::verify_tls13_signature(message, certificate, signature, &provider.signature_verification_algorithms)
}

/// TLS 1.2 is not spoken here, so this is never asked for a valid handshake.
fn refuse_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::PeerIncompatible::Tls12NotOffered.into())
}

/// Shows this device's key, and notes which protocol the client wants before its key is judged.
#[derive(Debug)]
struct OwnKey {
    certified: Arc<CertifiedKey>,
    joining: Arc<AtomicBool>,
}

impl ResolvesServerCert for OwnKey {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // The same rule as the choice of the protocol: a client that also offers the peers'
        // protocol is judged as a peer.
        let mut offered = hello.alpn()?;
        let joining = offered.all(|protocol| protocol != PEER);
        self.joining.store(joining, Ordering::Relaxed);
        Some(self.certified.clone())
    }
}

#[derive(Debug)]
struct ClientKey {
    trust: Trust,
    joining: Arc<AtomicBool>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for ClientKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let key = key_of(end_entity)?;
        if self.joining.load(Ordering::Relaxed) || self.trust.contains(&key) {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(untrusted())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify(&self.provider, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[derive(Debug)]
struct ServerKey {
    expect: Expect,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ServerKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let key = key_of(end_entity)?;
        match self.expect {
            Expect::Key(expected) if expected != key => Err(untrusted()),
            Expect::Key(_) | Expect::Anyone => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify(&self.provider, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
