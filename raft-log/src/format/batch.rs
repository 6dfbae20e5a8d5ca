//! One batch on disk: its identity at both ends, records between.

use raft_proto::{Entry, GroupId, HardState, LogIndex, LogPosition, MAX_COUNT, NodeId, Term};

use super::bytes::{Reader, Writer};
use super::checksum::Checksum;
use super::metadata::Metadata;
use super::record::RECORD_HEADER_BYTES;
use super::record::{RECORD_ALIGN, record_bytes};
use super::{MIN_BATCH_BLOCKS, blocks, record, zero_sectors};
use crate::damage::LogEnd;
use crate::vfs::{AlignedBuffer, BLOCK_BYTES};

/// Length of the fixed part of an identity, in bytes. It lies in one sector.
pub(crate) const FIXED_BYTES: usize = 176;
const HEAD_MAGIC: u64 = u64::from_le_bytes(*b"RAFTHEAD");
const TAIL_MAGIC: u64 = u64::from_le_bytes(*b"RAFTTAIL");

const _: () = assert!(FIXED_BYTES.is_multiple_of(RECORD_ALIGN));

/// Which end of a batch an identity stands at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Head,
    Tail,
}

/// The fixed part of a batch's identity: enough to tell torn from corrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fixed {
    /// Offset of the batch in its segment.
    pub(crate) start: u64,
    /// Length in bytes, a multiple of the block.
    pub(crate) length: u64,
    /// How many of its sectors were written all zero.
    pub(crate) zero_sectors: u32,
    pub(crate) variable_bytes: u32,
    pub(crate) variable_checksum: u32,
    pub(crate) entry_count: u32,
    /// How many of its records fill in older entries whose content was lost. A batch with such
    /// records appends none.
    pub(crate) refill_count: u32,
    /// Whether the log's end is known after it.
    pub(crate) log_end: LogEnd,
    pub(crate) group: GroupId,
    pub(crate) hard_state: HardState,
    /// Everything up to here is in a snapshot.
    pub(crate) mark: LogPosition,
    /// The last older entry that stays: what is after it is truncated.
    pub(crate) keep: LogPosition,
    /// The last entry of the log after this batch.
    pub(crate) last: LogPosition,
    /// Everything in this segment before this offset was synced when the batch was written.
    pub(crate) vouched: u64,
    /// Start (0 = the batch is the first of its segment), length, kept and last entry of the
    /// batch before it.
    pub(crate) previous: PreviousFixed,
}

/// The fixed part of the previous batch's identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PreviousFixed {
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) keep: LogPosition,
    pub(crate) last: LogPosition,
}

/// The identity of the batch before one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Previous {
    pub(crate) fixed: PreviousFixed,
    pub(crate) metadata: Metadata,
}

/// A batch's whole identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) fixed: Fixed,
    pub(crate) metadata: Metadata,
    pub(crate) previous: Option<Previous>,
}

/// What a new batch is to say.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) group: GroupId,
    pub(crate) hard_state: HardState,
    pub(crate) mark: LogPosition,
    pub(crate) keep: LogPosition,
    pub(crate) log_end: LogEnd,
    pub(crate) records: Records<'a>,
    /// Of the entries it appends.
    pub(crate) metadata: &'a Metadata,
    pub(crate) previous: Option<&'a Previous>,
    pub(crate) vouched: u64,
}

/// What the records of a batch are for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Records<'a> {
    /// They follow `keep`.
    Append(&'a [Entry]),
    /// They are the lost content of entries up to `keep`, in order of their indexes.
    Refill(&'a [Entry]),
}

impl<'a> Records<'a> {
    fn entries(self) -> &'a [Entry] {
        match self {
            Self::Append(entries) | Self::Refill(entries) => entries,
        }
    }
}

