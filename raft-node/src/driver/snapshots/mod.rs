//! Snapshots (§7): taking and saving them, compacting the log behind them, moving them between
//! nodes, restoring from them. Decisions only; the shell carries out [`Output::Cut`],
//! [`Output::Restore`], [`Output::Snapshot`] and [`Output::Compact`].
//!
//! Every node takes snapshots and compacts its log by itself. A snapshot is one *cut*: the state at
//! one applied index, with the term and the membership there. The cut is ordered with the batches
//! of the applier, so everything handed over before it is in it and nothing after it; its parts are
//! taken one at a time between batches and written while commands go on.
//!
//! Invariants, on every node and after every crash:
//!
//! * log mark ≤ newest snapshot ≤ applied ≤ committed ≤ end of the log. A snapshot covers what was
//!   handed to the applier only, which is committed and durable; the log is compacted only after
//!   the core knows of the durable snapshot, and to no later entry than its last;
//! * the state machine is never seen half replaced: from the moment a snapshot is installed in the
//!   log until the machine has restored it, nothing is handed to the applier;
//! * a snapshot that somebody reads, and the entries after it, stay until the reader is done or
//!   gone, up to a bound: or a slow follower would need the next snapshot as soon as it has one.
//!
//! What a crash leaves, in the order of the steps:
//!
//! * a temporary or part file: the first is removed, the second goes on to be filled;
//! * a snapshot taken here and an older mark in the log: more is kept than needed;
//! * a snapshot received and not yet installed: it covers committed entries only, so it is
//!   installed at the start (see [`crate::startup`]);
//! * a mark without its older snapshots, which go last.

mod fetching;
mod jobs;
mod keeping;
mod moving;
mod policy;
mod saving;
mod serving;

use raft_core::Time;
use raft_proto::{Entry, LogIndex, LogPosition, NodeId, SnapshotDescription};

pub use self::jobs::{
    CutId, CutStep, FetchId, FoundPart, JobError, PartName, PartReader, PartWaiter, SnapshotDone,
    SnapshotJob, SnapshotWaiter,
};
pub use self::policy::{PolicyError, SnapshotPolicy};

use self::fetching::Fetch;
use self::policy::{Backoff, Schedule};
use self::saving::Saving;
use self::serving::Readers;
use super::Driver;
use super::io::Output;
use crate::error::SnapshotError;

/// What a node does about snapshots.
#[derive(Clone, Debug, Default)]
pub struct SnapshotStatus {
    /// The newest one that this node's state rests on.
    pub newest: Option<SnapshotDescription>,
    /// The one being taken.
    pub saving: Option<SaveProgress>,
    /// The one being fetched from a peer.
    pub fetching: Option<FetchProgress>,
    /// Whether the state machine is being replaced.
    pub is_restoring: bool,
    /// Snapshots taken since the start.
    pub taken: u64,
    /// Attempts that failed since the start.
    pub failed: u64,
    /// Snapshots of peers that replaced this node's state since the start.
    pub installed: u64,
    /// Bytes of snapshots fetched since the start, all of them.
    pub fetched_bytes: u64,
    /// Of these, bytes that had been there already.
    pub repeated_bytes: u64,
    /// Bytes of snapshots sent to peers since the start.
    pub served_bytes: u64,
}

/// How far a snapshot is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaveProgress {
    /// The last entry that it covers.
    pub last_included: LogPosition,
    /// Bytes of the state taken so far.
    pub bytes: u64,
}

/// How far a snapshot is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchProgress {
    /// Whom it is fetched from.
    pub from: NodeId,
    /// The last entry that it covers.
    pub last_included: LogPosition,
    /// Bytes stored so far.
    pub stored_bytes: u64,
    /// Its length, in bytes.
    pub total_bytes: u64,
}

/// Counters for the status.
#[derive(Default)]
struct Counts {
    taken: u64,
    failed: u64,
    installed: u64,
    fetched_bytes: u64,
    repeated_bytes: u64,
    served_bytes: u64,
}

/// The driver's state about snapshots.
pub(super) struct Snapshots {
    /// The newest one that this node's state rests on; the core knows it, too.
    newest: Option<SnapshotDescription>,
    schedule: Schedule,
    saving: Option<Saving>,
    last_cut: CutId,
    /// When the next one is to begin, if nothing but time is in the way.
    next_cut_at: Option<Time>,
    /// They get a cut that is made after they asked.
    waiters: Vec<SnapshotWaiter>,
    fetch: Option<Fetch>,
    /// Transfers in a row that failed here.
    fetch_failures: Backoff,
    /// After such a failure no snapshot is fetched until then.
    refuse_at: Option<Time>,
    last_fetch: FetchId,
    /// The last one that was fetched and replaced the log, until the state machine has it.
    installing: Option<SnapshotDescription>,
    restoring: Option<LogPosition>,
    readers: Readers,
    /// A compaction up to here is under way.
    compacting: Option<LogIndex>,
    room: Room,
    /// When to look again whether anything can go.
    upkeep_at: Option<Time>,
    /// When that was done first.
    upkeep_began: Option<Time>,
    counts: Counts,
}

