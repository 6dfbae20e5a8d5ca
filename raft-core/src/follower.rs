//! What a follower does with its leader's appends and heartbeats (§5.3).

use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{
    AppendOutcome, AppendRequest, AppendResponse, Entry, EntryKind, Heartbeat, HeartbeatResponse,
    LogIndex, Membership, NodeId, Term,
};

use crate::core::RaftCore;
use crate::output::{Event, IndexRange, MembershipStage, Violation};
use crate::persist_queue::Source;
use crate::roles::{Promise, RestsOn, RoleState, Withheld};
use crate::step::LARGEST_NUMBER;
use crate::time::MessageId;

/// The sequence of an answer to no append: it asks the leader for one. Requests count from 1.
pub(crate) const UNSOLICITED: u64 = 0;

impl RaftCore {
    /// AppendEntries of the current term.
    pub(crate) fn handle_append_request(
        &mut self,
        from: NodeId,
        id: MessageId,
        request: &AppendRequest,
    ) {
        if !self.follow(from) {
            return;
        }
        if let Err(violation) = self.try_append(from, id, request) {
            self.report_violation(from, violation);
        }
    }

    /// A heartbeat of the current term. It may have overtaken entries of the same leader, so its
    /// commit index counts only as far as this log is known to be the leader's.
    pub(crate) fn handle_heartbeat(&mut self, from: NodeId, heartbeat: &Heartbeat) {
        if !self.follow(from) {
            return;
        }
        self.advance_commit(heartbeat.commit_index.min(self.verified));
        let response = HeartbeatResponse {
            term: self.term(),
            round: heartbeat.round,
        };
        self.send_after_term(from, response.into());
        self.ask_to_count(from);
        if heartbeat.commit_index > self.verified {
            // The leader knows this node to hold more than the node itself can tell: it has
            // restarted within the term. Only an append can show what they have in common.
            self.ask_for_append(from);
        }
    }

    /// Takes the sender for the leader of the current term; returns whether that is possible.
    pub(crate) fn follow(&mut self, from: NodeId) -> bool {
        let is_second = self.leader.is_some_and(|leader| leader != from);
        if self.is_leader() || is_second {
            self.report_violation(from, Violation::SecondLeader);
            return false;
        }
        self.leader_contact = Some(self.now);
        self.removed_by = None;
        self.reset_election_timer();
        self.set_role(RoleState::Follower);
        self.set_leader(Some(from));
        true
    }

    /// Log matching (§5.3): appends what is new, removes only what conflicts, and acknowledges
    /// what the request covers. Decides everything before it changes anything.
    fn try_append(
        &mut self,
        from: NodeId,
        id: MessageId,
        request: &AppendRequest,
    ) -> Result<(), Violation> {
        check_entries(request)?;
        let previous = request.previous;
        if is_planted(Mutant::Canary) {
            self.answer_append(from, request.sequence, AppendOutcome::Accepted);
            return Ok(());
        }
        let is_unchecked =
            is_planted(Mutant::NoPreviousCheck) && previous.index <= self.log.last_index();
        let is_covered = previous.index < self.log.base().index;
        if is_covered && is_planted(Mutant::CompactedIsConflict) {
            return self.take_for_conflict(from, request);
        }
        // Entries before the base are committed and covered by a snapshot: they match.
        if !is_covered && !self.log.matches(previous) && !is_unchecked {
            if previous.index <= self.commit_index {
                return Err(Violation::ConflictsWithCommitted);
            }
            let outcome = self.conflict_at(previous.index);
            self.answer_append(from, request.sequence, outcome);
            return Ok(());
        }
        let was_holed = !self.is_whole();
        let new = self.first_new(&request.entries);
        let memberships = decode_memberships(new)?;
        if let Some(first) = new.first() {
            if first.index <= self.commit_index {
                return Err(Violation::ConflictsWithCommitted);
            }
            if first.index <= self.verified {
                return Err(Violation::RewritesItsLog);
            }
            if first.index <= self.log.last_index() {
                self.truncate_from(first.index);
            }
            self.append_from_message(id, new, memberships);
        }
        let last = previous.index.plus(request.entries.len() as u64);
        if is_planted(Mutant::TruncateAlways) && last < self.log.last_index() {
            self.truncate_from(last.next());
        }
        self.verified = self.verified.max(last.min(self.log.last_index()));
        if is_planted(Mutant::CommitUnverified) {
            self.advance_commit(request.commit_index.min(self.log.last_index()));
        }
        self.advance_commit(request.commit_index.min(self.verified));
        if was_holed && self.is_whole() {
            self.content_came_back();
        }
        self.acknowledge(from, request.sequence, last);
        Ok(())
    }

    /// A planted bug: what is compacted is taken for missing, and what follows for the rest of another
    /// leader's log.
    fn take_for_conflict(
        &mut self,
        from: NodeId,
        request: &AppendRequest,
    ) -> Result<(), Violation> {
        self.verified = self.commit_index;
        if self.commit_index < self.log.last_index() {
            self.truncate_from(self.commit_index.next());
        }
        let outcome = self.conflict_at(request.previous.index);
        self.answer_append(from, request.sequence, outcome);
        Ok(())
    }