impl Draft<'_> {
    /// The last entry of the log after this batch.
    pub(crate) fn last(&self) -> LogPosition {
        match self.records {
            Records::Append(entries) => entries.last().map_or(self.keep, Entry::position),
            Records::Refill(_) => self.keep,
        }
    }

    /// Its length in blocks.
    pub(crate) fn blocks(&self) -> usize {
        let entries = self.records.entries();
        let payloads = entries.iter().map(|entry| entry.payload.len());
        let records: usize = payloads.map(record_bytes).sum();
        let empty = 2 * Metadata::default().encoded_bytes();
        let own = self.metadata.encoded_bytes() + empty / 2;
        let variable = self.previous.map_or(own, |previous| {
            own - empty / 2 + previous.metadata.encoded_bytes()
        });
        batch_blocks(variable, records)
    }
}

/// The length in blocks of a batch with so many bytes of variable identity and of records.
pub(crate) const fn batch_blocks(variable: usize, records: usize) -> usize {
    let identity = FIXED_BYTES + variable.next_multiple_of(RECORD_ALIGN);
    let apart = 2 * blocks(identity);
    let needed = blocks(2 * identity + records);
    let least = if apart > MIN_BATCH_BLOCKS {
        apart
    } else {
        MIN_BATCH_BLOCKS
    };
    if needed > least { needed } else { least }
}

/// Writes a batch for file offset `start` into `buffer` and appends each record's offset, in units
/// of [`RECORD_ALIGN`] bytes, to `offsets`.
pub(crate) fn encode(
    draft: &Draft<'_>,
    checksum: &Checksum,
    start: u64,
    buffer: &mut AlignedBuffer,
    offsets: &mut Vec<u32>,
) -> Fixed {
    let variable = encode_variable(draft);
    let blocks = draft.blocks();
    buffer.reset(blocks);
    let bytes = buffer.bytes_mut();
    let length = bytes.len();
    let mut at = FIXED_BYTES + variable.len();
    let tail = length - at;
    bytes[FIXED_BYTES..at].copy_from_slice(&variable);
    bytes[tail..tail + variable.len()].copy_from_slice(&variable);
    for entry in draft.records.entries() {
        let offset = start + at as u64;
        // A segment has at most 2^30 bytes.
        offsets.push((offset / RECORD_ALIGN as u64) as u32);
        at += record::encode(entry, draft.group, checksum, offset, &mut bytes[at..tail]);
    }
    let (entry_count, refill_count) = match draft.records {
        Records::Append(entries) => (entries.len() as u32, 0),
        Records::Refill(entries) => (0, entries.len() as u32),
    };
    let fixed = Fixed {
        start,
        length: length as u64,
        // Two less, because the sectors of the fixed parts are still to be written.
        zero_sectors: count_zero_sectors(bytes),
        variable_bytes: variable.len() as u32,
        variable_checksum: checksum.of(start, &[], &variable),
        entry_count,
        refill_count,
        log_end: draft.log_end,
        group: draft.group,
        hard_state: draft.hard_state,
        mark: draft.mark,
        keep: draft.keep,
        last: draft.last(),
        vouched: draft.vouched,
        previous: draft.previous.map(|p| p.fixed).unwrap_or_default(),
    };
    let tail_offset = length - FIXED_BYTES;
    encode_fixed(
        &fixed,
        End::Head,
        checksum,
        start,
        &mut bytes[..FIXED_BYTES],
    );
    let offset = start + tail_offset as u64;
    encode_fixed(
        &fixed,
        End::Tail,
        checksum,
        offset,
        &mut bytes[tail_offset..],
    );
    fixed
}

/// Zero sectors of a batch whose first and last sector are about to get a fixed part.
fn count_zero_sectors(batch: &[u8]) -> u32 {
    zero_sectors(&batch[super::SECTOR_BYTES..batch.len() - super::SECTOR_BYTES])
}

fn encode_variable(draft: &Draft<'_>) -> Vec<u8> {
    let mut out = Writer::new();
    draft.metadata.encode(&mut out);
    match draft.previous {
        Some(previous) => previous.metadata.encode(&mut out),
        None => Metadata::default().encode(&mut out),
    }
    let mut bytes = out.into_vec();
    bytes.resize(bytes.len().next_multiple_of(RECORD_ALIGN), 0);
    bytes
}

