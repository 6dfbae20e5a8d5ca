//! Why the log refuses or cannot do something.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use raft_proto::{CodecError, LogIndex, LogPosition, Term};
use thiserror::Error;

use crate::damage::Damage;
use crate::dir::DirError;
use crate::options::{LogIdentity, OptionsError};
use crate::reserve::is_full;

/// A file operation that failed.
#[derive(Debug, Error)]
#[error("cannot {action} {path}: {source}{}", remedy(.source))]
pub struct FileError {
    /// What was tried.
    pub action: &'static str,
    /// On which path.
    pub path: PathBuf,
    /// What the file system said.
    pub source: io::Error,
}

/// How a message about a failed file operation goes on: what to do, where that is plain.
pub(crate) fn remedy(source: &io::Error) -> &'static str {
    let remedies = [
        (
            io::ErrorKind::NotADirectory,
            "; there is a file where a directory is needed: name a directory",
        ),
        (
            io::ErrorKind::AlreadyExists,
            "; something else is there: choose another path",
        ),
        (
            io::ErrorKind::IsADirectory,
            "; name a file, not a directory",
        ),
        (
            io::ErrorKind::PermissionDenied,
            "; run this as the user whose file it is",
        ),
        (
            io::ErrorKind::ReadOnlyFilesystem,
            "; the file system is mounted read-only",
        ),
        (io::ErrorKind::StorageFull, "; free space and try again"),
    ];
    let found = remedies.iter().find(|(kind, _)| *kind == source.kind());
    found.map_or("", |(_, remedy)| *remedy)
}

impl FileError {
    pub(crate) fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self {
            action,
            path: path.to_path_buf(),
            source,
        }
    }

    /// Whether the disk, or what one may use of it, is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        is_full(&self.source)
    }
}

/// Why a write was not staged or not made durable.
#[derive(Debug, Error)]
pub enum LogError {
    /// An earlier write or sync failed. What it was to make durable is unknown, so nothing may be
    /// acknowledged any more.
    #[error("an earlier write or sync of the log failed; stop this node and open the log again")]
    Poisoned,
    /// A write or sync failed. The log is poisoned from now on.
    #[error("the log failed and accepts nothing more: {0}; stop this node and check its disk")]
    File(#[from] FileError),
    /// The next segment cannot be prepared. Nothing was torn, what is staged stays staged, and the
    /// call may be repeated once there is room.
    #[error(
        "no room for the next segment of {segment_bytes} bytes; free space on the disk of {directory} and try again"
    )]
    DiskFull {
        /// Size of the segment that was to be prepared.
        segment_bytes: u64,
        /// The log's directory.
        directory: PathBuf,
    },
    /// The terms and memberships of the live log no longer fit into a preamble. Nothing was torn;
    /// the call may be repeated after a compaction.
    #[error(
        "terms and memberships of the live log take {bytes} bytes, more than the {limit} a segment may start with; compact the log"
    )]
    MetadataTooLarge {
        /// What they take, in bytes.
        bytes: u64,
        /// A quarter of a segment, in bytes.
        limit: u64,
    },
    /// An entry exceeds the limit. Nothing was staged.
    #[error("entry {index} has {bytes} bytes, more than the limit of {limit}")]
    EntryTooLarge {
        /// The entry.
        index: LogIndex,
        /// Its payload, in bytes.
        bytes: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// Entries must follow the log without a gap, in rising order. Nothing was staged.
    #[error("entry {found} does not follow entry {last}; truncate first or send what is missing")]
    OutOfOrder {
        /// The last entry before it.
        last: LogPosition,
        /// The entry that was given.
        found: LogPosition,
    },
    /// What a snapshot covers cannot be truncated. Nothing was staged.
    #[error("cannot truncate from entry {from}: the snapshot covers entries up to {mark}")]
    TruncatesSnapshot {
        /// The first entry that was to go.
        from: LogIndex,
        /// The snapshot's last entry.
        mark: LogPosition,
    },
    /// What was given for a missing entry is not that entry, or the entry is not missing. Nothing was
    /// staged.
    #[error("entry {position} is not missing here, or not this one; nothing was filled in")]
    NotMissing {
        /// Index and term that were given.
        position: LogPosition,
    },
    /// A membership entry's payload is none. Nothing was staged.
    #[error("entry {index} is no membership: {source}")]
    BadMembership {
        /// The entry.
        index: LogIndex,
        /// Why it cannot be read.
        source: CodecError,
    },
}

/// Why entries cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// They are only in a snapshot.
    #[error("entry {requested} is compacted away; the log starts at {first}")]
    Compacted {
        /// The first entry that was asked for.
        requested: LogIndex,
        /// The first entry there is.
        first: LogIndex,
    },
    /// They are not durable here, or do not exist.
    #[error("entry {requested} is beyond the end of the log at {last}")]
    BeyondEnd {
        /// The last entry that was asked for.
        requested: LogIndex,
        /// The last entry there is.
        last: LogIndex,
    },
    /// Their content is lost here; it can be fetched from peers by (index, term).
    #[error("entries {first} to {last} are lost on this disk; a peer may have them")]
    Missing {
        /// The first one of the hole that was met.
        first: LogIndex,
        /// The last one of it.
        last: LogIndex,
    },
    /// The bytes on disk are not what was written.
    #[error("entry {index} in segment {segment} at offset {offset} is damaged on disk")]
    Corrupt {
        /// The entry.
        index: LogIndex,
        /// Its segment.
        segment: u64,
        /// Its offset there, in bytes.
        offset: u64,
    },
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Why a log cannot be opened. Nothing was changed, unless it says otherwise.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The options cannot work.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The data directory is not this node's or not this cluster's, or cannot be used.
    #[error(transparent)]
    Directory(#[from] DirError),
    /// The identity names another node or incarnation than the directory.
    #[error(
        "the log of node {asked} was asked for in the directory of node {found}; choose that node's directory"
    )]
    ForeignDirectory {
        /// Node and incarnation asked for.
        asked: String,
        /// Node and incarnation whose directory it is.
        found: String,
    },
    /// A segment was written for another node, cluster, incarnation or group.
    #[error(
        "segment {path} belongs to {found}, not to {expected}; it was copied here, move it away"
    )]
    ForeignSegment {
        /// The segment.
        path: PathBuf,
        /// Whose log is opened.
        expected: Owner,
        /// Whose segment it is.
        found: Owner,
    },
    /// A segment was written by a newer program.
    #[error(
        "segment {path} has format version {version}, which this program does not know; use a newer program"
    )]
    UnsupportedVersion {
        /// The segment.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The log is damaged beyond a torn last batch.
    #[error(transparent)]
    Damaged(Box<Damage>),
    /// There is no room for the segment that every open starts.
    #[error(
        "no room for a new segment of {segment_bytes} bytes; free space on the disk of {directory} and start again"
    )]
    DiskFull {
        /// Size of the segment that was to be prepared.
        segment_bytes: u64,
        /// The log's directory.
        directory: PathBuf,
    },
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl From<Damage> for OpenError {
    fn from(damage: Damage) -> Self {
        Self::Damaged(Box::new(damage))
    }
}

/// Whose log a segment belongs to, to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(pub LogIdentity);

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LogIdentity {
            cluster,
            node,
            incarnation,
            group,
        } = self.0;
        write!(
            f,
            "node {node} incarnation {incarnation} group {group} of cluster {cluster}"
        )
    }
}

/// The term of a position as a check needs it.
pub(crate) const fn follows(last: LogPosition, index: LogIndex, term: Term) -> bool {
    index.0 == last.index.0 + 1 && term.0 >= last.term.0
}
