//! How many seeds of the simulator it takes to find a bug.

use std::time::{Duration, Instant};

use raft_proto::mutants::{Mutant, plant};
use raft_sim::TraceDepth;
use raft_sim::campaign::{Plan, run as run_plan};

use super::super::workload::{Factory, Kind};
use super::{Bug, Rows, each};

/// Words of a failure that a table has room for.
const WORDS: usize = 12;
/// How often a hunt that takes long shows how far it is.
const SHOW_EVERY: Duration = Duration::from_secs(10);

/// How a bug was found.
struct Found {
    seed: u64,
    message: String,
}

pub(super) fn run(wanted: &[Bug], seeds: u64, jobs: usize) -> Result<Rows, String> {
    super::super::silence_panics();
    let workloads = [Kind::Registers.factory()?, Kind::Kv.factory()?];
    let found = each(wanted, jobs, |(mutant, _)| {
        let found = look_for(mutant, seeds, &workloads);
        match &found {
            Some(Found { seed, message }) => {
                println!("{}: found by seed {seed}: {message}", mutant.name());
            }
            None => println!("{}: not found in {seeds} seeds", mutant.name()),
        }
        found
    });
    let missed: Vec<_> = wanted
        .iter()
        .zip(&found)
        .filter(|(_, found)| found.is_none())
        .map(|((mutant, _), _)| mutant.name())
        .collect();
    let rows = wanted.iter().zip(&found).map(|((mutant, section), found)| {
        let (seed, message) = match found {
            Some(found) => (found.seed.to_string(), found.message.clone()),
            None => (format!("not in {seeds}"), String::new()),
        };
        vec![
            format!("`{}`", mutant.name()),
            (*section).to_string(),
            seed,
            message,
        ]
    });
    Ok(Rows {
        head: &["planted bug", "section", "found by seed", "as"],
        rows: rows.collect(),
        verdict: if missed.is_empty() {
            Ok(())
        } else {
            Err(format!("not found: {}", missed.join(", ")))
        },
    })
}

/// Each seed runs with one workload after the other.
fn look_for(mutant: Mutant, seeds: u64, workloads: &[Factory]) -> Option<Found> {
    let mut shown = Instant::now();
    (1..=seeds).find_map(|seed| {
        if shown.elapsed() >= SHOW_EVERY {
            shown = Instant::now();
            println!("{}: seed {seed} of {seeds}", mutant.name());
        }
        let plan = Plan::draw(seed);
        let fails = |workload: &Factory| {
            plant(Some(mutant));
            let outcome = run_plan(&plan, workload, TraceDepth::Latest(0));
            plant(None);
            outcome.err()
        };
        let failure = workloads.iter().find_map(fails)?;
        let words: Vec<_> = failure.message.split_whitespace().take(WORDS).collect();
        let message = words.join(" ").replace('|', "/");
        Some(Found { seed, message })
    })
}
