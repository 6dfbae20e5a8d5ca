//! What the state machine answers, as bytes: the same bytes are kept in a session, sent to the
//! client, and given again when a write is retried.
//!
//! A reply is a version byte followed by one serialised [`Reply`].

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::codec::{self, DecodeError, Slice};
use crate::limits::{
    MAX_RANGE_REPLY_BYTES, MAX_SESSIONS, MAX_VALUE_BYTES, SESSION_REPLY_BYTES_MAX,
    SESSION_TTL_MS_MAX, SESSION_TTL_MS_MIN, SESSION_WINDOW, SESSIONS_REPLY_BYTES_MAX,
};
use crate::operation::Revision;
use crate::session::SessionId;

/// The version of the reply format that this build writes and reads.
pub const REPLY_VERSION: u8 = 1;

/// Most bytes that a pair takes in a reply besides key and value: three numbers and two lengths.
const PAIR_HEAD_BYTES: usize = 3 * 9 + 2 * 5;

/// A key with its value and what is known about its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// Its value; empty if only keys were asked for.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// The revision that last wrote it.
    pub mod_revision: Revision,
    /// How many times it was written since it was created; the first write makes version 1.
    pub version: u64,
}

/// The result of a range read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeReply {
    /// The store's latest revision when it answered.
    pub revision: Revision,
    /// How many keys the range holds at the revision that was read, whatever the limit.
    pub count: u64,
    /// Whether there are more pairs than were returned.
    pub more: bool,
    /// The pairs, in the order asked for.
    pub pairs: Vec<KeyValue>,
}

/// How a write changed the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The key has its new value.
    Written,
    /// This many keys were removed.
    Deleted {
        /// How many.
        keys: u64,
    },
    /// The key was not as a compare-and-swap expected; nothing changed.
    Different,
    /// History was compacted as asked.
    Compacted,
}

/// The result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteReply {
    /// The store's revision after the write.
    pub revision: Revision,
    /// What it did.
    pub outcome: Outcome,
}

/// Which list of a transaction was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Branch {
    /// The one for when every compare holds.
    Then,
    /// The other.
    Otherwise,
}

/// The result of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnReply {
    /// The store's revision after the transaction.
    pub revision: Revision,
    /// Which list was carried out.
    pub branch: Branch,
    /// The result of each of its operations.
    pub results: Vec<OperationResult>,
}

/// The result of one operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationResult {
    /// A key was set.
    Put {
        /// The pair that was replaced, if there was one and it was asked for.
        previous: Option<KeyValue>,
    },
    /// Keys were removed.
    Deleted {
        /// How many.
        keys: u64,
        /// The pairs that were removed, in ascending order of keys, if they were asked for.
        previous: Vec<KeyValue>,
    },
    /// Keys were read.
    Range(RangeReply),
}

/// What the state machine knows about itself at one applied index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// The log index up to which it has applied.
    pub applied_index: u64,
    /// The store's revision.
    pub revision: Revision,
    /// A hash of everything replicated: equal states have equal hashes.
    pub hash: u64,
    /// Live keys.
    pub keys: u64,
    /// Bytes of live keys and values.
    pub bytes: u64,
    /// Sessions not known to be expired.
    pub sessions: u64,
    /// The oldest revision that can be read.
    pub oldest_revision: Revision,
}

