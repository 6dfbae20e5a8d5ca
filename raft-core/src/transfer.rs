//! Leadership transfer (thesis §3.10), also away from a leader whose disk is stuck (D11).

use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{LogIndex, NodeId};

use crate::core::{Disk, RaftCore};
use crate::error::TransferError;
use crate::output::{Event, TransferOutcome};
use crate::progress::{Counting, Progress, Replication};
use crate::roles::{Leader, RoleState};
use crate::time::Time;
use crate::timers::Timer;

/// After how many of the longest election timeouts without a commit a leader may doubt itself.
const COMMIT_PATIENCE_TIMEOUTS: u64 = 4;
/// How often that is doubled at most.
const PATIENCE_DOUBLINGS_MAX: u32 = 5;

/// A transfer under way. It outlives the leadership, to tell who leads next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub(crate) to: NodeId,
}

impl RaftCore {
    /// Hands leadership to another voter: takes no proposals from now on, waits until the target
    /// has the whole log, and asks it to campaign. [`Event::TransferEnded`] tells the outcome,
    /// after the longest election timeout at the latest.
    ///
    /// # Errors
    /// [`TransferError`]; then nothing has happened.
    pub fn transfer_leadership(&mut self, now: Time, to: NodeId) -> Result<(), TransferError> {
        self.advance_clock(now);
        if self.is_halted() {
            return Err(TransferError::Halted);
        }
        let RoleState::Leader(leader) = &self.role else {
            return Err(TransferError::NotLeader {
                leader: self.leader,
            });
        };
        if let Some(transfer) = &self.transfer {
            return Err(TransferError::InProgress(transfer.to));
        }
        if to == self.config.id {
            return Err(TransferError::AlreadyLeader(to));
        }
        if !self.members.current().voters.contains(&to) {
            return Err(TransferError::NotAVoter(to));
        }
        let counting = leader.peers.get(&to).map(|p| p.counting);
        if counting == Some(Counting::Uncounted) {
            return Err(TransferError::Uncounted(to));
        }
        self.start_transfer(to);
        Ok(())
    }

    fn start_transfer(&mut self, to: NodeId) {
        self.transfer = Some(Transfer { to });
        let patience_ms = self.config.election_timeout_ms_max;
        self.timers
            .set(Timer::Transfer, self.now.plus_ms(patience_ms));
        self.advance_transfer();
    }

    /// The target holds more of the log.
    pub(crate) fn transfer_target_advanced(&mut self, peer: NodeId) {
        if self.transferring_to() == Some(peer) {
            self.advance_transfer();
        }
    }

    /// Asks the target to campaign once it has the whole log; again with each heartbeat, because
    /// the request may be lost.
    pub(crate) fn advance_transfer(&mut self) {
        let Some(to) = self.transferring_to() else {
            return;
        };
        let last = self.log.last_index();
        let is_ready = self.progress(to).is_some_and(|p| p.match_index() == last);
        if is_ready {
            self.send_timeout_now(to);
        }
    }

    pub(crate) fn transfer_timed_out(&mut self) {
        self.end_transfer(TransferOutcome::TimedOut);
    }

    /// Another leader is known, or none: ends a transfer that this decides, and reads that the
    /// old leader was to confirm.
    pub(crate) fn leader_has_changed(&mut self) {
        self.fail_reads(crate::output::ReadFailure::LeaderLost);
        match (self.transferring_to(), self.leader) {
            (Some(to), Some(leader)) if leader == to => {
                self.end_transfer(TransferOutcome::Transferred);
            }
            (Some(_), Some(leader)) => self.end_transfer(TransferOutcome::OtherLeader(leader)),
            (Some(_) | None, _) => {}
        }
    }

    pub(crate) fn end_transfer(&mut self, outcome: TransferOutcome) {
        if let Some(Transfer { to }) = self.transfer.take() {
            self.timers.stop(Timer::Transfer);
            self.events.push_back(Event::TransferEnded { to, outcome });
        }
    }

    /// A leader that cannot write holds up nothing, because others commit without it; but it
    /// must not stay once a quorum without it is ahead of its disk (D11), or its disk is full.
    pub(crate) fn hand_over_if_disk_is_behind(&mut self) {
        let RoleState::Leader(leader) = &self.role else {
            return;
        };
        let is_behind = self.is_quorum_ahead(leader);
        let must_go = match self.disk {
            Disk::Working | Disk::Failed => false,
            Disk::Stalled => is_behind && !is_planted(Mutant::NoHandOver),
            Disk::Full => true,
        };
        if must_go
            && self.transfer.is_none()
            && let Some(to) = self.best_successor()
        {
            self.start_transfer(to);
        }
    }

