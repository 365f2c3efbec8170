//! Join tokens: the text that a person carries to a new device, and the record that the fleet
//! keeps of it. The fleet never stores a secret, only its hash.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::member::key_bytes;
use super::{DeviceKey, IdentityError, Member, random};
use crate::resource::Timestamp;
use crate::store::codec;

const PREFIX: &str = "kith1.";
const CHECKSUM_LEN: usize = 4;

/// The most bytes that a token's text may have.
const TEXT_LIMIT: usize = 2048;

/// The most addresses that a token carries.
const ADDRESS_LIMIT: usize = 16;

/// Why a join was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum JoinRefusal {
    /// No such token here.
    #[error("this fleet knows no such token; it may have been revoked, used up long ago, or made by another fleet")]
    UnknownToken,
    /// Too late.
    #[error("the token expired at {at}")]
    Expired {
        /// When, RFC 3339.
        at: String,
    },
    /// Another device used it.
    #[error("the token was already used")]
    Used,
    /// The secret is wrong.
    #[error("the token's secret is wrong")]
    WrongSecret,
    /// The name is taken by another key.
    #[error("a device named {name} is already a member of this fleet")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The token lets witnesses in, and this is none.
    #[error("the token admits a witness only")]
    WitnessOnly,
    /// The device that is to be replaced is there.
    #[error("{name} can not be replaced: a device with this name runs and answers")]
    StillHere {
        /// The name.
        name: String,
    },
    /// No leader could be reached to admit the device.
    #[error("the fleet can not admit a device now: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// A token as its bearer holds it. Its text is a secret: whoever has it may join.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The fleet that it lets in to.
    pub fleet: String,
    /// Its name in the fleet's store.
    pub id: String,
    /// What its bearer shows.
    pub secret: [u8; 20],
    /// Peer endpoints of devices that may be asked.
    pub addresses: Vec<SocketAddr>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} of {})", self.id, self.fleet)
    }
}

/// Text that is not a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Something else.
    #[error("this is not a join token: one starts with `{PREFIX}`")]
    NotAToken,
    /// A character that no token has.
    #[error("the token has a character that does not belong there: copy it again, whole and without spaces")]
    Alphabet,
    /// Cut or changed on the way.
    #[error("the token is incomplete or has a typing mistake: copy it again, whole")]
    Checksum,
    /// Made by a release whose tokens this one can not read.
    #[error("the token was made by another release of kith: upgrade kith on this device")]
    Format,
}

impl Token {
    /// A new token with a fresh secret.
    pub fn issue(fleet: &str, mut addresses: Vec<SocketAddr>) -> Result<Self, IdentityError> {
        addresses.truncate(ADDRESS_LIMIT);
        Ok(Self { fleet: fleet.to_owned(), id: hex::encode(random::<5>()?), secret: random()?, addresses })
    }

    /// SHA-256 of the secret.
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.secret)
    }

    /// What the fleet keeps of this token.
    pub fn record(&self, terms: TokenTerms) -> TokenRecord {
        TokenRecord {
            hash: self.hash(),
            expires: terms.expires,
            uses_left: terms.uses,
            role: terms.role,
            created: terms.created,
            created_by: terms.created_by,
            used_by: Vec::new(),
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = codec::encode(self).map_err(|_| fmt::Error)?;
        bytes.extend_from_slice(&checksum(&bytes));
        write!(f, "{PREFIX}{}", BASE64.encode(bytes))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
        if body.len() > TEXT_LIMIT {
            return Err(TokenError::NotAToken);
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if !body.chars().all(allowed) {
            return Err(TokenError::Alphabet);
        }
        let bytes = BASE64.decode(body).map_err(|_| TokenError::Checksum)?;
        let split = bytes.len().checked_sub(CHECKSUM_LEN).ok_or(TokenError::Checksum)?;
        let (payload, check) = bytes.split_at(split);
        if checksum(payload) != check {
            return Err(TokenError::Checksum);
        }
        codec::decode(payload).map_err(|_| TokenError::Format)
    }
}

fn checksum(payload: &[u8]) -> [u8; CHECKSUM_LEN] {
    let digest = Sha256::digest(payload);
    [digest[0], digest[1], digest[2], digest[3]]
}

fn hash(secret: &[u8]) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// Whether a shown secret is the one with this hash, in a time that tells nothing about it.
pub(crate) fn matches(secret: &[u8], expected: &[u8; 32]) -> bool {
    hash(secret).ct_eq(expected).into()
}

/// What a token's bearer becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A device of the fleet, or a witness, which may do less.
    #[default]
    Device,
    /// A witness only.
    Witness,
}

impl Role {
    /// Whether a token of this role lets a member in that wants to be this.
    pub fn admits(self, member: &Member) -> bool {
        self == Self::Device || member.witness
    }
}

/// Under which conditions a token admits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenTerms {
    /// What its bearer becomes.
    pub role: Role,
    /// How many devices it admits: one unless somebody asked for more.
    pub uses: u32,
    /// From when on it admits nobody.
    pub expires: Timestamp,
    /// When it is made.
    pub created: Timestamp,
    /// User or device that makes it.
    pub created_by: String,
}

/// One use of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUse {
    /// The device that it admitted.
    pub key: DeviceKey,
    /// That device's name.
    pub name: String,
    /// When.
    pub at: Timestamp,
}

