//! The driver's cache of recent entries with their payloads; pure, bounded by the driver.

use std::collections::VecDeque;

use raft_proto::{Entry, LogIndex};

use crate::config::ENTRY_OVERHEAD_BYTES;
use crate::output::AppendOrder;
use crate::time::Epoch;

/// What an [`EntryBuffer`] has for an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fill {
    /// All entries, checked: pass them to [`AppendOrder::into_request`].
    Found(Vec<Entry>),
    /// Some are not held any more (or not yet): read them from disk.
    Evicted,
    /// The log was truncated since the order was made, or holds other terms: call
    /// [`crate::RaftCore::handle_unsent`] with [`crate::UnsentReason::Stale`].
    Stale,
}

/// Consecutive recent entries of the log, payloads included.
///
/// It holds the end of the log: inserting an entry removes those from its index on. It never
/// drops anything by itself; [`EntryBuffer::evict`] drops from the front, and never beyond the
/// bound that the caller gives (what is not yet durable and applied must stay).
///
/// ```
/// use raft_core::{AppendOrder, EntryBuffer, Epoch, Fill};
/// use raft_proto::{Entry, EntryKind, LogIndex, LogPosition, NodeId, Term, TermRun};
///
/// let mut buffer = EntryBuffer::new(1024);
/// buffer.insert(Entry {
///     index: LogIndex(1),
///     term: Term(1),
///     kind: EntryKind::Command,
///     payload: "put".into(),
/// });
/// let order = AppendOrder {
///     to: NodeId(2),
///     term: Term(1),
///     sequence: 1,
///     previous: LogPosition::ZERO,
///     commit_index: LogIndex(0),
///     last: LogIndex(1),
///     runs: vec![TermRun { first: LogIndex(1), term: Term(1) }],
///     epoch: Epoch(0),
/// };
/// let Fill::Found(entries) = buffer.fill(&order) else { panic!() };
/// assert_eq!(&entries[0].payload[..], b"put");
///
/// buffer.truncate_from(LogIndex(1), Epoch(1));
/// assert_eq!(buffer.fill(&order), Fill::Stale);
/// ```
#[derive(Clone, Debug, Default)]
pub struct EntryBuffer {
    entries: VecDeque<Entry>,
    bytes: u64,
    max_bytes: u64,
    epoch: Epoch,
}

impl EntryBuffer {
    /// An empty buffer that [`EntryBuffer::evict`] keeps at or below this many bytes: payloads,
    /// and [`ENTRY_OVERHEAD_BYTES`] for each entry.
    #[must_use]
    pub fn new(max_bytes: u64) -> Self {
        Self {
            max_bytes,
            ..Self::default()
        }
    }

    /// Adds an entry at the end. Entries from its index on are removed first; if it leaves a gap
    /// after the last entry held, all others are, because only consecutive entries are of use.
    pub fn insert(&mut self, entry: Entry) {
        self.remove_from(entry.index);
        if self
            .last_index()
            .is_some_and(|last| last.next() != entry.index)
        {
            self.entries.clear();
            self.bytes = 0;
        }
        self.bytes += cost(&entry);
        self.entries.push_back(entry);
    }

    /// Follows a truncation: pass [`crate::Persist::truncate_from`] and [`crate::Persist::epoch`].
    /// Orders of an earlier epoch are refused from now on.
    pub fn truncate_from(&mut self, index: LogIndex, epoch: Epoch) {
        self.remove_from(index);
        self.epoch = self.epoch.max(epoch);
    }

    /// Drops the oldest entries up to and including `bound` while more bytes are held than
    /// allowed; returns how many bytes are held then.
    pub fn evict(&mut self, bound: LogIndex) -> u64 {
        while self.bytes > self.max_bytes {
            match self.entries.front() {
                Some(front) if front.index <= bound => {
                    self.bytes -= cost(front);
                    self.entries.pop_front();
                }
                Some(_) | None => break,
            }
        }
        self.bytes
    }

    /// The entry at this index, if held.
    #[must_use]
    pub fn get(&self, index: LogIndex) -> Option<&Entry> {
        let first = self.first_index()?;
        if index < first {
            return None;
        }
        self.entries.get(usize::try_from(index.since(first)).ok()?)
    }

