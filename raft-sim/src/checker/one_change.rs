//! At most one membership in a log is not committed: a change begins when the one before is over
//! (§6; thesis §4.1, §4.3).

use super::facts::Facts;
use super::view::NodeView;
use super::violation::Violation;

/// Looks at the memberships behind the committed chain.
pub(super) fn check(facts: &Facts, view: &NodeView<'_>) -> Result<(), Violation> {
    let committed = raft_proto::LogIndex(facts.chain.len() as u64);
    if (view.memberships_after)(committed) > 1 {
        return Err(Violation::TwoOpenMemberships { node: view.id });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use raft_core::Role;

    use super::super::testing::World;
    use super::*;

    #[test]
    fn a_second_open_change_is_refused() {
        let mut world = World::new();
        world.open_memberships = 1;
        world.observe(1, Role::Leader, 2, 0, &[1, 2, 2]).unwrap();
        world.open_memberships = 2;
        let error = world.observe(1, Role::Leader, 2, 0, &[1, 2, 2]);
        assert!(matches!(error, Err(Violation::TwoOpenMemberships { .. })));
    }
}
