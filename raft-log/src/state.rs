//! What a log says, apart from payloads: hard state, both ends, terms and memberships.

use raft_proto::{HardState, LogIndex, LogPosition};

use crate::damage::LogEnd;
use crate::format::metadata::Metadata;

/// The durable state of a log, without payloads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogState {
    pub(crate) hard_state: HardState,
    /// Everything up to here is in a snapshot; the live log starts after it.
    pub(crate) mark: LogPosition,
    pub(crate) last: LogPosition,
    /// Whether `last` and `hard_state` are the newest ones.
    pub(crate) log_end: LogEnd,
    /// Of the entries after `mark`.
    pub(crate) metadata: Metadata,
}

/// What one batch changes.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    pub(crate) hard_state: HardState,
    pub(crate) mark: LogPosition,
    pub(crate) keep: LogPosition,
    pub(crate) last: LogPosition,
    pub(crate) log_end: LogEnd,
    pub(crate) metadata: &'a Metadata,
}

impl LogState {
    /// The position of the live or marked entry at `index`.
    pub(crate) fn position_at(&self, index: LogIndex) -> Option<LogPosition> {
        if index == self.mark.index {
            return Some(self.mark);
        }
        if index < self.mark.index || index > self.last.index {
            return None;
        }
        let term = self.metadata.term_at(index)?;
        Some(LogPosition { index, term })
    }

    /// Whether the change can follow this state.
    pub(crate) fn accepts(&self, change: &Change<'_>) -> bool {
        let keeps =
            change.keep == change.mark || self.position_at(change.keep.index) == Some(change.keep);
        let marks =
            change.keep == change.mark || self.position_at(change.mark.index) == Some(change.mark);
        keeps
            && marks
            && change.mark.index >= self.mark.index
            && change.mark.index <= change.keep.index
            && change.keep.index <= change.last.index
    }

    /// Truncates after `keep`, compacts through `mark`, appends.
    pub(crate) fn apply(&mut self, change: &Change<'_>) {
        if change.keep == change.mark {
            // Nothing older stays: compacted through its end, or replaced by a snapshot.
            self.metadata = Metadata::default();
        } else {
            self.metadata.truncate_after(change.keep.index);
            self.metadata
                .compact_through(change.mark.index, change.keep.index);
        }
        self.metadata.extend(change.metadata);
        self.hard_state = change.hard_state;
        self.mark = change.mark;
        self.last = change.last;
        self.log_end = change.log_end;
    }
}

/// The newer of two hard states that one node has been in: terms never fall, and in a term a vote is
/// given once.
pub(crate) fn newer_hard_state(one: HardState, other: HardState) -> HardState {
    match one.term.cmp(&other.term) {
        std::cmp::Ordering::Less => other,
        std::cmp::Ordering::Greater => one,
        std::cmp::Ordering::Equal => HardState {
            term: one.term,
            vote: one.vote.or(other.vote),
        },
    }
}