fn encode_fixed(fixed: &Fixed, end: End, checksum: &Checksum, offset: u64, out: &mut [u8]) {
    let mut body = Writer::new();
    body.u32(fixed.variable_checksum);
    body.u64(fixed.start);
    body.u64(fixed.length);
    body.u32(fixed.zero_sectors);
    body.u32(fixed.variable_bytes);
    body.u32(fixed.entry_count);
    body.u32(fixed.group.0);
    encode_hard_state(fixed.hard_state, &mut body);
    encode_position(fixed.mark, &mut body);
    encode_position(fixed.keep, &mut body);
    encode_position(fixed.last, &mut body);
    body.u64(fixed.vouched);
    body.u64(fixed.previous.start);
    body.u64(fixed.previous.length);
    encode_position(fixed.previous.keep, &mut body);
    encode_position(fixed.previous.last, &mut body);
    body.u32(fixed.refill_count);
    body.u32(fixed.log_end.number());
    let body = body.into_vec();
    assert_eq!(
        12 + body.len(),
        FIXED_BYTES,
        "the fixed part has its documented length"
    );
    let magic = magic(end).to_le_bytes();
    let sum = checksum.of(offset, &magic, &body);
    out[..8].copy_from_slice(&magic);
    out[8..12].copy_from_slice(&sum.to_le_bytes());
    out[12..FIXED_BYTES].copy_from_slice(&body);
}

const fn magic(end: End) -> u64 {
    match end {
        End::Head => HEAD_MAGIC,
        End::Tail => TAIL_MAGIC,
    }
}

/// The fixed part that stands at `offset` of the segment, if it is valid and fits into `segment`
/// (the segment up to its seal).
pub(crate) fn fixed_at(
    segment: &[u8],
    end: End,
    checksum: &Checksum,
    offset: u64,
) -> Option<Fixed> {
    let at = usize::try_from(offset).ok()?;
    let bytes = segment.get(at..at.checked_add(FIXED_BYTES)?)?;
    let mut input = Reader::new(bytes);
    if input.u64()? != magic(end) {
        return None;
    }
    let sum = input.u32()?;
    if checksum.of(offset, &bytes[..8], &bytes[12..]) != sum {
        return None;
    }
    let fixed = decode_fixed(&mut input)?;
    let batch_end = fixed.start.checked_add(fixed.length)?;
    let stands_at = match end {
        End::Head => fixed.start,
        End::Tail => batch_end.checked_sub(FIXED_BYTES as u64)?,
    };
    let block = BLOCK_BYTES as u64;
    let plausible = stands_at == offset
        && batch_end <= segment.len() as u64
        && fixed.start.is_multiple_of(block)
        && fixed.length.is_multiple_of(block)
        && fixed.length >= block * MIN_BATCH_BLOCKS as u64
        && u64::from(fixed.variable_bytes) + FIXED_BYTES as u64 <= fixed.length / 2
        && fixed.counts_agree();
    plausible.then_some(fixed)
}

fn decode_fixed(input: &mut Reader<'_>) -> Option<Fixed> {
    let variable_checksum = input.u32()?;
    let mut fixed = Fixed {
        start: input.u64()?,
        length: input.u64()?,
        zero_sectors: input.u32()?,
        variable_bytes: input.u32()?,
        variable_checksum,
        entry_count: input.u32()?,
        refill_count: 0,
        log_end: LogEnd::Known,
        group: GroupId(input.u32()?),
        hard_state: decode_hard_state(input)?,
        mark: decode_position(input)?,
        keep: decode_position(input)?,
        last: decode_position(input)?,
        vouched: input.u64()?,
        previous: PreviousFixed {
            start: input.u64()?,
            length: input.u64()?,
            keep: decode_position(input)?,
            last: decode_position(input)?,
        },
    };
    fixed.refill_count = input.u32()?;
    fixed.log_end = LogEnd::from_number(input.u32()?)?;
    input.is_empty().then_some(fixed)
}

impl Fixed {
    /// Where the batch ends.
    pub(crate) const fn end(&self) -> u64 {
        self.start + self.length
    }

