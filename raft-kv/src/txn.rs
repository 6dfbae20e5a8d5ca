//! Transactions: compares that choose one of two lists of operations, carried out at one revision.

use serde::{Deserialize, Serialize};

use crate::limits::{self, LimitError, MAX_TXN_OPERATIONS, TxnList};
use crate::operation::{KeyRange, RangeQuery, Revision};

/// Compares, and what to do if all of them hold or if one does not. Atomic: nobody sees a state
/// between its operations, and all of its changes have the same revision. A transaction that
/// changes nothing makes no revision.
///
/// Operations are carried out in order, and a later range sees what earlier ones have changed. A
/// list changes each key at most once, so their order matters for nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn<'a> {
    /// What must hold; no compare at all holds.
    pub compares: Vec<Compare<'a>>,
    /// Carried out if every compare holds.
    pub then: Vec<TxnOperation<'a>>,
    /// Carried out otherwise.
    pub otherwise: Vec<TxnOperation<'a>>,
}

/// A condition on one key, or on every key of a range.
///
/// As in etcd: of a range that holds no key, versions and revisions are compared as 0, and no
/// condition on a value holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compare<'a> {
    /// Which keys.
    pub range: KeyRange<'a>,
    /// How what the key has must relate to what the target says.
    pub relation: Relation,
    /// What is compared, and with what.
    pub target: CompareTarget<'a>,
}

/// How two things relate: the key's own stands on the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `>`
    Greater,
}

impl Relation {
    /// Whether `left` and `right` relate in this way.
    pub fn holds<T: Ord + ?Sized>(self, left: &T, right: &T) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::Less => left < right,
            Self::Greater => left > right,
        }
    }
}

/// What of a key is compared, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareTarget<'a> {
    /// The value, byte by byte.
    Value(&'a [u8]),
    /// How often the key was written since it was created.
    Version(u64),
    /// The revision that created it.
    CreateRevision(Revision),
    /// The revision that last wrote it.
    ModRevision(Revision),
}

/// Whether a write also returns what was there before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Previous {
    /// No.
    #[default]
    Omitted,
    /// The pairs that it replaced or removed.
    Returned,
}

/// One operation of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnOperation<'a> {
    /// Sets a key.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
        /// Whether to return the pair that it replaces.
        previous: Previous,
    },
    /// Removes all keys of a range.
    Delete {
        /// Which keys.
        range: KeyRange<'a>,
        /// Whether to return the pairs that it removes.
        previous: Previous,
    },
    /// Reads keys.
    Range(RangeQuery<'a>),
}

impl<'a> Txn<'a> {
    /// A transaction that always carries out one operation: how a single write gets the previous
    /// pairs.
    #[must_use]
    pub fn unconditional(operation: TxnOperation<'a>) -> Self {
        Self {
            compares: Vec::new(),
            then: vec![operation],
            otherwise: Vec::new(),
        }
    }

    /// Checks the number of operations, keys and values against the limits, and that no list
    /// changes a key twice.
    ///
    /// # Errors
    /// [`LimitError`].
    pub fn check(&self) -> Result<(), LimitError> {
        for (list, entries) in [
            (TxnList::Compares, self.compares.len()),
            (TxnList::Then, self.then.len()),
            (TxnList::Otherwise, self.otherwise.len()),
        ] {
            if entries > MAX_TXN_OPERATIONS {
                return Err(LimitError::TooManyOperations { list, entries });
            }
        }
        let mut bytes = 0;
        for compare in &self.compares {
            compare.check()?;
            bytes += compare.data_bytes();
        }
        for operation in self.then.iter().chain(&self.otherwise) {
            operation.check()?;
            bytes += operation.data_bytes();
        }
        limits::check_together(bytes)?;
        check_distinct(TxnList::Then, &self.then)?;
        check_distinct(TxnList::Otherwise, &self.otherwise)
    }
}

