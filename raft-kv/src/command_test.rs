//! Checked-in bytes of every command and query, and what becomes of damaged ones.

use proptest::prelude::*;

use super::*;
use crate::operation::SortBy;
use crate::txn::{Compare, CompareTarget, Previous, Relation, TxnOperation};

fn origin() -> Origin {
    Origin {
        session: SessionId(300),
        sequence: Sequence(5),
        acknowledged: Sequence(4),
    }
}

#[test]
fn commands_keep_their_bytes() {
    let one_shot = |operation| Command::Write {
        origin: None,
        operation,
    };
    let interval = KeyRange::Interval {
        from: b"a",
        to: b"b",
    };
    let swap = Operation::CompareAndSwap {
        key: b"k",
        expected: Expected::Value(b"old"),
        value: b"new!",
    };
    let put = Operation::Put {
        key: b"k",
        value: b"val",
    };
    let in_session = Command::Write {
        origin: Some(origin()),
        operation: put,
    };
    let cases: Vec<(Command<'_>, &[u8])> = vec![
        (one_shot(put), b"\x01\x00\x00\x00\x01k\x03val"),
        (
            in_session,
            b"\x01\x00\x01\xfb\x2c\x01\x05\x04\x00\x01k\x03val",
        ),
        (
            one_shot(Operation::Append {
                key: b"k",
                value: b"",
            }),
            b"\x01\x00\x00\x01\x01k\x00",
        ),
        (
            one_shot(Operation::Delete { range: interval }),
            b"\x01\x00\x00\x02\x01\x01a\x01b",
        ),
        (one_shot(swap), b"\x01\x00\x00\x03\x01k\x01\x03\x04oldnew!"),
        (
            one_shot(Operation::Compact {
                revision: Revision(300),
            }),
            b"\x01\x00\x00\x04\xfb\x2c\x01",
        ),
        (
            Command::Register {
                stamp: LeaderTime(9),
                ttl_ms: 250,
            },
            b"\x01\x01\x09\xfa",
        ),
        (
            Command::KeepAlive {
                stamp: LeaderTime(9),
                session: SessionId(2),
                acknowledged: Sequence(1),
            },
            b"\x01\x02\x09\x02\x01",
        ),
        (
            Command::Tick {
                stamp: LeaderTime(1),
            },
            b"\x01\x03\x01",
        ),
    ];
    for (command, expected) in cases {
        let bytes = command.encode().to_bytes();
        assert_eq!(&bytes[..], expected, "{command:?}");
        assert_eq!(Command::decode(&bytes), Ok(command));
    }
}

fn transaction() -> Txn<'static> {
    let compare = |range, relation, target| Compare {
        range,
        relation,
        target,
    };
    let (one, prefix) = (KeyRange::One(b"k"), KeyRange::Prefix(b"p"));
    Txn {
        compares: vec![
            compare(one, Relation::Equal, CompareTarget::Value(b"old")),
            compare(prefix, Relation::NotEqual, CompareTarget::Version(7)),
            compare(
                one,
                Relation::Less,
                CompareTarget::CreateRevision(Revision(8)),
            ),
            compare(
                one,
                Relation::Greater,
                CompareTarget::ModRevision(Revision(9)),
            ),
        ],
        then: vec![
            TxnOperation::Put {
                key: b"k",
                value: b"new!",
                previous: Previous::Returned,
            },
            TxnOperation::Delete {
                range: prefix,
                previous: Previous::Omitted,
            },
        ],
        otherwise: vec![
            TxnOperation::Range(RangeQuery::new(one)),
            TxnOperation::Put {
                key: b"l",
                value: b"?",
                previous: Previous::Omitted,
            },
        ],
    }
}

