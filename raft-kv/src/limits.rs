//! Every bound of the key/value service, with its unit, and the relations between them.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 64 << 10;
/// Longest value, in bytes, also of a value that `append` would make.
pub const MAX_VALUE_BYTES: usize = 8 << 20;
/// Most bytes of the pairs in one reply, with what surrounds them; a longer range is cut and the
/// reply says so. At least one pair always fits.
pub const MAX_RANGE_REPLY_BYTES: usize = 16 << 20;
/// Most bytes of the key and of both values of one compare-and-swap, and of all keys and values of
/// a transaction.
pub const MAX_OPERATION_BYTES: usize = 15 << 20;
/// Most compares of a transaction, and most operations of each of its lists; etcd's default.
pub const MAX_TXN_OPERATIONS: usize = 128;
/// Largest request frame body a server accepts, and largest command in the log, in bytes: the
/// largest operation, with room for its head.
pub const MAX_REQUEST_BYTES: usize = MAX_OPERATION_BYTES + 4 * MAX_KEY_BYTES;
/// Largest response frame body a client accepts, in bytes: the largest reply, with room to
/// spare.
pub const MAX_RESPONSE_BYTES: usize = MAX_RANGE_REPLY_BYTES + MAX_VALUE_BYTES + 4 * MAX_KEY_BYTES;

/// Most sessions alive at a time; more are refused until one expires.
pub const MAX_SESSIONS: usize = 10_000;
/// How far a session's sequence numbers may run ahead of what its client has acknowledged.
pub const SESSION_WINDOW: u64 = 1024;
/// Most bytes of unacknowledged replies kept for one session.
pub const SESSION_REPLY_BYTES_MAX: usize = 16 << 20;
/// Most bytes of unacknowledged replies kept for all sessions together.
pub const SESSIONS_REPLY_BYTES_MAX: usize = 256 << 20;
/// Shortest time-to-live of a session, in milliseconds of log time.
pub const SESSION_TTL_MS_MIN: u64 = 1_000;
/// Longest time-to-live of a session, in milliseconds of log time.
pub const SESSION_TTL_MS_MAX: u64 = 3_600_000;
/// Time-to-live that clients ask for unless told otherwise, in milliseconds.
pub const SESSION_TTL_MS_DEFAULT: u64 = 60_000;

const _: () = assert!(MAX_RANGE_REPLY_BYTES >= MAX_VALUE_BYTES + 2 * MAX_KEY_BYTES);
const _: () = assert!(MAX_RESPONSE_BYTES < crate::codec::MAX_HEAD_BYTES);
const _: () = assert!(MAX_REQUEST_BYTES < crate::codec::MAX_HEAD_BYTES);
const _: () = assert!(MAX_OPERATION_BYTES >= MAX_VALUE_BYTES + MAX_KEY_BYTES);
// One command fits into a frame between nodes and a record of the log: 16 MiB each by default.
const _: () = assert!(MAX_REQUEST_BYTES < (16 << 20) - (64 << 10));
const _: () = assert!(SESSION_TTL_MS_MIN < SESSION_TTL_MS_DEFAULT);
const _: () = assert!(SESSION_TTL_MS_DEFAULT < SESSION_TTL_MS_MAX);

/// One of the three lists of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnList {
    /// What must hold.
    Compares,
    /// What is carried out if every compare holds.
    Then,
    /// What is carried out otherwise.
    Otherwise,
}

impl fmt::Display for TxnList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Compares => "list of compares",
            Self::Then => "list for when all compares hold",
            Self::Otherwise => "list for when a compare does not hold",
        })
    }
}

/// Longest part of a key that a message shows, in characters.
const SHOWN_KEY_CHARS: usize = 64;

/// A key for a message: quoted, and cut if it is long.
pub(crate) fn shown_key(key: &[u8]) -> String {
    let text = String::from_utf8_lossy(key);
    let start: String = text.chars().take(SHOWN_KEY_CHARS).collect();
    let rest = if start.len() < text.len() { "…" } else { "" };
    format!("{start:?}{rest}")
}

/// A key or value that cannot be stored.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LimitError {
    /// Keys have at least one byte.
    #[error("the key is empty; a key has at least one byte")]
    EmptyKey,
    /// The key is too long.
    #[error("the key has {0} bytes; the limit is {MAX_KEY_BYTES} bytes (64 KiB)")]
    KeyTooLong(usize),
    /// The value is too long.
    #[error("the value has {0} bytes; the limit is {MAX_VALUE_BYTES} bytes (8 MiB)")]
    ValueTooLong(usize),
    /// A compare-and-swap's or a transaction's keys and values are too long together.
    #[error(
        "key and values have {0} bytes together; the limit is {MAX_OPERATION_BYTES} bytes (15 MiB)"
    )]
    TooLongTogether(usize),
    /// A list of a transaction is too long.
    #[error(
        "the transaction's {list} has {entries} entries; the limit is {MAX_TXN_OPERATIONS} in each list"
    )]
    TooManyOperations {
        /// Which list.
        list: TxnList,
        /// Its length.
        entries: usize,
    },
    /// A list of a transaction changes a key twice.
    #[error(
        "the transaction's {list} puts the key {} twice, or puts and deletes it; change it once",
        shown_key(.key)
    )]
    DuplicateKey {
        /// Which list.
        list: TxnList,
        /// The key.
        key: Vec<u8>,
    },
}

/// Checks a key that is about to be written or read.
///
/// # Errors
/// [`LimitError::EmptyKey`], [`LimitError::KeyTooLong`].
pub const fn check_key(key: &[u8]) -> Result<(), LimitError> {
    match key.len() {
        0 => Err(LimitError::EmptyKey),
        1..=MAX_KEY_BYTES => Ok(()),
        length => Err(LimitError::KeyTooLong(length)),
    }
}

/// Checks a value that is about to be written.
///
/// # Errors
/// [`LimitError::ValueTooLong`].
pub const fn check_value(value: &[u8]) -> Result<(), LimitError> {
    if value.len() <= MAX_VALUE_BYTES {
        Ok(())
    } else {
        Err(LimitError::ValueTooLong(value.len()))
    }
}

/// Checks the bytes of all keys and values of one compare-and-swap or transaction.
///
/// # Errors
/// [`LimitError::TooLongTogether`].
pub const fn check_together(bytes: usize) -> Result<(), LimitError> {
    if bytes <= MAX_OPERATION_BYTES {
        Ok(())
    } else {
        Err(LimitError::TooLongTogether(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_in_the_message() {
        let long = vec![0; MAX_VALUE_BYTES + 1];
        assert_eq!(check_value(&long[1..]), Ok(()));
        let refused = check_value(&long).unwrap_err().to_string();
        assert!(refused.contains("8388608"), "{refused}");
        let refused = check_key(&long[..=MAX_KEY_BYTES]).unwrap_err().to_string();
        assert!(refused.contains("65536"), "{refused}");
        assert_eq!(check_key(b""), Err(LimitError::EmptyKey));
    }

    #[test]
    fn a_long_key_is_cut_in_messages() {
        assert_eq!(shown_key(b"k\xff\n"), "\"k\u{fffd}\\n\"");
        let long = shown_key(&[b'k'; 100]);
        assert_eq!(long, format!("{:?}…", "k".repeat(64)));
    }
}
