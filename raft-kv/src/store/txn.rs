//! Transactions on the store.

use super::Store;
use super::range;
use super::record::{Record, View};
use super::write::OldValue;
use crate::limits::MAX_RANGE_REPLY_BYTES;
use crate::operation::{KeyRange, Revision};
use crate::reply::{Branch, KeyValue, OperationResult, PairRef, RangeReply, Refusal, TxnReply};
use crate::txn::{Compare, CompareTarget, Previous, Txn, TxnOperation};

impl Store {
    /// Carries out a transaction. Keys and values are copied; nothing of `txn` is kept.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] if it exceeds the limits ([`Txn::check`]), [`Refusal::FutureRevision`]
    /// and [`Refusal::Compacted`] for a range of the list that would be carried out, and
    /// [`Refusal::PreviousTooLong`]. Nothing has changed then.
    pub fn transact(&mut self, txn: &Txn<'_>) -> Result<TxnReply, Refusal> {
        if txn.check().is_err() {
            return Err(Refusal::Malformed);
        }
        let holds = txn.compares.iter().all(|compare| self.holds(compare));
        let (branch, operations) = if holds {
            (Branch::Then, &txn.then)
        } else {
            (Branch::Otherwise, &txn.otherwise)
        };
        let mut room = self.check_operations(operations)?;
        let next = self.revision.next();
        let mut results = Vec::with_capacity(operations.len());
        for operation in operations {
            results.push(self.carry_out(next, operation, &mut room)?);
        }
        self.enforce_retention();
        Ok(TxnReply {
            revision: self.revision,
            branch,
            results,
        })
    }

    fn holds(&self, compare: &Compare<'_>) -> bool {
        let mut records = self.live_range(&compare.range).peekable();
        if records.peek().is_none() {
            return holds_for_none(compare);
        }
        records.all(|record| holds_for(compare, record))
    }

    /// Refuses what would fail half way, before anything changes. Returns the bytes that are left
    /// in the reply for ranges: previous pairs cannot be cut short, for they are gone afterwards.
    fn check_operations(&self, operations: &[TxnOperation<'_>]) -> Result<usize, Refusal> {
        let mut previous_bytes = 0;
        for operation in operations {
            match operation {
                TxnOperation::Put { key, previous, .. } => {
                    previous_bytes += self.previous_bytes(&KeyRange::One(key), *previous);
                }
                TxnOperation::Delete { range, previous } => {
                    previous_bytes += self.previous_bytes(range, *previous);
                }
                TxnOperation::Range(query) => self.check_revision(query.revision)?,
            }
        }
        let bytes = previous_bytes as u64;
        MAX_RANGE_REPLY_BYTES
            .checked_sub(previous_bytes)
            .ok_or(Refusal::PreviousTooLong { bytes })
    }

    fn previous_bytes(&self, range: &KeyRange<'_>, previous: Previous) -> usize {
        match previous {
            Previous::Omitted => 0,
            Previous::Returned => {
                let pairs = self.live_range(range).map(Record::to_pair);
                pairs.map(|pair| pair.reply_bytes()).sum()
            }
        }
    }

    fn carry_out(
        &mut self,
        at: Revision,
        operation: &TxnOperation<'_>,
        room: &mut usize,
    ) -> Result<OperationResult, Refusal> {
        Ok(match operation {
            TxnOperation::Put {
                key,
                value,
                previous,
            } => {
                let previous = self.previous_pairs(&KeyRange::One(key), *previous).pop();
                self.put(at, key, OldValue::Dropped, value)?;
                OperationResult::Put { previous }
            }
            TxnOperation::Delete { range, previous } => {
                let previous = self.previous_pairs(range, *previous);
                let keys = self.delete(at, range);
                OperationResult::Deleted { keys, previous }
            }
            TxnOperation::Range(query) => {
                let found = range::collect(self, query, *room);
                *room -= found.pairs.iter().map(PairRef::reply_bytes).sum::<usize>();
                OperationResult::Range(RangeReply {
                    revision: found.revision,
                    count: found.count,
                    more: found.more,
                    pairs: found.pairs.iter().map(PairRef::copied).collect(),
                })
            }
        })
    }

    fn previous_pairs(&self, range: &KeyRange<'_>, previous: Previous) -> Vec<KeyValue> {
        match previous {
            Previous::Omitted => Vec::new(),
            Previous::Returned => {
                let pairs = self.live_range(range).map(Record::to_pair);
                pairs.map(|pair| pair.copied()).collect()
            }
        }
    }
}

fn holds_for(compare: &Compare<'_>, record: &Record) -> bool {
    let relation = compare.relation;
    let View { meta, value: found } = record.view();
    match compare.target {
        CompareTarget::Value(value) => relation.holds(found, value),
        CompareTarget::Version(version) => relation.holds(&meta.version, &version),
        CompareTarget::CreateRevision(at) => relation.holds(&meta.create_revision, &at),
        CompareTarget::ModRevision(at) => relation.holds(&meta.mod_revision, &at),
    }
}

/// Whether a compare holds for a range without keys.
fn holds_for_none(compare: &Compare<'_>) -> bool {
    let relation = compare.relation;
    match compare.target {
        CompareTarget::Value(_) => false,
        CompareTarget::Version(version) => relation.holds(&0, &version),
        CompareTarget::CreateRevision(at) | CompareTarget::ModRevision(at) => {
            relation.holds(&Revision::ZERO, &at)
        }
    }
}
