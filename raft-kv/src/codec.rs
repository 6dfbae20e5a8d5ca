//! The only module of this crate that knows the serialisation library, always with a byte limit.
//!
//! The bytes are bincode 2's "standard" configuration (little endian, variable-length integers),
//! as in `raft-proto`; here values may borrow from the bytes they are read from, so that keys are
//! not copied on the way into the store.

use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

/// Largest structured part of a command, request or reply, in bytes. Values that travel as
/// payload beside the head are not counted.
pub const MAX_HEAD_BYTES: usize = 64 << 20;

type Config = bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_HEAD_BYTES>,
>;

const CONFIG: Config = bincode::config::standard().with_limit::<MAX_HEAD_BYTES>();

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Nothing there, not even a version.
    #[error("empty message")]
    Empty,
    /// Written by another version of the format.
    #[error("format version {found}; this build reads version {expected}")]
    UnsupportedVersion {
        /// The version found.
        found: u8,
        /// The version this build reads.
        expected: u8,
    },
    /// The bytes are not a value of the expected type.
    #[error("malformed message")]
    Malformed,
    /// Payload lengths do not add up to the payload bytes present.
    #[error("payload lengths add up to {claimed} bytes, but {present} are present")]
    PayloadLength {
        /// Sum of the lengths in the head.
        claimed: u64,
        /// Bytes after the head.
        present: u64,
    },
}

/// Bytes that are written in one piece and read back as a slice of what was received.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slice<'a>(pub(crate) &'a [u8]);

impl Serialize for Slice<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Slice<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&'a [u8]>::deserialize(deserializer).map(Slice)
    }
}

/// Appends the value's bytes to `out`.
pub(crate) fn encode<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    // Writing into a vector cannot fail, and none of our types serialises to an error; what is
    // written is bounded by the callers' limits, far below the codec's.
    bincode::serde::encode_into_std_write(value, out, CONFIG)
        .expect("plain data serialises into a vector");
}

/// Reads one value from the start of `bytes`; returns it and the bytes after it.
pub(crate) fn decode<'a, T: Deserialize<'a>>(
    bytes: &'a [u8],
) -> Result<(T, &'a [u8]), DecodeError> {
    let (value, used) = bincode::serde::borrow_decode_from_slice(bytes, CONFIG)
        .map_err(|_| DecodeError::Malformed)?;
    let rest = bytes.get(used..).ok_or(DecodeError::Malformed)?;
    Ok((value, rest))
}

/// Reads one value that takes all of `bytes`.
pub(crate) fn decode_exact<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, DecodeError> {
    let (value, rest) = decode(bytes)?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(DecodeError::Malformed)
    }
}

/// Checks the version byte in front and returns what follows it.
pub(crate) fn check_version(bytes: &[u8], expected: u8) -> Result<&[u8], DecodeError> {
    match bytes.split_first() {
        None => Err(DecodeError::Empty),
        Some((&found, rest)) if found == expected => Ok(rest),
        Some((&found, _)) => Err(DecodeError::UnsupportedVersion { found, expected }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_borrowed_not_copied() {
        let mut bytes = Vec::new();
        encode(&Slice(b"key"), &mut bytes);
        assert_eq!(bytes, b"\x03key");
        let slice: Slice<'_> = decode_exact(&bytes).unwrap();
        assert!(std::ptr::eq(slice.0, &bytes[1..]));
    }

    #[test]
    fn a_length_bomb_is_refused() {
        let bomb = [253, 0, 0, 0, 0, 0, 0, 0, 16];
        assert_eq!(
            decode_exact::<Slice<'_>>(&bomb).map(|slice| slice.0.len()),
            Err(DecodeError::Malformed)
        );
        assert_eq!(decode_exact::<Vec<u64>>(&bomb), Err(DecodeError::Malformed));
    }

    #[test]
    fn another_version_has_an_error_of_its_own() {
        assert_eq!(check_version(&[], 1), Err(DecodeError::Empty));
        assert_eq!(check_version(&[1, 7], 1), Ok(&[7][..]));
        assert_eq!(
            check_version(&[2, 7], 1),
            Err(DecodeError::UnsupportedVersion {
                found: 2,
                expected: 1
            })
        );
    }
}
