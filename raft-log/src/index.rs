//! Where each live entry stands: four bytes an entry, shared by the writer and all readers.

use std::collections::VecDeque;
use std::sync::Arc;

use raft_proto::LogIndex;

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
    parts: VecDeque<Part>,
}

/// Consecutive entries of one segment.
#[derive(Debug)]
struct Part {
    file: Arc<SegmentFile>,
    first: LogIndex,
    /// Offsets in units of [`RECORD_ALIGN`] bytes.
    offsets: Vec<u32>,
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
        match self.parts.back_mut() {
            Some(part) if part.file.sequence == file.sequence => part.offsets.extend(offsets),
            Some(_) | None => self.parts.push_back(Part {
                file: Arc::clone(file),
                first,
                offsets: offsets.to_vec(),
            }),
        }
    }

    /// The run of entries that starts at `first`, ends at `last` at the latest and has at most
    /// `limit` entries. `first` must be live.
    pub(crate) fn locate(&self, first: LogIndex, last: LogIndex, limit: usize) -> Option<Located> {
        if first < self.first || first > self.last {
            return None;
        }
        let after = self.parts.partition_point(|part| part.first <= first);
        let part = self.parts.get(after.checked_sub(1)?)?;
        let start = first.since(part.first) as usize;
        let wanted = (last.since(first) as usize).saturating_add(1).min(limit);
        let end = start.saturating_add(wanted).min(part.offsets.len());
        let bytes = |units: &u32| u64::from(*units) * RECORD_ALIGN as u64;
        Some(Located {
            file: Arc::clone(&part.file),
            first,
            offsets: part.offsets[start..end].iter().map(bytes).collect(),
            next: part.offsets.get(end).map(bytes),
        })
    }

    /// The first live entry that stands in the segment with this sequence, if any does.
    pub(crate) fn first_in(&self, sequence: u64) -> Option<LogIndex> {
        let part = self
            .parts
            .iter()
            .find(|part| part.file.sequence == sequence)?;
        Some(part.first.max(self.first))
    }
}

impl Part {
    /// Its last entry.
    fn end(&self) -> LogIndex {
        self.first.plus(self.offsets.len() as u64).previous()
    }
}
