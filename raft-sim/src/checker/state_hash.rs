//! Replicas that applied the same entries have the same state, and gave the same replies (§2; thesis
//! §2.1): hashes of both are compared at equal applied indexes.

use std::collections::BTreeMap;

use raft_proto::{LogIndex, NodeId};

use super::violation::Violation;

/// Hashes by the last entry applied: the first one seen of each.
#[derive(Default)]
pub(super) struct StateHashes {
    /// Of states, as snapshots and restored machines showed them.
    states: BTreeMap<LogIndex, u64>,
    /// Of the replies to the commands, in the order of the log; `None` where nobody replied yet.
    replies: Vec<Option<u64>>,
}

impl StateHashes {
    pub(super) fn state(
        &mut self,
        node: NodeId,
        index: LogIndex,
        hash: u64,
    ) -> Result<(), Violation> {
        if *self.states.entry(index).or_insert(hash) == hash {
            Ok(())
        } else {
            Err(Violation::StateDiverged { node, index })
        }
    }

    pub(super) fn reply(
        &mut self,
        node: NodeId,
        index: LogIndex,
        hash: u64,
    ) -> Result<(), Violation> {
        let at = index.0 as usize;
        if self.replies.len() <= at {
            self.replies.resize(at + 1, None);
        }
        if *self.replies[at].get_or_insert(hash) == hash {
            Ok(())
        } else {
            Err(Violation::RepliesDiverged { node, index })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_entries_give_equal_states() {
        let mut seen = StateHashes::default();
        seen.state(NodeId(1), LogIndex(7), 42).unwrap();
        seen.state(NodeId(2), LogIndex(7), 42).unwrap();
        seen.state(NodeId(2), LogIndex(8), 43).unwrap();
        let error = seen.state(NodeId(3), LogIndex(7), 43).unwrap_err();
        assert!(matches!(error, Violation::StateDiverged { .. }), "{error}");
    }

    #[test]
    fn equal_entries_get_equal_replies() {
        let mut seen = StateHashes::default();
        seen.reply(NodeId(1), LogIndex(9), 1).unwrap();
        seen.reply(NodeId(1), LogIndex(7), 5).unwrap();
        seen.reply(NodeId(2), LogIndex(7), 5).unwrap();
        let error = seen.reply(NodeId(2), LogIndex(9), 2).unwrap_err();
        assert!(
            matches!(error, Violation::RepliesDiverged { .. }),
            "{error}"
        );
    }
}
