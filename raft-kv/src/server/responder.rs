//! Answers one client request, exactly once, whatever becomes of it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use raft_core::MembershipChange;
use raft_net::{ClientConnection, SendError};
use raft_node::{
    ChangeError, ChangeSafety, ComparisonOutcome, LeaderHint, NodeState, ProposeError, Raft,
    ReadError, SnapshotError, TransferError,
};
use raft_proto::{Member, SnapshotDescription};

use super::status::member_list;
use crate::protocol::{
    self, MemberChange, Redirect, RemovalSafety, ReplicasCompared, ResponseKind, ServerRefusal,
    SnapshotOffer, SnapshotPart,
};

/// What an unanswered request means when its responder is dropped.
#[derive(Clone, Copy)]
pub(super) enum Unanswered {
    /// It was certainly not carried out.
    NotDone,
    /// It may have been carried out.
    Unknown,
    /// It was answered.
    Answered,
}

/// Answers one request, exactly once: at the latest when it is dropped.
pub(super) struct Responder {
    pub(super) connection: ClientConnection,
    pub(super) request_id: u64,
    pub(super) raft: Arc<OnceLock<Raft>>,
    pub(super) unanswered: Unanswered,
}

impl Drop for Responder {
    fn drop(&mut self) {
        match self.unanswered {
            Unanswered::Answered => {}
            Unanswered::Unknown => self.send(ResponseKind::Unknown, &[], &[]),
            Unanswered::NotDone => {
                let body = protocol::to_body(&ServerRefusal::Stopped);
                self.send(ResponseKind::Refused, &body, &[]);
            }
        }
    }
}

impl Responder {
    pub(super) fn answer(mut self, reply: &Bytes) {
        self.unanswered = Unanswered::Answered;
        self.send(ResponseKind::Answer, &[], std::slice::from_ref(reply));
    }

    pub(super) fn refuse(mut self, refusal: &ServerRefusal) {
        self.unanswered = Unanswered::Answered;
        let body = protocol::to_body(refusal);
        self.send(ResponseKind::Refused, &body, &[]);
    }

    pub(super) fn redirect(mut self, leader: Option<LeaderHint>) {
        self.unanswered = Unanswered::Answered;
        let redirect = match leader {
            Some(LeaderHint { id, address }) => Redirect {
                leader: Some(id),
                address,
            },
            None => Redirect::default(),
        };
        self.send(ResponseKind::Redirect, &protocol::to_body(&redirect), &[]);
    }

    pub(super) fn unknown(mut self) {
        self.unanswered = Unanswered::Answered;
        self.send(ResponseKind::Unknown, &[], &[]);
    }

    pub(super) fn status(mut self, status: &protocol::NodeStatus) {
        self.unanswered = Unanswered::Answered;
        self.send(ResponseKind::Status, &protocol::to_body(status), &[]);
    }

    pub(super) fn not_proposed(self, error: ProposeError) {
        match error {
            ProposeError::NotLeader { leader: None } => self.no_leader(),
            ProposeError::NotLeader { leader } => self.redirect(leader),
            ProposeError::Superseded { .. } => self.refuse(&ServerRefusal::Superseded),
            ProposeError::Unknown => self.unknown(),
            ProposeError::DiskUnavailable => self.refuse(&ServerRefusal::DiskUnavailable),
            ProposeError::Overloaded => self.refuse(&ServerRefusal::Overloaded),
            ProposeError::TooLarge { bytes, limit } => self.refuse(&ServerRefusal::TooLarge {
                bytes: bytes as u64,
                limit: limit as u64,
            }),
            ProposeError::ShutDown => self.stopped(),
        }
    }

    pub(super) fn not_read(self, error: ReadError) {
        match error {
            ReadError::NotConfirmed { leader: None } => self.no_leader(),
            ReadError::NotConfirmed { leader } => self.redirect(leader),
            ReadError::Overloaded => self.refuse(&ServerRefusal::Overloaded),
            ReadError::Restoring => self.refuse(&ServerRefusal::Restoring),
            ReadError::TimedOut => self.refuse(&ServerRefusal::ReadNotConfirmed),
            ReadError::ShutDown => self.stopped(),
        }
    }

    /// A forming node knows no leader either, but can say more.
    fn no_leader(self) {
        match self.state() {
            Some(NodeState::Running { .. }) => self.redirect(None),
            other => self.refuse(&not_running(other)),
        }
    }

    /// The node takes no requests: not any more, or not yet.
    fn stopped(self) {
        let refusal = not_running(self.state());
        self.refuse(&refusal);
    }

    fn state(&self) -> Option<NodeState> {
        self.raft.get().map(Raft::state)
    }

    pub(super) fn transferred(mut self, outcome: Result<(), TransferError>) {
        match outcome {
            Ok(()) => {
                self.unanswered = Unanswered::Answered;
                self.send(ResponseKind::Done, &[], &[]);
            }
            Err(TransferError::NotLeader { leader }) => self.redirect(leader),
            Err(TransferError::ShutDown) => self.refuse(&ServerRefusal::Stopped),
            Err(
                error @ (TransferError::NotAVoter(_)
                | TransferError::InProgress(_)
                | TransferError::Uncounted(_)
                | TransferError::OtherLeader(_)
                | TransferError::Aborted(_)
                | TransferError::TimedOut(_)),
            ) => self.refuse(&ServerRefusal::NotTransferred {
                reason: error.to_string(),
            }),
        }
    }

    /// Tells who belongs to the cluster.
    pub(super) async fn members(mut self, raft: &Raft) {
        match member_list(raft).await {
            Some(list) => {
                self.unanswered = Unanswered::Answered;
                self.send(ResponseKind::Members, &protocol::to_body(&list), &[]);
            }
            None => self.stopped(),
        }
    }

