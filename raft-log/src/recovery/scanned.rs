//! What the scan of a segment finds.

use raft_proto::{HardState, LogIndex, LogPosition};

use super::salvage::RecordRun;
use crate::damage::{DamageKind, LogEnd, UnknownEnd};
use crate::format::batch::{Fixed, Identity, PreviousFixed};
use crate::format::preamble::Preamble;

/// A batch whose identity is known.
#[derive(Clone, Debug)]
pub(crate) struct ScannedBatch {
    pub(crate) identity: Identity,
    /// Its readable records.
    pub(crate) runs: Vec<RecordRun>,
    pub(crate) copies: Copies,
    pub(crate) wholeness: Wholeness,
}

/// How many copies of a batch's identity are as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copies {
    Both,
    /// The other is damaged on the disk.
    One,
}

/// Whether all of a batch is readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wholeness {
    Whole,
    Partial,
}

/// The batches of a segment.
#[derive(Clone, Debug)]
pub(crate) struct SegmentScan {
    pub(crate) batches: Vec<ScannedBatch>,
    /// Where what is known ends.
    pub(crate) end: u64,
    pub(crate) finish: Finish,
    pub(crate) damage: Vec<BatchDamage>,
    /// The newest term and vote that anything readable names.
    pub(crate) hard_state: HardState,
}

/// How a segment's batches end.
#[derive(Clone, Debug)]
pub(crate) enum Finish {
    /// Nothing follows.
    Clean,
    /// A torn batch follows; its identity, if its head or tail was written.
    Torn(Option<Fixed>),
    /// Nobody knows what follows.
    Unknown(UnknownEnd),
}

/// Damage of a batch.
#[derive(Clone, Debug)]
pub(crate) struct BatchDamage {
    pub(crate) offset: u64,
    /// The entries that may be affected.
    pub(crate) first: LogIndex,
    pub(crate) last: Option<LogIndex>,
    pub(crate) kind: DamageKind,
}

/// How far a segment counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Up to here, says its successor or its seal, and all of it was synced.
    Until(u64),
    /// Up to its seal: it is the newest.
    Open,
}

/// What a scan does where it cannot tell what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtUnknown {
    /// It ends: what comes after could contradict what came before.
    Stop,
    /// It goes on with the next batch that says where it stands: a later segment says what the log
    /// held, only records are looked for.
    Skip,
}

/// What the log says before a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    pub(crate) last: LogPosition,
    pub(crate) hard_state: HardState,
    pub(crate) log_end: LogEnd,
}

impl Before {
    /// Before the first batch of a segment.
    pub(crate) const fn first_of(preamble: &Preamble) -> Self {
        Self {
            last: preamble.base,
            hard_state: preamble.hard_state,
            log_end: preamble.log_end,
        }
    }

    pub(super) const fn after(batch: &Fixed) -> Self {
        Self {
            last: batch.last,
            hard_state: batch.hard_state,
            log_end: batch.log_end,
        }
    }
}

/// What a batch said that is lost at both its ends, as far as the next one knows it. Hard state, mark
/// and end are those around it: the next batch, which is readable, states its own.
pub(super) fn named_fixed(next: &Identity, before: &Before) -> Option<Fixed> {
    let previous = next.previous.as_ref()?.fixed;
    let mark = match next.fixed.mark {
        mark if mark.index <= previous.keep.index => mark,
        _ => previous.keep,
    };
    Some(Fixed {
        start: previous.start,
        length: previous.length,
        zero_sectors: 0,
        variable_bytes: 0,
        variable_checksum: 0,
        entry_count: u32::try_from(previous.last.index.since(previous.keep.index)).ok()?,
        refill_count: 0,
        log_end: before.log_end,
        group: next.fixed.group,
        hard_state: before.hard_state,
        mark,
        keep: previous.keep,
        last: previous.last,
        vouched: previous.start,
        previous: PreviousFixed::default(),
    })
}

pub(super) fn unknown_damage(reason: UnknownEnd, offset: u64, last: LogPosition) -> BatchDamage {
    BatchDamage {
        offset,
        first: last.index.next(),
        last: None,
        kind: DamageKind::UnknownEnd(reason),
    }
}
