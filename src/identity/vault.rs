//! The fleet's key for secrets at rest. Whatever takes a write locks values with its public half,
//! which everybody knows; only those to whom the private half is sealed open them again. A locked
//! value names its place, so that it means nothing under another name.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::keys::seal_to;
use super::{Identity, IdentityError, Member, random};

/// The form of a locked value; the first of its bytes.
const FORM: u8 = 1;

/// Bytes of the public key by which a locked value says which key opens it.
const KEY_ID: usize = 8;

/// The private half, able to open.
pub struct Vault {
    key: crypto_box::SecretKey,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("public_key", &BASE64.encode(self.public_key())).finish_non_exhaustive()
    }
}

/// The key at rest: the `spec` of the document `kith.dev/Seal secrets`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultSeal {
    /// The public half, base64.
    pub public_key: String,
    /// Member id -> the private half, sealed to that member's sealing key, base64.
    pub sealed: BTreeMap<u64, String>,
}

/// A value that was not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Locked {
    /// It is not the form of a locked value.
    #[error("it is not a value that was locked by a fleet, or it is damaged")]
    Damaged,
    /// Another key opens it.
    #[error("it was locked with another key than the fleet's, which is lost: delete the secret and create it again")]
    OtherKey,
    /// It was locked for another place.
    #[error("it was locked for another place than the one where it is: somebody moved it")]
    Moved,
}

impl Vault {
    /// Makes the key of a fleet.
    pub fn generate() -> Result<Self, IdentityError> {
        let bytes = Zeroizing::new(random::<32>()?);
        Ok(Self { key: crypto_box::SecretKey::from_bytes(*bytes) })
    }

    /// The public half.
    pub fn public_key(&self) -> [u8; 32] {
        self.key.public_key().to_bytes()
    }

    /// Opens a value that was locked for this place.
    pub fn unlock(&self, place: &str, locked: &[u8]) -> Result<Zeroizing<Vec<u8>>, Locked> {
        let Some((head, sealed)) = locked.split_at_checked(1 + KEY_ID).filter(|(head, _)| head[0] == FORM) else {
            return Err(Locked::Damaged);
        };
        if head[1..] != self.public_key()[..KEY_ID] {
            return Err(Locked::OtherKey);
        }
        let opened = self.key.unseal(sealed).map(Zeroizing::new).map_err(|_| Locked::Damaged)?;
        let inner = opened.split_first_chunk::<4>().ok_or(Locked::Damaged)?;
        let length = usize::try_from(u32::from_le_bytes(*inner.0)).unwrap_or(usize::MAX);
        let (named, value) = inner.1.split_at_checked(length).ok_or(Locked::Damaged)?;
        if named == place.as_bytes() { Ok(Zeroizing::new(value.to_vec())) } else { Err(Locked::Moved) }
    }

    /// Seals the private half to these members, so that each of them can open it alone.
    pub fn seal<'a>(&self, members: impl IntoIterator<Item = (u64, &'a Member)>) -> Result<VaultSeal, IdentityError> {
        let key = Zeroizing::new(self.key.to_bytes());
        let sealed = members
            .into_iter()
            .map(|(id, member)| Ok((id, BASE64.encode(seal_to(&member.sealing_key, key.as_slice())?))))
            .collect::<Result<_, IdentityError>>();
        Ok(VaultSeal { public_key: BASE64.encode(self.public_key()), sealed: sealed? })
    }
}

/// Locks a value for a place with the public half of a fleet's key.
pub fn lock(public_key: &[u8; 32], place: &str, value: &[u8]) -> Result<Vec<u8>, IdentityError> {
    let length = u32::try_from(place.len()).map_err(|error| IdentityError::crypto("lock a secret", error))?;
    let mut inner = Zeroizing::new(Vec::with_capacity(4 + place.len() + value.len()));
    inner.extend_from_slice(&length.to_le_bytes());
    inner.extend_from_slice(place.as_bytes());
    inner.extend_from_slice(value);
    let mut locked = vec![FORM];
    locked.extend_from_slice(&public_key[..KEY_ID]);
    locked.extend(seal_to(public_key, &inner)?);
    Ok(locked)
}

impl VaultSeal {
    /// The name of the document that holds it.
    pub const NAME: &'static str = "secrets";

    /// The public half.
    pub fn public_key(&self) -> Result<[u8; 32], IdentityError> {
        let bytes = BASE64.decode(&self.public_key).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes.ok_or_else(|| IdentityError::crypto("read the fleet's key for secrets", "it has not 32 bytes"))
    }

    /// Opens the key with those of a device: sealed to it now, or as the member that it was before a
    /// recovery.
    pub fn open(&self, member: u64, identity: &Identity) -> Result<Vault, IdentityError> {
        let own = self.sealed.get(&member);
        for sealed in own.into_iter().chain(self.sealed.values()) {
            let opened = BASE64.decode(sealed).ok().and_then(|sealed| identity.unseal(&sealed).ok());
            let key = opened.and_then(|bytes| crypto_box::SecretKey::from_slice(&bytes).ok());
            if let Some(vault) = key.map(|key| Vault { key })
                && vault.public_key() == self.public_key()?
            {
                return Ok(vault);
            }
        }
        Err(IdentityError::NotSealed { member })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_at_its_place_with_its_key_and_nowhere_else() {
        let vault = Vault::generate().unwrap();
        let locked = lock(&vault.public_key(), "shop/db/password", b"hunter2").unwrap();
        assert!(!locked.windows(7).any(|bytes| bytes == b"hunter2"));
        assert_ne!(locked, lock(&vault.public_key(), "shop/db/password", b"hunter2").unwrap());
        assert_eq!(vault.unlock("shop/db/password", &locked).unwrap().as_slice(), b"hunter2");
        assert_eq!(vault.unlock("mine/db/password", &locked), Err(Locked::Moved));
        assert_eq!(Vault::generate().unwrap().unlock("shop/db/password", &locked), Err(Locked::OtherKey));
        let mut damaged = locked.clone();
        *damaged.last_mut().unwrap() ^= 1;
        for bytes in [&damaged[..], &locked[..20], b"", b"plain text that is long enough"] {
            assert_eq!(vault.unlock("shop/db/password", bytes), Err(Locked::Damaged), "{bytes:?}");
        }
    }

    #[test]
    fn only_those_to_whom_it_is_sealed_open_the_key() {
        let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let devices: Vec<Identity> = folders.iter().map(|folder| Identity::create(folder.path()).unwrap()).collect();
        let members: Vec<Member> = devices.iter().map(|device| device.member("d", Vec::new(), 1)).collect();
        let vault = Vault::generate().unwrap();
        let seal = vault.seal([(1, &members[0]), (2, &members[1])]).unwrap();
        let seal = VaultSeal::from_object(&seal.to_object()).unwrap();
        assert_eq!(seal.open(2, &devices[1]).unwrap().public_key(), vault.public_key());
        // A device that came back as another member has the same keys.
        assert_eq!(seal.open(9, &devices[0]).unwrap().public_key(), vault.public_key());
        assert!(matches!(seal.open(3, &devices[2]), Err(IdentityError::NotSealed { member: 3 })));
        assert_eq!(seal.public_key().unwrap(), vault.public_key());
    }
}
