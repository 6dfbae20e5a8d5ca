//! Notices rare states, for the "sometimes" marks.

use raft_core::Role;
use raft_node::ProposeError;
use raft_proto::{AppendOutcome, LogIndex, Message, Term};

use super::Cluster;
use super::node::{Process, ProcessId};
use crate::client::CallError;
use crate::marks::Mark;

/// What was last seen of a node.
pub(super) type Shown = (Role, Term, LogIndex);

impl Cluster {
    /// A node has done something.
    /// A rare state was reached, says who looks from outside.
    pub(crate) fn mark(&mut self, mark: Mark) {
        self.tally.mark(mark);
    }

    pub(super) fn mark_step(&mut self, id: ProcessId, before: Shown, after: Shown) {
        let ((was, old_term, old_commit), (is, term, commit)) = (before, after);
        if was == Role::Leader && is != Role::Leader && old_term == term {
            self.tally.mark(Mark::SteppedDownAlone);
        }
        if was == Role::Candidate && is == Role::PreCandidate {
            self.tally.mark(Mark::ElectionUndecided);
        }
        if was != Role::Leader && is == Role::Leader && self.leads_another(id) {
            self.tally.mark(Mark::TwoLeadersOfTwoTerms);
        }
        let is_joint = self
            .core(id.node)
            .is_some_and(|core| core.membership().is_joint());
        if was != Role::Leader && is == Role::Leader && is_joint {
            self.tally.mark(Mark::JointAcrossElection);
        }
        let first = self
            .core(id.node)
            .and_then(|core| core.term_at(old_commit.next()));
        if is == Role::Leader && commit > old_commit && first.is_some_and(|first| first < term) {
            self.tally.mark(Mark::CommittedEarlierTerms);
        }
    }

    /// Whether another process takes itself for a leader.
    fn leads_another(&self, id: ProcessId) -> bool {
        let processes = self.nodes.values().filter_map(|node| node.process.as_ref());
        let leads =
            |process: &Process| process.id != id && process.driver.core().role() == Role::Leader;
        processes.into_iter().any(leads)
    }

    /// A node sends a message.
    pub(super) fn mark_message(&mut self, id: ProcessId, message: &Message) {
        if let Message::AppendResponse(answer) = message
            && let AppendOutcome::Rejected {
                conflict_term: Some(_),
                ..
            } = answer.outcome
        {
            self.tally.mark(Mark::FollowerDiverged);
        }
        let hangs = self
            .nodes
            .get(&id.node)
            .is_some_and(|node| node.disk.hangs());
        if hangs && matches!(message, Message::TimeoutNow(_)) {
            self.tally.mark(Mark::HandedOverByStalledDisk);
        }
    }

    /// A client is told what became of its request.
    pub(super) fn mark_outcome(&mut self, error: &CallError) {
        if let CallError::Propose(error) = error {
            match error {
                ProposeError::Overloaded => self.tally.mark(Mark::Overloaded),
                ProposeError::Unknown => self.tally.mark(Mark::OutcomeUnknown),
                ProposeError::Superseded { .. } => self.tally.mark(Mark::OutcomeSuperseded),
                ProposeError::NotLeader { .. }
                | ProposeError::DiskUnavailable
                | ProposeError::TooLarge { .. }
                | ProposeError::ShutDown => {}
            }
        }
    }
}
