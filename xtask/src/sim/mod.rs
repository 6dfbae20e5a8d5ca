//! `cargo xtask sim`: one seed with a readable story, or seeds for minutes with a closing summary.

mod campaign;
mod mutants;
mod story;
mod workload;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use raft_sim::TraceDepth;
use raft_sim::campaign::{Failure, Plan, run, shrink};

pub(crate) use self::mutants::{
    Options as MutantOptions, run_for_ci as run_mutants_for_ci, run_mutants,
};

use self::campaign::Campaign;
use self::workload::{Factory, Kind};

/// Most runs that shrinking a failing seed may take.
const SHRINK_RUNS_MAX: u32 = 400;

/// How much freed memory the allocator keeps instead of giving it back, in bytes.
const KEPT_BYTES: &str = "67108864";

/// Set in the environment of a program that [`run_optimised`] has started.
const OPTIMISED: &str = "RAFT_XTASK_OPTIMISED";

/// What to simulate.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Runs this one seed and tells what happened
    #[arg(long, conflicts_with_all = ["minutes", "seeds", "from"])]
    seed: Option<u64>,
    /// What clients do
    #[arg(long, value_enum, default_value_t)]
    workload: Kind,
    /// Writes everything that happens in that seed to this file, as JSON lines
    #[arg(long, requires = "seed")]
    trace: Option<PathBuf>,
    /// Does not make a failing seed smaller
    #[arg(long)]
    no_shrink: bool,
    /// Runs seeds for so long
    #[arg(long)]
    minutes: Option<f64>,
    /// Runs so many seeds
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed; by default one drawn from the time
    #[arg(long)]
    from: Option<u64>,
    /// Seeds that run at the same time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Damages more disks than the cluster can bear: it must then stop and say so, and lose nothing
    #[arg(long)]
    beyond_atlas: bool,
    /// Up to a tenth of all reads and writes damage the disk, as many disks as the cluster can bear
    #[arg(long, conflicts_with = "beyond_atlas")]
    bad_disks: bool,
    /// So many clients, for more or less load; by default 4 to 8, drawn from the seed
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    clients: Option<u64>,
    /// Fails unless every rare state was reached
    #[arg(long)]
    require_marks: bool,
}

/// Runs the simulator.
///
/// # Errors
/// A seed fails, a rare state that is required was not reached, or a file cannot be written.
pub(crate) fn run_chore(options: &Options) -> Result<(), String> {
    if !is_optimised() {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        return run_optimised(&[], &arguments);
    }
    silence_panics();
    let workload = options.workload.factory()?;
    if let Some(seed) = options.seed {
        return run_one(options.plans().plan(seed), options, workload);
    }
    let deadline = options
        .minutes
        .map(|minutes| Instant::now() + Duration::from_secs_f64(minutes * 60.0));
    if deadline.is_none() && options.seeds.is_none() {
        return Err("say which: --seed N, --seeds N or --minutes M".to_string());
    }
    let first = options.from.unwrap_or_else(seed_of_now);
    let campaign = Campaign::new(first, options.seeds, deadline, workload, options.plans());
    let outcome = campaign.run(options.jobs.max(1));
    println!("{}", outcome.summary());
    for (seed, failure) in &outcome.failures {
        println!("seed {seed}: {}", first_line(failure));
    }
    if let Some((seed, failure)) = outcome.failures.first_key_value()
        && !options.no_shrink
    {
        story::tell_shrunk(&options.plans().plan(*seed), failure.clone(), workload);
    }
    if !outcome.failures.is_empty() {
        return Err(format!("{} seeds failed", outcome.failures.len()));
    }
    if outcome.is_too_undecided() {
        return Err("too many histories are undecided: they show nothing".to_string());
    }
    let unreached = outcome.tally.unreached();
    if options.require_marks && !unreached.is_empty() {
        let names: Vec<_> = unreached.iter().map(|mark| mark.name()).collect();
        return Err(format!("never reached: {}", names.join(", ")));
    }
    Ok(())
}

