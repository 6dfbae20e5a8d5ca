//! Where each live entry stands: four bytes an entry, shared by the writer and all readers.
//!
//! Entries that stand nowhere are holes: their terms are known, their content is lost.

use std::collections::VecDeque;
use std::sync::Arc;

use raft_proto::LogIndex;

use crate::damage::Hole;
use crate::format::record::RECORD_ALIGN;
use crate::segment::SegmentFile;

/// The places of the live entries.
#[derive(Debug)]
pub(crate) struct Index {
    /// The first live entry.
    pub(crate) first: LogIndex,
    /// The last live entry; the one before `first` if there is none.
    pub(crate) last: LogIndex,
    /// How often entries were cut off the end: what was located before may be gone.
    pub(crate) truncations: u64,
    /// In order of entries, none overlaps another; what lies between is missing.
    parts: VecDeque<Part>,
}

/// Consecutive entries of one segment, in the order in which they stand there.
#[derive(Debug)]
struct Part {
    file: Arc<SegmentFile>,
    first: LogIndex,
    /// Offsets in units of [`RECORD_ALIGN`] bytes, rising.
    offsets: Vec<u32>,
}

/// Where entries are.
#[derive(Debug)]
pub(crate) enum Place {
    /// Here.
    Here(Located),
    /// Their content is lost.
    Missing(Hole),
}

/// A run of consecutive entries of one segment.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) file: Arc<SegmentFile>,
    pub(crate) first: LogIndex,
    /// Offset of each entry in the file, in bytes.
    pub(crate) offsets: Vec<u64>,
    /// Offset of the entry after them in the same segment, if there is one.
    pub(crate) next: Option<u64>,
}

impl Index {
    /// The index of a log whose live part starts after `mark` and is empty.
    pub(crate) const fn empty(mark: LogIndex) -> Self {
        Self {
            first: mark.next(),
            last: mark,
            truncations: 0,
            parts: VecDeque::new(),
        }
    }

    /// Forgets entries after `keep`.
    pub(crate) fn truncate_after(&mut self, keep: LogIndex) {
        if keep < self.last {
            self.truncations += 1;
        }
        while let Some(part) = self.parts.back_mut() {
            if part.first > keep {
                self.parts.pop_back();
            } else {
                part.offsets.truncate((keep.since(part.first) + 1) as usize);
                break;
            }
        }
        self.last = self.last.min(keep);
    }

    /// Forgets entries up to `mark`; if none stays, the next entry follows `mark`.
    pub(crate) fn compact_through(&mut self, mark: LogIndex) {
        self.first = self.first.max(mark.next());
        if self.last <= mark {
            self.last = mark;
            self.parts.clear();
        }
        while self
            .parts
            .front()
            .is_some_and(|part| part.end() < self.first)
        {
            self.parts.pop_front();
        }
    }

    /// Adds entries that follow the last one.
    pub(crate) fn append(&mut self, file: &Arc<SegmentFile>, offsets: &[u32]) {
        if offsets.is_empty() {
            return;
        }
        let first = self.last.next();
        self.last = self.last.plus(offsets.len() as u64);
        self.insert(file, first, offsets);
    }

    /// Says that the log has so many entries more, which stand nowhere yet.
    pub(crate) fn extend_missing(&mut self, last: LogIndex) {
        self.last = self.last.max(last);
    }

    /// Says where entries from `first` on stand; those that already have a place keep it, and
    /// those that are not live are left out. Returns those that got their place.
    pub(crate) fn fill(
        &mut self,
        file: &Arc<SegmentFile>,
        first: LogIndex,
        offsets: &[u32],
    ) -> Vec<Hole> {
        let Some(count) = (offsets.len() as u64).checked_sub(1) else {
            return Vec::new();
        };
        let last = first.plus(count);
        let filled = self.missing_between(first.max(self.first), last.min(self.last));
        for hole in &filled {
            let from = hole.first.since(first) as usize;
            let to = hole.last.since(first) as usize;
            self.insert(file, hole.first, &offsets[from..=to]);
        }
        filled
    }

    /// Forgets where these entries stand: their content is lost.
    pub(crate) fn lose(&mut self, first: LogIndex, last: LogIndex) {
        let mut at = self.parts.partition_point(|part| part.end() < first);
        while let Some(part) = self.parts.get_mut(at).filter(|part| part.first <= last) {
            let file = Arc::clone(&part.file);
            let after = last.next().since(part.first) as usize;
            let behind = part.offsets.get(after..).unwrap_or_default().to_vec();
            part.offsets.truncate(first.since(part.first) as usize);
            if part.offsets.is_empty() {
                self.parts.remove(at);
            } else {
                at += 1;
            }
            if !behind.is_empty() {
                let rest = Part {
                    file,
                    first: last.next(),
                    offsets: behind,
                };
                self.parts.insert(at, rest);
            }
        }
    }

