//! Repair from peers: content that this node lost comes back by (index, term) from whoever has it
//! (D6, protocol-aware recovery).
//!
//! What was lost is known by identity: index, term, and memberships whole. So this node votes as if
//! it had the entries, and learns what is committed; but nothing without content is acknowledged,
//! applied or sent, and it does not campaign. A leader that finds a hole steps down.
//!
//! Peers are asked one after the other, in rounds. A peer answers with the content; or it says that
//! it *never had* the entry (its log has none, or another one, there); or that the entry is
//! *unavailable* (compacted, or lost there too), and is then asked for a snapshot. Three ways lead
//! out of a hole besides its content:
//!
//! * a leader overwrites it, or a snapshot covers it;
//! * enough voters never had it: `never_had`;
//! * nobody can help although all have answered, again and again, and nobody leads: then the loss
//!   is final, and the driver is told to halt and to name it.

use std::collections::{BTreeMap, BTreeSet};

use raft_proto::{
    DescribeSnapshotRequest, DescribeSnapshotResponse, Entry, EntryKind, FetchEntriesRequest,
    FetchEntriesResponse, LogIndex, LogPosition, Membership, NodeId, Term,
};

use crate::core::RaftCore;
use crate::never_had::Denial;
use crate::output::{Event, IndexRange, RepairNews, Violation};
use crate::roles::{Promise, RoleState};
use crate::step::LARGEST_NUMBER;
use crate::time::{MessageId, Time};
use crate::timers::Timer;

/// Most entries asked for at a time.
pub(crate) const MAX_WANTED: u64 = 1024;
/// So many rounds in a row must find that nobody can help before the loss is final. In between a
/// peer may have got what another one lost.
const FINAL_ROUNDS: u32 = 10;

/// What a peer was asked last in this round, or that it has answered that it cannot help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Entries,
    Snapshot,
    Denied,
}

/// How the repair of this node goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repair {
    connected: BTreeSet<NodeId>,
    round: BTreeMap<NodeId, Asked>,
    pub(crate) denials: BTreeMap<NodeId, Denial>,
    fruitless_rounds: u32,
}

impl Repair {
    pub(crate) fn peer_up(&mut self, peer: NodeId) {
        self.connected.insert(peer);
    }

    pub(crate) fn peer_down(&mut self, peer: NodeId) {
        self.connected.remove(&peer);
    }

    /// What was said about the log is void: it has changed.
    pub(crate) fn log_has_changed(&mut self) {
        self.denials.clear();
        self.round.clear();
        self.fruitless_rounds = 0;
    }
}

impl RaftCore {
    /// Entries that the log has turned out not to be able to read. This node asks its peers for
    /// them; until they are back it promises nothing about them, and a leader steps down: what it
    /// cannot read it can neither send nor count as its own.
    pub fn handle_damaged(&mut self, now: Time, range: IndexRange) {
        self.advance_clock(now);
        if self.is_halted() {
            return;
        }
        let first = range.first.max(self.log.base().index.next());
        // What is not durable yet has not been read from the disk.
        let last = range.last.min(self.persists.durable_index());
        let Some(range) = IndexRange::new(first, last) else {
            return;
        };
        self.holes.add(range);
        self.withheld.retain(|withheld| match &withheld.promise {
            Promise::Acknowledgement { last, .. } => *last < range.first,
            Promise::Message { .. } | Promise::Recount { .. } | Promise::OwnVote { .. } => true,
        });
        self.report_repair(RepairNews::Missing(range));
        match &self.role {
            RoleState::Leader(_) => self.leave_leadership(),
            RoleState::PreCandidate(_) | RoleState::Candidate(_) => {
                self.set_role(RoleState::Follower);
            }
            RoleState::Follower => {}
        }
        self.continue_repair();
    }

