//! The 16-byte header before every message, and how a byte stream is cut into frames.
//!
//! ```text
//! offset size field
//!      0    4 body length: bytes after this header, little endian
//!      4    1 format version
//!      5    1 message kind
//!      6    2 flags (bit 0: the sender is uncounted)
//!      8    4 group id, always 0 today
//!     12    4 head length: how many bytes of the body are structured; payload bytes follow them
//! ```

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

use crate::ids::GroupId;

/// Length of the header, in bytes.
pub const HEADER_BYTES: usize = 16;
/// The version this build writes and the only one it reads.
pub const VERSION: u8 = 1;
/// Flag: the sender takes part in nothing that is counted (see `docs/DECISIONS.md`).
pub const FLAG_UNCOUNTED: u16 = 1;

/// What precedes a message's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes after the header.
    pub body_bytes: u32,
    /// Which message follows.
    pub kind: u8,
    /// A set of `FLAG_*` bits.
    pub flags: u16,
    /// The group it belongs to.
    pub group: GroupId,
    /// How many bytes of the body are structured; the rest are payloads.
    pub head_bytes: u32,
}

/// Why bytes are not a frame. After any of these the stream cannot be trusted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Written by another version of the format.
    #[error("frame of format version {found}; this build reads version {VERSION}")]
    UnsupportedVersion {
        /// The version found.
        found: u8,
    },
    /// The frame exceeds the receiver's limit.
    #[error("a frame body of {found} bytes exceeds the limit of {limit} bytes")]
    TooLarge {
        /// Bytes claimed.
        found: u32,
        /// Bytes allowed.
        limit: u32,
    },
    /// The head is longer than the body.
    #[error("frame head of {head} bytes in a body of {body} bytes")]
    HeadBeyondBody {
        /// Bytes of the head.
        head: u32,
        /// Bytes of the body.
        body: u32,
    },
    /// A flag of another version is set.
    #[error("unknown frame flags {0:#06x}")]
    UnknownFlags(u16),
    /// The bytes end before the frame does.
    #[error("a frame ends after {present} of {needed} bytes")]
    Truncated {
        /// Bytes there.
        present: usize,
        /// Bytes claimed.
        needed: usize,
    },
    /// Bytes follow where exactly one frame was expected.
    #[error("{extra} unexpected bytes after a frame")]
    Trailing {
        /// Bytes after the frame.
        extra: usize,
    },
}

impl FrameHeader {
    /// The header's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[4] = VERSION;
        bytes[5] = self.kind;
        bytes[6..8].copy_from_slice(&self.flags.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.group.0.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.head_bytes.to_le_bytes());
        bytes
    }

    /// Reads a header and checks it against the receiver's limit, before anything is allocated.
    ///
    /// # Errors
    /// [`FrameError`]; never [`FrameError::Truncated`] or [`FrameError::Trailing`].
    pub fn parse(bytes: &[u8; HEADER_BYTES], max_body_bytes: u32) -> Result<Self, FrameError> {
        let mut rest = &bytes[..];
        let body_bytes = rest.get_u32_le();
        let version = rest.get_u8();
        if version != VERSION {
            return Err(FrameError::UnsupportedVersion { found: version });
        }
        let header = Self {
            body_bytes,
            kind: rest.get_u8(),
            flags: rest.get_u16_le(),
            group: GroupId(rest.get_u32_le()),
            head_bytes: rest.get_u32_le(),
        };
        if header.flags & !FLAG_UNCOUNTED != 0 {
            return Err(FrameError::UnknownFlags(header.flags));
        }
        if body_bytes > max_body_bytes {
            return Err(FrameError::TooLarge {
                found: body_bytes,
                limit: max_body_bytes,
            });
        }
        if header.head_bytes > body_bytes {
            return Err(FrameError::HeadBeyondBody {
                head: header.head_bytes,
                body: body_bytes,
            });
        }
        Ok(header)
    }

    /// Whether the sender counts for nothing at the moment.
    #[must_use]
    pub const fn is_uncounted(&self) -> bool {
        self.flags & FLAG_UNCOUNTED != 0
    }
}

