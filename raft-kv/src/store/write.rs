//! Single operations, and the two changes that every write is made of: put a key, remove a key.

use std::ops::Bound;

use super::Store;
use super::record::Record;
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
        let Some(slot) = self.live.get_mut(key) else {
            self.create(at, key, value);
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
        let version = slot.version() + 1;
        let record = Record::new(slot.create_revision(), at, version, parts);
        self.live_hash = self.live_hash.wrapping_add(record.hash(key));
        self.live_bytes += record.value().len() as u64;
        let old = std::mem::replace(slot, record);
        self.advance(at);
        self.supersede(key, old);
        Ok(Outcome::Written)
    }

    /// Removes all keys of a range at a revision; returns how many.
    pub(super) fn delete(&mut self, at: Revision, range: &KeyRange<'_>) -> u64 {
        let doomed: Vec<Box<[u8]>> = self.live_range(range).map(|(key, _)| key.into()).collect();
        for key in &doomed {
            let Some(old) = self.live.remove(key) else {
                panic!("a key that was just found is there");
            };
            self.live_bytes -= key.len() as u64;
            self.advance(at);
            self.supersede(key, old);
        }
        doomed.len() as u64
    }

    /// The live keys of a range, in order.
    pub(super) fn live_range(
        &self,
        range: &KeyRange<'_>,
    ) -> impl DoubleEndedIterator<Item = (&[u8], &Record)> {
        let end = range.end();
        let bounds = if range.is_empty() {
            // The map's own ranges may not end before they start.
            (Bound::Included(&b""[..]), Bound::Excluded(&b""[..]))
        } else {
            let end = end.as_ref().map(|end| &end[..]);
            (Bound::Included(range.start()), end)
        };
        let live = self.live.range::<[u8], _>(bounds);
        live.map(|(key, record)| (&key[..], record))
    }

    /// Compacts as much as it takes to respect the retention.
    pub(super) fn enforce_retention(&mut self) {
        if let Some(oldest) = self.history.enforce(self.retention) {
            self.oldest = self.oldest.max(oldest);
        }
    }

    /// Adds a key that does not exist.
    fn create(&mut self, at: Revision, key: &[u8], value: &[u8]) {
        let record = Record::new(at, at, 1, [value, b""]);
        self.live_hash = self.live_hash.wrapping_add(record.hash(key));
        self.live_bytes += (key.len() + value.len()) as u64;
        let previous = self.live.insert(key.into(), record);
        assert!(
            previous.is_none(),
            "only a key that does not exist is created"
        );
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

    /// Moves a version that has just been replaced or removed into history.
    fn supersede(&mut self, key: &[u8], old: Record) {
        self.live_hash = self.live_hash.wrapping_sub(old.hash(key));
        self.live_bytes -= old.value().len() as u64;
        self.history.push(key, old, self.revision);
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
