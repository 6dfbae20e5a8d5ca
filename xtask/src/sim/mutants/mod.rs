//! `cargo xtask mutants`: plants bugs one by one, and shows what finds each of them: how many seeds of
//! the simulator it takes, or which other tests fail.
//!
//! Planted bugs are compiled in only with the feature `mutants`, so the chore builds itself again.

#[cfg(feature = "mutants")]
mod hunt;
mod tests_alone;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use raft_proto::mutants::Mutant;

/// Which bugs, and how long to look.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only the bugs of these names
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Most seeds for each bug
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// Bugs that are looked for at the same time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Writes the table to this file, too
    #[arg(long)]
    table: Option<PathBuf>,
    /// Runs the unit, script, paper and lab tests with each bug, instead of the simulator
    #[arg(long, conflicts_with = "seeds")]
    against_tests: bool,
}

/// Bugs that CI plants, and the most seeds that one of them may take: the canary, and some that are
/// found soon, of different sections.
const QUICK: &str = "Canary,AnyLogWins,CommitOldTerms,LeavesJointEarly,FollowerReadsAlone,\
                     RetryAppliedTwice,NoFsync";
const QUICK_SEEDS: &str = "200";

/// Looks for bugs; to plant them in the simulator, this program is built again with them.
///
/// # Errors
/// A bug is not found by the simulator, or a build fails.
pub(crate) fn run_mutants(options: &Options) -> Result<(), String> {
    if !options.against_tests && !super::is_optimised() {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        return super::run_optimised(&["--features", "mutants"], &arguments);
    }
    for name in &options.only {
        Mutant::named(name).ok_or_else(|| format!("no planted bug is called {name}"))?;
    }
    let is_wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|o| o == name);
    let all = Mutant::ALL.iter().copied();
    let wanted: Vec<_> = all.filter(|(mutant, _)| is_wanted(mutant.name())).collect();
    let jobs = options.jobs.max(1);
    let rows = if options.against_tests {
        tests_alone::run(&wanted, jobs)?
    } else {
        hunt(&wanted, options.seeds, jobs)?
    };
    let table = rows.table();
    println!("\n{table}");
    if let Some(path) = &options.table {
        let written = std::fs::write(path, &table);
        written.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    rows.verdict
}

/// A few bugs, as CI looks for them: is the tester itself alive?
///
/// # Errors
/// One of them is not found.
pub(crate) fn run_for_ci() -> Result<(), String> {
    let arguments = ["mutants", "--only", QUICK, "--seeds", QUICK_SEEDS];
    let arguments: Vec<_> = arguments.into_iter().map(str::to_string).collect();
    super::run_optimised(&["--features", "mutants"], &arguments)
}

/// A bug and the section of the list of bug classes that it is from.
type Bug = (Mutant, &'static str);

#[cfg(feature = "mutants")]
fn hunt(wanted: &[Bug], seeds: u64, jobs: usize) -> Result<Rows, String> {
    hunt::run(wanted, seeds, jobs)
}

#[cfg(not(feature = "mutants"))]
fn hunt(_wanted: &[Bug], _seeds: u64, _jobs: usize) -> Result<Rows, String> {
    Err("this build has no planted bugs; start it by `cargo xtask mutants`".to_string())
}

/// What a run shows.
struct Rows {
    head: &'static [&'static str],
    rows: Vec<Vec<String>>,
    verdict: Result<(), String>,
}

impl Rows {
    /// As a table of Markdown.
    fn table(&self) -> String {
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let cells: Vec<_> = cells.collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let mut table = line(&mut self.head.iter().copied());
        table.push_str(&line(&mut self.head.iter().map(|_| "---")));
        for row in &self.rows {
            table.push_str(&line(&mut row.iter().map(String::as_str)));
        }
        table
    }
}

/// Does something with each item on several threads, and gives the results in the order of the items.
fn each<T: Copy + Send + Sync, R: Send>(
    items: &[T],
    jobs: usize,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at).copied() else {
                        return;
                    };
                    let result = work(item);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}
