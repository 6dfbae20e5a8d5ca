//! Commands and queries as bytes: what the log carries, and what clients send.
//!
//! ```text
//! command  version (1 byte) · serialised head · values, in the order of the head
//! query    version (1 byte) · serialised query
//! ```
//!
//! Keys lie in the head, values behind it, so that large values are never copied by the codec. A
//! client sends a write in exactly the form in which it is logged: the server checks it and hands
//! the received bytes on. Neither keys nor values are copied when a command is read.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError, Slice};
use crate::operation::{Expected, KeyRange, Operation, Order, RangeQuery, Revision, Select};
use crate::session::{LeaderTime, Origin, Sequence, SessionId};
use crate::txn::Txn;

mod txn;

/// The version of commands that this build writes and reads.
pub const COMMAND_VERSION: u8 = 1;
/// The version of queries that this build writes and reads.
pub const QUERY_VERSION: u8 = 1;

/// A replicated command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// A change of the store, under a session or without one.
    Write {
        /// The session and number under which it counts once; `None` for a one-shot write.
        origin: Option<Origin>,
        /// The change.
        operation: Operation<'a>,
    },
    /// Registers a session, whose id is this command's log index.
    Register {
        /// The leader's clock.
        stamp: LeaderTime,
        /// Time-to-live, in milliseconds of log time.
        ttl_ms: u64,
    },
    /// A session's sign of life.
    KeepAlive {
        /// The leader's clock.
        stamp: LeaderTime,
        /// The session.
        session: SessionId,
        /// All writes up to this number are finished for the client.
        acknowledged: Sequence,
    },
    /// Advances log time, nothing else.
    Tick {
        /// The leader's clock.
        stamp: LeaderTime,
    },
    /// A transaction, under a session or without one.
    Txn {
        /// The session and number under which it counts once; `None` for a one-shot transaction.
        origin: Option<Origin>,
        /// The transaction.
        txn: Txn<'a>,
    },
}

/// A read of the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query<'a> {
    /// Reads keys.
    Range(RangeQuery<'a>),
    /// Asks for [`crate::reply::StoreStatus`].
    Status,
}

/// A command without its values.
#[derive(Serialize, Deserialize)]
enum CommandHead<'a> {
    Write {
        origin: Option<Origin>,
        #[serde(borrow)]
        operation: OperationHead<'a>,
    },
    Register {
        stamp: LeaderTime,
        ttl_ms: u64,
    },
    KeepAlive {
        stamp: LeaderTime,
        session: SessionId,
        acknowledged: Sequence,
    },
    Tick {
        stamp: LeaderTime,
    },
    Txn {
        origin: Option<Origin>,
        #[serde(borrow)]
        txn: txn::TxnHead<'a>,
    },
}

/// An operation without its values; later kinds are added at the end.
#[derive(Serialize, Deserialize)]
enum OperationHead<'a> {
    Put {
        #[serde(borrow)]
        key: Slice<'a>,
        value_bytes: u32,
    },
    Append {
        #[serde(borrow)]
        key: Slice<'a>,
        value_bytes: u32,
    },
    Delete {
        #[serde(borrow)]
        range: RangeHead<'a>,
    },
    CompareAndSwap {
        #[serde(borrow)]
        key: Slice<'a>,
        expected: ExpectedHead,
        value_bytes: u32,
    },
    Compact {
        revision: Revision,
    },
}

