//! Limits of replies and values, and the hash. What the store does is compared with a naive one by
//! the machine's model test.

use proptest::prelude::*;

use super::*;
use crate::limits::MAX_VALUE_BYTES;
use crate::operation::{KeyRange, Operation};
use crate::txn::{Previous, Txn, TxnOperation};

fn put(store: &mut Store, key: &[u8], value: &[u8]) {
    store.apply(&Operation::Put { key, value }).unwrap();
}

proptest! {
    /// Equal contents have equal hashes; any difference shows.
    #[test]
    fn the_hash_tells_states_apart(
        one in proptest::collection::vec((0..3u8, 0..3u8), 0..6),
        two in proptest::collection::vec((0..3u8, 0..3u8), 0..6),
    ) {
        let run = |steps: &[(u8, u8)]| {
            let mut store = Store::new(Retention::default());
            for (key, value) in steps {
                match value {
                    0 => drop(store.apply(&Operation::Delete { range: KeyRange::One(&[*key]) })),
                    value => put(&mut store, &[*key], &[*value]),
                }
            }
            let mut all = vec![];
            for revision in 1..=store.revision().0 {
                let mut query = RangeQuery::new(KeyRange::Prefix(b""));
                query.revision = Revision(revision);
                all.push(store.range(&query).unwrap());
            }
            (store.hash(), all)
        };
        let ((hash_one, all_one), (hash_two, all_two)) = (run(&one), run(&two));
        prop_assert_eq!(all_one == all_two, hash_one == hash_two);
    }
}

#[test]
fn a_reply_holds_a_bounded_number_of_bytes_and_at_least_one_pair() {
    let mut store = Store::new(Retention::ALL);
    let large = vec![7; MAX_VALUE_BYTES];
    for key in [b"a", b"b", b"c"] {
        put(&mut store, key, &large);
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
fn a_transaction_shares_one_reply() {
    let mut store = Store::new(Retention::ALL);
    let large = vec![7; MAX_VALUE_BYTES];
    for key in [b"a", b"b", b"c"] {
        put(&mut store, key, &large);
    }
    let hash = store.hash();
    let delete = |range| TxnOperation::Delete {
        range,
        previous: Previous::Returned,
    };
    // Previous pairs cannot be cut short, for they are gone afterwards.
    let all = delete(KeyRange::Prefix(b""));
    let refused = store.transact(&Txn::unconditional(all));
    assert!(matches!(refused, Err(Refusal::PreviousTooLong { bytes }) if bytes > 24 << 20));
    assert_eq!(store.hash(), hash);
    // Ranges get what is left, which is too little for a pair.
    let then = vec![
        delete(KeyRange::One(b"a")),
        TxnOperation::Range(RangeQuery::new(KeyRange::Prefix(b""))),
    ];
    let txn = Txn {
        then,
        ..Txn::default()
    };
    let reply = store.transact(&txn).unwrap();
    let [_, crate::reply::OperationResult::Range(found)] = &reply.results[..] else {
        panic!("two results");
    };
    assert_eq!((found.count, found.more, found.pairs.len()), (2, true, 0));
}

#[test]
fn an_append_beyond_the_limit_changes_nothing() {
    let mut store = Store::new(Retention::ALL);
    let value = vec![7; MAX_VALUE_BYTES];
    put(&mut store, b"k", &value);
    let (hash, revision) = (store.hash(), store.revision());
    let refused = store.apply(&Operation::Append {
        key: b"k",
        value: b"x",
    });
    let bytes = value.len() as u64 + 1;
    assert_eq!(refused, Err(Refusal::ValueTooLong { bytes }));
    assert_eq!((store.hash(), store.revision()), (hash, revision));
}

#[test]
fn a_read_of_the_past_follows_the_key_and_not_the_history() {
    // With a scan this would take 200,000 times 200,000 steps.
    let mut store = Store::new(Retention::ALL);
    put(&mut store, b"old", b"1");
    let then = store.revision();
    put(&mut store, b"old", b"2");
    for n in 0..200_000_u32 {
        put(&mut store, b"busy", &n.to_le_bytes());
    }
    let mut query = RangeQuery::new(KeyRange::One(b"old"));
    query.revision = then;
    for _ in 0..200_000 {
        assert_eq!(store.range_ref(&query).unwrap().pairs[0].value.0, b"1");
    }
}
