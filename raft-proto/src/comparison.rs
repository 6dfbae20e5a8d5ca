//! What a comparison of replicas is agreed on: the payload of the empty entry that starts one.
//!
//! A leader proposes it as an [`EntryKind::Noop`](crate::EntryKind::Noop) with this payload, which
//! builds of version 1 store and pass on like any other empty entry.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::ids::LogIndex;

/// Names the entries that all members read back from their disks and compare. The state machines
/// are compared as of the entry that carries this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// The first entry compared.
    pub first: LogIndex,
    /// The last one; the one before `first` if no entries are compared. It is committed.
    pub last: LogIndex,
}

impl Comparison {
    /// Most sections that the entries are divided into; each has a checksum of its own.
    pub const MAX_SECTIONS: u64 = 64;
    /// Most entries that are compared at once.
    pub const MAX_ENTRIES: u64 = 16_384;

    /// How many entries are compared.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        (self.last.0 + 1).saturating_sub(self.first.0)
    }

    /// First and last entry of the section with this number, counted from 0: the entries divided
    /// evenly, with what is left over in the last one.
    #[must_use]
    pub fn section(&self, number: u64) -> Option<(LogIndex, LogIndex)> {
        let each = self.entries().div_ceil(Self::MAX_SECTIONS).max(1);
        let first = self.first.plus(number.checked_mul(each)?);
        let last = LogIndex((first.0 + each - 1).min(self.last.0));
        (first <= self.last).then_some((first, last))
    }

    /// The payload of the entry that carries it.
    ///
    /// # Errors
    /// Never for two indexes; [`CodecError::TooLarge`] by its signature.
    pub fn to_bytes(&self) -> Result<Bytes, CodecError> {
        let mut bytes = Vec::new();
        codec::encode(self, &mut bytes)?;
        Ok(bytes.into())
    }

    /// Reads the payload of an empty entry that has one.
    ///
    /// # Errors
    /// [`CodecError`] if these bytes are not exactly one comparison of entries that there can be.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        let found: Self = codec::decode_exact(bytes)?;
        let starts = found.first >= LogIndex::FIRST && found.first.0 <= found.last.0 + 1;
        if starts && found.entries() <= Self::MAX_ENTRIES {
            Ok(found)
        } else {
            Err(CodecError::Malformed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(first: u64, last: u64) -> Comparison {
        Comparison {
            first: LogIndex(first),
            last: LogIndex(last),
        }
    }

    #[test]
    fn sections_cover_every_entry_once() {
        for last in [
            4,
            5,
            67,
            68,
            69,
            70,
            131,
            132,
            133,
            4 + Comparison::MAX_ENTRIES,
        ] {
            let comparison = of(5, last);
            let sections = (0..).map_while(|number| comparison.section(number));
            let mut next = 5;
            let mut count = 0;
            for (first, end) in sections {
                assert_eq!(first.0, next, "to {last}");
                assert!(end >= first, "to {last}");
                next = end.0 + 1;
                count += 1;
            }
            assert_eq!(next, last + 1, "to {last}");
            assert!(count <= Comparison::MAX_SECTIONS, "to {last}");
            assert_eq!(count == 0, comparison.entries() == 0);
        }
    }

    #[test]
    fn what_cannot_be_is_malformed() {
        let most = of(5, 4 + Comparison::MAX_ENTRIES);
        for good in [of(1, 0), of(1, 1), of(7, 6), most] {
            let bytes = good.to_bytes().expect("two indexes encode");
            assert_eq!(Comparison::from_bytes(&bytes), Ok(good));
        }
        for bad in [of(0, 0), of(7, 5), of(5, 5 + Comparison::MAX_ENTRIES)] {
            let bytes = bad.to_bytes().expect("two indexes encode");
            assert_eq!(Comparison::from_bytes(&bytes), Err(CodecError::Malformed));
        }
    }
}
