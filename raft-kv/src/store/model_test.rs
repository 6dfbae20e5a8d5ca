//! The store against a naive one that keeps a whole map for every revision.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Retention, Store};
use crate::operation::{
    Expected, KeyRange, Operation, Order, RangeQuery, Revision, Select, SortBy,
};
use crate::reply::{KeyValue, Outcome, RangeReply, Refusal, WriteReply};

/// One map per revision; the first is that of [`Revision::FIRST`].
struct Model {
    maps: Vec<BTreeMap<Vec<u8>, KeyValue>>,
    oldest: u64,
}

impl Model {
    fn new() -> Self {
        Self {
            maps: vec![BTreeMap::new()],
            oldest: 1,
        }
    }

    fn revision(&self) -> Revision {
        Revision(self.maps.len() as u64)
    }

    fn latest(&self) -> &BTreeMap<Vec<u8>, KeyValue> {
        self.maps.last().unwrap()
    }

    fn apply(&mut self, operation: &Operation<'_>) -> WriteReply {
        let outcome = match *operation {
            Operation::Put { key, value } => self.set(key, value),
            Operation::Append { key, value } => {
                let mut whole = self
                    .latest()
                    .get(key)
                    .map_or(vec![], |kv| kv.value.to_vec());
                whole.extend_from_slice(value);
                self.set(key, &whole)
            }
            Operation::Delete { range } => {
                let mut map = self.latest().clone();
                map.retain(|key, _| !range.contains(key));
                let keys = (self.latest().len() - map.len()) as u64;
                if keys > 0 {
                    self.maps.push(map);
                }
                Outcome::Deleted { keys }
            }
            Operation::CompareAndSwap {
                key,
                expected,
                value,
            } => {
                let holds = match (expected, self.latest().get(key)) {
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
            Operation::Compact { .. } => panic!("histories compact by steps of their own"),
        };
        WriteReply {
            revision: self.revision(),
            outcome,
        }
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Outcome {
        let next = self.revision().next();
        let mut map = self.latest().clone();
        let before = map.get(key);
        let written = KeyValue {
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(value),
            create_revision: before.map_or(next, |kv| kv.create_revision),
            mod_revision: next,
            version: before.map_or(1, |kv| kv.version + 1),
        };
        map.insert(key.to_vec(), written);
        self.maps.push(map);
        Outcome::Written
    }

    fn range(&self, query: &RangeQuery<'_>) -> Result<RangeReply, Refusal> {
        let current = self.revision();
        let (asked, oldest) = (query.revision, Revision(self.oldest));
        if asked > current {
            return Err(Refusal::FutureRevision { asked, current });
        }
        if asked != Revision::ZERO && asked < oldest {
            return Err(Refusal::Compacted { asked, oldest });
        }
        let at = if asked == Revision::ZERO {
            current
        } else {
            asked
        };
        let map = &self.maps[at.0 as usize - 1];
        let inside = map.values().filter(|kv| query.range.contains(&kv.key));
        let mut pairs: Vec<KeyValue> = inside.cloned().collect();
        if query.order == Order::Descending {
            pairs.reverse();
        }
        let count = pairs.len() as u64;
        if query.limit > 0 {
            pairs.truncate(query.limit as usize);
        }
        if query.select == Select::CountOnly {
            pairs.clear();
        }
        if query.select == Select::KeysOnly {
            pairs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        Ok(RangeReply {
            revision: current,
            count,
            more: query.select != Select::CountOnly && (pairs.len() as u64) < count,
            pairs,
        })
    }
}

#[derive(Clone, Debug)]
enum Range {
    One(Vec<u8>),
    Interval(Vec<u8>, Vec<u8>),
    From(Vec<u8>),
    Prefix(Vec<u8>),
}

impl Range {
    fn borrowed(&self) -> KeyRange<'_> {
        match self {
            Self::One(key) => KeyRange::One(key),
            Self::Interval(from, to) => KeyRange::Interval { from, to },
            Self::From(key) => KeyRange::From(key),
            Self::Prefix(key) => KeyRange::Prefix(key),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>, Vec<u8>),
    Append(Vec<u8>, Vec<u8>),
    Delete(Range),
    SwapAbsent(Vec<u8>, Vec<u8>),
    SwapValue(Vec<u8>, Vec<u8>, Vec<u8>),
    /// The modification revision lies this far back.
    SwapRevision(Vec<u8>, u64, Vec<u8>),
    /// Read at the revision this far back; one more than there are is the future.
    Read(Range, u64, u64, bool, u8),
    /// Compact to the revision this far back.
    Compact(u64),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(b'a'), Just(b'b'), Just(0xff)];
    proptest::collection::vec(byte, 1..4)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(b'x'), Just(b'y')];
    proptest::collection::vec(byte, 0..3)
}

fn range() -> impl Strategy<Value = Range> {
    let prefix = proptest::collection::vec(prop_oneof![Just(b'a'), Just(0xff)], 0..3);
    prop_oneof![
        key().prop_map(Range::One),
        (key(), key()).prop_map(|(from, to)| Range::Interval(from, to)),
        key().prop_map(Range::From),
        prefix.prop_map(Range::Prefix),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (key(), value()).prop_map(|(k, v)| Step::Put(k, v)),
        3 => (key(), value()).prop_map(|(k, v)| Step::Append(k, v)),
        3 => range().prop_map(Step::Delete),
        1 => (key(), value()).prop_map(|(k, v)| Step::SwapAbsent(k, v)),
        2 => (key(), value(), value()).prop_map(|(k, o, v)| Step::SwapValue(k, o, v)),
        2 => (key(), 0..6u64, value()).prop_map(|(k, n, v)| Step::SwapRevision(k, n, v)),
        9 => (range(), 0..30u64, 0..4u64, any::<bool>(), 0..3u8)
            .prop_map(|(r, back, limit, down, select)| Step::Read(r, back, limit, down, select)),
        1 => (0..20u64).prop_map(Step::Compact),
    ]
}

fn operation<'a>(step: &'a Step, revision: Revision) -> Option<Operation<'a>> {
    Some(match step {
        Step::Put(key, value) => Operation::Put { key, value },
        Step::Append(key, value) => Operation::Append { key, value },
        Step::Delete(range) => Operation::Delete {
            range: range.borrowed(),
        },
        Step::SwapAbsent(key, value) => Operation::CompareAndSwap {
            key,
            expected: Expected::Absent,
            value,
        },
        Step::SwapValue(key, old, value) => Operation::CompareAndSwap {
            key,
            expected: Expected::Value(old),
            value,
        },
        Step::SwapRevision(key, back, value) => Operation::CompareAndSwap {
            key,
            expected: Expected::ModRevision(Revision(revision.0.saturating_sub(*back))),
            value,
        },
        Step::Read(..) | Step::Compact(_) => return None,
    })
}

