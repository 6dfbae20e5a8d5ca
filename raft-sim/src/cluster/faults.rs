//! What a nemesis does to single nodes: kinds of crashes, pauses, disks that fail, clocks.

use std::fmt;

use raft_core::Time;
use raft_node::driver::Input;
use raft_proto::NodeId;
use thiserror::Error;

use super::node::{ProcessId, StartError};
use super::{Cluster, Event};
use crate::disk::{Corruption, PagesAfterFailure};
use crate::marks::{Mark, Tally};

/// How often a full disk is tried again, in milliseconds; as the runtime does.
const DISK_FULL_RETRY_MS: u64 = 250;

/// How a process ends without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// With its machine: what is not synced is old or new, sector by sector.
    PowerCut,
    /// Alone: the page cache keeps what was written, and a later power cut may still take it.
    Killed,
}

/// Why a node does not start.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StartFailure {
    /// What is stored is damaged; the node stays down for good.
    #[error("{0}")]
    Damaged(String),
    /// The disk fails or is full; another attempt may succeed.
    #[error("{0}")]
    Disk(String),
}

/// What a scenario does to a node.
#[derive(Default)]
pub(super) struct Trouble {
    /// The process does not run at the moment; what it is to do waits here.
    paused: Option<Vec<Event>>,
    /// The process ends before its so-many-th effect from now on.
    crash_at_effect: Option<(u64, CrashKind)>,
    /// It has reported damage and does not start any more.
    is_damaged: bool,
    /// The last recovery dropped a torn batch.
    pub(super) dropped_torn: bool,
}

impl Cluster {
    /// Ends a node's process without warning. Does nothing if it does not run.
    pub fn crash_by(&mut self, node: NodeId, kind: CrashKind) {
        let Some(entry) = self.nodes.get_mut(&node) else {
            return;
        };
        let Some(process) = entry.process.take() else {
            return;
        };
        entry.trouble.paused = None;
        entry.trouble.crash_at_effect = None;
        self.checker.stopped(node, process.writer.in_flight());
        let what = match kind {
            CrashKind::PowerCut => {
                entry.disk.crash(process.into_disk_work());
                "crashes"
            }
            CrashKind::Killed => {
                entry.disk.die(process.into_disk_work());
                "is killed"
            }
        };
        self.record(node, what, "", &[]);
        self.after_process_ended();
    }

    /// Ends a node's process before the `effects`-th thing that it does outside from now on: a
    /// message sent, a write begun, a batch applied.
    pub fn crash_at_effect(&mut self, node: NodeId, effects: u64, kind: CrashKind) {
        if let Some(entry) = self.nodes.get_mut(&node) {
            entry.trouble.crash_at_effect = Some((effects, kind));
        }
    }

    /// Whether the process ends here, before its next effect.
    pub(super) fn crashes_before_effect(&mut self, id: ProcessId) -> bool {
        let Some(entry) = self.nodes.get_mut(&id.node) else {
            return true;
        };
        match entry.trouble.crash_at_effect {
            None => false,
            Some((0, kind)) => {
                self.tally.mark(Mark::CrashedBetweenEffects);
                self.crash_by(id.node, kind);
                true
            }
            Some((left, kind)) => {
                entry.trouble.crash_at_effect = Some((left - 1, kind));
                false
            }
        }
    }

    /// Cuts the power of a node that does not run: what a killed process left in the page cache is
    /// old or new now.
    pub fn cut_power(&mut self, node: NodeId) {
        if let Some(entry) = self.nodes.get_mut(&node).filter(|n| n.process.is_none()) {
            entry.disk.lose_power();
            self.record(node, "loses power", "", &[]);
        }
    }

    /// Starts a node, whose machine fails after so many operations of its recovery.
    ///
    /// # Errors
    /// As [`Cluster::try_restart`]; `Ok` if recovery took fewer operations.
    pub fn restart_cut_short(
        &mut self,
        node: NodeId,
        operations: u64,
        kind: CrashKind,
    ) -> Result<(), StartFailure> {
        if let Some(entry) = self.nodes.get_mut(&node) {
            entry.disk.stop_after(operations);
        }
        let started = self.try_restart(node);
        if matches!(started, Err(StartFailure::Disk(_))) {
            self.tally.mark(Mark::CrashedInRecovery);
            match kind {
                CrashKind::PowerCut => self.cut_power(node),
                CrashKind::Killed => {}
            }
        }
        started
    }

