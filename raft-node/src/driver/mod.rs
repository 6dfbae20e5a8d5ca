//! The driver: everything between the consensus core and the outside world, without I/O (D11).
//!
//! It owns the core, the buffer of recent entries, the proposals and reads that wait for an
//! answer, and the hand-off to the applier. A shell (threads and sockets in [`crate::Raft`], a
//! simulated world in `raft-sim`) feeds it [`Input`]s, calls [`Driver::flush`] once its inbox is
//! drained, and carries out the [`Output`]s in order:
//!
//! * `Write`s go to the log in order; `Input::Persisted` answers them, in order. On a full disk term
//!   and vote may go ahead, which `Input::HardStatePersisted` says;
//! * `Apply` batches go to the state machine in order; `Input::Applied` answers each;
//! * `ReadLog` may be done at any time by another thread; `Input::LogRead` answers it;
//! * `Send` is best effort;
//! * `Cut`, `Restore`, `Snapshot` and `Compact` are about snapshots: see the page of `snapshots`;
//! * how replicas are compared is told by the page of `comparison`.

mod apply;
mod comparison;
mod disk;
mod events;
mod held;
mod io;
mod measure;
mod membership;
mod peers;
mod proposals;
mod reads;
mod snapshots;
mod status;
mod traffic;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::{
    Commit, Counting, EntryBuffer, MessageId, RaftCore, ReadId, Role, Time, UnsentReason,
};
use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{LogIndex, Message, NodeId, SnapshotDescription};

pub use self::apply::{ApplyBatch, ApplyItem};
pub use self::comparison::{
    Blame, Compared, ComparisonOutcome, ComparisonPolicy, ComparisonStatus, ComparisonWaiter,
    Difference, ReachedComparison,
};
pub use self::held::Held;
pub use self::io::{
    DriverLimits, Input, LogReadPurpose, LogReadRequest, Output, Rot, StatusWaiter, TransferWaiter,
};
pub use self::measure::RepairCounts;
pub use self::membership::ChangeWaiter;
pub use self::proposals::ProposalWaiter;
pub use self::reads::{QueryWaiter, ReadConsistency};
pub use self::snapshots::{
    CutId, CutStep, FetchId, FetchProgress, FoundPart, JobError, PartName, PartReader, PartWaiter,
    PolicyError, SaveProgress, SnapshotDone, SnapshotJob, SnapshotPolicy, SnapshotStatus,
    SnapshotWaiter,
};
pub use self::status::{PeerStatus, Status};

use self::apply::ApplyQueue;
use self::comparison::Comparing;
use self::disk::DiskWatch;
use self::measure::Measure;
use self::membership::Changes;
use self::peers::{Peers, peers_of};
use self::proposals::Proposals;
use self::reads::Reads;
use self::snapshots::Snapshots;
use crate::error::{LeaderHint, ReadError, TransferError};
use crate::metrics::Recorder;

/// See the module's page.
pub struct Driver {
    core: RaftCore,
    buffer: EntryBuffer,
    proposals: Proposals,
    reads: Reads,
    apply: ApplyQueue,
    comparing: Comparing,
    disk: DiskWatch,
    measure: Measure,
    transfer: Option<TransferWaiter>,
    changes: Changes,
    peers: Peers,
    snapshots: Snapshots,
    outputs: VecDeque<Output>,
    limits: DriverLimits,
    next_message: u64,
}

impl Driver {
    /// Wraps a core whose state machine is that of this snapshot, the newest one stored; an empty
    /// one if there is none.
    #[must_use]
    pub fn new(
        mut core: RaftCore,
        limits: DriverLimits,
        newest: Option<SnapshotDescription>,
    ) -> Self {
        let applied = newest
            .as_ref()
            .map_or(LogIndex::ZERO, |newest| newest.last_included.index);
        if let Some(newest) = &newest {
            // The core's clock has been started, so this does not turn it back.
            core.handle_snapshot_saved(Time::ZERO, newest.clone());
        }
        let peers = peers_of(&core);
        let longest = Duration::from_millis(core.config().election_timeout_ms_max);
        let disk_patience = limits.disk_stall_timeout.unwrap_or(longest * 2);
        Self {
            buffer: EntryBuffer::new(limits.entry_buffer_bytes),
            proposals: Proposals::default(),
            reads: Reads::default(),
            apply: ApplyQueue::starting_after(applied),
            comparing: Comparing::default(),
            disk: DiskWatch::new(disk_patience),
            measure: Measure::default(),
            transfer: None,
            changes: Changes::default(),
            peers: Peers::default(),
            snapshots: Snapshots::new(newest),
            outputs: VecDeque::from([peers]),
            next_message: 0,
            core,
            limits,
        }
    }