#[derive(Serialize, Deserialize)]
enum ExpectedHead {
    Absent,
    Value { bytes: u32 },
    ModRevision(Revision),
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum RangeHead<'a> {
    One(#[serde(borrow)] Slice<'a>),
    Interval {
        #[serde(borrow)]
        from: Slice<'a>,
        #[serde(borrow)]
        to: Slice<'a>,
    },
    From(#[serde(borrow)] Slice<'a>),
    Prefix(#[serde(borrow)] Slice<'a>),
}

#[derive(Serialize, Deserialize)]
enum QueryHead<'a> {
    Range(#[serde(borrow)] txn::RangeQueryHead<'a>),
    Status,
}

/// A command in pieces: a head of its own, and values that stay where they are.
#[derive(Clone, Debug)]
pub struct EncodedCommand<'a> {
    /// Version and structured head; behind them the values of a transaction, copied.
    pub head: Vec<u8>,
    /// The values of an operation, in order: what a compare-and-swap expects, and the new value.
    pub values: [&'a [u8]; 2],
}

impl EncodedCommand<'_> {
    /// The command in one piece, as it is logged; copies the values.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let values = self.values.iter().map(|value| value.len()).sum::<usize>();
        let mut bytes = Vec::with_capacity(self.head.len() + values);
        bytes.extend_from_slice(&self.head);
        self.values
            .iter()
            .for_each(|value| bytes.extend_from_slice(value));
        bytes.into()
    }
}

impl<'a> Command<'a> {
    /// Encodes the command. Keys and values must respect the limits ([`Operation::check`],
    /// [`Txn::check`]).
    #[must_use]
    pub fn encode(&self) -> EncodedCommand<'a> {
        let mut head = Vec::with_capacity(64);
        head.push(COMMAND_VERSION);
        let mut values: [&[u8]; 2] = [b"", b""];
        let mut copied: Vec<&[u8]> = Vec::new();
        let structured = match self {
            Self::Write { origin, operation } => {
                let (operation, parts) = split(operation);
                values = parts;
                let origin = *origin;
                CommandHead::Write { origin, operation }
            }
            Self::Txn { origin, txn } => {
                let (txn, parts) = txn::split(txn);
                copied = parts;
                let origin = *origin;
                CommandHead::Txn { origin, txn }
            }
            &Self::Register { stamp, ttl_ms } => CommandHead::Register { stamp, ttl_ms },
            &Self::KeepAlive {
                stamp,
                session,
                acknowledged,
            } => CommandHead::KeepAlive {
                stamp,
                session,
                acknowledged,
            },
            &Self::Tick { stamp } => CommandHead::Tick { stamp },
        };
        codec::encode(&structured, &mut head);
        head.extend(copied.into_iter().flatten());
        EncodedCommand { head, values }
    }

    /// Reads a command; its keys and values are slices of `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (head, values) = codec::decode(codec::check_version(bytes, COMMAND_VERSION)?)?;
        let mut values = Values { rest: values };
        let command = match head {
            CommandHead::Write { origin, operation } => Self::Write {
                origin,
                operation: values.join(operation)?,
            },
            CommandHead::Register { stamp, ttl_ms } => Self::Register { stamp, ttl_ms },
            CommandHead::KeepAlive {
                stamp,
                session,
                acknowledged,
            } => Self::KeepAlive {
                stamp,
                session,
                acknowledged,
            },
            CommandHead::Tick { stamp } => Self::Tick { stamp },
            CommandHead::Txn { origin, txn } => Self::Txn {
                origin,
                txn: txn::join(txn, &mut values)?,
            },
        };
        values.finish(command)
    }
}

fn split<'a>(operation: &Operation<'a>) -> (OperationHead<'a>, [&'a [u8]; 2]) {
    // Values are bounded by the limits, far below 4 GiB.
    let length = |value: &[u8]| value.len() as u32;
    match *operation {
        Operation::Put { key, value } => {
            let head = OperationHead::Put {
                key: Slice(key),
                value_bytes: length(value),
            };
            (head, [b"", value])
        }
        Operation::Append { key, value } => {
            let head = OperationHead::Append {
                key: Slice(key),
                value_bytes: length(value),
            };
            (head, [b"", value])
        }
        Operation::Delete { range } => {
            let range = range_head(&range);
            (OperationHead::Delete { range }, [b"", b""])
        }
        Operation::CompareAndSwap {
            key,
            expected,
            value,
        } => {
            let (expected, old): (_, &[u8]) = match expected {
                Expected::Absent => (ExpectedHead::Absent, b""),
                Expected::Value(old) => (ExpectedHead::Value { bytes: length(old) }, old),
                Expected::ModRevision(revision) => (ExpectedHead::ModRevision(revision), b""),
            };
            let head = OperationHead::CompareAndSwap {
                key: Slice(key),
                expected,
                value_bytes: length(value),
            };
            (head, [old, value])
        }
        Operation::Compact { revision } => (OperationHead::Compact { revision }, [b"", b""]),
    }
}

