//! How a client fetches a node's snapshot, part by part.

use bytes::Bytes;
use raft_proto::LogPosition;
use serde::{Deserialize, Serialize};

use super::PROTOCOL_VERSION;
use crate::codec::{self, DecodeError};

/// Largest part of a snapshot in one answer, in bytes.
pub const MAX_SNAPSHOT_PART_BYTES: u32 = 1 << 20;

/// Body of [`super::ResponseKind::Snapshot`]: a snapshot that can be read now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotOffer {
    /// The last log entry it covers.
    pub last_included: LogPosition,
    /// Its length in bytes.
    pub total_bytes: u64,
    /// CRC-32 over all its bytes.
    pub checksum: u32,
}

/// Body of [`super::RequestKind::ReadSnapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadSnapshotRequest {
    /// Which snapshot: the last log entry it covers.
    pub last_included: LogPosition,
    /// From which of its bytes on.
    pub offset: u64,
    /// Most bytes to answer with; a server sends at most [`MAX_SNAPSHOT_PART_BYTES`].
    pub max_bytes: u32,
}

/// Body of [`super::ResponseKind::SnapshotPart`]: the version byte, where the part begins, how
/// long the whole is, and the part itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPart {
    /// Where in the snapshot it begins.
    pub offset: u64,
    /// The snapshot's length in bytes.
    pub total_bytes: u64,
    /// The bytes.
    pub data: Bytes,
}

#[derive(Serialize, Deserialize)]
struct PartHead {
    offset: u64,
    total_bytes: u64,
}

impl SnapshotPart {
    /// What stands before the bytes.
    #[must_use]
    pub fn head(offset: u64, total_bytes: u64) -> Vec<u8> {
        let mut head = vec![PROTOCOL_VERSION];
        let numbers = PartHead {
            offset,
            total_bytes,
        };
        codec::encode(&numbers, &mut head);
        head
    }

    /// Reads a part; its bytes are a slice of `body`.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn from_body(body: &Bytes) -> Result<Self, DecodeError> {
        let (head, data) = codec::decode(codec::check_version(body, PROTOCOL_VERSION)?)?;
        let PartHead {
            offset,
            total_bytes,
        } = head;
        Ok(Self {
            offset,
            total_bytes,
            data: body.slice_ref(data),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_numbers_and_then_bytes() {
        let head = SnapshotPart::head(300, 7);
        assert_eq!(head, [1, 251, 44, 1, 7]);
        let body = Bytes::from([&head[..], b"data"].concat());
        let part = SnapshotPart::from_body(&body).unwrap();
        assert_eq!((part.offset, part.total_bytes), (300, 7));
        assert_eq!(&part.data[..], b"data");
        for cut in 0..head.len() {
            assert!(SnapshotPart::from_body(&body.slice(..cut)).is_err());
        }
    }
}
