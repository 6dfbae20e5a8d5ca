//! Election Safety: at most one leader can be elected in a given term (Figure 3, §5.2; thesis §3.4).

use std::collections::BTreeMap;

use raft_core::Role;
use raft_proto::{NodeId, Term};

use super::view::NodeView;
use super::violation::Violation;

/// The leader of every term in which one was seen.
#[derive(Default)]
pub(super) struct ElectionSafety(BTreeMap<Term, NodeId>);

impl ElectionSafety {
    /// Who led the latest term that anybody led.
    pub(super) fn latest(&self) -> Option<NodeId> {
        self.0.last_key_value().map(|(_, leader)| *leader)
    }

    pub(super) fn check(&mut self, view: &NodeView<'_>) -> Result<(), Violation> {
        if view.role != Role::Leader {
            return Ok(());
        }
        let first = *self.0.entry(view.term).or_insert(view.id);
        if first == view.id {
            return Ok(());
        }
        let (term, second) = (view.term, view.id);
        Err(Violation::TwoLeaders {
            term,
            first,
            second,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::World;
    use super::*;

    #[test]
    fn two_leaders_of_one_term_are_refused() {
        let mut world = World::new();
        world.observe(1, Role::Leader, 2, 0, &[1]).unwrap();
        world.observe(2, Role::Leader, 3, 0, &[1]).unwrap();
        let error = world.observe(3, Role::Leader, 2, 0, &[1]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "election safety: n1 and n3 both lead term 2"
        );
    }
}
