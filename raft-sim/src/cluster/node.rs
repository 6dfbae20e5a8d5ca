//! One node of the world: its disk, and the process that runs on it.

use std::collections::VecDeque;

use raft_core::{Config, CoreError, RaftCore, Time};
use raft_log::{DataDir, LogReader, SnapshotStore};
use raft_node::driver::{ApplyBatch, CutStep, Driver, DriverLimits, Input, SnapshotJob};
use raft_node::{SnapshotKeeper, StateMachine, startup};
use raft_proto::{
    Boot, ClusterId, Incarnation, LogIndex, LogPosition, Member, NodeId, ProtocolVersion,
};
use thiserror::Error;
use xxhash_rust::xxh3::Xxh3;

use super::copies::Copies;
use super::door::Door;
use super::faults::Trouble;
use crate::clock::NodeClock;
use crate::disk::{Disk, DiskError, DiskWork, LogWriter, OpenDisk};
use crate::options::{ClusterOptions, ProcessOptions};
use crate::random::{Random, Stream};

/// One life of a node's process; what was meant for an earlier life does not reach a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProcessId {
    pub(crate) node: NodeId,
    pub(crate) life: u64,
}

/// A node, running or not.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) disk: Disk,
    pub(crate) random: Random,
    /// Latencies of its process and disk.
    pub(crate) latencies: ProcessOptions,
    clock_random: Random,
    /// What a scenario does to it beyond that.
    pub(super) trouble: Trouble,
    pub(super) copies: Copies,
    /// The newest version of the protocol that its next process speaks.
    pub(crate) version: ProtocolVersion,
    /// How many processes there were.
    pub(crate) life: u64,
    /// How many of them there were when the disk was wiped last.
    pub(crate) wiped_after: u64,
    pub(crate) process: Option<Process>,
}

/// A running node: the real driver, core and log.
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    pub(crate) incarnation: Incarnation,
    pub(crate) boot: Boot,
    pub(crate) clock: NodeClock,
    pub(crate) driver: Driver,
    pub(crate) machine: Box<dyn StateMachine>,
    pub(crate) writer: LogWriter,
    pub(crate) reader: LogReader,
    /// What the node has not looked at yet.
    pub(crate) inbox: Vec<Input>,
    /// Whether it is about to look.
    pub(crate) is_step_scheduled: bool,
    /// The earliest wake-up scheduled for a timer.
    pub(crate) wake_at: Option<Time>,
    /// What the applier has to do; the first is being done.
    pub(crate) work: VecDeque<ApplierWork>,
    pub(crate) keeper: SnapshotKeeper,
    pub(crate) snapshots: SnapshotStore,
    /// What the keeper has to do; the first is being done.
    pub(crate) jobs: VecDeque<SnapshotJob>,
    /// The cut that is being taken: the last entry applied before it, and a hash of its parts.
    pub(crate) cut: (LogIndex, Xxh3),
    /// Also holds the lock of the data directory.
    pub(crate) directory: DataDir,
    pub(super) door: Door,
}

/// What the applier does, in order.
pub(crate) enum ApplierWork {
    Apply(ApplyBatch),
    Cut(CutStep),
    Restore(LogPosition),
}

impl Process {
    /// What is left to be done with the disk when the process ends.
    pub(crate) fn into_disk_work(mut self) -> DiskWork {
        DiskWork {
            job: self.jobs.pop_front(),
            writer: self.writer,
            keeper: self.keeper,
        }
    }
}

/// Why a node does not start.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("cannot start consensus: {0}")]
    Core(#[from] CoreError),
}

impl Node {
    pub(crate) fn new(options: &ClusterOptions, id: NodeId) -> Self {
        let (seed, latencies) = (options.seed, options.process);
        let version = if id.0 <= options.old_versions {
            ProtocolVersion::OLDEST
        } else {
            ProtocolVersion::NEWEST
        };
        Self {
            id,
            disk: Disk::new(seed, id),
            random: Random::stream(seed, Stream::Process(id)),
            latencies,
            clock_random: Random::stream(seed, Stream::Clock(id)),
            trouble: Trouble::default(),
            copies: Copies::default(),
            version,
            life: 0,
            wiped_after: 0,
            process: None,
        }
    }

    /// How a membership names it: its address, and the life of its data directory, which is made
    /// if there is none.
    pub(crate) fn as_member(&self) -> Member {
        let incarnation = self.disk.incarnation();
        let incarnation = incarnation.unwrap_or_else(|error| panic!("{}: {error}", self.id));
        Member {
            incarnation: Some(incarnation),
            address: format!("{}.sim:7000", self.id),
        }
    }

    /// Starts a process through the full recovery of its log. Returns what was recovered.
    pub(crate) fn start(
        &mut self,
        now: Time,
        cluster: ClusterId,
        options: &ClusterOptions,
        mut machine: Box<dyn StateMachine>,
    ) -> Result<raft_core::Recovered, StartError> {
        assert!(self.process.is_none(), "{} runs already", self.id);
        let held = self.disk.snapshots();
        let OpenDisk { directory, opened } = match self.disk.open(cluster, options.log) {
            Ok(open) => open,
            Err(error) => {
                // What failed may have been the removal of a second one.
                self.trouble.lost_snapshots |= self.disk.snapshots() < held;
                return Err(error.into());
            }
        };
        self.trouble.lost_snapshots |= !opened.damaged_snapshots.is_empty();
        let door = Door::open(&directory)?;
        if let Some(newest) = &opened.newest {
            let (store, position) = (&opened.snapshots, newest.last_included);
            startup::restore(machine.as_mut(), store, position).map_err(DiskError::Start)?;
        }
        self.life += 1;
        self.trouble.dropped_torn = opened.found.dropped_torn.is_some();
        let boot = directory.boot();
        let incarnation = directory.incarnation();
        let recovered = opened.recovered;
        let clock = NodeClock::booted(now, options.clock, &mut self.clock_random);
        let config = Config {
            id: self.id,
            incarnation: Some(incarnation),
            seed: self.random.bits(),
            ..options.core.clone()
        };
        let core = RaftCore::new(config, recovered.clone(), clock.local(now))?;
        let limits = DriverLimits {
            newest_version: self.version,
            ..options.limits.clone()
        };
        let reader = opened.log.reader();
        self.process = Some(Process {
            id: ProcessId {
                node: self.id,
                life: self.life,
            },
            incarnation,
            boot,
            clock,
            driver: Driver::new(core, limits, opened.newest),
            machine,
            writer: LogWriter::new(opened.log),
            keeper: SnapshotKeeper::new(self.id, opened.snapshots.clone()),
            snapshots: opened.snapshots,
            jobs: VecDeque::new(),
            cut: (LogIndex::ZERO, Xxh3::new()),
            reader,
            inbox: Vec::new(),
            is_step_scheduled: false,
            wake_at: None,
            work: VecDeque::new(),
            directory,
            door,
        });
        Ok(recovered)
    }
}
