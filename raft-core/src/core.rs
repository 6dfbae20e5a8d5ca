//! The core itself: its state, construction, getters and outputs. Inputs are in the modules
//! named for what they do.

use std::collections::VecDeque;

use raft_proto::{
    Boot, HardState, LogIndex, LogPosition, Membership, NodeId, SnapshotDescription, Term,
};

use crate::config::Config;
use crate::error::CoreError;
use crate::holes::Holes;
use crate::log_view::LogView;
use crate::membership_log::MembershipLog;
use crate::output::{Commit, Event, IndexRange, Persist, Role, Transmit};
use crate::persist_queue::PersistQueue;
use crate::progress::{Counting, Progress, Replication};
use crate::proposals::Proposals;
use crate::random::Random;
use crate::read::Reads;
use crate::recovered::{Recovered, SnapshotContent};
use crate::repair::Repair;
use crate::roles::{RoleState, Withheld};
use crate::snapshot::Incoming;
use crate::time::{Epoch, Time};
use crate::timers::{Timer, Timers};
use crate::transfer::Transfer;

/// Whether this node can write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    /// As far as is known.
    Working,
    /// No progress for the driver's stall timeout (D11).
    Stalled,
    /// No room (D7).
    Full,
    /// A write or fsync failed: nothing is believed any more (D7).
    Failed,
}

/// One node of a Raft group, as a deterministic state machine. See the [crate page](crate).
#[derive(Clone, Debug)]
pub struct RaftCore {
    pub(crate) config: Config,
    pub(crate) boot: Boot,
    pub(crate) now: Time,
    pub(crate) random: Random,
    pub(crate) timers: Timers,
    pub(crate) role: RoleState,
    /// Role and term as last told by an event.
    pub(crate) reported_role: (Role, Term),
    /// The leader of the current term, while it is known and in contact.
    pub(crate) leader: Option<NodeId>,
    /// When the leader was last heard of: until an election timeout later no other candidate gets
    /// a vote (thesis §4.2.3).
    pub(crate) leader_contact: Option<Time>,
    /// Up to here this log is known to be a prefix of the current term's leader's.
    pub(crate) verified: LogIndex,
    /// A leader has said that this node is no member; forgotten when it is lost or leads here.
    pub(crate) removed_by: Option<NodeId>,
    pub(crate) log: LogView,
    /// Entries of the log whose content is missing.
    pub(crate) holes: Holes,
    /// The snapshot that ends here cannot be read, and is not replaced yet.
    pub(crate) lost_snapshot: Option<LogPosition>,
    pub(crate) repair: Repair,
    pub(crate) persists: PersistQueue,
    pub(crate) withheld: Vec<Withheld>,
    pub(crate) members: MembershipLog,
    pub(crate) commit_index: LogIndex,
    /// Everything up to here was handed out by `poll_commit`.
    pub(crate) delivered: LogIndex,
    pub(crate) applied: LogIndex,
    pub(crate) epoch: Epoch,
    pub(crate) counting: Counting,
    pub(crate) disk: Disk,
    pub(crate) proposals: Proposals,
    pub(crate) reads: Reads,
    pub(crate) transfer: Option<Transfer>,
    /// How often this node made way for another leader since anything was committed.
    pub(crate) stuck_leaderships: u32,
    /// The newest snapshot of this node.
    pub(crate) saved: Option<SnapshotDescription>,
    /// The snapshot being fetched.
    pub(crate) incoming: Option<Incoming>,
    /// A snapshot installed and not yet handed out by `poll_commit`.
    pub(crate) restore: Option<LogPosition>,
    pub(crate) outbox: VecDeque<Transmit>,
    pub(crate) events: VecDeque<Event>,
}

/// A leader's view of one peer, for status pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub id: NodeId,
    /// The last entry that it is known to hold durably.
    pub match_index: LogIndex,
    /// The next entry to send to it.
    pub next_index: LogIndex,
    /// How entries are sent to it.
    pub replication: Replication,
    /// Appends on the way to it.
    pub inflight_messages: usize,
    /// Payload bytes on the way to it.
    pub inflight_bytes: u64,
    /// When it was last heard of; the start of the leadership if not since.
    pub contact: Time,
    /// Whether it was heard of since.
    pub has_answered: bool,
    /// Whether its acknowledgements count.
    pub counting: Counting,
}

