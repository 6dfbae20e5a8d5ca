//! Who belongs to a cluster: voters, learners, and the two halves of a joint configuration (§6).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::codec::{self, CodecError};
use crate::ids::{Incarnation, NodeId};

/// Largest number of members a membership may name.
pub const MAX_MEMBERS: usize = 64;
/// Largest length of a member's address, in bytes.
pub const MAX_ADDRESS_BYTES: usize = 256;
/// No valid membership takes more bytes: four counts, and per member two ids at most 9 bytes long
/// in the roles, one as learner with its promotion, its own id, incarnation and address.
pub const MAX_MEMBERSHIP_BYTES: usize =
    4 + MAX_MEMBERS * (9 + 9 + 10 + 9 + 10 + 3 + MAX_ADDRESS_BYTES);

const _: () = assert!(MAX_MEMBERSHIP_BYTES <= codec::MAX_HEAD_BYTES);

/// One member of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The life of the data directory that is meant. `None` until the node's first verified
    /// contact binds it by a committed entry.
    pub incarnation: Option<Incarnation>,
    /// Where peers and clients reach it: `host:port`.
    pub address: String,
}

/// When a learner becomes a voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Promotion {
    /// By the leader, once it has caught up.
    Auto,
    /// Only on an operator's request.
    Manual,
}

/// The members in force from the log entry on that carries this value.
///
/// While `outgoing` is not empty the configuration is joint: elections and commits need a
/// majority of `voters` **and** one of `outgoing` (§6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Every node that takes part in any role.
    pub members: BTreeMap<NodeId, Member>,
    /// The voters; in a joint configuration the incoming half.
    pub voters: BTreeSet<NodeId>,
    /// The outgoing half of a joint configuration, otherwise empty.
    pub outgoing: BTreeSet<NodeId>,
    /// Members that receive the log and count nowhere.
    pub learners: BTreeMap<NodeId, Promotion>,
}

/// Why a membership is not valid.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MembershipError {
    /// There is nobody to elect a leader.
    #[error("a membership needs at least one voter")]
    NoVoter,
    /// A voter or learner has no address.
    #[error("node {0} has a role but is not a member")]
    NotAMember(NodeId),
    /// A member is neither voter nor learner.
    #[error("node {0} is a member without a role")]
    NoRole(NodeId),
    /// A node is learner and voter at once.
    #[error("node {0} is both learner and voter")]
    LearnerVotes(NodeId),
    /// Id 0 is reserved.
    #[error("node id 0 is reserved")]
    ZeroId,
    /// Two members share an address.
    #[error("nodes {0} and {1} have the same address {2}")]
    DuplicateAddress(NodeId, NodeId, String),
    /// An address is empty or too long.
    #[error("the address of node {0} must have 1 to {MAX_ADDRESS_BYTES} bytes")]
    AddressLength(NodeId),
    /// More members than supported.
    #[error("{0} members are more than the {MAX_MEMBERS} supported")]
    TooMany(usize),
}

impl Membership {
    /// A configuration of voters only, as at the birth of a cluster.
    pub fn of_voters(voters: impl IntoIterator<Item = (NodeId, Member)>) -> Self {
        let members: BTreeMap<_, _> = voters.into_iter().collect();
        Self {
            voters: members.keys().copied().collect(),
            members,
            ..Self::default()
        }
    }

    /// Whether two majorities are needed (§6).
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether the node's vote counts in either half.
    #[must_use]
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// Whether the node belongs to the cluster in any role.
    #[must_use]
    pub fn contains(&self, id: NodeId) -> bool {
        self.members.contains_key(&id)
    }

