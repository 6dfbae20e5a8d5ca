//! Log entries, the state that must be durable with them, and compact descriptions of both.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{LogIndex, NodeId, Term};
use crate::mutants::{Mutant, is_planted};

/// What an entry means to the consensus core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum EntryKind {
    /// The empty entry that a leader appends at the start of its term (§8); with a payload, it starts
    /// a [`crate::Comparison`] of the replicas.
    Noop = 0,
    /// A command of the state machine; its payload is opaque to Raft.
    Command = 1,
    /// A [`crate::Membership`], in force as soon as it is appended (§6).
    Membership = 2,
}

impl EntryKind {
    /// The kind with this number, as written in a log record or message.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Noop),
            1 => Some(Self::Command),
            2 => Some(Self::Membership),
            _ => None,
        }
    }
}

/// One entry of the replicated log (§5.3).
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its position.
    pub index: LogIndex,
    /// The term of the leader that created it.
    pub term: Term,
    /// What it means to the consensus core.
    pub kind: EntryKind,
    /// Its content; shared, never copied on the way.
    pub payload: Bytes,
}

impl Entry {
    /// Its position and term, which name an entry uniquely in a cluster (§5.3, log matching).
    #[must_use]
    pub const fn position(&self) -> LogPosition {
        LogPosition {
            index: self.index,
            term: self.term,
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}@{} {:?} {} B",
            self.index,
            self.term.0,
            self.kind,
            self.payload.len()
        )
    }
}

/// Index and term of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogPosition {
    /// Its index.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
}

impl LogPosition {
    /// The position before the first entry.
    pub const ZERO: Self = Self {
        index: LogIndex::ZERO,
        term: Term::ZERO,
    };

    /// Whether a log that ends here is at least as up to date as one that ends at `other`: the
    /// later last term wins, and with equal terms the longer log (§5.4.1).
    #[must_use]
    pub fn is_up_to_date_with(self, other: Self) -> bool {
        if is_planted(Mutant::LongerLogWins) {
            return (self.index, self.term) >= (other.index, other.term);
        }
        (self.term, self.index) >= (other.term, other.index) || is_planted(Mutant::AnyLogWins)
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term.0)
    }
}

/// What must be durable besides the log (Figure 2): the current term, and the vote given in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HardState {
    /// The latest term this node has seen.
    pub term: Term,
    /// The candidate that got this node's vote in `term`.
    pub vote: Option<NodeId>,
}

/// Entries from `first` on have `term`, up to the next run of the list it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TermRun {
    /// Index of the run's first entry.
    pub first: LogIndex,
    /// Term of all its entries.
    pub term: Term,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(index: u64, term: u64) -> LogPosition {
        LogPosition {
            index: LogIndex(index),
            term: Term(term),
        }
    }

    #[test]
    fn later_term_beats_longer_log() {
        assert!(position(1, 3).is_up_to_date_with(position(9, 2)));
        assert!(!position(9, 2).is_up_to_date_with(position(1, 3)));
        assert!(position(9, 2).is_up_to_date_with(position(9, 2)));
        assert!(!position(8, 2).is_up_to_date_with(position(9, 2)));
    }

    #[test]
    fn kinds_keep_their_numbers() {
        for kind in [EntryKind::Noop, EntryKind::Command, EntryKind::Membership] {
            assert_eq!(EntryKind::from_number(kind as u8), Some(kind));
        }
        assert_eq!(EntryKind::from_number(3), None);
    }
}