fn check(store: &mut Store, model: &mut Model, step: &Step) -> Result<(), TestCaseError> {
    if let Some(operation) = operation(step, model.revision()) {
        let expected = model.apply(&operation);
        prop_assert_eq!(store.apply(&operation), Ok(expected));
    }
    match step {
        Step::Read(range, back, limit, down, select) => {
            let query = RangeQuery {
                range: range.borrowed(),
                limit: *limit,
                revision: Revision((model.revision().0 + 1).saturating_sub(*back)),
                order: [Order::Ascending, Order::Descending][usize::from(*down)],
                select: [Select::Pairs, Select::KeysOnly, Select::CountOnly][*select as usize],
                sort_by: SortBy::Key,
            };
            prop_assert_eq!(store.range(&query), model.range(&query), "{:?}", query);
        }
        Step::Compact(back) => {
            let oldest = model.revision().0.saturating_sub(*back);
            let compacted = store.compact(Revision(oldest)).is_ok();
            prop_assert_eq!(compacted, oldest >= model.oldest);
            model.oldest = model.oldest.max(oldest);
        }
        Step::Put(..)
        | Step::Append(..)
        | Step::Delete(_)
        | Step::SwapAbsent(..)
        | Step::SwapValue(..)
        | Step::SwapRevision(..) => {}
    }
    prop_assert_eq!(store.hash(), store.recompute_hash());
    let pairs = model.latest().values();
    let bytes: usize = pairs.map(|kv| kv.key.len() + kv.value.len()).sum();
    prop_assert_eq!(store.data_bytes(), bytes as u64);
    prop_assert_eq!(store.key_count(), model.latest().len() as u64);
    Ok(())
}

