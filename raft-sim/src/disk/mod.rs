//! A node's disk under the real log: what it keeps, what it loses, and how it fails.
//!
//! The medium keeps a durable image and the page cache above it. What is written is pending until
//! a sync. When the power fails, each pending 512-byte sector is old or new, and so is each name
//! and size that its directory was not synced for; when only the process dies, the cache stays.

mod faults;
mod medium;
mod vfs;
mod writer;

#[cfg(test)]
mod tests;

use std::path::Path;

use raft_log::{DataDir, DirError, LogError, LogOptions, LogWrite, OpenError, SnapshotError};
use raft_node::admission::TableError;
use raft_node::driver::SnapshotJob;
use raft_node::formation::{FORMATION_RECORD, FormationError, FormedResponder, RecordError};
use raft_node::startup::{self, Opened};
use raft_node::{FatalError, SnapshotKeeper};
use raft_proto::{ClusterId, Entry, EntryKind, HardState, Incarnation, LogIndex, NodeId, Term};
use thiserror::Error;

pub use self::faults::{Corruption, PagesAfterFailure};
pub(crate) use self::writer::{Finished, LogWriter};

pub(crate) use self::vfs::SimVfs as Content;

use self::vfs::SimVfs;
use crate::random::{Random, Stream};

/// Where the data directory is on the simulated disk.
const DIRECTORY: &str = "data";

/// Operations of one sync that a crash may fall between: the write, its fsync, and those of a new
/// segment (create, write, fsync, rename, directory).
const MAX_OPERATIONS_IN_FLIGHT: u64 = 12;