    /// The entries whose content is missing, in order.
    pub fn missing(&self) -> impl Iterator<Item = IndexRange> + '_ {
        self.holes.ranges()
    }

    /// The position up to which the state machine's state is lost with the snapshot that held it,
    /// until a peer's snapshot replaces it.
    #[must_use]
    pub const fn lost_snapshot(&self) -> Option<LogPosition> {
        self.lost_snapshot
    }

    /// Whether this node has the content of its whole log, and its snapshot.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.holes.is_empty() && self.lost_snapshot.is_none()
    }

    /// Whether content up to here is missing.
    pub(crate) fn misses_up_to(&self, index: LogIndex) -> bool {
        let first = self.holes.first();
        self.lost_snapshot.is_some() || first.is_some_and(|first| first <= index)
    }

    /// The last entry before the first one without content.
    pub(crate) fn whole_index(&self) -> LogIndex {
        if self.lost_snapshot.is_some() {
            return LogIndex::ZERO;
        }
        let first = self.holes.first();
        first.map_or(self.log.last_index(), LogIndex::previous)
    }

    /// Tells what recovery found, and begins to ask for it.
    pub(crate) fn start_repair(&mut self) {
        for range in self.missing().collect::<Vec<_>>() {
            self.report_repair(RepairNews::Missing(range));
        }
        if let Some(position) = self.lost_snapshot {
            self.report_repair(RepairNews::SnapshotLost(position));
        }
        if !self.is_whole() {
            // Not at once: nobody is connected yet.
            self.set_repair_timer();
        }
    }

    /// The peer asked last has not answered, or a round begins.
    pub(crate) fn repair_timed_out(&mut self) {
        self.continue_repair();
    }

    /// Asks the next peer of the round for what is missing first.
    fn continue_repair(&mut self) {
        if self.is_whole() {
            self.timers.stop(Timer::Repair);
            return;
        }
        self.set_repair_timer();
        let asks_entries = self.lost_snapshot.is_none() && self.holes.first_open().is_some();
        let asks_snapshot = self.lost_snapshot.is_some() && self.incoming.is_none();
        if !asks_entries && !asks_snapshot {
            return;
        }
        let next = self.helpers().into_iter();
        let mut next = next.filter(|peer| !self.repair.round.contains_key(peer));
        match next.next() {
            Some(peer) if asks_snapshot => self.ask_for_snapshot(peer),
            Some(peer) => self.ask_for_entries(peer),
            None => self.end_repair_round(),
        }
    }

    /// Everybody who may have what is missing: all members, and whoever is connected.
    fn helpers(&self) -> BTreeSet<NodeId> {
        let members = self.members.current().members.keys();
        let mut helpers: BTreeSet<NodeId> = members.copied().collect();
        helpers.extend(&self.repair.connected);
        helpers.remove(&self.config.id);
        helpers
    }

    fn ask_for_entries(&mut self, peer: NodeId) {
        let Some(hole) = self.holes.first_open() else {
            return;
        };
        let count = hole.count().min(MAX_WANTED);
        let position = |index| LogPosition {
            index,
            // A hole lies in the log.
            term: self.log.term_at(index).unwrap_or_default(),
        };
        let request = FetchEntriesRequest {
            term: self.term(),
            wanted: hole.indexes().take(count as usize).map(position).collect(),
            max_bytes: u32::try_from(self.config.max_append_bytes).unwrap_or(u32::MAX),
        };
        self.repair.round.insert(peer, Asked::Entries);
        self.set_repair_timer();
        self.send_after_term(peer, request.into());
    }

    fn ask_for_snapshot(&mut self, peer: NodeId) {
        let lost = self.lost_snapshot.map(|position| position.index);
        let Some(at_least) = lost.or(self.holes.first()) else {
            return;
        };
        let committed = LogPosition {
            index: self.commit_index,
            // What is committed is in the log, or right before it.
            term: self.log.term_at(self.commit_index).unwrap_or_default(),
        };
        let request = DescribeSnapshotRequest {
            term: self.term(),
            at_least,
            committed,
        };
        self.repair.round.insert(peer, Asked::Snapshot);
        self.set_repair_timer();
        self.send_after_term(peer, request.into());
    }

    /// Everybody was asked. If that was in vain, the next round begins after a while.
    fn end_repair_round(&mut self) {
        let asked = &self.repair.round;
        let helpers = self.helpers();
        // A node that has lost the membership with its snapshot waits to be found.
        let is_membership_known = !self.members.current().members.is_empty();
        let have_all_denied =
            is_membership_known && helpers.iter().all(|p| asked.get(p) == Some(&Asked::Denied));
        self.repair.round.clear();
        if self.heal_by_own_snapshot() {
            return;
        }
        // A leader settles what is not committed, and has what is.
        let may_settle = self.hears_from_leader() || self.incoming.is_some();
        if may_settle || self.raise_term_for_denials() || !have_all_denied {
            self.repair.fruitless_rounds = 0;
            return;
        }
        self.repair.fruitless_rounds += 1;
        if self.repair.fruitless_rounds == FINAL_ROUNDS {
            let first = self.whole_index().next();
            let lost = self.lost_snapshot.map(|position| position.index);
            let range = self.holes.ranges().next();
            let last = range.map(|range| range.last).or(lost).unwrap_or(first);
            self.report_repair(RepairNews::Lost(IndexRange { first, last }));
        }
    }

    /// The last resort for entries that were applied before they were lost: this node's state has
    /// them, so a snapshot of it covers them.
    fn heal_by_own_snapshot(&mut self) -> bool {
        let Some(hole) = self.holes.ranges().next() else {
            return false;
        };
        if self.lost_snapshot.is_some() || self.applied < hole.last {
            return false;
        }
        let saved = self.saved.clone();
        match saved.filter(|saved| saved.last_included.index >= hole.last) {
            Some(saved) => {
                self.keep_log_behind(&saved);
                self.content_came_back();
            }
            None => {
                let peer = self.config.id;
                self.events.push_back(Event::SnapshotWanted { peer });
            }
        }
        true
    }

    /// A peer's answer. Content is taken from anybody at any term; denials count for what they say
    /// at the sender's durable term.
    pub(crate) fn handle_fetch_entries_response(
        &mut self,
        from: NodeId,
        uncounted: bool,
        id: MessageId,
        response: &FetchEntriesResponse,
    ) {
        if self.is_whole() {
            return;
        }
        match self.take_content(id, &response.entries) {
            Err(violation) => return self.report_violation(from, violation),
            Ok(Some(_)) => {
                self.repair.round.clear();
                self.repair.fruitless_rounds = 0;
                return self.ask_for_entries(from);
            }
            Ok(None) => {}
        }
        let in_log = |p: &&LogPosition| self.log.matches(**p);
        let lacked = response.never_had.iter().filter(in_log);
        if let Some(lacks_from) = lacked.map(|p| p.index).min()
            && !uncounted
        {
            let term = response.term;
            self.repair
                .denials
                .insert(from, Denial { lacks_from, term });
            if self.drop_what_nobody_has() {
                return self.content_came_back();
            }
        }
        if self.repair.round.get(&from) != Some(&Asked::Entries) {
            return;
        }
        let is_unavailable = !response.unavailable.is_empty() && self.incoming.is_none();
        if is_unavailable {
            return self.ask_for_snapshot(from);
        }
        if !response.never_had.is_empty() || !response.unavailable.is_empty() {
            self.repair.round.insert(from, Asked::Denied);
        }
        self.continue_repair();
    }

    /// Takes the first entries that follow each other, are missing here, and are those of this log.
    fn take_content(
        &mut self,
        id: MessageId,
        entries: &[Entry],
    ) -> Result<Option<IndexRange>, Violation> {
        let mut taken: Option<IndexRange> = None;
        for entry in entries {
            let follows = taken.is_none_or(|range| range.last.next() == entry.index);
            let is_missing = self.holes.is_open(entry.index) && self.log.matches(entry.position());
            if !follows || !is_missing {
                if taken.is_some() {
                    break;
                }
                continue;
            }
            self.check_identity(entry)?;
            let first = taken.map_or(entry.index, |range| range.first);
            let last = entry.index;
            taken = Some(IndexRange { first, last });
        }
        let Some(range) = taken else {
            return Ok(None);
        };
        for entry in entries.iter().filter(|entry| range.contains(entry.index)) {
            // Frames are bounded below 4 GiB, so every length fits.
            self.log.set_size(entry.index, entry.payload.len() as u32);
        }
        let by = self.persists.refill(id, range, self.epoch);
        self.holes.refill(range, by);
        Ok(Some(range))
    }

    /// Memberships are known whole, so content that says otherwise is not what was lost.
    fn check_identity(&self, entry: &Entry) -> Result<(), Violation> {
        let is_before = |first| entry.index <= first;
        if self.members.known_from().is_none_or(is_before) {
            // A snapshot covers it; which of these entries carry memberships is forgotten.
            return Ok(());
        }
        let known = self.members.of_entry(entry.index);
        let found = match entry.kind {
            EntryKind::Membership => Membership::from_bytes(&entry.payload).ok(),
            EntryKind::Noop | EntryKind::Command => None,
        };
        if known == found.as_ref() {
            Ok(())
        } else {
            Err(Violation::MalformedEntries)
        }
    }

    pub(crate) fn handle_describe_snapshot_response(
        &mut self,
        from: NodeId,
        response: &DescribeSnapshotResponse,
    ) {
        if self.is_whole() || self.repair.round.get(&from) != Some(&Asked::Snapshot) {
            return;
        }
        let Some(snapshot) = &response.snapshot else {
            self.repair.round.insert(from, Asked::Denied);
            return self.continue_repair();
        };
        let position = snapshot.last_included;
        if position.index.0 > LARGEST_NUMBER || position.term > response.term {
            return self.report_violation(from, Violation::ImpossibleNumber);
        }
        if snapshot.membership.validate().is_err() {
            return self.report_violation(from, Violation::MalformedMembership);
        }
        // One transfer at a time; a late answer may find one under way.
        if self.heals(position) && self.incoming.is_none() {
            // Nobody waits for an answer to an offer of term 0.
            self.begin_incoming(from, snapshot.clone(), Term::ZERO, 0);
        }
        self.continue_repair();
    }

    /// Whether a snapshot that ends here brings back anything that is missing.
    #[must_use]
    pub fn is_healed_by(&self, position: LogPosition) -> bool {
        self.heals(position)
    }

    /// The last entry before the first one whose content is missing, as far as entries go: what is
    /// after it cannot be read from the log. The end of the log if nothing is missing.
    #[must_use]
    pub fn readable_index(&self) -> LogIndex {
        let first = self.holes.first();
        first.map_or(self.log.last_index(), LogIndex::previous)
    }

    pub(crate) fn heals(&self, position: LogPosition) -> bool {
        match self.lost_snapshot {
            Some(lost) => position.index >= lost.index,
            None => self
                .holes
                .first()
                .is_some_and(|first| first <= position.index),
        }
    }

    /// Refills up to a persist are durable.
    pub(crate) fn refills_are_durable(&mut self, filled: Vec<IndexRange>) {
        if filled.is_empty() {
            return;
        }
        for range in filled {
            self.report_repair(RepairNews::Refilled(range));
        }
        self.content_came_back();
    }

    /// Less is missing than before. Once nothing is, this node takes its full part again: the
    /// leader learns what it holds, or, without one, it may campaign.
    pub(crate) fn content_came_back(&mut self) {
        if !self.is_whole() {
            return self.continue_repair();
        }
        self.repair.log_has_changed();
        self.timers.stop(Timer::Repair);
        match self.leader {
            Some(leader) if leader != self.config.id => self.ask_for_append(leader),
            Some(_) => {}
            None if self.may_campaign() => self.hasten_election(),
            None => {}
        }
    }

    pub(crate) fn report_repair(&mut self, news: RepairNews) {
        self.events.push_back(Event::Repair(news));
    }

    fn set_repair_timer(&mut self) {
        let patience_ms = self.config.election_timeout_ms_min;
        let deadline = self.now.plus_ms(patience_ms);
        self.timers.set(Timer::Repair, deadline);
    }
}