    /// Whether this leader commits nothing while voters that it knows only in part could: those that
    /// take its entries, and those that it does not hear of. Nobody can be told to campaign,
    /// because what it hears of is no quorum that goes on; but as long as it leads, its heartbeats
    /// hold those who could (D11).
    ///
    /// Voters that it hears of and that take nothing could not write for another leader either:
    /// leadership must not go round among nodes that share one slow disk, or because some are full.
    /// A leader whose own disk works waits for a while, each time for longer (see
    /// [`RaftCore::commit_patience_ms`]): large entries take their time.
    pub(crate) fn hides_a_quorum(&self) -> bool {
        let RoleState::Leader(leader) = &self.role else {
            return false;
        };
        let (me, durable) = (self.config.id, self.persists.durable_index());
        // What nobody could count yet, were it on every disk (§5.4.2).
        let stuck_at = self.commit_index.max(leader.first_index.previous());
        let timeout_ms = self.config.election_timeout_ms_max;
        let silent = |id: NodeId| {
            let peer = leader.peers.get(&id).filter(|_| id != me);
            peer.is_some_and(|p| self.now >= p.contact.plus_ms(timeout_ms))
        };
        let takes = |id: NodeId, after: LogIndex| {
            let peer = leader.peers.get(&id).filter(|_| id != me);
            peer.is_some_and(|p| p.counted_match() > after)
        };
        // It is behind, which says nothing of its disk; it may get on faster with another leader.
        let base = self.log.base().index;
        let fetches = |id: NodeId| {
            let peer = leader.peers.get(&id);
            peer.is_some_and(|p| p.replication() == Replication::Snapshot || p.next_index() <= base)
        };
        let quorum = self.members.quorum();
        let is_quorum =
            |goes_on: &dyn Fn(NodeId) -> bool| quorum.reached(|id| u64::from(goes_on(id))) == 1;
        let is_stuck = self.now >= leader.commits_since.plus_ms(self.commit_patience_ms());
        match self.disk {
            // Whether a voter that is not heard of counts is for others to say.
            Disk::Stalled => {
                let goes_on = |id| takes(id, durable) || silent(id) || is_stuck && fetches(id);
                !self.is_quorum_ahead(leader) && is_quorum(&goes_on)
            }
            Disk::Working => {
                let goes_on = |id| takes(id, stuck_at) || silent(id);
                // With this node's own copy somebody else must lead, who hears it.
                let mut voters = quorum.voters();
                let helps = durable > stuck_at && voters.any(|id| takes(id, stuck_at));
                let is_quorum =
                    is_quorum(&goes_on) || helps && is_quorum(&|id| id == me || goes_on(id));
                is_stuck && is_quorum
            }
            Disk::Full | Disk::Failed => false,
        }
    }

    /// Nothing waits for a commit, or something was committed.
    pub(crate) fn has_committed(&mut self) {
        let now = self.now;
        if let RoleState::Leader(leader) = &mut self.role {
            leader.commits_since = now;
        }
    }

    /// Steps down for those who may go on, and lets them campaign first.
    pub(crate) fn make_way(&mut self) {
        self.stuck_leaderships = self.stuck_leaderships.saturating_add(1);
        self.step_down();
    }

    /// How long a leader goes on without a commit while entries wait and others might do better, in
    /// milliseconds. It doubles with each time that stepping down was no remedy.
    fn commit_patience_ms(&self) -> u64 {
        let doublings = self.stuck_leaderships.min(PATIENCE_DOUBLINGS_MAX);
        (COMMIT_PATIENCE_TIMEOUTS << doublings) * self.config.election_timeout_ms_max
    }

    /// Whether a quorum without this leader holds more than its disk does.
    fn is_quorum_ahead(&self, leader: &Leader) -> bool {
        let me = self.config.id;
        let held = |id: NodeId| leader.peers.get(&id).map_or(0, |p| p.counted_match().0);
        let quorum = self.members.quorum();
        let elsewhere = quorum.reached(|id| if id == me { 0 } else { held(id) });
        LogIndex(elsewhere) > self.persists.durable_index()
    }

    /// The voter with the most of the log that was heard of last.
    pub(crate) fn best_successor(&self) -> Option<NodeId> {
        let RoleState::Leader(leader) = &self.role else {
            return None;
        };
        let voters = &self.members.current().voters;
        let is_fit =
            |id: &NodeId, p: &Progress| voters.contains(id) && p.counting == Counting::Counted;
        let fit = leader.peers.iter().filter(|(id, p)| is_fit(id, p));
        fit.max_by_key(|(_, p)| (p.match_index(), p.contact))
            .map(|(id, _)| *id)
    }
}
