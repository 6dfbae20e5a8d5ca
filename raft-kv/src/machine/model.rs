//! A naive store for tests: a whole map for every revision, and nothing clever.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;

use crate::operation::{
    Expected, KeyRange, Operation, Order, RangeQuery, Revision, Select, SortBy,
};
use crate::reply::{
    Branch, KeyValue, OperationResult, Outcome, RangeReply, Refusal, TxnReply, WriteReply,
};
use crate::store::Retention;
use crate::txn::{Compare, CompareTarget, Previous, Relation, Txn, TxnOperation};

type Map = BTreeMap<Vec<u8>, KeyValue>;

#[derive(Clone)]
pub(super) struct Model {
    /// One map per revision; the first is that of [`Revision::FIRST`].
    maps: Vec<Map>,
    pub(super) oldest: u64,
    retention: Retention,
    /// Every version ever superseded: when, and its bytes.
    superseded: Vec<(u64, u64)>,
}

impl Model {
    pub(super) fn new(retention: Retention) -> Self {
        Self {
            maps: vec![Map::new()],
            oldest: 1,
            retention,
            superseded: vec![],
        }
    }

    pub(super) fn revision(&self) -> Revision {
        Revision(self.maps.len() as u64)
    }

    pub(super) fn latest(&self) -> &Map {
        self.maps.last().expect("the first is always there")
    }

    pub(super) fn apply(&mut self, operation: &Operation<'_>) -> Result<WriteReply, Refusal> {
        let found = |key: &[u8]| self.latest().get(key).cloned();
        let outcome = match *operation {
            Operation::Put { key, value } => self.set(key, value),
            Operation::Append { key, value } => {
                let mut whole = found(key).map_or(vec![], |kv| kv.value.to_vec());
                whole.extend_from_slice(value);
                self.set(key, &whole)
            }
            Operation::Delete { range } => {
                let mut map = self.latest().clone();
                map.retain(|key, _| !range.contains(key));
                let keys = (self.latest().len() - map.len()) as u64;
                if keys > 0 {
                    self.push(map);
                }
                Outcome::Deleted { keys }
            }
            Operation::CompareAndSwap {
                key,
                expected,
                value,
            } => {
                let holds = match (expected, found(key)) {
                    (Expected::Absent, found) => found.is_none(),
                    (Expected::Value(old), Some(found)) => found.value == old,
                    (Expected::ModRevision(old), Some(found)) => found.mod_revision == old,
                    (Expected::Value(_) | Expected::ModRevision(_), None) => false,
                };
                if holds {
                    self.set(key, value)
                } else {
                    Outcome::Different
                }
            }
            Operation::Compact { revision } => {
                if revision == Revision::ZERO {
                    let oldest = Revision(self.oldest);
                    let asked = revision;
                    return Err(Refusal::Compacted { asked, oldest });
                }
                self.check_revision(revision)?;
                self.oldest = revision.0;
                Outcome::Compacted
            }
        };
        Ok(WriteReply {
            revision: self.revision(),
            outcome,
        })
    }

    pub(super) fn transact(&mut self, txn: &Txn<'_>) -> Result<TxnReply, Refusal> {
        if conflicts(&txn.then) || conflicts(&txn.otherwise) {
            return Err(Refusal::Malformed);
        }
        let (branch, operations) = match txn.compares.iter().all(|compare| self.holds(compare)) {
            true => (Branch::Then, &txn.then),
            false => (Branch::Otherwise, &txn.otherwise),
        };
        for operation in operations {
            if let TxnOperation::Range(query) = operation {
                self.check_revision(query.revision)?;
            }
        }
        let mut map = self.latest().clone();
        let (mut now, next) = (self.revision(), self.revision().next());
        let mut results = vec![];
        for operation in operations {
            results.push(match operation {
                TxnOperation::Put {
                    key,
                    value,
                    previous,
                } => {
                    now = next;
                    let before = map.insert(key.to_vec(), written(&map, next, key, value));
                    let asked = *previous == Previous::Returned;
                    let previous = before.filter(|_| asked);
                    OperationResult::Put { previous }
                }
                TxnOperation::Delete { range, previous } => {
                    let removed: Vec<KeyValue> = inside(&map, range);
                    map.retain(|key, _| !range.contains(key));
                    now = if removed.is_empty() { now } else { next };
                    let keys = removed.len() as u64;
                    let previous = match previous {
                        Previous::Omitted => vec![],
                        Previous::Returned => removed,
                    };
                    OperationResult::Deleted { keys, previous }
                }
                TxnOperation::Range(query) => {
                    let map = match query.revision {
                        Revision::ZERO => &map,
                        Revision(at) => &self.maps[at as usize - 1],
                    };
                    OperationResult::Range(read(map, query, now))
                }
            });
        }
        if now == next {
            self.push(map);
        }
        Ok(TxnReply {
            revision: now,
            branch,
            results,
        })
    }

    pub(super) fn range(&self, query: &RangeQuery<'_>) -> Result<RangeReply, Refusal> {
        self.check_revision(query.revision)?;
        let map = match query.revision {
            Revision::ZERO => self.latest(),
            Revision(at) => &self.maps[at as usize - 1],
        };
        Ok(read(map, query, self.revision()))
    }

