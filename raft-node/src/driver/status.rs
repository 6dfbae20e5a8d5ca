//! A node's view of itself and its group at one moment.

use std::time::Duration;

use raft_core::{IndexRange, RaftCore, Replication, Role, Time};
use raft_proto::{LogIndex, LogPosition, Membership, NodeId, Term};

use super::comparison::ComparisonStatus;
use super::snapshots::SnapshotStatus;

/// What a node knows of its group.
#[derive(Clone, Debug)]
pub struct Status {
    /// This node.
    pub id: NodeId,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// The leader it follows, itself included.
    pub leader: Option<NodeId>,
    /// Everything up to here is committed, as far as it knows.
    pub commit_index: LogIndex,
    /// Everything up to here is in its state machine.
    pub applied_index: LogIndex,
    /// The first entry in its log; one after `last_index` if there is none.
    pub first_index: LogIndex,
    /// The end of its log.
    pub last_index: LogIndex,
    /// The last entry covered by its newest snapshot; 0 if it has none.
    pub snapshot_index: LogIndex,
    /// Its snapshots, and what is going on with them.
    pub snapshots: SnapshotStatus,
    /// What its log takes on disk, in bytes.
    pub log_bytes: u64,
    /// The members in force.
    pub membership: Membership,
    /// Whether it is known to be no member (any more): it waits to be added again, or to be
    /// stopped.
    pub is_removed: bool,
    /// Whether it takes part in nothing that is counted.
    pub is_uncounted: bool,
    /// Entries whose content is damaged on its disk and not yet healed from peers.
    pub missing: Vec<IndexRange>,
    /// The end of the snapshot that is damaged on its disk and not yet replaced by a peer's.
    pub lost_snapshot: Option<LogPosition>,
    /// How equal the replicas are.
    pub comparison: ComparisonStatus,
    /// The leader's view of the other members; empty on other nodes.
    pub peers: Vec<PeerStatus>,
}

/// A leader's view of one other member.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// The member.
    pub id: NodeId,
    /// How entries are sent to it.
    pub replication: Replication,
    /// It durably holds the log up to here.
    pub match_index: LogIndex,
    /// The next entry to send to it.
    pub next_index: LogIndex,
    /// Payload bytes on the way to it.
    pub inflight_bytes: u64,
    /// How long nothing was heard of it.
    pub silent_for: Duration,
}

impl Status {
    pub(super) fn of(
        core: &RaftCore,
        now: Time,
        log_bytes: u64,
        snapshots: SnapshotStatus,
        comparison: ComparisonStatus,
    ) -> Self {
        let peers = core.peers().map(|peer| PeerStatus {
            id: peer.id,
            replication: peer.replication,
            match_index: peer.match_index,
            next_index: peer.next_index,
            inflight_bytes: peer.inflight_bytes,
            silent_for: Duration::from_nanos(now.0.saturating_sub(peer.contact.0)),
        });
        Self {
            id: core.config().id,
            role: core.role(),
            term: core.term(),
            leader: core.leader(),
            commit_index: core.commit_index(),
            applied_index: core.applied_index(),
            first_index: core.base_position().index.next(),
            last_index: core.last_position().index,
            snapshot_index: snapshots
                .newest
                .as_ref()
                .map_or(LogIndex::ZERO, |newest| newest.last_included.index),
            snapshots,
            log_bytes,
            membership: core.membership().clone(),
            is_removed: core.is_removed(),
            is_uncounted: core.is_uncounted(),
            missing: core.missing().collect(),
            lost_snapshot: core.lost_snapshot(),
            comparison,
            peers: peers.collect(),
        }
    }
}
