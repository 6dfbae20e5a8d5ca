//! Which disks may be damaged: never so many that a committed entry could lose its last good copy.
//!
//! An entry is committed once a quorum holds it. If at most n − quorum disks are ever damaged, then
//! at least one holder of every committed entry is sound, and a quorum of sound nodes is left to
//! go on, and to repair the others.

use std::collections::BTreeSet;

use raft_proto::NodeId;

/// Whose disks were damaged or cleared, and how many more may be.
#[derive(Clone, Debug)]
pub(crate) struct FaultAtlas {
    damaged: BTreeSet<NodeId>,
    /// Cleared while their nodes were members, and not filled again since.
    wiped: BTreeSet<NodeId>,
    victims_max: usize,
}

impl FaultAtlas {
    /// No damage yet among so many voters.
    pub(crate) fn new(voters: usize) -> Self {
        let quorum = voters / 2 + 1;
        Self {
            damaged: BTreeSet::new(),
            wiped: BTreeSet::new(),
            victims_max: voters.saturating_sub(quorum),
        }
    }

    /// Any disk may be damaged: then the cluster may have to stop, and must say so.
    pub(crate) fn without_limit() -> Self {
        Self {
            victims_max: usize::MAX,
            ..Self::new(0)
        }
    }

    /// Whether this node's disk may be damaged (again).
    pub(crate) fn allows(&self, node: NodeId) -> bool {
        self.is_victim(node) || self.damaged.union(&self.wiped).count() < self.victims_max
    }

    /// Something on this disk is not what was written.
    pub(crate) fn note_damaged(&mut self, node: NodeId) {
        assert!(self.allows(node), "a quorum of disks stays sound");
        self.damaged.insert(node);
    }

    /// This disk was cleared, and with it whatever damage there was.
    pub(crate) fn note_wiped(&mut self, node: NodeId) {
        assert!(self.allows(node), "a quorum of disks stays sound");
        self.damaged.remove(&node);
        self.wiped.insert(node);
    }

    /// A cleared disk holds all that it should again.
    pub(crate) fn note_filled(&mut self, node: NodeId) {
        self.wiped.remove(&node);
    }

    /// Whether this disk was cleared and is not filled again.
    pub(crate) fn is_wiped(&self, node: NodeId) -> bool {
        self.wiped.contains(&node)
    }

    pub(crate) fn is_victim(&self, node: NodeId) -> bool {
        self.damaged.contains(&node) || self.wiped.contains(&node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_of_disks_stays_sound() {
        for (voters, victims) in [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (7, 3)] {
            let mut atlas = FaultAtlas::new(voters);
            for node in (1..=voters as u64).map(NodeId) {
                if atlas.allows(node) {
                    atlas.note_damaged(node);
                    assert!(atlas.allows(node), "the same one again");
                }
            }
            assert_eq!(atlas.damaged.len(), victims, "{voters} voters");
            if let Some(first) = atlas.damaged.first().copied() {
                let last = NodeId(voters as u64);
                assert!(!atlas.allows(last));
                atlas.note_wiped(first);
                assert!(!atlas.allows(last), "it is empty");
                atlas.note_damaged(first);
                atlas.note_filled(first);
                assert!(!atlas.allows(last), "what it was filled with is damaged");
                atlas.note_wiped(first);
                atlas.note_filled(first);
                assert!(atlas.allows(last), "its place is free");
            }
        }
    }
}