/// Runs so many seeds of each workload from the first one on, as CI does; with each every rare
/// state must be reached.
///
/// # Errors
/// As [`run_chore`].
pub(crate) fn run_for_ci(registers: u64, kv: u64) -> Result<(), String> {
    for (kind, seeds) in [(Kind::Registers, registers), (Kind::Kv, kv)] {
        let seeds = seeds.to_string();
        let mut arguments = vec!["sim", "--from", "1", "--require-marks", "--seeds", &seeds];
        arguments.extend(["--workload", kind.name()]);
        let arguments: Vec<_> = arguments.into_iter().map(str::to_string).collect();
        run_optimised(&[], &arguments)?;
    }
    Ok(())
}

/// Whether this program was built and started by [`run_optimised`].
fn is_optimised() -> bool {
    std::env::var_os(OPTIMISED).is_some()
}

/// Builds this program with optimisation, which makes seeds five times as cheap, and runs it.
fn run_optimised(features: &[&str], arguments: &[String]) -> Result<(), String> {
    let mut all = vec!["run", "--quiet", "--package", "xtask", "--profile", "sim"];
    all.extend(["--features", "kv"]);
    all.extend(features);
    all.push("--");
    all.extend(arguments.iter().map(String::as_str));
    let mut program = crate::workspace::cargo(&all);
    // Disks of simulated nodes come and go: their memory is kept (mallopt(3)).
    program.env("MALLOC_MMAP_THRESHOLD_", KEPT_BYTES);
    program.env("MALLOC_TRIM_THRESHOLD_", KEPT_BYTES);
    crate::steps::call(program.env(OPTIMISED, "1"))
}

impl Options {
    fn plans(&self) -> Plans {
        Plans {
            draw: match (self.beyond_atlas, self.bad_disks) {
                (true, _) => Plan::draw_beyond_atlas,
                (false, true) => Plan::draw_bad_disks,
                (false, false) => Plan::draw,
            },
            clients: self.clients,
        }
    }
}

/// What makes a plan of a seed.
#[derive(Clone, Copy)]
struct Plans {
    draw: fn(u64) -> Plan,
    clients: Option<u64>,
}

impl Plans {
    fn plan(self, seed: u64) -> Plan {
        let mut plan = (self.draw)(seed);
        plan.clients = self.clients.unwrap_or(plan.clients);
        plan
    }
}

fn run_one(plan: Plan, options: &Options, workload: Factory) -> Result<(), String> {
    let seed = plan.seed;
    story::tell_plan(&plan);
    let depth = TraceDepth::Full;
    let outcome = run(&plan, &workload, depth);
    if let Some(path) = &options.trace {
        let records = match &outcome {
            Ok(report) => &report.trace,
            Err(failure) => &failure.trace,
        };
        story::write_trace(path, records)?;
    }
    match outcome {
        Ok(report) => {
            story::tell_report(&report);
            Ok(())
        }
        Err(failure) => {
            let line = first_line(&failure);
            if options.no_shrink {
                story::tell_failure(&failure);
            } else {
                story::tell_shrunk(&plan, failure, workload);
            }
            Err(format!("seed {seed}: {line}"))
        }
    }
}

fn first_line(failure: &Failure) -> String {
    let line = failure.message.lines().next().unwrap_or_default();
    format!("after {} ms: {line}", failure.at_ms)
}

/// Panics of the code under test are reported with their seed; their own words would only drown it.
fn silence_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

fn seed_of_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // Seeds of one run follow each other, so runs at different times hardly share any.
    now.map_or(1, |since| since.as_millis() as u64)
}

fn shrunk(plan: &Plan, failure: Failure, workload: Factory) -> raft_sim::campaign::Shrunk {
    shrink(plan, failure, &workload, SHRINK_RUNS_MAX)
}
