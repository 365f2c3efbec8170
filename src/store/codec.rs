//! The one place that turns values into bytes and back for the log, the wire and snapshots:
//! a version byte, then bincode. Every decode has a limit, so no length in the input can make it
//! reserve more memory than that.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version that this release writes, and the newest that it reads.
pub const VERSION: u8 = 1;

/// The most bytes that one decoded value may take: 64 MiB.
pub const LIMIT: usize = 64 << 20;

/// Bytes that are not a value of this release or the one before.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// There is nothing to read.
    #[error("there are no bytes where a value was expected")]
    Empty,
    /// Written by a newer release.
    #[error(
        "the bytes are of format version {found}, and this release reads up to {VERSION}: upgrade kith on this device"
    )]
    Version {
        /// The version found.
        found: u8,
    },
    /// Changed since it was written.
    #[error("its checksum does not match")]
    Checksum,
    /// Cut short, changed, or not of this type.
    #[error("the bytes do not decode")]
    Malformed(#[source] bincode::error::DecodeError),
    /// More bytes follow the value.
    #[error("{extra} bytes follow the value")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// The value can not be written as bytes.
    #[error("the value does not encode")]
    Encode(#[source] bincode::error::EncodeError),
}

/// Encodes a value.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = vec![VERSION];
    bincode::serde::encode_into_std_write(value, &mut bytes, bincode::config::standard())
        .map_err(CodecError::Encode)?;
    Ok(bytes)
}

/// Decodes a value that takes up all of `bytes`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (&version, rest) = bytes.split_first().ok_or(CodecError::Empty)?;
    if version != VERSION {
        return Err(CodecError::Version { found: version });
    }
    let config = bincode::config::standard().with_limit::<LIMIT>();
    let (value, used) = bincode::serde::decode_from_slice(rest, config).map_err(CodecError::Malformed)?;
    if used == rest.len() { Ok(value) } else { Err(CodecError::Trailing { extra: rest.len() - used }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_every_cut_is_an_error() {
        let bytes = encode(&(7u64, "name".to_owned(), vec![1u8, 2, 3])).unwrap();
        assert_eq!(decode::<(u64, String, Vec<u8>)>(&bytes).unwrap(), (7, "name".into(), vec![1, 2, 3]));
        for end in 0..bytes.len() {
            assert!(decode::<(u64, String, Vec<u8>)>(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(matches!(decode::<u8>(&[9, 1]), Err(CodecError::Version { found: 9 })));
        assert!(matches!(decode::<u8>(&[VERSION, 1, 1]), Err(CodecError::Trailing { extra: 1 })));
    }

    #[test]
    fn a_huge_length_reserves_nothing() {
        // 0xfd announces a u64 length: far over the limit.
        let bytes = [VERSION, 0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert!(decode::<Vec<u8>>(&bytes).is_err());
    }
}
