//! Configuration of a node, and the parts it is made of.

use std::time::Duration;

use raft_log::{DataDir, LogOptions};
use raft_proto::NodeId;
use thiserror::Error;

use crate::driver::{ComparisonPolicy, DriverLimits};
use crate::machine::StateMachine;
use crate::transport::TransportBuilder;

/// How often replicas are compared, unless it is said otherwise.
const COMPARISON_INTERVAL: Duration = Duration::from_secs(60);

/// Where the applier runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ApplyOn {
    /// On a thread of its own: right for state machines that may take long.
    #[default]
    OwnThread,
    /// On the node's main thread: two thread hops fewer for each command and query, for state
    /// machines whose calls take microseconds.
    NodeThread,
}

/// What a node does while its data directory belongs to no cluster. Once it does, that is where it
/// goes on, however it is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartKind {
    /// Forms a new cluster.
    Form {
        /// The voters that it starts with: id and `host:port` of each, this node included. The
        /// same on all of them.
        initial_voters: Vec<(NodeId, String)>,
    },
    /// Waits for a cluster that exists to add it: its members dial the address that they were
    /// given.
    Join {
        /// Nodes to dial besides; may be empty.
        peers: Vec<(NodeId, String)>,
    },
}

impl StartKind {
    /// Whom to dial while the log does not name this node.
    pub(crate) fn join_peers(&self) -> Vec<(NodeId, String)> {
        match self {
            Self::Form { .. } => Vec::new(),
            Self::Join { peers } => peers.clone(),
        }
    }
}

/// Configuration of a node.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// Timers, windows and limits of the consensus core.
    pub core: raft_core::Config,
    /// Limits of the driver.
    pub limits: DriverLimits,
    /// Options of the log.
    pub log: LogOptions,
    /// Whether it forms a cluster or joins one.
    pub start: StartKind,
    /// Where the applier runs.
    pub apply_on: ApplyOn,
    /// Most notices that wait for the node's main thread.
    pub max_inbox_notices: usize,
    /// Most bytes of commands and queries that wait for the node's main thread.
    pub max_inbox_request_bytes: usize,
    /// How fast sealed segments and stored snapshots are read in the background to find rot, in
    /// bytes per second; 0 for not at all.
    pub scrub_bytes_per_second: u64,
}

impl RaftConfig {
    /// Defaults for node `id` of a new group with these initial voters.
    #[must_use]
    pub fn new(id: NodeId, initial_voters: Vec<(NodeId, String)>) -> Self {
        Self {
            core: raft_core::Config::new(id),
            limits: DriverLimits {
                comparison: ComparisonPolicy {
                    interval: Some(COMPARISON_INTERVAL),
                    ..ComparisonPolicy::default()
                },
                ..DriverLimits::default()
            },
            log: LogOptions::default(),
            start: StartKind::Form { initial_voters },
            apply_on: ApplyOn::default(),
            max_inbox_notices: 1 << 16,
            max_inbox_request_bytes: 64 << 20,
            scrub_bytes_per_second: 2 << 20,
        }
    }

    /// Defaults for node `id` that joins a group that exists.
    #[must_use]
    pub fn joining(id: NodeId) -> Self {
        Self {
            start: StartKind::Join { peers: Vec::new() },
            ..Self::new(id, Vec::new())
        }
    }

    /// Refuses what cannot work.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), StartError> {
        self.core.validate()?;
        self.log.validate()?;
        self.limits.snapshots.validate()?;
        Ok(())
    }
}

/// What a node is made of besides its configuration.
pub struct Parts {
    /// Its data directory, opened and locked.
    pub directory: DataDir,
    /// The state that is replicated.
    pub machine: Box<dyn StateMachine>,
    /// How it reaches its peers.
    pub transport: Box<dyn TransportBuilder>,
}

/// Why a node cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The consensus configuration cannot work.
    #[error("invalid configuration: {0}")]
    Core(#[from] raft_core::ConfigError),
    /// The log's options cannot work.
    #[error("invalid log options: {0}")]
    Log(#[from] raft_log::OptionsError),
    /// The snapshot policy cannot work.
    #[error("invalid snapshot policy: {0}")]
    Snapshots(#[from] crate::driver::PolicyError),
    /// The operating system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}
