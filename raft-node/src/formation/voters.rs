//! The initial voters as an operator names them: checked, in order of id, comparable.

use std::collections::BTreeMap;
use std::fmt;

use raft_proto::membership::{MAX_ADDRESS_BYTES, MAX_MEMBERS};
use raft_proto::{Incarnation, Member, Membership, NodeId};
use thiserror::Error;

/// Ids and addresses of the initial voters of a cluster, in order of id.
///
/// Every initial voter must be started with the same ones, addresses included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialVoters(Vec<(NodeId, String)>);

/// Why a list of initial voters cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VotersError {
    /// The node to start is not in its own list.
    #[error(
        "node {local} is not among the initial voters {voters}; add its own id and address, or start it to join a cluster that exists"
    )]
    LocalMissing {
        /// The node to start.
        local: NodeId,
        /// The list given.
        voters: InitialVoters,
    },
    /// Id 0 is reserved.
    #[error("node id 0 is reserved; number the nodes from 1")]
    ZeroId,
    /// An id occurs twice.
    #[error("node {0} is listed twice, at {1} and at {2}; give each node an id of its own")]
    DuplicateId(NodeId, String, String),
    /// An address occurs twice.
    #[error("nodes {0} and {1} have the same address {2}; give each node an address of its own")]
    DuplicateAddress(NodeId, NodeId, String),
    /// An address is empty or too long.
    #[error("the address of node {0} must have 1 to {MAX_ADDRESS_BYTES} bytes")]
    AddressLength(NodeId),
    /// More voters than supported.
    #[error("{0} initial voters are more than the {MAX_MEMBERS} supported")]
    TooMany(usize),
}

impl InitialVoters {
    /// Sorts and checks the list that `local` was started with.
    ///
    /// # Errors
    /// The first rule that is broken, in an order that does not depend on the order given.
    pub fn new(
        local: NodeId,
        voters: impl IntoIterator<Item = (NodeId, String)>,
    ) -> Result<Self, VotersError> {
        let mut sorted: Vec<(NodeId, String)> = voters.into_iter().collect();
        sorted.sort();
        if sorted.len() > MAX_MEMBERS {
            return Err(VotersError::TooMany(sorted.len()));
        }
        let mut addresses: BTreeMap<&str, NodeId> = BTreeMap::new();
        for (position, (id, address)) in sorted.iter().enumerate() {
            if *id == NodeId(0) {
                return Err(VotersError::ZeroId);
            }
            if let Some((_, second)) = sorted.get(position + 1).filter(|(next, _)| next == id) {
                let (first, second) = (address.clone(), second.clone());
                return Err(VotersError::DuplicateId(*id, first, second));
            }
            if address.is_empty() || address.len() > MAX_ADDRESS_BYTES {
                return Err(VotersError::AddressLength(*id));
            }
            if let Some(other) = addresses.insert(address, *id) {
                return Err(VotersError::DuplicateAddress(other, *id, address.clone()));
            }
        }
        let voters = Self(sorted);
        if !voters.contains(local) {
            return Err(VotersError::LocalMissing { local, voters });
        }
        Ok(voters)
    }

    /// A list that another node sent, for display and comparison only.
    pub(super) fn unchecked(voters: Vec<(NodeId, String)>) -> Self {
        Self(voters)
    }

    /// The voters of a first entry.
    pub(super) fn of(membership: &Membership) -> Self {
        let address = |id| {
            membership
                .members
                .get(id)
                .map(|member: &Member| &member.address)
        };
        let voters = membership.voters.iter();
        Self(
            voters
                .filter_map(|id| Some((*id, address(id)?.clone())))
                .collect(),
        )
    }

    /// The voters in order of id.
    #[must_use]
    pub fn as_slice(&self) -> &[(NodeId, String)] {
        &self.0
    }

    /// The voter that gathers the others: the one of lowest id.
    #[must_use]
    pub fn gatherer(&self) -> NodeId {
        // `new` refuses a list without the local node, so there is a first one.
        self.0.first().map_or(NodeId(0), |(id, _)| *id)
    }

    /// Whether the node is an initial voter.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.address(node).is_some()
    }

    /// Where the node is reached, if it is an initial voter.
    #[must_use]
    pub fn address(&self, node: NodeId) -> Option<&str> {
        let at = self.0.binary_search_by_key(&node, |(id, _)| *id).ok()?;
        Some(&self.0[at].1)
    }

    /// The node with its address, as in "n3 at 127.0.0.1:7003".
    #[must_use]
    pub fn name(&self, node: NodeId) -> String {
        match self.address(node) {
            Some(address) => format!("{node} at {address}"),
            None => node.to_string(),
        }
    }

    /// The first membership, once every incarnation is known.
    ///
    /// # Panics
    /// If an incarnation is missing.
    pub(super) fn with_incarnations(
        &self,
        incarnations: &BTreeMap<NodeId, Incarnation>,
    ) -> Membership {
        Membership::of_voters(self.0.iter().map(|(id, address)| {
            let incarnation = incarnations.get(id).copied();
            assert!(incarnation.is_some(), "{id} has not answered");
            let address = address.clone();
            (
                *id,
                Member {
                    incarnation,
                    address,
                },
            )
        }))
    }
}

impl fmt::Display for InitialVoters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (position, (id, address)) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(f, "{separator}{}={address}", id.0)?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(voters: &[(u64, &str)]) -> Vec<(NodeId, String)> {
        let owned = |(id, address): &(u64, &str)| (NodeId(*id), (*address).to_string());
        voters.iter().map(owned).collect()
    }

    fn refused(voters: &[(u64, &str)]) -> VotersError {
        InitialVoters::new(NodeId(1), list(voters)).unwrap_err()
    }

    #[test]
    fn order_does_not_matter() {
        let voters = InitialVoters::new(NodeId(2), list(&[(2, "b:1"), (1, "a:1")])).unwrap();
        assert_eq!(voters.gatherer(), NodeId(1));
        assert_eq!(voters.to_string(), "[1=a:1, 2=b:1]");
        assert_eq!(voters.name(NodeId(2)), "n2 at b:1");
        assert_eq!(voters.name(NodeId(9)), "n9");
    }

    #[test]
    fn what_cannot_work_is_refused() {
        assert!(matches!(
            refused(&[(2, "b:1"), (3, "c:1")]),
            VotersError::LocalMissing { .. }
        ));
        assert!(matches!(refused(&[]), VotersError::LocalMissing { .. }));
        assert_eq!(refused(&[(0, "z:1"), (1, "a:1")]), VotersError::ZeroId);
        assert!(matches!(
            refused(&[(1, "a:1"), (2, "b:1"), (1, "c:1")]),
            VotersError::DuplicateId(NodeId(1), ..)
        ));
        assert!(matches!(
            refused(&[(1, "a:1"), (2, "a:1")]),
            VotersError::DuplicateAddress(NodeId(1), NodeId(2), _)
        ));
        assert_eq!(refused(&[(1, "")]), VotersError::AddressLength(NodeId(1)));
        let many: Vec<_> = (1..=65).map(|id| (NodeId(id), format!("h:{id}"))).collect();
        assert_eq!(
            InitialVoters::new(NodeId(1), many),
            Err(VotersError::TooMany(65))
        );
    }
}
