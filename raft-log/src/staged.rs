//! Writes that wait for the next sync, normalised to: truncate, mark, append.

use raft_proto::{Entry, EntryKind, HardState, LogIndex, LogPosition, Membership};

use crate::damage::LogEnd;
use crate::error::{LogError, follows};
use crate::format::metadata::Metadata;
use crate::format::record::record_bytes;
use crate::index::Index;
use crate::state::LogState;

/// Most entries that a full disk's reserve takes at a time.
const MAX_LIGHT_ENTRIES: usize = 8;

/// A change of the log and the state that must be durable with it.
///
/// The parts apply in this order: hard state, truncation, refill, entries, knowledge of the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogWrite {
    /// The new term and vote, if they change.
    pub hard_state: Option<HardState>,
    /// Removes this entry and all after it. Beyond the end of the log it does nothing.
    pub truncate_from: Option<LogIndex>,
    /// Entries of the log whose content is missing ([`crate::Recovered::missing`]), as a peer has
    /// them. Each must be the missing one: index and term, and for a membership its payload.
    pub refill: Vec<Entry>,
    /// Entries that follow the (truncated) log without a gap.
    pub entries: Vec<Entry>,
    /// Says that the log holds all it must again, with this write: [`LogEnd::Unknown`] ends. It is
    /// durable no earlier than everything else of the same sync.
    pub end_is_known: bool,
}

/// What limits a write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) entry_bytes: usize,
    pub(crate) batch_bytes: usize,
    pub(crate) metadata_bytes: usize,
}

/// Staged writes as one change of the durable state.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) hard_state: HardState,
    pub(crate) mark: LogPosition,
    /// The last durable entry that stays.
    pub(crate) keep: LogPosition,
    /// Content of missing entries up to `keep`, in order of their indexes.
    pub(crate) refill: Vec<Entry>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) log_end: LogEnd,
}

impl Staged {
    /// Nothing staged on top of `state`.
    pub(crate) const fn nothing(state: &LogState) -> Self {
        Self {
            hard_state: state.hard_state,
            mark: state.mark,
            keep: state.last,
            refill: Vec::new(),
            entries: Vec::new(),
            log_end: state.log_end,
        }
    }

    /// Whether there is anything to make durable.
    pub(crate) fn changes(&self, state: &LogState) -> bool {
        self.hard_state != state.hard_state
            || self.mark != state.mark
            || self.keep != state.last
            || self.log_end != state.log_end
            || !self.refill.is_empty()
            || !self.entries.is_empty()
    }

    /// Whether it is what a cluster needs to go on while a disk is full, and no more: term and vote,
    /// a truncation, a mark, a leader's first entry, a change of the membership. Commands are not.
    pub(crate) fn is_light(&self) -> bool {
        let light = |entry: &Entry| match entry.kind {
            EntryKind::Noop | EntryKind::Membership => true,
            EntryKind::Command => false,
        };
        self.refill.is_empty()
            && self.entries.len() <= MAX_LIGHT_ENTRIES
            && self.entries.iter().all(light)
    }

    /// The end of the log once everything staged is durable.
    pub(crate) fn last(&self) -> LogPosition {
        self.entries.last().map_or(self.keep, Entry::position)
    }

    /// Adds a write, or refuses it whole.
    pub(crate) fn stage(
        &mut self,
        write: LogWrite,
        state: &LogState,
        index: &Index,
        limits: Limits,
    ) -> Result<(), LogError> {
        let end = self.end_after_truncation(write.truncate_from, state)?;
        for entry in &write.refill {
            check_entry(entry, limits)?;
            self.check_refill(entry, end, state, index)?;
        }
        check_entries(&write.entries, end, limits)?;
        if end.index < self.last().index {
            self.cut_after(end);
        }
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if self.entries.is_empty() {
            // Takes the caller's vector: nothing is copied.
            self.entries = write.entries;
        } else {
            self.entries.extend(write.entries);
        }
        for entry in write.refill {
            let at = self
                .refill
                .binary_search_by_key(&entry.index, |found| found.index);
            // What is staged already is the same entry.
            if let Err(at) = at {
                self.refill.insert(at, entry);
            }
        }
        if write.end_is_known {
            self.log_end = LogEnd::Known;
        }
        Ok(())
    }

    /// Marks entries up to `through` as covered by a snapshot. If the log has another entry there,
    /// or none, all of it goes.
    pub(crate) fn compact(&mut self, through: LogPosition, state: &LogState) {
        if through.index <= self.mark.index {
            return;
        }
        let found = self.position_at(through.index, state);
        self.mark = through;
        self.refill.retain(|entry| entry.index > through.index);
        if found != Some(through) {
            self.refill.clear();
            self.entries.clear();
            self.keep = through;
        } else if through.index >= self.keep.index {
            let covered = through.index.since(self.keep.index) as usize;
            self.entries.drain(..covered);
            self.keep = through;
        }
    }

