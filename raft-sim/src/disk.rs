//! A node's disk and its log writer: all that waits goes into one write and one fsync.

use std::collections::VecDeque;
use std::path::Path;

use raft_core::PersistId;
use raft_log::vfs::MemVfs;
use raft_log::{
    DataDir, DirError, Log, LogError, LogIdentity, LogOptions, LogWrite, OpenError, Recovered,
};
use raft_proto::{ClusterId, Entry, EntryKind, GroupId, HardState, LogIndex, NodeId, Term};
use thiserror::Error;

use crate::random::{Random, Stream};

/// Where the data directory is on the simulated disk.
const DIRECTORY: &str = "data";

/// Operations of one sync that a crash may fall between: the write, its fsync, and those of a new
/// segment (create, write, fsync, rename, directory).
const MAX_OPERATIONS_IN_FLIGHT: u64 = 12;

/// Why a simulated disk cannot be used: a bug, for no such fault was injected.
#[derive(Debug, Error)]
pub(crate) enum DiskError {
    #[error("cannot open the data directory: {0}")]
    Directory(#[from] DirError),
    #[error("cannot open the log: {0}")]
    Open(Box<OpenError>),
    #[error("cannot write the log: {0}")]
    Log(#[from] LogError),
}

/// A disk that outlives the node's processes.
pub(crate) struct Disk {
    node: NodeId,
    vfs: MemVfs,
    pub(crate) random: Random,
}

/// An open data directory with its log.
pub(crate) struct OpenDisk {
    pub(crate) directory: DataDir,
    pub(crate) log: Log,
    pub(crate) recovered: Recovered,
}

impl Disk {
    pub(crate) fn new(seed: u64, node: NodeId) -> Self {
        let mut random = Random::stream(seed, Stream::Disk(node));
        Self {
            node,
            vfs: MemVfs::new(random.bits()),
            random,
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
        let mut disk = self.open(cluster, options)?;
        let write = LogWrite {
            hard_state: Some(HardState {
                term: Term(1),
                vote: None,
            }),
            truncate_from: None,
            entries: vec![Entry {
                index: LogIndex::FIRST,
                term: Term(1),
                kind: EntryKind::Membership,
                payload: membership.clone(),
            }],
        };
        disk.log.stage(write.clone())?;
        disk.log.sync()?;
        Ok(write)
    }

    pub(crate) fn open(
        &self,
        cluster: ClusterId,
        options: LogOptions,
    ) -> Result<OpenDisk, DiskError> {
        let directory = DataDir::open(self.vfs.shared(), Path::new(DIRECTORY), self.node)?;
        let identity = LogIdentity {
            cluster,
            node: self.node,
            incarnation: directory.incarnation(),
            group: GroupId(0),
        };
        let (log, recovered) = Log::open(&directory, identity, options)
            .map_err(|error| DiskError::Open(Box::new(error)))?;
        Ok(OpenDisk {
            directory,
            log,
            recovered,
        })
    }

    /// The process dies while the writer does what it does. If that is a sync, it gets as far as
    /// chance wants; then every sector and name that is not synced is old or new.
    pub(crate) fn crash(&mut self, mut writer: LogWriter) {
        self.vfs
            .stop_after(self.random.below(MAX_OPERATIONS_IN_FLIGHT));
        // It fails wherever the machine stopped; the process is gone before it could tell.
        let _ = writer.finish();
        drop(writer);
        let random = &mut self.random;
        self.vfs = self.vfs.crash(&mut |_| random.per_mille(500));
    }
}

/// What the log writer is doing.
enum Busy {
    Idle,
    Syncing {
        through: PersistId,
        writes: Vec<LogWrite>,
    },
    Vouching,
}

/// Does what the log-writer thread of a real node does.
pub(crate) struct LogWriter {
    pub(crate) log: Log,
    waiting: VecDeque<(PersistId, LogWrite)>,
    busy: Busy,
    /// Grows with each sync, so that an old reminder to vouch is recognised.
    pub(crate) syncs: u64,
}

/// What is durable now.
pub(crate) struct Synced {
    pub(crate) through: PersistId,
    pub(crate) writes: Vec<LogWrite>,
}

impl LogWriter {
    pub(crate) fn new(log: Log) -> Self {
        Self {
            log,
            waiting: VecDeque::new(),
            busy: Busy::Idle,
            syncs: 0,
        }
    }

    pub(crate) fn push(&mut self, id: PersistId, write: LogWrite) {
        self.waiting.push_back((id, write));
    }

    /// Begins to sync all that waits, unless it is busy. Returns whether it began.
    pub(crate) fn begin_sync(&mut self) -> Result<bool, LogError> {
        let Some((last, _)) = self.waiting.back() else {
            return Ok(false);
        };
        if !matches!(self.busy, Busy::Idle) {
            return Ok(false);
        }
        let through = *last;
        let writes: Vec<_> = self.waiting.drain(..).map(|(_, write)| write).collect();
        for write in &writes {
            self.log.stage(write.clone())?;
        }
        self.busy = Busy::Syncing { through, writes };
        Ok(true)
    }

    /// Begins to vouch for the last batch, if the log is idle since the sync of this number.
    pub(crate) fn begin_vouching(&mut self, since: u64) -> bool {
        let is_due = since == self.syncs
            && matches!(self.busy, Busy::Idle)
            && self.waiting.is_empty()
            && self.log.needs_vouching();
        if is_due {
            self.busy = Busy::Vouching;
        }
        is_due
    }

    /// The write and its fsync are done.
    pub(crate) fn finish(&mut self) -> Result<Option<Synced>, LogError> {
        self.syncs += 1;
        match std::mem::replace(&mut self.busy, Busy::Idle) {
            Busy::Idle => Ok(None),
            Busy::Vouching => {
                self.log.vouch_if_idle()?;
                Ok(None)
            }
            Busy::Syncing { through, writes } => {
                self.log.sync()?;
                Ok(Some(Synced { through, writes }))
            }
        }
    }

    /// Writes under way: a crash may leave them durable or not.
    pub(crate) fn in_flight(&self) -> Vec<LogWrite> {
        match &self.busy {
            Busy::Idle | Busy::Vouching => Vec::new(),
            Busy::Syncing { writes, .. } => writes.clone(),
        }
    }
}
