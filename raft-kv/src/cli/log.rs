//! `log dump` and `log verify` look at a node's log without changing it; `log repair` is in its file.

use std::path::Path;

use raft_log::inspect::{BatchReport, Detail, RecordReport, SegmentReport, Survey, survey};
use raft_log::vfs::RealVfs;
use raft_proto::EntryKind;
use serde_json::{Value, json};

use super::args::{Common, DumpFilter, Format, LogArgs, LogCommand, RecordKind};
use super::error::CliError;
use super::output::{print_bytes, print_json, print_line};

mod repair;

pub(super) fn run(common: &Common, args: &LogArgs) -> Result<(), CliError> {
    match &args.command {
        LogCommand::Dump { dir, filter } => dump(common, dir, filter),
        LogCommand::Verify { dir } => verify(common, dir),
        LogCommand::Repair { dir, yes } => {
            let mode = if *yes {
                repair::Mode::Change
            } else {
                repair::Mode::DryRun
            };
            repair::run(dir, mode)
        }
    }
}

fn dump(common: &Common, dir: &Path, filter: &DumpFilter) -> Result<(), CliError> {
    let mut found = look(dir, Detail::Records)?;
    let is_sound = found.is_sound();
    apply(filter, &mut found);
    if filter.lines {
        print_records(common, &found)?;
        return verdict(dir, is_sound);
    }
    match common.write_out {
        Format::Simple => print_bytes(found.to_string().as_bytes())?,
        Format::Json => {
            let segments = found.segments.iter().map(segment_json);
            print_json(&json!({
                "directory": found.directory,
                "sound": is_sound,
                "segments": segments.collect::<Vec<_>>(),
            }))?;
        }
    }
    verdict(dir, is_sound)
}

/// Leaves out what was not asked for.
fn apply(filter: &DumpFilter, found: &mut Survey) {
    let wanted = |record: &RecordReport| {
        let kind = match record.kind {
            EntryKind::Noop => RecordKind::Noop,
            EntryKind::Command => RecordKind::Command,
            EntryKind::Membership => RecordKind::Membership,
        };
        filter.from.is_none_or(|from| from <= record.index.0)
            && filter.to.is_none_or(|to| record.index.0 <= to)
            && filter.term.is_none_or(|term| term == record.term.0)
            && filter.kind.is_none_or(|asked| asked == kind)
    };
    let is_of_records = filter.from.is_some()
        || filter.to.is_some()
        || filter.term.is_some()
        || filter.kind.is_some();
    let is_wanted = |segment: &SegmentReport| filter.segment.is_none_or(|n| n == segment.sequence);
    found.segments.retain(is_wanted);
    for segment in &mut found.segments {
        for batch in &mut segment.batches {
            batch.records.retain(wanted);
        }
        let has_some = |batch: &BatchReport| !is_of_records || !batch.records.is_empty();
        segment.batches.retain(has_some);
    }
}

/// One record a line.
fn print_records(common: &Common, found: &Survey) -> Result<(), CliError> {
    for segment in &found.segments {
        for record in segment.batches.iter().flat_map(|batch| &batch.records) {
            match common.write_out {
                Format::Simple => print_line(&format!("{} {record}", segment.sequence))?,
                Format::Json => {
                    let mut line = record_json(record);
                    line["segment"] = json!(segment.sequence);
                    print_line(&line.to_string())?;
                }
            }
        }
    }
    Ok(())
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
    verdict(dir, found.is_sound())
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

fn verdict(dir: &Path, is_sound: bool) -> Result<(), CliError> {
    if is_sound {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "the log in {} is damaged",
        dir.join("log-0").display()
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
    let records = batch.records.iter().map(record_json);
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

fn record_json(record: &RecordReport) -> Value {
    json!({
        "offset": record.offset,
        "index": record.index.0,
        "term": record.term.0,
        "kind": format!("{:?}", record.kind).to_lowercase(),
        "payload_bytes": record.payload_bytes,
    })
}