    /// Forgets where entries stand that stand in this segment at `from` (in bytes) or after it.
    pub(crate) fn lose_place(&mut self, sequence: u64, from: u64) {
        let is_there = |part: &Part, slot: usize| {
            part.file.sequence == sequence
                && u64::from(part.offsets[slot]) * RECORD_ALIGN as u64 >= from
        };
        let mut lost = Vec::new();
        for part in &self.parts {
            let slots = 0..part.offsets.len();
            let first = slots.into_iter().find(|slot| is_there(part, *slot));
            // Offsets rise within a part.
            lost.extend(first.map(|slot| (part.first.plus(slot as u64), part.end())));
        }
        for (first, last) in lost {
            self.lose(first, last);
        }
    }

    /// Whether this entry is live and stands nowhere.
    pub(crate) fn is_missing(&self, index: LogIndex) -> bool {
        !self
            .missing_between(index.max(self.first), index.min(self.last))
            .is_empty()
    }

    /// All live entries that stand nowhere.
    pub(crate) fn missing(&self) -> Vec<Hole> {
        self.missing_between(self.first, self.last)
    }

    /// Where the entries from `first` to at most `last` are, at most `limit` of them. `first` must
    /// be live.
    pub(crate) fn locate(&self, first: LogIndex, last: LogIndex, limit: usize) -> Option<Place> {
        if first < self.first || first > self.last {
            return None;
        }
        let at = self.parts.partition_point(|part| part.end() < first);
        let part = self.parts.get(at).filter(|part| part.first <= first);
        let Some(part) = part else {
            let hole = self.hole_at(at);
            return Some(Place::Missing(hole));
        };
        let start = first.since(part.first) as usize;
        let wanted = (last.since(first) as usize).saturating_add(1).min(limit);
        let end = start.saturating_add(wanted).min(part.offsets.len());
        let bytes = |units: &u32| u64::from(*units) * RECORD_ALIGN as u64;
        Some(Place::Here(Located {
            file: Arc::clone(&part.file),
            first,
            offsets: part.offsets[start..end].iter().map(bytes).collect(),
            next: part.offsets.get(end).map(bytes),
        }))
    }

    /// The segment with the lowest sequence above this one that live entries stand in.
    pub(crate) fn segment_after(&self, sequence: u64) -> Option<Arc<SegmentFile>> {
        let files = self.parts.iter().map(|part| &part.file);
        let later = files.filter(|file| file.sequence > sequence);
        later.min_by_key(|file| file.sequence).map(Arc::clone)
    }

    /// The live entries that stand in this segment, in order, and where (in units of
    /// [`RECORD_ALIGN`] bytes).
    pub(crate) fn places_in(&self, sequence: u64) -> impl Iterator<Item = (LogIndex, u32)> {
        let parts = self.parts.iter();
        let there = parts.filter(move |part| part.file.sequence == sequence);
        let places = there.flat_map(|part| {
            let offsets = part.offsets.iter().enumerate();
            offsets.map(|(slot, offset)| (part.first.plus(slot as u64), *offset))
        });
        places.filter(|(index, _)| *index >= self.first)
    }

    /// The first live entry that stands in the segment with this sequence, if any does.
    pub(crate) fn first_in(&self, sequence: u64) -> Option<LogIndex> {
        let part = self
            .parts
            .iter()
            .find(|part| part.file.sequence == sequence)?;
        Some(part.first.max(self.first))
    }

    fn insert(&mut self, file: &Arc<SegmentFile>, first: LogIndex, offsets: &[u32]) {
        let at = self.parts.partition_point(|part| part.first < first);
        let before = at.checked_sub(1).and_then(|at| self.parts.get_mut(at));
        match before {
            Some(part)
                if part.file.sequence == file.sequence
                    && part.end().next() == first
                    && part.offsets.last() < offsets.first() =>
            {
                part.offsets.extend(offsets);
            }
            Some(_) | None => self.parts.insert(
                at,
                Part {
                    file: Arc::clone(file),
                    first,
                    offsets: offsets.to_vec(),
                },
            ),
        }
    }

    /// The missing entries before the part of this number, as far back as they reach.
    fn hole_at(&self, at: usize) -> Hole {
        let before = at.checked_sub(1).and_then(|at| self.parts.get(at));
        let first = before.map_or(self.first, |part| part.end().next());
        let after = self.parts.get(at);
        Hole {
            first: first.max(self.first),
            last: after.map_or(self.last, |part| part.first.previous()),
        }
    }

    fn missing_between(&self, first: LogIndex, last: LogIndex) -> Vec<Hole> {
        let mut holes = Vec::new();
        let mut next = first;
        let from = self.parts.partition_point(|part| part.end() < first);
        for part in self.parts.range(from..) {
            if next > last {
                return holes;
            }
            if part.first > next {
                let end = part.first.previous().min(last);
                holes.push(Hole {
                    first: next,
                    last: end,
                });
            }
            next = next.max(part.end().next());
        }
        if next <= last {
            holes.push(Hole { first: next, last });
        }
        holes
    }
}

impl Part {
    /// Its last entry.
    fn end(&self) -> LogIndex {
        self.first.plus(self.offsets.len() as u64).previous()
    }
}
