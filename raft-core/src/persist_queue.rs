//! Writes to come and under way, and what of the log and the hard state is durable.

use std::collections::VecDeque;

use raft_proto::{Entry, HardState, LogIndex, LogPosition};

use crate::output::{IndexRange, Install, Persist};
use crate::time::{Epoch, MessageId, PersistId};

/// Whose entries a persist writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nobody's yet.
    Nothing,
    /// Those of one message.
    Message(MessageId),
    /// Proposals and entries that the core made.
    Local,
}

#[derive(Clone, Debug)]
struct Pending {
    persist: Persist,
    source: Source,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    id: PersistId,
    hard_state: HardState,
    /// The last entry of the log as it is now that is durable once this write is. A truncation
    /// lowers it: an older write's completion says nothing about entries written after it under
    /// the same index.
    covers: LogIndex,
}

/// All persists from the moment their content exists until they are durable.
#[derive(Clone, Debug)]
pub(crate) struct PersistQueue {
    next_id: PersistId,
    pending: VecDeque<Pending>,
    in_flight: VecDeque<InFlight>,
    hard_state: HardState,
    durable_hard_state: HardState,
    durable_index: LogIndex,
    /// The end of the log on disk after every persist handed out.
    disk_index: LogIndex,
    /// The last entry of the log as it is now that was handed out.
    handed_index: LogIndex,
}

impl PersistQueue {
    /// Nothing to write: the recovered state is durable.
    pub(crate) const fn new(hard_state: HardState, last_index: LogIndex) -> Self {
        Self {
            next_id: PersistId(1),
            pending: VecDeque::new(),
            in_flight: VecDeque::new(),
            hard_state,
            durable_hard_state: hard_state,
            durable_index: last_index,
            disk_index: last_index,
            handed_index: last_index,
        }
    }

    pub(crate) const fn hard_state(&self) -> HardState {
        self.hard_state
    }

    pub(crate) const fn durable_index(&self) -> LogIndex {
        self.durable_index
    }

    pub(crate) const fn durable_hard_state(&self) -> HardState {
        self.durable_hard_state
    }

    /// The last entry that was handed to the driver, which thus has its content.
    pub(crate) const fn handed_index(&self) -> LogIndex {
        self.handed_index
    }

    pub(crate) fn set_hard_state(&mut self, hard_state: HardState, epoch: Epoch) {
        assert!(
            hard_state.term >= self.hard_state.term,
            "the term never decreases"
        );
        if hard_state == self.hard_state {
            return;
        }
        self.hard_state = hard_state;
        if self.pending.is_empty() {
            self.push(epoch);
        }
        if let Some(last) = self.pending.back_mut() {
            last.persist.hard_state = hard_state;
        }
    }

    /// The log's end and this hard state are known from now on, by a write of its own.
    pub(crate) fn end_is_known(&mut self, hard_state: HardState, epoch: Epoch) -> PersistId {
        assert_eq!(
            hard_state.term, self.hard_state.term,
            "a node counts again in the current term"
        );
        self.hard_state = hard_state;
        self.push(epoch);
        if let Some(last) = self.pending.back_mut() {
            last.persist.end_is_known = true;
        }
        PersistId(self.next_id.0 - 1)
    }

    /// Adds entries at the end of the log.
    pub(crate) fn append(
        &mut self,
        source: Source,
        range: IndexRange,
        generated: Option<Entry>,
        epoch: Epoch,
    ) {
        let joins = self.pending.back().is_some_and(|last| {
            last.source == Source::Nothing || (last.source == source && source == Source::Local)
        });
        if !joins {
            self.push(epoch);
        }
        let Some(last) = self.pending.back_mut() else {
            return;
        };
        last.source = source;
        if let Source::Message(id) = source {
            last.persist.message = Some(id);
        }
        last.persist.generated.extend(generated);
        match &mut last.persist.entries {
            Some(entries) => {
                assert_eq!(entries.last.next(), range.first, "a log has no gaps");
                entries.last = range.last;
            }
            none @ None => *none = Some(range),
        }
    }

    /// Brings back the content of entries of the log, as a write of its own.
    pub(crate) fn refill(
        &mut self,
        message: MessageId,
        range: IndexRange,
        epoch: Epoch,
    ) -> PersistId {
        self.push(epoch);
        if let Some(last) = self.pending.back_mut() {
            last.source = Source::Message(message);
            last.persist.message = Some(message);
            last.persist.refill = Some(range);
        }
        PersistId(self.next_id.0 - 1)
    }