    /// Makes a change of membership, and tells the members after it.
    pub(super) async fn change_members(self, raft: &Raft, change: MemberChange) {
        let (change, safety) = change_of(change);
        match raft.change_membership(vec![change], safety).await {
            Ok(_) => self.members(raft).await,
            Err(error) => self.not_changed(error),
        }
    }

    /// Tells of a comparison of replicas.
    pub(super) fn compared(mut self, outcome: Result<ComparisonOutcome, ProposeError>) {
        match outcome {
            Ok(outcome) => {
                self.unanswered = Unanswered::Answered;
                let compared = ReplicasCompared::from(&outcome);
                self.send(ResponseKind::Compared, &protocol::to_body(&compared), &[]);
            }
            Err(error) => self.not_proposed(error),
        }
    }

    /// Tells of a snapshot that was taken.
    pub(super) fn snapshot(mut self, taken: Result<SnapshotDescription, SnapshotError>) {
        match taken {
            Ok(snapshot) => {
                let offer = SnapshotOffer {
                    last_included: snapshot.last_included,
                    total_bytes: snapshot.total_bytes,
                    checksum: snapshot.checksum,
                };
                self.unanswered = Unanswered::Answered;
                self.send(ResponseKind::Snapshot, &protocol::to_body(&offer), &[]);
            }
            Err(error) => self.no_snapshot(error),
        }
    }

    /// Sends a part of a snapshot that begins at `offset`.
    pub(super) fn snapshot_part(
        mut self,
        offset: u64,
        read: Result<Option<(Bytes, u64)>, SnapshotError>,
    ) {
        match read {
            Ok(Some((data, total_bytes))) => {
                let head = SnapshotPart::head(offset, total_bytes);
                self.unanswered = Unanswered::Answered;
                self.send(ResponseKind::SnapshotPart, &head, &[data]);
            }
            Ok(None) => self.refuse(&ServerRefusal::SnapshotGone),
            Err(error) => self.no_snapshot(error),
        }
    }

    fn no_snapshot(self, error: SnapshotError) {
        match error {
            SnapshotError::NotRunning | SnapshotError::ShutDown => self.stopped(),
            SnapshotError::NothingApplied | SnapshotError::Failed(_) => {
                self.refuse(&ServerRefusal::NoSnapshot {
                    reason: error.to_string(),
                });
            }
        }
    }

    fn not_changed(self, error: ChangeError) {
        match error {
            ChangeError::NotLeader { leader: None } => self.no_leader(),
            ChangeError::NotLeader { leader } => self.redirect(leader),
            ChangeError::NotReady => self.refuse(&ServerRefusal::LeaderNotReady),
            ChangeError::Superseded { .. } => self.refuse(&ServerRefusal::Superseded),
            ChangeError::DiskUnavailable => self.refuse(&ServerRefusal::DiskUnavailable),
            ChangeError::Unknown => self.unknown(),
            ChangeError::ShutDown => self.stopped(),
            ChangeError::InProgress
            | ChangeError::AlreadyAMember(_)
            | ChangeError::NotAMember(_)
            | ChangeError::AlreadyAVoter(_)
            | ChangeError::NotAVoter(_)
            | ChangeError::AddressInUse { .. }
            | ChangeError::LastVoter
            | ChangeError::Lagging(_)
            | ChangeError::NotCounted(_)
            | ChangeError::OtherIncarnation(_)
            | ChangeError::Nothing
            | ChangeError::Invalid(_)
            | ChangeError::WouldLoseQuorum { .. } => {
                self.refuse(&ServerRefusal::MembersNotChanged {
                    reason: error.to_string(),
                });
            }
        }
    }

    fn send(&self, kind: ResponseKind, head: &[u8], payloads: &[Bytes]) {
        match self
            .connection
            .respond(self.request_id, kind as u8, head, payloads)
        {
            Ok(()) => {}
            Err(SendError::TooLarge { found, limit }) => {
                let refusal = ServerRefusal::TooLarge {
                    bytes: found as u64,
                    limit: limit as u64,
                };
                let body = protocol::to_body(&refusal);
                let refused = ResponseKind::Refused as u8;
                // A client that is gone needs no answer.
                let _ = self
                    .connection
                    .respond(self.request_id, refused, &body, &[]);
            }
            Err(
                SendError::ShutDown
                | SendError::QueueFull(_)
                | SendError::NotConnected(_)
                | SendError::UnknownPeer(_)
                | SendError::Codec(_),
            ) => {}
        }
    }
}

/// A client's wish as Raft takes it.
fn change_of(change: MemberChange) -> (MembershipChange, ChangeSafety) {
    match change {
        MemberChange::Add {
            id,
            address,
            promotion,
        } => {
            // The first contact with the node tells which life of it is meant.
            let member = Member {
                incarnation: None,
                address,
            };
            let add = MembershipChange::AddLearner {
                id,
                member,
                promotion,
            };
            (add, ChangeSafety::KeepQuorum)
        }
        MemberChange::Promote { id } => (MembershipChange::Promote(id), ChangeSafety::KeepQuorum),
        MemberChange::Remove { id, safety } => {
            let safety = match safety {
                RemovalSafety::KeepQuorum => ChangeSafety::KeepQuorum,
                RemovalSafety::Force => ChangeSafety::Force,
            };
            (MembershipChange::Remove(id), safety)
        }
    }
}

/// Why a node that is in this state does nothing.
fn not_running(state: Option<NodeState>) -> ServerRefusal {
    match state {
        Some(NodeState::Forming { waiting_for }) => ServerRefusal::NotReady { waiting_for },
        Some(NodeState::Running { .. } | NodeState::Stopped(_)) | None => ServerRefusal::Stopped,
    }
}
