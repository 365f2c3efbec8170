//! The fleet's certificate authority for the HTTPS API. Its private key exists in the clear only in
//! memory; at rest it is sealed to the devices that may sign. Certificates carry dates that no
//! wrong clock can make invalid: trust ends by removing it, not by waiting.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
    date_time_ymd,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::keys::seal_to;
use super::{Identity, IdentityError, Member, random};

/// The most groups that one client certificate can carry.
pub const GROUP_LIMIT: usize = 2;

/// The fleet's authority with its private key, able to sign.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("fleet", &self.fleet()).finish_non_exhaustive()
    }
}

/// The authority at rest: the `spec` of the document `kith.dev/Seal authority`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The authority's certificate, PEM.
    pub certificate: String,
    /// Member id -> the private key, sealed to that member's sealing key, base64.
    pub sealed: BTreeMap<u64, String>,
}

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct Credentials {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS#8).
    pub key: Zeroizing<String>,
}

impl Authority {
    /// Makes the authority of a new fleet.
    pub fn generate() -> Result<Self, IdentityError> {
        let fail = |error| IdentityError::crypto("make the fleet's authority", error);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(fail)?;
        let mut params = params()?;
        params.distinguished_name.push(DnType::CommonName, format!("kith fleet {}", fleet_of(&key)));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(fail)?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// The fleet's id: a fingerprint of the authority's public key.
    pub fn fleet(&self) -> String {
        fleet_of(self.issuer.key())
    }

    /// The authority's certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Signs a certificate for a device's HTTPS API. `public_key` is SubjectPublicKeyInfo in DER
    /// ([`Identity::serving_public_key`]). Returns PEM.
    pub fn sign_serving(
        &self,
        public_key: &[u8],
        name: &str,
        names: &[String],
        addresses: &[IpAddr],
    ) -> Result<String, IdentityError> {
        let fail = |error| IdentityError::crypto("sign a serving certificate", error);
        let mut params = params()?;
        params.distinguished_name.push(DnType::CommonName, name);
        for name in names {
            let name = name.as_str().try_into().map_err(fail)?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let public_key = SubjectPublicKeyInfo::from_der(public_key).map_err(fail)?;
        Ok(params.signed_by(&public_key, &self.issuer).map_err(fail)?.pem())
    }

    /// Makes a client certificate with a new key: `user` becomes its CN, `groups` its O.
    pub fn issue_client(&self, user: &str, groups: &[String]) -> Result<Credentials, IdentityError> {
        let fail = |error| IdentityError::crypto("sign a client certificate", error);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(fail)?;
        let certificate = self.sign_client(&key.subject_public_key_info(), user, groups)?;
        Ok(Credentials { certificate, key: Zeroizing::new(key.serialize_pem()) })
    }

    /// Signs a client certificate for a key that its user made (SubjectPublicKeyInfo in DER).
    pub fn sign_client(&self, public_key: &[u8], user: &str, groups: &[String]) -> Result<String, IdentityError> {
        let fail = |error| IdentityError::crypto("sign a client certificate", error);
        let mut params = params()?;
        params.distinguished_name.push(DnType::CommonName, user);
        if groups.len() > GROUP_LIMIT {
            let reason = format!("{} groups, and a certificate can carry {GROUP_LIMIT}", groups.len());
            return Err(IdentityError::crypto("sign a client certificate", reason));
        }
        for (slot, group) in organization_slots().into_iter().zip(groups) {
            params.distinguished_name.push(slot, DnValue::Utf8String(group.clone()));
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let public_key = SubjectPublicKeyInfo::from_der(public_key).map_err(fail)?;
        Ok(params.signed_by(&public_key, &self.issuer).map_err(fail)?.pem())
    }
}

impl Authority {
    /// Seals the private key to these members, so that each of them can open it alone.
    pub fn seal<'a>(&self, members: impl IntoIterator<Item = (u64, &'a Member)>) -> Result<Seal, IdentityError> {
        let mut key = self.issuer.key().serialize_der();
        let sealed = members
            .into_iter()
            .map(|(id, member)| Ok((id, BASE64.encode(seal_to(&member.sealing_key, &key)?))))
            .collect::<Result<_, IdentityError>>();
        key.zeroize();
        Ok(Seal { certificate: self.certificate.clone(), sealed: sealed? })
    }
}

impl Seal {
    /// The name of the document that holds it.
    pub const NAME: &'static str = "authority";

    /// Opens the authority with the keys of a member that it is sealed to.
    pub fn open(&self, member: u64, identity: &Identity) -> Result<Authority, IdentityError> {
        let fail = |reason: String| IdentityError::Crypto { action: "open the fleet's authority", reason };
        let sealed = self.sealed.get(&member).ok_or(IdentityError::NotSealed { member })?;
        let sealed = BASE64.decode(sealed).map_err(|error| fail(error.to_string()))?;
        let key = PrivatePkcs8KeyDer::from(identity.unseal(&sealed)?.to_vec());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)
            .map_err(|error| fail(error.to_string()))?;
        let certificate = rustls::pki_types::pem::PemObject::from_pem_slice(self.certificate.as_bytes())
            .map_err(|error| fail(format!("its certificate: {error}")))?;
        if fleet(&certificate)? != fleet_of(&key) {
            return Err(fail("the sealed key does not belong to the certificate".into()));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|error| fail(error.to_string()))?;
        Ok(Authority { certificate: self.certificate.clone(), issuer })
    }

    /// The whole object, as the store keeps it.
    pub fn to_object(&self) -> serde_json::Value {
        let metadata = serde_json::json!({ "name": Self::NAME });
        serde_json::json!({ "apiVersion": "kith.dev/v1", "kind": "Seal", "metadata": metadata, "spec": self })
    }

    /// The seal in an object's `spec`.
    pub fn from_object(object: &serde_json::Value) -> Result<Self, serde_json::Error> {
        Self::deserialize(object.get("spec").unwrap_or(&serde_json::Value::Null))
    }
}

/// The id of the fleet whose authority has this certificate.
fn fleet(certificate: &rustls::pki_types::CertificateDer<'_>) -> Result<String, IdentityError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| IdentityError::crypto("read the authority's certificate", error))?;
    Ok(fingerprint(parsed.public_key().raw))
}

fn fleet_of(key: &KeyPair) -> String {
    fingerprint(&key.subject_public_key_info())
}

fn fingerprint(public_key: &[u8]) -> String {
    hex::encode(&Sha256::digest(public_key)[..16])
}

/// rcgen keeps one value for each attribute type, and Kubernetes reads each O as one group: the
/// second one goes in under the same object identifier by its number.
fn organization_slots() -> [DnType; GROUP_LIMIT] {
    [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])]
}

/// Valid at any time that a device's clock may show.
fn params() -> Result<CertificateParams, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // Positive, and different each time: browsers refuse a second certificate with the same one.
    let mut serial = random::<16>()?;
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}
