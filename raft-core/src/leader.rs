//! What a leader does: its first entry, proposals, acknowledgements, commits, heartbeats (§5.3,
//! §5.4.2, §8).

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{
    AppendOutcome, AppendResponse, Entry, EntryKind, Heartbeat, HeartbeatResponse, LogIndex,
    LogPosition, NodeId,
};

use crate::catch_up::CatchUp;
use crate::config::entry_cost;
use crate::core::{Disk, RaftCore};
use crate::error::ProposeError;
use crate::follower::UNSOLICITED;
use crate::output::{IndexRange, Violation};
use crate::persist_queue::Source;
use crate::progress::{Counting, Progress, Refusal, Retry};
use crate::roles::{Leader, RoleState};
use crate::time::Time;
use crate::timers::Timer;

impl RaftCore {
    /// Appends a proposal of this many payload bytes; the driver keeps the payload under the
    /// position returned, and learns the outcome by [`crate::Event::ProposalsDecided`].
    ///
    /// # Errors
    /// [`ProposeError`]; then nothing has happened.
    pub fn propose(&mut self, now: Time, bytes: u32) -> Result<LogPosition, ProposeError> {
        self.advance_clock(now);
        if self.is_halted() {
            return Err(ProposeError::Halted);
        }
        let limit_bytes = self.config.max_uncommitted_bytes;
        let RoleState::Leader(leader) = &self.role else {
            return Err(ProposeError::NotLeader {
                leader: self.leader,
            });
        };
        if bytes > self.config.max_entry_bytes {
            return Err(ProposeError::TooLarge {
                bytes,
                limit_bytes: self.config.max_entry_bytes,
            });
        }
        if let Some(transfer) = &self.transfer {
            return Err(ProposeError::Transferring { to: transfer.to });
        }
        if self.disk != Disk::Working {
            return Err(ProposeError::DiskUnavailable);
        }
        // What others commit may still wait for this node's disk, and stays in memory.
        let waiting_bytes = leader.uncommitted_bytes.max(leader.unsynced_bytes);
        let is_full = waiting_bytes + entry_cost(bytes) > limit_bytes;
        if is_full && !is_planted(Mutant::ProposalsUnbounded) {
            return Err(ProposeError::Overloaded {
                waiting_bytes,
                limit_bytes,
            });
        }
        let index = self.append_local(bytes, None);
        let term = self.term();
        self.proposals.add(index, term, &mut self.events);
        Ok(LogPosition { index, term })
    }

    /// The election is won (§5.2).
    pub(crate) fn become_leader(&mut self) {
        let next = self.log.last_index().next();
        let me = self.config.id;
        let members = self.members.current().members.keys();
        let peers = members
            .filter(|id| **id != me)
            .map(|id| (*id, Progress::new(next, self.now)))
            .collect();
        let learners = self.members.current().learners.keys();
        let catch_ups = learners
            .map(|id| (*id, CatchUp::new(next, self.now)))
            .collect();
        let (uncommitted_bytes, unsynced_bytes) = (self.uncommitted_bytes(), self.unsynced_bytes());
        self.set_role(RoleState::Leader(Box::new(Leader {
            first_index: next,
            commits_since: self.now,
            peers,
            cursor: me,
            last_sequence: 0,
            round: 0,
            uncommitted_bytes,
            unsynced_bytes,
            inherited_bytes: uncommitted_bytes.max(unsynced_bytes),
            catch_ups,
            recounts: BTreeMap::new(),
            next_promotion: self.now,
        })));
        self.timers.stop(Timer::Election);
        self.verified = self.log.last_index();
        self.set_leader(Some(me));
        // The probes that carry this entry announce the new leader; the next heartbeats follow
        // an interval later.
        self.append_generated(EntryKind::Noop, Bytes::new());
        self.set_heartbeat_timer();
    }

    /// Entries are durable here that were not while the log was so from `before` on.
    pub(crate) fn entries_are_durable(&mut self, before: LogIndex) {
        let RoleState::Leader(leader) = &mut self.role else {
            return;
        };
        // A leader keeps what is not durable, so nothing of this is compacted.
        let newly = IndexRange::new(before.next(), self.persists.durable_index());
        let bytes = newly.map_or(0, |range| self.log.cost_of(range));
        assert!(
            bytes <= leader.unsynced_bytes,
            "what is durable now was not durable before"
        );
        leader.unsynced_bytes -= bytes;
    }

    /// What entries after the commit index count as (see [`RaftCore::log_bytes`]), in bytes. Takes
    /// time in proportion to their number.
    #[must_use]
    pub fn uncommitted_bytes(&self) -> u64 {
        self.bytes_after(self.commit_index)
    }

    /// What entries that are not durable on this node count as, in bytes; in the same time.
    #[must_use]
    pub fn unsynced_bytes(&self) -> u64 {
        self.bytes_after(self.persists.durable_index())
    }

