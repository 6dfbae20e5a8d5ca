//! Proposals: how they get a position, and who waits for their outcome at which one.

use std::collections::VecDeque;

use bytes::Bytes;
use raft_core::Time;
use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{Entry, EntryKind, LogIndex, LogPosition, Term};

use super::{Driver, after};
use crate::error::ProposeError;

type Accepted = Box<dyn FnOnce(LogPosition) + Send>;
type Decided = Box<dyn FnOnce(Result<Bytes, ProposeError>) + Send>;

/// Hears what becomes of a proposal: perhaps its position, certainly its outcome.
pub struct ProposalWaiter {
    accepted: Option<Accepted>,
    decided: Option<Decided>,
    since: Option<Time>,
}

impl ProposalWaiter {
    /// A waiter for the outcome.
    pub fn new(decided: impl FnOnce(Result<Bytes, ProposeError>) + Send + 'static) -> Self {
        Self {
            accepted: None,
            decided: Some(Box::new(decided)),
            since: None,
        }
    }

    /// Also hears the position, if the proposal gets one.
    #[must_use]
    pub fn with_position(mut self, accepted: impl FnOnce(LogPosition) + Send + 'static) -> Self {
        self.accepted = Some(Box::new(accepted));
        self
    }

    /// When it was proposed, if it has a position.
    pub(super) fn since(&self) -> Option<Time> {
        self.since
    }

    /// Tells the outcome.
    pub fn decide(mut self, outcome: Result<Bytes, ProposeError>) {
        if let Some(decided) = self.decided.take() {
            decided(outcome);
        }
    }
}

impl Drop for ProposalWaiter {
    /// A waiter that is dropped on the way (a thread ended) still hears the truth.
    fn drop(&mut self) {
        if let Some(decided) = self.decided.take() {
            decided(Err(ProposeError::Unknown));
        }
    }
}

struct Waiting {
    index: LogIndex,
    deadline: Time,
    waiter: ProposalWaiter,
}

/// One queue per term in which this node led, each in the order of indexes and of deadlines.
/// Two terms may have proposed at the same index, so a position needs both to be named.
#[derive(Default)]
pub(super) struct Proposals {
    terms: Vec<(Term, VecDeque<Waiting>)>,
}

impl Proposals {
    pub(super) fn push(
        &mut self,
        position: LogPosition,
        now: Time,
        deadline: Time,
        mut waiter: ProposalWaiter,
    ) {
        waiter.since = Some(now);
        if let Some(accepted) = waiter.accepted.take() {
            accepted(position);
        }
        let waiting = Waiting {
            index: position.index,
            deadline,
            waiter,
        };
        match self.terms.last_mut() {
            Some((term, queue)) if *term == position.term => {
                assert!(queue.back().is_none_or(|last| last.index < waiting.index));
                queue.push_back(waiting);
            }
            Some(_) | None => self.terms.push((position.term, [waiting].into())),
        }
    }

    /// The waiter at this position, if it still waits. Positions are not taken in order: what was
    /// superseded is known at once, while what is committed before it still waits to be applied.
    pub(super) fn take(&mut self, position: LogPosition) -> Option<ProposalWaiter> {
        let is_his = |(term, queue): &(Term, VecDeque<Waiting>)| {
            let by_index = is_planted(Mutant::OutcomeByIndexOnly)
                && queue.iter().any(|waiting| waiting.index == position.index);
            *term == position.term || by_index
        };
        let at = self.terms.iter().position(is_his)?;
        let queue = &mut self.terms[at].1;
        let is_first = queue.front()?.index == position.index;
        let found = if is_first {
            0
        } else {
            queue
                .binary_search_by_key(&position.index, |waiting| waiting.index)
                .ok()?
        };
        let taken = queue.remove(found);
        if queue.is_empty() {
            self.terms.remove(at);
        }
        taken.map(|waiting| waiting.waiter)
    }

