//! Who belongs to the cluster, as a node tells it, and changes of that.

use raft_proto::{Incarnation, Membership, NodeId, Promotion};
use serde::{Deserialize, Serialize};

/// Body of [`super::ResponseKind::Members`]: the members as one node knows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberList {
    /// The cluster's id, in hexadecimal.
    pub cluster: String,
    /// The node that tells.
    pub from: NodeId,
    /// The leader it follows, itself included.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: u64,
    /// Everything up to here is committed, as far as it knows. Of two lists the one with the
    /// higher term, and then the higher commit index, is the newer one.
    pub commit_index: u64,
    /// Every member, in the order of ids.
    pub members: Vec<MemberInfo>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// The member.
    pub id: NodeId,
    /// Where peers and clients reach it, `host:port`.
    pub address: String,
    /// What it is.
    pub role: MemberRole,
    /// The life of its data directory; `None` until its first contact binds it.
    pub incarnation: Option<Incarnation>,
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberRole {
    /// Its vote counts.
    Voter,
    /// It receives the log and counts nowhere; how it becomes a voter.
    Learner(Promotion),
    /// Its vote counts until the change under way is done.
    Leaving,
}

impl MemberInfo {
    /// The members of a membership, in the order of ids.
    #[must_use]
    pub fn all(membership: &Membership) -> Vec<Self> {
        let member = |(id, member): (&NodeId, &raft_proto::Member)| Self {
            id: *id,
            address: member.address.clone(),
            role: role_of(membership, *id),
            incarnation: member.incarnation,
        };
        membership.members.iter().map(member).collect()
    }
}

fn role_of(membership: &Membership, id: NodeId) -> MemberRole {
    if membership.voters.contains(&id) {
        return MemberRole::Voter;
    }
    match membership.learners.get(&id) {
        Some(promotion) if !membership.outgoing.contains(&id) => MemberRole::Learner(*promotion),
        Some(_) | None => MemberRole::Leaving,
    }
}

/// Body of [`super::RequestKind::ChangeMembers`]: one change of the members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// A node joins as a learner.
    Add {
        /// The node, not yet a member.
        id: NodeId,
        /// Where peers and clients will reach it, `host:port`.
        address: String,
        /// When it becomes a voter.
        promotion: Promotion,
    },
    /// A learner that has caught up becomes a voter.
    Promote {
        /// The learner.
        id: NodeId,
    },
    /// A member leaves.
    Remove {
        /// The member.
        id: NodeId,
        /// What may be given up for it.
        safety: RemovalSafety,
    },
}

impl MemberChange {
    /// Whether a list of members shows that the change has been made.
    #[must_use]
    pub fn is_done(&self, members: &[MemberInfo]) -> bool {
        let role = |wanted: NodeId| {
            members
                .iter()
                .find(|one| one.id == wanted)
                .map(|one| one.role)
        };
        match self {
            Self::Add { id, address, .. } => members
                .iter()
                .any(|one| one.id == *id && one.address == *address),
            Self::Promote { id } => role(*id) == Some(MemberRole::Voter),
            Self::Remove { id, .. } => role(*id).is_none(),
        }
    }
}

/// Whether a removal may leave a cluster that cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RemovalSafety {
    /// Refused if the voters that are left and in contact with the leader are no majority.
    KeepQuorum,
    /// Done whoever is in contact.
    Force,
}

#[cfg(test)]
mod tests {
    use raft_proto::Member;

    use super::*;
    use crate::protocol::to_body;

    fn membership() -> Membership {
        let member = |id: u64| Member {
            incarnation: Some(Incarnation(id)),
            address: format!("h:{id}"),
        };
        let mut membership = Membership::of_voters((1..=3).map(|id| (NodeId(id), member(id))));
        for id in [4, 5] {
            membership.members.insert(NodeId(id), member(id));
        }
        membership.learners.insert(NodeId(4), Promotion::Manual);
        membership.outgoing = [NodeId(1), NodeId(2), NodeId(5)].into();
        membership
    }

    #[test]
    fn roles_are_those_of_the_membership() {
        let roles: Vec<_> = MemberInfo::all(&membership())
            .into_iter()
            .map(|member| (member.id.0, member.role))
            .collect();
        assert_eq!(
            roles,
            [
                (1, MemberRole::Voter),
                (2, MemberRole::Voter),
                (3, MemberRole::Voter),
                (4, MemberRole::Learner(Promotion::Manual)),
                (5, MemberRole::Leaving),
            ]
        );
    }

    #[test]
    fn a_change_is_done_when_the_members_show_it() {
        let members = MemberInfo::all(&membership());
        let add = |id, address: &str| MemberChange::Add {
            id: NodeId(id),
            address: address.to_owned(),
            promotion: Promotion::Auto,
        };
        assert!(add(4, "h:4").is_done(&members));
        assert!(!add(4, "other:4").is_done(&members));
        assert!(!add(6, "h:6").is_done(&members));
        assert!(MemberChange::Promote { id: NodeId(3) }.is_done(&members));
        assert!(!MemberChange::Promote { id: NodeId(4) }.is_done(&members));
        let remove = |id| MemberChange::Remove {
            id: NodeId(id),
            safety: RemovalSafety::KeepQuorum,
        };
        assert!(remove(6).is_done(&members));
        assert!(!remove(5).is_done(&members), "it still votes");
    }

    #[test]
    fn changes_keep_their_bytes() {
        let add = MemberChange::Add {
            id: NodeId(4),
            address: "h:4".to_owned(),
            promotion: Promotion::Manual,
        };
        assert_eq!(&to_body(&add)[..], b"\x01\x00\x04\x03h:4\x01");
        let promote = MemberChange::Promote { id: NodeId(4) };
        assert_eq!(&to_body(&promote)[..], [1, 1, 4]);
        let remove = MemberChange::Remove {
            id: NodeId(4),
            safety: RemovalSafety::Force,
        };
        assert_eq!(&to_body(&remove)[..], [1, 2, 4, 1]);
        let list = MemberList {
            cluster: "c".to_owned(),
            from: NodeId(1),
            leader: Some(NodeId(2)),
            term: 3,
            commit_index: 9,
            members: vec![MemberInfo {
                id: NodeId(2),
                address: "h:2".to_owned(),
                role: MemberRole::Learner(Promotion::Auto),
                incarnation: None,
            }],
        };
        assert_eq!(
            &to_body(&list)[..],
            b"\x01\x01c\x01\x01\x02\x03\x09\x01\x02\x03h:2\x01\x00\x00"
        );
    }
}
