//! Which disks may be damaged: never so many that a committed entry could lose its last good copy.
//!
//! An entry is committed once a quorum holds it. If at most n − quorum disks are ever damaged, then
//! at least one holder of every committed entry is sound, and a quorum of sound nodes is left to
//! go on. Repair from peers does not exist yet: a node that meets damage stops, and stays down.

use std::collections::BTreeSet;

use raft_proto::NodeId;

/// Whose disks were damaged, and how many more may be.
#[derive(Clone, Debug)]
pub(crate) struct FaultAtlas {
    victims: BTreeSet<NodeId>,
    victims_max: usize,
}

impl FaultAtlas {
    /// No damage yet among so many voters.
    pub(crate) fn new(voters: usize) -> Self {
        let quorum = voters / 2 + 1;
        Self {
            victims: BTreeSet::new(),
            victims_max: voters - quorum,
        }
    }

    /// Whether this node's disk may be damaged (again).
    pub(crate) fn allows(&self, node: NodeId) -> bool {
        self.victims.contains(&node) || self.victims.len() < self.victims_max
    }

    pub(crate) fn note(&mut self, node: NodeId) {
        assert!(self.allows(node), "a quorum of disks stays sound");
        self.victims.insert(node);
    }

    pub(crate) fn is_victim(&self, node: NodeId) -> bool {
        self.victims.contains(&node)
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
                    atlas.note(node);
                    assert!(atlas.allows(node), "the same one again");
                }
            }
            assert_eq!(atlas.victims.len(), victims, "{voters} voters");
        }
    }
}
