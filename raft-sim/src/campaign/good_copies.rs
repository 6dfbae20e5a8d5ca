//! Whether a part of a cluster can repair itself: does it hold a good copy of everything that its nodes
//! know of, and enough nodes that count?
//!
//! A part of at least a quorum meets every quorum that has committed something, so one of its nodes
//! knows each committed entry by its identity. Its content may be lost there, though, and the only
//! other copy be elsewhere; then waiting for it is right. The same goes for an entry that is not
//! committed as far as anybody here knows: it may have been acknowledged.

use std::collections::BTreeSet;

use raft_core::{Counting, RaftCore};
use raft_proto::{LogIndex, NodeId};

use crate::cluster::Cluster;

/// Whether these running nodes hold a good copy of all that any of them lacks, and those that count
/// are a quorum of the whole cluster.
pub(super) fn are_in(cluster: &Cluster, part: &BTreeSet<NodeId>) -> bool {
    let cores: Vec<_> = part.iter().filter_map(|node| cluster.core(*node)).collect();
    // A node that does not know that it lost what it had acknowledged is found out by its leader.
    let is_found_out = |node: NodeId| {
        let mut peers = cores.iter().flat_map(|core| core.peers());
        peers.any(|peer| peer.id == node && peer.counting == Counting::Uncounted)
    };
    let counts = |core: &&&RaftCore| !core.is_uncounted() && !is_found_out(core.id());
    let counted = cores.iter().filter(counts).count();
    let is_quorum = 2 * counted > cluster.node_ids().len();
    is_quorum && cores.iter().all(|core| is_helped(core, &cores))
}

/// Whether somebody has what this node lacks.
fn is_helped(core: &RaftCore, cores: &[&RaftCore]) -> bool {
    let is_state_held = |index: LogIndex| {
        let mut others = cores.iter().filter(|other| other.id() != core.id());
        others.any(|other| other.lost_snapshot().is_none() && other.applied_index() >= index)
    };
    if let Some(lost) = core.lost_snapshot() {
        return is_state_held(lost.index);
    }
    let is_content_held = |index: LogIndex| {
        let mut others = cores.iter().filter(|other| other.id() != core.id());
        others.any(|other| {
            let is_same = other.term_at(index) == core.term_at(index);
            is_same
                && index > other.base_position().index
                && other.missing().all(|hole| !hole.contains(index))
        })
    };
    let mut missing = core.missing().flat_map(|hole| hole.indexes());
    missing.all(|index| {
        // Somebody's state has it; or its own, if it was applied before it was lost.
        is_content_held(index) || is_state_held(index) || core.applied_index() >= index
    })
}
