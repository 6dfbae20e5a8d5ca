//! `snapshot save`: has a node make a snapshot, and fetches it into a file.
//!
//! The file grows under a name of its own, `FILE.part`. Only once every byte of it has been checked
//! and is on the disk does it get its name, so a file with that name is always whole. A connection
//! that breaks is made again, and the stream goes on where it ended; so does a later call, if the
//! node still offers the same snapshot.

use std::fs::{self, File, OpenOptions};
use std::io::{IsTerminal, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use raft_log::snapshot::{SnapshotSummary, read_snapshot_header, verify_snapshot};
use raft_log::vfs::RealVfs;

use super::super::args::{Common, Format};
use super::super::data::{CLOSE_BOUND, client_with};
use super::super::error::CliError;
use super::super::output::{print_json, print_line};
use super::summary_json;
use crate::client::{Client, Discovery};
use crate::protocol::{MAX_SNAPSHOT_PART_BYTES, ReadSnapshotRequest, SnapshotOffer};

/// How often a new snapshot is asked for because the node has removed the one that was fetched.
const MAX_SNAPSHOTS: u32 = 5;

pub(super) async fn run(common: &Common, file: &Path) -> Result<(), CliError> {
    if file.exists() {
        return Err(CliError::Failed(format!(
            "{} exists already; choose another name, or remove it",
            file.display()
        )));
    }
    // The endpoints that were given are meant, and no others.
    let client = client_with(common, 1, Discovery::Given)?;
    let outcome = save(&client, common, file).await;
    client.close(CLOSE_BOUND).await;
    let (endpoint, summary) = outcome?;
    match common.write_out {
        Format::Simple => print_line(&format!(
            "{}: {} bytes, everything up to entry {} of term {}, from {endpoint}",
            file.display(),
            summary.total_bytes,
            summary.last_included.index.0,
            summary.last_included.term.0,
        )),
        Format::Json => {
            let mut object = summary_json(&summary);
            object["file"] = file.display().to_string().into();
            object["endpoint"] = endpoint.into();
            print_json(&object)
        }
    }
}

async fn save(
    client: &Client,
    common: &Common,
    file: &Path,
) -> Result<(String, SnapshotSummary), CliError> {
    let endpoint = furthest(client, common).await?;
    let part = part_of(file);
    for _ in 0..MAX_SNAPSHOTS {
        let offer = take(client, &endpoint).await?;
        match fetch(client, &endpoint, &offer, &part).await {
            Ok(()) => {}
            Err(CliError::Client(error)) if error.is_snapshot_gone() => continue,
            Err(error) => return Err(error),
        }
        let summary = finish(&offer, &part, file)?;
        return Ok((endpoint, summary));
    }
    Err(CliError::Failed(format!(
        "{endpoint} removed {MAX_SNAPSHOTS} snapshots before they could be fetched; the connection \
         is too slow for it, try another node"
    )))
}

/// Has the snapshot made, and shows how far it is.
async fn take(client: &Client, endpoint: &str) -> Result<SnapshotOffer, CliError> {
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::new_spinner(),
        false => ProgressBar::hidden(),
    };
    let offer = client.take_snapshot_watched(endpoint, |status| {
        bar.set_message(match status.saving {
            Some(saving) => format!(
                "{endpoint} has taken {} of its state",
                HumanBytes(saving.bytes)
            ),
            None => format!("{endpoint} will begin soon"),
        });
        bar.tick();
    });
    let offer = offer.await;
    bar.finish_and_clear();
    Ok(offer?)
}

/// Where the file grows.
fn part_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// The endpoint that has applied the most; of several the first, in the order they were given.
///
/// A leader acknowledges a write once it has applied it. So if the leader is among the endpoints
/// that answer, what was acknowledged before is in the snapshot, whichever of them makes it.
async fn furthest(client: &Client, common: &Common) -> Result<String, CliError> {
    let statuses = client.status().await;
    let mut problems = Vec::new();
    let mut furthest: Option<(&String, u64)> = None;
    for endpoint in &common.endpoints {
        match statuses.iter().find(|(address, _)| address == endpoint) {
            Some((_, Ok(status))) => {
                let applied = status.applied_index;
                if furthest.is_none_or(|(_, most)| applied > most) {
                    furthest = Some((endpoint, applied));
                }
            }
            Some((_, Err(error))) => problems.push(format!("{endpoint}: {error}")),
            None => {}
        }
    }
    if let Some((endpoint, _)) = furthest {
        return Ok(endpoint.clone());
    }
    Err(CliError::Failed(format!(
        "no endpoint answers: {}",
        problems.join("; ")
    )))
}

/// Fetches what is missing of a snapshot.
async fn fetch(
    client: &Client,
    endpoint: &str,
    offer: &SnapshotOffer,
    part: &Path,
) -> Result<(), CliError> {
    let (mut file, mut offset) = open_part(offer, part)?;
    let write_failed = |source| CliError::io(format!("write {}", part.display()), source);
    let bar = progress_bar(offer.total_bytes);
    bar.set_position(offset);
    while offset < offer.total_bytes {
        let request = ReadSnapshotRequest {
            last_included: offer.last_included,
            offset,
            max_bytes: MAX_SNAPSHOT_PART_BYTES,
        };
        let read = client.read_snapshot(endpoint, &request).await?;
        if read.total_bytes != offer.total_bytes
            || read.data.len() as u64 > read.total_bytes - offset
        {
            return Err(CliError::Failed(format!(
                "{endpoint} sends a snapshot of another length than it offered; try again"
            )));
        }
        file.write_all(&read.data).map_err(write_failed)?;
        offset += read.data.len() as u64;
        bar.set_position(offset);
    }
    bar.finish_and_clear();
    file.sync_all().map_err(write_failed)
}

/// Opens the part file where an earlier attempt at the same snapshot ended, or empties it.
fn open_part(offer: &SnapshotOffer, part: &Path) -> Result<(File, u64), CliError> {
    let failed = |source| CliError::io(format!("open {}", part.display()), source);
    let is_same = read_snapshot_header(&RealVfs, part)
        .is_ok_and(|header| header.last_included == offer.last_included);
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(!is_same)
        .open(part)
        .map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length > offer.total_bytes {
        file.set_len(0).map_err(failed)?;
    }
    let offset = file.seek(SeekFrom::End(0)).map_err(failed)?;
    Ok((file, offset))
}

/// Checks everything that was fetched, and gives it its name.
fn finish(offer: &SnapshotOffer, part: &Path, file: &Path) -> Result<SnapshotSummary, CliError> {
    let verified = verify_snapshot(&RealVfs, part).map_err(|error| error.to_string());
    let checked = verified.and_then(|summary| {
        if (summary.checksum, summary.last_included) == (offer.checksum, offer.last_included) {
            return Ok(summary);
        }
        Err("it is not the snapshot that was offered".to_owned())
    });
    let summary = match checked {
        Ok(summary) => summary,
        Err(reason) => {
            // Not to be gone on with.
            let _ = fs::remove_file(part);
            return Err(CliError::Failed(format!(
                "what was fetched is not sound, and was removed: {reason}; try again"
            )));
        }
    };
    let rename = fs::rename(part, file);
    rename.map_err(|source| CliError::io(format!("rename {}", part.display()), source))?;
    let directory = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    };
    // The new name is durable only with its directory.
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| CliError::io(format!("sync {}", directory.display()), source))?;
    Ok(summary)
}

fn progress_bar(total: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}
