//! The start of a segment: whose it is, what it continues, and the metadata of the whole live log.

use raft_proto::{ClusterId, GroupId, HardState, Incarnation, LogPosition, NodeId};

use super::batch::{
    decode_hard_state, decode_position, encode_hard_state, encode_position, in_order,
};
use super::bytes::{Reader, Writer};
use super::metadata::Metadata;
use super::version::{self, START_BYTES, VersionError};
use super::{SECTOR_BYTES, blocks};
use crate::damage::LogEnd;
use crate::options::{LogIdentity, MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES};
use crate::vfs::BLOCK_BYTES;

/// First bytes of every segment.
const MAGIC: [u8; 8] = *b"RAFTWAL\0";
/// The version that is written, and the only one that is read: version 1 was never released.
pub(crate) const SEGMENT_VERSION: u32 = 2;
/// Length of the part before the metadata, in bytes.
const HEADER_BYTES: usize = 176;

/// The segment that a segment continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Predecessor {
    pub(crate) sequence: u64,
    /// Where its last batch ends that counts; bytes beyond are never read.
    pub(crate) end: u64,
}

/// What a segment's start says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Preamble {
    pub(crate) segment_bytes: u64,
    pub(crate) sequence: u64,
    pub(crate) salt: u64,
    pub(crate) identity: LogIdentity,
    pub(crate) hard_state: HardState,
    /// Everything up to here is in a snapshot.
    pub(crate) mark: LogPosition,
    /// The last entry before this segment's batches.
    pub(crate) base: LogPosition,
    pub(crate) predecessor: Option<Predecessor>,
    /// Batches up to here were durable before the segment had its name.
    pub(crate) copied_end: u64,
    /// Whether the log's end is known.
    pub(crate) log_end: LogEnd,
    /// Terms and memberships of the entries after `mark` up to `base`.
    pub(crate) metadata: Metadata,
}

/// Why a segment's start cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PreambleError {
    Damaged,
    UnsupportedVersion(u32),
}

impl Preamble {
    /// Where the first batch starts: after the preamble, on a block.
    pub(crate) fn batches_start(&self) -> u64 {
        Self::batches_start_of(self.metadata.encoded_bytes())
    }

    /// Where the first batch starts after a preamble with this much metadata.
    pub(crate) fn batches_start_of(metadata_bytes: usize) -> u64 {
        (blocks(HEADER_BYTES + metadata_bytes) * BLOCK_BYTES) as u64
    }

    /// Its bytes, to be padded with zeros.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Writer::new();
        self.metadata.encode(&mut body);
        let body = body.into_vec();
        let mut out = Writer::new();
        out.u32(crc32fast::hash(&body));
        // A preamble is at most a quarter of a segment long.
        out.u32(body.len() as u32);
        out.u32(BLOCK_BYTES as u32);
        out.u32(SECTOR_BYTES as u32);
        out.u64(self.segment_bytes);
        out.u64(self.sequence);
        out.u64(self.salt);
        out.bytes(&self.identity.cluster.0);
        out.u64(self.identity.node.0);
        out.u64(self.identity.incarnation.0);
        out.u32(self.identity.group.0);
        encode_hard_state(self.hard_state, &mut out);
        encode_position(self.mark, &mut out);
        encode_position(self.base, &mut out);
        out.u64(self.predecessor.map_or(0, |p| p.sequence));
        out.u64(self.predecessor.map_or(0, |p| p.end));
        out.u64(self.copied_end);
        out.u32(self.log_end.number());
        out.u32(0);
        let header = out.into_vec();
        let mut bytes = version::encode(MAGIC, SEGMENT_VERSION).to_vec();
        bytes.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
        bytes.extend_from_slice(&header);
        assert_eq!(
            bytes.len(),
            HEADER_BYTES,
            "the header has its documented length"
        );
        bytes.extend_from_slice(&body);
        bytes
    }

    /// Reads the start of a segment.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, PreambleError> {
        let mut input = Reader::new(bytes);
        let start = input.array::<START_BYTES>().ok_or(PreambleError::Damaged)?;
        match version::check(start, MAGIC, SEGMENT_VERSION) {
            Ok(()) => {}
            Err(VersionError::Damaged) => return Err(PreambleError::Damaged),
            Err(VersionError::Unsupported(found)) => {
                return Err(PreambleError::UnsupportedVersion(found));
            }
        }
        Self::decode_fields(input).ok_or(PreambleError::Damaged)
    }

    fn decode_fields(mut all: Reader<'_>) -> Option<Self> {
        let header_sum = all.u32()?;
        let header = all.bytes(HEADER_BYTES - START_BYTES - 4)?;
        if crc32fast::hash(header) != header_sum {
            return None;
        }
        let mut input = Reader::new(header);
        let body_sum = input.u32()?;
        let body = all.bytes(input.u32()? as usize)?;
        let geometry = (input.u32()?, input.u32()?);
        if crc32fast::hash(body) != body_sum
            || geometry != (BLOCK_BYTES as u32, SECTOR_BYTES as u32)
        {
            return None;
        }
        let segment_bytes = input.u64()?;
        let sequence = input.u64()?;
        let salt = input.u64()?;
        let identity = LogIdentity {
            cluster: ClusterId(input.array()?),
            node: NodeId(input.u64()?),
            incarnation: Incarnation(input.u64()?),
            group: GroupId(input.u32()?),
        };
        let hard_state = decode_hard_state(&mut input)?;
        let mark = decode_position(&mut input)?;
        let base = decode_position(&mut input)?;
        let (previous, end) = (input.u64()?, input.u64()?);
        let copied_end = input.u64()?;
        let log_end = LogEnd::from_number(input.u32()?)?;
        let reserved = input.u32()?;
        let mut body = Reader::new(body);
        let metadata = Metadata::decode(&mut body)?;
        let plausible = input.is_empty()
            && body.is_empty()
            && reserved == 0
            && in_order(mark, base)
            && metadata.covers(mark, base)
            && (MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&segment_bytes)
            && segment_bytes.is_multiple_of(BLOCK_BYTES as u64);
        plausible.then_some(Self {
            segment_bytes,
            sequence,
            salt,
            identity,
            hard_state,
            mark,
            base,
            predecessor: (previous != 0).then_some(Predecessor {
                sequence: previous,
                end,
            }),
            copied_end,
            log_end,
            metadata,
        })
    }
}
