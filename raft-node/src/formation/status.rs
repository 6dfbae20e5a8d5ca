//! Whom an unformed node waits for, in words for logs and status.

use raft_proto::NodeId;

use super::machine::{Formation, Stage, Start};
use super::voters::InitialVoters;

impl Formation {
    /// Whom or what the node waits for, each a phrase that follows "waiting for"; empty once it
    /// belongs to a cluster or has given up.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<String> {
        let mut waiting = match (&self.stage, &self.start) {
            (Stage::Gathering { answers }, Start::Form(voters)) => {
                let others = voters.as_slice().iter().map(|(id, _)| *id);
                others
                    .filter(|id| *id != self.local.node && !answers.contains_key(id))
                    .map(|id| voters.name(id))
                    .collect()
            }
            (
                Stage::Waiting {
                    promises,
                    blocked_by,
                },
                Start::Form(voters),
            ) => match blocked_by {
                Some((peer, cluster)) => vec![format!(
                    "{} to release this node's promise: {peer} belongs to cluster {cluster}, which can only be joined then; start {} again, an empty data directory will do",
                    voters.name(voters.gatherer()),
                    voters.gatherer()
                )],
                None => vec![self.gathering(voters, promises.current.is_some())],
            },
            (Stage::Joining, _) => vec![format!(
                "a member of the cluster to contact it; run `raft-kv member add {}=ADDRESS` at the cluster if that was not done",
                self.local.node.0
            )],
            (Stage::Abandoned { unreleased, .. }, Start::Form(voters)) => {
                unreleased.iter().map(|id| voters.name(*id)).collect()
            }
            (Stage::Gathering { .. } | Stage::Waiting { .. }, Start::Join)
            | (Stage::Abandoned { .. }, Start::Join)
            | (Stage::Formed { .. } | Stage::Failing { .. } | Stage::Failed, _) => {
                return Vec::new();
            }
        };
        waiting.extend(self.notes.values().cloned());
        waiting
    }

    fn gathering(&self, voters: &InitialVoters, answered: bool) -> String {
        let gatherer: NodeId = voters.gatherer();
        let name = voters.name(gatherer);
        match (self.connected.contains_key(&gatherer), answered) {
            (false, _) => name,
            (true, false) => format!("{name} to ask this node to form a cluster"),
            (true, true) => format!("{name}, which gathers the other voters"),
        }
    }
}
