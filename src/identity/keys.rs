//! A device's own keys: one Ed25519 key that its peers trust, one X25519 key to which secrets are
//! sealed, one P-256 key for its HTTPS API, and what keeps QUIC resets stable over restarts. They
//! are made here and leave this module only as public halves, or as handles for TLS.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::{DeviceKey, IdentityError, Member, files, random};

const FILE: &str = "device.json";
const VERSION: u32 = 1;
const REMEDY: &str =
    "restore it from a backup of this device, or move it away and join again as a new device with `kith join TOKEN`";

/// The keys of this device.
pub struct Identity {
    key: DeviceKey,
    device: PrivatePkcs8KeyDer<'static>,
    certificate: CertificateDer<'static>,
    sealing: crypto_box::SecretKey,
    serving: KeyPair,
    reset: Zeroizing<[u8; 64]>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("key", &self.key).finish_non_exhaustive()
    }
}

/// The file's form: all keys in one file, so that no crash can leave half an identity.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    /// Ed25519, PKCS#8, base64.
    device: String,
    /// X25519, raw, base64.
    sealing: String,
    /// P-256, PKCS#8, base64.
    serving: String,
    /// 64 random bytes, base64.
    reset: String,
}

impl Drop for Stored {
    fn drop(&mut self) {
        for secret in [&mut self.device, &mut self.sealing, &mut self.serving, &mut self.reset] {
            secret.zeroize();
        }
    }
}

impl Identity {
    /// Where the keys are kept inside a data folder.
    pub fn path(data_dir: &Path) -> PathBuf {
        files::dir(data_dir).join(FILE)
    }

    /// Makes new keys and writes them to disk; refuses when the device has keys.
    pub fn create(data_dir: &Path) -> Result<Self, IdentityError> {
        let path = Self::path(data_dir);
        let stored = Stored::generate()?;
        let identity = Self::from_stored(&stored, &path)?;
        let text = serde_json::to_vec_pretty(&stored).map(Zeroizing::new);
        let text = text.map_err(|error| IdentityError::crypto("write keys", error))?;
        files::write(&path, &text, false)?;
        Ok(identity)
    }

    /// Reads the keys from disk.
    pub fn load(data_dir: &Path) -> Result<Self, IdentityError> {
        let path = Self::path(data_dir);
        let Some(bytes) = files::read(&path)?.map(Zeroizing::new) else {
            return Err(IdentityError::Missing { path });
        };
        Self::parse(&path, &bytes)
    }

    /// The keys in the bytes of a file.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, IdentityError> {
        let stored: Stored = serde_json::from_slice(bytes).map_err(|error| corrupt(path, error))?;
        if stored.version != VERSION {
            return Err(corrupt(path, format!("version {}, and this release reads {VERSION}", stored.version)));
        }
        Self::from_stored(&stored, path)
    }

    /// Reads the keys, or makes them when the device has none.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, IdentityError> {
        match Self::load(data_dir) {
            Err(IdentityError::Missing { .. }) => Self::create(data_dir),
            other => other,
        }
    }

    fn from_stored(stored: &Stored, path: &Path) -> Result<Self, IdentityError> {
        let device = decode(&stored.device, path, "device")?;
        let sealing = decode(&stored.sealing, path, "sealing")?;
        let serving = decode(&stored.serving, path, "serving")?;
        let reset = decode(&stored.reset, path, "reset")?;

        let device = PrivatePkcs8KeyDer::from(device.to_vec());
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&device, &PKCS_ED25519)
            .map_err(|error| corrupt(path, format!("device: {error}")))?;
        let key = <[u8; 32]>::try_from(pair.der_bytes())
            .map(DeviceKey)
            .map_err(|_| corrupt(path, "device: the public key has not 32 bytes"))?;
        let serving = PrivatePkcs8KeyDer::from(serving.to_vec());
        let serving = KeyPair::from_pkcs8_der_and_sign_algo(&serving, &PKCS_ECDSA_P256_SHA256)
            .map_err(|error| corrupt(path, format!("serving: {error}")))?;
        Ok(Self {
            key,
            certificate: self_signed(&pair)?,
            device,
            sealing: crypto_box::SecretKey::from_slice(&sealing)
                .map_err(|_| corrupt(path, format!("sealing: {} bytes instead of 32", sealing.len())))?,
            serving,
            reset: <[u8; 64]>::try_from(reset.as_slice())
                .map(Zeroizing::new)
                .map_err(|_| corrupt(path, format!("reset: {} bytes instead of 64", reset.len())))?,
        })
    }

    /// The public key by which peers know this device.
    pub fn key(&self) -> DeviceKey {
        self.key
    }

    /// The public key to which secrets for this device are sealed.
    pub fn sealing_key(&self) -> [u8; 32] {
        self.sealing.public_key().to_bytes()
    }

    /// This device as the fleet's membership lists it.
    pub fn member(&self, name: &str, addresses: Vec<std::net::SocketAddr>, api_port: u16) -> Member {
        Member {
            name: name.to_owned(),
            key: self.key,
            sealing_key: self.sealing_key(),
            addresses,
            api_port,
            ..Member::default()
        }
    }

    /// Opens what was sealed to this device with [`seal_to`].
    pub fn unseal(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
        self.sealing.unseal(sealed).map(Zeroizing::new).map_err(|_| {
            IdentityError::crypto("open a sealed secret", "it was sealed to another device, or it is damaged")
        })
    }

    /// Public half of the HTTPS serving key, as SubjectPublicKeyInfo in DER.
    pub fn serving_public_key(&self) -> Vec<u8> {
        self.serving.subject_public_key_info()
    }

    /// The HTTPS serving key, for TLS.
    pub(crate) fn serving_private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.serving.serialize_der()))
    }

    /// The device key, for TLS.
    pub(crate) fn device_private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.device.clone_key())
    }

    /// A certificate that carries the device key and says nothing else that anybody relies on.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// Bytes that stay the same over restarts, to derive QUIC's stateless reset tokens from.
    pub(crate) fn reset_secret(&self) -> &[u8; 64] {
        &self.reset
    }
}

