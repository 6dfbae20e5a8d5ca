//! What a nemesis does to disks: damage, failures, no room, no end of a sync.

use raft_node::driver::Input;
use raft_proto::{Entry, HardState, NodeId};

use super::node::ProcessId;
use super::{Cluster, CrashKind, Event};
use crate::checker::LogChange;
use crate::disk::{Corruption, PagesAfterFailure};
use crate::marks::Mark;
use crate::options::StorageRates;

/// How often a full disk is tried again, in milliseconds; as the runtime does.
const DISK_FULL_RETRY_MS: u64 = 250;

/// How soon the power fails after a write was lost that nobody has noticed, in milliseconds.
const LOST_CRASH_MS_MAX: u64 = 8;

/// What was done with a disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskUse {
    Read,
    Write,
}

impl Cluster {
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
            self.atlas.note_damaged(node);
            self.tally.repairs(corruption.name(), 1);
            self.record(node, "is damaged", "", &[]);
        }
        changed
    }

    /// A node has read its log or a snapshot, or written a batch: by chance something on its medium
    /// is damaged by that.
    pub(super) fn damage_by_chance(&mut self, node: NodeId, done: DiskUse) {
        let rates = self.options.storage;
        if rates == StorageRates::NONE || self.is_frozen {
            return;
        }
        let (rot, stray) = match done {
            DiskUse::Read => (rates.reads_rot_per_mille, 0),
            DiskUse::Write => (rates.writes_rot_per_mille, rates.writes_stray_per_mille),
        };
        let Some(entry) = self.nodes.get_mut(&node) else {
            return;
        };
        let random = &mut entry.disk.random;
        let (rots, strays) = (random.per_mille(rot), random.per_mille(stray));
        if rots {
            self.corrupt(node, Corruption::BitRot);
        }
        if strays {
            self.corrupt(node, Corruption::MisdirectedWrite);
        }
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

    /// The log found no room; as the runtime does, it says so and tries again.
    pub(super) fn wait_for_room(&mut self, id: ProcessId) {
        self.tally.mark(Mark::WaitedForRoom);
        self.give(id, Input::DiskFull);
        let at = self.now.plus_ms(DISK_FULL_RETRY_MS);
        self.agenda.schedule(at, Event::Synced(id));
    }

    /// Takes back failures of a node's disk that were ordered and not met yet.
    pub fn calm_disk(&mut self, node: NodeId) {
        if let Some(entry) = self.nodes.get(&node) {
            entry.disk.calm();
        }
    }

    /// From now on so many of a thousand writes, and of a thousand reads, of a node's disk fail.
    pub fn set_disk_failing(&mut self, node: NodeId, writes_per_mille: u64, reads_per_mille: u64) {
        if let Some(entry) = self.nodes.get(&node) {
            entry.disk.set_failing(writes_per_mille, reads_per_mille);
        }
    }

    /// A node's medium is to lose a batch of entries that was synced, at the next moment at which a
    /// quorum without this node holds them, and the power fails soon after it. The node may then
    /// start without these entries and not know that it ever had them.
    pub fn lose_next_write(&mut self, node: NodeId) {
        if let Some(entry) = self.nodes.get_mut(&node) {
            entry.trouble.loses_write = true;
        }
    }

    pub(super) fn disk_operations(&self, node: NodeId) -> u64 {
        self.nodes
            .get(&node)
            .map_or(0, |entry| entry.disk.operations())
    }

    /// Loses the batch that was just synced, if that was ordered and breaks no promise of the whole
    /// cluster: votes stay, its entries are committed, so that no later membership counts this copy
    /// for that, and a quorum without this node holds them.
    pub(super) fn lose_write(&mut self, id: ProcessId, changes: &[LogChange], before: HardState) {
        let node = id.node;
        let wanted = (self.nodes.get(&node)).is_some_and(|entry| entry.trouble.loses_write);
        if !wanted || !self.atlas.allows(node) {
            return;
        }
        let Some(entries) = only_entries(changes, before) else {
            return;
        };
        let (Some(first), Some(membership)) = (
            entries.first(),
            self.core(node).map(|core| core.membership().clone()),
        ) else {
            return;
        };
        let mut positions = entries.iter().map(Entry::position);
        let is_held = |at| {
            self.checker.is_committed(at) && self.checker.is_held_without(node, at, &membership)
        };
        if !positions.all(is_held) || self.is_old_copy(node) {
            return;
        }
        self.atlas.note_damaged(node);
        self.checker.may_lose(node, first.index);
        let ms = self.random_of_disk(node, LOST_CRASH_MS_MAX);
        if let Some(entry) = self.nodes.get_mut(&node) {
            entry.trouble.loses_write = false;
            entry.disk.lose_last_sync();
        }
        self.tally.fault("lost-write");
        self.tally.repairs("batches-lost-by-the-medium", 1);
        self.record(node, "loses a write", "", &[("first", first.index.0)]);
        self.act_after_ms(ms, move |cluster| {
            if cluster.process(id).is_some() {
                cluster.crash_by(node, CrashKind::PowerCut);
            }
        });
    }

    fn random_of_disk(&mut self, node: NodeId, max: u64) -> u64 {
        let entry = self.nodes.get_mut(&node);
        entry.map_or(0, |entry| entry.disk.random.below(max))
    }
}

/// The entries of these changes, if they do nothing but append entries; term and vote stay.
fn only_entries(changes: &[LogChange], before: HardState) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    for change in changes {
        match change {
            LogChange::Write {
                install: None,
                write,
            } if write.truncate_from.is_none() && write.hard_state.is_none_or(|s| s == before) => {
                entries.extend(write.entries.iter().cloned());
            }
            LogChange::Write { .. } | LogChange::Compact(_) => return None,
        }
    }
    Some(entries)
}
