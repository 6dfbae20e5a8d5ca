//! Changes of membership that wait for their end.

use std::collections::BTreeMap;

use raft_core::{
    Counting, IndexRange, MembershipChange, PeerStatus, ProposalOutcome, RaftCore, Time,
};
use raft_proto::{LogPosition, Membership, MembershipError, NodeId, Term};

use super::{Driver, after};
use crate::membership::{ChangeError, ChangeSafety};

type Decided = Box<dyn FnOnce(Result<Membership, ChangeError>) + Send>;

/// Hears what becomes of a change of membership.
pub struct ChangeWaiter(Option<Decided>);

impl ChangeWaiter {
    /// A waiter for the outcome.
    pub fn new(decided: impl FnOnce(Result<Membership, ChangeError>) + Send + 'static) -> Self {
        Self(Some(Box::new(decided)))
    }

    /// Tells the outcome.
    pub fn decide(mut self, outcome: Result<Membership, ChangeError>) {
        if let Some(decided) = self.0.take() {
            decided(outcome);
        }
    }
}

impl Drop for ChangeWaiter {
    /// A waiter that is dropped on the way (a thread ended) still hears the truth.
    fn drop(&mut self) {
        if let Some(decided) = self.0.take() {
            decided(Err(ChangeError::Unknown));
        }
    }
}

/// How far a change has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its first entry is in this node's log.
    Appended,
    /// Its first entry is committed: the change is certain, and some leader will finish it.
    Committed,
}

struct Waiting {
    position: LogPosition,
    deadline: Time,
    stage: Stage,
    waiter: ChangeWaiter,
}

/// Changes that this node proposed and whose end is not known. The core takes one at a time, but
/// a deposed leader's may still wait while its next leadership begins another.
#[derive(Default)]
pub(super) struct Changes(Vec<Waiting>);

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.0.iter().map(|waiting| waiting.deadline).min()
    }

    /// Answers everything whose deadline has passed: it may still take effect.
    pub(super) fn expire(&mut self, now: Time) {
        let expired = self.0.extract_if(.., |waiting| waiting.deadline <= now);
        expired.for_each(|waiting| waiting.waiter.decide(Err(ChangeError::Unknown)));
    }

    pub(super) fn fail_all(&mut self) {
        let all = self.0.drain(..);
        all.for_each(|waiting| waiting.waiter.decide(Err(ChangeError::Unknown)));
    }

    /// The outcome of proposals is known; a change's first entry may be among them.
    pub(super) fn decided(&mut self, range: IndexRange, term: Term, outcome: ProposalOutcome) {
        let is_meant = |waiting: &Waiting| {
            range.contains(waiting.position.index) && waiting.position.term == term
        };
        let error = match outcome {
            ProposalOutcome::Committed => {
                let meant = self.0.iter_mut().filter(|waiting| is_meant(waiting));
                return meant.for_each(|waiting| waiting.stage = Stage::Committed);
            }
            ProposalOutcome::Superseded { by } => ChangeError::Superseded { by },
            ProposalOutcome::Unknown => ChangeError::Unknown,
        };
        let ended = self.0.extract_if(.., |waiting| is_meant(waiting));
        ended.for_each(|waiting| waiting.waiter.decide(Err(error.clone())));
    }

    /// Answers changes that are finished: once the first entry is committed, the next membership
    /// that is committed and not joint is what was wished for, or follows it.
    pub(super) fn settle(&mut self, core: &RaftCore) {
        let is_committed = core.membership_index() <= core.commit_index();
        if self.0.is_empty() || !is_committed || core.membership().is_joint() {
            return;
        }
        let done = self.0.extract_if(.., |waiting| {
            let is_reached = core.membership_index() >= waiting.position.index;
            waiting.stage == Stage::Committed && is_reached
        });
        done.for_each(|waiting| waiting.waiter.decide(Ok(core.membership().clone())));
    }
}

