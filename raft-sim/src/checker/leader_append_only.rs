//! Leader Append-Only: a leader never overwrites or deletes entries in its log; it only appends new
//! ones (Figure 3, §5.3; thesis §3.5).

use raft_core::Role;

use super::view::{NodeView, Seen};
use super::violation::Violation;

/// Compares a leader with what it was when it was seen last in its term. The entry that was its last
/// one stands for all before it, by log matching.
pub(super) fn check(view: &NodeView<'_>, seen: Option<Seen>) -> Result<(), Violation> {
    let Some(seen) = seen.filter(|seen| view.role == Role::Leader && seen.led(view.term)) else {
        return Ok(());
    };
    let (leader, from, to) = (view.id, seen.last_index, view.last_index);
    if to < from {
        return Err(Violation::LeaderLogShrank { leader, from, to });
    }
    match (seen.last_term, (view.term_at)(from)) {
        (Some(was), Some(is)) if was != is => Err(Violation::LeaderOverwrote {
            leader,
            index: from,
        }),
        // What a snapshot covers by now was compared before.
        (Some(_) | None, _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::World;
    use super::*;

    #[test]
    fn a_leader_that_shortens_its_log_is_refused() {
        let mut world = World::new();
        world.observe(1, Role::Leader, 2, 0, &[1, 2]).unwrap();
        let error = world.observe(1, Role::Leader, 2, 0, &[1]).unwrap_err();
        assert!(matches!(error, Violation::LeaderLogShrank { .. }));
    }

    #[test]
    fn a_leader_that_replaces_its_last_entry_is_refused() {
        let mut world = World::new();
        world.observe(1, Role::Leader, 3, 0, &[1, 2]).unwrap();
        world.observe(1, Role::Leader, 3, 0, &[1, 2, 3]).unwrap();
        let error = world.observe(1, Role::Leader, 3, 0, &[1, 2, 2, 3]);
        assert!(matches!(error, Err(Violation::LeaderOverwrote { .. })));
        // Another node, or the same in another term, may.
        let mut world = World::new();
        world.observe(1, Role::Leader, 2, 0, &[1, 2]).unwrap();
        world.observe(1, Role::Follower, 3, 0, &[1, 3]).unwrap();
    }
}
