//! What a client hears of a comparison of the replicas.

use raft_node::{Blame, Compared, ComparisonOutcome, Difference};
use raft_proto::NodeId;
use serde::{Deserialize, Serialize};

/// Body of [`super::ResponseKind::Compared`]: a comparison that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicasCompared {
    /// The states were compared with everything applied up to this log entry.
    pub entry: u64,
    /// First and last log entry that were to be compared, if the log had any.
    pub entries: Option<(u64, u64)>,
    /// The members that took part.
    pub reported: Vec<NodeId>,
    /// The members that did not report in time.
    pub silent: Vec<NodeId>,
    /// What differs; nothing if all is well.
    pub differences: Vec<ReplicaDifference>,
}

/// Replicas that differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaDifference {
    /// First and last log entry that differ; `None` if the states differ.
    pub entries: Option<(u64, u64)>,
    /// The nodes.
    pub nodes: Vec<NodeId>,
    /// Whether these are known to be the wrong ones: most members agree with each other, and not
    /// with them. If not, they differ among each other.
    pub is_named: bool,
    /// The same as a sentence.
    pub text: String,
}

impl From<&ComparisonOutcome> for ReplicasCompared {
    fn from(outcome: &ComparisonOutcome) -> Self {
        Self {
            entry: outcome.entry.index.0,
            entries: outcome.range.map(|range| (range.first.0, range.last.0)),
            reported: outcome.reported.clone(),
            silent: outcome.silent.clone(),
            differences: outcome.differences.iter().map(Into::into).collect(),
        }
    }
}

impl From<&Difference> for ReplicaDifference {
    fn from(difference: &Difference) -> Self {
        Self {
            entries: match difference.compared {
                Compared::State => None,
                Compared::Log(range) => Some((range.first.0, range.last.0)),
            },
            nodes: difference.nodes.clone(),
            is_named: difference.blame == Blame::Named,
            text: difference.to_string(),
        }
    }
}
