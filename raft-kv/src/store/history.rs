//! Superseded versions: a queue in the order in which they were superseded, and a chain per key.
//!
//! A version that was written at revision `m` and replaced or deleted at revision `u` is visible
//! to reads at `m..u`. Deletions need no version of their own: between two lives of a key nothing
//! is visible.
//!
//! Versions are numbered in the order of the queue, so a number finds its version at once, and one
//! that lies before the queue's front was compacted. Every version names the one before it of the
//! same key. A chain begins at the live record, or, for a key that does not exist, at its grave. A
//! read at an older revision follows the chains of the keys it asks for and looks at nothing else;
//! a write adds to the end of the queue and touches no other version.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::record::Record;
use crate::operation::{KeyRange, Revision};

/// How much history a store keeps before it compacts by itself. Both are exceeded by the same
/// command on every replica, because they depend on nothing but the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Most superseded versions.
    pub versions_max: u64,
    /// Most bytes of their keys and values.
    pub bytes_max: u64,
}

impl Retention {
    /// Keep everything until told to compact.
    pub const ALL: Self = Self {
        versions_max: u64::MAX,
        bytes_max: u64::MAX,
    };
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            versions_max: 100_000,
            bytes_max: 64 << 20,
        }
    }
}

/// How a version stopped being the latest of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Replaced,
    Deleted,
}

/// A version that is not the latest of its key. What dropping it needs is kept beside the record,
/// so that it need not be fetched from memory.
#[derive(Debug)]
pub(super) struct Superseded {
    /// The first revision at which it is not visible any more.
    pub(super) until: Revision,
    pub(super) record: Record,
    /// Its part of the hash of history.
    hash: u64,
    /// Bytes of key and value; bounded by the limits, far below 4 GiB.
    data_bytes: u32,
    ended: Ended,
}

/// What a cut still needs of history: the versions from `next` up to `end`, the first of which
/// were compacted since and are held for it.
#[derive(Debug)]
struct Pinned {
    next: u64,
    end: u64,
    held: VecDeque<Superseded>,
}

/// All superseded versions that are kept.
#[derive(Debug)]
pub(super) struct History {
    versions: VecDeque<Superseded>,
    /// The number of the queue's front, or of the next version if it is empty.
    first_number: u64,
    /// The number of the latest version of every key that does not exist, but did.
    graves: BTreeMap<Box<[u8]>, u64>,
    /// Bytes of keys and values.
    data_bytes: u64,
    /// Sum of the hashes of all versions.
    hash: u64,
    pinned: Option<Pinned>,
}

impl History {
    pub(super) fn new() -> Self {
        Self {
            versions: VecDeque::new(),
            // 0 stands for no version.
            first_number: 1,
            graves: BTreeMap::new(),
            data_bytes: 0,
            hash: 0,
            pinned: None,
        }
    }

    /// The number that the next version gets.
    pub(super) fn next_number(&self) -> u64 {
        self.first_number + self.versions.len() as u64
    }

    /// Keeps a version that was replaced at `until`. The record that replaces it must name its
    /// number as the previous one.
    pub(super) fn push_replaced(&mut self, record: Record, until: Revision) {
        self.push(record, until, Ended::Replaced);
    }

    /// Keeps a version that was deleted at `until`.
    pub(super) fn push_deleted(&mut self, record: Record, until: Revision) {
        let number = self.next_number();
        let other = self.graves.insert(record.key().into(), number);
        assert!(other.is_none(), "a key that exists has no grave");
        self.push(record, until, Ended::Deleted);
    }

    /// The number of the latest version of a key that is about to exist again; 0 if none is kept.
    pub(super) fn revive(&mut self, key: &[u8]) -> u64 {
        if self.graves.is_empty() {
            return 0;
        }
        self.graves.remove(key).unwrap_or(0)
    }

    /// The version visible at `revision` in the chain that begins at a number.
    pub(super) fn visible(&self, mut number: u64, revision: Revision) -> Option<&Record> {
        loop {
            let version = self.version(number)?;
            if version.until <= revision {
                return None;
            }
            let meta = version.record.meta();
            if meta.mod_revision <= revision {
                return Some(&version.record);
            }
            assert!(meta.previous < number, "chains lead back");
            number = meta.previous;
        }
    }

