//! The key/value store: every key with its revisions, in memory, deterministic, no I/O.
//!
//! It has etcd's data model. The store has one revision that grows by one with every change; a key
//! remembers the revision that created it, the one that last wrote it, and how often it was
//! written. Older versions stay readable until they are compacted.
//!
//! ```
//! use raft_kv::operation::{KeyRange, Operation, RangeQuery, Revision};
//! use raft_kv::store::{Retention, Store};
//!
//! let mut store = Store::new(Retention::ALL);
//! for value in [b"red", b"ten"] {
//!     store.apply(&Operation::Put { key: b"k", value })?;
//! }
//! let now = store.range(&RangeQuery::new(KeyRange::One(b"k")))?;
//! assert_eq!(&now.pairs[0].value[..], b"ten");
//! let mut earlier = RangeQuery::new(KeyRange::One(b"k"));
//! earlier.revision = Revision(2);
//! assert_eq!(&store.range(&earlier)?.pairs[0].value[..], b"red");
//! # Ok::<(), raft_kv::reply::Refusal>(())
//! ```

mod history;
#[cfg(test)]
mod model_test;
mod range;
mod record;

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use self::history::History;
pub use self::history::Retention;
use self::record::Record;
use crate::limits::MAX_VALUE_BYTES;
use crate::operation::{Expected, KeyRange, Operation, RangeQuery, Revision};
use crate::reply::{KeyValue, Outcome, RangeRef, RangeReply, Refusal, WriteReply};

/// The keys, their values and their history.
#[derive(Debug)]
pub struct Store {
    /// The latest version of every key that exists.
    live: BTreeMap<Box<[u8]>, Record>,
    /// Versions that were replaced or deleted and may still be read.
    history: History,
    revision: Revision,
    /// The oldest revision that can be read.
    oldest: Revision,
    retention: Retention,
    /// Sum of the hashes of all live records.
    live_hash: u64,
    /// Bytes of live keys and values.
    live_bytes: u64,
}

/// What becomes of a key's old value when the key is written.
#[derive(Clone, Copy)]
enum OldValue {
    Dropped,
    Kept,
}

impl Store {
    /// An empty store at [`Revision::FIRST`].
    #[must_use]
    pub fn new(retention: Retention) -> Self {
        Self {
            live: BTreeMap::new(),
            history: History::default(),
            revision: Revision::FIRST,
            oldest: Revision::FIRST,
            retention,
            live_hash: 0,
            live_bytes: 0,
        }
    }

    /// Carries out one operation. Keys and values are copied; nothing of `operation` is kept.
    ///
    /// # Errors
    /// [`Refusal::ValueTooLong`] if a value would exceed the limit; nothing has changed then.
    pub fn apply(&mut self, operation: &Operation<'_>) -> Result<WriteReply, Refusal> {
        let outcome = match *operation {
            Operation::Put { key, value } => self.write(key, OldValue::Dropped, value)?,
            Operation::Append { key, value } => self.write(key, OldValue::Kept, value)?,
            Operation::Delete { range } => self.delete(&range),
            Operation::CompareAndSwap {
                key,
                expected,
                value,
            } => {
                if self.is_as_expected(key, expected) {
                    self.write(key, OldValue::Dropped, value)?
                } else {
                    Outcome::Different
                }
            }
        };
        if let Some(oldest) = self.history.enforce(self.retention) {
            self.oldest = self.oldest.max(oldest);
        }
        Ok(WriteReply {
            revision: self.revision,
            outcome,
        })
    }

