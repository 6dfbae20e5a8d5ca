//! Requests as they are sent, kept so that they can be sent again; and writes as callers make them.

use bytes::Bytes;
use serde::Serialize;

use crate::command::{Command, Query};
use crate::limits::LimitError;
use crate::operation::{Expected, KeyRange, Operation, Revision};
use crate::protocol::{self, RequestKind};
use crate::session::Origin;
use crate::txn::Txn;

/// One request, encoded once and sent as often as it takes.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) kind: RequestKind,
    pub(super) head: Vec<u8>,
    /// The value of a write, shared with the caller.
    pub(super) payload: Bytes,
}

impl Request {
    pub(super) fn write(write: &Write, origin: Option<Origin>) -> Self {
        let operation = write.operation();
        let encoded = Command::Write { origin, operation }.encode();
        let [expected, new] = encoded.values;
        assert_eq!(new, &write.value[..], "a write has one new value at most");
        let mut head = encoded.head;
        head.extend_from_slice(expected);
        Self {
            kind: RequestKind::Write,
            head,
            payload: write.value.clone(),
        }
    }

    pub(super) fn txn(txn: &Txn<'_>, origin: Option<Origin>) -> Self {
        let txn = txn.clone();
        let encoded = Command::Txn { origin, txn }.encode();
        assert_eq!(
            encoded.values,
            [b"", b""],
            "a transaction's values are in its head"
        );
        Self {
            kind: RequestKind::Write,
            head: encoded.head,
            payload: Bytes::new(),
        }
    }

    pub(super) fn query(kind: RequestKind, query: &Query<'_>) -> Self {
        Self {
            kind,
            head: query.to_bytes().into(),
            payload: Bytes::new(),
        }
    }

    pub(super) fn of<T: Serialize>(kind: RequestKind, body: &T) -> Self {
        Self {
            kind,
            head: protocol::to_body(body).into(),
            payload: Bytes::new(),
        }
    }

    pub(super) const fn empty(kind: RequestKind) -> Self {
        Self {
            kind,
            head: Vec::new(),
            payload: Bytes::new(),
        }
    }
}

/// A change to be made, for [`super::Client::write`] or [`super::Session::write`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    change: Change,
    /// Empty where the change has no new value.
    value: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Put(Bytes),
    Append(Bytes),
    Delete(Keys),
    Compact(Revision),
    SwapAbsent(Bytes),
    SwapValue(Bytes, Bytes),
    SwapRevision(Bytes, Revision),
}

/// A range that owns its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Keys {
    One(Bytes),
    Interval(Bytes, Bytes),
    From(Bytes),
    Prefix(Bytes),
}

impl Write {
    /// Sets a key.
    #[must_use]
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            change: Change::Put(key.into()),
            value: value.into(),
        }
    }

    /// Adds to the end of a key's value; an absent key counts as an empty one.
    #[must_use]
    pub fn append(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            change: Change::Append(key.into()),
            value: value.into(),
        }
    }

    /// Removes a key.
    #[must_use]
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self {
            change: Change::Delete(Keys::One(key.into())),
            value: Bytes::new(),
        }
    }

    /// Removes all keys with a prefix.
    #[must_use]
    pub fn delete_prefix(prefix: impl Into<Bytes>) -> Self {
        Self {
            change: Change::Delete(Keys::Prefix(prefix.into())),
            value: Bytes::new(),
        }
    }

    /// Removes all keys of a range.
    #[must_use]
    pub fn delete_range(range: &KeyRange<'_>) -> Self {
        let copy = Bytes::copy_from_slice;
        let keys = match range {
            KeyRange::One(key) => Keys::One(copy(key)),
            KeyRange::Interval { from, to } => Keys::Interval(copy(from), copy(to)),
            KeyRange::From(key) => Keys::From(copy(key)),
            KeyRange::Prefix(prefix) => Keys::Prefix(copy(prefix)),
        };
        Self {
            change: Change::Delete(keys),
            value: Bytes::new(),
        }
    }

    /// Forgets what only reads before this revision could see.
    #[must_use]
    pub fn compact(revision: Revision) -> Self {
        Self {
            change: Change::Compact(revision),
            value: Bytes::new(),
        }
    }

    /// Sets a key if it does not exist.
    #[must_use]
    pub fn create(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            change: Change::SwapAbsent(key.into()),
            value: value.into(),
        }
    }

    /// Sets a key if it exists with the value `old`.
    #[must_use]
    pub fn swap(key: impl Into<Bytes>, old: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            change: Change::SwapValue(key.into(), old.into()),
            value: value.into(),
        }
    }

    /// Sets a key if it was last written by this revision.
    #[must_use]
    pub fn swap_revision(
        key: impl Into<Bytes>,
        revision: Revision,
        value: impl Into<Bytes>,
    ) -> Self {
        Self {
            change: Change::SwapRevision(key.into(), revision),
            value: value.into(),
        }
    }

    /// Checks keys and values against the limits.
    ///
    /// # Errors
    /// [`LimitError`].
    pub fn check(&self) -> Result<(), LimitError> {
        self.operation().check()
    }

    /// The change, borrowed.
    #[must_use]
    pub fn operation(&self) -> Operation<'_> {
        let value = &self.value[..];
        let swap = |key, expected| Operation::CompareAndSwap {
            key,
            expected,
            value,
        };
        match &self.change {
            Change::Put(key) => Operation::Put { key, value },
            Change::Append(key) => Operation::Append { key, value },
            Change::Delete(keys) => Operation::Delete {
                range: match keys {
                    Keys::One(key) => KeyRange::One(key),
                    Keys::Interval(from, to) => KeyRange::Interval { from, to },
                    Keys::From(key) => KeyRange::From(key),
                    Keys::Prefix(prefix) => KeyRange::Prefix(prefix),
                },
            },
            Change::Compact(revision) => Operation::Compact {
                revision: *revision,
            },
            Change::SwapAbsent(key) => swap(key, Expected::Absent),
            Change::SwapValue(key, old) => swap(key, Expected::Value(old)),
            Change::SwapRevision(key, revision) => swap(key, Expected::ModRevision(*revision)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Sequence, SessionId};

    #[test]
    fn a_request_is_the_command_that_is_logged() {
        let origin = Some(Origin {
            session: SessionId(9),
            sequence: Sequence(2),
            acknowledged: Sequence(1),
        });
        let writes = [
            Write::put("k", "value"),
            Write::append("k", "more"),
            Write::delete("k"),
            Write::delete_prefix("k/"),
            Write::delete_range(&KeyRange::From(b"k")),
            Write::delete_range(&KeyRange::Interval {
                from: b"a",
                to: b"k",
            }),
            Write::compact(Revision(7)),
            Write::create("k", "first"),
            Write::swap("k", "old", "new"),
            Write::swap_revision("k", Revision(7), ""),
        ];
        for write in writes {
            let request = Request::write(&write, origin);
            let body = [&request.head[..], &request.payload[..]].concat();
            let operation = write.operation();
            let command = Command::Write { origin, operation };
            assert_eq!(Command::decode(&body), Ok(command));
        }
    }
}
