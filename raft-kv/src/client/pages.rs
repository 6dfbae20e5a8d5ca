//! Range reads of any size: page after page, all at one revision.

use std::ops::Bound;

use super::{Client, ClientError, Consistency};
use crate::limits::MAX_KEY_BYTES;
use crate::operation::{KeyRange, Order, RangeQuery, Revision, Select, SortBy};
use crate::reply::{KeyValue, RangeReply};

/// The pages of one range read, each as large as a server's answer may be.
pub struct Pages {
    client: Client,
    consistency: Consistency,
    /// What is left to read; `None` when that is nothing.
    rest: Option<Rest>,
}

/// A query that owns its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rest {
    from: Vec<u8>,
    until: Until,
    /// Most pairs that are still wanted; `None` means all.
    limit: Option<u64>,
    revision: Revision,
    order: Order,
    select: Select,
    sort_by: SortBy,
}

/// Where a range ends.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Until {
    /// It is a single key.
    Same,
    /// Before this key.
    Before(Vec<u8>),
    /// Nowhere.
    Open,
}

impl Client {
    /// Reads keys however many there are. [`Pages::next`] yields one answer after the other; the
    /// first tells how many keys there are in all.
    #[must_use]
    pub fn pages(&self, query: &RangeQuery<'_>, consistency: Consistency) -> Pages {
        Pages {
            client: self.clone(),
            consistency,
            rest: Some(Rest::of(query)),
        }
    }

    /// Reads everything that a query asks for. Answers that are sorted by anything but the key and
    /// are too large for one answer are put together and sorted here.
    async fn sorted(
        &self,
        rest: &Rest,
        consistency: Consistency,
    ) -> Result<RangeReply, ClientError> {
        let first = self.range(&rest.query(), consistency).await?;
        if !first.more
            || rest
                .limit
                .is_some_and(|limit| first.pairs.len() as u64 >= limit)
        {
            return Ok(first);
        }
        let by_key = RangeQuery {
            limit: 0,
            revision: rest.revision_of(&first),
            order: Order::Ascending,
            // The values are needed if they make the order.
            select: match rest.sort_by {
                SortBy::Value => Select::Pairs,
                SortBy::Key | SortBy::CreateRevision | SortBy::ModRevision | SortBy::Version => {
                    rest.select
                }
            },
            sort_by: SortBy::Key,
            ..rest.query()
        };
        let mut pages = Pages {
            client: self.clone(),
            consistency,
            rest: Some(Rest::of(&by_key)),
        };
        let mut pairs = Vec::new();
        while let Some(page) = pages.next_by_key().await? {
            pairs.extend(page.pairs);
        }
        rest.sort(&mut pairs);
        let limit = rest.limit.unwrap_or(u64::MAX);
        let more = pairs.len() as u64 > limit;
        pairs.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        if rest.select == Select::KeysOnly {
            pairs.iter_mut().for_each(|pair| pair.value.clear());
        }
        Ok(RangeReply {
            more,
            pairs,
            ..first
        })
    }
}

impl Pages {
    /// The next page, or `None` after the last one. Pages after the first count only what was
    /// left, and say in `more` whether the range holds more than was asked for.
    ///
    /// # Errors
    /// [`ClientError`]; the next call tries the same page again.
    pub async fn next(&mut self) -> Result<Option<RangeReply>, ClientError> {
        match &self.rest {
            Some(rest) if rest.sort_by != SortBy::Key => {
                let all = self.client.sorted(rest, self.consistency).await?;
                self.rest = None;
                Ok(Some(all))
            }
            Some(_) => self.next_by_key().await,
            None => Ok(None),
        }
    }

    async fn next_by_key(&mut self) -> Result<Option<RangeReply>, ClientError> {
        let Some(rest) = &self.rest else {
            return Ok(None);
        };
        let page = self.client.range(&rest.query(), self.consistency).await?;
        self.rest = rest.after(&page);
        Ok(Some(page))
    }
}

impl Rest {
    fn of(query: &RangeQuery<'_>) -> Self {
        let until = match query.range {
            KeyRange::One(_) => Until::Same,
            KeyRange::Interval { .. } | KeyRange::From(_) | KeyRange::Prefix(_) => {
                match query.range.end() {
                    Bound::Excluded(end) => Until::Before(end.into_owned()),
                    Bound::Unbounded | Bound::Included(_) => Until::Open,
                }
            }
        };
        Self {
            from: query.range.start().to_vec(),
            until,
            limit: (query.limit > 0).then_some(query.limit),
            revision: query.revision,
            order: query.order,
            select: query.select,
            sort_by: query.sort_by,
        }
    }

