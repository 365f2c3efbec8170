//! For fuzzers: frames, messages of joiners, and certificates of devices.

use super::frame::Partial;
use super::{join, tls};
use crate::identity::DeviceKey;

/// A stream of bytes that arrives in pieces: the first byte of each says how long it is.
pub(crate) fn frame(bytes: &[u8]) {
    const LIMIT: usize = 1 << 16;
    let Some((header, mut rest)) = bytes.split_first_chunk::<4>() else { return };
    let Ok(mut partial) = Partial::begin(*header, LIMIT) else {
        assert!(u32::from_be_bytes(*header) as usize > LIMIT);
        return;
    };
    let mut given = Vec::new();
    while let Some((length, tail)) = rest.split_first() {
        if partial.missing() == 0 {
            break;
        }
        let length = usize::from(*length).min(tail.len()).min(partial.missing());
        let (piece, tail) = tail.split_at(length);
        partial.take(piece);
        given.extend_from_slice(piece);
        rest = tail;
    }
    let size = u32::from_be_bytes(*header) as usize;
    assert_eq!(given.len() + partial.missing(), size);
    match partial.whole() {
        Some(message) => assert_eq!(message, given),
        None => assert!(given.len() < size),
    }
}

pub(crate) fn join(bytes: &[u8]) {
    join::decode_any(bytes);
}

/// A certificate is a key or nothing, whatever else it says.
pub(crate) fn certificate(bytes: &[u8]) {
    if let Ok(DeviceKey(key)) = tls::key_of(&bytes.into()) {
        assert!(bytes.windows(key.len()).any(|part| part == key), "the key does not stand in the certificate");
    }
}
