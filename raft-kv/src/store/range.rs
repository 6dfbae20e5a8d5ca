//! Range reads: the live keys, and at an older revision what their history shows.

use std::cmp::Ordering;
use std::iter::Peekable;

use super::Store;
use super::record::{HashedKey, Record};
use crate::codec::Slice;
use crate::operation::{KeyRange, Order, RangeQuery, Revision, Select, SortBy};
use crate::reply::RangeRef;

/// Collects the answer to a query whose revision exists. The pairs take at most `room` bytes of the
/// reply; those that do not fit are left out, and the answer says so.
pub(super) fn collect<'a>(store: &'a Store, query: &RangeQuery<'_>, room: usize) -> RangeRef<'a> {
    let mut answer = Answer::new(store.revision, query, room);
    if query.sort_by == SortBy::Key || query.select == Select::CountOnly {
        visit(store, query, query.order, |record| answer.add(record));
        return answer.range;
    }
    let mut found = Vec::new();
    visit(store, query, Order::Ascending, |record| found.push(record));
    let compare = |left: &&Record, right: &&Record| {
        let by_target = compare_by(query.sort_by, left, right);
        let by_target = match query.order {
            Order::Ascending => by_target,
            Order::Descending => by_target.reverse(),
        };
        by_target.then_with(|| left.key().cmp(right.key()))
    };
    // Only what is returned need be in order.
    let limit = usize::try_from(answer.limit).unwrap_or(usize::MAX);
    if limit < found.len() {
        found.select_nth_unstable_by(limit, compare);
        found[..limit].sort_unstable_by(compare);
    } else {
        found.sort_unstable_by(compare);
    }
    found.into_iter().for_each(|record| answer.add(record));
    answer.range
}

fn compare_by(target: SortBy, left: &Record, right: &Record) -> Ordering {
    let (left, right) = (left.view(), right.view());
    match target {
        SortBy::Key => Ordering::Equal,
        SortBy::CreateRevision => left.meta.create_revision.cmp(&right.meta.create_revision),
        SortBy::ModRevision => left.meta.mod_revision.cmp(&right.meta.mod_revision),
        SortBy::Version => left.meta.version.cmp(&right.meta.version),
        SortBy::Value => left.value.cmp(right.value),
    }
}

/// Shows every record that the query is about, in an order of keys.
fn visit<'a>(store: &'a Store, query: &RangeQuery<'_>, order: Order, show: impl FnMut(&'a Record)) {
    let at = match query.revision {
        Revision::ZERO => store.revision,
        revision => revision,
    };
    if let KeyRange::One(key) = query.range {
        return one_at(store, key, at).into_iter().for_each(show);
    }
    let live = store.live_range(&query.range);
    if at == store.revision {
        return match order {
            Order::Ascending => live.for_each(show),
            Order::Descending => live.rev().for_each(show),
        };
    }
    let live = live.filter_map(move |record| visible(store, record, at));
    let dead = store.history.visible_in_graves(&query.range, at);
    match order {
        Order::Ascending => Merge::new(live, dead, order).for_each(show),
        Order::Descending => Merge::new(live.rev(), dead.rev(), order).for_each(show),
    }
}

/// The version of one key that is visible at a revision.
fn one_at<'a>(store: &'a Store, key: &[u8], at: Revision) -> Option<&'a Record> {
    match store.live.get(HashedKey::new(key)) {
        Some(record) => visible(store, record, at),
        None if at == store.revision => None,
        None => store.history.visible_in_grave(key, at),
    }
}

/// The version of a live record's key that is visible at a revision.
fn visible<'a>(store: &'a Store, record: &'a Record, at: Revision) -> Option<&'a Record> {
    let meta = record.meta();
    if meta.mod_revision <= at {
        return Some(record);
    }
    store.history.visible(meta.previous, at)
}

/// Counts everything, keeps what the query asks for and the reply can hold.
struct Answer<'a> {
    range: RangeRef<'a>,
    limit: u64,
    select: Select,
    /// Bytes of the reply that pairs may still take.
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

    fn add(&mut self, record: &'a Record) {
        self.range.count += 1;
        let mut pair = match self.select {
            Select::Pairs | Select::KeysOnly => record.to_pair(),
            Select::CountOnly => return,
        };
        if self.select == Select::KeysOnly {
            pair.value = Slice(b"");
        }
        let bytes = pair.reply_bytes();
        // Once a pair was left out, all later ones are, or the answer would have a gap.
        let full = self.range.pairs.len() as u64 >= self.limit || bytes > self.room;
        if self.range.more || full {
            self.range.more = true;
            return;
        }
        self.room -= bytes;
        self.range.pairs.push(pair);
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
    A: Iterator<Item = &'a Record>,
    B: Iterator<Item = &'a Record>,
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
    A: Iterator<Item = &'a Record>,
    B: Iterator<Item = &'a Record>,
{
    type Item = &'a Record;

    fn next(&mut self) -> Option<Self::Item> {
        let (Some(left), Some(right)) = (self.left.peek(), self.right.peek()) else {
            return self.left.next().or_else(|| self.right.next());
        };
        let ascending = left.key().cmp(right.key());
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