impl Driver {
    pub(super) fn change_membership(
        &mut self,
        now: Time,
        changes: &[MembershipChange],
        safety: ChangeSafety,
        waiter: ChangeWaiter,
    ) {
        let refused = match safety {
            ChangeSafety::KeepQuorum => self.quorum_refusal(now, changes),
            ChangeSafety::Force => None,
        };
        if let Some(error) = refused {
            return waiter.decide(Err(error));
        }
        match self.core.propose_membership(now, changes) {
            Ok(position) => self.changes.0.push(Waiting {
                position,
                deadline: after(now, self.limits.request_timeout),
                stage: Stage::Appended,
                waiter,
            }),
            Err(error) => {
                let error = self.change_error(error);
                waiter.decide(Err(error));
            }
        }
    }

    /// Why a change that takes voters away is not safe. What else is wrong with it, the core says.
    fn quorum_refusal(&self, now: Time, changes: &[MembershipChange]) -> Option<ChangeError> {
        if !self.is_leader() {
            return None;
        }
        let target = self.core.membership_after(changes).ok()?;
        let current = &self.core.membership().voters;
        if current.is_subset(&target.voters) {
            return None;
        }
        let me = self.core.id();
        let patience_ms = self.core.config().election_timeout_ms_max;
        let peers: BTreeMap<NodeId, PeerStatus> =
            self.core.peers().map(|peer| (peer.id, peer)).collect();
        let is_recent = |id: &NodeId| {
            let peer = peers.get(id);
            peer.filter(|peer| now < peer.contact.plus_ms(patience_ms))
        };
        let is_reached = |id: &NodeId| {
            let counts =
                |peer: &PeerStatus| peer.has_answered && peer.counting == Counting::Counted;
            *id == me || is_recent(id).is_some_and(counts)
        };
        let (reached, missing): (Vec<NodeId>, Vec<NodeId>) =
            target.voters.iter().copied().partition(is_reached);
        let majority = target.voters.len() / 2 + 1;
        if reached.len() >= majority {
            return None;
        }
        // A new leader takes everybody for alive, until they had time to answer it.
        let is_open = |id: &&NodeId| is_recent(id).is_some_and(|peer| !peer.has_answered);
        if reached.len() + missing.iter().filter(is_open).count() >= majority {
            return Some(ChangeError::NotReady);
        }
        Some(ChangeError::WouldLoseQuorum {
            voters: target.voters.len(),
            reached: reached.len(),
            missing,
        })
    }

    fn change_error(&self, error: raft_core::ChangeError) -> ChangeError {
        use raft_core::ChangeError as Core;
        let not_leader = |leader| ChangeError::NotLeader {
            leader: self.hint(leader),
        };
        match error {
            Core::NotLeader { leader } => not_leader(leader),
            Core::Transferring { to } => not_leader(Some(to)),
            Core::NotReady => ChangeError::NotReady,
            Core::InProgress => ChangeError::InProgress,
            Core::AlreadyAMember(id) => ChangeError::AlreadyAMember(id),
            Core::NotAMember(id) => ChangeError::NotAMember(id),
            Core::AlreadyAVoter(id) => ChangeError::AlreadyAVoter(id),
            Core::NotAVoter(id) => ChangeError::NotAVoter(id),
            Core::Lagging(id) => ChangeError::Lagging(id),
            Core::NotCounted(id) => ChangeError::NotCounted(id),
            Core::OtherIncarnation(id) => ChangeError::OtherIncarnation(id),
            Core::Nothing => ChangeError::Nothing,
            Core::Invalid(MembershipError::NoVoter) => ChangeError::LastVoter,
            Core::Invalid(MembershipError::DuplicateAddress(one, other, address)) => {
                let is_old = self.core.membership().contains(one);
                let member = if is_old { one } else { other };
                ChangeError::AddressInUse { member, address }
            }
            Core::Invalid(error) => ChangeError::Invalid(error),
            Core::DiskUnavailable => ChangeError::DiskUnavailable,
            Core::Halted => ChangeError::ShutDown,
        }
    }
}
