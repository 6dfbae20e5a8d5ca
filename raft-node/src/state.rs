//! The life of a node as its owner sees it.

use raft_proto::ClusterId;

use crate::error::FatalError;

/// Where a node is in its life.
#[derive(Clone, Debug)]
pub enum NodeState {
    /// It opens its log, or waits for the other initial voters.
    Forming {
        /// Who or what is waited for, for a person.
        waiting_for: Vec<String>,
    },
    /// It takes part in its cluster.
    Running {
        /// The cluster.
        cluster: ClusterId,
    },
    /// It has ended; with an error if nobody asked for it.
    Stopped(Option<FatalError>),
}
