//! `log repair`: puts in order what can be put in order without guessing, on a copy that is kept.

use std::path::{Path, PathBuf};

use raft_log::inspect::{Detail, Finding, Survey, survey};
use raft_log::vfs::RealVfs;
use raft_log::{DataDir, Log, LogIdentity, LogOptions, LogWrite, OnDamage};
use raft_proto::{GroupId, LogIndex};

use super::super::error::CliError;
use super::super::output::print_line;
use super::look;

/// Whether anything is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Mode {
    /// It only says what it would do.
    DryRun,
    /// It does it.
    Change,
}

/// Entries that are copied into a fresh segment, first and last.
type Range = (LogIndex, LogIndex);

pub(super) fn run(dir: &Path, mode: Mode) -> Result<(), CliError> {
    let found = look(dir, Detail::Batches)?;
    let plan = Plan::of(&found);
    for line in &plan.lines {
        print_line(line)?;
    }
    if !plan.refusals.is_empty() {
        return Err(CliError::Failed(format!(
            "{}\nnothing was changed: what is lost here cannot be made up, only fetched from another node; see `raft-kv log verify {}`",
            plan.refusals.join("\n"),
            dir.display()
        )));
    }
    if plan.lines.is_empty() {
        return print_line("nothing to repair");
    }
    match mode {
        Mode::DryRun => print_line("nothing was changed; add --yes to do it"),
        Mode::Change => change(dir, &found, &plan),
    }
}

/// What would be done, and what stands in the way.
struct Plan {
    lines: Vec<String>,
    refusals: Vec<String>,
    rewritten: Vec<Range>,
}

impl Plan {
    fn of(found: &Survey) -> Self {
        let mut plan = Self {
            lines: Vec::new(),
            refusals: Vec::new(),
            rewritten: Vec::new(),
        };
        for segment in &found.segments {
            let number = segment.sequence;
            for finding in &segment.findings {
                match finding {
                    Finding::Torn { offset } => plan.lines.push(format!(
                        "segment {number}: drop the torn batch at {offset}; nobody was told that it was written"
                    )),
                    Finding::LostCopy { offset } => {
                        let mut batches = segment.batches.iter();
                        let batch = batches.find(|batch| batch.offset == *offset);
                        let range = batch.map(|batch| (batch.keep.index.next(), batch.last.index));
                        plan.rewritten.extend(range);
                        plan.lines.push(format!(
                            "segment {number}: write the entries of the batch at {offset} again, which has one good copy of its identity left"
                        ));
                    }
                    // Its content is in the log again, and the segment goes with a compaction.
                    Finding::Healed { .. } => {}
                    Finding::Damaged { .. }
                    | Finding::WrongSize { .. }
                    | Finding::SuccessorMissing { .. }
                    | Finding::PredecessorMissing { .. } => {
                        plan.refusals.push(format!("segment {number}: {finding}"));
                    }
                }
            }
            if !segment.is_sound() && segment.findings.is_empty() {
                let refusal = format!("segment {number}: its start or its end is damaged");
                plan.refusals.push(refusal);
            }
        }
        plan
    }
}

fn change(dir: &Path, found: &Survey, plan: &Plan) -> Result<(), CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
    let peeked = DataDir::peek(&RealVfs, dir).map_err(|error| failed(&error))?;
    let Some((node, _)) = peeked else {
        let message = format!("{} is no data directory", dir.display());
        return Err(CliError::Failed(message));
    };
    // Locks it: a running server is told by name, and nothing is touched.
    let directory = DataDir::open(RealVfs::shared(), dir, node);
    let directory = directory.map_err(|error| failed(&error))?;
    let kept = keep_copy(&found.directory)?;
    print_line(&format!("the log as it was is kept in {}", kept.display()))?;
    let Some(cluster) = directory.cluster() else {
        let message = format!("{} belongs to no cluster yet", dir.display());
        return Err(CliError::Failed(message));
    };
    let identity = LogIdentity {
        cluster,
        node: directory.node(),
        incarnation: directory.incarnation(),
        group: GroupId(0),
    };
    let options = LogOptions {
        on_damage: OnDamage::Refuse,
        ..LogOptions::default()
    };
    // The open itself drops what is torn and copies what nothing vouches for.
    let opened = Log::open(&directory, identity, options);
    let (mut log, _) = opened.map_err(|error| failed(&error))?;
    for range in &plan.rewritten {
        rewrite(&mut log, *range)?;
    }
    drop((log, directory));
    let after = survey(&RealVfs, dir, Detail::Batches).map_err(|error| failed(&error))?;
    let batches: usize = after.segments.iter().map(|s| s.batches.len()).sum();
    let segments = after.segments.len();
    print_line(&format!("repaired: {segments} segments, {batches} batches"))
}

/// Writes the live ones of these entries into a fresh place. The old place stays until a compaction.
fn rewrite(log: &mut Log, (first, last): Range) -> Result<(), CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
    let (mut next, last) = (first.max(log.first_index()), last.min(log.last().index));
    while next <= last {
        let read = log.reader().read(next, last, 1 << 20);
        let refill = read.map_err(|error| failed(&error))?;
        let Some(end) = refill.last().map(|entry| entry.index) else {
            return Ok(());
        };
        log.report_rot(next, end);
        let write = LogWrite {
            refill,
            ..LogWrite::default()
        };
        log.stage(write).map_err(|error| failed(&error))?;
        log.sync().map_err(|error| failed(&error))?;
        next = end.next();
    }
    Ok(())
}

/// Copies the log's directory beside it, under a name that is free.
fn keep_copy(log: &Path) -> Result<PathBuf, CliError> {
    let failed = |action: String| move |source| CliError::Io { action, source };
    let mut number = 1;
    let copy = loop {
        let name = format!("log-before-repair-{number}");
        let copy = log.with_file_name(name);
        if !copy.exists() {
            break copy;
        }
        number += 1;
    };
    std::fs::create_dir(&copy).map_err(failed(format!("make {}", copy.display())))?;
    let read = || failed(format!("read {}", log.display()));
    for entry in std::fs::read_dir(log).map_err(read())? {
        let entry = entry.map_err(read())?;
        let to = copy.join(entry.file_name());
        let action = format!("copy {} to {}", entry.path().display(), to.display());
        let copied =
            std::fs::copy(entry.path(), &to).and_then(|_| std::fs::File::open(&to)?.sync_all());
        copied.map_err(failed(action))?;
    }
    Ok(copy)
}
