//! Range reads: the live keys, joined with what history shows at an older revision.

use std::cmp::Ordering;
use std::iter::Peekable;

use super::Store;
use super::record::Record;
use crate::operation::{KeyRange, Order, RangeQuery, Revision, Select, SortBy};
use crate::reply::RangeRef;

/// Collects the answer to a query whose revision exists. At most `room` bytes of keys and values
/// are returned; what does not fit is left out, and the answer says so.
pub(super) fn collect<'a>(store: &'a Store, query: &RangeQuery<'_>, room: usize) -> RangeRef<'a> {
    let mut answer = Answer::new(store.revision, query, room);
    if query.sort_by == SortBy::Key || query.select == Select::CountOnly {
        visit(store, query, query.order, |key, record| {
            answer.add(key, record)
        });
        return answer.range;
    }
    let mut found = Vec::new();
    visit(store, query, Order::Ascending, |key, record| {
        found.push((key, record))
    });
    let compare = |left: &(&[u8], &Record), right: &(&[u8], &Record)| {
        let by_target = compare_by(query.sort_by, left.1, right.1);
        let by_target = match query.order {
            Order::Ascending => by_target,
            Order::Descending => by_target.reverse(),
        };
        by_target.then_with(|| left.0.cmp(right.0))
    };
    // Only what is returned need be in order.
    let limit = usize::try_from(answer.limit).unwrap_or(usize::MAX);
    if limit < found.len() {
        found.select_nth_unstable_by(limit, compare);
        found[..limit].sort_unstable_by(compare);
    } else {
        found.sort_unstable_by(compare);
    }
    found
        .into_iter()
        .for_each(|(key, record)| answer.add(key, record));
    answer.range
}

fn compare_by(target: SortBy, left: &Record, right: &Record) -> Ordering {
    match target {
        SortBy::Key => Ordering::Equal,
        SortBy::CreateRevision => left.create_revision().cmp(&right.create_revision()),
        SortBy::ModRevision => left.mod_revision().cmp(&right.mod_revision()),
        SortBy::Version => left.version().cmp(&right.version()),
        SortBy::Value => left.value().cmp(right.value()),
    }
}

/// Shows every pair of the range, in an order of keys.
fn visit<'a>(
    store: &'a Store,
    query: &RangeQuery<'_>,
    order: Order,
    mut show: impl FnMut(&'a [u8], &'a Record),
) {
    let at = match query.revision {
        Revision::ZERO => store.revision,
        revision => revision,
    };
    if let KeyRange::One(key) = query.range {
        if let Some((key, record)) = one_at(store, key, at) {
            show(key, record);
        }
        return;
    }
    let live = store.live_range(&query.range);
    if at == store.revision {
        match order {
            Order::Ascending => live.for_each(|(key, record)| show(key, record)),
            Order::Descending => live.rev().for_each(|(key, record)| show(key, record)),
        }
        return;
    }
    let live = live.filter(move |(_, record)| record.mod_revision() <= at);
    let superseded = store.history.range_at(&query.range, at).into_iter();
    match order {
        Order::Ascending => Merge::new(live, superseded, Order::Ascending)
            .for_each(|(key, record)| show(key, record)),
        Order::Descending => Merge::new(live.rev(), superseded.rev(), Order::Descending)
            .for_each(|(key, record)| show(key, record)),
    }
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
    /// Bytes of keys and values that may still be added.
    room: usize,
}

impl<'a> Answer<'a> {
    fn new(revision: Revision, query: &RangeQuery<'_>, room: usize) -> Self {
        Self {
            room,
            range: RangeRef {
                revision,
                ..RangeRef::default()
            },
            limit: match query.limit {
                0 => u64::MAX,
                limit => limit,
            },
            select: query.select,
        }
    }

    fn add(&mut self, key: &'a [u8], record: &'a Record) {
        self.range.count += 1;
        let value = match self.select {
            Select::Pairs => record.value(),
            Select::KeysOnly => b"",
            Select::CountOnly => return,
        };
        let bytes = key.len() + value.len();
        // Once a pair was left out, all later ones are, or the answer would have a gap.
        let full = self.range.pairs.len() as u64 >= self.limit || bytes > self.room;
        if self.range.more || full {
            self.range.more = true;
            return;
        }
        self.room -= bytes;
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
