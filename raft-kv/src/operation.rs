//! What can be written to and read from the store: operations, queries, and the keys they name.

use std::borrow::Cow;
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::limits::{self, LimitError};

/// A revision of the store: it grows by one with every change. An empty store is at revision 1.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Revision(pub u64);

impl Revision {
    /// Stands for "none", and in a query for "the latest".
    pub const ZERO: Self = Self(0);
    /// The revision of an empty store.
    pub const FIRST: Self = Self(1);

    /// The revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The keys an operation or query is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRange<'a> {
    /// One key.
    One(&'a [u8]),
    /// All keys from `from` (included) on, up to `to` (excluded).
    Interval {
        /// First key.
        from: &'a [u8],
        /// First key beyond.
        to: &'a [u8],
    },
    /// All keys from this one on.
    From(&'a [u8]),
    /// All keys that start with these bytes; the empty prefix means every key.
    Prefix(&'a [u8]),
}

impl KeyRange<'_> {
    /// The first key that may lie in the range.
    #[must_use]
    pub const fn start(&self) -> &[u8] {
        match self {
            Self::One(key) | Self::From(key) | Self::Prefix(key) => key,
            Self::Interval { from, .. } => from,
        }
    }

    /// Whether `key` lies in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => key == *one,
            Self::Interval { from, to } => *from <= key && key < *to,
            Self::From(from) => *from <= key,
            Self::Prefix(prefix) => key.starts_with(prefix),
        }
    }

    /// Where the range ends in the order of keys.
    #[must_use]
    pub fn end(&self) -> Bound<Cow<'_, [u8]>> {
        match self {
            Self::One(key) => Bound::Included(Cow::Borrowed(key)),
            Self::Interval { to, .. } => Bound::Excluded(Cow::Borrowed(to)),
            Self::From(_) => Bound::Unbounded,
            // The keys with a prefix end before the prefix with its last byte raised by one; a
            // byte of 255 cannot be raised, so it is cut off first.
            Self::Prefix(prefix) => match prefix.iter().rposition(|byte| *byte != u8::MAX) {
                None => Bound::Unbounded,
                Some(last) => {
                    let mut end = prefix[..=last].to_vec();
                    end[last] += 1;
                    Bound::Excluded(Cow::Owned(end))
                }
            },
        }
    }

    /// Whether no key at all can lie in the range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::One(_) | Self::From(_) | Self::Prefix(_) => false,
            Self::Interval { from, to } => from >= to,
        }
    }

    /// Bytes of the keys that name the range.
    #[must_use]
    pub const fn data_bytes(&self) -> usize {
        match self {
            Self::One(key) | Self::From(key) | Self::Prefix(key) => key.len(),
            Self::Interval { from, to } => from.len() + to.len(),
        }
    }

    /// Checks the keys against the limits.
    ///
    /// # Errors
    /// [`LimitError`].
    pub fn check(&self) -> Result<(), LimitError> {
        let bound = |key: &[u8]| {
            if key.is_empty() {
                Ok(())
            } else {
                limits::check_key(key)
            }
        };
        match self {
            Self::One(key) => limits::check_key(key),
            Self::From(key) | Self::Prefix(key) => bound(key),
            Self::Interval { from, to } => bound(from).and_then(|()| bound(to)),
        }
    }
}

/// What must hold for a compare-and-swap to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected<'a> {
    /// The key does not exist.
    Absent,
    /// The key exists with this value.
    Value(&'a [u8]),
    /// The key exists and was last written by this revision.
    ModRevision(Revision),
}

/// One change of the store. Every operation is atomic and makes at most one revision; several at
/// one revision are a [transaction](crate::txn::Txn).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Sets a key.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
    },
    /// Adds bytes to the end of a key's value; an absent key counts as an empty one.
    Append {
        /// The key.
        key: &'a [u8],
        /// What to add.
        value: &'a [u8],
    },
    /// Removes all keys of a range.
    Delete {
        /// Which keys.
        range: KeyRange<'a>,
    },
    /// Sets a key if it is as expected, and changes nothing otherwise.
    CompareAndSwap {
        /// The key.
        key: &'a [u8],
        /// What must hold.
        expected: Expected<'a>,
        /// Its new value.
        value: &'a [u8],
    },
    /// Forgets what only reads before a revision could see; makes no revision.
    Compact {
        /// The oldest revision that can be read from then on.
        revision: Revision,
    },
}

