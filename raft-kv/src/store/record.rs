//! One version of one key in a single allocation: its revisions, its version and its value.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::codec::Slice;
use crate::operation::Revision;
use crate::reply::PairRef;

/// Bytes before the value: create revision, mod revision and version, little endian.
const HEADER_BYTES: usize = 24;

/// What is stored for a key at one of its versions. A million of them live in memory, so they are
/// one boxed slice each: 16 bytes in the tree and one allocation of exactly the right size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record(Box<[u8]>);

impl Record {
    /// Copies the parts of the value, once, into a new record.
    pub(super) fn new(
        create_revision: Revision,
        mod_revision: Revision,
        version: u64,
        value: [&[u8]; 2],
    ) -> Self {
        assert!(
            create_revision <= mod_revision,
            "a key is written after it is created"
        );
        let length = HEADER_BYTES + value[0].len() + value[1].len();
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&create_revision.0.to_le_bytes());
        bytes.extend_from_slice(&mod_revision.0.to_le_bytes());
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(value[0]);
        bytes.extend_from_slice(value[1]);
        Self(bytes.into_boxed_slice())
    }

    pub(super) fn create_revision(&self) -> Revision {
        Revision(self.number(0))
    }

    pub(super) fn mod_revision(&self) -> Revision {
        Revision(self.number(8))
    }

    pub(super) fn version(&self) -> u64 {
        self.number(16)
    }

    pub(super) fn value(&self) -> &[u8] {
        &self.0[HEADER_BYTES..]
    }

    /// This key's part of the store's hash. Parts are added up, so the order of keys is of no
    /// account and a part can be taken out again.
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        xxh3_64_with_seed(&self.0, xxh3_64(key))
    }

    /// The pair as it goes into a reply.
    pub(super) fn to_pair<'a>(&'a self, key: &'a [u8], value: &'a [u8]) -> PairRef<'a> {
        PairRef {
            key: Slice(key),
            create_revision: self.create_revision(),
            mod_revision: self.mod_revision(),
            version: self.version(),
            value: Slice(value),
        }
    }

    fn number(&self, offset: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[offset..offset + 8]);
        u64::from_le_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_gives_back_its_parts() {
        let record = Record::new(Revision(3), Revision(u64::MAX), 5, [b"va", b"lue"]);
        assert_eq!(record.create_revision(), Revision(3));
        assert_eq!(record.mod_revision(), Revision(u64::MAX));
        assert_eq!(record.version(), 5);
        assert_eq!(record.value(), b"value");
    }

    #[test]
    fn every_part_counts_in_the_hash() {
        let hash = |create, modified, version, value: &[u8], key: &[u8]| {
            Record::new(Revision(create), Revision(modified), version, [value, b""]).hash(key)
        };
        let base = hash(1, 2, 2, b"v", b"k");
        assert_eq!(base, hash(1, 2, 2, b"v", b"k"));
        assert_ne!(base, hash(2, 2, 2, b"v", b"k"));
        assert_ne!(base, hash(1, 3, 2, b"v", b"k"));
        assert_ne!(base, hash(1, 2, 1, b"v", b"k"));
        assert_ne!(base, hash(1, 2, 2, b"w", b"k"));
        assert_ne!(base, hash(1, 2, 2, b"v", b"l"));
    }
}