    fn query(&self) -> RangeQuery<'_> {
        let from = &self.from[..];
        RangeQuery {
            range: match &self.until {
                Until::Same => KeyRange::One(from),
                Until::Before(to) => KeyRange::Interval { from, to },
                Until::Open => KeyRange::From(from),
            },
            limit: self.limit.unwrap_or(0),
            revision: self.revision,
            order: self.order,
            select: self.select,
            sort_by: self.sort_by,
        }
    }

    /// The revision that an answer was read at.
    fn revision_of(&self, page: &RangeReply) -> Revision {
        match self.revision {
            Revision::ZERO => page.revision,
            asked => asked,
        }
    }

    /// What is left after a page; `None` if that is nothing, or not wanted.
    fn after(&self, page: &RangeReply) -> Option<Self> {
        let last = &page.pairs.last()?.key;
        let limit = self
            .limit
            .map(|limit| limit.saturating_sub(page.pairs.len() as u64));
        if !page.more || limit == Some(0) {
            return None;
        }
        let (from, until) = match self.order {
            Order::Ascending => (successor(last), self.until.clone()),
            Order::Descending => (self.from.clone(), Until::Before(last.to_vec())),
        };
        Some(Self {
            from,
            until,
            limit,
            revision: self.revision_of(page),
            ..self.clone()
        })
    }

    /// Sorts pairs that are in ascending order of keys.
    fn sort(&self, pairs: &mut [KeyValue]) {
        let compare = |a: &KeyValue, b: &KeyValue| match self.sort_by {
            SortBy::Key => a.key.cmp(&b.key),
            SortBy::CreateRevision => a.create_revision.cmp(&b.create_revision),
            SortBy::ModRevision => a.mod_revision.cmp(&b.mod_revision),
            SortBy::Version => a.version.cmp(&b.version),
            SortBy::Value => a.value.cmp(&b.value),
        };
        match self.order {
            Order::Ascending => pairs.sort_by(compare),
            Order::Descending => pairs.sort_by(|a, b| compare(b, a)),
        }
    }
}

/// The smallest key after this one.
fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    if next.len() < MAX_KEY_BYTES {
        next.push(0);
        return next;
    }
    // No key may be longer, so the next one differs before the end.
    while let Some(last) = next.pop() {
        if last < u8::MAX {
            next.push(last + 1);
            return next;
        }
    }
    // All bytes of the longest key are 255: there is no key behind it, and a range from there on
    // holds that key alone. A page never ends there with more to come.
    key.to_vec()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn page(keys: &[&'static str], more: bool) -> RangeReply {
        let pair = |key: &&'static str| KeyValue {
            key: Bytes::from_static(key.as_bytes()),
            value: Bytes::new(),
            create_revision: Revision(2),
            mod_revision: Revision(2),
            version: 1,
        };
        RangeReply {
            revision: Revision(9),
            count: 7,
            more,
            pairs: keys.iter().map(pair).collect(),
        }
    }

    #[test]
    fn the_rest_begins_after_the_last_key_and_keeps_the_revision() {
        let query = RangeQuery::new(KeyRange::Prefix(b"k"));
        let rest = Rest::of(&query).after(&page(&["k1", "k2"], true)).unwrap();
        let next = rest.query();
        assert_eq!(
            next.range,
            KeyRange::Interval {
                from: b"k2\0",
                to: b"l"
            }
        );
        assert_eq!(next.revision, Revision(9));
        assert_eq!(rest.after(&page(&["k3"], false)), None);
        let last = rest.after(&page(&["k3"], true)).unwrap();
        assert_eq!(last.query().revision, Revision(9));
    }

    #[test]
    fn downwards_the_rest_ends_before_the_last_key() {
        let query = RangeQuery {
            order: Order::Descending,
            limit: 5,
            ..RangeQuery::new(KeyRange::From(b"a"))
        };
        let rest = Rest::of(&query).after(&page(&["z", "y"], true)).unwrap();
        let interval = KeyRange::Interval {
            from: b"a",
            to: b"y",
        };
        assert_eq!((rest.query().range, rest.query().limit), (interval, 3));
        assert_eq!(rest.after(&page(&["x", "w", "v"], true)), None);
    }

    #[test]
    fn every_key_has_its_successor() {
        assert_eq!(successor(b"a"), b"a\0");
        let longest = [&vec![b'a'; MAX_KEY_BYTES - 2][..], b"b\xff"].concat();
        let next = successor(&longest);
        assert_eq!(next, [&vec![b'a'; MAX_KEY_BYTES - 2][..], b"c"].concat());
        let last = vec![u8::MAX; MAX_KEY_BYTES];
        assert_eq!(successor(&last), last);
    }

    #[test]
    fn equal_pairs_stay_in_the_order_of_keys() {
        for order in [Order::Ascending, Order::Descending] {
            let query = RangeQuery {
                order,
                sort_by: SortBy::Version,
                ..RangeQuery::new(KeyRange::From(b""))
            };
            let mut pairs = page(&["a", "b", "c"], false).pairs;
            pairs[1].version = 5;
            Rest::of(&query).sort(&mut pairs);
            let keys: Vec<&[u8]> = pairs.iter().map(|pair| &pair.key[..]).collect();
            let expected: [&[u8]; 3] = match order {
                Order::Ascending => [b"a", b"c", b"b"],
                Order::Descending => [b"b", b"a", b"c"],
            };
            assert_eq!(keys, expected);
        }
    }
}
