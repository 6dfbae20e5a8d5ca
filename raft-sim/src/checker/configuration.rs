//! A node uses the latest configuration in its log, committed or not, and no longer once it is
//! truncated (§6; thesis §4.1); and a leader that its committed configuration leaves out does not
//! lead on (§6; thesis §4.2.2).

use raft_core::Role;
use raft_proto::LogIndex;

use super::facts::{Configuration, Facts};
use super::view::NodeView;
use super::violation::Violation;

/// Compares the configuration in force with where memberships are known to stand.
pub(super) fn check(facts: &Facts, view: &NodeView<'_>) -> Result<(), Violation> {
    check_latest(facts, view)?;
    check_not_truncated(facts, view)?;
    check_leader(view)
}

fn check_latest(facts: &Facts, view: &NodeView<'_>) -> Result<(), Violation> {
    let node = view.id;
    if view.membership.members.is_empty() {
        // It has lost the snapshot, or the log, that says who is a member: it knows that, and does
        // not campaign.
        return Ok(());
    }
    let mut later = (facts.entries).memberships(view.membership_index, view.last_index);
    let is_in_log = |(index, terms): &(LogIndex, &_)| {
        let terms: &std::collections::BTreeSet<_> = terms;
        // What a snapshot covers is the committed entry there.
        let found = (view.term_at)(*index).or_else(|| facts.committed_term(*index));
        found.is_some_and(|term| terms.contains(&term))
    };
    match later.find(is_in_log) {
        None => Ok(()),
        Some((index, _)) => Err(Violation::OldConfiguration { node, index }),
    }
}

fn check_not_truncated(facts: &Facts, view: &NodeView<'_>) -> Result<(), Violation> {
    let (node, index) = (view.id, view.membership_index);
    let truncated = Err(Violation::TruncatedConfiguration { node, index });
    if index > view.last_index {
        return truncated;
    }
    let before = facts
        .nodes
        .get(&node)
        .and_then(|n| n.configuration.as_ref());
    match before {
        Some(before) if before.at == index && before.membership == *view.membership => {
            match (before.term, (view.term_at)(index)) {
                // Another leader may have proposed the same membership again, at the same place; and
                // a snapshot that ends there says what was in force, wherever that stood.
                (Some(was), Some(is))
                    if was != is
                        && index != view.base_index
                        && !facts.entries.may_be_membership(index, is) =>
                {
                    truncated
                }
                (Some(_) | None, _) => Ok(()),
            }
        }
        Some(_) | None => Ok(()),
    }
}

fn check_leader(view: &NodeView<'_>) -> Result<(), Violation> {
    let (leader, term) = (view.id, view.term);
    let is_certain = view.membership_index <= view.commit_index
        && (view.term_at)(view.commit_index) == Some(view.term);
    let is_left_out = !view.membership.is_joint() && !view.membership.is_voter(leader);
    if view.role == Role::Leader && is_certain && is_left_out {
        return Err(Violation::LeaderOutside { leader, term });
    }
    Ok(())
}

/// Remembers what is in force, for the next look.
pub(super) fn remember(facts: &mut Facts, view: &NodeView<'_>) {
    let (at, term) = (view.membership_index, (view.term_at)(view.membership_index));
    let known = &mut facts.node(view.id).configuration;
    let is_same = (known.as_ref()).is_some_and(|known| known.at == at && known.term == term);
    if !is_same {
        let membership = view.membership.clone();
        *known = Some(Configuration {
            at,
            term,
            membership,
        });
    }
}

#[cfg(test)]
mod tests {
    use raft_proto::{Entry, EntryKind, NodeId};

    use super::super::testing::{World, append, at, entry};
    use super::*;

    fn membership(index: u64, term: u64) -> Entry {
        Entry {
            kind: EntryKind::Membership,
            ..entry(index, term, "members")
        }
    }

    #[test]
    fn the_latest_membership_in_the_log_is_in_force() {
        let mut world = World::new();
        world.durable(1, &append(&[membership(2, 2)])).unwrap();
        let error = world.observe(1, Role::Leader, 2, 0, &[1, 2]).unwrap_err();
        assert!(
            matches!(error, Violation::OldConfiguration { .. }),
            "{error}"
        );
        // Another log has something else there.
        world.observe(2, Role::Follower, 2, 0, &[1, 1]).unwrap();
        world.membership_index = 2;
        world.observe(1, Role::Leader, 2, 0, &[1, 2]).unwrap();
    }

    #[test]
    fn a_truncated_membership_is_not_in_force() {
        for log in [&[1][..], &[1, 3]] {
            let mut world = World::new();
            world.durable(2, &append(&[entry(2, 3, "b")])).unwrap();
            world.membership_index = 2;
            world.observe(1, Role::Follower, 2, 0, &[1, 2]).unwrap();
            let error = world.observe(1, Role::Follower, 3, 0, log).unwrap_err();
            assert!(
                matches!(error, Violation::TruncatedConfiguration { .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn the_same_membership_from_another_leader_takes_the_place_of_a_truncated_one() {
        let mut world = World::new();
        world.durable(2, &append(&[membership(2, 3)])).unwrap();
        world.membership_index = 2;
        world.observe(1, Role::Follower, 2, 0, &[1, 2]).unwrap();
        world.observe(1, Role::Follower, 3, 0, &[1, 3]).unwrap();
    }

    #[test]
    fn a_snapshot_that_ends_where_a_membership_stood_says_what_is_in_force() {
        let mut world = World::three_committed();
        world.durable(3, &append(&[entry(3, 1, "y")])).unwrap();
        world.membership_index = 3;
        world.observe(3, Role::Follower, 2, 0, &[1, 1, 1]).unwrap();
        world.checker.snapshot_stored(NodeId(3), at(3, 2)).unwrap();
        world.install(3, at(3, 2)).unwrap();
        world.base_index = 3;
        world.observe(3, Role::Follower, 2, 3, &[1, 2, 2]).unwrap();
    }

    #[test]
    fn a_leader_out_of_its_committed_configuration_is_refused() {
        let mut world = World::new();
        world.membership.voters.remove(&NodeId(1));
        for node in [2, 3] {
            world.durable(node, &append(&[entry(2, 2, "b")])).unwrap();
        }
        world.observe(1, Role::Leader, 2, 1, &[1, 2]).unwrap();
        let error = world.observe(1, Role::Leader, 2, 2, &[1, 2]).unwrap_err();
        assert!(matches!(error, Violation::LeaderOutside { .. }), "{error}");
    }
}
