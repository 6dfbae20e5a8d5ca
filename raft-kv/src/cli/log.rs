//! `log dump` and `log verify`: look at a node's log without changing it.

use std::path::Path;

use raft_log::inspect::{BatchReport, Detail, SegmentReport, Survey, survey};
use raft_log::vfs::RealVfs;
use serde_json::{Value, json};

use super::args::{Common, Format, LogArgs, LogCommand};
use super::error::CliError;
use super::output::{print_bytes, print_json, print_line};

pub(super) fn run(common: &Common, args: &LogArgs) -> Result<(), CliError> {
    match &args.command {
        LogCommand::Dump { dir } => dump(common, dir),
        LogCommand::Verify { dir } => verify(common, dir),
    }
}

fn dump(common: &Common, dir: &Path) -> Result<(), CliError> {
    let found = look(dir, Detail::Records)?;
    match common.write_out {
        Format::Simple => print_bytes(found.to_string().as_bytes())?,
        Format::Json => {
            let segments = found.segments.iter().map(segment_json);
            print_json(&json!({
                "directory": found.directory,
                "sound": found.is_sound(),
                "segments": segments.collect::<Vec<_>>(),
            }))?;
        }
    }
    verdict(&found)
}

fn verify(common: &Common, dir: &Path) -> Result<(), CliError> {
    let found = look(dir, Detail::Batches)?;
    let batches: usize = found.segments.iter().map(|s| s.batches.len()).sum();
    let findings: Vec<String> = found.segments.iter().flat_map(findings_of).collect();
    match common.write_out {
        Format::Simple => {
            for finding in &findings {
                print_line(finding)?;
            }
            let verdict = if found.is_sound() { "sound" } else { "DAMAGED" };
            let segments = found.segments.len();
            print_line(&format!(
                "{segments} segments, {batches} batches: {verdict}"
            ))?;
        }
        Format::Json => print_json(&json!({
            "directory": found.directory,
            "sound": found.is_sound(),
            "segments": found.segments.len(),
            "batches": batches,
            "findings": findings,
        }))?,
    }
    verdict(&found)
}

/// Looks at the log of a data directory; one without a log is probably not meant.
fn look(dir: &Path, detail: Detail) -> Result<Survey, CliError> {
    let found =
        survey(&RealVfs, dir, detail).map_err(|error| CliError::Failed(error.to_string()))?;
    if found.segments.is_empty() {
        return Err(CliError::Failed(format!(
            "there is no log in {}; name a server's data directory",
            dir.display()
        )));
    }
    Ok(found)
}

fn verdict(found: &Survey) -> Result<(), CliError> {
    if found.is_sound() {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "the log in {} is damaged",
        found.directory.display()
    )))
}

fn findings_of(segment: &SegmentReport) -> Vec<String> {
    let in_segment = |what: String| format!("segment {}: {what}", segment.sequence);
    let mut found: Vec<String> = segment
        .findings
        .iter()
        .map(|finding| in_segment(finding.to_string()))
        .collect();
    if !segment.is_sound() && found.is_empty() {
        found.push(in_segment("DAMAGED at its start or its end".to_owned()));
    }
    found
}

fn segment_json(segment: &SegmentReport) -> Value {
    json!({
        "sequence": segment.sequence,
        "path": segment.path,
        "file_bytes": segment.file_bytes,
        "sound": segment.is_sound(),
        "batches": segment.batches.iter().map(batch_json).collect::<Vec<_>>(),
        "findings": findings_of(segment),
    })
}

fn batch_json(batch: &BatchReport) -> Value {
    let records = batch.records.iter().map(|record| {
        json!({
            "offset": record.offset,
            "index": record.index.0,
            "term": record.term.0,
            "kind": format!("{:?}", record.kind).to_lowercase(),
            "payload_bytes": record.payload_bytes,
        })
    });
    json!({
        "offset": batch.offset,
        "bytes": batch.bytes,
        "term": batch.hard_state.term.0,
        "vote": batch.hard_state.vote.map(|vote| vote.0),
        "keep_index": batch.keep.index.0,
        "last_index": batch.last.index.0,
        "last_term": batch.last.term.0,
        "records": records.collect::<Vec<_>>(),
    })
}
