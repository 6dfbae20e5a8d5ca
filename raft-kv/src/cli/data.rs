//! The commands that read and write keys.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use bytes::Bytes;
use raft_net::TlsIdentity;
use serde_json::json;

use super::args::{AppendArgs, CasArgs, Common, DelArgs, Format, GetArgs, PutArgs};
use super::error::CliError;
use super::output::{print_bytes, print_json, print_line, range_json, range_lines};
use crate::client::call::CallPolicy;
use crate::client::{Client, ClientConfig, Consistency, Write};
use crate::limits::MAX_VALUE_BYTES;
use crate::operation::{KeyRange, RangeQuery, Revision};
use crate::reply::{Outcome, WriteReply};
use crate::server::{TlsDir, check_address};

/// How long a command that is done waits for the servers to hear that it leaves.
pub(super) const CLOSE_BOUND: Duration = Duration::from_millis(100);

/// A client as the common flags describe it.
pub(super) fn client(common: &Common, connections: usize) -> Result<Client, CliError> {
    for endpoint in &common.endpoints {
        check_address(endpoint).map_err(|error| CliError::Usage(error.to_string()))?;
    }
    let tls = client_identity(common)?;
    let mut config = ClientConfig::new(common.endpoints.clone(), tls);
    config.connections = connections;
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
    let written = write(common, Write::put(args.key.into_vec(), value)).await?;
    print_written(common, &written)
}

pub(super) async fn append(common: &Common, args: AppendArgs) -> Result<(), CliError> {
    let value = value_of(args.value)?;
    let written = write(common, Write::append(args.key.into_vec(), value)).await?;
    print_written(common, &written)
}

pub(super) async fn delete(common: &Common, args: DelArgs) -> Result<(), CliError> {
    let written = write(common, Write::delete(args.key.into_vec())).await?;
    let deleted = match written.outcome {
        Outcome::Deleted { keys } => keys,
        Outcome::Written | Outcome::Different | Outcome::Compacted => 0,
    };
    match common.write_out {
        Format::Simple => print_line(&deleted.to_string()),
        Format::Json => print_json(&json!({
            "revision": written.revision.0,
            "deleted": deleted,
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
    let key = args.key.into_vec();
    let query = RangeQuery::new(KeyRange::One(&key));
    let consistency = match args.stale {
        true => Consistency::Stale,
        false => Consistency::Linearizable,
    };
    let client = client(common, 1)?;
    let outcome = client.range(&query, consistency).await;
    client.close(CLOSE_BOUND).await;
    let found = outcome?;
    match common.write_out {
        Format::Simple => print_bytes(&range_lines(&found)),
        Format::Json => print_json(&range_json(&found)),
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
