//! Majorities, and pairs of majorities for joint configurations (§6). Pure.

use raft_proto::membership::MAX_MEMBERS;
use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{Membership, NodeId};

/// How an election stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteOutcome {
    /// Enough votes are granted.
    Won,
    /// Enough votes are refused that it cannot be won any more.
    Lost,
    /// Neither yet.
    Pending,
}

/// A set of voters of which more than half must agree.
///
/// The empty set agrees with everything: it is the outgoing half of a configuration that is not
/// joint. Nobody campaigns in a configuration without voters, because nobody is a voter of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MajorityConfig {
    voters: Vec<NodeId>,
}

impl MajorityConfig {
    /// The configuration of these voters.
    ///
    /// # Panics
    /// If there are more than [`MAX_MEMBERS`], which no valid membership has.
    pub fn new(voters: impl IntoIterator<Item = NodeId>) -> Self {
        let mut voters: Vec<NodeId> = voters.into_iter().collect();
        voters.sort_unstable();
        voters.dedup();
        assert!(voters.len() <= MAX_MEMBERS, "memberships are bounded");
        Self { voters }
    }

    /// How many voters make a majority.
    #[must_use]
    pub fn quorum(&self) -> usize {
        if is_planted(Mutant::HalfIsQuorum) {
            return (self.voters.len() / 2).max(1);
        }
        self.voters.len() / 2 + 1
    }

    /// The largest value that a majority has reached, given each voter's value.
    #[must_use]
    pub fn reached(&self, value_of: impl Fn(NodeId) -> u64) -> u64 {
        if self.voters.is_empty() {
            return u64::MAX;
        }
        let mut values = [0; MAX_MEMBERS];
        let values = &mut values[..self.voters.len()];
        for (value, voter) in values.iter_mut().zip(&self.voters) {
            *value = value_of(*voter);
        }
        values.sort_unstable();
        values[self.voters.len() - self.quorum()]
    }

    /// How an election stands, given each voter's answer if it gave one.
    #[must_use]
    pub fn vote_outcome(&self, answer_of: impl Fn(NodeId) -> Option<bool>) -> VoteOutcome {
        if self.voters.is_empty() {
            return VoteOutcome::Won;
        }
        let mut granted = 0;
        let mut refused = 0;
        for voter in &self.voters {
            match answer_of(*voter) {
                Some(true) => granted += 1,
                Some(false) => refused += 1,
                None => {}
            }
        }
        if granted >= self.quorum() {
            VoteOutcome::Won
        } else if self.voters.len() - refused < self.quorum() {
            VoteOutcome::Lost
        } else {
            VoteOutcome::Pending
        }
    }
}

/// Two sets of voters that must both agree (§6). Each half is counted by itself: a node in both
/// counts in both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JointConfig {
    incoming: MajorityConfig,
    outgoing: MajorityConfig,
}

impl JointConfig {
    /// The halves of a membership; the outgoing one is empty unless it is joint.
    #[must_use]
    pub fn of(membership: &Membership) -> Self {
        let is_counted = is_planted(Mutant::LearnerCounted);
        let counted = membership.learners.keys().filter(|_| is_counted);
        Self {
            incoming: MajorityConfig::new(membership.voters.iter().chain(counted).copied()),
            outgoing: MajorityConfig::new(membership.outgoing.iter().copied()),
        }
    }

    /// Whether the node's vote counts in either half.
    #[must_use]
    pub fn contains(&self, id: NodeId) -> bool {
        self.incoming.voters.contains(&id) || self.outgoing.voters.contains(&id)
    }

