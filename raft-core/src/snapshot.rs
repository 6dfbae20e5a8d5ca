//! Snapshots (§7): taken by the driver, offered by leaders whose log is compacted, installed as a
//! persist in the same order as entries.
//!
//! A snapshot covers committed entries only, so it may be installed whoever offered it and whoever
//! leads by the time it is there. If the log has the snapshot's last entry, it has everything
//! before it, and nothing needs to be installed: the position is simply known to be committed.
//! Otherwise the log is not the committed one at that index, and all of it goes.

use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{
    InstallOutcome, InstallSnapshotRequest, InstallSnapshotResponse, LogIndex, LogPosition,
    Membership, NodeId, SnapshotDescription, Term,
};

use crate::core::RaftCore;
use crate::output::{Event, IndexRange, MembershipStage, RepairNews, Violation};
use crate::roles::{Promise, RestsOn, RoleState, Withheld};
use crate::step::LARGEST_NUMBER;
use crate::time::Time;

/// A snapshot that the driver fetches.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    snapshot: SnapshotDescription,
    /// The latest offer of exactly this snapshot. It can be answered in its own term only: the
    /// next leader counts its sequences anew.
    from: NodeId,
    term: Term,
    sequence: u64,
    /// The latest offer of any snapshot.
    latest: u64,
    received_bytes: u64,
}

impl RaftCore {
    /// A snapshot of this node's state machine is durable. Call it after taking one, and at the
    /// start for the one recovered; it is offered to peers that need compacted entries.
    ///
    /// # Panics
    /// If it covers more than was handed out to apply.
    pub fn handle_snapshot_saved(&mut self, now: Time, snapshot: SnapshotDescription) {
        self.advance_clock(now);
        assert!(
            snapshot.last_included.index <= self.delivered,
            "a snapshot covers applied entries only"
        );
        let is_newer = self
            .saved
            .as_ref()
            .is_none_or(|saved| saved.last_included.index <= snapshot.last_included.index);
        if is_newer {
            self.saved = Some(snapshot);
        }
    }

    /// The membership in force at an index: that of the last membership entry up to it. For the
    /// header of a snapshot that ends there.
    ///
    /// `None` before the first membership known.
    #[must_use]
    pub fn membership_at(&self, index: LogIndex) -> Option<&Membership> {
        self.members.at(index)
    }

    /// What entries of the log count as, in bytes: payloads, and
    /// [`crate::ENTRY_OVERHEAD_BYTES`] for each. Takes time in proportion to their number.
    ///
    /// # Panics
    /// If some of them are compacted or beyond the end of the log.
    #[must_use]
    pub fn log_bytes(&self, range: IndexRange) -> u64 {
        assert!(range.first > self.log.base().index, "they are compacted");
        assert!(
            range.last <= self.log.last_index(),
            "they are beyond the end"
        );
        self.log.cost_of(range)
    }

    /// The entry before the longest end of the log that has at most so many entries and bytes (as
    /// in [`RaftCore::log_bytes`]): everything up to it can be compacted if that much is kept.
    #[must_use]
    pub fn before_last(&self, max_entries: u64, max_bytes: u64) -> LogIndex {
        self.log.before_last(max_entries, max_bytes)
    }

    /// The log has forgotten all entries up to and including `through`, which a saved snapshot
    /// covers.
    ///
    /// # Panics
    /// If no saved snapshot covers them.
    pub fn handle_compacted(&mut self, now: Time, through: LogIndex) {
        self.advance_clock(now);
        let covered = self.saved.as_ref().map(|saved| saved.last_included.index);
        assert!(
            covered.is_some_and(|covered| through <= covered),
            "entries are compacted before a snapshot covers them"
        );
        self.log.compact_to(through);
        self.members.compact(through);
        let was_whole = self.is_whole();
        self.holes.compact_to(through);
        if !was_whole && self.is_whole() {
            self.content_came_back();
        }
    }

    /// So many bytes of the snapshot offered are durable here: tells the leader, when it asks, that
    /// the transfer goes on.
    pub fn handle_snapshot_progress(&mut self, now: Time, received_bytes: u64) {
        self.advance_clock(now);
        if let Some(incoming) = &mut self.incoming {
            incoming.received_bytes = received_bytes;
            let offer = incoming.clone();
            self.answer(&offer, InstallOutcome::Fetching { received_bytes });
        }
    }

