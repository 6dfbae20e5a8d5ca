//! What the driver reports besides messages: time, its disk, its applier, its connections.

use raft_proto::{AppendOutcome, AppendResponse, Boot, LogIndex, NodeId};

use crate::catch_up::CatchUp;
use crate::core::{Disk, RaftCore};
use crate::output::{Event, ReadFailure, TransferOutcome, UnsentReason};
use crate::progress::Progress;
use crate::roles::{Promise, RestsOn, RoleState, Withheld};
use crate::time::{PersistId, Time};
use crate::timers::Timer;

impl RaftCore {
    /// Time has passed. Call it when [`RaftCore::poll_timeout`] says so; earlier calls do nothing.
    pub fn handle_timeout(&mut self, now: Time) {
        self.advance_clock(now);
        if self.is_halted() {
            return;
        }
        for timer in Timer::ALL {
            if !self.timers.take_due(timer, self.now) {
                continue;
            }
            match timer {
                Timer::Election => self.election_timed_out(),
                Timer::Heartbeat => self.heartbeat_timed_out(),
                Timer::Transfer => self.transfer_timed_out(),
                Timer::Read => self.read_timed_out(),
                Timer::Repair => self.repair_timed_out(),
            }
        }
    }

    /// The persist of this id, and all before it, are durable. What was promised on that
    /// condition happens now.
    ///
    /// # Panics
    /// If that persist was never handed out.
    pub fn handle_persisted(&mut self, now: Time, id: PersistId) {
        self.advance_clock(now);
        if self.is_halted() {
            return;
        }
        let durable_before = self.persists.durable_index();
        self.persists.complete(id);
        self.entries_are_durable(durable_before);
        self.disk = Disk::Working;
        let filled = self.holes.completed(id);
        self.release(|withheld| withheld.after <= id);
        self.refills_are_durable(filled);
        self.commit_by_counting();
    }

    /// Term and vote of the persist of this id are durable, and nothing else of it or of those before
    /// it: the disk has no room for that, and a reserve for term and vote, which go ahead of it. What
    /// rests on them alone happens now: a vote, a vote request, an answer that names the term.
    ///
    /// A crash may now leave the term without the entries and truncations that came before it, as if
    /// their messages had been lost. A vote was given by the longer log that this node has in memory,
    /// so whoever gets it has all that this node ever acknowledged (§5.4.1).
    ///
    /// # Panics
    /// If that persist was never handed out.
    pub fn handle_hard_state_persisted(&mut self, now: Time, id: PersistId) {
        self.advance_clock(now);
        if self.is_halted() {
            return;
        }
        self.persists.complete_hard_state(id);
        self.release(|withheld| withheld.after <= id && withheld.rests_on == RestsOn::HardState);
    }

    /// Everything up to `index` is applied.
    ///
    /// # Panics
    /// If that was not handed out by [`RaftCore::poll_commit`].
    pub fn handle_applied(&mut self, now: Time, index: LogIndex) {
        self.advance_clock(now);
        assert!(
            index <= self.delivered,
            "index {index} was reported applied before it was committed"
        );
        self.applied = self.applied.max(index);
    }

    /// An [`crate::AppendOrder`] was not sent, for whatever reason. It is made anew after the
    /// peer's next sign of life: not at once, so that a reason that persists makes no busy loop.
    pub fn handle_unsent(&mut self, now: Time, peer: NodeId, sequence: u64, reason: UnsentReason) {
        self.advance_clock(now);
        match reason {
            UnsentReason::Stale | UnsentReason::Unreadable | UnsentReason::Dropped => {
                if let Some(progress) = self.progress(peer) {
                    progress.unsent(sequence);
                }
            }
        }
    }

    /// A connection to a peer was made. News of an earlier boot than one seen is ignored.
    pub fn handle_peer_up(&mut self, now: Time, peer: NodeId, boot: Boot) {
        self.advance_clock(now);
        self.repair.peer_up(peer);
        if let Some(progress) = self.progress(peer) {
            progress.connect(boot);
        }
    }

    /// Another life of a peer is connected than the one heard of so far: a data directory that was
    /// wiped, while the membership leaves open which one is meant. What the former one acknowledged
    /// says nothing about this one.
    pub fn handle_peer_replaced(&mut self, now: Time, peer: NodeId) {
        self.advance_clock(now);
        let (now, last) = (self.now, self.log.last_index());
        let RoleState::Leader(leader) = &mut self.role else {
            return;
        };
        if let Some(progress) = leader.peers.get_mut(&peer) {
            *progress = Progress::new(last.next(), now);
        }
        if let Some(catch_up) = leader.catch_ups.get_mut(&peer) {
            *catch_up = CatchUp::new(last, now);
        }
    }