proptest! {
    #[test]
    fn the_store_agrees_with_a_naive_one(steps in proptest::collection::vec(step(), 1..150)) {
        let mut store = Store::new(Retention::ALL);
        let mut model = Model::new();
        for step in &steps {
            check(&mut store, &mut model, step)?;
        }
        store.compact(model.revision()).unwrap();
        prop_assert_eq!(store.history.len(), 0);
    }

    /// With bounded history, reads are right or refused, and whatever is not refused is complete.
    #[test]
    fn bounded_history_refuses_rather_than_lies(
        steps in proptest::collection::vec(step(), 1..150),
        versions_max in 0..8usize,
    ) {
        let mut store = Store::new(Retention { versions_max, bytes_max: 40 });
        let mut model = Model::new();
        for step in steps.iter().filter(|step| !matches!(step, Step::Compact(_))) {
            if let Some(operation) = operation(step, model.revision()) {
                store.apply(&operation).unwrap();
                model.apply(&operation);
                model.oldest = store.oldest_revision().0;
                prop_assert!(store.history.len() <= versions_max);
            }
            check(&mut store, &mut model, &Step::Read(Range::Prefix(vec![]), 3, 0, false, 0))?;
            if matches!(step, Step::Read(..)) {
                check(&mut store, &mut model, step)?;
            }
        }
    }

    /// Equal contents have equal hashes; any difference shows.
    #[test]
    fn the_hash_tells_states_apart(
        one in proptest::collection::vec(step(), 0..30),
        two in proptest::collection::vec(step(), 0..30),
    ) {
        let run = |steps: &[Step]| {
            let mut store = Store::new(Retention::default());
            for step in steps {
                if let Some(operation) = operation(step, store.revision()) {
                    store.apply(&operation).unwrap();
                }
            }
            let all = store.range(&RangeQuery::new(KeyRange::Prefix(b""))).unwrap();
            (store.hash(), all)
        };
        let ((hash_one, all_one), (hash_two, all_two)) = (run(&one), run(&two));
        prop_assert_eq!(all_one == all_two, hash_one == hash_two);
    }
}

#[test]
fn a_reply_holds_a_bounded_number_of_bytes_and_at_least_one_pair() {
    let mut store = Store::new(Retention::ALL);
    let large = vec![7; crate::limits::MAX_VALUE_BYTES];
    for key in [b"a", b"b", b"c"] {
        store.apply(&Operation::Put { key, value: &large }).unwrap();
    }
    let found = store
        .range(&RangeQuery::new(KeyRange::Prefix(b"")))
        .unwrap();
    assert_eq!((found.count, found.more, found.pairs.len()), (3, true, 1));
    let next = KeyRange::From(b"b");
    assert_eq!(
        &store.range(&RangeQuery::new(next)).unwrap().pairs[0].key[..],
        b"b"
    );
}

#[test]
fn an_append_beyond_the_limit_changes_nothing() {
    let mut store = Store::new(Retention::ALL);
    let value = vec![7; crate::limits::MAX_VALUE_BYTES];
    store
        .apply(&Operation::Put {
            key: b"k",
            value: &value,
        })
        .unwrap();
    let (hash, revision) = (store.hash(), store.revision());
    let refused = store.apply(&Operation::Append {
        key: b"k",
        value: b"x",
    });
    let bytes = value.len() as u64 + 1;
    assert_eq!(refused, Err(Refusal::ValueTooLong { bytes }));
    assert_eq!((store.hash(), store.revision()), (hash, revision));
}