/// The values behind a head, taken one after the other.
struct Values<'a> {
    rest: &'a [u8],
}

impl<'a> Values<'a> {
    fn take(&mut self, bytes: u32) -> Result<&'a [u8], DecodeError> {
        let Some((value, rest)) = self.rest.split_at_checked(bytes as usize) else {
            return Err(DecodeError::PayloadLength {
                claimed: u64::from(bytes),
                present: self.rest.len() as u64,
            });
        };
        self.rest = rest;
        Ok(value)
    }

    fn join(&mut self, head: OperationHead<'a>) -> Result<Operation<'a>, DecodeError> {
        Ok(match head {
            OperationHead::Put { key, value_bytes } => Operation::Put {
                key: key.0,
                value: self.take(value_bytes)?,
            },
            OperationHead::Append { key, value_bytes } => Operation::Append {
                key: key.0,
                value: self.take(value_bytes)?,
            },
            OperationHead::Delete { range } => Operation::Delete {
                range: key_range(range),
            },
            OperationHead::CompareAndSwap {
                key,
                expected,
                value_bytes,
            } => Operation::CompareAndSwap {
                key: key.0,
                expected: match expected {
                    ExpectedHead::Absent => Expected::Absent,
                    ExpectedHead::Value { bytes } => Expected::Value(self.take(bytes)?),
                    ExpectedHead::ModRevision(revision) => Expected::ModRevision(revision),
                },
                value: self.take(value_bytes)?,
            },
            OperationHead::Compact { revision } => Operation::Compact { revision },
        })
    }

    fn finish(self, command: Command<'a>) -> Result<Command<'a>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(command);
        }
        Err(DecodeError::PayloadLength {
            claimed: 0,
            present: self.rest.len() as u64,
        })
    }
}

fn range_head<'a>(range: &KeyRange<'a>) -> RangeHead<'a> {
    match *range {
        KeyRange::One(key) => RangeHead::One(Slice(key)),
        KeyRange::Interval { from, to } => RangeHead::Interval {
            from: Slice(from),
            to: Slice(to),
        },
        KeyRange::From(key) => RangeHead::From(Slice(key)),
        KeyRange::Prefix(prefix) => RangeHead::Prefix(Slice(prefix)),
    }
}

fn key_range(range: RangeHead<'_>) -> KeyRange<'_> {
    match range {
        RangeHead::One(key) => KeyRange::One(key.0),
        RangeHead::Interval { from, to } => KeyRange::Interval {
            from: from.0,
            to: to.0,
        },
        RangeHead::From(key) => KeyRange::From(key.0),
        RangeHead::Prefix(prefix) => KeyRange::Prefix(prefix.0),
    }
}

impl<'a> Query<'a> {
    /// The query's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(64);
        bytes.push(QUERY_VERSION);
        let head = match self {
            Self::Range(query) => QueryHead::Range(txn::RangeQueryHead::of(query)),
            Self::Status => QueryHead::Status,
        };
        codec::encode(&head, &mut bytes);
        bytes.into()
    }

    /// Reads a query; its keys are slices of `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let head: QueryHead<'a> = codec::decode_exact(codec::check_version(bytes, QUERY_VERSION)?)?;
        Ok(match head {
            QueryHead::Range(query) => Self::Range(query.query()),
            QueryHead::Status => Self::Status,
        })
    }
}

#[cfg(test)]
#[path = "command_test.rs"]
mod tests;
