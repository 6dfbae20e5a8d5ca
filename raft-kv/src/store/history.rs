//! Superseded versions, kept and dropped in the order in which they were superseded.
//!
//! A version that was written at revision `m` and replaced or deleted at revision `u` is visible
//! to reads at `m..u`. Deletions need no marker of their own: between two lives of a key no
//! version is visible.

use std::collections::VecDeque;

use super::record::Record;
use crate::operation::{KeyRange, Revision};

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
struct Superseded {
    /// The first revision at which it is not visible any more.
    until: Revision,
    key: Box<[u8]>,
    record: Record,
}

/// All superseded versions that are kept, in the order in which they were superseded.
///
/// There is no index by key: every write adds a version here, and almost none is ever read. A read
/// at an older revision looks through what was superseded since.
#[derive(Debug, Default)]
pub(super) struct History {
    versions: VecDeque<Superseded>,
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
            self.versions.back().is_none_or(|last| last.until <= until),
            "versions are superseded in the order of revisions"
        );
        self.bytes += key.len() + record.value().len();
        self.versions.push_back(Superseded {
            until,
            key: key.into(),
            record,
        });
    }

    /// The version of `key` that was visible at `revision`, if it was superseded since.
    pub(super) fn get_at(&self, key: &[u8], revision: Revision) -> Option<(&[u8], &Record)> {
        self.visible_at(revision).find(|(found, _)| *found == key)
    }

    /// The superseded versions of the keys in `range` that were visible at `revision`, by key.
    pub(super) fn range_at(
        &self,
        range: &KeyRange<'_>,
        revision: Revision,
    ) -> Vec<(&[u8], &Record)> {
        let visible = self.visible_at(revision);
        let mut found: Vec<_> = visible.filter(|(key, _)| range.contains(key)).collect();
        // At one revision at most one version of a key is visible.
        found.sort_unstable_by_key(|(key, _)| *key);
        found
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
        while self.versions.len() > retention.versions_max || self.bytes > retention.bytes_max {
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
        self.versions.len()
    }

    fn visible_at(&self, revision: Revision) -> impl Iterator<Item = (&[u8], &Record)> {
        let since = self
            .versions
            .partition_point(|version| version.until <= revision);
        self.versions
            .range(since..)
            .filter(move |version| version.record.mod_revision() <= revision)
            .map(|version| (&version.key[..], &version.record))
    }

    fn drop_first(&mut self) -> Option<Revision> {
        let first = self.versions.pop_front()?;
        self.bytes -= first.key.len() + first.record.value().len();
        Some(first.until)
    }
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
