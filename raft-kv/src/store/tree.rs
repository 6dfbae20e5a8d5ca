//! The live keys in order: records in leaves of up to [`LEAF_MAX`], and a map that finds the leaf.
//!
//! What a put costs is what it has to fetch from memory. The map holds one short separator per
//! leaf, so it stays in the cache. A leaf is one allocation; it finds a key by fingerprints of the
//! keys' hashes, 16 bits each and close together, so that of its records only the right one is
//! touched. Order matters only to scans, new keys and removals.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::record::{HashedKey, Record};
use super::separator::Separator;

/// Most records of a leaf.
const LEAF_MAX: usize = 64;

/// Records by key.
#[derive(Debug)]
pub(super) struct Tree {
    /// Leaves by their separator: greater than every key to the left, and not greater than any key
    /// of the leaf. The first leaf has the empty separator and is always there.
    leaves: BTreeMap<Separator, Box<Leaf>>,
    length: usize,
}

/// Records in ascending order of keys.
#[derive(Debug)]
struct Leaf {
    /// Of each record's key, in the order of the records; what lies behind them means nothing.
    fingerprints: [u16; LEAF_MAX],
    length: usize,
    /// Empty records behind those that count.
    records: [Record; LEAF_MAX],
}

impl Tree {
    pub(super) fn new() -> Self {
        let first = (Separator::new(b""), Leaf::new());
        Self {
            leaves: BTreeMap::from([first]),
            length: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.length
    }

    pub(super) fn get(&self, key: HashedKey<'_>) -> Option<&Record> {
        let (_, leaf) = self.leaf(key.bytes);
        leaf.find(key).map(|at| &leaf.records[at])
    }

    /// The record of a key, to be replaced by another one of the same key.
    pub(super) fn get_mut(&mut self, key: HashedKey<'_>) -> Option<&mut Record> {
        let leaf = self.leaf_mut(key.bytes);
        leaf.find(key).map(|at| &mut leaf.records[at])
    }

    /// Adds the record of a key that is not there.
    pub(super) fn insert(&mut self, key: HashedKey<'_>, record: Record) {
        assert_eq!(key.bytes, record.key(), "a record is found by its key");
        self.length += 1;
        let leaf = self.leaf_mut(key.bytes);
        let at = leaf.position(Bound::Included(key.bytes));
        assert!(
            at == leaf.length || leaf.records[at].key() != key.bytes,
            "only a key that is not there is added"
        );
        if leaf.length < LEAF_MAX {
            return leaf.insert(at, key.hash, record);
        }
        let mut right = leaf.split(at);
        if at > leaf.length || right.length == 0 {
            right.insert(at - leaf.length, key.hash, record);
        } else {
            leaf.insert(at, key.hash, record);
        }
        let separator = Separator::between(leaf.last_key(), right.records[0].key());
        self.leaves.insert(separator, right);
    }

    /// The record of the greatest key.
    pub(super) fn last(&self) -> Option<&Record> {
        let (_, leaf) = self.last_leaf();
        leaf.records[..leaf.length].last()
    }

    /// Adds the record of a key that is greater than all others.
    pub(super) fn push(&mut self, key_hash: u64, record: Record) {
        self.length += 1;
        let Some(mut last) = self.leaves.last_entry() else {
            panic!("the first leaf is always there");
        };
        let leaf = last.get_mut();
        if leaf.length < LEAF_MAX {
            assert!(
                leaf.length == 0 || leaf.last_key() < record.key(),
                "keys are in order"
            );
            return leaf.insert(leaf.length, key_hash, record);
        }
        let separator = Separator::between(leaf.last_key(), record.key());
        let mut right = Leaf::new();
        right.insert(0, key_hash, record);
        self.leaves.insert(separator, right);
    }

    pub(super) fn remove(&mut self, key: HashedKey<'_>) -> Option<Record> {
        let leaf = self.leaf_mut(key.bytes);
        let at = leaf.find(key)?;
        let record = leaf.remove(at);
        let is_sparse = leaf.length < LEAF_MAX / 4;
        self.length -= 1;
        if is_sparse {
            self.merge_around(key.bytes);
        }
        Some(record)
    }

    /// The records between two bounds that do not contradict each other, in order.
    pub(super) fn range(
        &self,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = &Record> + use<'_> {
        let (first_separator, first) = match start {
            Bound::Included(key) | Bound::Excluded(key) => self.leaf(key),
            Bound::Unbounded => self.leaf(b""),
        };
        let (last_separator, last) = match end {
            Bound::Included(key) | Bound::Excluded(key) => self.leaf(key),
            Bound::Unbounded => self.last_leaf(),
        };
        let from = first.position(start);
        let to = match end {
            Bound::Included(key) => last.position(Bound::Excluded(key)),
            Bound::Excluded(key) => last.position(Bound::Included(key)),
            Bound::Unbounded => last.length,
        };
        let bounds = (
            Bound::Included(first_separator),
            Bound::Included(last_separator),
        );
        let leaves = self.leaves.range::<[u8], _>(bounds);
        leaves.flat_map(move |(_, leaf)| {
            let from = if std::ptr::eq(&**leaf, first) {
                from
            } else {
                0
            };
            let to = if std::ptr::eq(&**leaf, last) {
                to
            } else {
                leaf.length
            };
            &leaf.records[from..to]
        })
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.range(Bound::Unbounded, Bound::Unbounded)
    }

    /// The leaf in which a key is, if it is anywhere, and its separator.
    fn leaf(&self, key: &[u8]) -> (&[u8], &Leaf) {
        let up_to_key = (Bound::Unbounded, Bound::Included(key));
        let Some((separator, leaf)) = self.leaves.range::<[u8], _>(up_to_key).next_back() else {
            panic!("the first leaf's separator is not greater than any key");
        };
        (separator.bytes(), leaf)
    }

    fn leaf_mut(&mut self, key: &[u8]) -> &mut Leaf {
        let up_to_key = (Bound::Unbounded, Bound::Included(key));
        let Some((_, leaf)) = self.leaves.range_mut::<[u8], _>(up_to_key).next_back() else {
            panic!("the first leaf's separator is not greater than any key");
        };
        leaf
    }

    fn last_leaf(&self) -> (&[u8], &Leaf) {
        let Some((separator, leaf)) = self.leaves.last_key_value() else {
            panic!("the first leaf is always there");
        };
        (separator.bytes(), leaf)
    }

    /// Joins the leaf of `key` with a neighbour, if one leaf is enough for both.
    fn merge_around(&mut self, key: &[u8]) {
        let up_to_key = (Bound::Unbounded, Bound::Included(key));
        let mut until = self.leaves.range::<[u8], _>(up_to_key).rev();
        let (this, before) = (until.next(), until.next());
        let beyond_key = (Bound::Excluded(key), Bound::Unbounded);
        let after = self.leaves.range::<[u8], _>(beyond_key).next();
        let fits = |left: &Leaf, right: &Leaf| {
            let (left, right) = (left.length, right.length);
            left == 0 || right == 0 || left + right <= LEAF_MAX / 2
        };
        let right_one = match (before, this, after) {
            (_, Some(this), Some(after)) if fits(this.1, after.1) => after.0,
            (Some(before), Some(this), _) if fits(before.1, this.1) => this.0,
            (_, Some(_) | None, _) => return,
        };
        let separator = right_one.clone();
        let Some(right) = self.leaves.remove(separator.bytes()) else {
            panic!("a separator that was just found is there");
        };
        self.leaf_mut(separator.bytes()).append(*right);
    }
}

impl Leaf {
    fn new() -> Box<Self> {
        Box::new(Self {
            fingerprints: [0; LEAF_MAX],
            length: 0,
            records: std::array::from_fn(|_| Record::default()),
        })
    }