    /// A snapshot takes the place of the log up to `position`; what follows stays as it is.
    pub(crate) fn keep_behind(&mut self, position: LogPosition, epoch: Epoch) {
        for pending in &mut self.pending {
            let persist = &mut pending.persist;
            let covered = persist.refill.filter(|range| range.first <= position.index);
            if let Some(range) = covered {
                persist.refill = IndexRange::new(position.index.next(), range.last);
            }
        }
        self.push(epoch);
        if let Some(last) = self.pending.back_mut() {
            last.persist.install = Some(Install::Keep(position));
        }
    }

    /// Removes entries from `from` on: from what was not handed out yet, and by a persist from
    /// what was. Nothing that is under way counts for them any more.
    pub(crate) fn truncate_from(&mut self, from: LogIndex, epoch: Epoch) {
        self.durable_index = self.durable_index.min(from.previous());
        self.handed_index = self.handed_index.min(from.previous());
        for write in &mut self.in_flight {
            write.covers = write.covers.min(from.previous());
        }
        for pending in &mut self.pending {
            cut(&mut pending.persist, from);
        }
        if self.queued_index() < from {
            return;
        }
        let joins = self
            .pending
            .back()
            .is_some_and(|last| last.source == Source::Nothing);
        if !joins {
            self.push(epoch);
        }
        if let Some(last) = self.pending.back_mut() {
            let earlier = last.persist.truncate_from.unwrap_or(from);
            last.persist.truncate_from = Some(earlier.min(from));
            last.persist.epoch = epoch;
        }
    }

    /// Replaces the log by a snapshot: it starts anew after `position`. What is under way for
    /// entries counts no more, beyond what is committed and thus covered.
    pub(crate) fn install(&mut self, position: LogPosition, committed: LogIndex, epoch: Epoch) {
        self.durable_index = self.durable_index.min(committed);
        self.handed_index = position.index;
        for write in &mut self.in_flight {
            write.covers = write.covers.min(committed);
        }
        for pending in &mut self.pending {
            cut(&mut pending.persist, LogIndex::FIRST);
        }
        self.push(epoch);
        if let Some(last) = self.pending.back_mut() {
            last.persist.install = Some(Install::Replace(position));
        }
    }

    /// Hands out the next persist.
    pub(crate) fn poll(&mut self) -> Option<Persist> {
        let persist = self.pending.pop_front()?.persist;
        self.disk_index = end_after(self.disk_index, &persist);
        if let Some(range) = persist.entries {
            self.handed_index = range.last;
        }
        self.in_flight.push_back(InFlight {
            id: persist.id,
            hard_state: persist.hard_state,
            covers: covers(&persist),
        });
        Some(persist)
    }

    /// Takes note that all persists up to `id` are durable.
    pub(crate) fn complete(&mut self, id: PersistId) {
        let first_unpolled = self.pending.front().map_or(self.next_id, |p| p.persist.id);
        assert!(
            id < first_unpolled,
            "persist {id} was reported durable before it was handed out"
        );
        while let Some(write) = self.in_flight.front().copied() {
            if write.id > id {
                break;
            }
            self.in_flight.pop_front();
            self.durable_hard_state = write.hard_state;
            self.durable_index = self.durable_index.max(write.covers);
        }
    }

    /// Takes note that term and vote of the persist `id` are durable ahead of the rest of it.
    pub(crate) fn complete_hard_state(&mut self, id: PersistId) {
        let first_unpolled = self.pending.front().map_or(self.next_id, |p| p.persist.id);
        assert!(
            id < first_unpolled,
            "persist {id} was reported durable before it was handed out"
        );
        let found = self.in_flight.iter().find(|write| write.id == id);
        let Some(hard_state) = found.map(|write| write.hard_state) else {
            // It is durable, all of it.
            return;
        };
        self.durable_hard_state = hard_state;
        for write in self.in_flight.iter_mut().filter(|write| write.id <= id) {
            // Its completion must not bring an older one back.
            write.hard_state = hard_state;
        }
    }

