//! Tells what a plan was, what happened, and how little of it is enough to fail.

use std::io::Write;
use std::path::Path;

use raft_sim::Record;
use raft_sim::campaign::{Failure, Plan, Report};
use serde_json::json;

use super::workload::Factory;

/// How many of the latest events a story ends with.
const LATEST: usize = 60;

/// The world and the faults.
pub(crate) fn tell_plan(plan: &Plan) {
    println!(
        "seed {}: {} clients, {} ms of trouble, then {:?}\n{:?}",
        plan.seed, plan.clients, plan.trouble_ms, plan.ending, plan.world
    );
    for (at, fault) in &plan.faults {
        println!("{at:>8} ms  {fault:?}");
    }
}

/// A run that went well.
pub(crate) fn tell_report(report: &Report) {
    println!(
        "fine: {} virtual ms, {} operations, {} writes acknowledged after the first fault, trace {:016x}",
        report.virtual_ms, report.operations, report.acknowledged_after_fault, report.trace_hash
    );
    if report.undecided > 0 {
        println!("the search for an order was given up: the history shows nothing");
    }
    println!("faults: {:?}", report.tally.faults);
    let marks = report.tally.marks.iter();
    let marks: Vec<_> = marks.map(|(mark, n)| (mark.name(), n)).collect();
    println!("rare states: {marks:?}");
}

/// A run that failed.
pub(crate) fn tell_failure(failure: &Failure) {
    let from = failure.trace.len().saturating_sub(LATEST);
    for record in &failure.trace[from..] {
        println!("{record}");
    }
    println!("after {} virtual ms: {}", failure.at_ms, failure.message);
}

/// Looks for a smaller plan that fails, and tells its end.
pub(crate) fn tell_shrunk(plan: &Plan, failure: Failure, workload: Factory) {
    println!("after {} virtual ms: {}", failure.at_ms, failure.message);
    println!("looking for less that fails alike ...");
    let shrunk = super::shrunk(plan, failure, workload);
    println!(
        "{} faults of {} are enough ({} runs):",
        shrunk.plan.faults.len(),
        plan.faults.len(),
        shrunk.runs
    );
    tell_plan(&shrunk.plan);
    let depth = raft_sim::TraceDepth::Full;
    let again = raft_sim::campaign::run(&shrunk.plan, &workload, depth);
    tell_failure(&again.err().unwrap_or(shrunk.failure));
}

/// Everything that happened, one JSON object a line.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_trace(path: &Path, records: &[Record]) -> Result<(), String> {
    let write = || {
        let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
        for record in records {
            let mut line = json!({
                "ns": record.time.0,
                "node": record.node,
                "what": record.what,
            });
            if !record.name.is_empty() {
                line["name"] = json!(record.name);
            }
            for (name, number) in record.numbers {
                if !name.is_empty() {
                    line[name] = json!(number);
                }
            }
            writeln!(out, "{line}")?;
        }
        out.flush()
    };
    let written: std::io::Result<()> = write();
    written.map_err(|error| format!("cannot write {}: {error}", path.display()))
}