    /// The version visible at `revision` of a key that does not exist any more.
    pub(super) fn visible_in_grave(&self, key: &[u8], revision: Revision) -> Option<&Record> {
        self.visible(*self.graves.get(key)?, revision)
    }

    /// The versions visible at `revision` of the keys in a range that do not exist any more, in
    /// order.
    pub(super) fn visible_in_graves(
        &self,
        range: &KeyRange<'_>,
        revision: Revision,
    ) -> impl DoubleEndedIterator<Item = &Record> + use<'_> {
        let end = range.end();
        let bounds = if range.is_empty() {
            // The map's own ranges may not end before they start.
            (Bound::Included(&b""[..]), Bound::Excluded(&b""[..]))
        } else {
            let end = end.as_ref().map(|end| &end[..]);
            (Bound::Included(range.start()), end)
        };
        let graves = self.graves.range::<[u8], _>(bounds);
        graves.filter_map(move |(_, number)| self.visible(*number, revision))
    }

    /// Forgets what no read at `oldest` or later can see.
    pub(super) fn compact(&mut self, oldest: Revision) {
        while self
            .versions
            .front()
            .is_some_and(|first| first.until <= oldest)
        {
            self.drop_first();
        }
    }

    /// Forgets as much as it takes to respect the retention; returns the oldest revision that can
    /// still be read in full, if that changed.
    pub(super) fn enforce(&mut self, retention: Retention) -> Option<Revision> {
        let mut oldest = None;
        while self.len() > retention.versions_max || self.data_bytes > retention.bytes_max {
            let Some(until) = self.drop_first() else {
                break;
            };
            oldest = Some(until);
        }
        // One revision may supersede many versions (a range delete): all of them go together.
        if let Some(oldest) = oldest {
            self.compact(oldest);
        }
        oldest
    }

    /// How many versions are kept.
    pub(super) fn len(&self) -> u64 {
        self.versions.len() as u64
    }

    /// A hash of all versions that are kept, and of when they were superseded.
    pub(super) const fn hash(&self) -> u64 {
        self.hash
    }

    /// The same hash, computed from nothing but the versions.
    pub(super) fn recompute_hash(&self) -> u64 {
        let parts = self.versions.iter();
        let parts = parts.map(|version| part(version.record.recomputed_hash(), version.until));
        parts.fold(0, u64::wrapping_add)
    }

    /// Holds every version of now, until it was taken or everything is let go.
    pub(super) fn pin(&mut self) {
        assert!(self.pinned.is_none(), "one cut at a time");
        self.pinned = Some(Pinned {
            next: self.first_number,
            end: self.next_number(),
            held: VecDeque::new(),
        });
    }

    /// The pinned versions that were not taken yet, in order.
    pub(super) fn pinned(&self) -> impl Iterator<Item = &Superseded> {
        self.pinned.iter().flat_map(move |pinned| {
            let next = pinned.next + pinned.held.len() as u64;
            let in_queue = (next..pinned.end).filter_map(|number| self.version(number));
            pinned.held.iter().chain(in_queue)
        })
    }

    /// Takes that many pinned versions off.
    pub(super) fn take_pinned(&mut self, count: usize) {
        if let Some(pinned) = &mut self.pinned {
            pinned.held.drain(..count.min(pinned.held.len()));
            pinned.next += count as u64;
        }
    }

    /// Lets go of what is pinned.
    pub(super) fn unpin(&mut self) {
        self.pinned = None;
    }

    /// Notes that a version was replaced, which was pushed as deleted.
    pub(super) fn mark_replaced(&mut self, number: u64) {
        let at = (number - self.first_number) as usize;
        self.versions[at].ended = Ended::Replaced;
    }

    /// Notes the latest version of a key that does not exist.
    pub(super) fn bury(&mut self, key: Box<[u8]>, number: u64) {
        self.graves.insert(key, number);
    }

    /// Keeps a version; of one that was deleted its key must be [buried](Self::bury), too.
    pub(super) fn push(&mut self, record: Record, until: Revision, ended: Ended) {
        assert!(
            record.mod_revision() < until,
            "a version lives for at least one revision"
        );
        assert!(
            self.versions.back().is_none_or(|last| last.until <= until),
            "versions are superseded in the order of revisions"
        );
        let hash = part(record.hash(), until);
        let data_bytes = record.data_bytes();
        self.hash = self.hash.wrapping_add(hash);
        self.data_bytes += data_bytes as u64;
        self.versions.push_back(Superseded {
            until,
            record,
            hash,
            data_bytes: data_bytes as u32,
            ended,
        });
    }

    pub(super) fn version(&self, number: u64) -> Option<&Superseded> {
        let at = number.checked_sub(self.first_number)?;
        self.versions.get(usize::try_from(at).ok()?)
    }

    fn drop_first(&mut self) -> Option<Revision> {
        let first = self.versions.pop_front()?;
        let number = self.first_number;
        self.first_number += 1;
        self.hash = self.hash.wrapping_sub(first.hash);
        self.data_bytes -= u64::from(first.data_bytes);
        if first.ended == Ended::Deleted && self.graves.get(first.record.key()) == Some(&number) {
            self.graves.remove(first.record.key());
        }
        let until = first.until;
        if let Some(pinned) = &mut self.pinned
            && (pinned.next..pinned.end).contains(&number)
        {
            pinned.held.push_back(first);
        }
        Some(until)
    }
}