/// A token as the fleet keeps it: the `spec` of a document of kind `kith.dev/Token`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRecord {
    /// SHA-256 of the secret.
    #[serde(with = "key_bytes")]
    pub hash: [u8; 32],
    /// From when on it admits nobody, in milliseconds since 1970.
    pub expires: Timestamp,
    /// How many more devices it admits.
    pub uses_left: u32,
    /// What its bearer becomes.
    pub role: Role,
    /// When it was made.
    pub created: Timestamp,
    /// Who made it.
    pub created_by: String,
    /// Whom it admitted.
    pub used_by: Vec<TokenUse>,
}

/// What a token does for its bearer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Admit the device, and store the token like this, in one transaction.
    First(TokenRecord),
    /// This token admitted the same key before (the answer was lost on the way): grant again if
    /// the key is still a member, and refuse as `Used` if it was removed since.
    Again,
}

impl TokenRecord {
    /// Admits the bearer of a secret, or says why not.
    pub fn admit(&self, secret: &[u8], key: DeviceKey, name: &str, now: Timestamp) -> Result<Admission, JoinRefusal> {
        if !matches(secret, &self.hash) {
            return Err(JoinRefusal::WrongSecret);
        }
        self.consume(key, name, now)
    }

    /// Admits a device whose secret was checked already, or says why not.
    pub fn consume(&self, key: DeviceKey, name: &str, now: Timestamp) -> Result<Admission, JoinRefusal> {
        if now >= self.expires {
            return Err(JoinRefusal::Expired { at: self.expires.to_string() });
        }
        if self.used_by.iter().any(|used| used.key == key) {
            return Ok(Admission::Again);
        }
        let uses_left = self.uses_left.checked_sub(1).ok_or(JoinRefusal::Used)?;
        let mut after = Self { uses_left, ..self.clone() };
        after.used_by.push(TokenUse { key, name: name.to_owned(), at: now });
        Ok(Admission::First(after))
    }

    /// The whole object under this token id, as the store keeps it.
    pub fn to_object(&self, id: &str) -> serde_json::Value {
        serde_json::json!({ "apiVersion": "kith.dev/v1", "kind": "Token", "metadata": { "name": id }, "spec": self })
    }

    /// The record in an object's `spec`.
    pub fn from_object(object: &serde_json::Value) -> Result<Self, serde_json::Error> {
        Self::deserialize(object.get("spec").unwrap_or(&serde_json::Value::Null))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        let addresses = vec!["192.0.2.1:7443".parse().unwrap(), "[2001:db8::1]:7443".parse().unwrap()];
        Token::issue("0123456789abcdef0123456789abcdef", addresses).unwrap()
    }

    fn record(token: &Token, uses: u32) -> TokenRecord {
        let (created, expires) = (Timestamp(1_000), Timestamp(2_000));
        token.record(TokenTerms { role: Role::Device, uses, expires, created, created_by: "admin".into() })
    }

    #[test]
    fn text_round_trip_and_every_single_typing_mistake_is_told_apart() {
        let token = token();
        let text = token.to_string();
        assert!(text.len() < 160, "{} characters", text.len());
        assert_eq!(format!("  {text}\n").parse::<Token>().unwrap(), token);
        for at in PREFIX.len()..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert_eq!(wrong.parse::<Token>(), Err(TokenError::Checksum), "changed at {at}");
            assert!(text[..at].parse::<Token>().is_err(), "cut at {at}");
        }
        assert_eq!("swordfish".parse::<Token>(), Err(TokenError::NotAToken));
        assert_eq!(text.replacen('1', "2", 1).parse::<Token>(), Err(TokenError::NotAToken));
        assert_eq!(format!("{text}!").parse::<Token>(), Err(TokenError::Alphabet));
        assert!(!format!("{token:?}").contains(&hex::encode(token.secret)));
    }

    #[test]
    fn admits_once_and_says_why_not() {
        let token = token();
        let (one, two) = (DeviceKey([1; 32]), DeviceKey([2; 32]));
        let first = record(&token, 1);
        assert_eq!(first.admit(b"guess", one, "a", Timestamp(1_500)), Err(JoinRefusal::WrongSecret));
        let expired = first.admit(&token.secret, one, "a", Timestamp(2_000));
        assert_eq!(expired, Err(JoinRefusal::Expired { at: "1970-01-01T00:00:02Z".into() }));
        let Ok(Admission::First(after)) = first.admit(&token.secret, one, "a", Timestamp(1_500)) else {
            panic!("a good token was refused")
        };
        assert_eq!((after.uses_left, after.used_by[0].name.as_str()), (0, "a"));
        assert_eq!(after.admit(&token.secret, two, "b", Timestamp(1_600)), Err(JoinRefusal::Used));
        assert_eq!(after.admit(&token.secret, one, "a", Timestamp(1_600)), Ok(Admission::Again));
    }

    #[test]
    fn a_token_for_a_witness_lets_no_full_device_in() {
        let witness = Member { witness: true, ..Member::default() };
        assert!(Role::Device.admits(&witness) && Role::Device.admits(&Member::default()));
        assert!(Role::Witness.admits(&witness) && !Role::Witness.admits(&Member::default()));
    }

    #[test]
    fn the_stored_object_has_no_secret_and_reads_back() {
        let token = token();
        let record = record(&token, 3);
        let object = record.to_object(&token.id);
        assert!(!object.to_string().contains(&hex::encode(token.secret)));
        assert_eq!(object["metadata"]["name"], token.id);
        assert_eq!(TokenRecord::from_object(&object).unwrap(), record);
        assert!(TokenRecord::from_object(&serde_json::json!({})).is_err());
    }
}
