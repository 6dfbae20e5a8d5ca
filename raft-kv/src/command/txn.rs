//! A transaction as it is serialised: without its values, which lie behind the head.

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Order, RangeHead, RangeQuery, Revision, Select, Values, key_range, range_head};
use crate::codec::{DecodeError, Slice};
use crate::limits::MAX_TXN_OPERATIONS;
use crate::operation::SortBy;
use crate::txn::{Compare, CompareTarget, Previous, Relation, Txn, TxnOperation};

/// Most elements of a list that are read at all. A little too many are read, and refused with the
/// limit in the message; this bound only keeps a crafted message from taking memory.
const MAX_LIST: usize = 8 * MAX_TXN_OPERATIONS;

/// A list of bounded length.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct List<T>(Vec<T>);

#[derive(Serialize, Deserialize)]
pub(super) struct TxnHead<'a> {
    #[serde(borrow)]
    compares: List<CompareHead<'a>>,
    #[serde(borrow)]
    then: List<TxnOperationHead<'a>>,
    #[serde(borrow)]
    otherwise: List<TxnOperationHead<'a>>,
}

#[derive(Serialize, Deserialize)]
struct CompareHead<'a> {
    #[serde(borrow)]
    range: RangeHead<'a>,
    relation: Relation,
    target: TargetHead,
}

#[derive(Serialize, Deserialize)]
enum TargetHead {
    Value { bytes: u32 },
    Version(u64),
    CreateRevision(Revision),
    ModRevision(Revision),
}

#[derive(Serialize, Deserialize)]
enum TxnOperationHead<'a> {
    Put {
        #[serde(borrow)]
        key: Slice<'a>,
        value_bytes: u32,
        previous: Previous,
    },
    Delete {
        #[serde(borrow)]
        range: RangeHead<'a>,
        previous: Previous,
    },
    Range(#[serde(borrow)] RangeQueryHead<'a>),
}

/// A range query, also as it stands alone.
#[derive(Serialize, Deserialize)]
pub(super) struct RangeQueryHead<'a> {
    #[serde(borrow)]
    range: RangeHead<'a>,
    limit: u64,
    revision: Revision,
    order: Order,
    select: Select,
    sort_by: SortBy,
}

impl<'a> RangeQueryHead<'a> {
    pub(super) fn of(query: &RangeQuery<'a>) -> Self {
        Self {
            range: range_head(&query.range),
            limit: query.limit,
            revision: query.revision,
            order: query.order,
            select: query.select,
            sort_by: query.sort_by,
        }
    }

    pub(super) fn query(self) -> RangeQuery<'a> {
        RangeQuery {
            range: key_range(self.range),
            limit: self.limit,
            revision: self.revision,
            order: self.order,
            select: self.select,
            sort_by: self.sort_by,
        }
    }
}

/// The head, and the values in the order in which they follow it.
pub(super) fn split<'a>(txn: &Txn<'a>) -> (TxnHead<'a>, Vec<&'a [u8]>) {
    let mut values = Vec::new();
    let compares = txn.compares.iter().map(|compare| CompareHead {
        range: range_head(&compare.range),
        relation: compare.relation,
        target: match compare.target {
            CompareTarget::Value(value) => {
                values.push(value);
                let bytes = value.len() as u32;
                TargetHead::Value { bytes }
            }
            CompareTarget::Version(version) => TargetHead::Version(version),
            CompareTarget::CreateRevision(revision) => TargetHead::CreateRevision(revision),
            CompareTarget::ModRevision(revision) => TargetHead::ModRevision(revision),
        },
    });
    let compares = List(compares.collect());
    let then = split_operations(&txn.then, &mut values);
    let otherwise = split_operations(&txn.otherwise, &mut values);
    let head = TxnHead {
        compares,
        then,
        otherwise,
    };
    (head, values)
}

fn split_operations<'a>(
    operations: &[TxnOperation<'a>],
    values: &mut Vec<&'a [u8]>,
) -> List<TxnOperationHead<'a>> {
    let heads = operations.iter().map(|operation| match *operation {
        TxnOperation::Put {
            key,
            value,
            previous,
        } => {
            values.push(value);
            TxnOperationHead::Put {
                key: Slice(key),
                // Values are bounded by the limits, far below 4 GiB.
                value_bytes: value.len() as u32,
                previous,
            }
        }
        TxnOperation::Delete { range, previous } => TxnOperationHead::Delete {
            range: range_head(&range),
            previous,
        },
        TxnOperation::Range(query) => TxnOperationHead::Range(RangeQueryHead::of(&query)),
    });
    List(heads.collect())
}

/// Puts a head and the values behind it together.
pub(super) fn join<'a>(head: TxnHead<'a>, values: &mut Values<'a>) -> Result<Txn<'a>, DecodeError> {
    let compares = head.compares.0.into_iter().map(|compare| {
        Ok(Compare {
            range: key_range(compare.range),
            relation: compare.relation,
            target: match compare.target {
                TargetHead::Value { bytes } => CompareTarget::Value(values.take(bytes)?),
                TargetHead::Version(version) => CompareTarget::Version(version),
                TargetHead::CreateRevision(revision) => CompareTarget::CreateRevision(revision),
                TargetHead::ModRevision(revision) => CompareTarget::ModRevision(revision),
            },
        })
    });
    let compares = compares.collect::<Result<_, _>>()?;
    Ok(Txn {
        compares,
        then: join_operations(head.then, values)?,
        otherwise: join_operations(head.otherwise, values)?,
    })
}

fn join_operations<'a>(
    heads: List<TxnOperationHead<'a>>,
    values: &mut Values<'a>,
) -> Result<Vec<TxnOperation<'a>>, DecodeError> {
    let operations = heads.0.into_iter().map(|head| {
        Ok(match head {
            TxnOperationHead::Put {
                key,
                value_bytes,
                previous,
            } => TxnOperation::Put {
                key: key.0,
                value: values.take(value_bytes)?,
                previous,
            },
            TxnOperationHead::Delete { range, previous } => TxnOperation::Delete {
                range: key_range(range),
                previous,
            },
            TxnOperationHead::Range(query) => TxnOperation::Range(query.query()),
        })
    });
    operations.collect()
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor(std::marker::PhantomData))
    }
}

struct ListVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "at most {MAX_LIST} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<List<T>, A::Error> {
        let length = elements.size_hint().unwrap_or(0);
        if length > MAX_LIST {
            return Err(A::Error::invalid_length(length, &self));
        }
        let mut list = Vec::with_capacity(length);
        while let Some(element) = elements.next_element()? {
            if list.len() >= MAX_LIST {
                return Err(A::Error::invalid_length(list.len() + 1, &self));
            }
            list.push(element);
        }
        Ok(List(list))
    }
}
