//! The hand-off to the applier: committed entries in order, and the queries that wait for them.

use std::collections::VecDeque;

use bytes::Bytes;
use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{Entry, LogIndex, LogPosition};

use super::proposals::ProposalWaiter;
use super::reads::QueryWaiter;
use crate::error::ReadError;

/// What a step counts as besides its payload, in bytes, so that many small ones are bounded too.
pub(super) const STEP_BYTES: usize = 128;

/// One step of the applier.
pub enum ApplyItem {
    /// Apply a committed entry, then tell its proposer, if it waits here.
    Entry(Entry, Option<ProposalWaiter>),
    /// Answer a query from the state reached.
    Query(Bytes, QueryWaiter),
}

/// Steps for the applier, in order.
pub struct ApplyBatch {
    /// The steps.
    pub items: Vec<ApplyItem>,
    /// Everything up to this entry is applied once the batch is done.
    pub through: LogIndex,
    /// What its steps count as, in bytes: their payloads, and something for each.
    pub bytes: usize,
}

/// Whether anything is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Open,
    /// The state is about to be replaced by the snapshot that ends here, or being replaced: what
    /// waits is answered from the new one, never from half of it.
    AwaitsRestore(LogPosition),
}

/// What the applier gets next.
pub(super) struct ApplyQueue {
    /// The next entry to hand over.
    next: LogIndex,
    committed: LogIndex,
    applied: LogIndex,
    flow: Flow,
    in_flight_bytes: usize,
    /// Entries read back from the log, from `next` on.
    supplied: VecDeque<Entry>,
    reading: bool,
    batch: Vec<ApplyItem>,
    batch_bytes: usize,
}

impl ApplyQueue {
    pub(super) fn starting_after(applied: LogIndex) -> Self {
        Self {
            next: applied.next(),
            committed: applied,
            applied,
            flow: Flow::Open,
            in_flight_bytes: 0,
            supplied: VecDeque::new(),
            reading: false,
            batch: Vec::new(),
            batch_bytes: 0,
        }
    }

    /// The log goes, and a snapshot takes its place: nothing of it is handed over any more.
    pub(super) fn await_restore(&mut self, position: LogPosition) {
        assert!(position.index >= self.next, "what is applied stays applied");
        self.flow = Flow::AwaitsRestore(position);
        self.supplied.clear();
        self.refuse_queries();
    }

    /// A snapshot takes the place of the log up to its end. What of that was not handed over is not
    /// any more, whatever was read back of it already: the snapshot is restored instead.
    pub(super) fn log_begins_after(&mut self, position: LogPosition) {
        if position.index >= self.next {
            self.await_restore(position);
        }
    }

    /// Whether the state is about to be replaced, or being replaced. That may take minutes, so no
    /// query is kept waiting for it without a deadline of its own.
    pub(super) fn awaits_restore(&self) -> bool {
        match self.flow {
            Flow::Open => false,
            Flow::AwaitsRestore(_) => true,
        }
    }

    /// Queries that came since the last batch was taken: an entry only ever gets into a batch that is
    /// taken at once.
    fn refuse_queries(&mut self) {
        self.batch_bytes = 0;
        for item in self.batch.drain(..) {
            match item {
                ApplyItem::Entry(..) => unreachable!("no entry waits while the queue is closed"),
                ApplyItem::Query(_, waiter) => waiter(Err(ReadError::Restoring)),
            }
        }
    }

    /// The state machine becomes that of a snapshot. Nothing is handed over until it has.
    pub(super) fn begin_restore(&mut self, position: LogPosition) {
        assert!(position.index >= self.next, "what is applied stays applied");
        self.flow = Flow::AwaitsRestore(position);
        self.supplied.clear();
        self.reading = false;
        if !is_planted(Mutant::CoveredEntriesApplied) {
            self.next = position.index.next();
        }
        self.committed = self.committed.max(position.index);
        self.refuse_queries();
    }

    /// It has.
    pub(super) fn restored(&mut self, position: LogPosition) {
        assert!(
            position.index.next() == self.next || is_planted(Mutant::CoveredEntriesApplied),
            "nothing was handed over since"
        );
        if self.flow == Flow::AwaitsRestore(position) {
            self.flow = Flow::Open;
        }
        // Else another one was installed meanwhile: the log has nothing that follows this one.
        self.applied = position.index;
    }

    /// The last entry handed over, unless the state is being replaced.
    pub(super) fn handed_over(&self) -> Option<LogIndex> {
        match self.flow {
            Flow::Open => Some(self.next.previous()),
            Flow::AwaitsRestore(_) => None,
        }
    }

    pub(super) fn commit_through(&mut self, last: LogIndex) {
        // After content was lost and a snapshot restored, some of it is handed out again.
        self.committed = self.committed.max(last);
    }

    /// Everything up to here is committed and durable on this node.
    pub(super) fn committed(&self) -> LogIndex {
        self.committed
    }

    /// Whether the applier has as much to do as it may be given.
    pub(super) fn is_full(&self, max_bytes: usize) -> bool {
        self.in_flight_bytes + self.batch_bytes >= max_bytes
    }