impl RaftCore {
    /// Starts from what the log recovered: as a follower that knows no leader, and campaigns
    /// after an election timeout (at once if it is the only voter).
    ///
    /// # Errors
    /// [`CoreError`] if the configuration cannot work or the parts of `recovered` contradict each
    /// other.
    pub fn new(config: Config, recovered: Recovered, now: Time) -> Result<Self, CoreError> {
        config.validate()?;
        recovered.validate()?;
        let snapshot = recovered.snapshot.unwrap_or(LogPosition::ZERO);
        let lost_snapshot = match recovered.snapshot_content {
            SnapshotContent::Whole => None,
            SnapshotContent::Lost => Some(snapshot),
        };
        let applied = match lost_snapshot {
            None => snapshot.index,
            Some(_) => LogIndex::ZERO,
        };
        let random = Random::from_parts(&[
            config.seed,
            config.id.0,
            recovered.boot.counter,
            recovered.boot.nonce,
        ]);
        let mut core = Self {
            now,
            random,
            timers: Timers::default(),
            role: RoleState::Follower,
            reported_role: (Role::Follower, recovered.hard_state.term),
            leader: None,
            leader_contact: None,
            verified: LogIndex::ZERO,
            removed_by: None,
            log: LogView::new(&recovered),
            holes: Holes::new(&recovered.missing),
            lost_snapshot,
            repair: Repair::default(),
            persists: PersistQueue::new(recovered.hard_state, recovered.last.index),
            withheld: Vec::new(),
            members: MembershipLog::new(recovered.memberships),
            commit_index: snapshot.index,
            delivered: applied,
            applied,
            epoch: Epoch(0),
            counting: if recovered.counted {
                Counting::Counted
            } else {
                Counting::Uncounted
            },
            disk: Disk::Working,
            proposals: Proposals::default(),
            reads: Reads::new(recovered.boot),
            transfer: None,
            stuck_leaderships: 0,
            saved: None,
            incoming: None,
            restore: None,
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            boot: recovered.boot,
            config,
        };
        if core.is_only_voter() {
            core.timers.set(Timer::Election, now);
        } else {
            core.reset_election_timer();
        }
        core.start_repair();
        Ok(core)
    }

    /// The next write for the log, in order; see [`Persist`].
    pub fn poll_persist(&mut self) -> Option<Persist> {
        if self.disk == Disk::Failed {
            return None;
        }
        self.persists.poll()
    }

