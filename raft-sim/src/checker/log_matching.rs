//! Log Matching: if two logs contain an entry with the same index and term, then they store the same
//! command there, and are identical in all entries before it (Figure 3, §5.3; thesis §3.5).
//!
//! Every entry that becomes durable anywhere is compared with the first one seen at its index and
//! term: content, and term of the entry before it. By induction that is the whole prefix.

use std::collections::{BTreeMap, BTreeSet};

use raft_proto::{Entry, EntryKind, LogIndex, NodeId, Term};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::violation::Violation;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EntryFacts {
    digest: u64,
    previous_term: Term,
}

/// All entries that were ever durable anywhere, by index and term.
#[derive(Default)]
pub(super) struct Entries {
    known: BTreeMap<(LogIndex, Term), EntryFacts>,
    /// Those that carry memberships.
    memberships: BTreeMap<LogIndex, BTreeSet<Term>>,
}

impl Entries {
    /// Compares a durable entry with what is known of its position, or remembers it. `terms` are
    /// those of the log that it stands in.
    pub(super) fn learn(
        &mut self,
        node: NodeId,
        entry: &Entry,
        terms: &[Term],
    ) -> Result<(), Violation> {
        let (index, term) = (entry.index, entry.term);
        let before = (index.0 as usize).checked_sub(2).map(|at| terms[at]);
        let found = EntryFacts {
            digest: digest(entry),
            previous_term: before.unwrap_or(Term::ZERO),
        };
        if entry.kind == EntryKind::Membership {
            self.memberships.entry(index).or_default().insert(term);
        }
        if *self.known.entry((index, term)).or_insert(found) == found {
            Ok(())
        } else {
            Err(Violation::LogMismatch { node, index, term })
        }
    }

    /// Whether this is the entry that is known at its index and term.
    pub(super) fn is_known(&self, entry: &Entry) -> bool {
        let known = self.known.get(&(entry.index, entry.term));
        known.is_some_and(|known| known.digest == digest(entry))
    }

    /// Whether the entry at this index and term may carry a membership: it does, or it was never
    /// durable anywhere, so nobody knows.
    pub(super) fn may_be_membership(&self, index: LogIndex, term: Term) -> bool {
        let carries = self.memberships.get(&index);
        carries.is_some_and(|terms| terms.contains(&term))
            || !self.known.contains_key(&(index, term))
    }

    /// Where memberships were ever durable, after one index and up to another.
    pub(super) fn memberships(
        &self,
        after: LogIndex,
        through: LogIndex,
    ) -> impl Iterator<Item = (LogIndex, &BTreeSet<Term>)> {
        let range = after.next()..=through.max(after.next());
        let found = self.memberships.range(range);
        let found = found.filter(move |(index, _)| **index <= through);
        found.map(|(index, terms)| (*index, terms))
    }
}

fn digest(entry: &Entry) -> u64 {
    xxh3_64_with_seed(&entry.payload, entry.kind as u64)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{World, append, entry};
    use super::*;

    #[test]
    fn another_entry_or_another_past_at_the_same_position_is_refused() {
        let mut world = World::new();
        world.durable(1, &append(&[entry(2, 2, "b")])).unwrap();
        let other = world.durable(2, &append(&[entry(2, 2, "c")])).unwrap_err();
        assert!(matches!(other, Violation::LogMismatch { .. }));

        let mut world = World::new();
        let path = [entry(2, 2, "b"), entry(3, 4, "d")];
        world.durable(1, &append(&path)).unwrap();
        let detour = [entry(2, 3, "c"), entry(3, 4, "d")];
        let error = world.durable(2, &append(&detour)).unwrap_err();
        assert!(matches!(error, Violation::LogMismatch { .. }));
    }
}
