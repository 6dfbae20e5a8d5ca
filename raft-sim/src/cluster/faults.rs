//! What a nemesis does to single nodes: kinds of crashes, pauses, disks that fail, clocks.

use std::fmt;

use raft_core::Time;
use raft_proto::NodeId;
use thiserror::Error;

use super::node::{ProcessId, StartError};
use super::{Cluster, Event};
use crate::marks::{Mark, Tally};

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
    pub(super) is_damaged: bool,
    /// The medium is to lose a write that the process takes for durable.
    pub(super) loses_write: bool,
    /// The last recovery dropped a torn batch.
    pub(super) dropped_torn: bool,
    /// Snapshots that could not be read were removed by the last recovery, or by one of the
    /// attempts before it that failed for another reason.
    pub(super) lost_snapshots: bool,
}

impl Cluster {
    /// Ends a node's process without warning. Does nothing if it does not run.
    pub fn crash_by(&mut self, node: NodeId, kind: CrashKind) {
        let known_as = self.known_as(node);
        if self.restores(node) {
            self.tally.mark(Mark::CrashedInRestore);
        }
        let Some(entry) = self.nodes.get_mut(&node) else {
            return;
        };
        let Some(process) = entry.process.take() else {
            return;
        };
        entry.trouble.paused = None;
        entry.trouble.crash_at_effect = None;
        self.checker.stopped(known_as, process.writer.in_flight());
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

    /// Lets a node's power fail at the operation of its disk that comes after so many more, whatever
    /// the operation is for. Ask [`Cluster::power_has_failed`] after every event.
    pub fn cut_power_after(&mut self, node: NodeId, operations: u64) {
        if let Some(entry) = self.nodes.get_mut(&node) {
            entry.disk.stop_after(operations);
        }
    }

    /// Whether the node's power failed where [`Cluster::cut_power_after`] wanted it; its process
    /// has ended then, and it can be started again.
    pub fn power_has_failed(&mut self, node: NodeId) -> bool {
        let known_as = self.known_as(node);
        let Some(entry) = self.nodes.get_mut(&node) else {
            return false;
        };
        if !entry.disk.has_stopped() {
            return false;
        }
        if let Some(process) = entry.process.take() {
            entry.trouble.paused = None;
            self.checker.stopped(known_as, process.writer.in_flight());
            entry.disk.abandon(process.into_disk_work());
        }
        entry.disk.take_failures_met();
        entry.disk.calm();
        self.cut_power(node);
        self.after_process_ended();
        true
    }

    /// A node stops by itself, because its disk failed: the page cache stays as it is.
    ///
    /// # Panics
    /// If no failure was injected that could explain it.
    pub(super) fn halt(&mut self, node: NodeId, why: &dyn fmt::Display) {
        let known_as = self.known_as(node);
        let Some(entry) = self.nodes.get_mut(&node) else {
            return;
        };
        let explained = entry.disk.take_failures_met() || self.atlas.is_victim(node);
        assert!(explained, "{node} stops without a fault: {why}");
        let Some(process) = entry.process.take() else {
            return;
        };
        entry.trouble.paused = None;
        self.checker.stopped(known_as, process.writer.in_flight());
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

    /// Whether a node's disk was cleared, and does not hold again what it should.
    #[must_use]
    pub fn is_cleared(&self, node: NodeId) -> bool {
        self.atlas.is_wiped(node)
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

    /// Keeps every fault that lasts as it is, for good.
    pub fn freeze(&mut self) {
        self.is_frozen = true;
        for node in self.nodes.values_mut() {
            node.trouble.crash_at_effect = None;
            node.trouble.loses_write = false;
        }
        self.record(NodeId(0), "freezes", "", &[]);
    }

    /// Whether [`Cluster::freeze`] was called.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.is_frozen
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
