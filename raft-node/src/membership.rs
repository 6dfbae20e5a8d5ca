//! Changes of membership as an operator sees them: what can be asked for, and what can come of it.

use raft_core::MembershipChange;
use raft_proto::{Membership, MembershipError, NodeId, Term};
use thiserror::Error;
use tokio::sync::oneshot;

use crate::driver::{ChangeWaiter, Input};
use crate::error::{LeaderHint, hint};
use crate::handle::Raft;
use crate::inbox::Refused;

/// How careful a change is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChangeSafety {
    /// Refuses to take away a voter if those that would be left, and that the leader is in contact
    /// with (itself included), are no majority of them: the cluster could not commit any more.
    #[default]
    KeepQuorum,
    /// Does it anyway.
    Force,
}

/// Why a change of membership has no outcome that was wished for.
///
/// After [`ChangeError::Unknown`] it may or may not take effect, now or later; after every other
/// variant it certainly has not and will not.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// Another node leads, or none.
    #[error("this node does not lead{}", hint(.leader))]
    NotLeader {
        /// Where to try instead.
        leader: Option<LeaderHint>,
    },
    /// The leader has not committed anything in its term yet.
    #[error(
        "the leader has just been elected and does not know yet whether an earlier change of \
         membership is finished, or whom it reaches; retry in a moment"
    )]
    NotReady,
    /// A change is not finished.
    #[error("another change of membership is in progress; retry when it is finished")]
    InProgress,
    /// The node is a member already.
    #[error(
        "node {0} is a member already; use an id that was never used, or remove the member first"
    )]
    AlreadyAMember(NodeId),
    /// The node is no member.
    #[error("node {0} is not a member of this cluster; `raft-kv member list` shows who is")]
    NotAMember(NodeId),
    /// The node is a voter already.
    #[error("node {0} is a voter already")]
    AlreadyAVoter(NodeId),
    /// The node is not a voter.
    #[error("node {0} is not a voter, so it cannot be made a learner")]
    NotAVoter(NodeId),
    /// Another member has the address.
    #[error(
        "the address {address} belongs to node {member} already; give each member an address of \
         its own"
    )]
    AddressInUse {
        /// The member that has it.
        member: NodeId,
        /// The address.
        address: String,
    },
    /// Nobody would be left to elect a leader.
    #[error(
        "this would take away the last voter, and with it all data; add and promote another \
         member first, or stop the node for good if the cluster is to end"
    )]
    LastVoter,
    /// The learner does not have most of the log yet.
    #[error(
        "node {0} has not caught up with the log, so as a voter it could hold up every write; \
         retry when it has (`raft-kv member list` shows how far it is)"
    )]
    Lagging(NodeId),
    /// The learner has never been in verified contact, or has lost parts of its log.
    #[error(
        "node {0} cannot be a voter yet: the leader was never in contact with it, or it has lost \
         parts of its log; start it with --join and check that members reach its address"
    )]
    NotCounted(NodeId),
    /// The incarnation is bound to another value.
    #[error(
        "node {0} is bound to another data directory; to replace it, remove the member and add it \
         again"
    )]
    OtherIncarnation(NodeId),
    /// Nothing would change.
    #[error("the membership is like that already; there is nothing to change")]
    Nothing,
    /// The result breaks a rule of memberships.
    #[error("the membership would not be valid: {0}")]
    Invalid(MembershipError),
    /// The voters that would be left could not commit anything.
    #[error(
        "of the {voters} voters that would be left the leader reaches {reached}, which is no \
         majority: nothing could be written any more{}; bring them back first, or insist with \
         --force", unreached(.missing)
    )]
    WouldLoseQuorum {
        /// How many voters would be left.
        voters: usize,
        /// How many of them are in contact with the leader, itself included.
        reached: usize,
        /// The others.
        missing: Vec<NodeId>,
    },
    /// The leader's disk is full or stalled, so it takes no writes.
    #[error("the disk of the leader is full or stalled; retry when another node leads")]
    DiskUnavailable,
    /// Another leader's entry was committed in its place.
    #[error(
        "the change lost its place in the log to the leader of term {}, so it was not made; retry \
         there", .by.0
    )]
    Superseded {
        /// The term of the entry that was committed instead.
        by: Term,
    },
    /// The node cannot tell (it stopped, or the deadline passed).
    #[error(
        "the outcome is unknown: the change may or may not have been made, or may still be; \
         `raft-kv member list` shows it"
    )]
    Unknown,
    /// The node was shut down before it took the change.
    #[error("the node was shut down")]
    ShutDown,
}

fn unreached(missing: &[NodeId]) -> String {
    let names: Vec<String> = missing.iter().map(NodeId::to_string).collect();
    if names.is_empty() {
        return String::new();
    }
    format!(" (out of reach: {})", names.join(", "))
}

impl Raft {
    /// Changes the membership; several wishes are made together, by one change. Returns the
    /// membership once it is committed and not joint any more (§6). A leader that is removed by it
    /// still answers, then steps down.
    ///
    /// # Errors
    /// [`ChangeError`]; it always ends, at the latest after the configured request timeout.
    pub async fn change_membership(
        &self,
        changes: Vec<MembershipChange>,
        safety: ChangeSafety,
    ) -> Result<Membership, ChangeError> {
        let (done, outcome) = oneshot::channel();
        let waiter = ChangeWaiter::new(move |result| drop(done.send(result)));
        let input = Input::ChangeMembership {
            changes,
            safety,
            waiter,
        };
        if let Err(refused) = self.inbox.push_request(input, 0)
            && let (Refused::Closed, Input::ChangeMembership { waiter, .. }) = *refused
        {
            waiter.decide(Err(ChangeError::ShutDown));
        }
        outcome.await.unwrap_or(Err(ChangeError::Unknown))
    }
}
