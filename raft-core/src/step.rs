//! Messages: the rules about terms once, then one match (D4).

use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{
    AppendOutcome, AppendResponse, HeartbeatResponse, InstallOutcome, InstallSnapshotResponse,
    Message, NodeId, ReadIndexResponse, Term, VoteResponse,
};

use crate::core::RaftCore;
use crate::output::{Role, Transmit, Violation};
use crate::roles::{Promise, RestsOn, RoleState, Withheld};
use crate::time::{MessageId, Time};

/// No term or index of a real cluster exceeds it; arithmetic on anything up to it is safe. What a
/// peer sends must not make this node count beyond the end of the numbers.
pub(crate) const LARGEST_NUMBER: u64 = 1 << 62;

impl RaftCore {
    /// A message arrived. `from` and `uncounted` come from its connection and frame; `id` names
    /// it for [`crate::Persist::message`]. Messages that are not the core's (hellos, cluster
    /// formation, bulk transfer) are ignored.
    pub fn handle_message(
        &mut self,
        now: Time,
        from: NodeId,
        uncounted: bool,
        id: MessageId,
        message: &Message,
    ) {
        self.advance_clock(now);
        let Some(term) = message.term() else {
            return;
        };
        if self.is_halted() || from == self.config.id {
            return;
        }
        if term.0 > LARGEST_NUMBER {
            self.report_violation(from, Violation::ImpossibleNumber);
            return;
        }
        if uncounted {
            self.discount(from);
        }
        if self.obey_term(from, term, message) {
            self.dispatch(from, uncounted, id, message);
        }
    }

    /// Applies the rules about terms (§5.1); returns whether the message is of the current term,
    /// or one that stands above terms, and must be handled.
    fn obey_term(&mut self, from: NodeId, term: Term, message: &Message) -> bool {
        // A pre-vote moves nobody's term (thesis §9.6); only a refusal tells a later one.
        let is_pre_vote = matches!(message, Message::PreVoteRequest(_))
            || matches!(message, Message::PreVoteResponse(response) if response.granted);
        if is_pre_vote || self.is_about_repair(term, message) {
            return true;
        }
        // A node that hears from a leader ignores candidates altogether (thesis §4.2.3).
        if let Message::VoteRequest(request) = message
            && term > self.term()
            && !request.leadership_transfer
            && self.hears_from_leader()
            && !is_planted(Mutant::DisruptiveServers)
        {
            return false;
        }
        if term > self.term() {
            let leader = is_from_leader(message).then_some(from);
            self.become_follower(term, leader);
        } else if term < self.term() {
            self.answer_stale(from, message);
            return false;
        }
        true
    }

    /// Whether a message is about lost content, which is the same in every term. A request of a later
    /// term is judged where it is answered; an answer of one is obeyed like any other message.
    fn is_about_repair(&self, term: Term, message: &Message) -> bool {
        match message {
            Message::FetchEntriesRequest(_)
            | Message::DescribeSnapshotRequest(_)
            | Message::DescribeSnapshotResponse(_) => true,
            Message::FetchEntriesResponse(_) => term <= self.term(),
            Message::PreVoteRequest(_)
            | Message::PreVoteResponse(_)
            | Message::VoteRequest(_)
            | Message::VoteResponse(_)
            | Message::AppendRequest(_)
            | Message::AppendResponse(_)
            | Message::Heartbeat(_)
            | Message::HeartbeatResponse(_)
            | Message::TimeoutNow(_)
            | Message::InstallSnapshotRequest(_)
            | Message::InstallSnapshotResponse(_)
            | Message::ReadIndexRequest(_)
            | Message::ReadIndexResponse(_)
            | Message::RecountRequest(_)
            | Message::RecountOffer(_)
            | Message::RecountResponse(_)
            | Message::Hello(_)
            | Message::HelloResponse(_)
            | Message::GatherRequest(_)
            | Message::GatherResponse(_)
            | Message::GatherAbandoned(_)
            | Message::AdoptRequest(_)
            | Message::AdoptResponse(_)
            | Message::FetchSnapshotRequest(_)
            | Message::FetchSnapshotResponse(_)
            | Message::ComparisonReport(_) => false,
        }
    }

