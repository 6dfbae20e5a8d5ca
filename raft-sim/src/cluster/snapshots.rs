//! Snapshots inside a node: cuts of its machine, work on snapshot files, restores; each is checked.

use bytes::Bytes;
use raft_node::driver::{CutStep, Input, SnapshotDone, SnapshotJob};
use raft_node::{SnapshotError, StateMachine, startup, take_cut_step};
use raft_proto::{LogIndex, LogPosition, NodeId, SnapshotDescription};
use xxhash_rust::xxh3::Xxh3;

use super::disks::DiskUse;
use super::node::{ApplierWork, ProcessId};
use super::{Cluster, Event};
use crate::checker::LogChange;
use crate::marks::Mark;

impl Cluster {
    /// Asks a node to take a snapshot of what it has applied; [`Cluster::snapshot_index`] shows it.
    /// Does nothing if the node does not run.
    pub fn take_snapshot(&mut self, node: NodeId) {
        let running = self.nodes.get(&node).and_then(|n| n.process.as_ref());
        if let Some(id) = running.map(|process| process.id) {
            let waiter = Box::new(|_: Result<SnapshotDescription, SnapshotError>| {});
            self.give(id, Input::TakeSnapshot { waiter });
        }
    }

    /// The last entry that a running node's newest snapshot covers; 0 if it has none.
    #[must_use]
    pub fn snapshot_index(&self, node: NodeId) -> LogIndex {
        let process = self.nodes.get(&node).and_then(|n| n.process.as_ref());
        let newest = process.and_then(|process| process.driver.newest_snapshot());
        newest.map_or(LogIndex::ZERO, |newest| newest.last_included.index)
    }

    pub(super) fn give_keeper(&mut self, id: ProcessId, job: SnapshotJob) {
        let Some(process) = self.process(id) else {
            return;
        };
        process.jobs.push_back(job);
        if process.jobs.len() == 1 {
            self.schedule_after(id, |latencies| latencies.snapshot, Event::SnapshotWork(id));
        }
    }

    /// A job on snapshot files is done, the first in the queue.
    pub(super) fn finish_snapshot_job(&mut self, id: ProcessId) {
        let Some(process) = self.process(id) else {
            return;
        };
        let Some(job) = process.jobs.pop_front() else {
            return;
        };
        let done = process.keeper.carry_out(job);
        let has_more = !process.jobs.is_empty();
        if let Some(done) = done {
            self.note_snapshot_done(id, &done);
            self.give(id, Input::SnapshotDone(done));
        }
        if has_more {
            self.schedule_after(id, |latencies| latencies.snapshot, Event::SnapshotWork(id));
        }
        self.damage_by_chance(id.node, DiskUse::Read);
    }

    fn note_snapshot_done(&mut self, id: ProcessId, done: &SnapshotDone) {
        match done {
            SnapshotDone::Saved { snapshot, .. } => {
                self.note_stored(id.node, "saves", snapshot.last_included);
            }
            SnapshotDone::Received { last_included, .. } => {
                self.note_stored(id.node, "receives", *last_included);
                if self.restores(id.node) {
                    self.tally.mark(Mark::RestoreOvertaken);
                }
            }
            SnapshotDone::Receiving { received_bytes, .. } if *received_bytes > 0 => {
                self.tally.mark(Mark::TransferResumed);
            }
            SnapshotDone::SaveFailed { .. } => self.record(id.node, "fails to save", "", &[]),
            SnapshotDone::ReceiveFailed { .. } => {
                self.record(id.node, "fails to receive", "", &[]);
            }
            SnapshotDone::Receiving { .. }
            | SnapshotDone::Written { .. }
            | SnapshotDone::PartRead { .. }
            | SnapshotDone::Stored { .. } => {}
        }
    }

    /// Whether a node is about to restore a snapshot.
    pub(super) fn restores(&self, node: NodeId) -> bool {
        let process = self.nodes.get(&node).and_then(|n| n.process.as_ref());
        let is_restore = |work: &ApplierWork| matches!(work, ApplierWork::Restore(_));
        process.is_some_and(|process| process.work.iter().any(is_restore))
    }