    fn check_revision(&self, asked: Revision) -> Result<(), Refusal> {
        let (current, oldest) = (self.revision(), Revision(self.oldest));
        if asked > current {
            return Err(Refusal::FutureRevision { asked, current });
        }
        if asked != Revision::ZERO && asked < oldest {
            return Err(Refusal::Compacted { asked, oldest });
        }
        Ok(())
    }

    fn holds(&self, compare: &Compare<'_>) -> bool {
        let found = inside(self.latest(), &compare.range);
        let relates = |ordering: Ordering| match compare.relation {
            Relation::Equal => ordering.is_eq(),
            Relation::NotEqual => ordering.is_ne(),
            Relation::Less => ordering.is_lt(),
            Relation::Greater => ordering.is_gt(),
        };
        let relates_to = |version: u64, create: u64, modified: u64, value: &[u8]| {
            relates(match compare.target {
                CompareTarget::Value(other) => value.cmp(other),
                CompareTarget::Version(other) => version.cmp(&other),
                CompareTarget::CreateRevision(other) => create.cmp(&other.0),
                CompareTarget::ModRevision(other) => modified.cmp(&other.0),
            })
        };
        if found.is_empty() {
            let is_value = matches!(compare.target, CompareTarget::Value(_));
            return !is_value && relates_to(0, 0, 0, b"");
        }
        found.iter().all(|kv| {
            relates_to(
                kv.version,
                kv.create_revision.0,
                kv.mod_revision.0,
                &kv.value,
            )
        })
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Outcome {
        let mut map = self.latest().clone();
        map.insert(
            key.to_vec(),
            written(self.latest(), self.revision().next(), key, value),
        );
        self.push(map);
        Outcome::Written
    }

    /// Adds a revision, and compacts to the smallest one from which on the retention is respected.
    fn push(&mut self, map: Map) {
        let until = self.revision().next().0;
        let changed = self.latest().iter();
        let changed = changed.filter(|(key, old)| map.get(*key) != Some(old));
        let bytes = changed.map(|(_, old)| (until, (old.key.len() + old.value.len()) as u64));
        let changed: Vec<(u64, u64)> = bytes.collect();
        self.superseded.extend(changed);
        self.maps.push(map);
        let is_respected = |oldest: u64| {
            let kept = self.superseded.iter().filter(|(until, _)| *until > oldest);
            let (count, bytes) = kept.fold((0, 0), |sum, (_, bytes)| (sum.0 + 1, sum.1 + bytes));
            count <= self.retention.versions_max && bytes <= self.retention.bytes_max
        };
        let oldest = (self.oldest..=until).find(|oldest| is_respected(*oldest));
        self.oldest = oldest.expect("nothing at all respects it");
    }
}

fn written(map: &Map, next: Revision, key: &[u8], value: &[u8]) -> KeyValue {
    let before = map.get(key);
    KeyValue {
        key: Bytes::copy_from_slice(key),
        value: Bytes::copy_from_slice(value),
        create_revision: before.map_or(next, |kv| kv.create_revision),
        mod_revision: next,
        version: before.map_or(1, |kv| kv.version + 1),
    }
}

fn inside(map: &Map, range: &KeyRange<'_>) -> Vec<KeyValue> {
    let inside = map.values().filter(|kv| range.contains(&kv.key));
    inside.cloned().collect()
}

fn read(map: &Map, query: &RangeQuery<'_>, revision: Revision) -> RangeReply {
    let mut pairs = inside(map, &query.range);
    pairs.sort_by(|left, right| {
        let ordering = match query.sort_by {
            SortBy::Key => left.key.cmp(&right.key),
            SortBy::CreateRevision => left.create_revision.cmp(&right.create_revision),
            SortBy::ModRevision => left.mod_revision.cmp(&right.mod_revision),
            SortBy::Version => left.version.cmp(&right.version),
            SortBy::Value => left.value.cmp(&right.value),
        };
        match query.order {
            Order::Ascending => ordering,
            Order::Descending => ordering.reverse(),
        }
    });
    let count = pairs.len() as u64;
    if query.limit > 0 {
        pairs.truncate(query.limit as usize);
    }
    match query.select {
        Select::Pairs => {}
        Select::KeysOnly => pairs.iter_mut().for_each(|kv| kv.value = Bytes::new()),
        Select::CountOnly => pairs.clear(),
    }
    RangeReply {
        revision,
        count,
        more: query.select != Select::CountOnly && (pairs.len() as u64) < count,
        pairs,
    }
}

/// Whether a key is put twice, or put and deleted.
fn conflicts(operations: &[TxnOperation<'_>]) -> bool {
    operations.iter().enumerate().any(|(at, operation)| {
        let TxnOperation::Put { key, .. } = operation else {
            return false;
        };
        let others = operations.iter().enumerate().filter(|(o, _)| *o != at);
        let mut others = others.map(|(_, other)| other);
        others.any(|other| match other {
            TxnOperation::Put { key: other, .. } => key == other,
            TxnOperation::Delete { range, .. } => range.contains(key),
            TxnOperation::Range(_) => false,
        })
    })
}
