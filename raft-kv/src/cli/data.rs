//! The commands that read and write keys.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use bytes::Bytes;
use raft_net::TlsIdentity;
use serde_json::{Value, json};

use super::args::{
    AppendArgs, CasArgs, Common, CompactArgs, DelArgs, Format, GetArgs, OrderArg, PutArgs,
    RangeArgs, SortArg,
};
use super::error::CliError;
use super::output::{print_bytes, print_json, print_line};
use super::pairs::{PagePrinter, Shown, delete_json, pair_lines, put_json};
use crate::client::call::CallPolicy;
use crate::client::{Client, ClientConfig, ClientError, Consistency, Discovery, Write};
use crate::limits::MAX_VALUE_BYTES;
use crate::operation::{KeyRange, Order, RangeQuery, Revision, Select, SortBy};
use crate::reply::{OperationResult, Outcome, WriteReply};
use crate::server::{TlsDir, check_address};
use crate::txn::{Previous, Txn, TxnOperation};

/// How long a command that is done waits for the servers to hear that it leaves.
pub(super) const CLOSE_BOUND: Duration = Duration::from_millis(100);

/// A client as the common flags describe it.
pub(super) fn client(common: &Common, connections: usize) -> Result<Client, CliError> {
    client_with(common, connections, Discovery::Learned)
}

pub(super) fn client_with(
    common: &Common,
    connections: usize,
    discovery: Discovery,
) -> Result<Client, CliError> {
    for endpoint in &common.endpoints {
        check_address(endpoint).map_err(|error| CliError::Usage(error.to_string()))?;
    }
    let tls = client_identity(common)?;
    let mut config = ClientConfig::new(common.endpoints.clone(), tls);
    config.connections = connections;
    config.discovery = discovery;
    config.policy = CallPolicy {
        deadline: common.timeout,
        ..CallPolicy::default()
    };
    Ok(Client::new(config)?)
}

fn client_identity(common: &Common) -> Result<TlsIdentity, CliError> {
    let Some(path) = &common.tls_dir else {
        let message = "name the directory of certificates with --tls-dir or RAFT_KV_TLS_DIR";
        return Err(CliError::Usage(message.to_owned()));
    };
    let directory = TlsDir::new(path);
    let name = match &common.client_name {
        Some(name) => name.clone(),
        None => only_client(&directory.clients(), &path.display().to_string())?,
    };
    TlsIdentity::from_files(&directory.client_files(&name))
        .map_err(|error| CliError::Client(error.into()))
}

fn only_client(names: &[String], path: &str) -> Result<String, CliError> {
    match names {
        [name] => Ok(name.clone()),
        [] => Err(CliError::Failed(format!(
            "there is no client certificate (client-NAME.pem) in {path}"
        ))),
        several => Err(CliError::Failed(format!(
            "there are several client certificates in {path}; choose one with --client-name: {}",
            several.join(", ")
        ))),
    }
}

/// The bytes of an argument; `-` stands for the standard input.
fn value_of(argument: OsString) -> Result<Bytes, CliError> {
    let bytes = argument.into_vec();
    if bytes != b"-" {
        return Ok(bytes.into());
    }
    let mut value = Vec::new();
    // One byte more than is allowed, so that too much is refused and not cut.
    let bound = MAX_VALUE_BYTES as u64 + 1;
    std::io::stdin()
        .lock()
        .take(bound)
        .read_to_end(&mut value)
        .map_err(|source| CliError::io("read the standard input", source))?;
    Ok(value.into())
}

/// Checks and sends one write, and says goodbye.
async fn write(common: &Common, write: Write) -> Result<WriteReply, CliError> {
    write
        .check()
        .map_err(|error| CliError::Client(error.into()))?;
    let client = client(common, 1)?;
    let outcome = client.write(&write).await;
    client.close(CLOSE_BOUND).await;
    Ok(outcome?)
}