    /// Counts for the node's recorder from now on.
    pub(crate) fn reporting_to(mut self, recorder: Arc<Recorder>) -> Self {
        self.measure = Measure::reporting_to(recorder);
        self
    }

    /// The core, for status and invariant checks.
    #[must_use]
    pub fn core(&self) -> &RaftCore {
        &self.core
    }

    /// Takes one input. Call [`Driver::flush`] after the last one that is at hand.
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Message {
                from,
                uncounted,
                message,
            } => self.handle_message(now, from, uncounted, message),
            Input::PeerUp {
                peer,
                incarnation,
                boot,
                version,
            } => {
                self.peers.speaks(peer, version);
                self.peer_up(now, peer, incarnation, boot);
                self.resume_fetch(now, peer);
            }
            Input::PeerDown { peer } => self.peer_down(now, peer),
            Input::Propose { command, waiter } => self.propose(now, command, waiter),
            Input::Read {
                query,
                consistency,
                waiter,
            } => self.read(now, query, consistency, waiter),
            Input::Transfer { to, waiter } => self.transfer(now, to, waiter),
            Input::ChangeMembership {
                changes,
                safety,
                waiter,
            } => self.change_membership(now, &changes, safety, waiter),
            Input::Status { log_bytes, waiter } => waiter(self.status(now, log_bytes)),
            Input::CompareReplicas { waiter } => self.compare_replicas(now, waiter),
            Input::TakeSnapshot { waiter } => self.snapshots.want_for(waiter),
            Input::ReadSnapshot { part, waiter } => self.read_snapshot(now, part, waiter),
            Input::Unsent { to, sequence } => {
                let reason = UnsentReason::Dropped;
                self.core.handle_unsent(now, to, sequence, reason);
            }
            Input::Persisted(id) => self.persisted(now, id),
            Input::HardStatePersisted(id) => self.hard_state_persisted(now, id),
            Input::DiskFull => self.disk_is_full(now),
            Input::LogUnreadable { request, index } => self.handle_unreadable(now, request, index),
            Input::RotFound(rot) => self.handle_rot(rot),
            Input::LogRead { request, entries } => self.handle_log_read(now, request, entries),
            Input::Applied {
                through,
                bytes,
                comparisons,
            } => {
                self.measure.applied(now, through);
                self.core.handle_applied(now, through);
                self.apply.done(through, bytes);
                self.reach_comparisons(now, comparisons);
            }
            Input::CutPart { cut, part } => self.take_cut_part(now, cut, part),
            Input::SnapshotDone(done) => self.handle_snapshot_done(now, done),
            Input::Compacted(through) => self.handle_compacted(now, through),
            Input::Restored(position) => self.handle_restored(now, position),
        }
    }

    /// Lets time pass: elections, heartbeats, deadlines. Call it when [`Driver::poll_timeout`] is
    /// due, and [`Driver::flush`] afterwards.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.core.poll_timeout().is_some_and(|due| due <= now) {
            self.core.handle_timeout(now);
        }
        if self.disk.take_stall(now) {
            let (node, term) = (self.core.id().0, self.core.term().0);
            tracing::error!(node, term, "the disk makes no progress");
            self.measure.disk_stalled();
            self.core.handle_disk_stalled(now);
        }
        self.proposals.expire(now);
        self.reads.expire(now);
        self.changes.expire(now);
        self.handle_snapshot_timeout(now);
        self.handle_comparison_timeout(now);
    }

    /// When [`Driver::handle_timeout`] is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let deadlines = [
            self.core.poll_timeout(),
            self.proposals.next_deadline(),
            self.reads.next_deadline(),
            self.changes.next_deadline(),
            self.disk.deadline(),
            self.snapshots.deadline(&self.limits.snapshots),
            self.comparing.deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Turns what the core decided into outputs. Reads that arrived since the last flush share
    /// one confirmation round.
    pub fn flush(&mut self, now: Time) {
        self.confirm_reads(now);
        self.tend_members(now);
        self.take_persists(now, None);
        self.take_transmits(now);
        self.take_commits(now);
        self.take_events(now);
        self.pump_apply();
        self.pump_snapshots(now);
        self.pump_comparison(now);
        // What is committed is also durable here, so it can be read back: a slow applier must not
        // keep it all in memory.
        if !is_planted(Mutant::EntriesStayInMemory) {
            self.buffer.evict(self.apply.committed());
        }
        self.measure.flushed(&self.core, self.buffer.bytes());
    }

    /// The next thing to do outside.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Ends everything that waits, with what is known. Call it last.
    pub fn shut_down(&mut self) {
        self.proposals.fail_all();
        self.reads.fail_all(&ReadError::ShutDown);
        self.apply.fail_all();
        self.changes.fail_all();
        self.snapshots.fail_all();
        self.comparing.fail_all();
        if let Some(waiter) = self.transfer.take() {
            waiter(Err(TransferError::ShutDown));
        }
    }

    fn handle_message(&mut self, now: Time, from: NodeId, uncounted: bool, message: Message) {
        if message.since() > self.limits.newest_version {
            // A build of that version knows no such message.
            return;
        }
        if !self.is_for_core(now, from, &message) {
            return;
        }
        let Some(message) = self.take_bulk(now, from, message) else {
            return;
        };
        // Content is taken from anybody.
        let is_fetched = matches!(message, Message::FetchEntriesResponse(_));
        let uncounted = uncounted || (is_fetched && !self.is_named_life(from));
        if let Message::ComparisonReport(report) = message {
            return self.take_comparison_report(now, from, report);
        }
        self.next_message += 1;
        let id = MessageId(self.next_message);
        self.core.handle_message(now, from, uncounted, id, &message);
        let source = if let Message::AppendRequest(append) = message {
            Some((id, append.entries))
        } else if let Message::FetchEntriesResponse(fetched) = message {
            Some((id, fetched.entries))
        } else {
            None
        };
        self.take_persists(now, source);
    }

    fn read(&mut self, now: Time, query: Bytes, level: ReadConsistency, waiter: QueryWaiter) {
        self.measure.recorder.reads.add(1);
        match level {
            ReadConsistency::Local => {
                if self.apply.awaits_restore() {
                    return waiter(Err(ReadError::Restoring));
                }
                if self.apply.is_full(self.limits.max_apply_bytes) {
                    return waiter(Err(ReadError::Overloaded));
                }
                self.apply.push_query(query, waiter);
            }
            ReadConsistency::Linearizable => {
                let is_full = self.reads.len() >= self.limits.max_waiting_reads;
                if is_full && !is_planted(Mutant::ReadsUnbounded) {
                    return waiter(Err(ReadError::Overloaded));
                }
                let deadline = after(now, self.limits.request_timeout);
                self.reads.gather(query, waiter, deadline);
            }
        }
    }

    fn confirm_reads(&mut self, now: Time) {
        let Some(id) = self.reads.close_batch() else {
            return;
        };
        if self.core.read_index(now, ReadId(id)).is_err() {
            self.fail_read(ReadId(id));
        }
    }

    fn transfer(&mut self, now: Time, to: NodeId, waiter: TransferWaiter) {
        use raft_core::TransferError as Core;
        // The end of an earlier transfer must reach its own waiter.
        self.take_events(now);
        let error = match self.core.transfer_leadership(now, to) {
            Ok(()) => {
                self.transfer = Some(waiter);
                return;
            }
            Err(Core::NotLeader { leader }) => TransferError::NotLeader {
                leader: self.hint(leader),
            },
            Err(Core::AlreadyLeader(_)) => return waiter(Ok(())),
            Err(Core::NotAVoter(to)) => TransferError::NotAVoter(to),
            Err(Core::InProgress(to)) => TransferError::InProgress(to),
            Err(Core::Uncounted(to)) => TransferError::Uncounted(to),
            Err(Core::Halted) => TransferError::ShutDown,
        };
        waiter(Err(error));
    }

    fn take_commits(&mut self, now: Time) {
        while let Some(commit) = self.core.poll_commit() {
            match commit {
                Commit::Entries(range) => self.apply.commit_through(range.last),
                Commit::Restore(position) => self.begin_restore(now, position),
            }
        }
    }

    fn pump_apply(&mut self) {
        let (core, buffer, proposals) = (&self.core, &self.buffer, &mut self.proposals);
        let (applicable, reads, measure) = (&mut self.apply, &mut self.reads, &mut self.measure);
        let snapshots = &mut self.snapshots;
        let missing = applicable.gather(
            self.limits.max_apply_bytes,
            core.readable_index(),
            |index| buffer.get(index).cloned(),
            |entry| {
                assert_eq!(
                    core.term_at(entry.index),
                    Some(entry.term),
                    "only what was committed is applied"
                );
                let waiter = proposals.take(entry.position());
                measure.handed_over(entry.index, waiter.as_ref());
                snapshots.applied(entry);
                waiter
            },
            |next| reads.take_ready(next),
        );
        if let Some((first, last)) = missing {
            self.outputs.push_back(Output::ReadLog(LogReadRequest {
                purpose: LogReadPurpose::Apply,
                first,
                last,
                max_bytes: self.limits.max_log_read_bytes,
                epoch: self.core.epoch(),
            }));
        }
        if let Some(batch) = self.apply.take_batch() {
            let steps = batch.items.len() as u64;
            self.measure.recorder.apply_batch.record(steps);
            self.outputs.push_back(Output::Apply(batch));
        }
    }

    fn hint(&self, leader: Option<NodeId>) -> Option<LeaderHint> {
        leader.map(|id| LeaderHint {
            id,
            address: self
                .core
                .membership()
                .members
                .get(&id)
                .map(|member| member.address.clone()),
        })
    }

    /// The voter that is best prepared to lead after this node, if this node leads.
    #[must_use]
    pub fn best_successor(&self) -> Option<NodeId> {
        let membership = self.core.membership();
        let peers = self.core.peers();
        let fit = peers.filter(|peer| {
            membership.voters.contains(&peer.id) && peer.counting == Counting::Counted
        });
        // Of those who are equally far, one that is down was heard of long ago.
        fit.max_by_key(|peer| (peer.match_index, peer.contact))
            .map(|peer| peer.id)
    }

    fn status(&self, now: Time, log_bytes: u64) -> Status {
        let (snapshots, comparison) = (self.snapshots.status(), self.comparison());
        Status::of(&self.core, now, log_bytes, snapshots, comparison)
    }

    /// How equal the replicas are, as far as this node knows.
    #[must_use]
    pub fn comparison(&self) -> ComparisonStatus {
        self.comparing.status()
    }

    /// What the node has lost to its disk, and got back.
    #[must_use]
    pub fn repair_counts(&self) -> RepairCounts {
        self.measure.repairs()
    }

    /// Payload bytes of recent entries in memory.
    #[must_use]
    pub fn buffered_bytes(&self) -> u64 {
        self.buffer.bytes()
    }

    /// Whether proposals or changes of this node wait for their outcome.
    #[must_use]
    pub fn has_undecided(&self) -> bool {
        !self.proposals.is_empty() || !self.changes.is_empty()
    }

    /// Whether this node leads at the moment, as far as it knows.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        matches!(self.core.role(), Role::Leader)
    }
}

fn after(now: Time, timeout: Duration) -> Time {
    let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
    Time(now.0.saturating_add(nanos))
}
