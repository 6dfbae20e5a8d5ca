//! Superseded versions: found by key and revision, dropped in the order they were superseded.
//!
//! A version that was written at revision `m` and replaced or deleted at revision `u` is visible
//! to reads at `m..u`. Deletions need no marker of their own: between two lives of a key no
//! version is visible.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::record::Record;
use crate::operation::Revision;

/// How much history a store keeps before it compacts by itself. Both are exceeded by the same
/// command on every replica, because they depend on nothing but the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Most superseded versions.
    pub versions_max: usize,
    /// Most bytes of their keys and values.
    pub bytes_max: usize,
}

impl Retention {
    /// Keep everything until told to compact.
    pub const ALL: Self = Self {
        versions_max: usize::MAX,
        bytes_max: usize::MAX,
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

/// A version that is not the latest of its key.
#[derive(Debug)]
pub(super) struct Superseded {
    /// The first revision at which it is not visible any more.
    until: Revision,
    record: Record,
}

/// All superseded versions that are kept.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Per key, oldest first.
    versions: BTreeMap<Arc<[u8]>, VecDeque<Superseded>>,
    /// The same versions by `until`, oldest first.
    order: VecDeque<(Revision, Arc<[u8]>)>,
    /// Bytes of keys and values.
    bytes: usize,
}

impl History {
    /// Keeps a version that stops being the latest of its key at `until`.
    pub(super) fn push(&mut self, key: &[u8], record: Record, until: Revision) {
        assert!(
            record.mod_revision() < until,
            "a version lives for at least one revision"
        );
        assert!(
            self.order.back().is_none_or(|(last, _)| *last <= until),
            "versions are superseded in the order of revisions"
        );
        let key: Arc<[u8]> = key.into();
        self.bytes += key.len() + record.value().len();
        self.order.push_back((until, key.clone()));
        let versions = self.versions.entry(key).or_default();
        versions.push_back(Superseded { until, record });
    }

    /// The version of `key` that was visible at `revision`, if it was superseded since.
    pub(super) fn get_at(&self, key: &[u8], revision: Revision) -> Option<(&[u8], &Record)> {
        let (key, versions) = self.versions.get_key_value(key)?;
        Some((key, visible(versions, revision)?))
    }

    /// Keys within `bounds` with the superseded version visible at `revision`, in order.
    pub(super) fn range_at<'a>(
        &'a self,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
        revision: Revision,
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], &'a Record)> + use<'a> {
        self.versions
            .range::<[u8], _>(bounds)
            .filter_map(move |(key, versions)| Some((&key[..], visible(versions, revision)?)))
    }

    /// Forgets what no read at `oldest` or later can see.
    pub(super) fn compact(&mut self, oldest: Revision) {
        while self
            .order
            .front()
            .is_some_and(|(until, _)| *until <= oldest)
        {
            self.drop_first();
        }
    }

    /// Forgets as much as it takes to respect the retention; returns the oldest revision that can
    /// still be read in full, if that changed.
    pub(super) fn enforce(&mut self, retention: Retention) -> Option<Revision> {
        let mut oldest = None;
        while self.order.len() > retention.versions_max || self.bytes > retention.bytes_max {
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
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    fn drop_first(&mut self) -> Option<Revision> {
        let (until, key) = self.order.pop_front()?;
        if let Some(versions) = self.versions.get_mut(&key) {
            if let Some(first) = versions.pop_front() {
                assert_eq!(first.until, until, "both orders hold the same versions");
                self.bytes -= key.len() + first.record.value().len();
            }
            if versions.is_empty() {
                self.versions.remove(&key);
            }
        }
        Some(until)
    }
}

fn visible(versions: &VecDeque<Superseded>, revision: Revision) -> Option<&Record> {
    let position = versions.partition_point(|version| version.until <= revision);
    let record = &versions.get(position)?.record;
    (record.mod_revision() <= revision).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(modified: u64) -> Record {
        Record::new(Revision(modified), Revision(modified), 1, [b"v", b""])
    }

    #[test]
    fn a_version_is_visible_until_it_is_superseded() {
        let mut history = History::default();
        history.push(b"k", record(2), Revision(4));
        history.push(b"k", record(6), Revision(9));
        let at = |revision| {
            let found = history.get_at(b"k", Revision(revision));
            found.map(|(_, record)| record.mod_revision().0)
        };
        let seen: Vec<_> = (1..=9).map(at).collect();
        let (two, six) = (Some(2), Some(6));
        assert_eq!(seen, [None, two, two, None, None, six, six, six, None]);
        assert_eq!(history.get_at(b"other", Revision(3)), None);
    }

    #[test]
    fn compaction_drops_only_what_nobody_can_read() {
        let mut history = History::default();
        history.push(b"k", record(2), Revision(4));
        history.push(b"l", record(3), Revision(5));
        history.compact(Revision(4));
        assert_eq!(history.get_at(b"k", Revision(3)), None);
        assert!(history.get_at(b"l", Revision(4)).is_some());
        history.compact(Revision(5));
        assert_eq!((history.len(), history.bytes), (0, 0));
    }

    #[test]
    fn retention_drops_whole_revisions() {
        let mut history = History::default();
        for (key, until) in [(b"a", 5), (b"b", 6), (b"c", 6), (b"d", 7)] {
            history.push(key, record(2), Revision(until));
        }
        let retention = Retention {
            versions_max: 2,
            bytes_max: usize::MAX,
        };
        assert_eq!(history.enforce(retention), Some(Revision(6)));
        assert_eq!(history.len(), 1);
        assert_eq!(history.enforce(retention), None);
    }
}