    /// What steps count as that wait for the applier, or are with it, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.in_flight_bytes + self.batch_bytes
    }

    /// Payloads of entries read back from the log and not handed over yet, in bytes.
    pub(super) fn supplied_bytes(&self) -> usize {
        self.supplied.iter().map(|entry| entry.payload.len()).sum()
    }

    pub(super) fn push_query(&mut self, query: Bytes, waiter: QueryWaiter) {
        self.batch_bytes += STEP_BYTES + query.len();
        self.batch.push(ApplyItem::Query(query, waiter));
    }

    /// Entries read back from the log, from `first` on.
    pub(super) fn supply(&mut self, first: LogIndex, entries: Vec<Entry>) {
        let is_stale = self.flow != Flow::Open || first != self.next;
        if is_stale {
            // Read from a log that was replaced meanwhile.
            return;
        }
        self.reading = false;
        assert!(self.supplied.is_empty(), "one read at a time");
        let found = entries.first().map(|entry| entry.index);
        // Compaction ends before what was not handed over, and an installation was noticed above.
        assert_eq!(found, Some(first), "what is to be applied is in the log");
        self.supplied.extend(entries);
    }

    /// What was asked for cannot be read; it is asked for again once it is there.
    pub(super) fn read_failed(&mut self) {
        self.reading = false;
    }

    /// A batch is applied.
    pub(super) fn done(&mut self, through: LogIndex, bytes: usize) {
        assert!(through >= self.applied, "batches are applied in order");
        assert!(through < self.next, "only what was handed over is applied");
        self.applied = through;
        self.in_flight_bytes -= bytes;
    }

    /// Moves committed entries into the batch, each with its waiter, and after each the queries
    /// that it makes ready. Returns the range to read from the log, if that is where the next
    /// entries are; of what comes after `readable` the content is missing for now.
    pub(super) fn gather(
        &mut self,
        max_bytes: usize,
        readable: LogIndex,
        buffered: impl Fn(LogIndex) -> Option<Entry>,
        mut waiter_of: impl FnMut(&Entry) -> Option<ProposalWaiter>,
        mut ready_queries: impl FnMut(LogIndex) -> Option<Vec<(Bytes, QueryWaiter)>>,
    ) -> Option<(LogIndex, LogIndex)> {
        loop {
            if self.is_full(max_bytes) || self.flow != Flow::Open {
                return None;
            }
            if let Some(queries) = ready_queries(self.next) {
                for (query, waiter) in queries {
                    self.push_query(query, waiter);
                }
                continue;
            }
            if self.next > self.committed || self.reading {
                return None;
            }
            let supplied = self.supplied.pop_front();
            let Some(entry) = supplied.or_else(|| buffered(self.next)) else {
                let last = self.committed.min(readable);
                self.reading = self.next <= last;
                return self.reading.then_some((self.next, last));
            };
            assert_eq!(entry.index, self.next, "entries are applied in order");
            let waiter = waiter_of(&entry);
            self.batch_bytes += STEP_BYTES + entry.payload.len();
            self.batch.push(ApplyItem::Entry(entry, waiter));
            self.next = self.next.next();
        }
    }

    pub(super) fn take_batch(&mut self) -> Option<ApplyBatch> {
        if self.batch.is_empty() || self.flow != Flow::Open {
            return None;
        }
        self.in_flight_bytes += self.batch_bytes;
        Some(ApplyBatch {
            items: std::mem::take(&mut self.batch),
            through: self.next.previous(),
            bytes: std::mem::take(&mut self.batch_bytes),
        })
    }

    pub(super) fn fail_all(&mut self) {
        for item in self.batch.drain(..) {
            match item {
                // Dropping the waiter tells it that the outcome is unknown.
                ApplyItem::Entry(..) => {}
                ApplyItem::Query(_, waiter) => waiter(Err(ReadError::ShutDown)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use raft_proto::{EntryKind, Term};

    use super::*;

    const TERM: Term = Term(1);

    fn entry(index: u64) -> Entry {
        Entry {
            index: LogIndex(index),
            term: TERM,
            kind: EntryKind::Command,
            payload: Bytes::new(),
        }
    }

    /// What is to be read from the log now; nothing is in memory.
    fn gather(queue: &mut ApplyQueue) -> Option<(LogIndex, LogIndex)> {
        queue.gather(1 << 20, LogIndex(5), |_| None, |_| None, |_| None)
    }

    #[test]
    fn what_was_read_back_of_a_log_that_begins_later_now_is_not_handed_over() {
        let mut queue = ApplyQueue::starting_after(LogIndex::ZERO);
        queue.commit_through(LogIndex(5));
        assert_eq!(gather(&mut queue), Some((LogIndex(1), LogIndex(5))));
        let snapshot = LogPosition {
            index: LogIndex(4),
            term: TERM,
        };
        queue.log_begins_after(snapshot);
        queue.supply(LogIndex(1), (1..=5).map(entry).collect());
        assert_eq!(gather(&mut queue), None);
        assert!(queue.take_batch().is_none());
        queue.begin_restore(snapshot);
        queue.restored(snapshot);
        assert_eq!(gather(&mut queue), Some((LogIndex(5), LogIndex(5))));
    }

    #[test]
    fn what_was_handed_over_before_the_log_begins_later_stays_so() {
        let mut queue = ApplyQueue::starting_after(LogIndex::ZERO);
        queue.commit_through(LogIndex(5));
        gather(&mut queue);
        queue.supply(LogIndex(1), (1..=5).map(entry).collect());
        gather(&mut queue);
        queue.log_begins_after(LogPosition {
            index: LogIndex(4),
            term: TERM,
        });
        assert_eq!(queue.take_batch().map(|batch| batch.items.len()), Some(5));
    }
}