    fn find(&self, key: HashedKey<'_>) -> Option<usize> {
        let fingerprint = fingerprint(key.hash);
        // All are compared, without a branch, so that the compiler compares many at a time.
        let mut candidates = 0_u64;
        for (at, found) in self.fingerprints.iter().enumerate() {
            candidates |= u64::from(*found == fingerprint) << at;
        }
        while candidates != 0 {
            let at = candidates.trailing_zeros() as usize;
            if at >= self.length {
                return None;
            }
            if self.records[at].key() == key.bytes {
                return Some(at);
            }
            candidates &= candidates - 1;
        }
        None
    }

    /// Where the records from a bound on begin.
    fn position(&self, start: Bound<&[u8]>) -> usize {
        let records = &self.records[..self.length];
        match start {
            Bound::Included(key) => records.partition_point(|record| record.key() < key),
            Bound::Excluded(key) => records.partition_point(|record| record.key() <= key),
            Bound::Unbounded => 0,
        }
    }

    fn last_key(&self) -> &[u8] {
        self.records[self.length - 1].key()
    }

    fn insert(&mut self, at: usize, key_hash: u64, record: Record) {
        assert!(self.length < LEAF_MAX, "a full leaf is split first");
        self.records[at..=self.length].rotate_right(1);
        self.records[at] = record;
        self.fingerprints.copy_within(at..self.length, at + 1);
        self.fingerprints[at] = fingerprint(key_hash);
        self.length += 1;
    }

