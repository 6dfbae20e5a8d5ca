//! One version of one key in a single allocation: the key, its revisions, its version, its value.
//!
//! ```text
//! hash (8 bytes) · key length · key · create revision · mod revision - create revision · version
//!   · number of the version before it in history, or 0 · value
//! ```
//!
//! Numbers have a variable length: seven bits a byte, low ones first, the eighth bit on all but the
//! last. A million records live in memory, so every byte counts. The hash is kept because a version
//! leaves the store's hash when it is replaced, and to compute it again would read the old value,
//! which nothing else does.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::codec::Slice;
use crate::operation::Revision;
use crate::reply::PairRef;

const HASH_BYTES: usize = 8;
/// Most bytes of a number.
const NUMBER_BYTES_MAX: usize = 10;

/// A version as it is stored. A clone is a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record(Box<[u8]>);

/// A key with its hash, which every access needs.
#[derive(Clone, Copy)]
pub(super) struct HashedKey<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) hash: u64,
}

impl<'a> HashedKey<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let hash = xxh3_64(bytes);
        Self { bytes, hash }
    }
}

/// What a record says besides key and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) create_revision: Revision,
    pub(super) mod_revision: Revision,
    pub(super) version: u64,
    /// The number in history of the version of this key before this one; 0 if there is none. It
    /// may have been compacted.
    pub(super) previous: u64,
}

/// A record taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) meta: Meta,
    pub(super) value: &'a [u8],
}

impl Record {
    /// Copies key and value, the latter in two parts, into a new record.
    pub(super) fn new(key: HashedKey<'_>, meta: Meta, value: [&[u8]; 2]) -> Self {
        assert!(
            meta.create_revision <= meta.mod_revision,
            "a key is written after it is created"
        );
        let mut before_key = Numbers::new();
        before_key.push(key.bytes.len() as u64);
        let mut after_key = Numbers::new();
        after_key.push(meta.create_revision.0);
        after_key.push(meta.mod_revision.0 - meta.create_revision.0);
        after_key.push(meta.version);
        after_key.push(meta.previous);
        let head = HASH_BYTES + before_key.length + key.bytes.len() + after_key.length;
        let mut bytes = Vec::with_capacity(head + value[0].len() + value[1].len());
        bytes.extend_from_slice(&[0; HASH_BYTES]);
        bytes.extend_from_slice(before_key.bytes());
        bytes.extend_from_slice(key.bytes);
        bytes.extend_from_slice(after_key.bytes());
        bytes.extend_from_slice(value[0]);
        bytes.extend_from_slice(value[1]);
        let hash = hash_of(key.hash, &meta, &bytes[head..]);
        bytes[..HASH_BYTES].copy_from_slice(&hash.to_le_bytes());
        Self(bytes.into_boxed_slice())
    }

    pub(super) fn key(&self) -> &[u8] {
        let mut rest = &self.0[HASH_BYTES..];
        // The length was a usize when it was written.
        let length = take_number(&mut rest) as usize;
        &rest[..length]
    }

    /// This version's part of the store's hash. Parts are added up, so the order of keys is of no
    /// account and a part can be taken out again.
    pub(super) fn hash(&self) -> u64 {
        let mut hash = [0; HASH_BYTES];
        hash.copy_from_slice(&self.0[..HASH_BYTES]);
        u64::from_le_bytes(hash)
    }

    /// The same hash, computed from nothing but the content.
    pub(super) fn recomputed_hash(&self) -> u64 {
        let view = self.view();
        hash_of(xxh3_64(self.key()), &view.meta, view.value)
    }

