//! The durable term never falls, and a vote is never changed within its term (Figure 2, §5.1, §5.2;
//! thesis §3.8). Only a node that reports itself uncounted, because it does not know its newest hard
//! state, may come back with an older one; see `durability`.

use raft_log::LogWrite;
use raft_proto::{HardState, NodeId};

use super::violation::Violation;

/// A write became durable on a node whose durable hard state was this.
pub(super) fn check(node: NodeId, before: HardState, write: &LogWrite) -> Result<(), Violation> {
    let Some(after) = write.hard_state else {
        return Ok(());
    };
    if after.term < before.term {
        return Err(Violation::WentBack {
            node,
            what: "durable term",
            from: before.term.0,
            to: after.term.0,
        });
    }
    let is_vote_kept = before.vote.is_none() || after.vote == before.vote;
    // A node that counts again does not know which vote it gave.
    if after.term == before.term && !is_vote_kept && !write.end_is_known {
        let term = after.term;
        return Err(Violation::VotedTwice { node, term });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use raft_proto::Term;

    use super::super::testing::World;
    use super::*;

    #[test]
    fn a_vote_is_given_once_in_a_term() {
        let mut world = World::new();
        let vote = |term, vote: Option<u64>| LogWrite {
            hard_state: Some(HardState {
                term: Term(term),
                vote: vote.map(NodeId),
            }),
            ..LogWrite::default()
        };
        world.durable(1, &vote(2, None)).unwrap();
        world.durable(1, &vote(2, Some(3))).unwrap();
        let error = world.durable(1, &vote(2, Some(2))).unwrap_err();
        assert!(matches!(error, Violation::VotedTwice { .. }));
        world.durable(1, &vote(3, Some(2))).unwrap();
        let error = world.durable(1, &vote(2, Some(2))).unwrap_err();
        assert!(matches!(error, Violation::WentBack { .. }));
    }
}