/// Why a request that reached the state machine was not carried out. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum Refusal {
    /// The value would become too long.
    #[error("the value would have {bytes} bytes; the limit is {MAX_VALUE_BYTES} bytes (8 MiB)")]
    ValueTooLong {
        /// Bytes it would have.
        bytes: u64,
    },
    /// The revision does not exist yet.
    #[error("revision {asked} is in the future; the store is at revision {current}")]
    FutureRevision {
        /// Revision asked for.
        asked: Revision,
        /// The store's revision.
        current: Revision,
    },
    /// The revision is no longer kept.
    #[error("revision {asked} has been compacted; the oldest that can be read is {oldest}")]
    Compacted {
        /// Revision asked for.
        asked: Revision,
        /// The oldest one kept.
        oldest: Revision,
    },
    /// The store holds as many sessions as it may.
    #[error("there are {MAX_SESSIONS} sessions already; try again when some have expired")]
    TooManySessions,
    /// The session's time-to-live is out of bounds.
    #[error(
        "a session may live {SESSION_TTL_MS_MIN} to {SESSION_TTL_MS_MAX} ms without a sign of life, \
         not {asked_ms} ms"
    )]
    SessionTtl {
        /// Milliseconds asked for.
        asked_ms: u64,
    },
    /// The write's sequence number is too far ahead of what the client has acknowledged.
    #[error("more than {SESSION_WINDOW} writes of one session are unacknowledged; wait for some")]
    SessionWindow,
    /// The session's unacknowledged replies take too much memory.
    #[error(
        "the unacknowledged replies of this session exceed {SESSION_REPLY_BYTES_MAX} bytes; \
         acknowledge some"
    )]
    SessionReplies,
    /// The client has acknowledged this write's reply already, which is therefore gone.
    #[error("this write's reply was acknowledged before; it is not kept any longer")]
    AlreadyAcknowledged,
    /// The request makes no sense to this version of the service.
    #[error("malformed command")]
    Malformed,
    /// The previous pairs that a transaction asks for take too much room.
    #[error(
        "the previous pairs have {bytes} bytes; the limit of a reply is {MAX_RANGE_REPLY_BYTES} \
         bytes (16 MiB); ask for fewer"
    )]
    PreviousTooLong {
        /// Bytes of their keys and values.
        bytes: u64,
    },
    /// The unacknowledged replies of all sessions take too much memory.
    #[error(
        "the unacknowledged replies of all sessions exceed {SESSIONS_REPLY_BYTES_MAX} bytes; try \
         again when some are acknowledged"
    )]
    ReplyMemory,
}

impl Refusal {
    /// Whether a session refused a write because it has no room for its reply at the moment. Unlike
    /// every other refusal it is not the write's outcome: an attempt that arrives later may find
    /// room.
    #[must_use]
    pub const fn is_of_session_room(&self) -> bool {
        matches!(
            self,
            Self::SessionWindow | Self::SessionReplies | Self::ReplyMemory
        )
    }
}

/// Everything the state machine can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A write was carried out.
    Write(WriteReply),
    /// A session was registered.
    Registered(SessionId),
    /// A session was kept alive.
    KeptAlive,
    /// The log time was advanced.
    Ticked,
    /// A range read.
    Range(RangeReply),
    /// The machine's status.
    Status(StoreStatus),
    /// Nothing was done.
    Refused(Refusal),
    /// The session does not exist, or not any longer. Whether an earlier attempt of the same
    /// write was carried out is not known.
    SessionExpired,
    /// A transaction was carried out.
    Txn(TxnReply),
}

/// A [`Reply`] as it is written and read: borrowed from the store, or from the received bytes.
#[derive(Serialize, Deserialize)]
pub(crate) enum ReplyRef<'a> {
    Write(WriteReply),
    Registered(SessionId),
    KeptAlive,
    Ticked,
    #[serde(borrow)]
    Range(RangeRef<'a>),
    Status(StoreStatus),
    Refused(Refusal),
    SessionExpired,
    #[serde(borrow)]
    Txn(TxnRef<'a>),
}

/// A [`TxnReply`] that borrows its pairs.
#[derive(Serialize, Deserialize)]
pub(crate) struct TxnRef<'a> {
    revision: Revision,
    branch: Branch,
    #[serde(borrow)]
    results: Vec<ResultRef<'a>>,
}

/// An [`OperationResult`] that borrows its pairs.
#[derive(Serialize, Deserialize)]
enum ResultRef<'a> {
    Put {
        #[serde(borrow)]
        previous: Option<PairRef<'a>>,
    },
    Deleted {
        keys: u64,
        #[serde(borrow)]
        previous: Vec<PairRef<'a>>,
    },
    #[serde(borrow)]
    Range(RangeRef<'a>),
}

/// A [`RangeReply`] that borrows its pairs.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct RangeRef<'a> {
    pub(crate) revision: Revision,
    pub(crate) count: u64,
    pub(crate) more: bool,
    #[serde(borrow)]
    pub(crate) pairs: Vec<PairRef<'a>>,
}

/// A [`KeyValue`] that borrows its bytes.
#[derive(Serialize, Deserialize)]
pub(crate) struct PairRef<'a> {
    #[serde(borrow)]
    pub(crate) key: Slice<'a>,
    pub(crate) create_revision: Revision,
    pub(crate) mod_revision: Revision,
    pub(crate) version: u64,
    #[serde(borrow)]
    pub(crate) value: Slice<'a>,
}

