//! Linearizable reads: gathered in batches, one confirmation round for each (thesis §6.4).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft_core::Time;
use raft_proto::LogIndex;
use raft_proto::mutants::{Mutant, is_planted};

use crate::error::ReadError;

/// Gets the answer of a query.
pub type QueryWaiter = Box<dyn FnOnce(Result<Bytes, ReadError>) + Send>;

/// Which states may answer a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadConsistency {
    /// The state at some moment between call and answer, in the one order of all commands.
    Linearizable,
    /// Whatever this node has applied; may be old.
    Local,
}

struct Batch {
    queries: Vec<(Bytes, QueryWaiter)>,
    deadline: Time,
}

/// Batches by the number of their confirmation, and those that only wait to be applied.
#[derive(Default)]
pub(super) struct Reads {
    gathering: Option<Batch>,
    unconfirmed: BTreeMap<u64, Batch>,
    confirmed: VecDeque<(LogIndex, Batch)>,
    next_id: u64,
    waiting: usize,
}

impl Reads {
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    pub(super) fn gather(&mut self, query: Bytes, waiter: QueryWaiter, deadline: Time) {
        if is_planted(Mutant::ReadJoinsClosedBatch)
            && let Some(mut closed) = self.unconfirmed.last_entry()
        {
            self.waiting += 1;
            return closed.get_mut().queries.push((query, waiter));
        }
        let batch = self.gathering.get_or_insert_with(|| Batch {
            queries: Vec::new(),
            deadline,
        });
        batch.queries.push((query, waiter));
        self.waiting += 1;
    }

    /// Ends the batch that gathers, and returns the id under which it is to be confirmed. Ids are
    /// never reused, so that no old acknowledgement confirms a new read.
    pub(super) fn close_batch(&mut self) -> Option<u64> {
        let batch = self.gathering.take()?;
        self.next_id += 1;
        self.unconfirmed.insert(self.next_id, batch);
        Some(self.next_id)
    }

    pub(super) fn confirmed(&mut self, id: u64, index: LogIndex) {
        if let Some(batch) = self.unconfirmed.remove(&id) {
            self.confirmed.push_back((index, batch));
        }
    }

    /// Queries that may run once everything before `next` has been handed to the applier.
    pub(super) fn take_ready(&mut self, next: LogIndex) -> Option<Vec<(Bytes, QueryWaiter)>> {
        let (index, _) = self.confirmed.front()?;
        let is_early = *index == next && is_planted(Mutant::ReadBeforeApplied);
        if *index >= next && !is_early {
            return None;
        }
        let (_, batch) = self.confirmed.pop_front()?;
        self.waiting -= batch.queries.len();
        Some(batch.queries)
    }

    pub(super) fn fail(&mut self, id: u64, error: &ReadError) {
        if let Some(batch) = self.unconfirmed.remove(&id) {
            self.fail_batch(batch, error);
        }
    }

    pub(super) fn expire(&mut self, now: Time) {
        while let Some(first) = self.unconfirmed.first_entry() {
            if first.get().deadline > now {
                break;
            }
            let batch = first.remove();
            self.fail_batch(batch, &ReadError::TimedOut);
        }
        while self
            .confirmed
            .front()
            .is_some_and(|(_, b)| b.deadline <= now)
        {
            if let Some((_, batch)) = self.confirmed.pop_front() {
                self.fail_batch(batch, &ReadError::TimedOut);
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        let unconfirmed = self.unconfirmed.values().next().map(|b| b.deadline);
        let confirmed = self.confirmed.front().map(|(_, b)| b.deadline);
        unconfirmed.into_iter().chain(confirmed).min()
    }

    pub(super) fn fail_all(&mut self, error: &ReadError) {
        let gathering = self.gathering.take();
        let unconfirmed = std::mem::take(&mut self.unconfirmed).into_values();
        let confirmed = std::mem::take(&mut self.confirmed).into_iter();
        let batches = unconfirmed.chain(confirmed.map(|(_, batch)| batch));
        for batch in gathering.into_iter().chain(batches) {
            self.fail_batch(batch, error);
        }
    }

    fn fail_batch(&mut self, batch: Batch, error: &ReadError) {
        self.waiting -= batch.queries.len();
        for (_, waiter) in batch.queries {
            waiter(Err(error.clone()));
        }
    }
}
