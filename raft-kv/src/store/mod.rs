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

mod cut;
mod history;
mod range;
mod record;
mod restore;
mod separator;
mod tree;
mod txn;
mod write;

use xxhash_rust::xxh3::xxh3_64;

use self::cut::Cut;
pub(crate) use self::cut::CutSummary;
use self::history::History;
pub use self::history::Retention;
use self::record::Record;
pub(crate) use self::restore::Restorer;
use self::tree::Tree;
use crate::limits::MAX_RANGE_REPLY_BYTES;
use crate::operation::{KeyRange, RangeQuery, Revision};
use crate::reply::{PairRef, RangeRef, RangeReply, Refusal};

/// The keys, their values and their history.
#[derive(Debug)]
pub struct Store {
    /// The latest version of every key that exists.
    live: Tree,
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
    /// A cut that is being taken.
    cut: Option<Cut>,
}

impl Store {
    /// An empty store at [`Revision::FIRST`].
    #[must_use]
    pub fn new(retention: Retention) -> Self {
        Self {
            live: Tree::new(),
            history: History::new(),
            revision: Revision::FIRST,
            oldest: Revision::FIRST,
            retention,
            live_hash: 0,
            live_bytes: 0,
            cut: None,
        }
    }

    /// Reads a range.
    ///
    /// # Errors
    /// [`Refusal::FutureRevision`], [`Refusal::Compacted`].
    pub fn range(&self, query: &RangeQuery<'_>) -> Result<RangeReply, Refusal> {
        let found = self.range_ref(query)?;
        Ok(RangeReply {
            revision: found.revision,
            count: found.count,
            more: found.more,
            pairs: found.pairs.iter().map(PairRef::copied).collect(),
        })
    }

    /// Reads a range without copying anything.
    pub(crate) fn range_ref(&self, query: &RangeQuery<'_>) -> Result<RangeRef<'_>, Refusal> {
        self.check_revision(query.revision)?;
        Ok(range::collect(self, query, MAX_RANGE_REPLY_BYTES))
    }

    /// Whether reads at a revision can be answered; [`Revision::ZERO`] means the latest.
    fn check_revision(&self, asked: Revision) -> Result<(), Refusal> {
        if asked > self.revision {
            return Err(Refusal::FutureRevision {
                asked,
                current: self.revision,
            });
        }
        if asked != Revision::ZERO && asked < self.oldest {
            return Err(Refusal::Compacted {
                asked,
                oldest: self.oldest,
            });
        }
        Ok(())
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

    /// Whether more keys than `count` exist in a range; looks at one more than that at most.
    pub(crate) fn holds_more_than(&self, range: &KeyRange<'_>, count: usize) -> bool {
        self.live_range(range).nth(count).is_some()
    }

    /// How many keys exist.
    #[must_use]
    pub fn key_count(&self) -> u64 {
        self.live.len() as u64
    }

    /// How many older versions can still be read.
    #[must_use]
    pub fn history_len(&self) -> u64 {
        self.history.len()
    }

    /// Bytes of all keys and values that exist.
    #[must_use]
    pub const fn data_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// A hash of everything that can be read, now or at an older revision: equal contents have
    /// equal hashes, whatever the order of the commands that made them.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash_of(self.live_hash, self.history.hash())
    }

    /// The same hash, computed from nothing but the versions; takes time in proportion to the data.
    #[must_use]
    pub fn recompute_hash(&self) -> u64 {
        let parts = self.live.iter().map(Record::recomputed_hash);
        let live_hash = parts.fold(0, u64::wrapping_add);
        self.hash_of(live_hash, self.history.recompute_hash())
    }

    fn hash_of(&self, live_hash: u64, history_hash: u64) -> u64 {
        let words = [
            live_hash,
            history_hash,
            self.revision.0,
            self.oldest.0,
            self.key_count(),
            self.history.len(),
            self.retention.versions_max,
            self.retention.bytes_max,
        ];
        let mut bytes = [0; 64];
        for (at, word) in words.iter().enumerate() {
            bytes[8 * at..8 * at + 8].copy_from_slice(&word.to_le_bytes());
        }
        xxh3_64(&bytes)
    }
}

#[cfg(test)]
#[path = "store_test.rs"]
mod tests;
