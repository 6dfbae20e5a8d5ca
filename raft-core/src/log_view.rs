//! What the core knows of its log: terms as runs and payload sizes, never payloads (D3).

use std::collections::VecDeque;

use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{LogIndex, LogPosition, Term, TermRun};

use crate::config::entry_cost;
use crate::output::IndexRange;
use crate::recovered::Recovered;

/// The log by term and size, from the position after `base` to its end.
#[derive(Clone, Debug)]
pub(crate) struct LogView {
    /// The last position before the entries held whose term is known: the start of the log, or
    /// an entry that a snapshot covers.
    base: LogPosition,
    runs: VecDeque<TermRun>,
    sizes: VecDeque<u32>,
}

impl LogView {
    /// The recovered log; `recovered` has been validated.
    pub(crate) fn new(recovered: &Recovered) -> Self {
        let mut view = Self {
            base: LogPosition::ZERO,
            runs: recovered.term_runs.iter().copied().collect(),
            sizes: recovered.entry_sizes.iter().copied().collect(),
        };
        let before = recovered.first_index.previous();
        match recovered.snapshot {
            Some(snapshot) if snapshot.index == before => view.base = snapshot,
            Some(_) if before > LogIndex::ZERO => {
                // The entry before the first one is gone and its term unknown, so the first one
                // serves as the base: its own predecessor could not be named in an append.
                let first = recovered.term_runs[0];
                view.base = LogPosition {
                    index: before,
                    term: first.term,
                };
                view.compact_to(first.first);
            }
            Some(_) | None => {}
        }
        view
    }

    pub(crate) const fn base(&self) -> LogPosition {
        self.base
    }

    pub(crate) fn last(&self) -> LogPosition {
        let base_term = if is_planted(Mutant::EmptyLogHasNoTerm) {
            Term::ZERO
        } else {
            self.base.term
        };
        LogPosition {
            index: self.last_index(),
            term: self.runs.back().map_or(base_term, |run| run.term),
        }
    }

    pub(crate) fn last_index(&self) -> LogIndex {
        self.base.index.plus(self.sizes.len() as u64)
    }