    pub(super) fn view(&self) -> View<'_> {
        let mut rest = &self.0[HASH_BYTES..];
        let key_bytes = take_number(&mut rest) as usize;
        rest = &rest[key_bytes..];
        let create_revision = Revision(take_number(&mut rest));
        let mod_revision = Revision(create_revision.0 + take_number(&mut rest));
        let meta = Meta {
            create_revision,
            mod_revision,
            version: take_number(&mut rest),
            previous: take_number(&mut rest),
        };
        View { meta, value: rest }
    }

    pub(super) fn meta(&self) -> Meta {
        self.view().meta
    }

    pub(super) fn mod_revision(&self) -> Revision {
        self.meta().mod_revision
    }

    pub(super) fn value(&self) -> &[u8] {
        self.view().value
    }

    /// Bytes of key and value.
    pub(super) fn data_bytes(&self) -> usize {
        self.key().len() + self.value().len()
    }

    /// The pair as it goes into a reply.
    pub(super) fn to_pair(&self) -> PairRef<'_> {
        let View { meta, value } = self.view();
        PairRef {
            key: Slice(self.key()),
            create_revision: meta.create_revision,
            mod_revision: meta.mod_revision,
            version: meta.version,
            value: Slice(value),
        }
    }
}

/// Where a version lies in history is no part of the hash: it differs between a replica that has
/// lived through everything and one that was restored.
fn hash_of(key_hash: u64, meta: &Meta, value: &[u8]) -> u64 {
    let mut head = [0; 24];
    head[..8].copy_from_slice(&meta.create_revision.0.to_le_bytes());
    head[8..16].copy_from_slice(&meta.mod_revision.0.to_le_bytes());
    head[16..].copy_from_slice(&meta.version.to_le_bytes());
    xxh3_64_with_seed(value, xxh3_64_with_seed(&head, key_hash))
}

/// Some numbers on their way into a record.
struct Numbers {
    bytes: [u8; 4 * NUMBER_BYTES_MAX],
    length: usize,
}

impl Numbers {
    const fn new() -> Self {
        Self {
            bytes: [0; 4 * NUMBER_BYTES_MAX],
            length: 0,
        }
    }

    fn push(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes[self.length] = number as u8 | 0x80;
            self.length += 1;
            number >>= 7;
        }
        self.bytes[self.length] = number as u8;
        self.length += 1;
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Takes a number off the start of a record's bytes.
fn take_number(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return number;
        }
    }
    panic!("a record ends before its value");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &[u8], meta: [u64; 4], value: [&[u8]; 2]) -> Record {
        let meta = Meta {
            create_revision: Revision(meta[0]),
            mod_revision: Revision(meta[1]),
            version: meta[2],
            previous: meta[3],
        };
        Record::new(HashedKey::new(key), meta, value)
    }

    #[test]
    fn a_record_gives_back_its_parts() {
        let numbers = [0, 1, 127, 128, 300, 1 << 35, u64::MAX];
        for create in numbers {
            for version in numbers {
                for previous in numbers {
                    let meta = [create, u64::MAX, version, previous];
                    let long = [7; 300];
                    for key in [&b"k"[..], &long] {
                        let record = record(key, meta, [b"va", b"lue"]);
                        let found = record.meta();
                        let found_meta = [
                            found.create_revision.0,
                            found.mod_revision.0,
                            found.version,
                            found.previous,
                        ];
                        assert_eq!(found_meta, meta);
                        assert_eq!((record.key(), record.value()), (key, &b"value"[..]));
                        assert_eq!(record.data_bytes(), key.len() + 5);
                        assert_eq!(record.hash(), record.recomputed_hash());
                    }
                }
            }
        }
    }

    #[test]
    fn every_part_counts_in_the_hash_but_the_place_in_history() {
        let hash = |create, modified, version, previous, value: &[u8], key: &[u8]| {
            record(key, [create, modified, version, previous], [value, b""]).hash()
        };
        let base = hash(1, 2, 2, 0, b"v", b"k");
        assert_eq!(base, hash(1, 2, 2, 9, b"v", b"k"));
        assert_ne!(base, hash(2, 2, 2, 0, b"v", b"k"));
        assert_ne!(base, hash(1, 3, 2, 0, b"v", b"k"));
        assert_ne!(base, hash(1, 2, 1, 0, b"v", b"k"));
        assert_ne!(base, hash(1, 2, 2, 0, b"w", b"k"));
        assert_ne!(base, hash(1, 2, 2, 0, b"v", b"l"));
    }

    #[test]
    fn a_record_takes_few_bytes_besides_its_data() {
        let record = record(b"key", [1_000_000, 1_000_000, 1, 0], [b"value", b""]);
        assert_eq!(record.0.len(), 8 + 1 + 3 + 3 + 1 + 1 + 1 + 5);
    }
}
