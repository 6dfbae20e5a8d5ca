//! Range reads: the live keys, joined with what history shows at an older revision.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::ops::Bound;

use super::Store;
use super::record::Record;
use crate::limits::MAX_RANGE_REPLY_BYTES;
use crate::operation::{KeyRange, Order, RangeQuery, Revision, Select};
use crate::reply::RangeRef;

/// Collects the answer to a query whose revision exists.
pub(super) fn collect<'a>(store: &'a Store, query: &RangeQuery<'_>) -> RangeRef<'a> {
    let mut answer = Answer::new(store.revision, query);
    let at = match query.revision {
        Revision::ZERO => store.revision,
        revision => revision,
    };
    if let KeyRange::One(key) = query.range {
        if let Some((key, record)) = one_at(store, key, at) {
            answer.add(key, record);
        }
        return answer.range;
    }
    if query.range.is_empty() {
        return answer.range;
    }
    let end = query.range.end();
    let bounds = (
        Bound::Included(query.range.start()),
        end.as_ref().map(|end| &end[..]),
    );
    let live = store.live.range::<[u8], _>(bounds);
    let live = live.map(|(key, record)| (&key[..], record));
    if at == store.revision {
        match query.order {
            Order::Ascending => live.for_each(|(key, record)| answer.add(key, record)),
            Order::Descending => live.rev().for_each(|(key, record)| answer.add(key, record)),
        }
        return answer.range;
    }
    let live = live.filter(move |(_, record)| record.mod_revision() <= at);
    let superseded = store.history.range_at(&query.range, at).into_iter();
    match query.order {
        Order::Ascending => Merge::new(live, superseded, Order::Ascending)
            .for_each(|(key, record)| answer.add(key, record)),
        Order::Descending => Merge::new(live.rev(), superseded.rev(), Order::Descending)
            .for_each(|(key, record)| answer.add(key, record)),
    }
    answer.range
}

/// The version of one key that is visible at a revision. The key is the store's own.
fn one_at<'a>(store: &'a Store, key: &[u8], at: Revision) -> Option<(&'a [u8], &'a Record)> {
    if let Some((key, record)) = store.live.get_key_value(key)
        && record.mod_revision() <= at
    {
        return Some((key, record));
    }
    store.history.get_at(key, at)
}

/// Counts everything, keeps what the query asks for and the reply can hold.
struct Answer<'a> {
    range: RangeRef<'a>,
    limit: u64,
    select: Select,
    bytes: usize,
}

impl<'a> Answer<'a> {
    fn new(revision: Revision, query: &RangeQuery<'_>) -> Self {
        Self {
            range: RangeRef {
                revision,
                ..RangeRef::default()
            },
            limit: match query.limit {
                0 => u64::MAX,
                limit => limit,
            },
            select: query.select,
            bytes: 0,
        }
    }

    fn add(&mut self, key: &'a [u8], record: &'a Record) {
        self.range.count += 1;
        let value = match self.select {
            Select::Pairs => record.value(),
            Select::KeysOnly => b"",
            Select::CountOnly => return,
        };
        let bytes = self.bytes + key.len() + value.len();
        let is_first = self.range.pairs.is_empty();
        let fits = is_first || bytes <= MAX_RANGE_REPLY_BYTES;
        // Once a pair was left out, all later ones are, or the answer would have a gap.
        if self.range.more || self.range.pairs.len() as u64 >= self.limit || !fits {
            self.range.more = true;
            return;
        }
        self.bytes = bytes;
        self.range.pairs.push(record.to_pair(key, value));
    }
}

/// Two sorted sequences without a common key, joined in order.
struct Merge<A: Iterator, B: Iterator> {
    left: Peekable<A>,
    right: Peekable<B>,
    order: Order,
}

impl<'a, A, B> Merge<A, B>
where
    A: Iterator<Item = (&'a [u8], &'a Record)>,
    B: Iterator<Item = (&'a [u8], &'a Record)>,
{
    fn new(left: A, right: B, order: Order) -> Self {
        Self {
            left: left.peekable(),
            right: right.peekable(),
            order,
        }
    }
}

impl<'a, A, B> Iterator for Merge<A, B>
where
    A: Iterator<Item = (&'a [u8], &'a Record)>,
    B: Iterator<Item = (&'a [u8], &'a Record)>,
{
    type Item = (&'a [u8], &'a Record);

    fn next(&mut self) -> Option<Self::Item> {
        let (Some(left), Some(right)) = (self.left.peek(), self.right.peek()) else {
            return self.left.next().or_else(|| self.right.next());
        };
        let ascending = left.0.cmp(right.0);
        assert_ne!(
            ascending,
            Ordering::Equal,
            "one version of a key is visible at a revision"
        );
        let left_first = match self.order {
            Order::Ascending => ascending == Ordering::Less,
            Order::Descending => ascending == Ordering::Greater,
        };
        if left_first {
            self.left.next()
        } else {
            self.right.next()
        }
    }
}
