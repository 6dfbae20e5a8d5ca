//! Membership changes under way (§6): joint consensus, one change at a time, learners and their
//! promotion, leaders that leave.

use bytes::Bytes;
use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{EntryKind, LogIndex, LogPosition, Membership, NodeId, Promotion};

use crate::catch_up::{CatchUp, Pace};
use crate::core::{Disk, RaftCore};
use crate::membership_change::{self, ChangeError, MembershipChange};
use crate::output::{Event, MembershipStage};
use crate::progress::{Counting, Progress};
use crate::roles::RoleState;
use crate::time::Time;

impl RaftCore {
    /// Changes the membership. Changes of voters go through a joint configuration, which the
    /// leader (or the next one) leaves by itself; returns the position of the first entry, whose
    /// outcome is reported like a proposal's. [`Event::MembershipChanged`] tells each step, and the
    /// change is done when a membership that is not joint is committed.
    ///
    /// # Errors
    /// [`ChangeError`]; then nothing has happened.
    pub fn propose_membership(
        &mut self,
        now: Time,
        changes: &[MembershipChange],
    ) -> Result<LogPosition, ChangeError> {
        self.advance_clock(now);
        self.check_may_change()?;
        let current = self.members.current();
        let target = membership_change::target_of(current, changes)?;
        for id in target.voters.difference(&current.voters) {
            self.check_may_vote(*id)?;
        }
        let next = membership_change::enter(current, target);
        let index = self.append_own_membership(next);
        let term = self.term();
        self.proposals.add(index, term, &mut self.events);
        Ok(LogPosition { index, term })
    }

    /// The membership that these changes would lead to, whether or not it may be proposed now.
    ///
    /// # Errors
    /// [`ChangeError`] if they do not fit the membership in force or each other.
    pub fn membership_after(
        &self,
        changes: &[MembershipChange],
    ) -> Result<Membership, ChangeError> {
        membership_change::target_of(self.members.current(), changes)
    }

    /// One change at a time, and none before the leader's first commit in its term: before that, a
    /// predecessor's change may still be committed or lost (the bug of 2015 in single-server
    /// changes).
    fn check_may_change(&self) -> Result<(), ChangeError> {
        if self.is_halted() {
            return Err(ChangeError::Halted);
        }
        let RoleState::Leader(leader) = &self.role else {
            return Err(ChangeError::NotLeader {
                leader: self.leader,
            });
        };
        if self.commit_index < leader.first_index {
            return Err(ChangeError::NotReady);
        }
        if let Some(transfer) = &self.transfer {
            return Err(ChangeError::Transferring { to: transfer.to });
        }
        if self.disk != Disk::Working {
            return Err(ChangeError::DiskUnavailable);
        }
        let is_pending = self.members.current_index() > self.commit_index;
        if is_pending || self.members.current().is_joint() {
            return Err(ChangeError::InProgress);
        }
        Ok(())
    }

    /// A learner becomes a voter only if it counts and is close behind: else the change could
    /// leave the cluster unable to commit.
    fn check_may_vote(&self, id: NodeId) -> Result<(), ChangeError> {
        let RoleState::Leader(leader) = &self.role else {
            return Err(ChangeError::Lagging(id));
        };
        let counts = leader
            .peers
            .get(&id)
            .is_some_and(|p| p.counting == Counting::Counted);
        let members = &self.members.current().members;
        let is_bound = members
            .get(&id)
            .is_some_and(|member| member.incarnation.is_some());
        if !counts || !is_bound {
            return Err(ChangeError::NotCounted(id));
        }
        // A learner that has fallen silent tells nothing of how far behind it is by now; and if it
        // is dead, the vote it gets could be the one that a majority lacks.
        let patience_ms = self.config.election_timeout_ms_max;
        let heard = leader
            .peers
            .get(&id)
            .filter(|p| self.now < p.contact.plus_ms(patience_ms));
        let pace = heard
            .zip(leader.catch_ups.get(&id))
            .map(|(peer, catch_up)| {
                let mut by_now = *catch_up;
                let round_ms = self.config.election_timeout_ms_min;
                by_now.advance(
                    peer.match_index(),
                    self.log.last_index(),
                    self.now,
                    round_ms,
                );
                by_now.pace()
            });
        match pace {
            Some(Pace::CaughtUp) => Ok(()),
            Some(Pace::Behind) | None => Err(ChangeError::Lagging(id)),
        }
    }

    fn append_own_membership(&mut self, membership: Membership) -> LogIndex {
        let payload = match membership.to_bytes() {
            Ok(bytes) => bytes,
            // At most 64 members with addresses of 256 bytes: far below the codec's limit.
            Err(error) => unreachable!("a valid membership encodes: {error}"),
        };
        let index = self.append_generated(EntryKind::Membership, payload);
        self.append_membership(index, membership);
        index
    }