    /// A peer that leads, and is certain of its membership, says that this node is no member. It
    /// does not campaign until a leader sends it something, or that peer is lost: otherwise it
    /// would ask for pre-votes for ever, because nobody tells it that its removal is committed.
    pub fn handle_removed(&mut self, now: Time, by: NodeId) {
        self.advance_clock(now);
        let hears_another = self.hears_from_leader() && self.leader != Some(by);
        if self.is_halted() || self.is_leader() || hears_another {
            return;
        }
        self.removed_by = Some(by);
        self.set_role(RoleState::Follower);
    }

    /// The connection to a peer was lost. If it is the leader, this node no longer counts it as
    /// alive, and campaigns soon: pre-votes disturb nobody if it is alive for others.
    pub fn handle_peer_down(&mut self, now: Time, peer: NodeId) {
        self.advance_clock(now);
        self.repair.peer_down(peer);
        if let Some(progress) = self.progress(peer) {
            progress.disconnect();
        }
        if self.removed_by == Some(peer) {
            self.removed_by = None;
        }
        if self.leader == Some(peer) && matches!(self.role, RoleState::Follower) {
            self.leader_contact = None;
            self.hasten_election();
        }
    }

    /// The log has made no progress for the driver's stall timeout. Until a persist completes
    /// this node does not campaign, and hands leadership over once a quorum without it is durable
    /// beyond it (D11).
    pub fn handle_disk_stalled(&mut self, now: Time) {
        self.set_disk(now, Disk::Stalled);
    }

    /// The log has no room; the driver keeps trying. Until a persist completes this node neither
    /// takes proposals nor campaigns, and hands leadership over. It goes on to vote, as far as
    /// [`RaftCore::handle_hard_state_persisted`] says.
    pub fn handle_disk_full(&mut self, now: Time) {
        self.set_disk(now, Disk::Full);
    }

    /// A write or fsync failed: nothing that was not reported durable before may be believed any
    /// more (D7). The core stops for good: it promises nothing, and every waiting call ends.
    pub fn handle_disk_failed(&mut self, now: Time) {
        self.advance_clock(now);
        if self.is_halted() {
            return;
        }
        self.disk = Disk::Failed;
        self.withheld.clear();
        self.fail_reads(ReadFailure::Halted);
        self.set_leader(None);
        self.set_role(RoleState::Follower);
        self.outbox.clear();
        self.end_transfer(TransferOutcome::Aborted);
        self.proposals.abandon(&mut self.events);
        for timer in Timer::ALL {
            self.timers.stop(timer);
        }
        self.events.push_back(Event::Halted);
    }

    fn set_disk(&mut self, now: Time, disk: Disk) {
        self.advance_clock(now);
        if self.is_halted() {
            return;
        }
        self.disk = disk;
        self.hand_over_if_disk_is_behind();
    }

    /// Keeps the promises that are due. All acknowledgements are to the leader of the current term, so
    /// only the furthest is sent: it covers the others.
    fn release(&mut self, is_due: impl Fn(&Withheld) -> bool) {
        let mut furthest: Option<(LogIndex, NodeId, AppendResponse)> = None;
        let due: Vec<Withheld> = self
            .withheld
            .extract_if(.., |withheld| is_due(withheld))
            .collect();
        for withheld in due {
            match withheld.promise {
                Promise::Message { to, message } => self.send(to, message),
                Promise::OwnVote { term } => self.own_vote_is_durable(term),
                Promise::Recount { to, message } => {
                    self.count_again();
                    self.send(to, message);
                }
                Promise::Acknowledgement {
                    to,
                    term,
                    sequence,
                    last,
                } => {
                    assert_eq!(term, self.term(), "promises end with their term");
                    let response = AppendResponse {
                        term,
                        sequence,
                        outcome: AppendOutcome::Accepted,
                    };
                    if furthest
                        .as_ref()
                        .is_none_or(|(covered, ..)| *covered <= last)
                    {
                        furthest = Some((last, to, response));
                    }
                }
            }
        }
        if let Some((_, leader, response)) = furthest {
            self.send(leader, response.into());
        }
    }
}