    fn bytes_after(&self, index: LogIndex) -> u64 {
        let first = index.max(self.log.base().index).next();
        let range = IndexRange::new(first, self.log.last_index());
        range.map_or(0, |range| self.log.cost_of(range))
    }

    /// What a leader's uncommitted entries, and those that are not durable, may come to by its
    /// proposals, in bytes: [`crate::Config::max_uncommitted_bytes`], or what it began its term
    /// with if that was more. `None` if it does not lead.
    #[must_use]
    pub fn backlog_bytes_max(&self) -> Option<u64> {
        match &self.role {
            RoleState::Leader(leader) => {
                Some((leader.inherited_bytes).max(self.config.max_uncommitted_bytes))
            }
            RoleState::Follower | RoleState::PreCandidate(_) | RoleState::Candidate(_) => None,
        }
    }

    /// Appends an entry of the current term.
    pub(crate) fn append_local(&mut self, bytes: u32, generated: Option<Entry>) -> LogIndex {
        let index = self.log.append(self.term(), bytes);
        if let RoleState::Leader(leader) = &mut self.role {
            leader.uncommitted_bytes += entry_cost(bytes);
            leader.unsynced_bytes += entry_cost(bytes);
        }
        let range = IndexRange {
            first: index,
            last: index,
        };
        self.persists
            .append(Source::Local, range, generated, self.epoch);
        index
    }

    pub(crate) fn handle_append_response(
        &mut self,
        from: NodeId,
        uncounted: bool,
        response: &AppendResponse,
    ) {
        let base = self.log.base().index;
        let Some(progress) = self.touch(from) else {
            return;
        };
        match &response.outcome {
            AppendOutcome::Accepted => {
                if progress.accept(response.sequence) {
                    self.peer_has_advanced(from);
                }
            }
            AppendOutcome::Rejected { last_index, .. } if response.sequence == UNSOLICITED => {
                progress.probe_on_request(*last_index, base);
            }
            AppendOutcome::Rejected {
                conflict_term,
                conflict_index,
                last_index,
            } => match progress.refuse(response.sequence, *last_index) {
                Refusal::Stale => {}
                Refusal::Mismatch { previous } => {
                    let next = self.backtrack(previous, *conflict_term, *conflict_index);
                    if let Some(progress) = self.progress(from) {
                        progress.probe_from(next);
                    }
                }
                Refusal::LostEntries { previous } => {
                    progress.discount();
                    progress.forget_match(last_index.next().min(previous));
                    // A peer that says that it counts for nothing has said so.
                    if !uncounted {
                        self.report_violation(from, Violation::LostEntries);
                    }
                }
            },
            // To a request of an earlier leadership of this node.
            AppendOutcome::StaleTerm => {}
        }
    }

    /// Where to look next for the last common entry: fast backtracking, the leader's side (end
    /// of §5.3, Students' Guide). Always before `previous`.
    fn backtrack(
        &self,
        previous: LogIndex,
        conflict_term: Option<raft_proto::Term>,
        conflict_index: LogIndex,
    ) -> LogIndex {
        let before = previous.previous();
        let next = match conflict_term {
            // The follower's log is shorter: try its end.
            None => conflict_index,
            Some(term) => match self.log.last_of_term(term, before) {
                // The leader has that term too: both have its entries up to some point, at most
                // the leader's last one.
                Some(last) => last.next(),
                // It does not: skip all of the follower's entries of that term.
                None => conflict_index,
            },
        };
        next.min(previous)
    }

    pub(crate) fn handle_heartbeat_response(
        &mut self,
        from: NodeId,
        uncounted: bool,
        response: &HeartbeatResponse,
    ) {
        let Some(progress) = self.touch(from) else {
            return;
        };
        if !uncounted && response.round > progress.acked_round {
            progress.acked_round = response.round;
            self.confirm_reads();
        }
    }

    /// A peer's durable prefix grew.
    pub(crate) fn peer_has_advanced(&mut self, peer: NodeId) {
        self.advance_catch_up(peer);
        self.commit_by_counting();
        self.transfer_target_advanced(peer);
    }

    /// Commits what a majority holds durably, if it is of the current term (§5.4.2, Figure 8);
    /// everything before it is committed with it. The leader itself counts as one of them only
    /// for what its own disk has confirmed (thesis §10.2.1).
    pub(crate) fn commit_by_counting(&mut self) {
        let RoleState::Leader(leader) = &self.role else {
            return;
        };
        let durable = if is_planted(Mutant::CountsUnsynced) {
            self.log.last_index()
        } else {
            self.persists.durable_index()
        };
        let me = self.config.id;
        let held = self.members.quorum().reached(|id| {
            if id == me {
                return durable.0;
            }
            leader.peers.get(&id).map_or(0, |p| p.counted_match().0)
        });
        let held = LogIndex(held).min(self.log.last_index());
        let is_of_this_term = held >= leader.first_index || is_planted(Mutant::CommitOldTerms);
        if is_of_this_term && held > self.commit_index {
            self.advance_commit(held);
        }
    }

