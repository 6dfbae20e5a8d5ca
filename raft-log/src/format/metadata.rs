//! Term runs and memberships of a range of entries, as batches and preambles carry them.

use bytes::Bytes;
use raft_proto::{Entry, EntryKind, LogIndex, LogPosition, Membership, Term, TermRun};

use super::bytes::{Reader, Writer};

/// Terms and memberships of a range of entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// Term runs in order; terms strictly rise.
    pub(crate) runs: Vec<TermRun>,
    /// Index and payload of each membership entry, in order.
    pub(crate) memberships: Vec<(LogIndex, Bytes)>,
}

impl Metadata {
    /// The bytes that [`Metadata::encode`] writes.
    pub(crate) fn encoded_bytes(&self) -> usize {
        let memberships = self
            .memberships
            .iter()
            .map(|(_, payload)| 12 + payload.len());
        8 + 16 * self.runs.len() + memberships.sum::<usize>()
    }

    pub(crate) fn encode(&self, out: &mut Writer) {
        // Counts and lengths are bounded by the size of a segment.
        out.u32(self.runs.len() as u32);
        for run in &self.runs {
            out.u64(run.first.0);
            out.u64(run.term.0);
        }
        out.u32(self.memberships.len() as u32);
        for (index, payload) in &self.memberships {
            out.u64(index.0);
            out.u32(payload.len() as u32);
            out.bytes(payload);
        }
    }

    pub(crate) fn decode(input: &mut Reader<'_>) -> Option<Self> {
        let mut metadata = Self::default();
        let runs = input.u32()? as usize;
        if runs > input.remaining() / 16 {
            return None;
        }
        metadata.runs.reserve(runs);
        for _ in 0..runs {
            let first = LogIndex(input.u64()?);
            let term = Term(input.u64()?);
            metadata.runs.push(TermRun { first, term });
        }
        let memberships = input.u32()? as usize;
        if memberships > input.remaining() / 12 {
            return None;
        }
        for _ in 0..memberships {
            let index = LogIndex(input.u64()?);
            let length = input.u32()? as usize;
            let payload = Bytes::copy_from_slice(input.bytes(length)?);
            metadata.memberships.push((index, payload));
        }
        Some(metadata)
    }

    /// Whether it can be that of the entries after `keep` up to `last`: runs and memberships in
    /// order and within this range, the last run that of the last entry.
    pub(crate) fn covers(&self, keep: LogPosition, last: LogPosition) -> bool {
        if keep.index >= last.index {
            return keep.index == last.index && *self == Self::default();
        }
        let inside = |index: LogIndex| keep.index < index && index <= last.index;
        let is_sound = |(index, payload): &(LogIndex, Bytes)| {
            inside(*index) && Membership::from_bytes(payload).is_ok()
        };
        let rises = |pair: &[TermRun]| pair[0].first < pair[1].first && pair[0].term < pair[1].term;
        self.runs
            .first()
            .is_some_and(|run| run.first == keep.index.next())
            && self.runs.last().is_some_and(|run| run.term == last.term)
            && self.runs.iter().all(|run| inside(run.first))
            && self.runs.windows(2).all(rises)
            && self.memberships.iter().all(is_sound)
            && self
                .memberships
                .windows(2)
                .all(|pair| pair[0].0 < pair[1].0)
    }

    /// The entries of this term among those up to `last`, first and last.
    pub(crate) fn range_of(&self, term: Term, last: LogIndex) -> Option<(LogIndex, LogIndex)> {
        let at = self.runs.binary_search_by_key(&term, |run| run.term).ok()?;
        let next = self.runs.get(at + 1);
        Some((
            self.runs[at].first,
            next.map_or(last, |next| next.first.previous()),
        ))
    }

    /// By how many bytes [`Metadata::push`] would make it longer.
    pub(crate) fn growth(&self, entry: &Entry) -> usize {
        let run = match self.runs.last() {
            Some(run) if run.term == entry.term => 0,
            Some(_) | None => 16,
        };
        match entry.kind {
            EntryKind::Membership => run + 12 + entry.payload.len(),
            EntryKind::Noop | EntryKind::Command => run,
        }
    }

