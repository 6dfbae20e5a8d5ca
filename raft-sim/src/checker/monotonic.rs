//! Within one boot of a node its term, commit index and applied index never fall (Figure 2: "increase
//! monotonically"; §5.1).

use super::view::{NodeView, Seen};
use super::violation::Violation;

/// Compares a node with what it was when it was seen last in its present boot.
pub(super) fn check(view: &NodeView<'_>, seen: Option<Seen>) -> Result<(), Violation> {
    let Some(seen) = seen else {
        return Ok(());
    };
    let grows = [
        ("term", seen.term.0, view.term.0),
        ("commit index", seen.commit_index.0, view.commit_index.0),
        ("applied index", seen.applied_index.0, view.applied_index.0),
    ];
    let fell = grows.into_iter().find(|(_, from, to)| to < from);
    match fell {
        None => Ok(()),
        Some((what, from, to)) => Err(Violation::WentBack {
            node: view.id,
            what,
            from,
            to,
        }),
    }
}

#[cfg(test)]
mod tests {
    use raft_core::Role;

    use super::super::testing::World;
    use super::*;

    #[test]
    fn term_commit_and_applied_index_never_fall() {
        for (term, commit, applied) in [(1, 1, 1), (2, 0, 0), (2, 1, 0)] {
            let mut world = World::new();
            world.applied_index = 1;
            world.observe(1, Role::Follower, 2, 1, &[1]).unwrap();
            world.applied_index = applied;
            let error = world.observe(1, Role::Follower, term, commit, &[1]);
            assert!(
                matches!(error, Err(Violation::WentBack { .. })),
                "{error:?}"
            );
        }
    }
}
