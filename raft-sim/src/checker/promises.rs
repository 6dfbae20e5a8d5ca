//! Votes and acknowledgements promise something durable (Figure 2): is it, when they are sent?

use std::collections::BTreeMap;

use raft_proto::{AppendOutcome, HardState, InstallOutcome, LogPosition, Message, NodeId, Term};

/// Most requests remembered; older ones are forgotten, and their answers not checked.
const MAX_REQUESTS: usize = 100_000;

/// Names an AppendEntries request: leader, follower, term, sequence.
type RequestName = (NodeId, NodeId, Term, u64);

/// What was asked, so that the answers can be judged.
#[derive(Default)]
pub(super) struct Promises {
    /// The last entry of each request.
    requests: BTreeMap<RequestName, LogPosition>,
}

impl Promises {
    /// Notes a message that is sent, and says whether its sender may send it with this durable
    /// state.
    pub(super) fn is_kept(
        &mut self,
        node: NodeId,
        to: NodeId,
        message: &Message,
        durable: HardState,
        log: &[Term],
    ) -> bool {
        if let Message::VoteRequest(request) = message {
            return has_voted(durable, request.term, node);
        }
        if let Message::VoteResponse(answer) = message {
            return !answer.granted || has_voted(durable, answer.term, to);
        }
        if let Message::AppendRequest(request) = message {
            let last = request.entries.last();
            let last = last.map_or(request.previous, raft_proto::Entry::position);
            if self.requests.len() >= MAX_REQUESTS {
                self.requests.pop_first();
            }
            let name = (node, to, request.term, request.sequence);
            self.requests.insert(name, last);
        }
        if let Message::InstallSnapshotRequest(request) = message {
            let name = (node, to, request.term, request.sequence);
            self.requests.insert(name, request.snapshot.last_included);
        }
        if let Message::InstallSnapshotResponse(answer) = message
            && answer.outcome == InstallOutcome::Installed
        {
            let name = (to, node, answer.term, answer.sequence);
            return self
                .requests
                .get(&name)
                .is_none_or(|last| holds(log, *last));
        }
        if let Message::AppendResponse(answer) = message
            && answer.outcome == AppendOutcome::Accepted
        {
            let name = (to, node, answer.term, answer.sequence);
            let is_held = self
                .requests
                .get(&name)
                .is_none_or(|last| holds(log, *last));
            return is_held && durable.term >= answer.term;
        }
        true
    }
}

/// Whether the vote of this term is durably given to this candidate, or the term is over.
fn has_voted(durable: HardState, term: Term, candidate: NodeId) -> bool {
    durable.term > term || (durable.term == term && durable.vote == Some(candidate))
}

fn holds(log: &[Term], position: LogPosition) -> bool {
    match position.index.0.checked_sub(1) {
        None => true,
        Some(at) => log.get(at as usize) == Some(&position.term),
    }
}

#[cfg(test)]
mod tests {
    use raft_proto::{
        AppendRequest, AppendResponse, Entry, EntryKind, LogIndex, VoteRequest, VoteResponse,
    };

    use super::*;

    fn voted(term: u64, vote: Option<u64>) -> HardState {
        HardState {
            term: Term(term),
            vote: vote.map(NodeId),
        }
    }

    #[test]
    fn votes_must_be_durable_when_they_are_sent() {
        let grant = |granted| {
            let term = Term(3);
            Message::from(VoteResponse { term, granted })
        };
        let ask = Message::from(VoteRequest {
            term: Term(3),
            last_log: LogPosition::ZERO,
            leadership_transfer: false,
        });
        let mut promises = Promises::default();
        let mut kept = |message: &Message, durable| {
            promises.is_kept(NodeId(1), NodeId(2), message, durable, &[])
        };
        assert!(kept(&grant(true), voted(3, Some(2))));
        assert!(!kept(&grant(true), voted(3, None)));
        assert!(!kept(&grant(true), voted(2, Some(2))));
        assert!(kept(&grant(false), voted(2, None)));
        assert!(kept(&ask, voted(3, Some(1))));
        assert!(!kept(&ask, voted(3, Some(2))));
    }

    #[test]
    fn acknowledged_entries_must_be_durable() {
        let entry = Entry {
            index: LogIndex(1),
            term: Term(2),
            kind: EntryKind::Noop,
            payload: bytes::Bytes::new(),
        };
        let request = Message::from(AppendRequest {
            term: Term(2),
            sequence: 7,
            previous: LogPosition::ZERO,
            commit_index: LogIndex::ZERO,
            entries: vec![entry],
        });
        let accepted = Message::from(AppendResponse {
            term: Term(2),
            sequence: 7,
            outcome: AppendOutcome::Accepted,
        });
        let (leader, follower) = (NodeId(1), NodeId(2));
        let mut promises = Promises::default();
        assert!(promises.is_kept(leader, follower, &request, voted(2, None), &[]));
        let mut answers =
            |durable, log: &[Term]| promises.is_kept(follower, leader, &accepted, durable, log);
        assert!(answers(voted(2, None), &[Term(2)]));
        assert!(!answers(voted(2, None), &[]));
        assert!(!answers(voted(2, None), &[Term(1)]));
        assert!(!answers(voted(1, None), &[Term(2)]));
    }
}