    /// The next thing to send. Whatever it yields may be sent at once.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if let Some(transmit) = self.outbox.pop_front() {
            return Some(transmit);
        }
        let order = self.next_append_order().map(Transmit::Append);
        // Looking for an append may have made an offer of a snapshot instead.
        order.or_else(|| self.outbox.pop_front())
    }

    /// The next entries to apply or snapshot to restore, in order: committed, and durable on this
    /// node.
    pub fn poll_commit(&mut self) -> Option<Commit> {
        if self.disk == Disk::Failed {
            return None;
        }
        let durable = self.persists.durable_index().min(self.whole_index());
        let until = self.commit_index.min(durable);
        if let Some(position) = self.restore {
            if until < position.index {
                return None;
            }
            self.restore = None;
            self.delivered = self.delivered.max(position.index);
            return Some(Commit::Restore(position));
        }
        let range = IndexRange::new(self.delivered.next(), until)?;
        self.delivered = until;
        Some(Commit::Entries(range))
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`RaftCore::handle_timeout`], if nothing else happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timers.next()
    }

    /// This node.
    #[must_use]
    pub const fn id(&self) -> NodeId {
        self.config.id
    }

    /// The configuration it runs with.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// This start of the node.
    #[must_use]
    pub const fn boot(&self) -> Boot {
        self.boot
    }

    /// The current term; durable or about to be.
    #[must_use]
    pub const fn term(&self) -> Term {
        self.persists.hard_state().term
    }

    /// Term and vote; durable or about to be.
    #[must_use]
    pub const fn hard_state(&self) -> HardState {
        self.persists.hard_state()
    }

    /// Term and vote as far as they are durable.
    #[must_use]
    pub const fn durable_hard_state(&self) -> HardState {
        self.persists.durable_hard_state()
    }

    /// The role in the current term.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role.role()
    }

    /// The leader of the current term, if it is known and in contact.
    #[must_use]
    pub const fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The last entry known to be committed.
    #[must_use]
    pub const fn commit_index(&self) -> LogIndex {
        self.commit_index
    }

    /// The last entry that the driver reported applied.
    #[must_use]
    pub const fn applied_index(&self) -> LogIndex {
        self.applied
    }

    /// The position before the first entry in the log: 0, or an entry that a snapshot covers.
    #[must_use]
    pub const fn base_position(&self) -> LogPosition {
        self.log.base()
    }

    /// The end of the log, durable or not.
    #[must_use]
    pub fn last_position(&self) -> LogPosition {
        self.log.last()
    }

    /// The last entry of the log that is durable, with all before it.
    #[must_use]
    pub const fn durable_index(&self) -> LogIndex {
        self.persists.durable_index()
    }

    /// The term of the entry at an index, if it is in the log.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.log.term_at(index)
    }

    /// The membership in force: that of the last membership entry in the log, committed or not.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        self.members.current()
    }

    /// How many memberships the log holds after `index`.
    #[must_use]
    pub fn memberships_after(&self, index: LogIndex) -> usize {
        self.members
            .indexes_between(index, self.log.last_index())
            .len()
    }

    /// The membership that was in force before, if it is still known.
    #[must_use]
    pub fn previous_membership(&self) -> Option<&Membership> {
        self.members.previous()
    }

    /// Whether this node is known not to be a member: its own log says so for certain, or a leader
    /// did ([`RaftCore::handle_removed`]).
    #[must_use]
    pub fn is_removed(&self) -> bool {
        let membership = self.members.current();
        let is_committed = self.members.current_index() <= self.commit_index;
        let is_left_out = !membership.members.is_empty() && !membership.contains(self.config.id);
        // With a leader it may only be too far behind to know that it is one.
        let is_alone = self.leader.is_none();
        self.removed_by.is_some() || (is_committed && is_left_out && is_alone)
    }

    /// The log index of the membership in force.
    #[must_use]
    pub fn membership_index(&self) -> LogIndex {
        self.members.current_index()
    }

    /// Whether this node counts for nothing (D6); the driver says so in every frame it sends.
    #[must_use]
    pub const fn is_uncounted(&self) -> bool {
        matches!(self.counting, Counting::Uncounted)
    }

    /// How often the log was truncated since the start.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The target of the leadership transfer under way.
    #[must_use]
    pub fn transferring_to(&self) -> Option<NodeId> {
        self.transfer.as_ref().map(|transfer| transfer.to)
    }

    /// A leader's view of its peers, by id; empty on any other node.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> + '_ {
        let peers = match &self.role {
            RoleState::Leader(leader) => Some(leader.peers.iter()),
            RoleState::Follower | RoleState::PreCandidate(_) | RoleState::Candidate(_) => None,
        };
        peers.into_iter().flatten().map(|(id, p)| status_of(*id, p))
    }

    /// Takes note of the time; it never goes back.
    pub(crate) fn advance_clock(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    pub(crate) fn is_only_voter(&self) -> bool {
        let mut voters = self.members.quorum().voters();
        voters.next() == Some(self.config.id) && voters.next().is_none()
    }

    /// Whether the core has stopped for good.
    #[must_use]
    pub const fn is_halted(&self) -> bool {
        matches!(self.disk, Disk::Failed)
    }
}

fn status_of(id: NodeId, progress: &Progress) -> PeerStatus {
    let (inflight_messages, inflight_bytes) = progress.inflight();
    PeerStatus {
        id,
        match_index: progress.match_index(),
        next_index: progress.next_index(),
        replication: progress.replication(),
        inflight_messages,
        inflight_bytes,
        contact: progress.contact,
        has_answered: progress.has_answered,
        counting: progress.counting,
    }
}