    /// How many of the first entries make up the next batch, and their metadata.
    pub(crate) fn next_batch(&self, limits: Limits) -> (usize, Metadata) {
        next_batch(&self.entries, limits)
    }

    /// How many of the first refills make up the next batch.
    pub(crate) fn next_refill(&self, limits: Limits) -> usize {
        let (count, _) = next_batch(&self.refill, limits);
        count
    }

    /// Forgets what a batch of the first `count` entries has made durable.
    pub(crate) fn advance(&mut self, count: usize, state: &LogState) {
        self.entries.drain(..count);
        self.keep = state.last;
    }

    /// Forgets what a batch of the first `count` refills has made durable.
    pub(crate) fn advance_refill(&mut self, count: usize, state: &LogState) {
        self.refill.drain(..count);
        self.keep = state.last;
    }

    /// Whether this is the content of an entry that is missing, with `end` as the last durable
    /// entry that stays.
    fn check_refill(
        &self,
        entry: &Entry,
        end: LogPosition,
        state: &LogState,
        index: &Index,
    ) -> Result<(), LogError> {
        let position = entry.position();
        let stays = position.index > self.mark.index
            && position.index <= end.index.min(self.keep.index)
            && state.position_at(position.index) == Some(position);
        let memberships = &state.metadata.memberships;
        let membership = memberships
            .binary_search_by_key(&position.index, |(index, _)| *index)
            .ok()
            .map(|at| &memberships[at].1);
        let is_same = match entry.kind {
            EntryKind::Membership => membership == Some(&entry.payload),
            EntryKind::Noop | EntryKind::Command => membership.is_none(),
        };
        if stays && is_same && index.is_missing(position.index) {
            Ok(())
        } else {
            Err(LogError::NotMissing { position })
        }
    }

    fn end_after_truncation(
        &self,
        truncate_from: Option<LogIndex>,
        state: &LogState,
    ) -> Result<LogPosition, LogError> {
        let last = self.last();
        let Some(from) = truncate_from.filter(|from| *from <= last.index) else {
            return Ok(last);
        };
        let mark = self.mark;
        if from <= mark.index {
            return Err(LogError::TruncatesSnapshot { from, mark });
        }
        // Everything between the mark and the last entry has a position.
        let found = self.position_at(from.previous(), state);
        found.ok_or(LogError::TruncatesSnapshot { from, mark })
    }

    fn position_at(&self, index: LogIndex, state: &LogState) -> Option<LogPosition> {
        if index == self.mark.index {
            return Some(self.mark);
        }
        if index == self.keep.index {
            return Some(self.keep);
        }
        if index > self.keep.index {
            let slot = (index.since(self.keep.index) - 1) as usize;
            return self.entries.get(slot).map(Entry::position);
        }
        state.position_at(index)
    }

    fn cut_after(&mut self, end: LogPosition) {
        if end.index >= self.keep.index {
            let stay = end.index.since(self.keep.index) as usize;
            self.entries.truncate(stay);
        } else {
            self.entries.clear();
            self.keep = end;
            self.refill.retain(|entry| entry.index <= end.index);
        }
    }
}

/// How many of the first of `entries` make up a batch, and their metadata.
pub(crate) fn next_batch(entries: &[Entry], limits: Limits) -> (usize, Metadata) {
    let mut metadata = Metadata::default();
    let mut metadata_bytes = metadata.encoded_bytes();
    let mut bytes = 0;
    for (count, entry) in entries.iter().enumerate() {
        bytes += record_bytes(entry.payload.len());
        metadata_bytes += metadata.growth(entry);
        let full = bytes > limits.batch_bytes || metadata_bytes > limits.metadata_bytes;
        if full && count > 0 {
            return (count, metadata);
        }
        metadata.push(entry);
    }
    (entries.len(), metadata)
}

fn check_entries(entries: &[Entry], mut last: LogPosition, limits: Limits) -> Result<(), LogError> {
    for entry in entries {
        let found = entry.position();
        if !follows(last, found.index, found.term) {
            return Err(LogError::OutOfOrder { last, found });
        }
        check_entry(entry, limits)?;
        last = found;
    }
    Ok(())
}