impl Compare<'_> {
    fn check(&self) -> Result<(), LimitError> {
        self.range.check()?;
        match self.target {
            CompareTarget::Value(value) => limits::check_value(value),
            CompareTarget::Version(_)
            | CompareTarget::CreateRevision(_)
            | CompareTarget::ModRevision(_) => Ok(()),
        }
    }

    fn data_bytes(&self) -> usize {
        let value = match self.target {
            CompareTarget::Value(value) => value.len(),
            CompareTarget::Version(_)
            | CompareTarget::CreateRevision(_)
            | CompareTarget::ModRevision(_) => 0,
        };
        self.range.data_bytes() + value
    }
}

impl TxnOperation<'_> {
    fn check(&self) -> Result<(), LimitError> {
        match self {
            Self::Put { key, value, .. } => {
                limits::check_key(key)?;
                limits::check_value(value)
            }
            Self::Delete { range, .. } => range.check(),
            Self::Range(query) => query.range.check(),
        }
    }

    fn data_bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete { range, .. } => range.data_bytes(),
            Self::Range(query) => query.range.data_bytes(),
        }
    }
}

/// Refuses a list that puts a key twice, or puts a key and deletes it, in whatever order.
fn check_distinct(list: TxnList, operations: &[TxnOperation<'_>]) -> Result<(), LimitError> {
    let duplicate = |key: &[u8]| {
        let key = key.to_vec();
        Err(LimitError::DuplicateKey { list, key })
    };
    let mut put: Vec<&[u8]> = operations.iter().filter_map(put_key).collect();
    put.sort_unstable();
    if let Some(pair) = put.windows(2).find(|pair| pair[0] == pair[1]) {
        return duplicate(pair[0]);
    }
    for operation in operations {
        let TxnOperation::Delete { range, .. } = operation else {
            continue;
        };
        // A range is contiguous: if it holds any of the keys, it holds the first from its start.
        let first = put.partition_point(|key| *key < range.start());
        if let Some(key) = put.get(first).filter(|key| range.contains(key)) {
            return duplicate(key);
        }
    }
    Ok(())
}

fn put_key<'a>(operation: &TxnOperation<'a>) -> Option<&'a [u8]> {
    match operation {
        TxnOperation::Put { key, .. } => Some(key),
        TxnOperation::Delete { .. } | TxnOperation::Range(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &[u8]) -> TxnOperation<'_> {
        TxnOperation::Put {
            key,
            value: b"v",
            previous: Previous::Omitted,
        }
    }

    fn delete(range: KeyRange<'_>) -> TxnOperation<'_> {
        TxnOperation::Delete {
            range,
            previous: Previous::Omitted,
        }
    }

    fn checked(then: Vec<TxnOperation<'_>>) -> Result<(), LimitError> {
        let mut txn = Txn {
            then,
            ..Txn::default()
        };
        let as_then = txn.check();
        std::mem::swap(&mut txn.then, &mut txn.otherwise);
        let as_otherwise = txn.check().map_err(|error| in_list(TxnList::Then, error));
        assert_eq!(as_otherwise, as_then, "both lists have the same limits");
        as_then
    }

    /// The same refusal of another list, which must be the other one.
    fn in_list(wanted: TxnList, error: LimitError) -> LimitError {
        match error {
            LimitError::DuplicateKey { list, key } => {
                assert_eq!(list, TxnList::Otherwise);
                LimitError::DuplicateKey { list: wanted, key }
            }
            LimitError::TooManyOperations { list, entries } => {
                assert_eq!(list, TxnList::Otherwise);
                LimitError::TooManyOperations {
                    list: wanted,
                    entries,
                }
            }
            other @ (LimitError::EmptyKey
            | LimitError::KeyTooLong(_)
            | LimitError::ValueTooLong(_)
            | LimitError::TooLongTogether(_)) => other,
        }
    }

    #[test]
    fn a_list_changes_a_key_once() {
        let twice = |key: &[u8]| {
            Err(LimitError::DuplicateKey {
                list: TxnList::Then,
                key: key.to_vec(),
            })
        };
        let interval = KeyRange::Interval {
            from: b"b",
            to: b"d",
        };
        assert_eq!(checked(vec![put(b"a"), put(b"b")]), Ok(()));
        assert_eq!(checked(vec![put(b"a"), put(b"b"), put(b"a")]), twice(b"a"));
        assert_eq!(checked(vec![put(b"c"), delete(interval)]), twice(b"c"));
        assert_eq!(checked(vec![delete(interval), put(b"b")]), twice(b"b"));
        assert_eq!(
            checked(vec![delete(interval), put(b"d"), put(b"a")]),
            Ok(())
        );
        assert_eq!(
            checked(vec![delete(KeyRange::From(b"c")), put(b"d")]),
            twice(b"d")
        );
        assert_eq!(
            checked(vec![delete(KeyRange::Prefix(b"d")), put(b"da")]),
            twice(b"da")
        );
        assert_eq!(checked(vec![delete(interval), delete(interval)]), Ok(()));
        let nothing = KeyRange::Interval {
            from: b"d",
            to: b"b",
        };
        assert_eq!(checked(vec![put(b"c"), delete(nothing), put(b"d")]), Ok(()));
        // The two lists never happen together.
        let both = Txn {
            then: vec![put(b"a")],
            otherwise: vec![put(b"a")],
            ..Txn::default()
        };
        assert_eq!(both.check(), Ok(()));
    }

    #[test]
    fn every_list_has_its_limit() {
        let keys: Vec<[u8; 1]> = (0..=MAX_TXN_OPERATIONS as u8).map(|n| [n]).collect();
        let mut puts: Vec<_> = keys.iter().map(|key| put(key)).collect();
        let too_many = |list| {
            let entries = MAX_TXN_OPERATIONS + 1;
            Err(LimitError::TooManyOperations { list, entries })
        };
        assert_eq!(checked(puts.clone()), too_many(TxnList::Then));
        puts.pop();
        assert_eq!(checked(puts), Ok(()));
        let compare = Compare {
            range: KeyRange::One(b"k"),
            relation: Relation::Equal,
            target: CompareTarget::Version(0),
        };
        let mut txn = Txn {
            compares: vec![compare; MAX_TXN_OPERATIONS + 1],
            ..Txn::default()
        };
        assert_eq!(txn.check(), too_many(TxnList::Compares));
        txn.compares.pop();
        assert_eq!(txn.check(), Ok(()));
    }

    #[test]
    fn keys_and_values_have_their_limits() {
        assert_eq!(checked(vec![put(b"")]), Err(LimitError::EmptyKey));
        let one = KeyRange::One(b"");
        assert_eq!(checked(vec![delete(one)]), Err(LimitError::EmptyKey));
        let read = TxnOperation::Range(RangeQuery::new(one));
        assert_eq!(checked(vec![read]), Err(LimitError::EmptyKey));
        let large = vec![0; limits::MAX_VALUE_BYTES];
        let put = |key| TxnOperation::Put {
            key,
            value: &large,
            previous: Previous::Omitted,
        };
        let bytes = 2 * (large.len() + 1);
        let refused = Err(LimitError::TooLongTogether(bytes));
        assert_eq!(checked(vec![put(b"a"), put(b"b")]), refused);
    }

    #[test]
    fn relations_mean_what_they_say() {
        let all = [
            Relation::Equal,
            Relation::NotEqual,
            Relation::Less,
            Relation::Greater,
        ];
        let holding = |left: u8, right: u8| all.map(|relation| relation.holds(&left, &right));
        assert_eq!(holding(1, 1), [true, false, false, false]);
        assert_eq!(holding(1, 2), [false, true, true, false]);
        assert_eq!(holding(2, 1), [false, true, false, true]);
    }
}
