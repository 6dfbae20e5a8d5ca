//! Snapshot files: stored beside the log, sent to peers byte for byte, and what users back up.
//!
//! A [`SnapshotStore`] holds the snapshots of a data directory. A [`SnapshotWriter`] makes one from
//! the state machine's bytes, a [`SnapshotReceiver`] from what a peer sends, resumable at any
//! offset; a [`SnapshotPayload`] reads one back. [`verify_snapshot`] checks a file wherever it is.
//! `docs/SNAPSHOT_FORMAT.md` describes the bytes and argues every crash.
//!
//! Invariants, each attacked by a test:
//!
//! * what has a snapshot's name is whole and durable: name last, after file, size and directory;
//! * no byte leaves a file, and none received enters one, before its part was checked;
//! * a receiver counts only what survives any crash;
//! * the same state under the same header has the same bytes on every node.
//!
//! What a caller has to know about the log: [`crate::Log::snapshot`] is the log's own mark and may
//! lie before the newest snapshot. After the installation of a snapshot the log is empty and names
//! no membership: the membership in force is then that of the newest snapshot, overridden by the
//! memberships of [`crate::Recovered`] behind it. And a crash may fall between the moment a received
//! snapshot has its name and the moment the log is marked: then the newest snapshot lies beyond the
//! log's end, and the start installs it by [`crate::Log::compact_prefix`].
//!
//! ```
//! use std::io::Read;
//! use std::path::Path;
//! use raft_log::vfs::MemVfs; // or RealVfs
//! use raft_log::{DataDir, LogIdentity, SnapshotStore};
//! use raft_proto::{ClusterId, GroupId, LogIndex, LogPosition, Member, Membership, NodeId, Term};
//!
//! let dir = DataDir::open(MemVfs::new(1).shared(), Path::new("data"), NodeId(1))?;
//! let identity = LogIdentity {
//!     cluster: ClusterId([1; 16]),
//!     node: dir.node(),
//!     incarnation: dir.incarnation(),
//!     group: GroupId(0),
//! };
//! let store = SnapshotStore::open(&dir, identity)?;
//! let address = "127.0.0.1:7000".to_owned();
//! let member = Member { incarnation: None, address };
//! let membership = Membership::of_voters([(NodeId(1), member)]);
//! let position = LogPosition { index: LogIndex(100), term: Term(3) };
//!
//! let mut writer = store.create(position, &membership)?;
//! writer.write(b"all of the state")?;
//! let description = writer.finish()?;
//! assert_eq!(store.newest()?, Some(description));
//!
//! let mut state = String::new();
//! store.payload(position)?.read_to_string(&mut state)?;
//! assert_eq!(state, "all of the state");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod file;
mod format;
mod receiver;
mod sequence;
mod store;
mod verify;
mod writer;

pub use error::{SnapshotDamage, SnapshotError, SnapshotOwner};
pub use format::{
    CHUNK_BYTES, CHUNK_HEADER_BYTES, CHUNK_PAYLOAD_BYTES, MAX_HEADER_BYTES, MAX_SNAPSHOT_BYTES,
    SNAPSHOT_VERSION, SnapshotHeader, SnapshotPart, TRAILER_BYTES,
};
pub use receiver::SnapshotReceiver;
pub use store::{MAX_PART_BYTES, SnapshotStore};
pub use verify::{
    SnapshotPayload, SnapshotSummary, open_snapshot_payload, read_snapshot_header, verify_snapshot,
};
pub use writer::SnapshotWriter;
