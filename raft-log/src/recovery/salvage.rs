//! What of a damaged batch still passes: each record has its own checksum, so that one rotten
//! sector loses only the entries it lies in.

use raft_proto::{Entry, EntryKind, LogIndex, LogPosition, MAX_COUNT, Term};

use crate::format::checksum::Checksum;
use crate::format::metadata::Metadata;
use crate::format::record::{self, RECORD_ALIGN, RECORD_HEADER_BYTES, record_bytes};

/// How many times the bytes of a batch may be summed while its records are looked for: payloads may
/// be full of what looks like headers.
const EFFORT: usize = 16;

/// Consecutive entries of one term that stand one behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordRun {
    pub(crate) first: LogIndex,
    pub(crate) term: Term,
    /// Offsets of their records, in units of [`RECORD_ALIGN`] bytes.
    pub(crate) offsets: Vec<u32>,
    /// Payload bytes of each.
    pub(crate) sizes: Vec<u32>,
}

impl RecordRun {
    /// The last of the entries.
    pub(crate) fn last(&self) -> LogIndex {
        self.first.plus(self.offsets.len() as u64).previous()
    }
}

/// Adds a record to runs that end before it.
pub(super) fn push_record(
    runs: &mut Vec<RecordRun>,
    position: LogPosition,
    offset: u32,
    payload_bytes: u32,
) {
    match runs.last_mut() {
        Some(run) if run.term == position.term && run.last().next() == position.index => {
            run.offsets.push(offset);
            run.sizes.push(payload_bytes);
        }
        Some(_) | None => runs.push(RecordRun {
            first: position.index,
            term: position.term,
            offsets: vec![offset],
            sizes: vec![payload_bytes],
        }),
    }
}

/// Which records a damaged batch may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// All indexes are after this one ...
    pub(super) after: LogIndex,
    /// ... and neither index nor term is beyond this.
    pub(super) up_to: LogPosition,
    pub(super) order: Order,
}

/// In which order records stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// By index: they are one batch's.
    Rising,
    /// In any: nobody knows which batches they were.
    Any,
}

impl Expected {
    /// Nothing is known about them.
    pub(super) const ANYTHING: Self = Self {
        after: LogIndex::ZERO,
        up_to: LogPosition {
            index: LogIndex(MAX_COUNT),
            term: Term(MAX_COUNT),
        },
        order: Order::Any,
    };
}

/// The readable records between two offsets of a segment.
pub(super) struct Salvaged {
    pub(super) runs: Vec<RecordRun>,
    /// Terms and memberships of exactly these records.
    pub(super) metadata: Metadata,
    pub(super) count: u64,
}

/// Looks for records in `bytes`, which stand at `start` of the segment. Where one fails, the next
/// one is looked for at every place where it may start.
pub(super) fn salvage(
    bytes: &[u8],
    start: u64,
    checksum: &Checksum,
    expected: Expected,
) -> Salvaged {
    let mut found = Salvaged {
        runs: Vec::new(),
        metadata: Metadata::default(),
        count: 0,
    };
    let mut effort = bytes.len().saturating_mul(EFFORT);
    let mut after = LogPosition {
        index: expected.after,
        term: Term::ZERO,
    };
    let mut at = 0;
    while at + RECORD_HEADER_BYTES <= bytes.len() {
        let offset = start + at as u64;
        let taken = take_record(&bytes[at..], offset, checksum, expected, after, &mut effort);
        let Some(entry) = taken else {
            at += RECORD_ALIGN;
            continue;
        };
        // A segment has at most 2^30 bytes.
        let units = (offset / RECORD_ALIGN as u64) as u32;
        let payload_bytes = entry.payload.len();
        push_record(
            &mut found.runs,
            entry.position(),
            units,
            payload_bytes as u32,
        );
        found.metadata.push(&entry);
        found.count += 1;
        match expected.order {
            Order::Rising => after = entry.position(),
            Order::Any => {}
        }
        at += record_bytes(payload_bytes);
    }
    found
}

/// The record at the front of `bytes`, if one stands there that may follow `after`.
fn take_record(
    bytes: &[u8],
    offset: u64,
    checksum: &Checksum,
    expected: Expected,
    after: LogPosition,
    effort: &mut usize,
) -> Option<Entry> {
    let header = record::header(bytes)?;
    let length = RECORD_HEADER_BYTES + header.payload_bytes as usize;
    let is_plausible = header.index > after.index
        && header.index <= expected.up_to.index
        && header.term >= after.term
        && header.term <= expected.up_to.term
        && EntryKind::from_number(header.kind).is_some()
        && length <= bytes.len();
    if !is_plausible {
        return None;
    }
    *effort = effort.checked_sub(length)?;
    let (header, kind, payload) = record::check(bytes, checksum, offset)?;
    let payload = bytes::Bytes::copy_from_slice(payload);
    Some(record::entry(&header, kind, payload))
}