    /// The persist that must be durable before term and vote are; `None` if they are.
    pub(crate) fn hard_state_waits_for(&self) -> Option<PersistId> {
        if self.durable_hard_state == self.hard_state {
            return None;
        }
        let in_flight = self.in_flight.iter().map(|w| (w.id, w.hard_state));
        let pending = self
            .pending
            .iter()
            .map(|p| (p.persist.id, p.persist.hard_state));
        let mut writes = in_flight.chain(pending);
        writes
            .find(|(_, hard_state)| *hard_state == self.hard_state)
            .map(|(id, _)| id)
    }

    /// The persist that must be durable before the log up to `index` is; `None` if it is.
    pub(crate) fn index_waits_for(&self, index: LogIndex) -> Option<PersistId> {
        if index <= self.durable_index {
            return None;
        }
        let in_flight = self.in_flight.iter().map(|w| (w.id, w.covers));
        let pending = self
            .pending
            .iter()
            .map(|p| (p.persist.id, covers(&p.persist)));
        let mut writes = in_flight.chain(pending);
        writes
            .find(|(_, covers)| *covers >= index)
            .map(|(id, _)| id)
    }

    /// The end of the log after everything queued.
    fn queued_index(&self) -> LogIndex {
        let queued = self.pending.iter();
        queued.fold(self.disk_index, |end, p| end_after(end, &p.persist))
    }

    fn push(&mut self, epoch: Epoch) {
        let id = self.next_id;
        self.next_id = id.next();
        self.pending.push_back(Pending {
            persist: Persist {
                id,
                hard_state: self.hard_state,
                end_is_known: false,
                install: None,
                truncate_from: None,
                refill: None,
                epoch,
                entries: None,
                message: None,
                generated: Vec::new(),
            },
            source: Source::Nothing,
        });
    }
}

/// The last entry that is durable once this is.
fn covers(persist: &Persist) -> LogIndex {
    let installed = replaced(persist).unwrap_or_default();
    persist.entries.map_or(installed, |range| range.last)
}

/// Where the log starts anew.
fn replaced(persist: &Persist) -> Option<LogIndex> {
    match persist.install {
        Some(Install::Replace(position)) => Some(position.index),
        Some(Install::Keep(_)) | None => None,
    }
}

fn end_after(end: LogIndex, persist: &Persist) -> LogIndex {
    let end = replaced(persist).unwrap_or(end);
    let kept = match persist.truncate_from {
        Some(from) => end.min(from.previous()),
        None => end,
    };
    persist.entries.map_or(kept, |range| range.last)
}