#[test]
fn transactions_keep_their_bytes() {
    let command = Command::Txn {
        origin: Some(origin()),
        txn: transaction(),
    };
    let bytes = command.encode().to_bytes();
    let expected = b"\x01\x04\x01\xfb\x2c\x01\x05\x04\
        \x04\
        \x00\x01k\x00\x00\x03\
        \x03\x01p\x01\x01\x07\
        \x00\x01k\x02\x02\x08\
        \x00\x01k\x03\x03\x09\
        \x02\
        \x00\x01k\x04\x01\
        \x01\x03\x01p\x00\
        \x02\
        \x02\x00\x01k\x00\x00\x00\x00\x00\
        \x00\x01l\x01\x00\
        oldnew!?";
    assert_eq!(&bytes[..], expected);
    assert_eq!(Command::decode(&bytes), Ok(command));
    for cut in 0..bytes.len() {
        assert!(Command::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_list_far_beyond_the_limit_is_not_even_read() {
    let limit = crate::limits::MAX_TXN_OPERATIONS;
    let read = TxnOperation::Range(RangeQuery::new(KeyRange::One(b"k")));
    for (length, is_read) in [(limit + 1, true), (8 * limit, true), (8 * limit + 1, false)] {
        let txn = Txn {
            then: vec![read; length],
            ..Txn::default()
        };
        let bytes = Command::Txn { origin: None, txn }.encode().to_bytes();
        assert_eq!(Command::decode(&bytes).is_ok(), is_read, "{length}");
    }
}

#[test]
fn queries_keep_their_bytes() {
    let range = Query::Range(RangeQuery {
        range: KeyRange::Prefix(b"ab"),
        limit: 3,
        revision: Revision(4),
        order: Order::Descending,
        select: Select::KeysOnly,
        sort_by: SortBy::Value,
    });
    let cases: [(Query<'_>, &[u8]); 2] = [
        (range, b"\x01\x00\x03\x02ab\x03\x04\x01\x01\x04"),
        (Query::Status, b"\x01\x01"),
    ];
    for (query, expected) in cases {
        let bytes = query.to_bytes();
        assert_eq!(&bytes[..], expected);
        assert_eq!(Query::decode(&bytes), Ok(query));
    }
}

#[test]
fn values_are_not_copied_by_reading() {
    let put = Operation::Put {
        key: b"key",
        value: b"value",
    };
    let command = Command::Write {
        origin: None,
        operation: put,
    };
    let bytes = command.encode().to_bytes();
    let Ok(Command::Write {
        operation: Operation::Put { value, .. },
        ..
    }) = Command::decode(&bytes)
    else {
        panic!("not a put");
    };
    assert!(std::ptr::eq(value, &bytes[bytes.len() - 5..]));
}

#[test]
fn damaged_commands_are_refused() {
    let swap = Operation::CompareAndSwap {
        key: b"k",
        expected: Expected::Value(b"old"),
        value: b"new",
    };
    let bytes = Command::Write {
        origin: Some(origin()),
        operation: swap,
    }
    .encode()
    .to_bytes();
    for cut in 0..bytes.len() {
        assert!(Command::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(matches!(
        Command::decode(&longer),
        Err(DecodeError::PayloadLength { present: 1, .. })
    ));
    longer[0] = 2;
    assert!(matches!(
        Command::decode(&longer),
        Err(DecodeError::UnsupportedVersion { found: 2, .. })
    ));
}

/// Bytes that look like a message for a while: its version and some small numbers.
fn almost_a_message() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => 0..5u8, 1 => any::<u8>()];
    proptest::collection::vec(byte, 0..40).prop_map(|mut bytes| {
        bytes.insert(0, 1);
        bytes
    })
}

proptest! {
    /// Whatever arrives is read or refused, and what is read means the same when written again.
    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes in almost_a_message()) {
        if let Ok(command) = Command::decode(&bytes) {
            let again = command.encode().to_bytes();
            prop_assert_eq!(Command::decode(&again), Ok(command));
            prop_assert!(again.len() <= bytes.len());
        }
        if let Ok(query) = Query::decode(&bytes) {
            let again = query.to_bytes();
            prop_assert_eq!(Query::decode(&again), Ok(query));
        }
        let bytes = bytes::Bytes::from(bytes);
        // Reading must end without a panic; what comes out is of no account.
        let _ = crate::reply::Reply::from_bytes(&bytes);
        let _ = crate::protocol::from_body::<crate::protocol::NodeStatus>(&bytes);
        let _ = crate::protocol::from_body::<crate::protocol::ServerRefusal>(&bytes);
        let _ = crate::protocol::from_body::<crate::protocol::Redirect>(&bytes);
    }

    /// A command whose bytes were changed in one place is read as something, or refused; never
    /// with parts that lie outside of it.
    #[test]
    fn a_changed_byte_is_survived(at in 0..16usize, to in any::<u8>()) {
        let put = Operation::Put { key: b"key", value: b"value" };
        let command = Command::Write { origin: Some(origin()), operation: put };
        let mut bytes = command.encode().to_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] = to;
        if let Ok(Command::Write { operation: Operation::Put { key, value }, .. }) =
            Command::decode(&bytes)
        {
            prop_assert!(key.len() + value.len() < bytes.len());
        }
    }
}