    /// A node stops by itself, because its disk failed: the page cache stays as it is.
    ///
    /// # Panics
    /// If no failure was injected that could explain it.
    pub(super) fn halt(&mut self, node: NodeId, why: &dyn fmt::Display) {
        let Some(entry) = self.nodes.get_mut(&node) else {
            return;
        };
        let explained = entry.disk.take_failures_met() || self.atlas.is_victim(node);
        assert!(explained, "{node} stops without a fault: {why}");
        let Some(process) = entry.process.take() else {
            return;
        };
        entry.trouble.paused = None;
        self.checker.stopped(node, process.writer.in_flight());
        entry.disk.abandon(process.into_disk_work());
        self.tally.mark(Mark::StoppedByDisk);
        self.record(node, "stops for its disk", "", &[]);
        self.after_process_ended();
    }

    /// A start failed: was that to be expected?
    pub(super) fn note_failed_start(&mut self, node: NodeId, error: &StartError) -> StartFailure {
        let Some(entry) = self.nodes.get_mut(&node) else {
            panic!("there is no {node} in this world");
        };
        let is_victim = self.atlas.is_victim(node);
        let explained = entry.disk.take_failures_met() || is_victim;
        assert!(explained, "{node} does not start without a fault: {error}");
        if !error.is_damage() {
            self.record(node, "fails to start", "", &[]);
            return StartFailure::Disk(error.to_string());
        }
        assert!(is_victim, "{node} reports damage that nobody did: {error}");
        entry.trouble.is_damaged = true;
        self.tally.mark(Mark::DamageReported);
        self.record(node, "reports damage", "", &[]);
        StartFailure::Damaged(error.to_string())
    }

    fn after_process_ended(&mut self) {
        self.deliver_answers();
        self.refresh_connections();
        let down = self.nodes.values().filter(|node| node.process.is_none());
        if 2 * down.count() >= self.nodes.len() {
            self.tally.mark(Mark::QuorumDown);
        }
    }

    /// Whether a node has reported damage and stays down for good.
    #[must_use]
    pub fn is_damaged(&self, node: NodeId) -> bool {
        self.nodes
            .get(&node)
            .is_some_and(|entry| entry.trouble.is_damaged)
    }

    /// Whether a node's stored data was damaged, noticed or not.
    #[must_use]
    pub fn was_corrupted(&self, node: NodeId) -> bool {
        self.atlas.is_victim(node)
    }

    /// Damages what a node has stored, unless too many disks would then be damaged to keep a good
    /// copy of everything committed. Says whether it did.
    pub fn corrupt(&mut self, node: NodeId, corruption: Corruption) -> bool {
        if !self.atlas.allows(node) {
            return false;
        }
        let changed = self
            .nodes
            .get(&node)
            .is_some_and(|entry| entry.disk.corrupt(corruption));
        if changed {
            self.atlas.note(node);
            self.record(node, "is damaged", "", &[]);
        }
        changed
    }

    /// Lets a node's next sync fail.
    pub fn fail_next_sync(&mut self, node: NodeId, pages: PagesAfterFailure) {
        if let Some(entry) = self.nodes.get(&node) {
            entry.disk.fail_next_sync(pages);
        }
    }

    /// Lets a node's next write fail after some of its blocks.
    pub fn tear_next_write(&mut self, node: NodeId) {
        if let Some(entry) = self.nodes.get(&node) {
            entry.disk.tear_next_write();
        }
    }

    /// Lets so many reads of a node's disk fail.
    pub fn fail_reads(&mut self, node: NodeId, count: u32) {
        if let Some(entry) = self.nodes.get(&node) {
            entry.disk.fail_reads(count);
        }
    }

    /// Leaves room for so many bytes more on a node's disk; `None` for any number.
    pub fn set_disk_room(&mut self, node: NodeId, bytes: Option<u64>) {
        if let Some(entry) = self.nodes.get(&node) {
            entry.disk.set_room(bytes);
        }
    }

    /// From now on no sync of this node ends.
    pub fn stall_disk(&mut self, node: NodeId) {
        if let Some(entry) = self.nodes.get_mut(&node) {
            entry.disk.stall();
            self.record(node, "has a disk that hangs", "", &[]);
        }
    }

    /// Its syncs end again.
    pub fn resume_disk(&mut self, node: NodeId) {
        let Some(entry) = self.nodes.get_mut(&node) else {
            return;
        };
        let is_held = entry.disk.resume();
        let running = entry.process.as_ref().map(|process| process.id);
        if let (true, Some(id)) = (is_held, running) {
            self.schedule_sync_end(id);
        }
    }