    /// Answers everything whose deadline has passed: it may still be committed.
    pub(super) fn expire(&mut self, now: Time) {
        for (_, queue) in &mut self.terms {
            while queue.front().is_some_and(|first| first.deadline <= now) {
                if let Some(expired) = queue.pop_front() {
                    let is_refused = is_planted(Mutant::UnknownIsRefused);
                    expired.waiter.decide(Err(if is_refused {
                        ProposeError::NotLeader { leader: None }
                    } else {
                        ProposeError::Unknown
                    }));
                }
            }
        }
        self.terms.retain(|(_, queue)| !queue.is_empty());
    }

    /// Answers everything that a snapshot covers: it was, or was not, applied by others.
    pub(super) fn fail_through(&mut self, last: LogIndex) {
        for (_, queue) in &mut self.terms {
            while let Some(covered) = queue.pop_front_if(|waiting| waiting.index <= last) {
                covered.waiter.decide(Err(ProposeError::Unknown));
            }
        }
        self.terms.retain(|(_, queue)| !queue.is_empty());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.terms.iter().map(|(_, queue)| queue.len()).sum()
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        let fronts = self.terms.iter().filter_map(|(_, queue)| queue.front());
        fronts.map(|first| first.deadline).min()
    }

    pub(super) fn fail_all(&mut self) {
        for (_, queue) in self.terms.drain(..) {
            for waiting in queue {
                waiting.waiter.decide(Err(ProposeError::Unknown));
            }
        }
    }
}

impl Driver {
    pub(super) fn propose(&mut self, now: Time, command: Bytes, waiter: ProposalWaiter) {
        let (bytes, limit) = (command.len(), self.limits.max_command_bytes);
        if bytes > limit || u32::try_from(bytes).is_err() {
            return waiter.decide(Err(ProposeError::TooLarge { bytes, limit }));
        }
        if self.proposals.len() >= self.limits.max_waiting_proposals {
            self.measure.recorder.proposals_refused.add(1);
            return waiter.decide(Err(ProposeError::Overloaded));
        }
        match self.place(now, EntryKind::Command, command) {
            Ok(position) => {
                let deadline = after(now, self.limits.request_timeout);
                self.proposals.push(position, now, deadline, waiter);
                self.measure.recorder.proposals.add(1);
            }
            Err(error) => {
                self.measure.recorder.proposals_refused.add(1);
                waiter.decide(Err(self.propose_error(error, bytes)));
            }
        }
    }

    /// Gives an entry its place in the log. Its payload is at most as long as a command may be.
    pub(super) fn place(
        &mut self,
        now: Time,
        kind: EntryKind,
        payload: Bytes,
    ) -> Result<LogPosition, raft_core::ProposeError> {
        // No limit of commands exceeds what a record holds.
        let size = payload.len() as u32;
        if self.buffer.last_index() != Some(self.core.last_position().index) {
            // The core has made an entry just now (it became leader, say). The buffer must have it
            // before what follows it, because an insert removes everything from its index on.
            self.take_persists(now, None);
        }
        let position = self.core.propose(now, size)?;
        self.buffer.insert(Entry {
            index: position.index,
            term: position.term,
            kind,
            payload,
        });
        Ok(position)
    }

    pub(super) fn propose_error(
        &self,
        error: raft_core::ProposeError,
        bytes: usize,
    ) -> ProposeError {
        use raft_core::ProposeError as Core;
        let not_leader = |leader| ProposeError::NotLeader {
            leader: self.hint(leader),
        };
        match error {
            Core::NotLeader { leader } => not_leader(leader),
            Core::Transferring { to } => not_leader(Some(to)),
            Core::Overloaded { .. } => ProposeError::Overloaded,
            Core::TooLarge { limit_bytes, .. } => ProposeError::TooLarge {
                bytes,
                limit: limit_bytes as usize,
            },
            Core::DiskUnavailable => ProposeError::DiskUnavailable,
            Core::Halted => ProposeError::ShutDown,
        }
    }
}
