//! Directories in the wrong place: old copies that are put back, and those of other nodes.

use raft_proto::NodeId;

use super::{Cluster, CrashKind, StartFailure};
use crate::disk::Content;
use crate::marks::Mark;

/// Copies of a node's directory.
#[derive(Default)]
pub(super) struct Copies {
    /// One that somebody made.
    made: Option<Content>,
    /// The real one, while an old copy is in its place.
    shelved: Option<Content>,
}

/// Checkers know an old copy by another id: it belongs to no quorum, and whatever it does is its
/// own.
const OLD_COPY: u64 = 1 << 32;

impl Cluster {
    /// Copies the directory of a node that does not run, as a backup would.
    pub fn copy_directory(&mut self, node: NodeId) {
        let is_formed = self.is_formed(node) && !self.is_old_copy(node);
        if let Some(entry) = self.nodes.get_mut(&node)
            && entry.process.is_none()
            && is_formed
        {
            entry.copies.made = Some(entry.disk.copy());
            self.record(node, "is copied", "", &[]);
        }
    }

    /// Ends a node and starts it on the copy that was made of its directory, if every other node
    /// can tell: each runs, and has admitted a later boot of this node than that of the copy. Says
    /// whether it did; [`Cluster::put_back`] ends it.
    pub fn start_old_copy(&mut self, node: NodeId) -> bool {
        let is_alone = self.nodes.values().all(|n| n.copies.shelved.is_none());
        let Some(entry) = self.nodes.get_mut(&node) else {
            return false;
        };
        let Some(copy) = entry.copies.made.take().filter(|_| is_alone) else {
            return false;
        };
        self.crash_by(node, CrashKind::Killed);
        let machine = (self.machines)(node);
        let Some(entry) = self.nodes.get_mut(&node) else {
            return false;
        };
        entry.copies.shelved = Some(entry.disk.replace(copy));
        let started = entry.start(self.now, self.cluster_id, &self.options, machine);
        let Ok(recovered) = started else {
            self.put_back(node);
            return false;
        };
        self.checker
            .copied(self.known_as(node), &super::control::start_view(&recovered));
        self.forget_applied(node);
        if let Some(position) = recovered.snapshot {
            self.note_restored(node, position);
        }
        if !self.everybody_can_tell(node) {
            self.put_back(node);
            return false;
        }
        self.record(node, "starts", "from an old copy", &[]);
        if let Some(id) = self.running(node) {
            self.schedule_step(id);
        }
        self.refresh_connections();
        true
    }

    fn everybody_can_tell(&self, node: NodeId) -> bool {
        let process = |node| self.nodes.get(&node).and_then(|n| n.process.as_ref());
        let Some(copy) = process(node) else {
            return false;
        };
        let mut others = self.node_ids().into_iter().filter(|other| *other != node);
        others.all(|other| {
            let seen = process(other)
                .and_then(|peer| peer.door.admission.latest_boot(node, copy.incarnation));
            seen.is_some_and(|seen| seen.counter >= copy.boot.counter)
        })
    }

    /// Puts the real directory back in the place of an old copy; does nothing if it is there.
    pub fn put_back(&mut self, node: NodeId) {
        if !self.is_old_copy(node) {
            return;
        }
        self.crash_by(node, CrashKind::Killed);
        if let Some(entry) = self.nodes.get_mut(&node)
            && let Some(real) = entry.copies.shelved.take()
        {
            drop(entry.disk.replace(real));
            self.record(node, "gets its directory back", "", &[]);
        }
    }

    /// Whether a node's directory is an old copy at the moment.
    #[must_use]
    pub fn is_old_copy(&self, node: NodeId) -> bool {
        let entry = self.nodes.get(&node);
        entry.is_some_and(|entry| entry.copies.shelved.is_some())
    }

    /// What checkers know a node by.
    pub(super) fn known_as(&self, node: NodeId) -> NodeId {
        if self.is_old_copy(node) {
            NodeId(node.0 + OLD_COPY)
        } else {
            node
        }
    }

    /// Ends two nodes and starts each on the other's directory, which must be refused; then each
    /// has its own again.
    ///
    /// # Panics
    /// If a node starts on a directory that is not its own.
    pub fn swap_directories(&mut self, one: NodeId, other: NodeId) {
        let usable = |node| self.is_formed(node) && !self.is_old_copy(node);
        if one == other || !usable(one) || !usable(other) {
            return;
        }
        for node in [one, other] {
            self.crash_by(node, CrashKind::Killed);
        }
        self.exchange(one, other);
        for node in [one, other] {
            let Some(entry) = self.nodes.get(&node) else {
                continue;
            };
            match entry.disk.open(self.cluster_id, self.options.log) {
                Ok(_) => panic!("{node} starts on the directory of another node"),
                Err(error) if error.is_foreign() => self.tally.mark(Mark::ForeignDirectoryRefused),
                // Its disk fails anyway.
                Err(_) => {}
            }
            self.record(node, "is refused", "the directory of another node", &[]);
        }
        self.exchange(one, other);
    }

    fn exchange(&mut self, one: NodeId, other: NodeId) {
        let Some(first) = self.nodes.get(&one).map(|node| node.disk.content()) else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(&other) {
            let second = node.disk.replace(first);
            if let Some(node) = self.nodes.get_mut(&one) {
                drop(node.disk.replace(second));
            }
        }
    }

    /// What a failed start on an old copy means.
    pub(super) fn old_copy_failed(&mut self, node: NodeId) -> StartFailure {
        self.put_back(node);
        StartFailure::Disk("an old copy does not start".to_string())
    }
}
