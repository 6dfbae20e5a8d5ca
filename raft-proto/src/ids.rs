//! Newtypes for everything that is counted or named: nodes, clusters, terms, log indexes.

use std::fmt;

use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer, Serialize};

/// Largest term or log index that is read from a peer or a file. Whatever arrives may therefore
/// be counted on from without overflow; at a million a second it lasts 146,000 years.
pub const MAX_COUNT: u64 = (1 << 62) - 1;

macro_rules! number_newtype {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize,
        )]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

number_newtype!(
    /// The id of a node, unique in its cluster for as long as the cluster lives. Never zero.
    NodeId(u64), "n"
);
number_newtype!(
    /// The Raft group a record or frame belongs to. Reserved: always 0 today.
    GroupId(u32), "g"
);
number_newtype!(
    /// A term, Raft's logical clock (§5.1). 0 is the term before the first.
    Term(u64), "t"
);
number_newtype!(
    /// A position in the log. The first entry has index 1 (§5.3); 0 is the position before it.
    LogIndex(u64), ""
);

macro_rules! read_with {
    ($($name:ident: $read:path;)*) => {
        $(
            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    $read(deserializer).map(Self)
                }
            }
        )*
    };
}

read_with! {
    NodeId: u64::deserialize;
    GroupId: u32::deserialize;
    Term: count;
    LogIndex: count;
}

/// Reads a number of at most [`MAX_COUNT`].
fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let value = u64::deserialize(deserializer)?;
    if value > MAX_COUNT {
        let found = Unexpected::Unsigned(value);
        return Err(D::Error::invalid_value(
            found,
            &"a number of at most 62 bits",
        ));
    }
    Ok(value)
}

impl Term {
    /// The term before the first.
    pub const ZERO: Self = Self(0);

    /// The term after this one; what arrives leaves room for it ([`MAX_COUNT`]).
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl LogIndex {
    /// The position before the first entry.
    pub const ZERO: Self = Self(0);
    /// The position of the first entry.
    pub const FIRST: Self = Self(1);

    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The position before this one, or 0 at the start of the log.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The position `count` entries later.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }

    /// How many positions lie after `earlier` up to and including this one (0 if none).
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One life of a node's data directory, drawn at random when the directory is created. A node
/// whose directory was wiped comes back with another incarnation and is not the same member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// An incarnation that follows from these bytes (the first 8 of their SHA-256 hash), for data
    /// directories that are made from something else than chance.
    #[must_use]
    pub fn derived_from(bytes: &[u8]) -> Self {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(bytes);
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        Self(u64::from_be_bytes(first))
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incarnation({self})")
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One start of a node: a durable counter that grows by one at each start, and a nonce drawn at
/// the start. The same counter with two nonces means that a data directory was copied.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Boot {
    /// How many times the data directory was opened, this time included.
    pub counter: u64,
    /// Drawn at random at this start.
    pub nonce: u64,
}

/// The id of a cluster: the first 16 bytes of the SHA-256 hash of its first log entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// The id of the cluster whose log starts with an entry of this payload.
    #[must_use]
    pub fn of_first_entry(payload: &[u8]) -> Self {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(payload);
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_count_positions() {
        assert_eq!(LogIndex(7).since(LogIndex(4)), 3);
        assert_eq!(LogIndex(4).since(LogIndex(7)), 0);
        assert_eq!(LogIndex::ZERO.previous(), LogIndex::ZERO);
        assert_eq!(LogIndex::ZERO.next(), LogIndex::FIRST);
    }

    #[test]
    fn absurd_counts_are_refused_when_read() {
        let bytes = |value: u64| {
            let mut bytes = Vec::new();
            crate::codec::encode(&value, &mut bytes).unwrap();
            bytes
        };
        assert_eq!(
            crate::codec::decode_exact::<Term>(&bytes(MAX_COUNT)),
            Ok(Term(MAX_COUNT))
        );
        for value in [MAX_COUNT + 1, u64::MAX] {
            assert!(crate::codec::decode_exact::<Term>(&bytes(value)).is_err());
            assert!(crate::codec::decode_exact::<LogIndex>(&bytes(value)).is_err());
        }
    }

    #[test]
    fn a_derived_incarnation_is_the_hash_of_its_bytes() {
        let derived = Incarnation::derived_from(b"abc");
        assert_eq!(derived.to_string(), "ba7816bf8f01cfea");
    }

    #[test]
    fn cluster_id_is_the_hash_of_the_first_entry() {
        // The first half of the well-known SHA-256 of "abc".
        assert_eq!(
            ClusterId::of_first_entry(b"abc").to_string(),
            "ba7816bf8f01cfea414140de5dae2223"
        );
    }
}
