//! Requests about the node and its cluster: rare, and each on a task of its own.

use raft_node::Raft;
use raft_proto::NodeId;

use super::responder::Responder;
use super::status::node_status;
use crate::protocol::{
    self, MAX_SNAPSHOT_PART_BYTES, MemberChange, ReadSnapshotRequest, ServerRefusal,
    TransferRequest,
};

/// What an operator asks for.
pub(super) enum Work {
    Status,
    Transfer(NodeId),
    Members,
    ChangeMembers(MemberChange),
    TakeSnapshot,
    ReadSnapshot(ReadSnapshotRequest),
    CompareReplicas,
}

impl Work {
    pub(super) fn transfer(body: &[u8]) -> Result<Self, ServerRefusal> {
        let TransferRequest { to } = protocol::from_body(body)?;
        Ok(Self::Transfer(to))
    }

    pub(super) fn members(body: &[u8]) -> Result<Self, ServerRefusal> {
        nothing(body)?;
        Ok(Self::Members)
    }

    pub(super) fn change_members(body: &[u8]) -> Result<Self, ServerRefusal> {
        Ok(Self::ChangeMembers(protocol::from_body(body)?))
    }

    pub(super) fn take_snapshot(body: &[u8]) -> Result<Self, ServerRefusal> {
        nothing(body)?;
        Ok(Self::TakeSnapshot)
    }

    pub(super) fn read_snapshot(body: &[u8]) -> Result<Self, ServerRefusal> {
        Ok(Self::ReadSnapshot(protocol::from_body(body)?))
    }

    pub(super) fn compare_replicas(body: &[u8]) -> Result<Self, ServerRefusal> {
        nothing(body)?;
        Ok(Self::CompareReplicas)
    }

    /// Does it, and answers.
    pub(super) async fn carry_out(self, id: NodeId, raft: Raft, responder: Responder) {
        match self {
            Self::Status => responder.status(&node_status(id, &raft).await),
            Self::Transfer(to) => responder.transferred(raft.transfer_leadership(to).await),
            Self::Members => responder.members(&raft).await,
            Self::ChangeMembers(change) => responder.change_members(&raft, change).await,
            Self::CompareReplicas => responder.compared(raft.compare_replicas().await),
            Self::TakeSnapshot => responder.snapshot(raft.take_snapshot().await),
            Self::ReadSnapshot(part) => {
                let max_bytes = part.max_bytes.min(MAX_SNAPSHOT_PART_BYTES);
                let read = raft.read_snapshot(part.last_included, part.offset, max_bytes);
                responder.snapshot_part(part.offset, read.await);
            }
        }
    }
}

/// A request that consists of its kind alone.
fn nothing(body: &[u8]) -> Result<(), ServerRefusal> {
    match body {
        [] => Ok(()),
        [_, ..] => Err(ServerRefusal::Malformed),
    }
}