    /// A snapshot offered was fetched, checked, and is durable as a file; it is installed unless
    /// this node has the entries by now. [`crate::Commit::Restore`] follows when it is.
    pub fn handle_snapshot_received(&mut self, now: Time, snapshot: &SnapshotDescription) {
        self.advance_clock(now);
        if self.is_halted() {
            return;
        }
        let offer = self.incoming.take();
        let was_whole = self.is_whole();
        self.install(snapshot);
        if !was_whole {
            self.content_came_back();
        }
        let index = snapshot.last_included.index;
        if self.commit_index < index || self.misses_up_to(index) {
            return;
        }
        let term = self.term();
        let is_awaited = |offer: &Incoming| {
            let is_latest = offer.sequence == offer.latest;
            offer.term == term && is_latest && offer.snapshot == *snapshot
        };
        match offer.filter(is_awaited) {
            Some(offer) => self.answer_installed(offer.from, offer.sequence, index),
            // The leader does not wait for this snapshot: it only needs to know how far this log
            // reaches now.
            None => {
                if let Some(leader) = self.leader.filter(|leader| *leader != self.config.id) {
                    self.ask_for_append(leader);
                }
            }
        }
    }

    /// The snapshot offered cannot be fetched (any more): the leader may offer it, or another one,
    /// again.
    pub fn handle_snapshot_failed(&mut self, now: Time) {
        self.advance_clock(now);
        if let Some(offer) = self.incoming.take() {
            self.answer(&offer, InstallOutcome::Refused);
        }
    }

    /// Offers the newest snapshot to a peer.
    pub(crate) fn offer_snapshot(&mut self, to: NodeId) {
        let (now, term) = (self.now, self.term());
        let base = self.log.base().index;
        let usable = self
            .saved
            .as_ref()
            .filter(|saved| saved.last_included.index >= base)
            .cloned();
        let RoleState::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(progress) = leader.peers.get_mut(&to) else {
            return;
        };
        let Some(snapshot) = usable else {
            progress.wait_for_contact();
            self.events.push_back(Event::SnapshotWanted { peer: to });
            return;
        };
        leader.last_sequence += 1;
        let sequence = leader.last_sequence;
        progress.offer(sequence, snapshot.last_included.index, now);
        let request = InstallSnapshotRequest {
            term,
            sequence,
            snapshot,
        };
        self.send(to, request.into());
    }

    /// The leader's offer, of the current term.
    pub(crate) fn handle_install_request(
        &mut self,
        from: NodeId,
        request: &InstallSnapshotRequest,
    ) {
        if !self.follow(from) {
            return;
        }
        let snapshot = &request.snapshot;
        let position = snapshot.last_included;
        if position.term > request.term || position.index.0 > LARGEST_NUMBER {
            self.report_violation(from, Violation::ImpossibleNumber);
            return;
        }
        if snapshot.membership.validate().is_err() {
            self.report_violation(from, Violation::MalformedMembership);
            return;
        }
        let held = self.log.term_at(position.index);
        let found = held.filter(|_| !is_planted(Mutant::InstallDropsSuffix));
        if position.index <= self.commit_index && found.is_some_and(|term| term != position.term) {
            self.report_violation(from, Violation::ConflictsWithCommitted);
            return;
        }
        let is_known = position.index <= self.commit_index || found == Some(position.term);
        if is_known && !self.heals(position) {
            // The offer proves that the position is committed.
            self.verified = self.verified.max(position.index);
            self.advance_commit(position.index);
            if self.misses_up_to(position.index) {
                self.answer_offer(from, request.sequence, InstallOutcome::Refused);
            } else {
                self.answer_installed(from, request.sequence, position.index);
            }
            return;
        }
        let received_bytes = match &mut self.incoming {
            Some(incoming) => {
                // One transfer at a time. What is under way is of use even if another one is
                // offered by now; a leader under load would otherwise never get one through.
                if incoming.snapshot == *snapshot {
                    incoming.from = from;
                    incoming.term = request.term;
                    incoming.sequence = request.sequence;
                }
                incoming.latest = request.sequence;
                incoming.received_bytes
            }
            None => {
                let (term, sequence) = (request.term, request.sequence);
                self.begin_incoming(from, snapshot.clone(), term, sequence);
                0
            }
        };
        let outcome = InstallOutcome::Fetching { received_bytes };
        self.answer_offer(from, request.sequence, outcome);
    }

    /// A snapshot is to be fetched; the offer of this term and sequence is answered when it is here.
    pub(crate) fn begin_incoming(
        &mut self,
        from: NodeId,
        snapshot: SnapshotDescription,
        term: Term,
        sequence: u64,
    ) {
        self.incoming = Some(Incoming {
            snapshot: snapshot.clone(),
            from,
            term,
            sequence,
            latest: sequence,
            received_bytes: 0,
        });
        self.events
            .push_back(Event::SnapshotOffered { from, snapshot });
    }