/// Why a disk cannot be used.
#[derive(Debug, Error)]
pub(crate) enum DiskError {
    #[error("cannot open the data directory: {0}")]
    Directory(#[from] DirError),
    #[error(transparent)]
    Start(#[from] FatalError),
    #[error("cannot write the log: {0}")]
    Log(#[from] LogError),
    #[error(transparent)]
    Boots(#[from] TableError),
    #[error(transparent)]
    Formation(#[from] FormationError),
    #[error(transparent)]
    FormationRecord(#[from] RecordError),
    #[error("the directory belongs to no cluster")]
    NotFormed,
}

impl DiskError {
    /// Whether it says that what was stored is not what is there. Everything else may pass.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Directory(error) => is_damaged_record(error),
            Self::Start(error) => is_damaged_start(error),
            Self::Boots(_) | Self::FormationRecord(_) | Self::NotFormed => true,
            Self::Log(_) | Self::Formation(_) => false,
        }
    }

    /// Whether it says that the directory is another node's.
    pub(crate) fn is_foreign(&self) -> bool {
        matches!(self, Self::Directory(DirError::ForeignNode { .. }))
    }
}

fn is_damaged_start(error: &FatalError) -> bool {
    match error {
        FatalError::OpenLog(error) => match &**error {
            OpenError::Damaged(_)
            | OpenError::UnsupportedVersion { .. }
            | OpenError::ForeignSegment { .. } => true,
            OpenError::Directory(error) => is_damaged_record(error),
            OpenError::Options(_)
            | OpenError::ForeignDirectory { .. }
            | OpenError::DiskFull { .. }
            | OpenError::File(_) => false,
        },
        FatalError::Snapshots(error) => is_damaged_snapshot(error),
        FatalError::MissingSnapshot { .. }
        | FatalError::LostContent { .. }
        | FatalError::UnknownEnd { .. } => true,
        // What a checked snapshot cannot restore, a failing read may explain.
        FatalError::Restore { .. }
        | FatalError::LostLog { .. }
        | FatalError::UnfinishedRestore(_)
        | FatalError::Log(_)
        | FatalError::ReadLog(_)
        | FatalError::Directory(_)
        | FatalError::Formation(_)
        | FatalError::Transport(_)
        | FatalError::Refused(_)
        | FatalError::Core(_)
        | FatalError::Thread(_) => false,
    }
}

fn is_damaged_snapshot(error: &SnapshotError) -> bool {
    match error {
        SnapshotError::Damaged(_)
        | SnapshotError::UnsupportedVersion { .. }
        | SnapshotError::Foreign { .. }
        | SnapshotError::Missing(_) => true,
        SnapshotError::Directory(error) => is_damaged_record(error),
        SnapshotError::File(_)
        | SnapshotError::AlreadyStored(_)
        | SnapshotError::CoversNothing
        | SnapshotError::Membership(_)
        | SnapshotError::MembershipBytes(_)
        | SnapshotError::TooLarge
        | SnapshotError::BadDescription { .. }
        | SnapshotError::ReceivedDamaged { .. }
        | SnapshotError::NotAsDescribed { .. }
        | SnapshotError::Incomplete { .. }
        | SnapshotError::ReceiverInUse
        | SnapshotError::Poisoned => false,
    }
}

fn is_damaged_record(error: &DirError) -> bool {
    match error {
        DirError::Damaged(_) | DirError::UnsupportedVersion { .. } => true,
        DirError::Locked(_)
        | DirError::ForeignNode { .. }
        | DirError::ForeignCluster { .. }
        | DirError::NotEmpty(_)
        | DirError::ZeroNode
        | DirError::RecordName(_)
        | DirError::RecordTooLarge(_)
        | DirError::Io { .. } => false,
    }
}

/// A disk that outlives the node's processes.
pub(crate) struct Disk {
    node: NodeId,
    vfs: SimVfs,
    pub(crate) random: Random,
    stall: Stall,
}

/// Whether syncs come to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stall {
    None,
    /// None does; `holds_sync` if one has begun.
    Endless {
        holds_sync: bool,
    },
}

/// What of a process works with its disk.
pub(crate) struct DiskWork {
    pub(crate) writer: LogWriter,
    pub(crate) keeper: SnapshotKeeper,
    /// What is being done with snapshot files.
    pub(crate) job: Option<SnapshotJob>,
}

/// An open data directory with its log.
pub(crate) struct OpenDisk {
    pub(crate) directory: DataDir,
    pub(crate) opened: Opened,
}

impl Disk {
    pub(crate) fn new(seed: u64, node: NodeId) -> Self {
        let mut random = Random::stream(seed, Stream::Disk(node));
        let medium = random.fork();
        Self {
            node,
            vfs: SimVfs::new(medium),
            random,
            stall: Stall::None,
        }
    }

    /// Writes what cluster formation leaves behind: entry 1 with the members, in term 1. Returns
    /// what was written.
    pub(crate) fn form(
        &self,
        cluster: ClusterId,
        options: LogOptions,
        membership: &bytes::Bytes,
    ) -> Result<LogWrite, DiskError> {
        let directory = self.directory()?;
        let record = FormedResponder::record_of(membership.clone());
        let record = record.unwrap_or_else(|error| panic!("{}: {error}", self.node));
        let write = self.begin_log(&directory, cluster, options, membership)?;
        directory.write_record(FORMATION_RECORD, &record)?;
        Ok(write)
    }

    /// The same in an open directory, but for the record that the node is formed. If a crash came
    /// between, nothing is left to be done.
    pub(crate) fn begin_log(
        &self,
        directory: &DataDir,
        cluster: ClusterId,
        options: LogOptions,
        membership: &bytes::Bytes,
    ) -> Result<LogWrite, DiskError> {
        let mut opened = startup::open(directory, cluster, options)?;
        let write = LogWrite {
            hard_state: Some(HardState {
                term: Term(1),
                vote: None,
            }),
            entries: vec![Entry {
                index: LogIndex::FIRST,
                term: Term(1),
                kind: EntryKind::Membership,
                payload: membership.clone(),
            }],
            ..LogWrite::default()
        };
        if opened.recovered.last.index < LogIndex::FIRST {
            opened.log.stage(write.clone())?;
            opened.log.sync()?;
        }
        Ok(write)
    }

    /// Everything is gone; another disk is put in.
    pub(crate) fn wipe(&mut self) {
        self.vfs = SimVfs::new(self.random.fork());
        self.stall = Stall::None;
    }

    /// The life of the data directory.
    pub(crate) fn incarnation(&self) -> Result<Incarnation, DiskError> {
        Ok(self.directory()?.incarnation())
    }

    /// The data directory, made if there is none.
    pub(crate) fn directory(&self) -> Result<DataDir, DiskError> {
        let directory = DataDir::open(self.vfs.shared(), Path::new(DIRECTORY), self.node)?;
        Ok(directory)
    }

    /// How many snapshots it holds, readable or not.
    pub(crate) fn snapshots(&self) -> usize {
        let medium = self.vfs.medium();
        let names = medium.names.keys();
        names.filter(|name| name.ends_with(".snap")).count()
    }

    /// What is on it.
    pub(crate) fn content(&self) -> Content {
        self.vfs.clone()
    }

    /// Puts something else on it; returns what was there.
    pub(crate) fn replace(&mut self, content: Content) -> Content {
        self.stall = Stall::None;
        std::mem::replace(&mut self.vfs, content)
    }

    /// A copy of what is on it.
    pub(crate) fn copy(&mut self) -> Content {
        let random = self.random.fork();
        SimVfs::from_medium(self.vfs.medium().copied(random))
    }

    pub(crate) fn open(
        &self,
        cluster: ClusterId,
        options: LogOptions,
    ) -> Result<OpenDisk, DiskError> {
        let directory = self.directory()?;
        let opened = startup::open(&directory, cluster, options)?;
        Ok(OpenDisk { directory, opened })
    }

    /// The power fails while the process does what it does. If that is a sync, or work on a
    /// snapshot file, it gets as far as chance wants; then every sector and name that is not synced
    /// is old or new.
    pub(crate) fn crash(&mut self, work: DiskWork) {
        self.die(work);
        self.vfs.medium().lose_power();
    }

    /// The process dies while it does what it does; what it wrote stays in the cache.
    pub(crate) fn die(&mut self, work: DiskWork) {
        let DiskWork {
            mut writer,
            mut keeper,
            job,
        } = work;
        let operations = self.random.below(MAX_OPERATIONS_IN_FLIGHT);
        self.stop_after(operations);
        // It fails wherever the machine stopped; the process is gone before it could tell.
        if self.random.per_mille(500) {
            let _ = writer.finish();
            let _ = job.map(|job| keeper.carry_out(job));
        } else {
            let _ = job.map(|job| keeper.carry_out(job));
            let _ = writer.finish();
        }
        // The dead do not clean up.
        self.stop_after(0);
        drop((writer, keeper));
        self.calm();
        self.release_sync();
    }

    /// The process ends by itself, without another write.
    pub(crate) fn abandon(&mut self, work: DiskWork) {
        drop(work);
        self.calm();
        self.release_sync();
    }

    /// The power fails while nothing runs.
    pub(crate) fn lose_power(&mut self) {
        self.calm();
        self.vfs.medium().lose_power();
    }

    /// Lets so many operations happen and fails every later one, until [`Disk::calm`].
    pub(crate) fn stop_after(&self, operations: u64) {
        let mut medium = self.vfs.medium();
        medium.faults.stop_at = Some(medium.faults.operations + operations);
    }

    /// Whether an operation was refused because of [`Disk::stop_after`].
    pub(crate) fn has_stopped(&self) -> bool {
        let faults = &self.vfs.medium().faults;
        faults.stop_at.is_some_and(|at| faults.operations > at)
    }

    /// Ends everything that fails at once; a full disk stays full.
    pub(crate) fn calm(&self) {
        let faults = &mut self.vfs.medium().faults;
        faults.stop_at = None;
        faults.fail_sync = None;
        faults.tear_write = false;
        faults.failing_reads = 0;
    }

    pub(crate) fn fail_next_sync(&self, pages: PagesAfterFailure) {
        self.vfs.medium().faults.fail_sync = Some(pages);
    }

    pub(crate) fn tear_next_write(&self) {
        self.vfs.medium().faults.tear_write = true;
    }

    /// From now on so many of a thousand writes, and of a thousand reads, fail.
    pub(crate) fn set_failing(&self, writes_per_mille: u64, reads_per_mille: u64) {
        let rates = (writes_per_mille, reads_per_mille);
        self.vfs.medium().faults.fails_per_mille = rates;
    }

    /// How many operations have changed something so far.
    pub(crate) fn operations(&self) -> u64 {
        self.vfs.medium().faults.operations
    }

    /// The medium loses what the last sync has written; the page cache still shows it.
    pub(crate) fn lose_last_sync(&self) {
        self.vfs.medium().lose_last_sync();
    }

    pub(crate) fn fail_reads(&self, count: u32) {
        self.vfs.medium().faults.failing_reads = count;
    }

    /// Leaves room for so many bytes more; `None` for any number.
    pub(crate) fn set_room(&self, bytes: Option<u64>) {
        let mut medium = self.vfs.medium();
        let used = medium.used_bytes();
        medium.faults.capacity_bytes = bytes.map(|bytes| used + bytes);
    }

    /// Damages what is stored; says whether anything was changed.
    pub(crate) fn corrupt(&self, corruption: Corruption) -> bool {
        let mut medium = self.vfs.medium();
        let damaged = match corruption {
            Corruption::BitRot => medium.rot(),
            Corruption::MisdirectedWrite => medium.misdirect(),
        };
        damaged.is_some()
    }

    /// Whether an injected failure was met since this was last asked, or the disk is full.
    pub(crate) fn take_failures_met(&self) -> bool {
        let faults = &mut self.vfs.medium().faults;
        std::mem::take(&mut faults.met) > 0 || faults.capacity_bytes.is_some()
    }

    /// From now on no sync ends, until [`Disk::resume`].
    pub(crate) fn stall(&mut self) {
        if self.stall == Stall::None {
            self.stall = Stall::Endless { holds_sync: false };
        }
    }

    /// Syncs end again. Says whether one waits for that.
    pub(crate) fn resume(&mut self) -> bool {
        let held = self.stall == Stall::Endless { holds_sync: true };
        self.stall = Stall::None;
        held
    }

    /// Whether no sync ends.
    pub(crate) fn hangs(&self) -> bool {
        self.stall != Stall::None
    }

    /// A sync begins; says whether the disk holds it.
    pub(crate) fn holds_sync(&mut self) -> bool {
        match &mut self.stall {
            Stall::None => false,
            Stall::Endless { holds_sync } => {
                *holds_sync = true;
                true
            }
        }
    }

    /// Nobody waits for the sync any more that the disk holds.
    fn release_sync(&mut self) {
        if let Stall::Endless { holds_sync } = &mut self.stall {
            *holds_sync = false;
        }
    }
}