/// Seals a secret so that only the device with this sealing key can open it.
pub fn seal_to(sealing_key: &[u8; 32], secret: &[u8]) -> Result<Vec<u8>, IdentityError> {
    crypto_box::PublicKey::from_bytes(*sealing_key)
        .seal(&mut crypto_box::aead::OsRng, secret)
        .map_err(|error| IdentityError::crypto("seal a secret", error))
}

impl Stored {
    fn generate() -> Result<Self, IdentityError> {
        let make = |algorithm| KeyPair::generate_for(algorithm).map_err(|e| IdentityError::crypto("make a key", e));
        let text = |secret: &[u8]| BASE64.encode(secret);
        let (device, serving) = (make(&PKCS_ED25519)?, make(&PKCS_ECDSA_P256_SHA256)?);
        let (sealing, reset) = (Zeroizing::new(random::<32>()?), Zeroizing::new(random::<64>()?));
        Ok(Self {
            version: VERSION,
            device: text(device.serialized_der()),
            sealing: text(sealing.as_slice()),
            serving: text(serving.serialized_der()),
            reset: text(reset.as_slice()),
        })
    }
}

fn self_signed(pair: &KeyPair) -> Result<CertificateDer<'static>, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "kith device");
    let signed = params.self_signed(pair).map_err(|e| IdentityError::crypto("make the device's certificate", e))?;
    Ok(signed.into())
}

fn decode(text: &str, path: &Path, field: &str) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    BASE64.decode(text).map(Zeroizing::new).map_err(|error| corrupt(path, format!("{field}: {error}")))
}

fn corrupt(path: &Path, reason: impl std::fmt::Display) -> IdentityError {
    IdentityError::Corrupt { path: path.to_owned(), reason: reason.to_string(), remedy: REMEDY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_a_restart_and_are_never_made_twice() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Identity::load(dir.path()).unwrap_err().to_string();
        assert!(missing.contains("device.json") && missing.contains("kith join"), "{missing}");
        let made = Identity::load_or_create(dir.path()).unwrap();
        let read = Identity::load_or_create(dir.path()).unwrap();
        assert_eq!(made.key(), read.key());
        assert_eq!(made.sealing_key(), read.sealing_key());
        assert_eq!(made.reset_secret(), read.reset_secret());
        assert_eq!(made.serving_public_key(), read.serving_public_key());
        assert!(matches!(Identity::create(dir.path()), Err(IdentityError::Exists { .. })));
        assert!(!format!("{made:?}").contains(&BASE64.encode(made.reset_secret())));
    }

    #[test]
    fn every_damage_names_the_file_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        Identity::create(dir.path()).unwrap();
        let path = Identity::path(dir.path());
        let good = files::read(&path).unwrap().unwrap();
        let text = String::from_utf8(good.clone()).unwrap();
        let mut cases = vec![good[..good.len() / 2].to_vec(), Vec::new(), b"{}".to_vec()];
        cases.push(text.replacen("\"version\": 1", "\"version\": 9", 1).into_bytes());
        for field in ["device", "sealing", "serving", "reset"] {
            cases.push(text.replacen(&format!("\"{field}\": \""), &format!("\"{field}\": \"AAAA"), 1).into_bytes());
            cases.push(text.replacen(&format!("\"{field}\": \""), &format!("\"{field}\": \"*"), 1).into_bytes());
        }
        for bytes in cases {
            files::write(&path, &bytes, true).unwrap();
            let error = Identity::load(dir.path()).unwrap_err().to_string();
            assert!(error.contains("device.json") && error.contains("restore it"), "{error}");
        }
    }

    #[test]
    fn only_the_addressee_opens_a_sealed_secret() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, two) = (Identity::create(one.path()).unwrap(), Identity::create(two.path()).unwrap());
        let sealed = seal_to(&one.sealing_key(), b"secret").unwrap();
        assert_eq!(one.unseal(&sealed).unwrap().as_slice(), b"secret");
        assert!(two.unseal(&sealed).is_err());
        assert!(one.unseal(&sealed[..10]).is_err());
    }
}