    /// A membership entered the log: it is in force at once (§6). New members get progress; those
    /// that are left out keep theirs until it is committed, so that they learn of it.
    pub(crate) fn append_membership(&mut self, index: LogIndex, membership: Membership) {
        self.members.append(index, membership);
        let stage = MembershipStage::Appended;
        self.events
            .push_back(Event::MembershipChanged { index, stage });
        let (me, now) = (self.config.id, self.now);
        let last = self.log.last_index();
        let RoleState::Leader(leader) = &mut self.role else {
            return;
        };
        let membership = self.members.current();
        for id in membership.members.keys().filter(|id| **id != me) {
            let fresh = || Progress::new(index, now);
            leader.peers.entry(*id).or_insert_with(fresh);
        }
        for id in membership.learners.keys() {
            let fresh = || CatchUp::new(last, now);
            leader.catch_ups.entry(*id).or_insert_with(fresh);
        }
        leader
            .catch_ups
            .retain(|id, _| membership.learners.contains_key(id));
    }

    /// Entries after `before` are committed: reports memberships among them, and takes the next
    /// step of the change.
    pub(crate) fn memberships_committed(&mut self, before: LogIndex) {
        for index in self.members.indexes_between(before, self.commit_index) {
            let stage = MembershipStage::Committed;
            self.events
                .push_back(Event::MembershipChanged { index, stage });
        }
        if is_planted(Mutant::ConfigurationAtCommit) {
            self.members.recompute();
        }
        self.continue_membership_change();
    }

    /// Takes the next step of a change whose last one is committed: leaves a joint configuration,
    /// whoever began it; forgets members that left; and steps down if this node is one of them.
    pub(crate) fn continue_membership_change(&mut self) {
        let is_committed = self.members.current_index() <= self.commit_index
            || is_planted(Mutant::LeavesJointEarly);
        let RoleState::Leader(leader) = &mut self.role else {
            return;
        };
        if !is_committed || self.commit_index < leader.first_index {
            return;
        }
        let current = self.members.current();
        leader.peers.retain(|id, _| current.contains(*id));
        if current.is_joint() {
            // Not during a transfer: the target needs the whole log, and finishes the change.
            if self.transfer.is_none() {
                let next = membership_change::leave(current);
                self.append_own_membership(next);
            }
        } else if !current.is_voter(self.config.id) && !is_planted(Mutant::RemovedLeaderStays) {
            self.leave_leadership();
        }
    }

    /// A leader that is not a voter any more (§6, thesis §4.2.2), or cannot read its log, hands
    /// over and steps down.
    pub(crate) fn leave_leadership(&mut self) {
        if let Some(successor) = self.best_successor() {
            self.send_timeout_now(successor);
        }
        self.step_down();
    }

    /// A learner holds more of the log, or time has passed.
    pub(crate) fn advance_catch_up(&mut self, id: NodeId) {
        let (now, last) = (self.now, self.log.last_index());
        let round_ms = self.config.election_timeout_ms_min;
        let RoleState::Leader(leader) = &mut self.role else {
            return;
        };
        let matched = leader.peers.get(&id).map(Progress::match_index);
        if let (Some(matched), Some(catch_up)) = (matched, leader.catch_ups.get_mut(&id)) {
            catch_up.advance(matched, last, now, round_ms);
        }
    }

    /// Promotes a learner that is to become a voter by itself and has caught up, one at a time and
    /// not too often.
    pub(crate) fn promote_learners(&mut self) {
        let RoleState::Leader(leader) = &self.role else {
            return;
        };
        if self.now < leader.next_promotion || self.check_may_change().is_err() {
            return;
        }
        let learners = &self.members.current().learners;
        let waiting = learners
            .iter()
            .filter(|(_, promotion)| **promotion == Promotion::Auto);
        let ready = waiting
            .map(|(id, _)| *id)
            .find(|id| self.check_may_vote(*id).is_ok());
        let Some(id) = ready else {
            return;
        };
        let backoff_ms = self.config.election_timeout_ms_max;
        let next_promotion = self.now.plus_ms(backoff_ms);
        if let RoleState::Leader(leader) = &mut self.role {
            leader.next_promotion = next_promotion;
        }
        let current = self.members.current();
        // Whatever refuses it now is looked at again after the backoff.
        if let Ok(target) = membership_change::target_of(current, &[MembershipChange::Promote(id)])
        {
            let next = membership_change::enter(current, target);
            self.append_own_membership(next);
        }
    }

    /// Appends the empty entry of a new term, or a membership.
    pub(crate) fn append_generated(&mut self, kind: EntryKind, payload: Bytes) -> LogIndex {
        let entry = raft_proto::Entry {
            index: self.log.last_index().next(),
            term: self.term(),
            kind,
            payload,
        };
        // A generated payload is at most a codec head long, so its length fits.
        self.append_local(entry.payload.len() as u32, Some(entry))
    }
}