    /// The entries of a request that are not in the log, from the first one on.
    fn first_new<'a>(&self, entries: &'a [Entry]) -> &'a [Entry] {
        let base = self.log.base().index;
        let is_known = |entry: &Entry| entry.index <= base || self.log.matches(entry.position());
        let known = entries.iter().take_while(|entry| is_known(entry)).count();
        &entries[known..]
    }

    fn append_from_message(
        &mut self,
        id: MessageId,
        new: &[Entry],
        memberships: Vec<(LogIndex, Membership)>,
    ) {
        for entry in new {
            // Frames are bounded below 4 GiB, so every length fits.
            let index = self.log.append(entry.term, entry.payload.len() as u32);
            assert_eq!(index, entry.index, "new entries continue the log");
        }
        if let (Some(first), Some(last)) = (new.first(), new.last()) {
            let range = IndexRange {
                first: first.index,
                last: last.index,
            };
            let source = Source::Message(id);
            self.persists.append(source, range, None, self.epoch);
        }
        for (index, membership) in memberships {
            self.append_membership(index, membership);
        }
    }

    /// Removes entries from `index` on, and with them memberships, and whatever writes under way
    /// would have said about them.
    pub(crate) fn truncate_from(&mut self, index: LogIndex) {
        assert!(index > self.commit_index, "committed entries stay");
        assert!(
            index > self.verified,
            "what the leader of the term sent stays"
        );
        self.epoch = self.epoch.next();
        self.log.truncate_from(index);
        self.persists.truncate_from(index, self.epoch);
        self.holes.truncate_from(index);
        self.repair.log_has_changed();
        if is_planted(Mutant::MembershipNotRolledBack) {
            return;
        }
        for index in self.members.truncate_from(index) {
            let stage = MembershipStage::RolledBack;
            self.events
                .push_back(Event::MembershipChanged { index, stage });
        }
    }

    /// Where this log conflicts with the leader's: fast backtracking, the follower's side (end of
    /// §5.3).
    fn conflict_at(&self, index: LogIndex) -> AppendOutcome {
        let last_index = self.log.last_index();
        match self.log.term_at(index) {
            None => AppendOutcome::Rejected {
                conflict_term: None,
                conflict_index: last_index.next(),
                last_index,
            },
            Some(term) => AppendOutcome::Rejected {
                conflict_term: Some(term),
                // What is committed cannot conflict.
                conflict_index: self
                    .log
                    .first_of_term_at(index)
                    .max(self.commit_index.next()),
                last_index,
            },
        }
    }

    /// Acknowledges everything up to `last` once it is durable, even if it was there before. An
    /// acknowledgement says that all before its end is there, so there is none beyond a hole: once
    /// that is filled, the leader is asked for an append to acknowledge.
    fn acknowledge(&mut self, to: NodeId, sequence: u64, last: LogIndex) {
        if self.misses_up_to(last) {
            return;
        }
        let term = self.term();
        if is_planted(Mutant::AcknowledgeBeforeFsync) {
            let outcome = AppendOutcome::Accepted;
            return self.send(
                to,
                AppendResponse {
                    term,
                    sequence,
                    outcome,
                }
                .into(),
            );
        }
        let hard_state = self.persists.hard_state_waits_for();
        match hard_state.max(self.persists.index_waits_for(last)) {
            None => self.answer_append(to, sequence, AppendOutcome::Accepted),
            Some(after) => self.withheld.push(Withheld {
                after,
                rests_on: RestsOn::Everything,
                promise: Promise::Acknowledgement {
                    to,
                    term,
                    sequence,
                    last,
                },
            }),
        }
    }

    /// Asks the leader for an append, to learn what this log has in common with its log.
    pub(crate) fn ask_for_append(&mut self, leader: NodeId) {
        let last_index = self.log.last_index();
        let outcome = AppendOutcome::Rejected {
            conflict_term: None,
            conflict_index: last_index.next(),
            last_index,
        };
        self.answer_append(leader, UNSOLICITED, outcome);
    }

    fn answer_append(&mut self, to: NodeId, sequence: u64, outcome: AppendOutcome) {
        let term = self.term();
        let response = AppendResponse {
            term,
            sequence,
            outcome,
        };
        self.send_after_term(to, response.into());
    }

    pub(crate) fn report_violation(&mut self, peer: NodeId, violation: Violation) {
        self.events
            .push_back(Event::PeerViolated { peer, violation });
    }
}

/// Entries must follow `previous` one by one, with terms that never decrease and do not exceed
/// the leader's.
fn check_entries(request: &AppendRequest) -> Result<(), Violation> {
    if request.previous.index.0 > LARGEST_NUMBER {
        return Err(Violation::ImpossibleNumber);
    }
    let mut index = request.previous.index;
    let mut term = request.previous.term;
    for entry in &request.entries {
        let is_next = entry.index == index.next();
        if !is_next || entry.term < term || entry.term == Term::ZERO {
            return Err(Violation::MalformedEntries);
        }
        index = entry.index;
        term = entry.term;
    }
    if term > request.term {
        return Err(Violation::MalformedEntries);
    }
    Ok(())
}

fn decode_memberships(entries: &[Entry]) -> Result<Vec<(LogIndex, Membership)>, Violation> {
    let mut memberships = Vec::new();
    for entry in entries {
        if entry.kind != EntryKind::Membership {
            continue;
        }
        let membership = Membership::from_bytes(&entry.payload)
            .ok()
            .filter(|membership| membership.validate().is_ok())
            .ok_or(Violation::MalformedMembership)?;
        memberships.push((entry.index, membership));
    }
    Ok(memberships)
}
