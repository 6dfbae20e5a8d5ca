//! Leader Completeness: if an entry is committed in a given term, it is present in the logs of the
//! leaders of all later terms (Figure 3, §5.4; thesis §3.6).

use raft_core::Role;
use raft_proto::LogIndex;

use super::facts::Facts;
use super::view::{NodeView, Seen};
use super::violation::Violation;

/// Looks at a node that has just become leader; from then on it only appends.
pub(super) fn check(
    facts: &Facts,
    view: &NodeView<'_>,
    seen: Option<Seen>,
) -> Result<(), Violation> {
    let is_new = seen.is_none_or(|seen| !seen.led(view.term));
    if view.role != Role::Leader || !is_new {
        return Ok(());
    }
    let indexes = (1..).map(LogIndex);
    for (index, committed) in indexes.zip(&facts.chain) {
        // What was committed in a later term may be missing: this is an old term's candidate.
        let must_have = committed.seen_in < view.term;
        let found = (view.term_at)(index);
        let differs = found.is_some_and(|found| found != committed.term);
        let is_missing = found.is_none() && index > view.last_index;
        if must_have && (differs || is_missing) {
            let (leader, term) = (view.id, view.term);
            return Err(Violation::LeaderIncomplete {
                leader,
                term,
                index,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{World, append, entry};
    use super::*;

    #[test]
    fn a_leader_without_a_committed_entry_is_refused() {
        let mut world = World::new();
        for node in [1, 2] {
            world.durable(node, &append(&[entry(2, 2, "b")])).unwrap();
        }
        world.observe(1, Role::Leader, 2, 2, &[1, 2]).unwrap();
        let error = world.observe(3, Role::Leader, 3, 0, &[1]).unwrap_err();
        assert!(matches!(
            error,
            Violation::LeaderIncomplete {
                index: LogIndex(2),
                ..
            }
        ));
    }

    #[test]
    fn a_late_leader_of_an_older_term_need_not_be_complete() {
        let mut world = World::new();
        for node in [1, 2] {
            world.durable(node, &append(&[entry(2, 4, "b")])).unwrap();
        }
        world.observe(1, Role::Leader, 4, 2, &[1, 4]).unwrap();
        world.observe(3, Role::Leader, 3, 0, &[1]).unwrap();
    }
}