/// Takes the next whole frame from the front of a receive buffer, without copying its body.
/// `Ok(None)` means that more bytes are needed.
///
/// # Errors
/// [`FrameError`], after which the stream must be closed.
///
/// ```
/// use bytes::BytesMut;
/// use raft_proto::{frame, wire, GroupId, TimeoutNow, Term};
///
/// let sent = wire::encode(GroupId(0), false, &TimeoutNow { term: Term(1) }.into())?.to_vec();
/// let mut buffer = BytesMut::from(&sent[..10]);
/// assert_eq!(frame::take(&mut buffer, 1 << 20)?, None);
/// buffer.extend_from_slice(&sent[10..]);
/// let (header, body) = frame::take(&mut buffer, 1 << 20)?.expect("the frame is whole");
/// assert_eq!(wire::decode(&header, &body)?, TimeoutNow { term: Term(1) }.into());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn take(
    buffer: &mut BytesMut,
    max_body_bytes: u32,
) -> Result<Option<(FrameHeader, Bytes)>, FrameError> {
    let Some(first) = buffer.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let header = FrameHeader::parse(first, max_body_bytes)?;
    let needed = HEADER_BYTES + header.body_bytes as usize;
    if buffer.len() < needed {
        buffer.reserve(needed - buffer.len());
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    let body = buffer.split_to(header.body_bytes as usize).freeze();
    Ok(Some((header, body)))
}

/// Splits bytes that hold exactly one frame.
///
/// # Errors
/// [`FrameError`].
pub fn split(bytes: &Bytes, max_body_bytes: u32) -> Result<(FrameHeader, Bytes), FrameError> {
    let truncated = |needed| FrameError::Truncated {
        present: bytes.len(),
        needed,
    };
    let first = bytes
        .first_chunk::<HEADER_BYTES>()
        .ok_or(truncated(HEADER_BYTES))?;
    let header = FrameHeader::parse(first, max_body_bytes)?;
    let needed = HEADER_BYTES + header.body_bytes as usize;
    if bytes.len() < needed {
        return Err(truncated(needed));
    }
    if bytes.len() > needed {
        let extra = bytes.len() - needed;
        return Err(FrameError::Trailing { extra });
    }
    Ok((header, bytes.slice(HEADER_BYTES..needed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FrameHeader {
        FrameHeader {
            body_bytes: 5,
            kind: 3,
            flags: FLAG_UNCOUNTED,
            group: GroupId(0),
            head_bytes: 2,
        }
    }

    #[test]
    fn frames_are_cut_from_a_stream_at_any_boundary() {
        let mut stream = header().to_bytes().to_vec();
        stream.extend_from_slice(b"abcde");
        stream.extend(stream.clone());
        for cut in 0..stream.len() {
            let mut buffer = BytesMut::new();
            let mut found = 0;
            for part in [&stream[..cut], &stream[cut..]] {
                buffer.extend_from_slice(part);
                while let Some((got, body)) = take(&mut buffer, 100).unwrap() {
                    assert_eq!((got, &body[..]), (header(), &b"abcde"[..]));
                    found += 1;
                }
            }
            assert_eq!((found, buffer.len()), (2, 0), "cut at {cut}");
        }
    }

    #[test]
    fn another_version_has_an_error_of_its_own() {
        let mut bytes = header().to_bytes();
        bytes[4] = 9;
        assert_eq!(
            FrameHeader::parse(&bytes, 100),
            Err(FrameError::UnsupportedVersion { found: 9 })
        );
    }

    #[test]
    fn impossible_headers_are_refused() {
        let too_large = header().to_bytes();
        assert!(matches!(
            FrameHeader::parse(&too_large, 4),
            Err(FrameError::TooLarge { found: 5, limit: 4 })
        ));
        let beyond = FrameHeader {
            head_bytes: 6,
            ..header()
        };
        assert!(matches!(
            FrameHeader::parse(&beyond.to_bytes(), 100),
            Err(FrameError::HeadBeyondBody { head: 6, body: 5 })
        ));
        let flags = FrameHeader {
            flags: 4,
            ..header()
        };
        assert_eq!(
            FrameHeader::parse(&flags.to_bytes(), 100),
            Err(FrameError::UnknownFlags(4))
        );
    }
}