    /// All voters of both halves, each once, in order.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        let only_outgoing = self
            .outgoing
            .voters
            .iter()
            .filter(|id| !self.incoming.voters.contains(id));
        self.incoming.voters.iter().chain(only_outgoing).copied()
    }

    /// The largest value that majorities of both halves have reached.
    #[must_use]
    pub fn reached(&self, value_of: impl Fn(NodeId) -> u64) -> u64 {
        if is_planted(Mutant::OneCounterForBothHalves) {
            return MajorityConfig::new(self.voters()).reached(value_of);
        }
        self.incoming
            .reached(&value_of)
            .min(self.outgoing.reached(&value_of))
    }

    /// How an election stands: both halves must be won.
    #[must_use]
    pub fn vote_outcome(&self, answer_of: impl Fn(NodeId) -> Option<bool>) -> VoteOutcome {
        if is_planted(Mutant::OneCounterForBothHalves) {
            return MajorityConfig::new(self.voters()).vote_outcome(answer_of);
        }
        let halves = (
            self.incoming.vote_outcome(&answer_of),
            self.outgoing.vote_outcome(&answer_of),
        );
        match halves {
            (VoteOutcome::Lost, _) | (_, VoteOutcome::Lost) => VoteOutcome::Lost,
            (VoteOutcome::Won, VoteOutcome::Won) => VoteOutcome::Won,
            (VoteOutcome::Pending, _) | (_, VoteOutcome::Pending) => VoteOutcome::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// The dumb second implementation: tries every value that occurs, and counts heads.
    fn naive_reached(voters: &BTreeSet<u64>, values: &BTreeMap<u64, u64>) -> u64 {
        let has = |id: &u64| values.get(id).copied().unwrap_or(0);
        let candidates = voters.iter().map(has);
        let is_reached = |value: &u64| {
            let heads = voters.iter().filter(|id| has(id) >= *value).count();
            heads * 2 > voters.len()
        };
        candidates.filter(is_reached).max().unwrap_or(u64::MAX)
    }

    fn naive_outcome(voters: &BTreeSet<u64>, answers: &BTreeMap<u64, bool>) -> VoteOutcome {
        if voters.is_empty() {
            return VoteOutcome::Won;
        }
        let count = |wanted: Option<bool>| {
            let given = voters.iter().map(|id| answers.get(id).copied());
            given.filter(|answer| *answer == wanted).count()
        };
        let yes = count(Some(true));
        if yes * 2 > voters.len() {
            VoteOutcome::Won
        } else if (yes + count(None)) * 2 > voters.len() {
            VoteOutcome::Pending
        } else {
            VoteOutcome::Lost
        }
    }

    fn config(voters: &BTreeSet<u64>) -> MajorityConfig {
        MajorityConfig::new(voters.iter().copied().map(NodeId))
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_implementation(
            incoming in prop::collection::btree_set(1u64..10, 0..8),
            outgoing in prop::collection::btree_set(1u64..10, 0..8),
            values in prop::collection::btree_map(1u64..10, 0u64..6, 0..10),
            answers in prop::collection::btree_map(1u64..10, any::<bool>(), 0..10),
        ) {
            let joint = JointConfig { incoming: config(&incoming), outgoing: config(&outgoing) };
            let value_of = |id: NodeId| values.get(&id.0).copied().unwrap_or(0);
            prop_assert_eq!(
                joint.reached(value_of),
                naive_reached(&incoming, &values).min(naive_reached(&outgoing, &values))
            );
            let answer_of = |id: NodeId| answers.get(&id.0).copied();
            let halves = [naive_outcome(&incoming, &answers), naive_outcome(&outgoing, &answers)];
            let expected = if halves.contains(&VoteOutcome::Lost) {
                VoteOutcome::Lost
            } else if halves == [VoteOutcome::Won, VoteOutcome::Won] {
                VoteOutcome::Won
            } else {
                VoteOutcome::Pending
            };
            prop_assert_eq!(joint.vote_outcome(answer_of), expected);
            let voters: Vec<u64> = joint.voters().map(|id| id.0).collect();
            let unique: BTreeSet<u64> = voters.iter().copied().collect();
            prop_assert_eq!(voters.len(), unique.len());
            prop_assert_eq!(unique, incoming.union(&outgoing).copied().collect());
        }
    }

    #[test]
    fn a_half_cannot_borrow_votes_from_the_other() {
        let joint = JointConfig {
            incoming: MajorityConfig::new([3, 4, 5].map(NodeId)),
            outgoing: MajorityConfig::new([1, 2, 3].map(NodeId)),
        };
        // Three of five nodes, but only one of the outgoing half.
        let answer_of = |id: NodeId| Some(id.0 >= 3);
        assert_eq!(joint.vote_outcome(answer_of), VoteOutcome::Lost);
        assert_eq!(joint.reached(|id| if id.0 >= 3 { 9 } else { 2 }), 2);
    }
}
