//! A segmented, fsync'd, CRC-checked write-ahead log with crash recovery that tells torn from corrupt.
//!
//! Entries are staged and made durable in batches: one write, one fdatasync. A [`DataDir`] locks
//! the directory and knows whose it is; [`Log::open`] recovers what is durable and reports it;
//! [`LogReader`]s read from any thread while the log is written. Every file access goes through
//! the [`vfs::Vfs`] trait: the real file system, or an in-memory one that can be crashed at any
//! operation. `docs/WAL_FORMAT.md` describes the bytes and why a crash at any point loses nothing.
//!
//! Invariants, each checked by a test that cuts histories at every operation:
//!
//! * what [`Log::sync`] returned for is there after any crash, whole;
//! * what was truncated before a sync never comes back after it;
//! * nothing is reported that was not written, and [`Log::open`] reports nothing that a later
//!   crash could take away;
//! * a batch that a crash tore is dropped, any other damage stops the open by name.
//!
//! ```
//! use std::path::Path;
//! use raft_log::vfs::MemVfs; // or RealVfs
//! use raft_log::{DataDir, Log, LogIdentity, LogOptions, LogWrite};
//! use raft_proto::{ClusterId, Entry, EntryKind, GroupId, LogIndex, NodeId, Term};
//!
//! let vfs = MemVfs::new(1).shared();
//! let entry = |index, term, text: &'static str| Entry {
//!     index: LogIndex(index),
//!     term: Term(term),
//!     kind: EntryKind::Command,
//!     payload: text.into(),
//! };
//! let open = || -> Result<_, Box<dyn std::error::Error>> {
//!     let dir = DataDir::open(vfs.clone(), Path::new("data"), NodeId(1))?;
//!     let identity = LogIdentity {
//!         cluster: ClusterId([1; 16]),
//!         node: dir.node(),
//!         incarnation: dir.incarnation(),
//!         group: GroupId(0),
//!     };
//!     let (log, recovered) = Log::open(&dir, identity, LogOptions::small())?;
//!     Ok((dir, log, recovered))
//! };
//!
//! let (dir, mut log, _) = open()?;
//! // Append and sync.
//! log.stage(LogWrite {
//!     entries: vec![entry(1, 1, "one"), entry(2, 1, "two"), entry(3, 1, "three")],
//!     ..LogWrite::default()
//! })?;
//! log.sync()?;
//! assert_eq!(log.reader().read(LogIndex(2), LogIndex(3), 1 << 20)?[0].payload, "two");
//! // Another leader's entries replace the end.
//! log.stage(LogWrite {
//!     truncate_from: Some(LogIndex(2)),
//!     entries: vec![entry(2, 2, "zwei")],
//!     ..LogWrite::default()
//! })?;
//! log.sync()?;
//! drop((log, dir));
//!
//! let (_dir, log, recovered) = open()?;
//! assert_eq!(recovered.last, entry(2, 2, "").position());
//! assert_eq!(log.reader().read(LogIndex(2), LogIndex(2), 1 << 20)?[0].payload, "zwei");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

mod append;
mod damage;
mod dir;
mod error;
mod format;
mod index;
pub mod inspect;
mod log;
mod options;
mod prepare;
mod readable;
mod reader;
mod recovery;
mod reserve;
mod scrub;
mod segment;
pub mod snapshot;
mod staged;
mod state;
pub mod vfs;

pub use damage::{Damage, DamageKind, Hole, LogEnd, SuspectIdentity, UnknownEnd};
pub use dir::{DataDir, DirError, MAX_RECORD_BYTES, MAX_RECORD_NAME_BYTES};
pub use error::{FileError, LogError, OpenError, Owner, ReadError};
pub use log::{Log, SyncStats};
pub use options::{
    LogIdentity, LogOptions, MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES, OnDamage, OptionsError,
    Preparation,
};
pub use reader::LogReader;
pub use recovery::judge::{
    Beyond, Content, Evidence, Header, LastBlock, NamedByNext, Verdict, Vouched, ZeroSectors, judge,
};
pub use recovery::{Recovered, TornTail};
pub use scrub::{ScrubFinding, ScrubStep, Scrubber};
pub use snapshot::{
    SnapshotError, SnapshotPayload, SnapshotReceiver, SnapshotStore, SnapshotWriter,
};
pub use staged::LogWrite;