impl ReplyRef<'_> {
    /// The reply's bytes.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let capacity = match self {
            Self::Range(range) => range.bytes_at_most(),
            Self::Txn(txn) => txn.results.iter().map(ResultRef::bytes_at_most).sum(),
            Self::Status(_) => 72,
            Self::Write(_)
            | Self::Registered(_)
            | Self::KeptAlive
            | Self::Ticked
            | Self::Refused(_)
            | Self::SessionExpired => 0,
        };
        let mut bytes = Vec::with_capacity(24 + capacity);
        bytes.push(REPLY_VERSION);
        codec::encode(self, &mut bytes);
        bytes.into()
    }
}

impl RangeRef<'_> {
    fn bytes_at_most(&self) -> usize {
        24 + self.pairs.iter().map(PairRef::reply_bytes).sum::<usize>()
    }

    fn to_owned(&self, bytes: &Bytes) -> RangeReply {
        RangeReply {
            revision: self.revision,
            count: self.count,
            more: self.more,
            pairs: self.pairs.iter().map(|p| p.to_owned(bytes)).collect(),
        }
    }
}

impl<'a> From<&'a RangeReply> for RangeRef<'a> {
    fn from(reply: &'a RangeReply) -> Self {
        Self {
            revision: reply.revision,
            count: reply.count,
            more: reply.more,
            pairs: reply.pairs.iter().map(PairRef::from).collect(),
        }
    }
}

impl<'a> From<&'a TxnReply> for TxnRef<'a> {
    fn from(reply: &'a TxnReply) -> Self {
        Self {
            revision: reply.revision,
            branch: reply.branch,
            results: reply.results.iter().map(ResultRef::from).collect(),
        }
    }
}

impl TxnRef<'_> {
    fn to_owned(&self, bytes: &Bytes) -> TxnReply {
        TxnReply {
            revision: self.revision,
            branch: self.branch,
            results: self.results.iter().map(|r| r.to_owned(bytes)).collect(),
        }
    }
}

impl<'a> From<&'a OperationResult> for ResultRef<'a> {
    fn from(result: &'a OperationResult) -> Self {
        match result {
            OperationResult::Put { previous } => Self::Put {
                previous: previous.as_ref().map(PairRef::from),
            },
            OperationResult::Deleted { keys, previous } => Self::Deleted {
                keys: *keys,
                previous: previous.iter().map(PairRef::from).collect(),
            },
            OperationResult::Range(range) => Self::Range(range.into()),
        }
    }
}

impl ResultRef<'_> {
    fn bytes_at_most(&self) -> usize {
        let pairs = match self {
            Self::Put { previous } => previous.iter().map(PairRef::reply_bytes).sum(),
            Self::Deleted { previous, .. } => previous.iter().map(PairRef::reply_bytes).sum(),
            Self::Range(range) => range.bytes_at_most(),
        };
        16 + pairs
    }

    fn to_owned(&self, bytes: &Bytes) -> OperationResult {
        match self {
            Self::Put { previous } => OperationResult::Put {
                previous: previous.as_ref().map(|p| p.to_owned(bytes)),
            },
            Self::Deleted { keys, previous } => OperationResult::Deleted {
                keys: *keys,
                previous: previous.iter().map(|p| p.to_owned(bytes)).collect(),
            },
            Self::Range(range) => OperationResult::Range(range.to_owned(bytes)),
        }
    }
}

impl Reply {
    /// Reads a reply; keys and values are slices of `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let reply: ReplyRef<'_> = codec::decode_exact(codec::check_version(bytes, REPLY_VERSION)?)?;
        Ok(match reply {
            ReplyRef::Write(write) => Self::Write(write),
            ReplyRef::Registered(session) => Self::Registered(session),
            ReplyRef::KeptAlive => Self::KeptAlive,
            ReplyRef::Ticked => Self::Ticked,
            ReplyRef::Range(range) => Self::Range(range.to_owned(bytes)),
            ReplyRef::Status(status) => Self::Status(status),
            ReplyRef::Refused(refusal) => Self::Refused(refusal),
            ReplyRef::SessionExpired => Self::SessionExpired,
            ReplyRef::Txn(txn) => Self::Txn(txn.to_owned(bytes)),
        })
    }
}

