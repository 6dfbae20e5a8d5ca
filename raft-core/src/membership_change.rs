//! Changes of membership as pure functions: what an operator asks for, the membership it leads to,
//! and the steps there (§6).

use raft_proto::{Incarnation, Member, Membership, MembershipError, NodeId, Promotion};
use thiserror::Error;

/// One wish; several are made together by one change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipChange {
    /// A node joins: it receives the log and counts nowhere.
    AddLearner {
        /// The node, not yet a member.
        id: NodeId,
        /// Where it is. Its incarnation may be left open until its first verified contact.
        member: Member,
        /// When it becomes a voter.
        promotion: Promotion,
    },
    /// A learner becomes a voter.
    Promote(NodeId),
    /// A voter becomes a learner that stays one.
    Demote(NodeId),
    /// A member leaves.
    Remove(NodeId),
    /// The open incarnation of a member is known.
    Bind {
        /// The member.
        id: NodeId,
        /// The life of its data directory.
        incarnation: Incarnation,
    },
}

/// Why a membership change was not made. Nothing has happened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// Another node leads, or none is known to.
    #[error("this node does not lead")]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// The leader has not committed an entry of its own term yet, so it does not know whether the
    /// last change is committed.
    #[error("this leader has not committed anything in its term yet; retry soon")]
    NotReady,
    /// A change is not finished.
    #[error("a change of membership is in progress; retry when it is done")]
    InProgress,
    /// Leadership is being handed to another node.
    #[error("leadership is being transferred to {to}; retry there")]
    Transferring {
        /// The node that takes over.
        to: NodeId,
    },
    /// The node is a member already.
    #[error("node {0} is a member already")]
    AlreadyAMember(NodeId),
    /// The node is no member.
    #[error("node {0} is not a member")]
    NotAMember(NodeId),
    /// The node is a voter already.
    #[error("node {0} is a voter already")]
    AlreadyAVoter(NodeId),
    /// The node is not a voter.
    #[error("node {0} is not a voter")]
    NotAVoter(NodeId),
    /// The learner does not have most of the log yet.
    #[error("node {0} has not caught up with the log; retry when it has")]
    Lagging(NodeId),
    /// The learner has never been in verified contact, or has lost parts of its log.
    #[error("node {0} cannot count yet: it was never in contact, or has lost parts of its log")]
    NotCounted(NodeId),
    /// The incarnation is bound to another value.
    #[error("node {0} is bound to another incarnation")]
    OtherIncarnation(NodeId),
    /// Nothing would change.
    #[error("the change changes nothing")]
    Nothing,
    /// The result breaks the rules of memberships.
    #[error(transparent)]
    Invalid(#[from] MembershipError),
    /// This node's disk takes no more entries.
    #[error("the disk of this node is full or stalled; retry at another node")]
    DiskUnavailable,
    /// This node stopped.
    #[error("this node has stopped because its disk failed")]
    Halted,
}

/// The membership that results once all wishes are fulfilled.
pub(crate) fn target_of(
    current: &Membership,
    changes: &[MembershipChange],
) -> Result<Membership, ChangeError> {
    let mut target = current.clone();
    for change in changes {
        apply(&mut target, change)?;
    }
    target.validate()?;
    if target == *current {
        return Err(ChangeError::Nothing);
    }
    Ok(target)
}

fn apply(target: &mut Membership, change: &MembershipChange) -> Result<(), ChangeError> {
    match change {
        MembershipChange::AddLearner {
            id,
            member,
            promotion,
        } => {
            if target.contains(*id) {
                return Err(ChangeError::AlreadyAMember(*id));
            }
            target.members.insert(*id, member.clone());
            target.learners.insert(*id, *promotion);
        }
        MembershipChange::Promote(id) => {
            if target.voters.contains(id) {
                return Err(ChangeError::AlreadyAVoter(*id));
            }
            if target.learners.remove(id).is_none() {
                return Err(ChangeError::NotAMember(*id));
            }
            target.voters.insert(*id);
        }
        MembershipChange::Demote(id) => {
            if !target.voters.remove(id) {
                return Err(ChangeError::NotAVoter(*id));
            }
            target.learners.insert(*id, Promotion::Manual);
        }
        MembershipChange::Remove(id) => {
            if target.members.remove(id).is_none() {
                return Err(ChangeError::NotAMember(*id));
            }
            target.voters.remove(id);
            target.learners.remove(id);
        }
        MembershipChange::Bind { id, incarnation } => {
            let Some(member) = target.members.get_mut(id) else {
                return Err(ChangeError::NotAMember(*id));
            };
            if member
                .incarnation
                .is_some_and(|bound| bound != *incarnation)
            {
                return Err(ChangeError::OtherIncarnation(*id));
            }
            member.incarnation = Some(*incarnation);
        }
    }
    Ok(())
}

