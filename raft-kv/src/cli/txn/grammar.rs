//! The text of a transaction, as etcdctl reads it:
//!
//! ```text
//! compares, one a line       value("k") = "v"   version("k") > "0"   create(…)   mod(…)
//! a blank line
//! requests if all hold       put k "a value"    get --prefix k       del k
//! a blank line
//! requests otherwise
//! ```
//!
//! Every list may be empty, and lists at the end may be left out.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use thiserror::Error;

use super::super::args::{DelArgs, GetArgs, PutArgs};
use super::super::data::{previous_of, query_of, range_of};
use super::words::{self, WordError};
use crate::operation::{KeyRange, Revision};
use crate::txn::{Compare, CompareTarget, Relation, TxnOperation};

/// A transaction that owns its parts.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) compares: Vec<Comparison>,
    pub(super) then: Vec<Request>,
    pub(super) otherwise: Vec<Request>,
}

/// One compare.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Comparison {
    key: Vec<u8>,
    relation: Relation,
    target: Target,
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    Value(Vec<u8>),
    Version(u64),
    Create(Revision),
    Mod(Revision),
}

/// One request.
#[derive(Debug, Subcommand)]
pub(super) enum Request {
    Put(PutArgs),
    Get(GetArgs),
    Del(DelArgs),
}

#[derive(Debug, Parser)]
#[command(
    no_binary_name = true,
    disable_help_flag = true,
    disable_help_subcommand = true
)]
struct RequestLine {
    #[command(subcommand)]
    request: Request,
}

/// Where a text cannot be read, and why.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("line {line}: {problem}")]
pub(super) struct GrammarError {
    line: usize,
    problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
enum Problem {
    #[error(transparent)]
    Words(#[from] WordError),
    #[error("{0:?} is no compare; write, for example, mod(\"key\") > \"0\"")]
    Compare(String),
    #[error("{0:?} cannot be compared; use value, version (ver), create (c) or mod (m)")]
    Target(String),
    #[error("leases are not supported, so they cannot be compared or given")]
    Lease,
    #[error("{0:?} is no relation; use =, !=, < or >")]
    Relation(String),
    #[error("{0:?} is not a number from 0 on")]
    Number(String),
    #[error("{0}")]
    Request(String),
    #[error("a transaction is read from the local copy of no single node; leave out --stale")]
    Stale,
    #[error("there are three lists at most: compares, requests if they hold, requests otherwise")]
    TooManyLists,
}

/// Reads a transaction.
pub(super) fn parse(text: &[u8]) -> Result<Parsed, GrammarError> {
    let mut parsed = Parsed::default();
    let mut list = 0;
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        let added = match (line.is_empty(), list) {
            (true, _) => {
                list += 1;
                Ok(())
            }
            (false, 0) => compare(line).map(|compare| parsed.compares.push(compare)),
            (false, 1) => request(line).map(|request| parsed.then.push(request)),
            (false, 2) => request(line).map(|request| parsed.otherwise.push(request)),
            (false, _) => Err(Problem::TooManyLists),
        };
        added.map_err(|problem| GrammarError {
            line: index + 1,
            problem,
        })?;
    }
    Ok(parsed)
}

fn compare(line: &[u8]) -> Result<Comparison, Problem> {
    let shown = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    let malformed = || Problem::Compare(shown(line));
    let open = line
        .iter()
        .position(|byte| *byte == b'(')
        .ok_or_else(malformed)?;
    let name = line[..open].trim_ascii();
    let text = line[open + 1..].trim_ascii_start();
    if !matches!(text.first(), Some(b'"' | b'\'' | b'`')) {
        return Err(malformed());
    }
    let (key, text) = words::quoted(text)?;
    let text = text.trim_ascii_start();
    let text = text
        .strip_prefix(b")")
        .ok_or_else(malformed)?
        .trim_ascii_start();
    let end = text
        .iter()
        .position(|byte| !matches!(byte, b'=' | b'!' | b'<' | b'>'))
        .ok_or_else(malformed)?;
    let (relation, text) = text.split_at(end);
    let relation = match relation {
        b"=" => Relation::Equal,
        b"!=" => Relation::NotEqual,
        b"<" => Relation::Less,
        b">" => Relation::Greater,
        other => return Err(Problem::Relation(shown(other))),
    };
    let [value] = &words::split(text)?[..] else {
        return Err(malformed());
    };
    let number = || {
        let text = std::str::from_utf8(value).ok();
        let number = text.and_then(|text| text.parse().ok());
        number.ok_or_else(|| Problem::Number(shown(value)))
    };
    let target = match name {
        b"value" | b"val" => Target::Value(value.clone()),
        b"version" | b"ver" => Target::Version(number()?),
        b"create" | b"c" => Target::Create(Revision(number()?)),
        b"mod" | b"m" => Target::Mod(Revision(number()?)),
        b"lease" => return Err(Problem::Lease),
        other => return Err(Problem::Target(shown(other))),
    };
    Ok(Comparison {
        key,
        relation,
        target,
    })
}

fn request(line: &[u8]) -> Result<Request, Problem> {
    let words = words::split(line)?;
    if words.iter().any(|word| word.starts_with(b"--lease")) {
        return Err(Problem::Lease);
    }
    let words = words.into_iter().map(OsString::from_vec);
    // What the environment says about commands is not said about lines of a transaction.
    let grammar = RequestLine::command().mut_subcommands(|request| {
        request
            .disable_help_flag(true)
            .mut_args(|argument| argument.env(None::<&str>))
    });
    let matches = grammar
        .try_get_matches_from(words)
        .and_then(|matches| RequestLine::from_arg_matches(&matches));
    let request = matches
        .map_err(|error| Problem::Request(brief(&error)))?
        .request;
    match request {
        Request::Get(GetArgs { stale: true, .. }) => Err(Problem::Stale),
        Request::Put(_) | Request::Get(_) | Request::Del(_) => Ok(request),
    }
}

/// What is wrong, without the usage of a whole program.
fn brief(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim);
    let lines =
        lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let parts: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let joined = parts.join(" ");
    joined.strip_prefix("error: ").unwrap_or(&joined).to_owned()
}