fn check_entry(entry: &Entry, limits: Limits) -> Result<(), LogError> {
    let index = entry.index;
    // A membership must also fit into an identity, beside its counts and its run.
    let limit = match entry.kind {
        EntryKind::Membership => limits.entry_bytes.min(limits.metadata_bytes - 64),
        EntryKind::Noop | EntryKind::Command => limits.entry_bytes,
    };
    let bytes = entry.payload.len();
    if bytes > limit {
        return Err(LogError::EntryTooLarge {
            index,
            bytes,
            limit,
        });
    }
    if entry.kind == EntryKind::Membership {
        Membership::from_bytes(&entry.payload)
            .map_err(|source| LogError::BadMembership { index, source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use raft_proto::Term;

    use super::*;

    const LIMITS: Limits = Limits {
        entry_bytes: 100,
        batch_bytes: 4096,
        metadata_bytes: 4096,
    };

    fn entries(first: u64, last: u64, term: u64) -> Vec<Entry> {
        let entry = |index| Entry {
            index: LogIndex(index),
            term: Term(term),
            kind: EntryKind::Command,
            payload: Bytes::from_static(b"x"),
        };
        (first..=last).map(entry).collect()
    }

    fn at(index: u64, term: u64) -> LogPosition {
        LogPosition {
            index: LogIndex(index),
            term: Term(term),
        }
    }

    /// Entries 1 to 10 of term 1 are durable.
    fn durable() -> LogState {
        let mut state = LogState::default();
        let mut metadata = Metadata::default();
        entries(1, 10, 1)
            .iter()
            .for_each(|entry| metadata.push(entry));
        state.metadata = metadata;
        state.last = at(10, 1);
        state
    }

    fn append(
        staged: &mut Staged,
        state: &LogState,
        from: Option<u64>,
        new: Vec<Entry>,
    ) -> Result<(), LogError> {
        let write = LogWrite {
            truncate_from: from.map(LogIndex),
            entries: new,
            ..LogWrite::default()
        };
        staged.stage(write, state, &Index::empty(LogIndex::ZERO), LIMITS)
    }

    #[test]
    fn truncating_staged_entries_drops_them_before_they_are_written() {
        let state = durable();
        let mut staged = Staged::nothing(&state);
        append(&mut staged, &state, None, entries(11, 14, 1)).unwrap();
        append(&mut staged, &state, Some(13), entries(13, 13, 2)).unwrap();
        assert_eq!((staged.keep, staged.entries.len()), (at(10, 1), 3));
        append(&mut staged, &state, Some(8), entries(8, 9, 3)).unwrap();
        assert_eq!((staged.keep, staged.entries.len()), (at(7, 1), 2));
        assert_eq!(staged.last(), at(9, 3));
        append(&mut staged, &state, Some(50), Vec::new()).unwrap();
        assert_eq!(staged.last(), at(9, 3));
    }

    #[test]
    fn gaps_falling_terms_and_large_entries_are_refused_whole() {
        let state = durable();
        let mut staged = Staged::nothing(&state);
        for bad in [entries(12, 12, 1), entries(10, 10, 1), entries(11, 11, 0)] {
            let refused = append(&mut staged, &state, None, bad).unwrap_err();
            assert!(matches!(refused, LogError::OutOfOrder { .. }));
        }
        let mut large = entries(11, 12, 1);
        large[1].payload = Bytes::from_static(&[0; 101]);
        let refused = append(&mut staged, &state, Some(9), large);
        assert!(refused.is_err() && !staged.changes(&state));
    }

    #[test]
    fn a_mark_drops_what_it_covers_and_a_foreign_one_drops_all() {
        let state = durable();
        let mut staged = Staged::nothing(&state);
        staged.compact(at(4, 1), &state);
        assert_eq!((staged.mark, staged.keep), (at(4, 1), at(10, 1)));
        append(&mut staged, &state, None, entries(11, 13, 1)).unwrap();
        staged.compact(at(12, 1), &state);
        assert_eq!((staged.keep, staged.entries.len()), (at(12, 1), 1));
        assert!(append(&mut staged, &state, Some(12), Vec::new()).is_err());
        staged.compact(at(13, 2), &state);
        assert_eq!((staged.keep, staged.entries.len()), (at(13, 2), 0));
        staged.compact(at(20, 2), &state);
        assert_eq!(staged.last(), at(20, 2));
        staged.compact(at(3, 1), &state);
        assert_eq!(staged.mark, at(20, 2));
    }

    #[test]
    fn batches_end_at_their_limits_and_hold_at_least_one_entry() {
        let state = durable();
        let mut staged = Staged::nothing(&state);
        append(&mut staged, &state, None, entries(11, 14, 1)).unwrap();
        let tight = Limits {
            batch_bytes: 85,
            ..LIMITS
        };
        assert_eq!(staged.next_batch(tight).0, 2);
        let tighter = Limits {
            batch_bytes: 1,
            ..LIMITS
        };
        assert_eq!(staged.next_batch(tighter).0, 1);
        assert_eq!(staged.next_batch(LIMITS).0, 4);
    }
}
