//! The last block of a segment: it names the segment that continues it.

use raft_proto::{HardState, LogPosition, MAX_COUNT};

use super::batch::{decode_hard_state, decode_position, encode_hard_state, encode_position};
use super::bytes::{Reader, Writer};
use super::checksum::Checksum;
use super::is_zero;
use crate::damage::LogEnd;
use crate::vfs::BLOCK_BYTES;

/// First bytes of a seal.
const MAGIC: u64 = u64::from_le_bytes(*b"RAFTSEAL");
/// Length of a seal, in bytes; it lies in the block's first sector.
const SEAL_BYTES: usize = 64;

/// What a seal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Sequence of the segment that continues this one.
    pub(crate) successor: u64,
    /// Where the last batch ends that counts.
    pub(crate) end: u64,
    /// The last entry at that point.
    pub(crate) last: LogPosition,
    /// The hard state at that point.
    pub(crate) hard_state: HardState,
    /// Whether the log's end is known at that point.
    pub(crate) log_end: LogEnd,
}

/// What stands where the seal belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SealState {
    /// Zeros: the segment is open, or its seal was not written before a crash.
    Open,
    /// A seal.
    Sealed(Seal),
    /// Something else.
    Damaged,
}

/// Where the seal of a segment of this size stands.
pub(crate) const fn offset(segment_bytes: u64) -> u64 {
    segment_bytes - BLOCK_BYTES as u64
}

/// Writes the seal to `block`, which is zero and belongs to file offset `offset`.
pub(crate) fn encode(seal: &Seal, checksum: &Checksum, offset: u64, block: &mut [u8]) {
    let mut out = Writer::new();
    out.u64(seal.successor);
    out.u64(seal.end);
    encode_position(seal.last, &mut out);
    encode_hard_state(seal.hard_state, &mut out);
    out.u32(seal.log_end.number());
    let body = out.into_vec();
    let sum = checksum.of(offset, &MAGIC.to_le_bytes(), &body);
    block[..8].copy_from_slice(&MAGIC.to_le_bytes());
    block[8..12].copy_from_slice(&sum.to_le_bytes());
    block[12..12 + body.len()].copy_from_slice(&body);
    assert_eq!(
        12 + body.len(),
        SEAL_BYTES,
        "the seal has its documented length"
    );
}

/// What the block says.
pub(crate) fn decode(checksum: &Checksum, offset: u64, block: &[u8]) -> SealState {
    if is_zero(block) {
        return SealState::Open;
    }
    decode_seal(checksum, offset, block).map_or(SealState::Damaged, SealState::Sealed)
}

fn decode_seal(checksum: &Checksum, offset: u64, block: &[u8]) -> Option<Seal> {
    let mut input = Reader::new(block.get(..SEAL_BYTES)?);
    let magic = input.u64()?;
    let sum = input.u32()?;
    let body = &block[12..SEAL_BYTES];
    if magic != MAGIC || checksum.of(offset, &MAGIC.to_le_bytes(), body) != sum {
        return None;
    }
    let successor = input.u64()?;
    if successor > MAX_COUNT {
        return None;
    }
    Some(Seal {
        successor,
        end: input.u64()?,
        last: decode_position(&mut input)?,
        hard_state: decode_hard_state(&mut input)?,
        log_end: LogEnd::from_number(input.u32()?)?,
    })
}