/// The first step from `current` to `target`: `target` itself if the voters stay the same, since
/// then all quorums do, else the joint configuration of both.
pub(crate) fn enter(current: &Membership, target: Membership) -> Membership {
    assert!(!current.is_joint(), "one change at a time");
    if current.voters == target.voters {
        return target;
    }
    let mut joint = target;
    for id in &current.voters {
        // A voter that leaves stays a member until the joint configuration is left.
        let member = &current.members[id];
        joint.members.entry(*id).or_insert_with(|| member.clone());
    }
    joint.outgoing = current.voters.clone();
    joint
}

/// The second step: leaves a joint configuration for its incoming half.
pub(crate) fn leave(joint: &Membership) -> Membership {
    assert!(joint.is_joint(), "only a joint configuration is left");
    let mut next = joint.clone();
    next.outgoing.clear();
    let Membership {
        members,
        voters,
        learners,
        ..
    } = &mut next;
    members.retain(|id, _| voters.contains(id) || learners.contains_key(id));
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64) -> Member {
        Member {
            incarnation: Some(Incarnation(id)),
            address: format!("127.0.0.1:{}", 7000 + id),
        }
    }

    fn voters(ids: &[u64]) -> Membership {
        Membership::of_voters(ids.iter().map(|id| (NodeId(*id), member(*id))))
    }

    fn add(id: u64) -> MembershipChange {
        MembershipChange::AddLearner {
            id: NodeId(id),
            member: member(id),
            promotion: Promotion::Auto,
        }
    }

    #[test]
    fn a_replacement_goes_through_both_majorities() {
        let mut current = voters(&[1, 2, 3]);
        current = target_of(&current, &[add(4)]).unwrap();
        let changes = [
            MembershipChange::Promote(NodeId(4)),
            MembershipChange::Remove(NodeId(1)),
        ];
        let target = target_of(&current, &changes).unwrap();
        let joint = enter(&current, target.clone());
        assert_eq!(joint.validate(), Ok(()));
        assert_eq!(joint.voters, [2, 3, 4].map(NodeId).into());
        assert_eq!(joint.outgoing, [1, 2, 3].map(NodeId).into());
        assert!(joint.contains(NodeId(1)));
        assert_eq!(leave(&joint), target);
    }

    #[test]
    fn a_demoted_voter_is_a_learner_while_it_still_votes() {
        let current = voters(&[1, 2, 3]);
        let target = target_of(&current, &[MembershipChange::Demote(NodeId(3))]).unwrap();
        let joint = enter(&current, target.clone());
        assert_eq!(joint.validate(), Ok(()));
        assert!(joint.is_voter(NodeId(3)));
        assert_eq!(leave(&joint), target);
    }

    #[test]
    fn changes_without_voters_take_one_step() {
        let current = voters(&[1, 2, 3]);
        let target = target_of(&current, &[add(4)]).unwrap();
        assert_eq!(enter(&current, target.clone()), target);
    }

    #[test]
    fn impossible_changes_are_named() {
        let current = voters(&[1, 2]);
        let refused = |changes: &[MembershipChange]| target_of(&current, changes).unwrap_err();
        assert_eq!(refused(&[add(2)]), ChangeError::AlreadyAMember(NodeId(2)));
        let promote = MembershipChange::Promote(NodeId(9));
        assert_eq!(refused(&[promote]), ChangeError::NotAMember(NodeId(9)));
        let both = [1, 2].map(|id| MembershipChange::Remove(NodeId(id)));
        assert_eq!(
            refused(&both),
            ChangeError::Invalid(MembershipError::NoVoter)
        );
        let rebind = MembershipChange::Bind {
            id: NodeId(1),
            incarnation: Incarnation(77),
        };
        assert_eq!(refused(&[rebind]), ChangeError::OtherIncarnation(NodeId(1)));
        let bind = MembershipChange::Bind {
            id: NodeId(1),
            incarnation: Incarnation(1),
        };
        assert_eq!(refused(&[bind]), ChangeError::Nothing);
        let mut twin = member(3);
        twin.address = member(1).address;
        let add_twin = MembershipChange::AddLearner {
            id: NodeId(3),
            member: twin,
            promotion: Promotion::Manual,
        };
        assert!(matches!(
            refused(&[add_twin]),
            ChangeError::Invalid(MembershipError::DuplicateAddress(..))
        ));
    }
}