    /// Checks that roles and members agree.
    ///
    /// # Errors
    /// One rule that is broken.
    pub fn validate(&self) -> Result<(), MembershipError> {
        if self.voters.is_empty() {
            return Err(MembershipError::NoVoter);
        }
        if self.members.len() > MAX_MEMBERS {
            return Err(MembershipError::TooMany(self.members.len()));
        }
        let roles = self.voters.iter().chain(&self.outgoing);
        for &id in roles.chain(self.learners.keys()) {
            if !self.members.contains_key(&id) {
                return Err(MembershipError::NotAMember(id));
            }
        }
        let mut addresses = BTreeMap::new();
        for (&id, member) in &self.members {
            if id == NodeId(0) {
                return Err(MembershipError::ZeroId);
            }
            let is_learner = self.learners.contains_key(&id);
            if !self.is_voter(id) && !is_learner {
                return Err(MembershipError::NoRole(id));
            }
            // In a joint configuration a voter of the outgoing half may already be listed as the
            // learner it becomes.
            if self.voters.contains(&id) && is_learner {
                return Err(MembershipError::LearnerVotes(id));
            }
            if member.address.is_empty() || member.address.len() > MAX_ADDRESS_BYTES {
                return Err(MembershipError::AddressLength(id));
            }
            if let Some(other) = addresses.insert(member.address.as_str(), id) {
                let address = member.address.clone();
                return Err(MembershipError::DuplicateAddress(other, id, address));
            }
        }
        Ok(())
    }

    /// The payload of the log entry that carries this membership.
    ///
    /// # Errors
    /// [`CodecError::TooLarge`] if it exceeds the codec's limit, which a valid membership does not.
    pub fn to_bytes(&self) -> Result<Bytes, CodecError> {
        let mut bytes = Vec::new();
        codec::encode(self, &mut bytes)?;
        Ok(bytes.into())
    }

    /// Reads the payload of a membership entry.
    ///
    /// # Errors
    /// [`CodecError`] if these bytes are not exactly one membership.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode_exact(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voters(count: u64) -> Membership {
        Membership::of_voters((1..=count).map(|id| {
            let member = Member {
                incarnation: Some(Incarnation(id)),
                address: format!("127.0.0.1:{}", 7000 + id),
            };
            (NodeId(id), member)
        }))
    }

    #[test]
    fn a_membership_survives_its_bytes() {
        let mut membership = voters(3);
        membership.outgoing = [NodeId(1)].into();
        let bytes = membership.to_bytes().unwrap();
        assert_eq!(Membership::from_bytes(&bytes).unwrap(), membership);
        assert!(Membership::from_bytes(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn the_largest_membership_has_the_bytes_that_are_promised() {
        let ids = || (0..MAX_MEMBERS as u64).map(|n| NodeId(u64::MAX - n));
        let member = |id: NodeId| Member {
            incarnation: Some(Incarnation(u64::MAX)),
            address: format!("{:<MAX_ADDRESS_BYTES$}", id.0),
        };
        let mut membership = Membership::of_voters(ids().map(|id| (id, member(id))));
        membership.outgoing = ids().collect();
        assert_eq!(membership.validate(), Ok(()));
        // One voter fewer, so that one id is a learner instead of a voter.
        let learner = NodeId(u64::MAX);
        membership.voters.remove(&learner);
        membership.learners.insert(learner, Promotion::Auto);
        assert_eq!(membership.validate(), Ok(()));
        let bytes = membership.to_bytes().unwrap();
        // The bound also allows every voter to be a learner, which no valid membership has.
        assert!(bytes.len() <= MAX_MEMBERSHIP_BYTES);
        assert!(bytes.len() + MAX_MEMBERS * 10 >= MAX_MEMBERSHIP_BYTES);
    }

    #[test]
    fn broken_memberships_are_named() {
        assert_eq!(
            Membership::default().validate(),
            Err(MembershipError::NoVoter)
        );
        let mut membership = voters(2);
        membership.learners.insert(NodeId(2), Promotion::Manual);
        assert_eq!(
            membership.validate(),
            Err(MembershipError::LearnerVotes(NodeId(2)))
        );
        let mut membership = voters(2);
        let first = membership.members[&NodeId(1)].clone();
        membership.members.insert(NodeId(2), first);
        assert!(matches!(
            membership.validate(),
            Err(MembershipError::DuplicateAddress(NodeId(1), NodeId(2), _))
        ));
        assert_eq!(voters(5).validate(), Ok(()));
    }
}