/// Removes entries from `from` on of a persist that was not handed out.
fn cut(persist: &mut Persist, from: LogIndex) {
    if let Some(range) = persist.entries {
        persist.entries = IndexRange::new(range.first, range.last.min(from.previous()));
        persist.generated.retain(|entry| entry.index < from);
    }
    if let Some(range) = persist.refill {
        persist.refill = IndexRange::new(range.first, range.last.min(from.previous()));
    }
    if persist.entries.is_none() && persist.refill.is_none() {
        persist.message = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_proto::{NodeId, Term};

    fn queue() -> PersistQueue {
        PersistQueue::new(HardState::default(), LogIndex(4))
    }

    fn range(first: u64, last: u64) -> IndexRange {
        IndexRange::new(LogIndex(first), LogIndex(last)).unwrap()
    }

    fn append(queue: &mut PersistQueue, message: u64, first: u64, last: u64) {
        let source = Source::Message(MessageId(message));
        queue.append(source, range(first, last), None, Epoch(0));
    }

    #[test]
    fn a_truncation_voids_what_older_writes_would_have_said() {
        let mut queue = queue();
        append(&mut queue, 1, 5, 8);
        let older = queue.poll().unwrap();
        queue.truncate_from(LogIndex(6), Epoch(1));
        append(&mut queue, 2, 6, 7);
        let newer = queue.poll().unwrap();
        assert_eq!(newer.truncate_from, Some(LogIndex(6)));
        queue.complete(older.id);
        assert_eq!(queue.durable_index(), LogIndex(5));
        assert_eq!(queue.index_waits_for(LogIndex(6)), Some(newer.id));
        queue.complete(newer.id);
        assert_eq!(queue.durable_index(), LogIndex(7));
        assert_eq!(queue.index_waits_for(LogIndex(7)), None);
    }

    #[test]
    fn what_was_never_handed_out_is_cut_and_not_truncated_on_disk() {
        let mut queue = queue();
        append(&mut queue, 1, 5, 8);
        queue.truncate_from(LogIndex(7), Epoch(1));
        append(&mut queue, 2, 7, 7);
        let first = queue.poll().unwrap();
        assert_eq!(first.entries, Some(range(5, 6)));
        let second = queue.poll().unwrap();
        assert_eq!(second.truncate_from, None);
        assert_eq!(second.entries, Some(range(7, 7)));
        assert_eq!(queue.poll(), None);
    }

    #[test]
    fn a_persist_never_mixes_messages_and_proposals_gather() {
        let mut queue = queue();
        append(&mut queue, 1, 5, 5);
        append(&mut queue, 2, 6, 6);
        for index in 7..=9 {
            queue.append(Source::Local, range(index, index), None, Epoch(0));
        }
        let polled: Vec<_> = std::iter::from_fn(|| queue.poll()).collect();
        let messages: Vec<_> = polled.iter().map(|p| p.message.map(|id| id.0)).collect();
        assert_eq!(messages, [Some(1), Some(2), None]);
        assert_eq!(polled[2].entries, Some(range(7, 9)));
    }

    #[test]
    fn a_hard_state_joins_the_entries_that_follow_and_waits_for_its_own_write() {
        let mut queue = queue();
        let hard_state = HardState {
            term: Term(2),
            vote: Some(NodeId(3)),
        };
        append(&mut queue, 1, 5, 5);
        let before = queue.poll().unwrap();
        queue.set_hard_state(hard_state, Epoch(0));
        append(&mut queue, 2, 6, 6);
        let with = queue.poll().unwrap();
        assert_eq!(
            (with.hard_state, with.entries),
            (hard_state, Some(range(6, 6)))
        );
        assert_eq!(queue.hard_state_waits_for(), Some(with.id));
        queue.complete(before.id);
        assert_eq!(queue.hard_state_waits_for(), Some(with.id));
        queue.complete(with.id);
        assert_eq!(queue.hard_state_waits_for(), None);
    }

    #[test]
    fn a_hard_state_that_went_ahead_is_not_taken_back_by_the_writes_before_it() {
        let mut queue = queue();
        let voted = |term| HardState {
            term: Term(term),
            vote: Some(NodeId(3)),
        };
        let mut ids = Vec::new();
        for term in 2..=4 {
            queue.set_hard_state(voted(term), Epoch(0));
            append(&mut queue, term, term + 3, term + 3);
            ids.push(queue.poll().unwrap().id);
        }
        queue.complete_hard_state(ids[1]);
        assert_eq!(queue.durable_hard_state(), voted(3));
        assert_eq!(queue.durable_index(), LogIndex(4), "no entry is durable");
        assert_eq!(queue.hard_state_waits_for(), Some(ids[2]));
        queue.complete(ids[0]);
        assert_eq!(queue.durable_hard_state(), voted(3));
        assert_eq!(queue.durable_index(), LogIndex(5));
        queue.complete_hard_state(ids[0]);
        queue.complete(ids[2]);
        assert_eq!(queue.durable_hard_state(), voted(4));
        assert_eq!(queue.hard_state_waits_for(), None);
    }

    #[test]
    fn an_installation_replaces_what_is_queued() {
        let mut queue = queue();
        append(&mut queue, 1, 5, 8);
        let older = queue.poll().unwrap();
        append(&mut queue, 2, 9, 9);
        let position = LogPosition {
            index: LogIndex(20),
            term: Term(1),
        };
        queue.install(position, LogIndex(6), Epoch(1));
        append(&mut queue, 3, 21, 21);
        assert_eq!(queue.poll().unwrap().entries, None);
        let install = queue.poll().unwrap();
        assert_eq!(install.install, Some(Install::Replace(position)));
        assert_eq!(install.entries, Some(range(21, 21)));
        queue.complete(older.id);
        assert_eq!(
            queue.durable_index(),
            LogIndex(6),
            "what is committed stays"
        );
        queue.complete(install.id);
        assert_eq!(queue.durable_index(), LogIndex(21));
    }

    #[test]
    #[should_panic(expected = "before it was handed out")]
    fn a_write_is_not_durable_before_it_is_handed_out() {
        let mut queue = queue();
        append(&mut queue, 1, 5, 5);
        queue.complete(PersistId(1));
    }
}