    fn remove(&mut self, at: usize) -> Record {
        let record = std::mem::take(&mut self.records[at]);
        self.records[at..self.length].rotate_left(1);
        self.fingerprints.copy_within(at + 1..self.length, at);
        self.length -= 1;
        record
    }

    /// Splits a full leaf into which a record is to be inserted. Keys that come in ascending order
    /// leave full leaves behind.
    fn split(&mut self, insert_at: usize) -> Box<Self> {
        let keep = if insert_at == LEAF_MAX {
            LEAF_MAX
        } else {
            LEAF_MAX / 2
        };
        let mut right = Self::new();
        right.length = LEAF_MAX - keep;
        right.fingerprints[..right.length].copy_from_slice(&self.fingerprints[keep..]);
        right.records[..right.length].swap_with_slice(&mut self.records[keep..]);
        self.length = keep;
        right
    }

    fn append(&mut self, mut right: Self) {
        let (from, length) = (self.length, self.length + right.length);
        self.fingerprints[from..length].copy_from_slice(&right.fingerprints[..right.length]);
        self.records[from..length].swap_with_slice(&mut right.records[..right.length]);
        self.length = length;
    }
}

/// Of a hash the bits that a leaf keeps.
const fn fingerprint(hash: u64) -> u16 {
    (hash >> 48) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Revision;
    use crate::store::record::Meta;

    impl Tree {
        /// Checks what must always hold between separators, records and fingerprints.
        fn check(&self) {
            let mut before: Option<&Record> = None;
            let mut length = 0;
            for (separator, leaf) in &self.leaves {
                let separator = separator.bytes();
                assert!(leaf.length > 0 || separator.is_empty(), "an empty leaf");
                for at in 0..leaf.length {
                    let record = &leaf.records[at];
                    assert!(separator <= record.key());
                    assert!(before.is_none_or(|before| before.key() < record.key()));
                    let hash = HashedKey::new(record.key()).hash;
                    assert_eq!(leaf.fingerprints[at], fingerprint(hash));
                    before = Some(record);
                }
                let behind = &leaf.records[leaf.length..];
                assert!(behind.iter().all(|record| *record == Record::default()));
                length += leaf.length;
            }
            assert_eq!(length, self.length);
        }
    }

    fn record(key: &[u8]) -> Record {
        let meta = Meta {
            create_revision: Revision(2),
            mod_revision: Revision(2),
            version: 1,
            previous: 0,
        };
        Record::new(HashedKey::new(key), meta, [b"v", b""])
    }

    fn insert(tree: &mut Tree, key: &[u8]) {
        tree.insert(HashedKey::new(key), record(key));
    }

    #[test]
    fn a_tree_agrees_with_a_set_in_every_order_of_insertion_and_removal() {
        const KEYS: u64 = 3_000;
        // Odd multipliers modulo a prime are permutations; 1 is the ascending order.
        for (insert_by, remove_by) in [(1, 1), (1, 1_000), (2_000, 1), (17, 2_999), (3_000, 5)] {
            let key = |by: u64, n: u64| format!("k{}", (n * by) % 3_001).into_bytes();
            let mut tree = Tree::new();
            let mut set = std::collections::BTreeSet::new();
            for n in 1..=KEYS {
                let key = key(insert_by, n);
                assert!(tree.get(HashedKey::new(&key)).is_none());
                insert(&mut tree, &key);
                assert!(tree.get(HashedKey::new(&key)).is_some());
                set.insert(key);
            }
            tree.check();
            assert!(
                tree.iter()
                    .map(Record::key)
                    .eq(set.iter().map(|key| &key[..]))
            );
            for n in 1..=KEYS {
                let key = key(remove_by, n);
                assert!(set.remove(&key));
                let removed = tree.remove(HashedKey::new(&key)).expect("it is there");
                assert_eq!(removed.key(), key);
                assert!(tree.remove(HashedKey::new(&key)).is_none());
                if n % 100 == 0 {
                    tree.check();
                    let keys = tree.iter().rev().map(Record::key);
                    assert!(keys.eq(set.iter().rev().map(|key| &key[..])));
                }
            }
            assert_eq!((tree.len(), tree.leaves.len()), (0, 1));
        }
    }

    #[test]
    fn ranges_begin_and_end_anywhere() {
        let mut tree = Tree::new();
        let keys: Vec<String> = (0..400).map(|n| format!("{n:03}")).collect();
        // Every second key is there.
        keys.iter()
            .step_by(2)
            .for_each(|key| insert(&mut tree, key.as_bytes()));
        let bounds = |n: usize| {
            let key = keys[n].as_bytes();
            [Bound::Included(key), Bound::Excluded(key), Bound::Unbounded]
        };
        for from in (0..400).step_by(7) {
            for to in (from + 1..400).step_by(13) {
                for (start, end) in bounds(from).into_iter().zip(bounds(to)) {
                    let found: Vec<&[u8]> = tree.range(start, end).map(Record::key).collect();
                    let inside = |key: &&[u8]| {
                        let after_start = match start {
                            Bound::Included(start) => start <= *key,
                            Bound::Excluded(start) => start < *key,
                            Bound::Unbounded => true,
                        };
                        after_start
                            && match end {
                                Bound::Included(end) => *key <= end,
                                Bound::Excluded(end) => *key < end,
                                Bound::Unbounded => true,
                            }
                    };
                    let all = keys.iter().step_by(2).map(String::as_bytes);
                    let expected: Vec<&[u8]> = all.filter(inside).collect();
                    assert_eq!(found, expected, "{start:?} {end:?}");
                    let backwards = tree.range(start, end).rev().map(Record::key);
                    assert!(backwards.eq(expected.into_iter().rev()));
                }
            }
        }
    }

    #[test]
    fn keys_that_come_in_order_fill_their_leaves() {
        let mut tree = Tree::new();
        let mut pushed = Tree::new();
        for n in 0..LEAF_MAX * 10 {
            let key = format!("{n:06}");
            insert(&mut tree, key.as_bytes());
            pushed.push(HashedKey::new(key.as_bytes()).hash, record(key.as_bytes()));
        }
        tree.check();
        pushed.check();
        assert_eq!((tree.leaves.len(), pushed.leaves.len()), (10, 10));
        assert!(tree.iter().eq(pushed.iter()));
    }
}