    /// The entries of an order, every index and term checked.
    #[must_use]
    pub fn fill(&self, order: &AppendOrder) -> Fill {
        if order.epoch < self.epoch {
            return Fill::Stale;
        }
        let Some(range) = order.entries() else {
            return Fill::Found(Vec::new());
        };
        let held = self.get(range.first).is_some() && self.get(range.last).is_some();
        if !held {
            return Fill::Evicted;
        }
        let mut found = Vec::with_capacity(order.last.since(order.previous.index) as usize);
        for index in range.indexes() {
            match self.get(index) {
                Some(entry) if Some(entry.term) == order.term_at(index) => {
                    found.push(entry.clone());
                }
                Some(_) | None => return Fill::Stale,
            }
        }
        Fill::Found(found)
    }

    /// Index of the oldest entry held.
    #[must_use]
    pub fn first_index(&self) -> Option<LogIndex> {
        self.entries.front().map(|entry| entry.index)
    }

    /// Index of the newest entry held.
    #[must_use]
    pub fn last_index(&self) -> Option<LogIndex> {
        self.entries.back().map(|entry| entry.index)
    }

    /// What the entries held count as, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The epoch of the latest truncation followed.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn remove_from(&mut self, index: LogIndex) {
        while let Some(last) = self.entries.pop_back_if(|last| last.index >= index) {
            self.bytes -= cost(&last);
        }
    }
}

fn cost(entry: &Entry) -> u64 {
    entry.payload.len() as u64 + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use raft_proto::{EntryKind, LogPosition, NodeId, Term, TermRun};

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            index: LogIndex(index),
            term: Term(term),
            kind: EntryKind::Command,
            payload: Bytes::from_static(b"0123456789"),
        }
    }

    fn buffer_of(entries: &[(u64, u64)]) -> EntryBuffer {
        let mut buffer = EntryBuffer::new(3 * (10 + ENTRY_OVERHEAD_BYTES));
        for &(index, term) in entries {
            buffer.insert(entry(index, term));
        }
        buffer
    }

    fn order(previous: u64, last: u64, term: u64, epoch: u64) -> AppendOrder {
        AppendOrder {
            to: NodeId(2),
            term: Term(9),
            sequence: 1,
            previous: LogPosition {
                index: LogIndex(previous),
                term: Term(1),
            },
            commit_index: LogIndex(0),
            last: LogIndex(last),
            runs: vec![TermRun {
                first: LogIndex(previous + 1),
                term: Term(term),
            }],
            epoch: Epoch(epoch),
        }
    }

    #[test]
    fn fill_after_a_truncation_is_stale_even_if_the_index_is_there_again() {
        let mut buffer = buffer_of(&[(1, 1), (2, 1), (3, 1)]);
        let before = order(1, 3, 1, 0);
        assert!(matches!(buffer.fill(&before), Fill::Found(entries) if entries.len() == 2));
        buffer.truncate_from(LogIndex(2), Epoch(1));
        buffer.insert(entry(2, 2));
        buffer.insert(entry(3, 2));
        assert_eq!(buffer.fill(&before), Fill::Stale);
        // The epoch alone is not trusted either: terms are checked one by one.
        assert_eq!(buffer.fill(&order(1, 3, 1, 1)), Fill::Stale);
        assert!(matches!(buffer.fill(&order(1, 3, 2, 1)), Fill::Found(_)));
    }

    #[test]
    fn eviction_respects_the_bound_and_the_limit() {
        let mut buffer = buffer_of(&[(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)]);
        let one = 10 + ENTRY_OVERHEAD_BYTES;
        assert_eq!(buffer.evict(LogIndex(1)), 4 * one);
        assert_eq!(buffer.first_index(), Some(LogIndex(2)));
        assert_eq!(buffer.fill(&order(0, 2, 1, 0)), Fill::Evicted);
        assert_eq!(buffer.evict(LogIndex(5)), 3 * one);
        assert_eq!(buffer.first_index(), Some(LogIndex(3)));
        assert_eq!(buffer.fill(&order(4, 6, 1, 0)), Fill::Evicted);
        assert_eq!(buffer.fill(&order(5, 5, 1, 0)), Fill::Found(Vec::new()));
    }

    #[test]
    fn an_insert_replaces_what_follows_and_never_leaves_a_gap() {
        let mut buffer = buffer_of(&[(1, 1), (2, 1), (3, 1)]);
        buffer.insert(entry(2, 2));
        assert_eq!(buffer.last_index(), Some(LogIndex(2)));
        assert_eq!(buffer.get(LogIndex(2)).unwrap().term, Term(2));
        buffer.insert(entry(9, 2));
        assert_eq!(buffer.first_index(), Some(LogIndex(9)));
        assert_eq!(buffer.bytes(), 10 + ENTRY_OVERHEAD_BYTES);
    }
}