    /// Everything up to `index` is committed.
    pub(crate) fn advance_commit(&mut self, index: LogIndex) {
        let Some(newly) = IndexRange::new(self.commit_index.next(), index) else {
            return;
        };
        assert!(
            index <= self.log.last_index(),
            "only entries in the log are committed"
        );
        self.commit_index = index;
        self.stuck_leaderships = 0;
        self.has_committed();
        self.proposals.decide(index, &self.log, &mut self.events);
        let bytes = self.log.cost_of(newly);
        if let RoleState::Leader(leader) = &mut self.role {
            assert!(
                bytes <= leader.uncommitted_bytes,
                "what is committed was uncommitted before"
            );
            leader.uncommitted_bytes -= bytes;
            self.start_read_round();
        }
        self.memberships_committed(newly.first.previous());
    }

    /// Heartbeats are due: also the time to see whether a quorum is still there.
    pub(crate) fn heartbeat_timed_out(&mut self) {
        if !self.has_quorum_contact() {
            return self.step_down();
        }
        // With a disk that hangs nothing is proposed, and so nothing waits.
        if self.log.last_index() == self.commit_index && self.disk == Disk::Working {
            self.has_committed();
        }
        if self.hides_a_quorum() && !is_planted(Mutant::NoCheckQuorum) {
            return self.make_way();
        }
        self.broadcast_heartbeats();
        // Only here: rounds of reads come as often as clients read, and would put off for ever
        // what is looked at below.
        self.set_heartbeat_timer();
        self.continue_membership_change();
        self.tend_recounts();
        self.promote_learners();
        self.advance_transfer();
        self.hand_over_if_disk_is_behind();
    }

    /// CheckQuorum: whether a majority was heard of within the longest election timeout. A
    /// leader cut off from its quorum would mislead clients and, for those who still hear it,
    /// hold off the election that the others need. So would one whose disk hangs: it is no holder
    /// of anything new, so it must reach a quorum without itself. If it does not, it cannot hand
    /// over either (D11). A node that is a quorum by itself has nobody to make room for: its reads
    /// go on.
    fn has_quorum_contact(&self) -> bool {
        let RoleState::Leader(leader) = &self.role else {
            return false;
        };
        if is_planted(Mutant::NoCheckQuorum) {
            return true;
        }
        let now = self.now;
        let me = self.config.id;
        let quorum = self.members.quorum();
        let is_quorum_alone = quorum.reached(|id| u64::from(id == me)) == 1;
        let heard = quorum.reached(|id| {
            if id == me {
                return match self.disk {
                    Disk::Stalled if !is_quorum_alone => 0,
                    Disk::Working | Disk::Full | Disk::Failed | Disk::Stalled => now.0,
                };
            }
            let counted = leader.peers.get(&id);
            counted
                .filter(|p| p.counting == Counting::Counted)
                .map_or(0, |p| p.contact.0)
        });
        now < Time(heard).plus_ms(self.config.election_timeout_ms_max)
    }

    /// Sends heartbeats to every peer as a new confirmation round.
    pub(crate) fn broadcast_heartbeats(&mut self) {
        let term = self.term();
        let commit_index = self.commit_index;
        let RoleState::Leader(leader) = &mut self.role else {
            return;
        };
        leader.round += 1;
        let round = leader.round;
        let heartbeats: Vec<_> = leader
            .peers
            .iter()
            .map(|(id, progress)| {
                // It may overtake entries on their way, so it must not commit what the peer is
                // not known to hold.
                let commit_index = commit_index.min(progress.match_index());
                let heartbeat = Heartbeat {
                    term,
                    round,
                    commit_index,
                };
                (*id, heartbeat)
            })
            .collect();
        for (to, heartbeat) in heartbeats {
            self.send(to, heartbeat.into());
        }
    }

    fn set_heartbeat_timer(&mut self) {
        let interval_ms = self.config.heartbeat_interval_ms;
        self.timers
            .set(Timer::Heartbeat, self.now.plus_ms(interval_ms));
    }

    /// Takes a peer's answer as a sign of life; returns its progress, if this node leads.
    pub(crate) fn touch(&mut self, from: NodeId) -> Option<&mut Progress> {
        let now = self.now;
        let retry = Retry {
            probe_ms: self.config.heartbeat_interval_ms,
            append_ms: self.config.election_timeout_ms_min,
            snapshot_ms: self.config.election_timeout_ms_max,
        };
        let progress = self.progress(from)?;
        progress.touch(now, &retry);
        Some(progress)
    }

    /// What this node, as leader, knows of a peer.
    pub(crate) fn progress(&mut self, id: NodeId) -> Option<&mut Progress> {
        match &mut self.role {
            RoleState::Leader(leader) => leader.peers.get_mut(&id),
            RoleState::Follower | RoleState::PreCandidate(_) | RoleState::Candidate(_) => None,
        }
    }
}
