//! Every short history of the log, cut at every operation: the test of `raft-log/tests/exhaustive.rs`
//! with the bounds whose counts are in `docs/TESTING.md`.

use crate::steps;
use crate::workspace::cargo;

/// Which bounds.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Operations of the longest histories
    #[arg(long, default_value_t = 6)]
    length: usize,
    /// Operations of the longest histories after which the recovery is cut too
    #[arg(long, default_value_t = 3)]
    recovery: usize,
    /// Threads
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

/// Tries all of them.
///
/// # Errors
/// A history, a cut and what survived, after which the log is not what it has to be.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let arguments = "test --release -p raft-log --test exhaustive -- --nocapture";
    let arguments: Vec<_> = arguments.split(' ').collect();
    let mut command = cargo(&arguments);
    command.env("RAFT_WAL_EXHAUSTIVE_LENGTH", options.length.to_string());
    command.env("RAFT_WAL_EXHAUSTIVE_RECOVERY", options.recovery.to_string());
    command.env("RAFT_WAL_EXHAUSTIVE_JOBS", options.jobs.to_string());
    steps::call(&mut command)
}