    /// The term at an index from the base to the end of the log.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last_index() {
            return None;
        }
        Some(self.runs[self.run_of(index)].term)
    }

    /// Whether the log has this entry, as far as it is known.
    pub(crate) fn matches(&self, position: LogPosition) -> bool {
        self.term_at(position.index) == Some(position.term)
    }

    /// The first index known to have the same term as the entry at `index`.
    pub(crate) fn first_of_term_at(&self, index: LogIndex) -> LogIndex {
        if index <= self.base.index {
            return self.base.index;
        }
        self.runs[self.run_of(index)].first
    }

    /// The last index at or before `limit` whose term is `term`.
    pub(crate) fn last_of_term(&self, term: Term, limit: LogIndex) -> Option<LogIndex> {
        let in_runs = self.runs.iter().rposition(|run| run.term == term);
        let found = in_runs.and_then(|position| {
            let end = match self.runs.get(position + 1) {
                Some(next) => next.first.previous(),
                None => self.last_index(),
            };
            let last = end.min(limit);
            (last >= self.runs[position].first).then_some(last)
        });
        // The base may share its term with the entries after it, and be all that the limit leaves.
        let base = self.base;
        found.or_else(|| (base.term == term && base.index <= limit).then_some(base.index))
    }

    /// Adds an entry at the end; returns its index.
    pub(crate) fn append(&mut self, term: Term, size: u32) -> LogIndex {
        let last = self.last();
        assert!(term >= last.term, "terms never decrease along a log");
        let first = last.index.next();
        if term > last.term || self.runs.is_empty() {
            self.runs.push_back(TermRun { first, term });
        }
        self.sizes.push_back(size);
        first
    }

    /// The payload length of an entry held has become known.
    pub(crate) fn set_size(&mut self, index: LogIndex, size: u32) {
        let at = index.since(self.base.index.next()) as usize;
        self.sizes[at] = size;
    }

    /// Removes all entries from `index` on.
    pub(crate) fn truncate_from(&mut self, index: LogIndex) {
        assert!(
            index > self.base.index,
            "the base of a log is never removed"
        );
        let keep = index.previous().since(self.base.index);
        self.sizes.truncate(keep as usize);
        while self.runs.back().is_some_and(|run| run.first >= index) {
            self.runs.pop_back();
        }
    }

    /// Removes everything: the log starts anew after `base`.
    pub(crate) fn reset(&mut self, base: LogPosition) {
        self.base = base;
        self.runs.clear();
        self.sizes.clear();
    }

    /// Forgets all entries up to and including `index`, which becomes the base.
    pub(crate) fn compact_to(&mut self, index: LogIndex) {
        let Some(term) = self.term_at(index) else {
            return;
        };
        let removed = index.since(self.base.index);
        self.sizes.drain(..removed as usize);
        while self
            .runs
            .get(1)
            .is_some_and(|run| run.first <= index.next())
        {
            self.runs.pop_front();
        }
        if self.sizes.is_empty() {
            self.runs.clear();
        } else if let Some(front) = self.runs.front_mut() {
            front.first = front.first.max(index.next());
        }
        self.base = LogPosition { index, term };
    }

    /// Term runs of a range, the first one cut to start with it.
    pub(crate) fn runs_in(&self, range: IndexRange) -> Vec<TermRun> {
        assert!(range.first > self.base.index, "only entries held have runs");
        let start = self.run_of(range.first);
        let within = self.runs.range(start..);
        let mut runs: Vec<TermRun> = within
            .take_while(|run| run.first <= range.last)
            .copied()
            .collect();
        runs[0].first = range.first;
        runs
    }

    /// What a range of entries held counts as, in bytes.
    pub(crate) fn cost_of(&self, range: IndexRange) -> u64 {
        let first = range.first.since(self.base.index.next()) as usize;
        let count = range.count() as usize;
        let sizes = self.sizes.range(first..first + count);
        sizes.map(|size| entry_cost(*size)).sum()
    }

    /// The entry before the longest end of the log within these limits.
    pub(crate) fn before_last(&self, max_entries: u64, max_bytes: u64) -> LogIndex {
        let mut bytes = 0_u64;
        let fits = |size: &&u32| {
            bytes = bytes.saturating_add(entry_cost(**size));
            bytes <= max_bytes
        };
        let newest_first = self.sizes.iter().rev();
        let most = usize::try_from(max_entries).unwrap_or(usize::MAX);
        let kept = newest_first.take(most).take_while(fits).count();
        LogIndex(self.last_index().0 - kept as u64)
    }

    /// The longest range from `first` up to `last` that has at most `max_bytes` and
    /// `max_entries`, but at least one entry; and its payload bytes. `None` if it is empty.
    pub(crate) fn pack(
        &self,
        first: LogIndex,
        last: LogIndex,
        max_bytes: u64,
        max_entries: u64,
    ) -> Option<(IndexRange, u64)> {
        let available = IndexRange::new(first, last)?;
        let skip = first.since(self.base.index.next()) as usize;
        let most = available.count().min(max_entries) as usize;
        let mut bytes = 0;
        let mut count = 0;
        for size in self.sizes.range(skip..skip + most) {
            let with = bytes + u64::from(*size);
            if count > 0 && with > max_bytes {
                break;
            }
            bytes = with;
            count += 1;
        }
        let range = IndexRange::new(first, LogIndex(first.0 + count - 1))?;
        Some((range, bytes))
    }

    /// Position in `runs` of the run that holds an index after the base.
    fn run_of(&self, index: LogIndex) -> usize {
        self.runs.partition_point(|run| run.first <= index) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use raft_proto::Boot;

    fn view(terms: &[u64]) -> LogView {
        let mut view = LogView::new(&Recovered::empty(Boot::default()));
        for term in terms {
            view.append(Term(*term), 10);
        }
        view
    }

    proptest! {
        /// Against a plain vector of terms.
        #[test]
        fn agrees_with_a_list_of_terms(
            steps in prop::collection::vec(0u64..3, 1..30),
            cut in 1u64..35,
            base in 0u64..35,
            probe in 0u64..40,
            term in 0u64..20,
        ) {
            let mut terms = vec![0];
            let mut current = 1;
            for step in &steps {
                current += step;
                terms.push(current);
            }
            let mut view = view(&terms[1..]);
            let cut = cut.min(terms.len() as u64);
            terms.truncate(cut as usize);
            view.truncate_from(LogIndex(cut));
            let base = base.min(terms.len() as u64 - 1);
            view.compact_to(LogIndex(base));

            let last = terms.len() as u64 - 1;
            prop_assert_eq!(view.last_index(), LogIndex(last));
            prop_assert_eq!(view.last().term, Term(terms[last as usize]));
            let expected = (base..=last).contains(&probe).then(|| Term(terms[probe as usize]));
            prop_assert_eq!(view.term_at(LogIndex(probe)), expected);
            let limit = LogIndex(probe);
            let naive_last = (base..=last)
                .rev()
                .find(|i| *i <= probe && terms[*i as usize] == term);
            prop_assert_eq!(view.last_of_term(Term(term), limit), naive_last.map(LogIndex));
            if let Some(term) = expected {
                let first = (base..=probe).find(|i| terms[*i as usize] == term.0);
                let known = view.first_of_term_at(LogIndex(probe));
                // A run that starts at the base is known from the entry after it.
                prop_assert!(Some(known) == first.map(LogIndex) || known == LogIndex(base + 1));
            }
            if let Some(range) = IndexRange::new(LogIndex(base + 1), LogIndex(last)) {
                let runs = view.runs_in(range);
                for index in range.indexes() {
                    let run = runs.iter().rev().find(|run| run.first <= index);
                    prop_assert_eq!(run.map(|run| run.term.0), Some(terms[index.0 as usize]));
                }
                prop_assert_eq!(view.cost_of(range), range.count() * entry_cost(10));
            }
        }
    }

    #[test]
    fn the_base_is_found_when_the_limit_leaves_nothing_after_it() {
        let mut view = view(&[2, 3, 5, 7, 7, 7]);
        view.compact_to(LogIndex(5));
        assert_eq!(view.last_of_term(Term(7), LogIndex(5)), Some(LogIndex(5)));
        assert_eq!(view.last_of_term(Term(7), LogIndex(4)), None);
        assert_eq!(view.last_of_term(Term(7), LogIndex(9)), Some(LogIndex(6)));
    }

    #[test]
    fn the_end_that_is_kept_respects_both_limits() {
        let mut view = view(&[1, 1, 1, 2, 2]);
        view.compact_to(LogIndex(1));
        let one = entry_cost(10);
        assert_eq!(view.before_last(0, u64::MAX), LogIndex(5));
        assert_eq!(view.before_last(2, u64::MAX), LogIndex(3));
        assert_eq!(view.before_last(3, 2 * one), LogIndex(3));
        assert_eq!(view.before_last(3, 2 * one - 1), LogIndex(4));
        assert_eq!(view.before_last(u64::MAX, u64::MAX), LogIndex(1));
    }

    #[test]
    fn packing_never_skips_and_takes_at_least_one() {
        let view = view(&[1, 1, 1, 2, 2]);
        let packed = |first, bytes, entries| {
            view.pack(LogIndex(first), LogIndex(5), bytes, entries)
                .map(|(range, bytes)| (range.first.0, range.last.0, bytes))
        };
        assert_eq!(packed(1, 25, 100), Some((1, 2, 20)));
        assert_eq!(packed(3, 25, 100), Some((3, 4, 20)));
        assert_eq!(packed(5, 1, 100), Some((5, 5, 10)));
        assert_eq!(packed(1, 1000, 3), Some((1, 3, 30)));
        assert_eq!(packed(6, 1000, 3), None);
    }
}
