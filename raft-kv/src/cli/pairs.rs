//! How keys and values are printed, page by page.

use serde_json::{Map, Value, json};

use super::args::{Format, GetArgs};
use super::output::insert_bytes;
use crate::operation::Revision;
use crate::reply::{KeyValue, RangeReply};

/// What of the pairs is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// Keys and values.
    Pairs,
    /// Keys.
    Keys,
    /// Values.
    Values,
    /// How many there are.
    Count,
}

impl Shown {
    pub(super) const fn of(args: &GetArgs) -> Self {
        if args.count_only {
            Self::Count
        } else if args.keys_only {
            Self::Keys
        } else if args.print_value_only {
            Self::Values
        } else {
            Self::Pairs
        }
    }
}

/// What is shown of each pair, every part on a line of its own.
pub(super) fn pair_lines(pairs: &[KeyValue], shown: Shown) -> Vec<u8> {
    let mut bytes = Vec::new();
    for pair in pairs {
        let parts: &[&[u8]] = match shown {
            Shown::Pairs => &[&pair.key, &pair.value],
            Shown::Keys => &[&pair.key],
            Shown::Values => &[&pair.value],
            Shown::Count => &[],
        };
        for part in parts {
            bytes.extend_from_slice(part);
            bytes.push(b'\n');
        }
    }
    bytes
}

/// What a put answers besides the revision: the pair that it replaced, if that was asked for.
pub(super) fn put_json(previous: Option<&KeyValue>, is_asked: bool) -> Map<String, Value> {
    let mut object = Map::new();
    if is_asked {
        let previous = previous.map_or(Value::Null, |pair| pair_json(pair, Shown::Pairs));
        object.insert("prev_kv".to_owned(), previous);
    }
    object
}

/// What a removal answers besides the revision.
pub(super) fn delete_json(
    deleted: u64,
    previous: &[KeyValue],
    is_asked: bool,
) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("deleted".to_owned(), json!(deleted));
    if is_asked {
        object.insert("prev_kvs".to_owned(), pairs_json(previous, Shown::Pairs));
    }
    object
}

fn pair_json(pair: &KeyValue, shown: Shown) -> Value {
    let mut object = Map::new();
    insert_bytes(&mut object, "key", &pair.key);
    if shown != Shown::Keys {
        insert_bytes(&mut object, "value", &pair.value);
    }
    object.insert("create_revision".to_owned(), json!(pair.create_revision.0));
    object.insert("mod_revision".to_owned(), json!(pair.mod_revision.0));
    object.insert("version".to_owned(), json!(pair.version));
    Value::Object(object)
}

/// A list of pairs.
pub(super) fn pairs_json(pairs: &[KeyValue], shown: Shown) -> Value {
    Value::Array(pairs.iter().map(|pair| pair_json(pair, shown)).collect())
}

/// `revision, count, more, kvs`.
pub(super) fn range_json(found: &RangeReply, shown: Shown) -> Value {
    json!({
        "revision": found.revision.0,
        "count": found.count,
        "more": found.more,
        "kvs": pairs_json(&found.pairs, shown),
    })
}

/// Prints the pages of one range read as one result, without keeping them.
pub(super) struct PagePrinter {
    format: Format,
    shown: Shown,
    /// Of the first page.
    revision: Revision,
    count: u64,
    /// Of the last one.
    more: bool,
    pairs: u64,
    pages: u64,
}

impl PagePrinter {
    pub(super) const fn new(format: Format, shown: Shown) -> Self {
        Self {
            format,
            shown,
            revision: Revision::ZERO,
            count: 0,
            more: false,
            pairs: 0,
            pages: 0,
        }
    }

    /// The text of the next page.
    pub(super) fn page(&mut self, page: &RangeReply) -> Vec<u8> {
        let mut text = Vec::new();
        if self.pages == 0 {
            (self.revision, self.count) = (page.revision, page.count);
            text.extend(self.begin().into_bytes());
        }
        self.pages += 1;
        self.more = page.more;
        match self.format {
            Format::Simple => text.extend(pair_lines(&page.pairs, self.shown)),
            Format::Json => {
                for pair in &page.pairs {
                    if self.pairs > 0 {
                        text.push(b',');
                    }
                    self.pairs += 1;
                    text.extend(pair_json(pair, self.shown).to_string().into_bytes());
                }
            }
        }
        text
    }

    fn begin(&self) -> String {
        match self.format {
            Format::Simple if self.shown == Shown::Count => format!("{}\n", self.count),
            Format::Simple => String::new(),
            // The parts of the object come in the order of their names, as everywhere.
            Format::Json => format!("{{\"count\":{},\"kvs\":[", self.count),
        }
    }

    /// What follows the last page.
    pub(super) fn end(self) -> String {
        let Self { more, revision, .. } = self;
        match self.format {
            Format::Simple => String::new(),
            Format::Json => format!("],\"more\":{more},\"revision\":{revision}}}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn found() -> RangeReply {
        RangeReply {
            revision: Revision(9),
            count: 1,
            more: false,
            pairs: vec![KeyValue {
                key: Bytes::from_static(b"k"),
                value: Bytes::from_static(b"\xff\x00"),
                create_revision: Revision(2),
                mod_revision: Revision(9),
                version: 3,
            }],
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_printed_in_base64() {
        assert_eq!(
            range_json(&found(), Shown::Pairs),
            json!({
                "revision": 9, "count": 1, "more": false,
                "kvs": [{
                    "key": "k", "value_base64": "/wA=",
                    "create_revision": 2, "mod_revision": 9, "version": 3,
                }],
            })
        );
    }

    #[test]
    fn pages_are_printed_as_one_answer() {
        let mut first = found();
        (first.count, first.more) = (2, true);
        let mut second = found();
        second.revision = Revision(10);
        let mut printer = PagePrinter::new(Format::Json, Shown::Pairs);
        let mut text = printer.page(&first);
        text.extend(printer.page(&second));
        text.extend(printer.end().into_bytes());
        let whole = RangeReply {
            count: 2,
            pairs: [first.pairs, second.pairs].concat(),
            ..found()
        };
        let printed: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(printed, range_json(&whole, Shown::Pairs));
        let mut printer = PagePrinter::new(Format::Simple, Shown::Count);
        assert_eq!(printer.page(&whole), b"2\n");
        assert_eq!(printer.end(), "");
    }

    #[test]
    fn only_what_is_asked_for_is_shown() {
        let lines = |shown| pair_lines(&found().pairs, shown);
        assert_eq!(lines(Shown::Pairs), b"k\n\xff\x00\n");
        assert_eq!(lines(Shown::Keys), b"k\n");
        assert_eq!(lines(Shown::Values), b"\xff\x00\n");
        assert_eq!(lines(Shown::Count), b"");
        let json = pairs_json(&found().pairs, Shown::Keys);
        assert!(json[0].get("value_base64").is_none(), "{json}");
    }
}