    fn note_stored(&mut self, node: NodeId, what: &'static str, end: LogPosition) {
        let checked = self.checker.snapshot_stored(self.known_as(node), end);
        checked.unwrap_or_else(|violation| panic!("{violation}"));
        self.record(node, what, "snapshot", &[("index", end.index.0)]);
    }

    pub(super) fn note_durable(&mut self, node: NodeId, changes: &[LogChange]) {
        let known_as = self.known_as(node);
        for change in changes {
            let checked = self.checker.durable(known_as, change);
            checked.unwrap_or_else(|violation| panic!("{violation}"));
            if let LogChange::Write { write, .. } = change
                && write.truncate_from.is_some()
            {
                self.tally.mark(Mark::SuffixTruncated);
            }
        }
    }

    pub(super) fn report_compactions(&mut self, id: ProcessId, changes: &[LogChange]) {
        for change in changes {
            if let LogChange::Compact(position) = change {
                self.tally.mark(Mark::LogCompacted);
                let index = position.index;
                self.record(id.node, "compacts", "", &[("through", index.0)]);
                self.give(id, Input::Compacted(index));
            }
        }
    }

    /// A step of a cut. All parts together are the state after the entry applied last when the cut
    /// began: every node must have the same one there.
    pub(super) fn take_cut_step(&mut self, id: ProcessId, step: CutStep) {
        let applied = self.applied_index(id.node);
        let Some(process) = self.process(id) else {
            return;
        };
        if step == CutStep::Begin {
            process.cut = (applied, Xxh3::new());
        }
        let Some(input) = take_cut_step(process.machine.as_mut(), step) else {
            return;
        };
        if let Input::CutPart { part, .. } = &input {
            let seen = hash_on(&mut process.cut, part.as_ref());
            self.note_state(id.node, seen);
        }
        self.give(id, input);
    }

    pub(super) fn restore_machine(&mut self, id: ProcessId, position: LogPosition) {
        let part_bytes = self.options.limits.snapshots.part_bytes;
        let Some(process) = self.process(id) else {
            return;
        };
        let machine = process.machine.as_mut();
        if let Err(error) = startup::restore(machine, &process.snapshots, position) {
            return self.halt(id.node, &error);
        }
        let seen = state_of(machine, position.index, part_bytes);
        let checked = self.checker.restored(self.known_as(id.node), position);
        checked.unwrap_or_else(|violation| panic!("{violation}"));
        self.note_state(id.node, Some(seen));
        self.note_restored(id.node, position);
        self.tally.mark(Mark::SnapshotInstalled);
        self.record(id.node, "restores", "", &[("index", position.index.0)]);
        self.give(id, Input::Restored(position));
    }

    pub(super) fn note_state(&mut self, node: NodeId, seen: Option<(LogIndex, u64)>) {
        if let Some((index, hash)) = seen {
            let checked = self.checker.state_seen(self.known_as(node), index, hash);
            checked.unwrap_or_else(|violation| panic!("{violation}"));
        }
    }
}

/// Adds a part to the hash of a cut; gives the hash when the cut ends.
fn hash_on(cut: &mut (LogIndex, Xxh3), part: Option<&Bytes>) -> Option<(LogIndex, u64)> {
    let (index, hash) = cut;
    match part {
        Some(part) => {
            hash.update(part);
            None
        }
        None => Some((*index, hash.digest())),
    }
}

/// The hash of a machine's state, as a cut in parts of this size would have it.
fn state_of(
    machine: &mut dyn StateMachine,
    applied: LogIndex,
    part_bytes: usize,
) -> (LogIndex, u64) {
    let mut hash = Xxh3::new();
    machine.begin_snapshot();
    while let Some(part) = machine.snapshot_part(part_bytes) {
        hash.update(&part);
    }
    machine.end_snapshot();
    (applied, hash.digest())
}
