//! What clients do in a simulated world, and how it is judged at the end: the part that a user of
//! the simulator writes for a state machine of their own.

use bytes::Bytes;
use raft_core::Time;
use raft_node::StateMachine;
use raft_proto::NodeId;

use super::plan::Plan;
use crate::cluster::Cluster;

/// A state machine and what clients do with it, in one run.
///
/// [`crate::registers::Registers`] is an example, with a history that is checked for
/// linearizability.
pub trait Workload {
    /// Makes the state machine of a node, as after every restart.
    fn machines(&self) -> Box<dyn Fn(NodeId) -> Box<dyn StateMachine>>;

    /// Spawns the plan's clients, which end by themselves by `plan.trouble_ms`.
    fn spawn(&mut self, cluster: &mut Cluster, plan: &Plan);

    /// A command that any state accepts; the run sends it after the trouble.
    fn probe_command(&self) -> Bytes;

    /// A query that any state answers.
    fn probe_query(&self) -> Bytes;

    /// Judges what clients saw, once all have ended.
    ///
    /// # Errors
    /// What was promised and not kept, for people.
    fn judge(&self, cluster: &Cluster) -> Result<Judgement, String>;
}

/// What a workload says about a run in which no promise was broken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Operations that clients made.
    pub operations: u64,
    /// When writes were acknowledged.
    pub acknowledged: Vec<Time>,
    /// Whether the search for an order was given up: then the history shows nothing.
    pub is_undecided: bool,
}
