//! The only module that knows the serialisation library, always with a byte limit.
//!
//! The bytes are bincode 2's "standard" configuration (little endian, variable-length integers);
//! `docs/WIRE_FORMAT.md` describes them so that the library can be replaced without changing them.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Largest structured part of a message or record, in bytes; payloads travel beside it.
pub const MAX_HEAD_BYTES: usize = 1 << 20;

/// What the decoder may account for. It counts an integer with its size in memory, so the one
/// byte of a small `u64` as eight: with [`MAX_HEAD_BYTES`] here, heads of many small integers
/// would be written by one node and refused by the next.
const MAX_DECODED_BYTES: usize = 8 * MAX_HEAD_BYTES;

type Config = bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_DECODED_BYTES>,
>;

const CONFIG: Config = bincode::config::standard().with_limit::<MAX_DECODED_BYTES>();

/// Why a value could not be written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CodecError {
    /// The structured part exceeds the limit.
    #[error("a message head of {0} bytes exceeds the limit of {MAX_HEAD_BYTES} bytes")]
    TooLarge(usize),
    /// The bytes are not a value of the expected type.
    #[error("malformed message head")]
    Malformed,
    /// Bytes remain after the value.
    #[error("{0} unexpected bytes after a message head")]
    Trailing(usize),
    /// Payload lengths do not add up to the payload bytes present.
    #[error("payload lengths add up to {claimed} bytes, but {present} are present")]
    PayloadLength {
        /// Sum of the lengths in the head.
        claimed: u64,
        /// Bytes after the head.
        present: u64,
    },
    /// The frame's kind is not a known message.
    #[error("unknown message kind {0}")]
    UnknownKind(u8),
}

/// Appends the value's bytes to `out`.
///
/// # Errors
/// [`CodecError::TooLarge`]; `out` is then as before.
pub fn encode<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let start = out.len();
    // Writing into a vector cannot fail, and none of our types serialises to an error.
    let outcome = bincode::serde::encode_into_std_write(value, out, CONFIG);
    let length = out.len() - start;
    if outcome.is_err() || length > MAX_HEAD_BYTES {
        out.truncate(start);
        return Err(CodecError::TooLarge(length));
    }
    Ok(())
}

/// Reads one value from the start of `bytes`; returns it and how many bytes it took. Never looks
/// beyond the first [`MAX_HEAD_BYTES`].
///
/// # Errors
/// [`CodecError::Malformed`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), CodecError> {
    let bytes = &bytes[..bytes.len().min(MAX_HEAD_BYTES)];
    bincode::serde::decode_from_slice(bytes, CONFIG).map_err(|_| CodecError::Malformed)
}

/// Reads one value that takes all of `bytes`.
///
/// # Errors
/// [`CodecError::Malformed`], [`CodecError::Trailing`], or [`CodecError::TooLarge`] for more than
/// [`MAX_HEAD_BYTES`].
///
/// ```
/// use raft_proto::{codec, HardState, NodeId, Term};
///
/// let state = HardState { term: Term(300), vote: Some(NodeId(2)) };
/// let mut bytes = Vec::new();
/// codec::encode(&state, &mut bytes)?;
/// assert_eq!(bytes, [251, 44, 1, 1, 2]);
/// assert_eq!(codec::decode_exact::<HardState>(&bytes)?, state);
/// # Ok::<(), raft_proto::CodecError>(())
/// ```
pub fn decode_exact<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > MAX_HEAD_BYTES {
        return Err(CodecError::TooLarge(bytes.len()));
    }
    let (value, used) = decode(bytes)?;
    match bytes.len() - used {
        0 => Ok(value),
        rest => Err(CodecError::Trailing(rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_bomb_is_refused_without_allocating() {
        // A vector that claims 2^60 elements.
        let bomb = [253, 0, 0, 0, 0, 0, 0, 0, 16];
        assert_eq!(decode::<Vec<u64>>(&bomb), Err(CodecError::Malformed));
    }

    #[test]
    fn integers_take_the_width_that_the_format_page_says() {
        let cases: [(u64, &[u8]); 7] = [
            (0, &[0]),
            (250, &[0xfa]),
            (251, &[0xfb, 0xfb, 0]),
            (300, &[0xfb, 0x2c, 1]),
            (65_535, &[0xfb, 0xff, 0xff]),
            (70_000, &[0xfc, 0x70, 0x11, 1, 0]),
            (1 << 33, &[0xfd, 0, 0, 0, 0, 2, 0, 0, 0]),
        ];
        for (value, expected) in cases {
            let mut bytes = Vec::new();
            encode(&value, &mut bytes).unwrap();
            assert_eq!(bytes, expected, "{value}");
            assert_eq!(decode_exact::<u64>(&bytes), Ok(value));
        }
        assert_eq!(decode_exact::<u64>(&[0xfd, 7, 0, 0, 0, 0, 0, 0, 0]), Ok(7));
        let malformed: [&[u8]; 3] = [&[0xfe; 17], &[0xff], &[0xfc, 1]];
        for bytes in malformed {
            assert_eq!(decode_exact::<u64>(bytes), Err(CodecError::Malformed));
        }
        let too_wide = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(decode_exact::<u32>(&too_wide), Err(CodecError::Malformed));
        assert_eq!(decode_exact::<bool>(&[2]), Err(CodecError::Malformed));
    }

    #[test]
    fn whatever_can_be_written_can_be_read() {
        // A byte each when written, eight when accounted for by the decoder.
        let small = vec![7u64; MAX_HEAD_BYTES - 5];
        let mut bytes = Vec::new();
        encode(&small, &mut bytes).unwrap();
        assert_eq!(bytes.len(), MAX_HEAD_BYTES);
        assert_eq!(decode_exact::<Vec<u64>>(&bytes).unwrap(), small);
        bytes.push(0);
        assert_eq!(
            decode_exact::<Vec<u64>>(&bytes),
            Err(CodecError::TooLarge(MAX_HEAD_BYTES + 1))
        );
    }

    #[test]
    fn too_much_is_refused_and_leaves_no_trace() {
        let mut out = vec![1, 2];
        let value = vec![0u8; MAX_HEAD_BYTES + 1];
        assert!(matches!(
            encode(&value, &mut out),
            Err(CodecError::TooLarge(_))
        ));
        assert_eq!(out, [1, 2]);
    }

    #[test]
    fn trailing_bytes_are_refused() {
        assert_eq!(decode_exact::<u8>(&[1, 2]), Err(CodecError::Trailing(1)));
    }
}
