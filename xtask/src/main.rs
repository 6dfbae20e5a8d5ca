//! Chores of the workspace: `cargo xtask ci | test | demo | sim | chaos | exhaustive | bench | tidy`.
#![forbid(unsafe_code)]

mod bench;
mod binaries;
mod chaos;
mod ci;
mod demo;
mod exhaustive;
mod sim;
mod steps;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::ci::Namespaces;

/// Chores of the workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Everything that has to hold before a change lands; stops at the first failure
    Ci,
    /// All tests of the workspace: unit, property, script, paper, lab, process, documentation
    Test {
        /// Build the tests with optimisation
        #[arg(long)]
        release: bool,
        /// Fails where there are no network namespaces, instead of skipping tests with partitions
        #[arg(long)]
        require_netns: bool,
    },
    /// Three processes take real data, lose their leader by SIGKILL, and lose nothing
    Demo(demo::Options),
    /// Whole clusters in virtual time, with hostile networks, disks and clocks
    Sim(sim::Options),
    /// Real servers under kill -9, pauses, partitions and full disks
    Chaos(chaos::Options),
    /// Everything within given bounds: histories of the consensus core
    Exhaustive {
        #[command(subcommand)]
        what: exhaustive::What,
    },
    /// How many seeds of the simulator it takes to find each planted bug
    Mutants(sim::MutantOptions),
    /// Throughput, latency, processor time and failover of three servers on this machine
    Bench(bench::Options),
    /// Sizes of files and functions, headers, format pages in step with code, links, leftovers
    Tidy,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().chore {
        Chore::Ci => ci::run(),
        Chore::Test {
            release,
            require_netns,
        } => ci::test(release, Namespaces::from_flag(require_netns)),
        Chore::Demo(options) => demo::run(&options),
        Chore::Sim(options) => sim::run_chore(&options),
        Chore::Chaos(options) => chaos::run(&options),
        Chore::Exhaustive { what } => exhaustive::run(&what),
        Chore::Mutants(options) => sim::run_mutants(&options),
        Chore::Bench(options) => bench::run(&options),
        Chore::Tidy => tidy::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}