impl Comparison {
    pub(super) fn borrowed(&self) -> Compare<'_> {
        Compare {
            range: KeyRange::One(&self.key),
            relation: self.relation,
            target: match &self.target {
                Target::Value(value) => CompareTarget::Value(value),
                Target::Version(version) => CompareTarget::Version(*version),
                Target::Create(revision) => CompareTarget::CreateRevision(*revision),
                Target::Mod(revision) => CompareTarget::ModRevision(*revision),
            },
        }
    }
}

impl Request {
    pub(super) fn operation(&self) -> TxnOperation<'_> {
        match self {
            Self::Put(args) => TxnOperation::Put {
                key: args.key.as_bytes(),
                value: args.value.as_bytes(),
                previous: previous_of(args.prev_kv),
            },
            Self::Get(args) => TxnOperation::Range(query_of(args)),
            Self::Del(args) => TxnOperation::Delete {
                range: range_of(&args.range),
                previous: previous_of(args.prev_kv),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::{Order, RangeQuery, SortBy};
    use crate::txn::Previous;

    fn error(text: &str) -> String {
        parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn the_three_lists_are_read() {
        let text = r#"mod("a key") > "0"
            ver("k")="3"
            c("k") != "7"
            val("k") < "x\ty"

            put k "a value" --prev-kv
            get --prefix k --limit 3 --order desc --sort-by mod

            del k z --prev-kv
        "#;
        let parsed = parse(text.as_bytes()).unwrap();
        let comparison = |key: &[u8], relation, target| Comparison {
            key: key.to_vec(),
            relation,
            target,
        };
        assert_eq!(
            parsed.compares,
            [
                comparison(b"a key", Relation::Greater, Target::Mod(Revision(0))),
                comparison(b"k", Relation::Equal, Target::Version(3)),
                comparison(b"k", Relation::NotEqual, Target::Create(Revision(7))),
                comparison(b"k", Relation::Less, Target::Value(b"x\ty".to_vec())),
            ]
        );
        let then: Vec<_> = parsed.then.iter().map(Request::operation).collect();
        let range = RangeQuery {
            limit: 3,
            order: Order::Descending,
            sort_by: SortBy::ModRevision,
            ..RangeQuery::new(KeyRange::Prefix(b"k"))
        };
        let put = TxnOperation::Put {
            key: b"k",
            value: b"a value",
            previous: Previous::Returned,
        };
        assert_eq!(then, [put, TxnOperation::Range(range)]);
        let otherwise: Vec<_> = parsed.otherwise.iter().map(Request::operation).collect();
        let range = KeyRange::Interval {
            from: b"k",
            to: b"z",
        };
        let previous = Previous::Returned;
        assert_eq!(otherwise, [TxnOperation::Delete { range, previous }]);
    }

    #[test]
    fn lists_may_be_empty_or_missing() {
        let counts = |text: &str| {
            let parsed = parse(text.as_bytes()).unwrap();
            [
                parsed.compares.len(),
                parsed.then.len(),
                parsed.otherwise.len(),
            ]
        };
        assert_eq!(counts(""), [0, 0, 0]);
        assert_eq!(counts("\nput k v"), [0, 1, 0]);
        assert_eq!(counts("\n\nput k v\n\n\n"), [0, 0, 1]);
        assert_eq!(counts("mod('k') = 0\r\n\r\nput k v\r\n"), [1, 1, 0]);
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_line() {
        let all = [
            (
                "mod(k) = \"1\"",
                "line 1: \"mod(k) = \\\"1\\\"\" is no compare",
            ),
            ("mod(\"k\" = \"1\"", "is no compare"),
            ("put k v", "is no compare"),
            ("mod(\"k\") >= \"1\"", "\">=\" is no relation"),
            ("mod(\"k\") = \"-1\"", "\"-1\" is not a number"),
            ("size(\"k\") = \"1\"", "\"size\" cannot be compared"),
            ("lease(\"k\") = \"1\"", "leases are not supported"),
            ("\nput k v --lease=1", "line 2: leases are not supported"),
            ("\nput k", "<VALUE>"),
            ("\nput k v w", "unexpected argument 'w'"),
            ("\nget k --stale", "--stale"),
            ("\nget k --limit x", "--limit"),
            ("\nfrob k", "unrecognized subcommand 'frob'"),
            ("\nput \"k v", "no closing quote"),
            ("\n\n\nput k v", "line 4: there are three lists"),
        ];
        for (text, expected) in all {
            let said = error(text);
            assert!(said.contains(expected), "{text:?}: {said}");
            assert!(!said.contains("Usage"), "{said}");
        }
    }
}