fn print_written(common: &Common, written: &WriteReply) -> Result<(), CliError> {
    match common.write_out {
        Format::Simple => print_line("OK"),
        Format::Json => print_json(&json!({ "revision": written.revision.0 })),
    }
}

pub(super) async fn put(common: &Common, args: PutArgs) -> Result<(), CliError> {
    let value = value_of(args.value)?;
    let key = args.key.into_vec();
    if !args.prev_kv {
        let written = write(common, Write::put(key, value)).await?;
        return print_written(common, &written);
    }
    let put = TxnOperation::Put {
        key: &key,
        value: &value,
        previous: Previous::Returned,
    };
    let (revision, result) = one_operation(common, put).await?;
    let OperationResult::Put { previous } = result else {
        return Err(CliError::Client(ClientError::Mismatched));
    };
    match common.write_out {
        Format::Simple => {
            print_line("OK")?;
            print_bytes(&pair_lines(previous.as_slice(), Shown::Pairs))
        }
        Format::Json => {
            let mut object = put_json(previous.as_ref(), true);
            object.insert("revision".to_owned(), json!(revision.0));
            print_json(&Value::Object(object))
        }
    }
}

/// Carries out one operation as a transaction of its own, which can return more than a write.
async fn one_operation(
    common: &Common,
    operation: TxnOperation<'_>,
) -> Result<(Revision, OperationResult), CliError> {
    let txn = Txn::unconditional(operation);
    txn.check()
        .map_err(|error| CliError::Client(error.into()))?;
    let client = client(common, 1)?;
    let outcome = client.txn(&txn).await;
    client.close(CLOSE_BOUND).await;
    let mut done = outcome?;
    match done.results.pop() {
        Some(result) => Ok((done.revision, result)),
        None => Err(CliError::Client(ClientError::Mismatched)),
    }
}

pub(super) async fn append(common: &Common, args: AppendArgs) -> Result<(), CliError> {
    let value = value_of(args.value)?;
    let written = write(common, Write::append(args.key.into_vec(), value)).await?;
    print_written(common, &written)
}

pub(super) async fn delete(common: &Common, args: DelArgs) -> Result<(), CliError> {
    let range = range_of(&args.range);
    let (revision, deleted, previous) = if args.prev_kv {
        let delete = TxnOperation::Delete {
            range,
            previous: Previous::Returned,
        };
        match one_operation(common, delete).await? {
            (revision, OperationResult::Deleted { keys, previous }) => (revision, keys, previous),
            (_, OperationResult::Put { .. } | OperationResult::Range(_)) => {
                return Err(CliError::Client(ClientError::Mismatched));
            }
        }
    } else {
        let written = write(common, Write::delete_range(&range)).await?;
        match written.outcome {
            Outcome::Deleted { keys } => (written.revision, keys, Vec::new()),
            Outcome::Written | Outcome::Different | Outcome::Compacted => {
                return Err(CliError::Client(ClientError::Mismatched));
            }
        }
    };
    match common.write_out {
        Format::Simple => {
            print_line(&deleted.to_string())?;
            print_bytes(&pair_lines(&previous, Shown::Pairs))
        }
        Format::Json => {
            let mut object = delete_json(deleted, &previous, args.prev_kv);
            object.insert("revision".to_owned(), json!(revision.0));
            print_json(&Value::Object(object))
        }
    }
}

pub(super) async fn compact(common: &Common, args: &CompactArgs) -> Result<(), CliError> {
    let written = write(common, Write::compact(Revision(args.revision))).await?;
    match common.write_out {
        Format::Simple => print_line(&format!("compacted revision {}", args.revision)),
        Format::Json => print_json(&json!({
            "compacted": args.revision,
            "revision": written.revision.0,
        })),
    }
}