impl<'a> From<&'a KeyValue> for PairRef<'a> {
    fn from(pair: &'a KeyValue) -> Self {
        Self {
            key: Slice(&pair.key),
            create_revision: pair.create_revision,
            mod_revision: pair.mod_revision,
            version: pair.version,
            value: Slice(&pair.value),
        }
    }
}

impl PairRef<'_> {
    /// Bytes that the pair takes in a reply, at most.
    pub(crate) const fn reply_bytes(&self) -> usize {
        PAIR_HEAD_BYTES + self.key.0.len() + self.value.0.len()
    }

    fn to_owned(&self, bytes: &Bytes) -> KeyValue {
        KeyValue {
            key: bytes.slice_ref(self.key.0),
            value: bytes.slice_ref(self.value.0),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
        }
    }

    /// The pair in memory of its own.
    pub(crate) fn copied(&self) -> KeyValue {
        KeyValue {
            key: Bytes::copy_from_slice(self.key.0),
            value: Bytes::copy_from_slice(self.value.0),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_keep_their_bytes() {
        let write = ReplyRef::Write(WriteReply {
            revision: Revision(7),
            outcome: Outcome::Deleted { keys: 300 },
        });
        assert_eq!(&write.to_bytes()[..], [1, 0, 7, 1, 251, 44, 1]);
        assert_eq!(
            &ReplyRef::Registered(SessionId(9)).to_bytes()[..],
            [1, 1, 9]
        );
        let refused = ReplyRef::Refused(Refusal::SessionWindow);
        assert_eq!(&refused.to_bytes()[..], [1, 6, 5]);
        assert_eq!(&ReplyRef::SessionExpired.to_bytes()[..], [1, 7]);
        let range = ReplyRef::Range(RangeRef {
            revision: Revision(5),
            count: 2,
            more: true,
            pairs: vec![PairRef {
                key: Slice(b"k"),
                create_revision: Revision(2),
                mod_revision: Revision(3),
                version: 2,
                value: Slice(b"vv"),
            }],
        });
        let bytes = range.to_bytes();
        assert_eq!(
            &bytes[..],
            [1, 4, 5, 2, 1, 1, 1, b'k', 2, 3, 2, 2, b'v', b'v']
        );
        let Ok(Reply::Range(read)) = Reply::from_bytes(&bytes) else {
            panic!("not a range reply");
        };
        assert_eq!((read.count, read.more), (2, true));
        assert_eq!(
            (&read.pairs[0].key[..], &read.pairs[0].value[..]),
            (&b"k"[..], &b"vv"[..])
        );
    }

    #[test]
    fn transaction_replies_keep_their_bytes() {
        let pair = |key: &'static [u8]| KeyValue {
            key: Bytes::from_static(key),
            value: Bytes::from_static(b"v"),
            create_revision: Revision(2),
            mod_revision: Revision(3),
            version: 2,
        };
        let reply = TxnReply {
            revision: Revision(9),
            branch: Branch::Otherwise,
            results: vec![
                OperationResult::Put {
                    previous: Some(pair(b"a")),
                },
                OperationResult::Deleted {
                    keys: 1,
                    previous: vec![pair(b"b")],
                },
                OperationResult::Range(RangeReply {
                    revision: Revision(9),
                    count: 1,
                    more: false,
                    pairs: vec![pair(b"c")],
                }),
            ],
        };
        let bytes = ReplyRef::Txn((&reply).into()).to_bytes();
        let expected = b"\x01\x08\x09\x01\x03\
            \x00\x01\x01a\x02\x03\x02\x01v\
            \x01\x01\x01\x01b\x02\x03\x02\x01v\
            \x02\x09\x01\x00\x01\x01c\x02\x03\x02\x01v";
        assert_eq!(&bytes[..], expected);
        assert_eq!(Reply::from_bytes(&bytes), Ok(Reply::Txn(reply)));
    }

    #[test]
    fn cut_replies_are_refused() {
        let bytes = ReplyRef::Refused(Refusal::FutureRevision {
            asked: Revision(900),
            current: Revision(4),
        })
        .to_bytes();
        for cut in 0..bytes.len() {
            assert!(
                Reply::from_bytes(&bytes.slice(..cut)).is_err(),
                "cut at {cut}"
            );
        }
        assert!(Reply::from_bytes(&bytes).is_ok());
    }
}