    /// Adds the next entry.
    pub(crate) fn push(&mut self, entry: &Entry) {
        if self.runs.last().is_none_or(|run| run.term != entry.term) {
            let (first, term) = (entry.index, entry.term);
            self.runs.push(TermRun { first, term });
        }
        if entry.kind == EntryKind::Membership {
            self.memberships.push((entry.index, entry.payload.clone()));
        }
    }

    /// Adds the metadata of the entries that follow.
    pub(crate) fn extend(&mut self, next: &Self) {
        for run in &next.runs {
            if self.runs.last().is_none_or(|last| last.term != run.term) {
                self.runs.push(*run);
            }
        }
        self.memberships.extend_from_slice(&next.memberships);
    }

    /// Forgets entries after `last`.
    pub(crate) fn truncate_after(&mut self, last: LogIndex) {
        let runs = self.runs.partition_point(|run| run.first <= last);
        self.runs.truncate(runs);
        let kept = self
            .memberships
            .partition_point(|(index, _)| *index <= last);
        self.memberships.truncate(kept);
    }

    /// Forgets entries up to `through`.
    pub(crate) fn compact_through(&mut self, through: LogIndex, last: LogIndex) {
        if last <= through {
            self.runs.clear();
        } else {
            // The first run kept is that of the entry after `through`.
            let after = self.runs.partition_point(|run| run.first <= through.next());
            self.runs.drain(..after.saturating_sub(1));
            if let Some(run) = self.runs.first_mut().filter(|run| run.first <= through) {
                run.first = through.next();
            }
        }
        let dead = self
            .memberships
            .partition_point(|(index, _)| *index <= through);
        self.memberships.drain(..dead);
    }

    /// The term of the entry at `index`, which must not be after the last one.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        let after = self.runs.partition_point(|run| run.first <= index);
        Some(self.runs.get(after.checked_sub(1)?)?.term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64, kind: EntryKind) -> Entry {
        Entry {
            index: LogIndex(index),
            term: Term(term),
            kind,
            payload: Bytes::from_static(b"abc"),
        }
    }

    fn sample() -> Metadata {
        let mut metadata = Metadata::default();
        for (index, term) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 5)] {
            let kind = if index % 2 == 1 {
                EntryKind::Membership
            } else {
                EntryKind::Command
            };
            let next = entry(index, term, kind);
            let grown = metadata.encoded_bytes() + metadata.growth(&next);
            metadata.push(&next);
            assert_eq!(metadata.encoded_bytes(), grown);
        }
        metadata
    }

    #[test]
    fn it_survives_its_bytes_and_cut_bytes_are_refused() {
        let mut out = Writer::new();
        sample().encode(&mut out);
        let bytes = out.into_vec();
        assert_eq!(bytes.len(), sample().encoded_bytes());
        assert_eq!(Metadata::decode(&mut Reader::new(&bytes)), Some(sample()));
        for cut in 0..bytes.len() {
            assert_eq!(Metadata::decode(&mut Reader::new(&bytes[..cut])), None);
        }
        assert_eq!(Metadata::decode(&mut Reader::new(&[255; 64])), None);
    }

    #[test]
    fn a_run_that_ends_with_what_is_compacted_goes() {
        let mut metadata = sample();
        metadata.compact_through(LogIndex(2), LogIndex(5));
        let run = |first, term| TermRun {
            first: LogIndex(first),
            term: Term(term),
        };
        assert_eq!(metadata.runs, [run(3, 2), run(5, 5)]);
    }

    #[test]
    fn both_ends_can_be_cut() {
        let mut metadata = sample();
        metadata.truncate_after(LogIndex(4));
        metadata.compact_through(LogIndex(1), LogIndex(4));
        let terms: Vec<_> = (2..=4)
            .map(|i| metadata.term_at(LogIndex(i)).unwrap().0)
            .collect();
        assert_eq!(terms, [1, 2, 2]);
        assert_eq!(metadata.runs[0].first, LogIndex(2));
        assert_eq!(metadata.memberships.len(), 1);
        metadata.compact_through(LogIndex(4), LogIndex(4));
        assert_eq!(metadata, Metadata::default());
    }
}