    fn dispatch(&mut self, from: NodeId, uncounted: bool, id: MessageId, message: &Message) {
        match message {
            Message::PreVoteRequest(m) => self.handle_pre_vote_request(from, m),
            Message::PreVoteResponse(m) => self.handle_pre_vote_response(from, uncounted, m),
            Message::VoteRequest(m) => self.handle_vote_request(from, m),
            Message::VoteResponse(m) => self.handle_vote_response(from, uncounted, m),
            Message::AppendRequest(m) => self.handle_append_request(from, id, m),
            Message::AppendResponse(m) => self.handle_append_response(from, uncounted, m),
            Message::Heartbeat(m) => self.handle_heartbeat(from, m),
            Message::HeartbeatResponse(m) => self.handle_heartbeat_response(from, uncounted, m),
            Message::TimeoutNow(_) => self.handle_timeout_now(from),
            Message::InstallSnapshotRequest(m) => self.handle_install_request(from, m),
            Message::InstallSnapshotResponse(m) => self.handle_install_response(from, m),
            Message::ReadIndexRequest(m) => self.handle_read_index_request(from, m),
            Message::ReadIndexResponse(m) => self.handle_read_index_response(from, m),
            Message::FetchEntriesRequest(m) => self.handle_fetch_entries_request(from, m),
            Message::FetchEntriesResponse(m) => {
                self.handle_fetch_entries_response(from, uncounted, id, m);
            }
            Message::DescribeSnapshotRequest(m) => self.handle_describe_snapshot_request(from, m),
            Message::DescribeSnapshotResponse(m) => self.handle_describe_snapshot_response(from, m),
            Message::RecountRequest(m) => self.handle_recount_request(from, m),
            Message::RecountOffer(m) => self.handle_recount_offer(from, m),
            Message::RecountResponse(m) => self.handle_recount_response(from, uncounted, m),
            Message::Hello(_)
            | Message::HelloResponse(_)
            | Message::GatherRequest(_)
            | Message::GatherResponse(_)
            | Message::GatherAbandoned(_)
            | Message::AdoptRequest(_)
            | Message::AdoptResponse(_)
            | Message::FetchSnapshotRequest(_)
            | Message::FetchSnapshotResponse(_)
            | Message::ComparisonReport(_) => {}
        }
    }

    /// Tells the sender of a request of an earlier term about the current one, so that it steps
    /// down, or campaigns high enough: else a node that is ahead could never rejoin.
    fn answer_stale(&mut self, to: NodeId, message: &Message) {
        let term = self.term();
        let answer: Message = if let Message::VoteRequest(_) = message {
            VoteResponse {
                term,
                granted: false,
            }
            .into()
        } else if let Message::AppendRequest(m) = message {
            AppendResponse {
                term,
                sequence: m.sequence,
                outcome: AppendOutcome::StaleTerm,
            }
            .into()
        } else if let Message::Heartbeat(_) = message {
            // It is the answer to an earlier leader's round, perhaps of the very node that leads now: no
            // read of the current term may take it for a confirmation.
            HeartbeatResponse { term, round: 0 }.into()
        } else if let Message::InstallSnapshotRequest(m) = message {
            InstallSnapshotResponse {
                term,
                sequence: m.sequence,
                outcome: InstallOutcome::Refused,
            }
            .into()
        } else if let Message::ReadIndexRequest(m) = message {
            ReadIndexResponse {
                term,
                id: m.id,
                read_index: None,
            }
            .into()
        } else {
            return;
        };
        self.send_after_term(to, answer);
    }

    /// Whether a leader is alive as far as this node can tell (thesis §4.2.3). A leader hears
    /// from itself; without a quorum it steps down.
    pub(crate) fn hears_from_leader(&self) -> bool {
        if matches!(self.role, RoleState::Leader(_)) {
            return true;
        }
        self.leader_contact
            .is_some_and(|contact| self.now < self.config.lease_end(contact))
    }

    /// Sends a message that promises nothing durable beyond the term it carries.
    pub(crate) fn send_after_term(&mut self, to: NodeId, message: Message) {
        match self.persists.hard_state_waits_for() {
            None => self.send(to, message),
            Some(after) => self.withheld.push(Withheld {
                after,
                rests_on: RestsOn::HardState,
                promise: Promise::Message { to, message },
            }),
        }
    }

    /// Sends a message that promises nothing durable.
    pub(crate) fn send(&mut self, to: NodeId, message: Message) {
        self.outbox.push_back(Transmit::Message { to, message });
    }

    /// Whether this node leads.
    pub(crate) const fn is_leader(&self) -> bool {
        matches!(self.role(), Role::Leader)
    }
}

/// Whether only the leader of its term sends such a message.
const fn is_from_leader(message: &Message) -> bool {
    matches!(
        message,
        Message::AppendRequest(_)
            | Message::Heartbeat(_)
            | Message::TimeoutNow(_)
            | Message::InstallSnapshotRequest(_)
            | Message::RecountOffer(_)
    )
}
