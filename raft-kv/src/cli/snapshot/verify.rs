//! `snapshot verify`: checks every byte of a snapshot, loads it, and prints what it holds.

use std::path::Path;

use raft_log::snapshot::{SnapshotSummary, open_snapshot_payload, verify_snapshot};
use raft_log::vfs::RealVfs;
use serde_json::json;

use super::super::args::{Common, Format};
use super::super::error::CliError;
use super::super::output::{print_json, print_line};
use super::{members_text, summary_json};
use crate::machine::KvMachine;
use crate::reply::StoreStatus;

pub(super) fn run(common: &Common, file: &Path) -> Result<(), CliError> {
    match (check(file), common.write_out) {
        (Ok((summary, state)), Format::Simple) => print_line(&text(file, &summary, &state)),
        (Ok((summary, state)), Format::Json) => {
            let mut object = summary_json(&summary);
            object["file"] = file.display().to_string().into();
            object["sound"] = true.into();
            object["revision"] = state.revision.0.into();
            object["oldest_revision"] = state.oldest_revision.0.into();
            object["keys"] = state.keys.into();
            object["data_bytes"] = state.bytes.into();
            object["sessions"] = state.sessions.into();
            object["hash"] = format!("{:016x}", state.hash).into();
            print_json(&object)
        }
        (Err(damage), Format::Simple) => Err(CliError::Failed(damage)),
        (Err(damage), Format::Json) => {
            print_json(&json!({
                "file": file.display().to_string(),
                "sound": false,
                "damage": damage,
            }))?;
            Err(CliError::Failed(damage))
        }
    }
}

/// Checks the file, and that the store can be made of it.
fn check(file: &Path) -> Result<(SnapshotSummary, StoreStatus), String> {
    let summary = verify_snapshot(&RealVfs, file).map_err(|error| error.to_string())?;
    let mut payload = open_snapshot_payload(&RealVfs, file).map_err(|error| error.to_string())?;
    let mut machine = KvMachine::default();
    machine.restore(&mut payload).map_err(|error| {
        format!(
            "the file {} is whole, but it holds no store of this program: {error}",
            file.display()
        )
    })?;
    Ok((summary, machine.status()))
}

fn text(file: &Path, summary: &SnapshotSummary, state: &StoreStatus) -> String {
    format!(
        "{}: sound, {} bytes, {} chunks, checksum {:08x}\n\
         cluster  {}\n\
         covers   everything up to entry {} of term {}\n\
         members  {}\n\
         store    revision {}, {} keys of {} bytes, {} sessions, hash {:016x}",
        file.display(),
        summary.total_bytes,
        summary.chunks,
        summary.checksum,
        summary.cluster,
        summary.last_included.index.0,
        summary.last_included.term.0,
        members_text(&summary.membership),
        state.revision,
        state.keys,
        state.bytes,
        state.sessions,
        state.hash,
    )
}
