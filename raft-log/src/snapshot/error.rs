//! Why a snapshot cannot be stored, found, read or received.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use raft_proto::{ClusterId, CodecError, GroupId, LogPosition, MembershipError};
use thiserror::Error;

use super::format::{HeaderError, MAX_SNAPSHOT_BYTES, SnapshotHeader, SnapshotPart};
use crate::dir::DirError;
use crate::error::FileError;

/// Why a snapshot cannot be stored, found, read or received.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The data directory belongs to another cluster.
    #[error(transparent)]
    Directory(#[from] DirError),
    /// The file's bytes are not those of a snapshot.
    #[error(transparent)]
    Damaged(#[from] SnapshotDamage),
    /// The file was written by a newer program.
    #[error(
        "snapshot {path} has format version {version}, which this program does not know; use a newer program"
    )]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The file is another cluster's or group's.
    #[error(
        "snapshot {path} is of {found}, not of {expected}; it was copied here, move it away or restore it into a new cluster"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose snapshots are stored here.
        expected: SnapshotOwner,
        /// Whose snapshot it is.
        found: SnapshotOwner,
    },
    /// The snapshot is not stored (any more).
    #[error("there is no snapshot at {0} any more; use the newest one")]
    Missing(LogPosition),
    /// A snapshot at this position is stored: it says the same, use it.
    #[error("a snapshot at {0} is already stored; use it, or take the next one later")]
    AlreadyStored(LogPosition),
    /// There is nothing to cover before the first entry.
    #[error("a snapshot must cover at least one entry; take it once an entry was applied")]
    CoversNothing,
    /// The membership breaks a rule.
    #[error("the snapshot's membership is not valid: {0}; it cannot be stored")]
    Membership(#[from] MembershipError),
    /// The membership takes more bytes than a header has.
    #[error("the snapshot's membership does not fit into a header: {0}; it cannot be stored")]
    MembershipBytes(#[from] CodecError),
    /// More than a file may have.
    #[error(
        "the snapshot exceeds the {MAX_SNAPSHOT_BYTES} bytes that a file may have; it cannot be stored"
    )]
    TooLarge,
    /// No snapshot of this membership can have this length.
    #[error("a snapshot of {total_bytes} bytes is described, which none can have; fetch another")]
    BadDescription {
        /// The length described, in bytes.
        total_bytes: u64,
    },
    /// The bytes received are not part of the snapshot that was described. What was received
    /// before them stays.
    #[error(
        "what was received at offset {offset} is not {part} of the snapshot described; ask for it again, or another peer"
    )]
    ReceivedDamaged {
        /// Where the part starts, in bytes.
        offset: u64,
        /// What belongs there.
        part: SnapshotPart,
    },
    /// All parts are right by themselves, and they are not those of the snapshot that was
    /// described. What was received is removed.
    #[error(
        "what was received has checksum {found:08x}, the snapshot described has {expected:08x}; fetch it again from the start"
    )]
    NotAsDescribed {
        /// CRC-32 of the snapshot described.
        expected: u32,
        /// CRC-32 of what was received.
        found: u32,
    },
    /// Not all was received yet.
    #[error("{received_bytes} of {total_bytes} bytes were received; receive the rest first")]
    Incomplete {
        /// Durable, in bytes.
        received_bytes: u64,
        /// The length described, in bytes.
        total_bytes: u64,
    },
    /// One snapshot is received at a time.
    #[error("a snapshot is being received; finish or drop its receiver first")]
    ReceiverInUse,
    /// An earlier operation failed. What it was to make durable is unknown.
    #[error(
        "an earlier write of the snapshot store failed, and nobody knows what of it is durable; restart this node and check its disk"
    )]
    Poisoned,
}

impl SnapshotError {
    /// Whether the disk, or what one may use of it, is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::File(error) if error.is_disk_full())
    }

    pub(crate) fn file(action: &'static str, path: &Path, source: io::Error) -> Self {
        FileError::new(action, path, source).into()
    }

    pub(crate) fn damaged(path: &Path, offset: u64, part: SnapshotPart) -> Self {
        let path = path.to_path_buf();
        SnapshotDamage { path, offset, part }.into()
    }

    pub(crate) fn of_header(path: &Path, error: HeaderError) -> Self {
        match error {
            HeaderError::Damaged => Self::damaged(path, 0, SnapshotPart::Header),
            HeaderError::UnsupportedVersion(version) => Self::UnsupportedVersion {
                path: path.to_path_buf(),
                version,
            },
        }
    }
}

/// Damage of a snapshot file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", damage_text(self))]
pub struct SnapshotDamage {
    /// The file.
    pub path: PathBuf,
    /// Where the damaged part starts, in bytes.
    pub offset: u64,
    /// The damaged part.
    pub part: SnapshotPart,
}

/// A file that begins in another way may never have been a snapshot.
fn damage_text(damage: &SnapshotDamage) -> String {
    let SnapshotDamage { path, offset, part } = damage;
    let path = path.display();
    match part {
        SnapshotPart::Header => format!(
            "{path} is no snapshot, or its first bytes are damaged; check the name, use another copy of it, or replace the node"
        ),
        SnapshotPart::Chunk(_) | SnapshotPart::Trailer => format!(
            "snapshot {path} is damaged at offset {offset}: {part} is not what was written; use another copy of it, or replace the node"
        ),
    }
}

/// Whose snapshot it is, to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotOwner {
    /// The cluster.
    pub cluster: ClusterId,
    /// The Raft group.
    pub group: GroupId,
}

impl SnapshotOwner {
    pub(crate) fn of(header: &SnapshotHeader) -> Self {
        Self {
            cluster: header.cluster,
            group: header.group,
        }
    }
}

impl fmt::Display for SnapshotOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {} of cluster {}", self.group, self.cluster)
    }
}