impl Operation<'_> {
    /// Checks keys and values against the limits. What `append` would make can only be checked
    /// against the store.
    ///
    /// # Errors
    /// [`LimitError`].
    pub fn check(&self) -> Result<(), LimitError> {
        match self {
            Self::Put { key, value } | Self::Append { key, value } => {
                limits::check_key(key)?;
                limits::check_value(value)
            }
            Self::Delete { range } => range.check(),
            Self::Compact { revision: _ } => Ok(()),
            Self::CompareAndSwap {
                key,
                expected,
                value,
            } => {
                limits::check_key(key)?;
                limits::check_value(value)?;
                match expected {
                    Expected::Absent | Expected::ModRevision(_) => Ok(()),
                    Expected::Value(old) => {
                        limits::check_value(old)?;
                        limits::check_together(key.len() + old.len() + value.len())
                    }
                }
            }
        }
    }
}

/// The order in which a range read returns pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Smallest first.
    #[default]
    Ascending,
    /// Largest first.
    Descending,
}

/// What a range read sorts pairs by. Pairs that are equal in it come in ascending order of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SortBy {
    /// The key.
    #[default]
    Key,
    /// The revision that created the key.
    CreateRevision,
    /// The revision that last wrote it.
    ModRevision,
    /// How often it was written.
    Version,
    /// The value, byte by byte.
    Value,
}

/// Which parts of the pairs a range read returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Select {
    /// Keys, values and their revisions.
    #[default]
    Pairs,
    /// As pairs, but with empty values.
    KeysOnly,
    /// Only how many there are.
    CountOnly,
}

/// A read of some keys at one revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeQuery<'a> {
    /// Which keys.
    pub range: KeyRange<'a>,
    /// Most pairs to return; 0 means as many as fit into a reply.
    pub limit: u64,
    /// The revision to read at; [`Revision::ZERO`] means the latest.
    pub revision: Revision,
    /// In which order.
    pub order: Order,
    /// Which parts.
    pub select: Select,
    /// By what the pairs are ordered.
    pub sort_by: SortBy,
}

impl<'a> RangeQuery<'a> {
    /// A read of everything in `range` at the latest revision, in ascending order of keys.
    #[must_use]
    pub const fn new(range: KeyRange<'a>) -> Self {
        Self {
            range,
            limit: 0,
            revision: Revision::ZERO,
            order: Order::Ascending,
            select: Select::Pairs,
            sort_by: SortBy::Key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_contain_what_lies_between_their_ends() {
        let keys: [&[u8]; 8] = [
            b"",
            b"a",
            b"a\xff",
            b"a\xff\xff",
            b"b",
            b"ba",
            b"\xff",
            b"\xff\x01",
        ];
        let mut ranges = vec![];
        for a in keys {
            ranges.extend([KeyRange::One(a), KeyRange::From(a), KeyRange::Prefix(a)]);
            ranges.extend(keys.map(|to| KeyRange::Interval { from: a, to }));
        }
        for range in ranges {
            for key in keys {
                let before_end = match range.end() {
                    Bound::Included(end) => key <= &end[..],
                    Bound::Excluded(end) => key < &end[..],
                    Bound::Unbounded => true,
                };
                let inside = range.start() <= key && before_end;
                assert_eq!(inside, range.contains(key), "{range:?} {key:?}");
                assert!(!(inside && range.is_empty()), "{range:?} {key:?}");
            }
        }
    }

    #[test]
    fn limits_are_checked_on_every_part() {
        let long = vec![0; limits::MAX_VALUE_BYTES + 1];
        let refused = Operation::CompareAndSwap {
            key: b"k",
            expected: Expected::Value(&long),
            value: b"v",
        };
        assert_eq!(refused.check(), Err(LimitError::ValueTooLong(long.len())));
        let everything = KeyRange::Prefix(b"");
        assert_eq!(Operation::Delete { range: everything }.check(), Ok(()));
        assert_eq!(KeyRange::One(b"").check(), Err(LimitError::EmptyKey));
    }
}
