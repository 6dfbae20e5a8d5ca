//! Which peers refuse this node at the moment, and whether that is for good.
//!
//! A refusal is for good if nothing that happens elsewhere can turn it into a welcome for this life
//! of the data directory:
//!
//! * a peer has seen a *later* boot of it than this one, so this is an old copy: one such word is
//!   proof, whoever else still admits the node, because it has forgotten promises;
//! * every other voter of its membership says that it belongs to another cluster, or that the member
//!   of its id is another life. One of them may be mistaken (a wrong address, a directory that was
//!   restored from the wrong file); all of them are the cluster.
//!
//! Everything else may change: a node that is no member may be added, a certificate corrected.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use raft_proto::{Boot, Membership, NodeId, Refusal};

use crate::admission::explain;

/// A peer that refuses this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedBy {
    /// The peer.
    pub peer: NodeId,
    /// What it said.
    pub refusal: Refusal,
    /// What that means and what to do, for a person.
    pub explanation: String,
}

/// Whether a refusal tells something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    First,
    Repeated,
}

/// The last word of every peer that refuses this node. Shared by the transport's threads, which fill
/// it, the node's, which judges it, and whoever shows it.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<BTreeMap<NodeId, Refusal>>);

impl Refusals {
    /// A peer refuses this node.
    pub(crate) fn note(&self, peer: NodeId, refusal: &Refusal) -> News {
        match self.lock().insert(peer, refusal.clone()) {
            Some(before) if before == *refusal => News::Repeated,
            Some(_) | None => News::First,
        }
    }

    /// A peer has admitted this node.
    pub(crate) fn forget(&self, peer: NodeId) {
        self.lock().remove(&peer);
    }

    /// Only these are asked for admission from now on.
    pub(crate) fn retain(&self, peers: &[(NodeId, String)]) {
        self.lock()
            .retain(|peer, _| peers.iter().any(|(id, _)| id == peer));
    }

    /// All of them, in the order of ids, for the node `local`.
    pub(crate) fn all(&self, local: NodeId) -> Vec<RefusedBy> {
        let refusals = self.lock();
        let told = refusals.iter().map(|(peer, refusal)| RefusedBy {
            peer: *peer,
            refusal: refusal.clone(),
            explanation: explain(refusal, local, *peer),
        });
        told.collect()
    }

    /// Those that end the part of this boot in its cluster; empty if there is hope.
    pub(crate) fn for_good(
        &self,
        local: NodeId,
        boot: Boot,
        membership: &Membership,
    ) -> Vec<RefusedBy> {
        let all = self.all(local);
        let is_old = |by: &RefusedBy| is_older(boot, &by.refusal);
        if all.iter().any(is_old) {
            return all.into_iter().filter(is_old).collect();
        }
        let voters = membership.voters.iter().chain(&membership.outgoing);
        let mut others = voters.filter(|id| **id != local).peekable();
        let is_foreign = |id: &NodeId| {
            let by = all.iter().find(|by| by.peer == *id);
            by.is_some_and(|by| is_of_another_life(&by.refusal))
        };
        if others.peek().is_some() && others.all(is_foreign) {
            return all;
        }
        Vec::new()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Refusal>> {
        // Every change is one insertion or removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the peer has seen a later boot than this one, or another one with the same number.
fn is_older(own: Boot, refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::OldBoot { seen } if seen.counter >= own.counter && *seen != own)
}

fn is_of_another_life(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::WrongCluster { .. } | Refusal::WrongIncarnation { .. } => true,
        Refusal::OldBoot { .. }
        | Refusal::NotAMember
        | Refusal::WrongIdentity { .. }
        | Refusal::WrongReceiver { .. }
        | Refusal::OtherVoters { .. }
        | Refusal::NoCommonVersion { .. }
        | Refusal::Unavailable => false,
    }
}

#[cfg(test)]
mod tests {
    use raft_proto::{ClusterId, Incarnation, Member};

    use super::*;

    const LOCAL: NodeId = NodeId(1);
    const BOOT: Boot = Boot {
        counter: 5,
        nonce: 50,
    };

    fn membership() -> Membership {
        let member = |id: u64| Member {
            incarnation: Some(Incarnation(id)),
            address: format!("n{id}:1"),
        };
        Membership::of_voters((1..=3).map(|id| (NodeId(id), member(id))))
    }

    fn judged(refused: &[(u64, Refusal)]) -> Vec<u64> {
        let refusals = Refusals::default();
        for (peer, refusal) in refused {
            refusals.note(NodeId(*peer), refusal);
        }
        let for_good = refusals.for_good(LOCAL, BOOT, &membership());
        for_good.iter().map(|by| by.peer.0).collect()
    }

    fn seen(counter: u64, nonce: u64) -> Refusal {
        let seen = Boot { counter, nonce };
        Refusal::OldBoot { seen }
    }

    #[test]
    fn one_peer_that_has_seen_a_later_boot_is_proof() {
        assert_eq!(judged(&[(2, seen(6, 1))]), [2]);
        assert_eq!(judged(&[(2, seen(5, 51))]), [2], "another boot 5");
        assert_eq!(judged(&[(3, Refusal::NotAMember), (2, seen(9, 1))]), [2]);
    }

    /// The peer took a hello for that of a node that has forgotten its cluster: this boot is later
    /// than what it has seen, so the next hello may do better.
    #[test]
    fn an_earlier_boot_proves_nothing() {
        assert_eq!(judged(&[(2, seen(4, 1)), (3, seen(5, 50))]), []);
    }

    #[test]
    fn all_voters_together_are_the_cluster() {
        let cluster = ClusterId([1; 16]);
        let foreign = Refusal::WrongCluster { cluster };
        let member = Incarnation(7);
        let replaced = Refusal::WrongIncarnation { member };
        assert_eq!(judged(&[(2, foreign.clone())]), []);
        assert_eq!(
            judged(&[(2, foreign.clone()), (3, replaced.clone())]),
            [2, 3]
        );
        assert_eq!(judged(&[(2, foreign), (4, replaced)]), []);
    }

    #[test]
    fn what_may_change_is_waited_for() {
        let certified = NodeId(9);
        let receiver = NodeId(8);
        for refusal in [
            Refusal::NotAMember,
            Refusal::Unavailable,
            Refusal::WrongIdentity { certified },
            Refusal::WrongReceiver { receiver },
        ] {
            assert_eq!(judged(&[(2, refusal.clone()), (3, refusal)]), []);
        }
    }

    #[test]
    fn a_voter_that_is_alone_has_nobody_to_refuse_it() {
        let member = Member {
            incarnation: None,
            address: "n1:1".to_owned(),
        };
        let alone = Membership::of_voters([(LOCAL, member)]);
        assert_eq!(Refusals::default().for_good(LOCAL, BOOT, &alone), []);
    }

    #[test]
    fn who_admits_the_node_or_is_gone_refuses_it_no_more() {
        let refusals = Refusals::default();
        let unavailable = Refusal::Unavailable;
        assert_eq!(refusals.note(NodeId(2), &unavailable), News::First);
        assert_eq!(refusals.note(NodeId(2), &unavailable), News::Repeated);
        assert_eq!(refusals.note(NodeId(2), &Refusal::NotAMember), News::First);
        refusals.note(NodeId(3), &unavailable);
        refusals.forget(NodeId(2));
        assert_eq!(refusals.all(LOCAL).len(), 1);
        refusals.retain(&[(NodeId(2), "n2:1".to_owned())]);
        assert_eq!(refusals.all(LOCAL), []);
    }
}
