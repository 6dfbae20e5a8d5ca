//! Why a node cannot form or join a cluster, and what its operator can do.

use raft_proto::{ClusterId, Incarnation, NodeId, Refusal};
use thiserror::Error;

use super::record::{Evidence, FirstEntryError, RecordError};
use super::voters::{InitialVoters, VotersError};
use crate::admission::explain;

/// The node cannot go on. Each message says what happened, what it means and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FormationError {
    /// The list of initial voters is not usable.
    #[error(transparent)]
    Voters(#[from] VotersError),
    /// The stored record is not usable.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The first entry given is none.
    #[error("the first entry of the cluster is not usable: {0}")]
    FirstEntry(#[from] FirstEntryError),
    /// Two nodes were started with different initial voters.
    #[error(
        "this node was started with the initial voters {here}, but {peer} with {there}; both lists must be the same, addresses included: correct the wrong one and start again"
    )]
    OtherVoters {
        /// The other node.
        peer: NodeId,
        /// Our list.
        here: InitialVoters,
        /// Its list.
        there: InitialVoters,
    },
    /// The cluster that this directory belongs to has other voters.
    #[error(
        "this data directory belongs to cluster {cluster}, which was formed by {formed}, but the node was started with the initial voters {given}; start it with the voters of its cluster, or use another directory for another cluster"
    )]
    OtherCluster {
        /// The directory's cluster.
        cluster: ClusterId,
        /// The voters that formed it.
        formed: InitialVoters,
        /// The voters given now.
        given: InitialVoters,
    },
    /// A cluster of these voters exists and this directory is no part of it.
    #[error("{}", formed_elsewhere(*local, address, evidence, unreleased))]
    FormedElsewhere {
        /// This node.
        local: NodeId,
        /// Where it listens.
        address: String,
        /// How it knows.
        evidence: Evidence,
        /// Voters that may still keep their promise to this node, because they were not reached.
        unreleased: Vec<NodeId>,
    },
    /// A peer does not admit this node.
    #[error("{}", explain(refusal, *local, *peer))]
    Refused {
        /// This node.
        local: NodeId,
        /// The peer.
        peer: NodeId,
        /// Its reason.
        refusal: Refusal,
    },
    /// The voters have answered a later gatherer.
    #[error(
        "{peer} has already answered another data directory of {local}, later than this one: this is an old directory of {local}, or two processes run as {local}; stop the other process, or clear this directory (it belongs to no cluster and holds no data) and start {local} again"
    )]
    Superseded {
        /// This node.
        local: NodeId,
        /// Who said so.
        peer: NodeId,
    },
    /// A first entry names this very directory, which does not know of it.
    #[error(
        "cluster {cluster} names this data directory of {local} as its member, but the directory does not remember taking part: it is an old copy, or files in it were lost; it must not take part, because it may have acknowledged writes that it has forgotten: put the latest directory back, or clear it and re-admit the node with `raft-kv member remove {id}` and `raft-kv member add {id}=ADDRESS`, then start it with --join", id = local.0
    )]
    LostFormation {
        /// This node.
        local: NodeId,
        /// The cluster.
        cluster: ClusterId,
    },
    /// The record is another node's, or another life's.
    #[error(
        "the formation record in this data directory belongs to cluster {cluster}, which does not name {local} with incarnation {incarnation}: files of two directories were mixed; put the right ones back"
    )]
    ForeignRecord {
        /// This node.
        local: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// The cluster in the record.
        cluster: ClusterId,
    },
    /// A directory that has promised to form one cluster is asked to join another.
    #[error(
        "this data directory of {local} has promised to form a cluster with {gatherer}, so it cannot join another; start it without --join, or clear it (it belongs to no cluster and holds no data) and start it with --join"
    )]
    Promised {
        /// This node.
        local: NodeId,
        /// The gatherer's incarnation.
        gatherer: Incarnation,
    },
    /// The gatherer came back with an empty directory too often.
    #[error(
        "{gatherer} has come back with {count} different data directories before a cluster was formed; something clears its directory at each start: correct that, clear the directory of {local} (it belongs to no cluster and holds no data) and start both again"
    )]
    TooManyGatherers {
        /// This node.
        local: NodeId,
        /// The gatherer.
        gatherer: NodeId,
        /// How many of its incarnations were answered.
        count: usize,
    },
}

fn formed_elsewhere(
    local: NodeId,
    address: &str,
    evidence: &Evidence,
    unreleased: &[NodeId],
) -> String {
    let id = local.0;
    let (found, member) = match evidence {
        Evidence::MemberFound { peer, cluster } => (
            format!("{peer} already belongs to cluster {cluster}"),
            *peer,
        ),
        Evidence::Refused { peer, refusal } => {
            let why = match refusal {
                Refusal::WrongIncarnation { member } => format!(
                    "{peer} belongs to a cluster in which {local} has another data directory (incarnation {member})"
                ),
                Refusal::WrongCluster { cluster } => {
                    format!("{peer} already belongs to cluster {cluster}")
                }
                Refusal::NotAMember
                | Refusal::WrongIdentity { .. }
                | Refusal::WrongReceiver { .. }
                | Refusal::OldBoot { .. }
                | Refusal::Unavailable
                | Refusal::NoCommonVersion { .. }
                | Refusal::OtherVoters { .. } => {
                    format!("{peer} belongs to a cluster of which {local} is no member")
                }
            };
            (why, *peer)
        }
    };
    let mut message = format!(
        "{found}, so this node forms no second one with its data directory, which is not part of that cluster. \
         If the directory of {local} was wiped or replaced, re-admit the node: `raft-kv member remove {id}`, \
         `raft-kv member add {id}={address}`, clear this directory and start it with --join. \
         If the directory of {member} is left over from an earlier cluster whose data is not wanted, \
         clear the directories of {member} and {local} and start both again"
    );
    if !unreleased.is_empty() {
        let names: Vec<String> = unreleased.iter().map(NodeId::to_string).collect();
        let names = names.join(", ");
        message.push_str(&format!(
            ". {names} could not be told: if one of them waits for {local}, start this node once more while it runs"
        ));
    }
    message
}
