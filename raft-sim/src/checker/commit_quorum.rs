//! An entry is committed only once a quorum of *durable* images holds it (§5.3, Figure 2; thesis
//! §10.2.1: a leader counts itself for what its own disk has), in both halves of a joint
//! configuration (§6), and a leader counts copies of entries of its own term only (§5.4.2, Figure 8).

use std::collections::BTreeSet;

use raft_core::Role;
use raft_proto::{LogIndex, Membership, NodeId, Term};

use super::facts::Facts;
use super::view::{NodeView, Seen};
use super::violation::Violation;

/// An entry is taken for committed that nobody was seen to before.
pub(super) fn check(
    facts: &Facts,
    view: &NodeView<'_>,
    index: LogIndex,
    term: Term,
) -> Result<(), Violation> {
    let holders = facts.holders(index, term);
    if counts(facts, view, index, &holders) {
        return Ok(());
    }
    Err(Violation::CommitWithoutQuorum {
        node: view.id,
        index,
        holders: holders.into_iter().collect(),
    })
}

/// Whether the holders of an entry are a quorum of the configuration that it was counted by: a
/// change is in force from its entry on (§6). What stands at or before the entry of the
/// configuration that was in force before this step was counted by that one, because the next
/// one may only follow its commit. What stands behind it may have been counted by either.
fn counts(facts: &Facts, view: &NodeView<'_>, index: LogIndex, holders: &BTreeSet<NodeId>) -> bool {
    let known = facts.nodes.get(&view.id);
    let before = known.and_then(|known| known.configuration.as_ref());
    let is_now = is_joint_quorum(view.membership, holders);
    match before {
        // A configuration that is gone from the log was not in force any more.
        Some(before) if (view.term_at)(before.at) == before.term => {
            let was_before = is_joint_quorum(&before.membership, holders);
            was_before || (index > before.at && is_now)
        }
        Some(_) | None => is_now,
    }
}

/// What is before an entry of the leader's own term is committed with it, and not without, unless a
/// peer that knows it to be committed has told the leader (as one does that asks for a snapshot).
pub(super) fn check_counting(
    facts: &Facts,
    view: &NodeView<'_>,
    seen: Option<Seen>,
) -> Result<(), Violation> {
    let (leader, term, index) = (view.id, view.term, view.commit_index);
    let led_before = seen.is_some_and(|seen| seen.led(term) && seen.commit_index < index);
    if view.role != Role::Leader || !led_before {
        return Ok(());
    }
    let is_new = |found: &Term| facts.committed_term(index) != Some(*found);
    let newly = (view.term_at)(index).filter(is_new);
    if newly.is_some_and(|found| found != term) {
        return Err(Violation::CommittedEarlierTerm {
            leader,
            term,
            index,
        });
    }
    Ok(())
}

pub(super) fn is_joint_quorum(membership: &Membership, holders: &BTreeSet<NodeId>) -> bool {
    is_quorum(&membership.voters, holders) && is_quorum(&membership.outgoing, holders)
}

/// Whether a majority of `voters` is among the holders; nobody is a majority of nobody.
fn is_quorum(voters: &BTreeSet<NodeId>, holders: &BTreeSet<NodeId>) -> bool {
    voters.is_empty() || 2 * voters.intersection(holders).count() > voters.len()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{World, append, entry};
    use super::*;

    #[test]
    fn a_commit_needs_a_durable_quorum() {
        let mut world = World::new();
        world.durable(2, &append(&[entry(2, 2, "b")])).unwrap();
        // The leader has it in memory only.
        let error = world.observe(1, Role::Leader, 2, 2, &[1, 2]).unwrap_err();
        let holders = vec![NodeId(2)];
        assert!(matches!(error, Violation::CommitWithoutQuorum { holders: h, .. } if h == holders));
    }

    #[test]
    fn a_commit_needs_both_halves_of_a_joint_configuration() {
        for (holders, is_fine) in [([1, 2], true), ([1, 3], false)] {
            let mut world = World::new();
            // From 1, 2, 3 to 1 and 2: the incoming half needs both.
            world.membership.outgoing = world.membership.voters.clone();
            world.membership.voters.remove(&NodeId(3));
            for node in holders {
                world.durable(node, &append(&[entry(2, 2, "b")])).unwrap();
            }
            let seen = world.observe(1, Role::Leader, 2, 2, &[1, 2]);
            assert_eq!(seen.is_ok(), is_fine, "{seen:?}");
        }
    }

    #[test]
    fn a_leader_may_hear_from_a_peer_what_is_committed() {
        let mut world = World::new();
        for node in [1, 2] {
            world.durable(node, &append(&[entry(2, 2, "b")])).unwrap();
        }
        world.observe(1, Role::Leader, 4, 1, &[1, 2, 4]).unwrap();
        world.observe(2, Role::Follower, 4, 2, &[1, 2]).unwrap();
        world.observe(1, Role::Leader, 4, 2, &[1, 2, 4]).unwrap();
    }

    #[test]
    fn a_leader_that_counts_an_earlier_terms_entry_is_refused() {
        let mut world = World::new();
        for node in [1, 2] {
            world.durable(node, &append(&[entry(2, 2, "b")])).unwrap();
        }
        world.observe(1, Role::Leader, 4, 1, &[1, 2, 4]).unwrap();
        let error = world.observe(1, Role::Leader, 4, 2, &[1, 2, 4]);
        assert!(matches!(error, Err(Violation::CommittedEarlierTerm { .. })));
    }
}