/// A version's part of the hash of history.
fn part(record_hash: u64, until: Revision) -> u64 {
    xxh3_64_with_seed(&until.0.to_le_bytes(), record_hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::{HashedKey, Meta};

    fn record(key: &[u8], modified: u64, previous: u64) -> Record {
        let meta = Meta {
            create_revision: Revision(modified),
            mod_revision: Revision(modified),
            version: 1,
            previous,
        };
        Record::new(HashedKey::new(key), meta, [b"v", b""])
    }

    #[test]
    fn a_version_is_visible_until_it_is_superseded() {
        let mut history = History::new();
        history.push_deleted(record(b"k", 2, 0), Revision(4));
        let previous = history.revive(b"k");
        history.push_deleted(record(b"k", 6, previous), Revision(9));
        let at = |revision| {
            let found = history.visible_in_grave(b"k", Revision(revision));
            found.map(|record| record.mod_revision().0)
        };
        let seen: Vec<_> = (1..=9).map(at).collect();
        let (two, six) = (Some(2), Some(6));
        assert_eq!(seen, [None, two, two, None, None, six, six, six, None]);
        assert!(history.visible_in_grave(b"other", Revision(3)).is_none());
    }

    #[test]
    fn compaction_drops_only_what_nobody_can_read() {
        let mut history = History::new();
        history.push_deleted(record(b"k", 2, 0), Revision(4));
        history.push_deleted(record(b"l", 3, 0), Revision(5));
        history.compact(Revision(4));
        assert!(history.visible_in_grave(b"k", Revision(3)).is_none());
        assert!(history.visible_in_grave(b"l", Revision(4)).is_some());
        assert_eq!(history.graves.len(), 1);
        history.compact(Revision(5));
        assert_eq!((history.len(), history.data_bytes, history.hash), (0, 0, 0));
        assert_eq!(history.graves.len(), 0);
    }

    #[test]
    fn retention_drops_whole_revisions() {
        let mut history = History::new();
        for (key, until) in [(b"a", 5), (b"b", 6), (b"c", 6), (b"d", 7)] {
            history.push_deleted(record(key, 2, 0), Revision(until));
        }
        let retention = Retention {
            versions_max: 2,
            bytes_max: u64::MAX,
        };
        assert_eq!(history.enforce(retention), Some(Revision(6)));
        assert_eq!(history.len(), 1);
        assert_eq!(history.enforce(retention), None);
    }

    #[test]
    fn what_is_pinned_outlives_its_compaction() {
        let mut history = History::new();
        let push = |history: &mut History, n: u64| {
            let key = n.to_be_bytes();
            history.push_deleted(record(&key, 2 + n, 0), Revision(3 + n));
        };
        (0..4).for_each(|n| push(&mut history, n));
        history.compact(Revision(3));
        history.pin();
        push(&mut history, 4);
        let pinned = |history: &History| -> Vec<u64> {
            history.pinned().map(|version| version.until.0).collect()
        };
        assert_eq!(pinned(&history), [4, 5, 6]);
        history.compact(Revision(5));
        assert_eq!(pinned(&history), [4, 5, 6]);
        history.take_pinned(1);
        assert_eq!(pinned(&history), [5, 6]);
        history.take_pinned(1);
        history.compact(Revision(7));
        assert_eq!((history.len(), pinned(&history)), (0, vec![6]));
        history.unpin();
        assert!(pinned(&history).is_empty());
    }
}
