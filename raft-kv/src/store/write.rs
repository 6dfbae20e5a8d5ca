//! Single operations, and the two changes that every write is made of: put a key, remove a key.

use std::ops::Bound;

use super::Store;
use super::record::{HashedKey, Meta, Record};
use crate::limits::MAX_VALUE_BYTES;
use crate::operation::{Expected, KeyRange, Operation, Revision};
use crate::reply::{Outcome, Refusal, WriteReply};

/// What becomes of a key's old value when the key is written.
#[derive(Clone, Copy)]
pub(super) enum OldValue {
    Dropped,
    Kept,
}

impl Store {
    /// Carries out one operation. Keys and values are copied; nothing of `operation` is kept.
    ///
    /// # Errors
    /// [`Refusal::ValueTooLong`] if a value would exceed the limit, and those of
    /// [`Store::compact`]; nothing has changed then.
    pub fn apply(&mut self, operation: &Operation<'_>) -> Result<WriteReply, Refusal> {
        let next = self.revision.next();
        let outcome = match *operation {
            Operation::Put { key, value } => self.put(next, key, OldValue::Dropped, value)?,
            Operation::Append { key, value } => self.put(next, key, OldValue::Kept, value)?,
            Operation::Delete { range } => Outcome::Deleted {
                keys: self.delete(next, &range),
            },
            Operation::CompareAndSwap {
                key,
                expected,
                value,
            } => {
                if self.is_as_expected(key, expected) {
                    self.put(next, key, OldValue::Dropped, value)?
                } else {
                    Outcome::Different
                }
            }
            Operation::Compact { revision } => {
                self.compact(revision)?;
                Outcome::Compacted
            }
        };
        self.enforce_retention();
        Ok(WriteReply {
            revision: self.revision,
            outcome,
        })
    }

    /// Writes a key at a revision: its old value, if that is kept, with `value` behind it.
    pub(super) fn put(
        &mut self,
        at: Revision,
        key: &[u8],
        old_value: OldValue,
        value: &[u8],
    ) -> Result<Outcome, Refusal> {
        let key = HashedKey::new(key);
        let Some(slot) = self.live.get_mut(key) else {
            self.create(at, key, value);
            return Ok(Outcome::Written);
        };
        let old = slot.view();
        let parts = match old_value {
            OldValue::Dropped => [value, b""],
            OldValue::Kept => [old.value, value],
        };
        let bytes = parts[0].len() + parts[1].len();
        if bytes > MAX_VALUE_BYTES {
            let bytes = bytes as u64;
            return Err(Refusal::ValueTooLong { bytes });
        }
        self.live_bytes = self.live_bytes - old.value.len() as u64 + bytes as u64;
        let meta = Meta {
            create_revision: old.meta.create_revision,
            mod_revision: at,
            version: old.meta.version + 1,
            previous: self.history.next_number(),
        };
        let record = Record::new(key, meta, parts);
        self.live_hash = self
            .live_hash
            .wrapping_add(record.hash())
            .wrapping_sub(slot.hash());
        let old = std::mem::replace(slot, record);
        self.advance(at);
        self.keep_for_cut(&old);
        self.history.push_replaced(old, at);
        Ok(Outcome::Written)
    }

    /// Removes all keys of a range at a revision; returns how many.
    pub(super) fn delete(&mut self, at: Revision, range: &KeyRange<'_>) -> u64 {
        let doomed: Vec<Box<[u8]>> = match range {
            KeyRange::One(key) => vec![Box::from(*key)],
            KeyRange::Interval { .. } | KeyRange::From(_) | KeyRange::Prefix(_) => {
                let records = self.live_range(range);
                records.map(|record| record.key().into()).collect()
            }
        };
        let mut removed = 0;
        for key in &doomed {
            let Some(old) = self.live.remove(HashedKey::new(key)) else {
                continue;
            };
            self.live_bytes -= old.data_bytes() as u64;
            self.live_hash = self.live_hash.wrapping_sub(old.hash());
            self.advance(at);
            self.keep_for_cut(&old);
            self.history.push_deleted(old, at);
            removed += 1;
        }
        removed
    }

    /// The live records of a range, in order of their keys.
    pub(super) fn live_range(
        &self,
        range: &KeyRange<'_>,
    ) -> impl DoubleEndedIterator<Item = &Record> + use<'_> {
        if range.is_empty() {
            // Bounds may not contradict each other.
            let nothing = Bound::Excluded(&b""[..]);
            return self.live.range(Bound::Included(b""), nothing);
        }
        let end = range.end();
        let end = end.as_ref().map(|end| &end[..]);
        self.live.range(Bound::Included(range.start()), end)
    }

    /// Compacts as much as it takes to respect the retention.
    pub(super) fn enforce_retention(&mut self) {
        if let Some(oldest) = self.history.enforce(self.retention) {
            self.oldest = self.oldest.max(oldest);
        }
    }

    /// Adds a key that does not exist.
    fn create(&mut self, at: Revision, key: HashedKey<'_>, value: &[u8]) {
        let meta = Meta {
            create_revision: at,
            mod_revision: at,
            version: 1,
            previous: self.history.revive(key.bytes),
        };
        let record = Record::new(key, meta, [value, b""]);
        self.live_hash = self.live_hash.wrapping_add(record.hash());
        self.live_bytes += record.data_bytes() as u64;
        self.live.insert(key, record);
        self.advance(at);
    }

    /// Notes a change at a revision: the store's next one, or, after a transaction's first change,
    /// its latest.
    fn advance(&mut self, at: Revision) {
        assert!(
            at == self.revision || at == self.revision.next(),
            "revisions have no gaps"
        );
        self.revision = at;
    }

    fn is_as_expected(&self, key: &[u8], expected: Expected<'_>) -> bool {
        let record = self.live.get(HashedKey::new(key));
        match expected {
            Expected::Absent => record.is_none(),
            Expected::Value(value) => record.is_some_and(|r| r.value() == value),
            Expected::ModRevision(revision) => record.is_some_and(|r| r.mod_revision() == revision),
        }
    }
}
