//! `txn`: reads a transaction from the standard input, carries it out, prints what it did.

mod grammar;
mod words;

use std::io::Read;

use serde_json::{Value, json};

use self::grammar::{Parsed, Request};
use super::args::{Common, Format};
use super::data::{CLOSE_BOUND, client};
use super::error::CliError;
use super::output::{print_bytes, print_json};
use super::pairs::{Shown, delete_json, pair_lines, put_json, range_json};
use crate::limits::MAX_REQUEST_BYTES;
use crate::reply::{Branch, OperationResult, TxnReply};
use crate::txn::Txn;

/// Longest text that is read, in bytes: the largest transaction, every byte of it escaped.
const MAX_TEXT_BYTES: u64 = 4 * MAX_REQUEST_BYTES as u64;

pub(super) async fn run(common: &Common) -> Result<(), CliError> {
    let parsed = grammar::parse(&read_text()?)
        .map_err(|error| CliError::Usage(format!("the transaction cannot be read: {error}")))?;
    let txn = parsed.to_txn();
    txn.check()
        .map_err(|error| CliError::Client(error.into()))?;
    let client = client(common, 1)?;
    let outcome = client.txn(&txn).await;
    client.close(CLOSE_BOUND).await;
    let done = outcome?;
    let requests = match done.branch {
        Branch::Then => &parsed.then,
        Branch::Otherwise => &parsed.otherwise,
    };
    match common.write_out {
        Format::Simple => print_bytes(&lines(&done, requests)),
        Format::Json => print_json(&as_json(&done, requests)),
    }
}

fn read_text() -> Result<Vec<u8>, CliError> {
    let mut text = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_TEXT_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(|source| CliError::io("read the standard input", source))?;
    if text.len() as u64 > MAX_TEXT_BYTES {
        return Err(CliError::Usage(format!(
            "the transaction is longer than {MAX_TEXT_BYTES} bytes"
        )));
    }
    Ok(text)
}

/// Which list was carried out, and the result of each request, as the command alone would print
/// it.
fn lines(done: &TxnReply, requests: &[Request]) -> Vec<u8> {
    let mut text = match done.branch {
        Branch::Then => b"SUCCESS\n".to_vec(),
        Branch::Otherwise => b"FAILURE\n".to_vec(),
    };
    for (result, request) in done.results.iter().zip(requests) {
        text.push(b'\n');
        match result {
            OperationResult::Put { previous } => {
                text.extend_from_slice(b"OK\n");
                text.extend(pair_lines(previous.as_slice(), Shown::Pairs));
            }
            OperationResult::Deleted { keys, previous } => {
                text.extend_from_slice(format!("{keys}\n").as_bytes());
                text.extend(pair_lines(previous, Shown::Pairs));
            }
            OperationResult::Range(found) => match shown_of(request) {
                Shown::Count => text.extend_from_slice(format!("{}\n", found.count).as_bytes()),
                shown @ (Shown::Pairs | Shown::Keys | Shown::Values) => {
                    text.extend(pair_lines(&found.pairs, shown));
                }
            },
        }
    }
    text
}

fn as_json(done: &TxnReply, requests: &[Request]) -> Value {
    let responses = done.results.iter().zip(requests);
    let responses = responses.map(|(result, request)| match result {
        OperationResult::Put { previous } => {
            json!({ "put": put_json(previous.as_ref(), wants_previous(request)) })
        }
        OperationResult::Deleted { keys, previous } => {
            json!({ "delete": delete_json(*keys, previous, wants_previous(request)) })
        }
        OperationResult::Range(found) => json!({ "get": range_json(found, shown_of(request)) }),
    });
    json!({
        "revision": done.revision.0,
        "succeeded": done.branch == Branch::Then,
        "responses": responses.collect::<Vec<_>>(),
    })
}

fn shown_of(request: &Request) -> Shown {
    match request {
        Request::Get(args) => Shown::of(args),
        Request::Put(_) | Request::Del(_) => Shown::Pairs,
    }
}

const fn wants_previous(request: &Request) -> bool {
    match request {
        Request::Put(args) => args.prev_kv,
        Request::Del(args) => args.prev_kv,
        Request::Get(_) => false,
    }
}

impl Parsed {
    /// The transaction, borrowing its keys and values.
    fn to_txn(&self) -> Txn<'_> {
        Txn {
            compares: self
                .compares
                .iter()
                .map(grammar::Comparison::borrowed)
                .collect(),
            then: self.then.iter().map(Request::operation).collect(),
            otherwise: self.otherwise.iter().map(Request::operation).collect(),
        }
    }
}
