//! Byte strings as serde moves them in one piece: it takes a `Vec<u8>` for a sequence of numbers,
//! and would write and read it one byte at a time. The bytes that come out are the same.

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserializer, Serializer};

/// Writes them.
pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bytes(bytes)
}

/// Reads them.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    from.deserialize_byte_buf(Octets)
}

struct Octets;

impl<'de> Visitor<'de> for Octets {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<Vec<u8>, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = numbers.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Moved(#[serde(with = "super")] Vec<u8>);

    #[test]
    fn the_bytes_are_those_of_a_sequence() {
        for length in [0, 1, 250, 251, 70_000] {
            let value: Vec<u8> = (0..length).map(|byte: u32| byte.to_le_bytes()[0]).collect();
            let plain = codec::encode(&value).unwrap();
            assert_eq!(codec::encode(&Moved(value.clone())).unwrap(), plain, "{length}");
            assert_eq!(codec::decode::<Moved>(&plain).unwrap(), Moved(value), "{length}");
            assert!(codec::decode::<Moved>(&plain[..plain.len() - 1]).is_err() || length == 0, "{length}");
        }
        let json = serde_json::to_string(&Moved(vec![1, 2])).unwrap();
        assert_eq!(serde_json::from_str::<Moved>(&json).unwrap(), Moved(vec![1, 2]));
    }
}
