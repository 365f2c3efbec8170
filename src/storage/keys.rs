//! Document keys as bytes that sort like the keys themselves, and documents as bytes behind them.

use crate::store::{Document, Key};

/// Ends each part; a zero byte inside a part becomes `0x00 0xff`, so order is kept and no part can
/// reach into the next.
const END: [u8; 2] = [0, 1];

fn push(bytes: &mut Vec<u8>, part: &str) {
    for &byte in part.as_bytes() {
        bytes.push(byte);
        if byte == 0 {
            bytes.push(0xff);
        }
    }
    bytes.extend_from_slice(&END);
}

/// The bytes of a key.
pub(super) fn encode(key: &Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.kind.len() + key.namespace.len() + key.name.len() + 6);
    push(&mut bytes, &key.kind);
    push(&mut bytes, &key.namespace);
    push(&mut bytes, &key.name);
    bytes
}

/// What all keys of a kind start with, or all of one namespace of it.
pub(super) fn prefix(kind: &str, namespace: Option<&str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    push(&mut bytes, kind);
    if let Some(namespace) = namespace {
        push(&mut bytes, namespace);
    }
    bytes
}

/// The key of some bytes; `None` when they are not one.
pub(super) fn decode(bytes: &[u8]) -> Option<Key> {
    let mut parts: Vec<String> = Vec::with_capacity(3);
    let mut part = Vec::new();
    let mut rest = bytes.iter().copied();
    while let Some(byte) = rest.next() {
        match (byte, if byte == 0 { rest.next() } else { None }) {
            (0, Some(1)) => parts.push(String::from_utf8(std::mem::take(&mut part)).ok()?),
            (0, Some(0xff)) => part.push(0),
            (0, _) => return None,
            (byte, _) => part.push(byte),
        }
    }
    let [kind, namespace, name] = <[String; 3]>::try_from(parts).ok()?;
    part.is_empty().then_some(Key { kind, namespace, name })
}

/// A checksum over a document, its key included: a value never passes for that of another key.
fn checksum(key: &Key, rest: &[u8]) -> [u8; 4] {
    let mut sum = crc32fast::Hasher::new();
    for part in [&key.kind, &key.namespace, &key.name] {
        sum.update(part.as_bytes());
        // No byte of UTF-8.
        sum.update(&[0xff]);
    }
    sum.update(rest);
    sum.finalize().to_be_bytes()
}

/// A document's value: a checksum, two revisions, then the body.
pub(super) fn encode_value(document: &Document) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + document.body.len());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&document.created.to_be_bytes());
    bytes.extend_from_slice(&document.modified.to_be_bytes());
    bytes.extend_from_slice(&document.body);
    let sum = checksum(&document.key, &bytes[4..]);
    bytes[..4].copy_from_slice(&sum);
    bytes
}

/// The document of a key and a value; `None` when the value is not what was written for the key.
pub(super) fn decode_value(key: Key, bytes: &[u8]) -> Option<Document> {
    let (sum, rest) = bytes.split_first_chunk::<4>()?;
    if checksum(&key, rest) != *sum {
        return None;
    }
    let (created, rest) = rest.split_first_chunk::<8>()?;
    let (modified, body) = rest.split_first_chunk::<8>()?;
    Some(Document {
        key,
        body: body.to_vec(),
        created: u64::from_be_bytes(*created),
        modified: u64::from_be_bytes(*modified),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Key> {
        let part = || proptest::collection::vec(prop_oneof![Just('\0'), Just('\u{1}'), Just('a'), Just('ÿ')], 0..4);
        (part(), part(), part()).prop_map(|(kind, namespace, name)| {
            Key::new(String::from_iter(kind), String::from_iter(namespace), String::from_iter(name))
        })
    }

    proptest! {
        #[test]
        fn bytes_sort_like_keys_and_come_back(one in key(), other in key()) {
            prop_assert_eq!(encode(&one).cmp(&encode(&other)), one.cmp(&other));
            prop_assert_eq!(decode(&encode(&one)), Some(one.clone()));
            prop_assert_eq!(encode(&one).starts_with(&prefix(&other.kind, None)), one.kind == other.kind);
        }
    }
}
