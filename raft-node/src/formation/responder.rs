//! What a formed node answers to nodes that are still forming or joining.

use bytes::Bytes;
use raft_proto::{
    AdoptRequest, AdoptResponse, ClusterId, GatherOutcome, GatherResponse, Hello, HelloResponse,
    Membership, Message,
};

use super::error::FormationError;
use super::record::{FirstEntry, FirstEntryError, LogState, Record, RecordError};
use super::voters::InitialVoters;
use crate::admission::{Admission, Standing, Vantage};

/// Keeps the first entry's payload (the log may have compacted it) and answers by it.
///
/// Pure: the same arguments give the same answer. Ask it only about peers that
/// [`crate::admission::Admission`] admits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormedResponder {
    first_entry: FirstEntry,
}

impl FormedResponder {
    /// For a node that has just formed or adopted its cluster.
    ///
    /// # Errors
    /// [`FirstEntryError`] if the payload is no first entry.
    pub fn new(first_entry: Bytes) -> Result<Self, FirstEntryError> {
        let first_entry = FirstEntry::parse(first_entry)?;
        Ok(Self { first_entry })
    }

    /// For a node that starts again: reads its formation record. `None` if it is not formed yet,
    /// or its log may not exist yet; [`crate::formation::Formation`] then goes on.
    ///
    /// # Errors
    /// [`RecordError`] if the record is not usable.
    pub fn from_record(stored: &[u8]) -> Result<Option<Self>, RecordError> {
        match Record::decode(stored)? {
            Record::Formed(first_entry, LogState::Created) => Ok(Some(Self { first_entry })),
            Record::Formed(_, LogState::Pending) | Record::Unformed(_) | Record::Abandoned(_) => {
                Ok(None)
            }
        }
    }

    /// The cluster that a stored formation record binds its directory to, whether its log exists or
    /// not: from then on every hello of the node names it.
    ///
    /// # Errors
    /// [`RecordError`] if the record is not usable.
    pub fn cluster_of_record(stored: &[u8]) -> Result<Option<ClusterId>, RecordError> {
        match Record::decode(stored)? {
            Record::Formed(first_entry, LogState::Created | LogState::Pending) => {
                Ok(Some(first_entry.cluster()))
            }
            Record::Unformed(_) | Record::Abandoned(_) => Ok(None),
        }
    }

    /// The record of a node whose cluster begins with this membership and whose log exists, for a
    /// directory that is made from a snapshot.
    ///
    /// # Errors
    /// [`FirstEntryError`] if no cluster may begin like this.
    pub fn record_of(first_entry: Bytes) -> Result<Bytes, FirstEntryError> {
        let first_entry = FirstEntry::parse(first_entry)?;
        Ok(Record::Formed(first_entry, LogState::Created).encode())
    }

    /// The node's cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.first_entry.cluster()
    }

    /// The first entry of its log.
    #[must_use]
    pub fn first_entry(&self) -> &FirstEntry {
        &self.first_entry
    }

    /// Checks the list of voters that a formed node is started with: that of the cluster's birth,
    /// or the members of today.
    ///
    /// # Errors
    /// [`FormationError::OtherCluster`] with both lists.
    pub fn check_restart(
        &self,
        given: &InitialVoters,
        current: &Membership,
    ) -> Result<(), FormationError> {
        let formed = self.first_entry.voters();
        let members = current.members.iter();
        let today = members.map(|(id, member)| (*id, member.address.as_str()));
        let given_pairs = given.as_slice().iter();
        if *given == formed || given_pairs.map(|(id, at)| (*id, at.as_str())).eq(today) {
            return Ok(());
        }
        Err(FormationError::OtherCluster {
            cluster: self.cluster(),
            formed,
            given: given.clone(),
        })
    }

    /// The message to send to a peer when its connection comes up, if it belongs to no cluster
    /// and `current`, the newest membership here, names this life of it.
    #[must_use]
    pub fn hand_out(&self, peer: &Hello, current: &Membership) -> Option<Message> {
        match peer.cluster {
            Some(_) => None,
            None => self.first_entry_for(peer, current),
        }
    }

    /// The answer to a message of an admitted peer; `None` for messages that want none and those
    /// that have nothing to do with forming.
    #[must_use]
    pub fn respond(
        &self,
        peer: &Hello,
        current: &Membership,
        message: &Message,
    ) -> Option<Message> {
        let cluster = self.cluster();
        let formed = |gatherer| {
            let outcome = GatherOutcome::Formed { cluster };
            Some(GatherResponse { gatherer, outcome }.into())
        };
        if let Message::GatherRequest(request) = message {
            return formed(request.incarnation);
        }
        if let Message::GatherAbandoned(abandoned) = message {
            return formed(abandoned.incarnation);
        }
        if let Message::AdoptRequest(_) = message {
            let cluster = Some(cluster);
            return Some(AdoptResponse { cluster }.into());
        }
        if let Message::AdoptResponse(AdoptResponse { cluster: None }) = message {
            let standing = Standing::Formed {
                cluster,
                membership: current,
                // The peer belongs to no cluster, so it is named or a stranger for everybody.
                vantage: Vantage::Voter,
            };
            // Admitted before this node knew whom its cluster names: it is told now.
            let refusal = Admission::recheck(peer, standing);
            return match refusal {
                Some(_) => Some(HelloResponse { refusal }.into()),
                None => self.first_entry_for(peer, current),
            };
        }
        None
    }

    fn first_entry_for(&self, peer: &Hello, current: &Membership) -> Option<Message> {
        let member = current.members.get(&peer.node)?;
        let named = member
            .incarnation
            .is_none_or(|bound| bound == peer.incarnation);
        let first_entry = self.first_entry.payload().clone();
        named.then(|| AdoptRequest { first_entry }.into())
    }
}
