//! Which entries of the log have lost their content: their index, term and membership are known,
//! their bytes are not (D6).

use raft_proto::LogIndex;

use crate::output::IndexRange;
use crate::time::PersistId;

/// Consecutive entries without content, in the same state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hole {
    range: IndexRange,
    /// The write that brings the content back; until it is durable the entries are missing.
    refill: Option<PersistId>,
}

/// All holes of a log, in order and apart from each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holes {
    holes: Vec<Hole>,
}

impl Holes {
    /// The holes that recovery found, in order and apart from each other.
    pub(crate) fn new(ranges: &[IndexRange]) -> Self {
        let hole = |range: &IndexRange| Hole {
            range: *range,
            refill: None,
        };
        Self {
            holes: ranges.iter().map(hole).collect(),
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.holes.is_empty()
    }

    /// The first entry without durable content.
    pub(crate) fn first(&self) -> Option<LogIndex> {
        self.holes.first().map(|hole| hole.range.first)
    }

    /// The first entries without content for which none is on its way to the disk.
    pub(crate) fn first_open(&self) -> Option<IndexRange> {
        let open = self.holes.iter().find(|hole| hole.refill.is_none());
        open.map(|hole| hole.range)
    }

    pub(crate) fn ranges(&self) -> impl Iterator<Item = IndexRange> + '_ {
        self.holes.iter().map(|hole| hole.range)
    }

    pub(crate) fn contains(&self, index: LogIndex) -> bool {
        self.find(index).is_some()
    }

    /// Whether the content of this entry is missing and none is on its way to the disk.
    pub(crate) fn is_open(&self, index: LogIndex) -> bool {
        self.find(index).is_some_and(|hole| hole.refill.is_none())
    }

    /// Entries have turned out to be unreadable. Those that were known to be stay as they are:
    /// what is on its way to the disk was not what could not be read.
    pub(crate) fn add(&mut self, range: IndexRange) {
        let mut next = Some(range.first);
        let mut gaps = Vec::new();
        for hole in &self.holes {
            let Some(first) = next.filter(|first| *first <= range.last) else {
                break;
            };
            if hole.range.last < first {
                continue;
            }
            let before = hole.range.first.previous().min(range.last);
            gaps.extend(IndexRange::new(first, before));
            next = Some(hole.range.last.next());
        }
        gaps.extend(next.and_then(|first| IndexRange::new(first, range.last)));
        self.holes.extend(gaps.into_iter().map(|range| Hole {
            range,
            refill: None,
        }));
        self.holes.sort_unstable_by_key(|hole| hole.range.first);
    }

    /// The content of open entries is on its way to the disk by this write.
    pub(crate) fn refill(&mut self, range: IndexRange, by: PersistId) {
        let mut holes = Vec::with_capacity(self.holes.len() + 2);
        for hole in self.holes.drain(..) {
            let first = hole.range.first.max(range.first);
            let last = hole.range.last.min(range.last);
            let Some(filled) = IndexRange::new(first, last) else {
                holes.push(hole);
                continue;
            };
            assert!(
                hole.refill.is_none(),
                "what is on its way is not sent twice"
            );
            let part = |range, refill| Hole { range, refill };
            let before = IndexRange::new(hole.range.first, filled.first.previous());
            let after = IndexRange::new(filled.last.next(), hole.range.last);
            holes.extend(before.map(|range| part(range, None)));
            holes.push(part(filled, Some(by)));
            holes.extend(after.map(|range| part(range, None)));
        }
        self.holes = holes;
    }

    /// Writes up to this one are durable; returns what they have filled.
    pub(crate) fn completed(&mut self, id: PersistId) -> Vec<IndexRange> {
        let is_filled = |hole: &mut Hole| hole.refill.is_some_and(|refill| refill <= id);
        let filled = self.holes.extract_if(.., is_filled);
        filled.map(|hole| hole.range).collect()
    }

    /// Entries from `index` on are gone, and their holes with them.
    pub(crate) fn truncate_from(&mut self, index: LogIndex) {
        self.keep(|range| IndexRange::new(range.first, range.last.min(index.previous())));
    }

    /// Entries up to `index` are covered by a snapshot.
    pub(crate) fn compact_to(&mut self, index: LogIndex) {
        self.keep(|range| IndexRange::new(range.first.max(index.next()), range.last));
    }

    fn keep(&mut self, part: impl Fn(IndexRange) -> Option<IndexRange>) {
        self.holes.retain_mut(|hole| match part(hole.range) {
            Some(range) => {
                hole.range = range;
                true
            }
            None => false,
        });
    }

    fn find(&self, index: LogIndex) -> Option<&Hole> {
        let after = self.holes.partition_point(|hole| hole.range.first <= index);
        let hole = self.holes.get(after.checked_sub(1)?)?;
        hole.range.contains(index).then_some(hole)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Add(u64, u64),
        Refill(u64, u64),
        Complete,
        Truncate(u64),
        Compact(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let pair = || (1u64..20, 0u64..6);
        prop_oneof![
            pair().prop_map(|(first, more)| Step::Add(first, first + more)),
            pair().prop_map(|(first, more)| Step::Refill(first, first + more)),
            Just(Step::Complete),
            (10u64..25).prop_map(Step::Truncate),
            (0u64..8).prop_map(Step::Compact),
        ]
    }

    fn range(first: u64, last: u64) -> IndexRange {
        IndexRange::new(LogIndex(first), LogIndex(last)).unwrap()
    }

    proptest! {
        /// Against a map from each missing index to its refill.
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec(step(), 1..40)) {
            let mut holes = Holes::default();
            let mut model: BTreeMap<u64, Option<PersistId>> = BTreeMap::new();
            let mut id = PersistId(1);
            for step in steps {
                match step {
                    Step::Add(first, last) => {
                        holes.add(range(first, last));
                        for index in first..=last {
                            model.entry(index).or_insert(None);
                        }
                    }
                    Step::Refill(first, last) => {
                        // Whoever fills takes open entries only, as far as they follow each other.
                        let open = (first..=last).take_while(|i| model.get(i) == Some(&None));
                        let Some(end) = open.last() else { continue };
                        holes.refill(range(first, end), id);
                        for index in first..=end {
                            model.insert(index, Some(id));
                        }
                        id = id.next();
                    }
                    Step::Complete => {
                        let done = PersistId(id.0.saturating_sub(2));
                        holes.completed(done);
                        model.retain(|_, refill| refill.is_none_or(|refill| refill > done));
                    }
                    Step::Truncate(from) => {
                        holes.truncate_from(LogIndex(from));
                        model.retain(|index, _| *index < from);
                    }
                    Step::Compact(to) => {
                        holes.compact_to(LogIndex(to));
                        model.retain(|index, _| *index > to);
                    }
                }
                let first = model.keys().next().map(|index| LogIndex(*index));
                prop_assert_eq!(holes.first(), first);
                let open = model.iter().find(|(_, refill)| refill.is_none());
                let first_open = open.map(|(index, _)| LogIndex(*index));
                prop_assert_eq!(holes.first_open().map(|range| range.first), first_open);
                for index in 0..30 {
                    let found = holes.contains(LogIndex(index));
                    prop_assert_eq!(found, model.contains_key(&index));
                    let is_open = holes.is_open(LogIndex(index));
                    prop_assert_eq!(is_open, model.get(&index) == Some(&None));
                }
                let listed: u64 = holes.ranges().map(IndexRange::count).sum();
                prop_assert_eq!(listed, model.len() as u64);
            }
        }
    }
}
