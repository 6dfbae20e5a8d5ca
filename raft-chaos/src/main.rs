//! `raft-chaos`: a campaign against a given `raft-kv`; `cargo xtask chaos` builds both and runs it.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use raft_chaos::{Network, Options, Outcome, Progress, Report, Rounds, check_namespaces, run};

/// Runs real servers under random faults and judges what their clients saw.
#[derive(Parser)]
#[command(name = "raft-chaos")]
struct Arguments {
    /// The raft-kv under test
    #[arg(long, value_name = "FILE")]
    binary: PathBuf,
    /// How long
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// How many servers
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..=7))]
    nodes: u64,
    /// How many clients, each with one call at a time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=64))]
    clients: u64,
    /// What is drawn is drawn from this; by default from the time
    #[arg(long)]
    seed: Option<u64>,
    /// Fails where there are no network namespaces, instead of leaving partitions out
    #[arg(long)]
    require_netns: bool,
    /// Writes the summary and the timeline to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keeps certificates, data and logs of the servers of a sound run too
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    match campaign(&Arguments::parse()) {
        Ok(Outcome::Sound) => ExitCode::SUCCESS,
        Ok(Outcome::Undecided | Outcome::Wrong) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn campaign(arguments: &Arguments) -> Result<Outcome, String> {
    if !(arguments.minutes > 0.0 && arguments.minutes <= 10_080.0) {
        return Err("--minutes is not between 0 and 10080 (a week)".to_owned());
    }
    let network = match check_namespaces() {
        Ok(()) => Network::Namespaces,
        Err(error) if arguments.require_netns => return Err(error.to_string()),
        Err(error) => {
            println!("SKIPPED: partitions, interfaces and full disks: {error}");
            Network::Loopback
        }
    };
    let name = format!("raft-chaos-{}-", std::process::id());
    let directory = tempfile::Builder::new().prefix(&name).tempdir();
    let directory = directory.map_err(|error| format!("cannot make a directory: {error}"))?;
    let seed = arguments.seed.unwrap_or_else(seed_of_now);
    println!("seed {seed}, {} nodes, {network:?}", arguments.nodes);
    let report = run(Options {
        binary: arguments.binary.clone(),
        directory: directory.path().to_owned(),
        nodes: arguments.nodes,
        clients: arguments.clients,
        seed,
        network,
        rounds: Rounds::Drawn {
            duration: Duration::from_secs_f64(arguments.minutes * 60.0),
        },
        progress: Progress::Shown,
    });
    println!("\n{}", report.summary());
    write_json(arguments, &report)?;
    if report.outcome() != Outcome::Sound || arguments.keep {
        println!(
            "data, history and logs are kept in {}",
            directory.keep().display()
        );
    }
    Ok(report.outcome())
}

fn write_json(arguments: &Arguments, report: &Report) -> Result<(), String> {
    let Some(path) = &arguments.json else {
        return Ok(());
    };
    let written = std::fs::write(path, format!("{:#}\n", report.to_json()));
    written.map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn seed_of_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // Any number will do.
    now.map_or(1, |since| since.as_millis() as u64)
}