    pub(crate) fn handle_install_response(
        &mut self,
        from: NodeId,
        response: &InstallSnapshotResponse,
    ) {
        let now = self.now;
        let Some(progress) = self.touch(from) else {
            return;
        };
        if progress.offer_answered(response.sequence, response.outcome, now) {
            self.peer_has_advanced(from);
        }
    }

    /// Makes a fetched snapshot the log's beginning.
    fn install(&mut self, snapshot: &SnapshotDescription) {
        let position = snapshot.last_included;
        let heals = self.heals(position);
        if position.index <= self.commit_index && !heals {
            return;
        }
        if self.log.matches(position) && !is_planted(Mutant::InstallDropsSuffix) {
            self.advance_commit(position.index);
            if heals {
                self.keep_log_behind(snapshot);
            }
            return;
        }
        if position.index <= self.commit_index {
            // It contradicts what is committed, so it is none of this cluster's.
            self.report_violation(self.config.id, Violation::ConflictsWithCommitted);
            return;
        }
        if self.is_leader() {
            // A leader has every committed entry (§5.4), so this is none of this cluster's.
            self.report_violation(self.config.id, Violation::ConflictsWithCommitted);
            return;
        }
        // A campaign was for the log that goes now.
        self.set_role(RoleState::Follower);
        self.replace_log(position, snapshot);
    }

    /// Makes a snapshot the beginning of a log that has its last entry: what is missing before is
    /// covered, and what follows stays.
    pub(crate) fn keep_log_behind(&mut self, snapshot: &SnapshotDescription) {
        let position = snapshot.last_included;
        self.persists.keep_behind(position, self.epoch);
        self.log.compact_to(position.index);
        self.members
            .begin_with(position.index, snapshot.membership.clone());
        self.holes.compact_to(position.index);
        if self.lost_snapshot.take().is_some() || self.applied < position.index {
            self.restore = Some(position);
        }
        let saved = self.saved.as_ref().map(|saved| saved.last_included.index);
        if saved.is_none_or(|saved| saved <= position.index) {
            self.saved = Some(snapshot.clone());
        }
        self.repair.log_has_changed();
        self.report_repair(RepairNews::Covered(position));
    }

    fn replace_log(&mut self, position: LogPosition, snapshot: &SnapshotDescription) {
        self.epoch = self.epoch.next();
        self.persists
            .install(position, self.commit_index, self.epoch);
        self.log.reset(position);
        if !is_planted(Mutant::InstallKeepsMemberships) {
            self.members
                .reset(position.index, snapshot.membership.clone());
        }
        self.commit_index = position.index;
        self.stuck_leaderships = 0;
        self.verified = self.verified.max(position.index);
        self.restore = Some(position);
        self.saved = Some(snapshot.clone());
        if !self.is_whole() {
            self.holes.compact_to(LogIndex(u64::MAX - 1));
            self.lost_snapshot = None;
            self.report_repair(RepairNews::Covered(position));
        }
        self.repair.log_has_changed();
        let stage = MembershipStage::Committed;
        self.events.push_back(Event::MembershipChanged {
            index: position.index,
            stage,
        });
        self.proposals
            .decide(position.index, &self.log, &mut self.events);
    }

    /// Says that everything up to `index` is there, once it is durable.
    fn answer_installed(&mut self, to: NodeId, sequence: u64, index: LogIndex) {
        let hard_state = self.persists.hard_state_waits_for();
        let response = InstallSnapshotResponse {
            term: self.term(),
            sequence,
            outcome: InstallOutcome::Installed,
        };
        match hard_state.max(self.persists.index_waits_for(index)) {
            None => self.send(to, response.into()),
            Some(after) => self.withheld.push(Withheld {
                after,
                rests_on: RestsOn::Everything,
                promise: Promise::Message {
                    to,
                    message: response.into(),
                },
            }),
        }
    }

    fn answer(&mut self, offer: &Incoming, outcome: InstallOutcome) {
        if offer.term == self.term() {
            self.answer_offer(offer.from, offer.sequence, outcome);
        }
    }

    fn answer_offer(&mut self, to: NodeId, sequence: u64, outcome: InstallOutcome) {
        let response = InstallSnapshotResponse {
            term: self.term(),
            sequence,
            outcome,
        };
        self.send_after_term(to, response.into());
    }
}
