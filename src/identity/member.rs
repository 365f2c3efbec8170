//! How the fleet knows a device: what the replicated membership says of it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A device's Ed25519 public key: what its peers trust. Hexadecimal in text formats, raw elsewhere.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceKey(#[serde(with = "key_bytes")] pub [u8; 32]);

impl fmt::Display for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceKey({}..)", hex::encode(&self.0[..4]))
    }
}

/// A member of the fleet, under its member id in openraft's membership. Ids are never used again.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// The device's name, and the name of its node.
    pub name: String,
    /// The key that it proves on every connection.
    pub key: DeviceKey,
    /// Public X25519 key to which secrets for this device are sealed.
    #[serde(with = "key_bytes")]
    pub sealing_key: [u8; 32],
    /// Where its peer endpoint may be reached (QUIC): hints, best first.
    pub addresses: Vec<SocketAddr>,
    /// TCP port of its HTTPS API, at the same addresses.
    pub api_port: u16,
    /// Whether it wants to vote.
    #[serde(default)]
    pub voter: Preference,
    /// Where it stands; devices of one zone are expected to fail together. Empty when nobody said.
    #[serde(default)]
    pub zone: String,
    /// It votes and keeps a copy, and does nothing else: no pods, no writes, no authority. Given
    /// by the token with which it joined, and never changed.
    #[serde(default)]
    pub witness: bool,
}

impl Member {
    /// Label by which a device says whether it wants to vote.
    pub const VOTER_LABEL: &'static str = "kith.dev/voter";
    /// Label by which a device says where it stands.
    pub const ZONE_LABEL: &'static str = "topology.kubernetes.io/zone";

    /// This member with what its labels say. A preference that is not known counts as none: the
    /// settings were checked when they were read.
    #[must_use]
    pub fn labelled(mut self, labels: &BTreeMap<String, String>) -> Self {
        self.voter = labels.get(Self::VOTER_LABEL).and_then(|text| text.parse().ok()).unwrap_or_default();
        self.zone = labels.get(Self::ZONE_LABEL).cloned().unwrap_or_default();
        self
    }
}

/// Whether a device wants to vote: the value of the label `kith.dev/voter`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preference {
    /// Before all others.
    Prefer,
    /// As good as any other.
    #[default]
    Auto,
    /// Not at all, unless it votes already and nobody can take its place.
    Never,
}

impl FromStr for Preference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "prefer" => Ok(Self::Prefer),
            "auto" => Ok(Self::Auto),
            "never" => Ok(Self::Never),
            other => Err(format!("{other:?} is none of auto, prefer, never")),
        }
    }
}

impl fmt::Display for Preference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prefer => "prefer",
            Self::Auto => "auto",
            Self::Never => "never",
        })
    }
}

/// 32 bytes: hexadecimal where people read, raw where machines do.
pub(super) mod key_bytes {
    use serde::de::Error;

    use super::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in crate::identity) fn serialize<S: Serializer>(bytes: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() { to.serialize_str(&hex::encode(bytes)) } else { bytes.serialize(to) }
    }

    pub(in crate::identity) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        if !from.is_human_readable() {
            return <[u8; 32]>::deserialize(from);
        }
        let text = String::deserialize(from)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(&text, &mut bytes)
            .map_err(|error| D::Error::custom(format!("expected 64 hexadecimal digits: {error}")))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::codec;

    #[test]
    fn hexadecimal_in_json_and_raw_in_the_log() {
        let member = Member { key: DeviceKey([7; 32]), sealing_key: [9; 32], ..Member::default() };
        let json = serde_json::to_string(&member).unwrap();
        assert!(json.contains(&"07".repeat(32)) && json.contains(&"09".repeat(32)), "{json}");
        assert_eq!(serde_json::from_str::<Member>(&json).unwrap(), member);
        let bytes = codec::encode(&member).unwrap();
        assert!(bytes.len() < 75, "{} bytes", bytes.len());
        assert_eq!(codec::decode::<Member>(&bytes).unwrap(), member);
        assert!(serde_json::from_str::<DeviceKey>("\"07\"").is_err());
    }

    #[test]
    fn labels_say_whether_a_device_wants_to_vote_and_where_it_stands() {
        let labels = |voter: &str| {
            let pairs = [(Member::VOTER_LABEL, voter), (Member::ZONE_LABEL, "cellar")];
            pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
        };
        let member = Member::default().labelled(&labels("never"));
        assert_eq!((member.voter, member.zone.as_str()), (Preference::Never, "cellar"));
        for text in ["auto", "prefer", "never"] {
            assert_eq!(text.parse::<Preference>().unwrap().to_string(), text);
        }
        assert_eq!(Member::default().labelled(&labels("often")).voter, Preference::Auto);
        assert_eq!(member.labelled(&BTreeMap::new()).zone, "");
    }
}