pub(super) async fn compare_and_swap(common: &Common, args: CasArgs) -> Result<(), CliError> {
    let key = args.key.into_vec();
    let from_stdin = |argument: &OsString| argument.as_encoded_bytes() == b"-";
    if from_stdin(&args.new) && args.expected.expect.as_ref().is_some_and(from_stdin) {
        let message = "only one of the two values can be read from the standard input";
        return Err(CliError::Usage(message.to_owned()));
    }
    let new = value_of(args.new)?;
    let change = match (args.expected.expect, args.expected.mod_rev) {
        (Some(old), _) => Write::swap(key, value_of(old)?, new),
        (None, Some(revision)) => Write::swap_revision(key, Revision(revision), new),
        (None, None) => Write::create(key, new),
    };
    let written = write(common, change).await?;
    let swapped = match written.outcome {
        Outcome::Written => true,
        Outcome::Different | Outcome::Deleted { .. } | Outcome::Compacted => false,
    };
    match common.write_out {
        Format::Simple if swapped => print_line("OK")?,
        Format::Simple => {}
        Format::Json => print_json(&json!({
            "revision": written.revision.0,
            "succeeded": swapped,
        }))?,
    }
    if swapped {
        Ok(())
    } else {
        Err(CliError::NotAsExpected)
    }
}

pub(super) async fn get(common: &Common, args: GetArgs) -> Result<(), CliError> {
    if args.print_value_only && common.write_out == Format::Json {
        let message = "--print-value-only and -w json exclude each other; leave one out";
        return Err(CliError::Usage(message.to_owned()));
    }
    let query = query_of(&args);
    let (consistency, discovery) = match args.stale {
        true => (Consistency::Stale, Discovery::Given),
        false => (Consistency::Linearizable, Discovery::Learned),
    };
    let client = client_with(common, 1, discovery)?;
    let outcome = print_pages(&client, common, &args, &query, consistency).await;
    client.close(CLOSE_BOUND).await;
    outcome
}

async fn print_pages(
    client: &Client,
    common: &Common,
    args: &GetArgs,
    query: &RangeQuery<'_>,
    consistency: Consistency,
) -> Result<(), CliError> {
    let mut pages = client.pages(query, consistency);
    let mut printer = PagePrinter::new(common.write_out, Shown::of(args));
    while let Some(page) = pages.next().await? {
        print_bytes(&printer.page(&page))?;
    }
    print_bytes(printer.end().as_bytes())
}

/// The keys that the flags name.
pub(super) fn range_of(args: &RangeArgs) -> KeyRange<'_> {
    let key = args.key.as_bytes();
    match &args.end {
        Some(end) => KeyRange::Interval {
            from: key,
            to: end.as_bytes(),
        },
        None if args.prefix => KeyRange::Prefix(key),
        None if args.from_key => KeyRange::From(key),
        None => KeyRange::One(key),
    }
}

/// The read that the flags describe.
pub(super) fn query_of(args: &GetArgs) -> RangeQuery<'_> {
    RangeQuery {
        range: range_of(&args.range),
        limit: args.limit,
        revision: Revision(args.rev),
        order: match args.order {
            OrderArg::Asc => Order::Ascending,
            OrderArg::Desc => Order::Descending,
        },
        select: match Shown::of(args) {
            Shown::Pairs | Shown::Values => Select::Pairs,
            Shown::Keys => Select::KeysOnly,
            Shown::Count => Select::CountOnly,
        },
        sort_by: match args.sort_by {
            SortArg::Key => SortBy::Key,
            SortArg::Create => SortBy::CreateRevision,
            SortArg::Mod => SortBy::ModRevision,
            SortArg::Version => SortBy::Version,
            SortArg::Value => SortBy::Value,
        },
    }
}

pub(super) const fn previous_of(is_asked: bool) -> Previous {
    match is_asked {
        true => Previous::Returned,
        false => Previous::Omitted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_certificate_is_found_if_there_is_one() {
        let names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            only_client(&names, "tls")
        };
        assert!(matches!(names(&["app"]), Ok(name) if name == "app"));
        assert!(
            names(&[])
                .unwrap_err()
                .to_string()
                .contains("client-NAME.pem")
        );
        let several = names(&["a", "b"]).unwrap_err().to_string();
        assert!(several.contains("--client-name: a, b"), "{several}");
    }
}