/// Whether the disk has room, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Enough,
    /// Writes wait for room: everything that a snapshot covers goes.
    None,
}

impl Snapshots {
    pub(super) fn new(newest: Option<SnapshotDescription>) -> Self {
        let bytes = newest.as_ref().map_or(0, |newest| newest.total_bytes);
        Self {
            // What the last process left undone.
            upkeep_at: newest.is_some().then_some(Time::ZERO),
            newest,
            schedule: Schedule::new(bytes),
            saving: None,
            last_cut: CutId::default(),
            next_cut_at: None,
            waiters: Vec::new(),
            fetch: None,
            fetch_failures: Backoff::default(),
            refuse_at: None,
            last_fetch: FetchId::default(),
            installing: None,
            restoring: None,
            readers: Readers::default(),
            compacting: None,
            room: Room::Enough,
            upkeep_began: None,
            counts: Counts::default(),
        }
    }

    /// An entry is handed to the applier.
    pub(super) fn applied(&mut self, entry: &Entry) {
        self.schedule.applied(entry);
    }

    /// A snapshot is needed as soon as one can be taken.
    pub(super) fn want(&mut self) {
        self.schedule.want();
    }

    /// Somebody waits for a snapshot of what is applied now.
    pub(super) fn want_for(&mut self, waiter: SnapshotWaiter) {
        self.waiters.push(waiter);
    }

    pub(super) fn deadline(&self, policy: &SnapshotPolicy) -> Option<Time> {
        let fetch = self.fetch.as_ref().and_then(|fetch| fetch.deadline(policy));
        let deadlines = [self.next_cut_at, fetch, self.refuse_at, self.upkeep_at];
        deadlines.into_iter().flatten().min()
    }

    /// The last entry that the newest snapshot covers; 0 if there is none.
    fn covered(&self) -> LogIndex {
        let newest = self.newest.as_ref();
        newest.map_or(LogIndex::ZERO, |newest| newest.last_included.index)
    }

    pub(super) fn fail_all(&mut self) {
        let saving = self.saving.take().into_iter().flat_map(|s| s.waiters);
        for waiter in self.waiters.drain(..).chain(saving) {
            waiter(Err(SnapshotError::ShutDown));
        }
    }

    pub(super) fn status(&self) -> SnapshotStatus {
        let Counts {
            taken,
            failed,
            installed,
            fetched_bytes,
            repeated_bytes,
            served_bytes,
        } = self.counts;
        let fetch = self.fetch.as_ref();
        SnapshotStatus {
            newest: self.newest.clone(),
            saving: self.saving.as_ref().map(Saving::progress),
            fetching: fetch.map(|fetch| FetchProgress {
                from: fetch.from,
                last_included: fetch.position(),
                stored_bytes: fetch.stored_bytes(),
                total_bytes: fetch.snapshot.total_bytes,
            }),
            is_restoring: self.restoring.is_some(),
            taken,
            failed,
            installed,
            fetched_bytes,
            repeated_bytes: repeated_bytes + fetch.map_or(0, |fetch| fetch.repeated_bytes),
            served_bytes,
        }
    }
}

impl Driver {
    /// The newest snapshot that this node's state rests on.
    #[must_use]
    pub fn newest_snapshot(&self) -> Option<&SnapshotDescription> {
        self.snapshots.newest.as_ref()
    }

    pub(super) fn handle_snapshot_done(&mut self, now: Time, done: SnapshotDone) {
        match done {
            SnapshotDone::Written { cut } => self.continue_saving(now, cut),
            SnapshotDone::Saved { cut, snapshot } => self.finish_saving(now, cut, snapshot),
            SnapshotDone::SaveFailed { cut, error } => self.fail_saving(now, cut, error),
            SnapshotDone::PartRead { to, part, found } => self.send_part(to, part, found),
            SnapshotDone::Receiving {
                fetch,
                received_bytes,
            } => self.start_fetching(now, fetch, received_bytes),
            SnapshotDone::Stored {
                fetch,
                stored_bytes,
                durable_bytes,
            } => self.continue_fetching(now, fetch, stored_bytes, durable_bytes),
            SnapshotDone::Received { fetch, .. } => self.finish_fetching(now, fetch),
            SnapshotDone::ReceiveFailed { fetch, error } => self.fail_fetching(now, fetch, &error),
        }
    }

    pub(super) fn handle_snapshot_timeout(&mut self, now: Time) {
        self.retry_fetch(now);
        self.end_fetch_pause(now);
        if self.snapshots.upkeep_at.is_some_and(|due| due <= now) {
            self.tend_snapshots(now);
        }
    }

    fn ask(&mut self, job: SnapshotJob) {
        self.outputs.push_back(Output::Snapshot(job));
    }
}