    /// Reads a range.
    ///
    /// # Errors
    /// [`Refusal::FutureRevision`], [`Refusal::Compacted`].
    pub fn range(&self, query: &RangeQuery<'_>) -> Result<RangeReply, Refusal> {
        let found = self.range_ref(query)?;
        let owned = |pair: &crate::reply::PairRef<'_>| KeyValue {
            key: Bytes::copy_from_slice(pair.key.0),
            value: Bytes::copy_from_slice(pair.value.0),
            create_revision: pair.create_revision,
            mod_revision: pair.mod_revision,
            version: pair.version,
        };
        Ok(RangeReply {
            revision: found.revision,
            count: found.count,
            more: found.more,
            pairs: found.pairs.iter().map(owned).collect(),
        })
    }

    /// Reads a range without copying anything.
    pub(crate) fn range_ref(&self, query: &RangeQuery<'_>) -> Result<RangeRef<'_>, Refusal> {
        if query.revision > self.revision {
            return Err(Refusal::FutureRevision {
                asked: query.revision,
                current: self.revision,
            });
        }
        if query.revision != Revision::ZERO && query.revision < self.oldest {
            return Err(Refusal::Compacted {
                asked: query.revision,
                oldest: self.oldest,
            });
        }
        Ok(range::collect(self, query))
    }

    /// Forgets versions that only reads before `oldest` could see. Reads before it are refused
    /// from now on.
    ///
    /// # Errors
    /// [`Refusal::FutureRevision`] or [`Refusal::Compacted`] if there is no such revision.
    pub fn compact(&mut self, oldest: Revision) -> Result<(), Refusal> {
        if oldest > self.revision {
            return Err(Refusal::FutureRevision {
                asked: oldest,
                current: self.revision,
            });
        }
        if oldest < self.oldest {
            return Err(Refusal::Compacted {
                asked: oldest,
                oldest: self.oldest,
            });
        }
        self.oldest = oldest;
        self.history.compact(oldest);
        Ok(())
    }

    /// The revision of the last change.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// The oldest revision that can be read.
    #[must_use]
    pub const fn oldest_revision(&self) -> Revision {
        self.oldest
    }

    /// How many keys exist.
    #[must_use]
    pub fn key_count(&self) -> u64 {
        self.live.len() as u64
    }

    /// Bytes of all keys and values that exist.
    #[must_use]
    pub const fn data_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// A hash of the revision and of everything that exists: key, value, revisions and version.
    /// Equal contents have equal hashes, whatever the order of the commands that made them.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash_of(self.live_hash)
    }

    /// The same hash, computed from nothing but the keys; takes time in proportion to the data.
    #[must_use]
    pub fn recompute_hash(&self) -> u64 {
        let parts = self.live.iter().map(|(key, record)| record.hash(key));
        self.hash_of(parts.fold(0, u64::wrapping_add))
    }

    fn hash_of(&self, sum: u64) -> u64 {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&sum.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.revision.0.to_le_bytes());
        bytes[16..].copy_from_slice(&self.key_count().to_le_bytes());
        xxh3_64(&bytes)
    }

    /// Writes a key: its old value, if that is kept, with `value` behind it.
    fn write(&mut self, key: &[u8], old_value: OldValue, value: &[u8]) -> Result<Outcome, Refusal> {
        let Some(slot) = self.live.get_mut(key) else {
            self.create(key, value);
            return Ok(Outcome::Written);
        };
        let parts = match old_value {
            OldValue::Dropped => [value, b""],
            OldValue::Kept => [slot.value(), value],
        };
        let bytes = parts[0].len() + parts[1].len();
        if bytes > MAX_VALUE_BYTES {
            let bytes = bytes as u64;
            return Err(Refusal::ValueTooLong { bytes });
        }
        self.revision = self.revision.next();
        let version = slot.version() + 1;
        let record = Record::new(slot.create_revision(), self.revision, version, parts);
        self.live_hash = self.live_hash.wrapping_add(record.hash(key));
        self.live_bytes += record.value().len() as u64;
        let old = std::mem::replace(slot, record);
        self.supersede(key, old);
        Ok(Outcome::Written)
    }

    /// Adds a key that does not exist, at the next revision.
    fn create(&mut self, key: &[u8], value: &[u8]) {
        self.revision = self.revision.next();
        let record = Record::new(self.revision, self.revision, 1, [value, b""]);
        self.live_hash = self.live_hash.wrapping_add(record.hash(key));
        self.live_bytes += (key.len() + value.len()) as u64;
        let previous = self.live.insert(key.into(), record);
        assert!(
            previous.is_none(),
            "only a key that does not exist is created"
        );
    }

    /// Moves a version that has just been replaced or removed into history.
    fn supersede(&mut self, key: &[u8], old: Record) {
        self.live_hash = self.live_hash.wrapping_sub(old.hash(key));
        self.live_bytes -= old.value().len() as u64;
        self.history.push(key, old, self.revision);
    }

    fn delete(&mut self, range: &KeyRange<'_>) -> Outcome {
        let doomed = self.live_keys(range);
        if !doomed.is_empty() {
            self.revision = self.revision.next();
        }
        for key in &doomed {
            if let Some(old) = self.live.remove(key) {
                self.live_bytes -= key.len() as u64;
                self.supersede(key, old);
            }
        }
        Outcome::Deleted {
            keys: doomed.len() as u64,
        }
    }

    fn live_keys(&self, range: &KeyRange<'_>) -> Vec<Box<[u8]>> {
        if range.is_empty() {
            return Vec::new();
        }
        let end = range.end();
        let bounds = (
            Bound::Included(range.start()),
            end.as_ref().map(|end| &end[..]),
        );
        let keys = self.live.range::<[u8], _>(bounds).map(|(key, _)| key);
        keys.cloned().collect()
    }

    fn is_as_expected(&self, key: &[u8], expected: Expected<'_>) -> bool {
        let record = self.live.get(key);
        match expected {
            Expected::Absent => record.is_none(),
            Expected::Value(value) => record.is_some_and(|r| r.value() == value),
            Expected::ModRevision(revision) => record.is_some_and(|r| r.mod_revision() == revision),
        }
    }
}