    /// Stops a process without ending it (SIGSTOP). Messages go on arriving.
    pub fn pause(&mut self, node: NodeId) {
        if let Some(entry) = self.nodes.get_mut(&node)
            && entry.process.is_some()
            && entry.trouble.paused.is_none()
        {
            entry.trouble.paused = Some(Vec::new());
            self.record(node, "is paused", "", &[]);
        }
    }

    /// Lets a paused process go on.
    pub fn resume(&mut self, node: NodeId) {
        let Some(entry) = self.nodes.get_mut(&node) else {
            return;
        };
        let Some(held) = entry.trouble.paused.take() else {
            return;
        };
        for event in held {
            self.agenda.schedule(self.now, event);
        }
        let Some(process) = entry.process.as_mut() else {
            return;
        };
        // A wake-up is for one moment only, which has passed.
        process.wake_at = None;
        let id = process.id;
        self.record(node, "goes on", "", &[]);
        self.schedule_wake(id);
    }

    /// Whether a process is paused.
    #[must_use]
    pub fn is_paused(&self, node: NodeId) -> bool {
        self.nodes
            .get(&node)
            .is_some_and(|entry| entry.trouble.paused.is_some())
    }

    /// Keeps what a paused process would do for later.
    pub(super) fn hold_back(&mut self, event: Event) -> Option<Event> {
        let Some(id) = event.process() else {
            return Some(event);
        };
        let paused = self
            .nodes
            .get_mut(&id.node)
            .and_then(|entry| entry.trouble.paused.as_mut());
        match paused {
            None => Some(event),
            Some(held) => {
                held.push(event);
                None
            }
        }
    }

    /// Lets a node's clock run at another rate: nanoseconds in a million of the world's.
    pub fn set_clock_rate(&mut self, node: NodeId, rate: u64) {
        self.change_clock(node, |clock, now| clock.set_rate(now, rate));
    }

    /// Lets a node's clock jump ahead.
    pub fn step_clock(&mut self, node: NodeId, ms: u64) {
        self.change_clock(node, |clock, now| clock.step_ms(now, ms));
    }

    fn change_clock(
        &mut self,
        node: NodeId,
        change: impl FnOnce(&mut crate::clock::NodeClock, Time),
    ) {
        let now = self.now;
        let process = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut());
        if let Some(process) = process {
            change(&mut process.clock, now);
            let id = process.id;
            self.schedule_wake(id);
        }
    }

    /// The log found no room; as the runtime does, it says so and tries again.
    pub(super) fn wait_for_room(&mut self, id: ProcessId) {
        self.tally.mark(Mark::WaitedForRoom);
        self.give(id, Input::DiskFull);
        let at = self.now.plus_ms(DISK_FULL_RETRY_MS);
        self.agenda.schedule(at, Event::Synced(id));
    }

    /// Keeps every fault that lasts as it is, for good.
    pub fn freeze(&mut self) {
        self.is_frozen = true;
        for node in self.nodes.values_mut() {
            node.trouble.crash_at_effect = None;
        }
        self.record(NodeId(0), "freezes", "", &[]);
    }

    /// Whether [`Cluster::freeze`] was called.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    /// Takes back failures of a node's disk that were ordered and not met yet.
    pub fn calm_disk(&mut self, node: NodeId) {
        if let Some(entry) = self.nodes.get(&node) {
            entry.disk.calm();
        }
    }

    /// Counts a fault of a kind.
    pub fn count_fault(&mut self, kind: &'static str) {
        self.tally.fault(kind);
    }

    /// Rare states reached and faults injected so far.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl Event {
    /// The process that is to do something by itself, if it is one.
    fn process(&self) -> Option<ProcessId> {
        match self {
            Self::Step(id)
            | Self::Wake(id)
            | Self::Synced(id)
            | Self::VouchDue(id, _)
            | Self::Apply(id)
            | Self::LogRead(id, _)
            | Self::SnapshotWork(id) => Some(*id),
            Self::Arrive(_)
            | Self::PeerNotice(_)
            | Self::ClientRequest { .. }
            | Self::ClientReply { .. }
            | Self::ClientWake(_)
            | Self::Act(_) => None,
        }
    }
}

impl StartError {
    /// Whether stored data is damaged.
    fn is_damage(&self) -> bool {
        match self {
            Self::Disk(error) => error.is_damage(),
            Self::Core(_) => false,
        }
    }
}
