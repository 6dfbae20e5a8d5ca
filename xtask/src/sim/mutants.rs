//! `cargo xtask mutants`: plants bugs one by one, and counts the seeds until each is found.
//!
//! Planted bugs are compiled in only with the feature `mutants`, so the chore builds itself again.

/// Which bugs, and how long to look.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only the bug of this name
    #[arg(long)]
    only: Option<String>,
    /// Most seeds for each bug
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// Bugs that are looked for at the same time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

/// Builds this program with planted bugs and runs it.
///
/// # Errors
/// A bug is not found, or the build fails.
#[cfg(not(feature = "mutants"))]
pub(crate) fn run_mutants(options: &Options) -> Result<(), String> {
    let (seeds, jobs) = (options.seeds.to_string(), options.jobs.to_string());
    let mut arguments = vec!["mutants", "--seeds", &seeds, "--jobs", &jobs];
    if let Some(only) = &options.only {
        arguments.extend(["--only", only]);
    }
    let arguments: Vec<_> = arguments.into_iter().map(String::from).collect();
    super::run_optimised(&["--features", "mutants"], &arguments)
}

/// Looks for each bug.
///
/// # Errors
/// One is not found.
#[cfg(feature = "mutants")]
pub(crate) fn run_mutants(options: &Options) -> Result<(), String> {
    planted::run(options.only.as_deref(), options.seeds, options.jobs)
}

#[cfg(feature = "mutants")]
mod planted {
    use std::sync::Mutex;
    use std::sync::PoisonError;

    use raft_proto::mutants::{Mutant, plant};
    use raft_sim::TraceDepth;
    use raft_sim::campaign::{Plan, run as run_plan};

    use super::super::workload::{Factory, Kind};

    /// Words of a failure that a table has room for.
    const WORDS: usize = 12;

    /// How a bug was found.
    struct Found {
        seed: u64,
        message: String,
    }

    pub(super) fn run(only: Option<&str>, seeds: u64, jobs: usize) -> Result<(), String> {
        super::super::silence_panics();
        let is_wanted = |mutant: &Mutant| only.is_none_or(|name| name == format!("{mutant:?}"));
        let wanted = Mutant::ALL.iter().copied();
        let mut wanted: Vec<_> = wanted.filter(|(mutant, _)| is_wanted(mutant)).collect();
        wanted.reverse();
        let queue = Mutex::new(wanted);
        let missed = Mutex::new(Vec::new());
        let workloads = [Kind::Registers.factory()?, Kind::Kv.factory()?];
        println!("| planted bug | section | found by seed | as |\n| --- | --- | --- | --- |");
        std::thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let next = lock(&queue).pop();
                        let Some((mutant, section)) = next else {
                            return;
                        };
                        match look_for(mutant, seeds, &workloads) {
                            Some(Found { seed, message }) => {
                                println!("| {mutant:?} | {section} | {seed} | {message} |");
                            }
                            None => {
                                println!("| {mutant:?} | {section} | not in {seeds} | |");
                                lock(&missed).push(format!("{mutant:?}"));
                            }
                        }
                    }
                });
            }
        });
        let missed = missed.into_inner().unwrap_or_else(PoisonError::into_inner);
        if missed.is_empty() {
            Ok(())
        } else {
            Err(format!("not found: {}", missed.join(", ")))
        }
    }

    fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each seed runs with one workload after the other.
    fn look_for(mutant: Mutant, seeds: u64, workloads: &[Factory]) -> Option<Found> {
        (1..=seeds).find_map(|seed| {
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
}