    /// Whether what it counts agrees, and is no more than its bytes can hold.
    fn counts_agree(&self) -> bool {
        let appended = u64::from(self.entry_count);
        let fits = |records: u64, bytes: u64| records <= bytes / RECORD_HEADER_BYTES as u64;
        let previous = &self.previous;
        let follows = previous.start == 0
            || previous.start.checked_add(previous.length) == Some(self.start)
                && in_order(previous.keep, previous.last)
                && fits(
                    previous.last.index.since(previous.keep.index),
                    previous.length,
                );
        in_order(self.mark, self.keep)
            && in_order(self.keep, self.last)
            && self.keep.index.0.checked_add(appended) == Some(self.last.index.0)
            && (self.entry_count == 0 || self.refill_count == 0)
            && fits(appended + u64::from(self.refill_count), self.length)
            && follows
    }

    /// Where its records start.
    pub(crate) const fn records_start(&self) -> u64 {
        self.start + FIXED_BYTES as u64 + self.variable_bytes as u64
    }

    /// Where its records end at the latest.
    pub(crate) const fn records_limit(&self) -> u64 {
        self.end() - FIXED_BYTES as u64 - self.variable_bytes as u64
    }

    /// The indexes of its entries, or `None` if it has none.
    pub(crate) fn entries(&self) -> Option<(LogIndex, LogIndex)> {
        (self.entry_count > 0).then_some((self.keep.index.next(), self.last.index))
    }

    /// The whole identity with the variable part at the given end of the batch, if that is whole.
    pub(crate) fn identity(
        &self,
        segment: &[u8],
        end: End,
        checksum: &Checksum,
    ) -> Option<Identity> {
        let offset = match end {
            End::Head => self.start + FIXED_BYTES as u64,
            End::Tail => self.records_limit(),
        };
        let at = usize::try_from(offset).ok()?;
        let bytes = segment.get(at..at.checked_add(self.variable_bytes as usize)?)?;
        if checksum.of(self.start, &[], bytes) != self.variable_checksum {
            return None;
        }
        let mut input = Reader::new(bytes);
        let metadata = Metadata::decode(&mut input)?;
        let previous = Metadata::decode(&mut input)?;
        let covers = metadata.covers(self.keep, self.last)
            && previous.covers(self.previous.keep, self.previous.last);
        covers.then_some(Identity {
            fixed: *self,
            metadata,
            previous: (self.previous.start != 0).then_some(Previous {
                fixed: self.previous,
                metadata: previous,
            }),
        })
    }

    /// This batch as the next one will name it.
    pub(crate) const fn as_previous(&self) -> PreviousFixed {
        PreviousFixed {
            start: self.start,
            length: self.length,
            keep: self.keep,
            last: self.last,
        }
    }
}

/// Whether one log can have both: the same index means the same entry.
pub(crate) fn in_order(earlier: LogPosition, later: LogPosition) -> bool {
    earlier == later || earlier.index < later.index && earlier.term <= later.term
}

pub(crate) fn encode_position(position: LogPosition, out: &mut Writer) {
    out.u64(position.index.0);
    out.u64(position.term.0);
}

pub(crate) fn decode_position(input: &mut Reader<'_>) -> Option<LogPosition> {
    let (index, term) = (input.u64()?, input.u64()?);
    (index <= MAX_COUNT && term <= MAX_COUNT).then_some(LogPosition {
        index: LogIndex(index),
        term: Term(term),
    })
}

/// A vote of 0 is none: node ids start at 1.
pub(crate) fn encode_hard_state(state: HardState, out: &mut Writer) {
    out.u64(state.term.0);
    out.u64(state.vote.map_or(0, |node| node.0));
}

pub(crate) fn decode_hard_state(input: &mut Reader<'_>) -> Option<HardState> {
    let term = input.u64()?;
    let vote = input.u64()?;
    (term <= MAX_COUNT).then_some(HardState {
        term: Term(term),
        vote: (vote != 0).then_some(NodeId(vote)),
    })
}
