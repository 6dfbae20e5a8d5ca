//! What can be wrong with a log, and what is known about it nevertheless.

use std::fmt;
use std::path::PathBuf;

use raft_proto::{HardState, LogIndex, LogPosition, TermRun};
use thiserror::Error;

/// Entries whose index and term are known, and whose content is not readable on this disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hole {
    /// The first of them.
    pub first: LogIndex,
    /// The last of them.
    pub last: LogIndex,
}

/// Whether a log knows where it ends and what its newest term and vote are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LogEnd {
    /// It does.
    #[default]
    Known,
    /// It does not: entries, a truncation, a term or a vote that were acknowledged may be lost. What
    /// the log reports is a prefix of its history. This stays so, across opens, until a write says
    /// [`crate::LogWrite::end_is_known`].
    Unknown(UnknownEnd),
}

/// Damage that recovery will not pass over, and everything known about it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "segment {segment} ({path}) is damaged at offset {offset}, entries {range}: {kind}; restore this node's data directory or replace the node",
    range = show_range(*first, *last)
)]
pub struct Damage {
    /// The segment's sequence number.
    pub segment: u64,
    /// Its file.
    pub path: PathBuf,
    /// Where in the file the damage starts, in bytes.
    pub offset: u64,
    /// The first entry that may be affected.
    pub first: LogIndex,
    /// The last entry that may be affected; `None` if nobody knows.
    pub last: Option<LogIndex>,
    /// What is known about it.
    pub kind: DamageKind,
}

/// What is known about what was damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// Which entries and terms were there is known: content can be fetched from peers by
    /// (index, term).
    Suspect(SuspectIdentity),
    /// The end of the log, or the newest hard state, is not known.
    UnknownEnd(UnknownEnd),
}

/// What a damaged batch or segment is known to have held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuspectIdentity {
    /// The last entry that stayed before it, and its own last entry.
    pub keep: LogPosition,
    /// Its own last entry.
    pub last: LogPosition,
    /// Terms of its entries.
    pub term_runs: Vec<TermRun>,
    /// The hard state written with it, if that is known from itself.
    pub hard_state: Option<HardState>,
}

/// Why the end of the log is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UnknownEnd {
    /// The newest segment says that another follows, and that one is missing.
    SuccessorMissing,
    /// The newest segment's file has not the size it was made with.
    WrongSize,
    /// The newest segment's preamble is not valid.
    Preamble,
    /// A batch's head and tail are both not valid.
    BatchIdentity,
    /// Something was written after a batch that is not whole.
    WrittenBeyond,
    /// The block for the seal holds something else.
    Seal,
    /// The log's files are gone.
    NoSegment,
    /// Checksums hold, and yet the parts contradict each other.
    Inconsistent,
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Suspect(identity) => write!(
                f,
                "what it held is known (after {} up to {}), its content is not whole",
                identity.keep, identity.last
            ),
            Self::UnknownEnd(reason) => {
                write!(f, "the end of the log is unknown because {reason}")
            }
        }
    }
}

impl fmt::Display for UnknownEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SuccessorMissing => "the segment that follows is missing",
            Self::WrongSize => "the file has not the size it was made with",
            Self::Preamble => "its preamble is not valid",
            Self::BatchIdentity => "a batch is not valid at both its ends",
            Self::WrittenBeyond => "something follows a batch that is not whole",
            Self::Seal => "its seal is not valid",
            Self::NoSegment => "all segments are gone",
            Self::Inconsistent => "its parts contradict each other",
        })
    }
}

impl LogEnd {
    /// Its number on disk.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Known => 0,
            Self::Unknown(UnknownEnd::SuccessorMissing) => 1,
            Self::Unknown(UnknownEnd::WrongSize) => 2,
            Self::Unknown(UnknownEnd::Preamble) => 3,
            Self::Unknown(UnknownEnd::BatchIdentity) => 4,
            Self::Unknown(UnknownEnd::WrittenBeyond) => 5,
            Self::Unknown(UnknownEnd::Seal) => 6,
            Self::Unknown(UnknownEnd::NoSegment) => 7,
            Self::Unknown(UnknownEnd::Inconsistent) => 8,
        }
    }

    /// The end with this number, if there is one.
    pub(crate) const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Known,
            1 => Self::Unknown(UnknownEnd::SuccessorMissing),
            2 => Self::Unknown(UnknownEnd::WrongSize),
            3 => Self::Unknown(UnknownEnd::Preamble),
            4 => Self::Unknown(UnknownEnd::BatchIdentity),
            5 => Self::Unknown(UnknownEnd::WrittenBeyond),
            6 => Self::Unknown(UnknownEnd::Seal),
            7 => Self::Unknown(UnknownEnd::NoSegment),
            8 => Self::Unknown(UnknownEnd::Inconsistent),
            _ => return None,
        })
    }
}

fn show_range(first: LogIndex, last: Option<LogIndex>) -> String {
    match last {
        Some(last) if last < first => format!("none (the log ends at {last})"),
        Some(last) => format!("{first} to {last}"),
        None => format!("{first} and all after it"),
    }
}
