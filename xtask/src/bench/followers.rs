//! What one bad follower does to everybody's puts: none of three, one that is killed in the middle,
//! one whose every sync takes longer. Open loop, in turn in every round.

use std::process::Command;
use std::time::Duration;

use super::table::median;
use super::{CLIENTS, NODES};
use crate::demo::cluster::Cluster;
use crate::demo::load::{BenchResult, BenchRun, Shape};
use crate::demo::tool::Tool;
use crate::demo::{await_equal_hashes, await_leader};
use crate::steps;

/// Share of the highest speed at which the puts are due.
const SHARE: f64 = 0.3;
/// Requests that may be under way at a time, far more than are if all is well.
const OPEN_LOOP_CLIENTS: (u64, u64) = (2_000, 4);
/// How much longer a sync of the slow follower takes, in microseconds.
const SLOWER_US: u64 = 10_000;
/// A load takes at least so long, so that what happens in its middle is a part of it.
const LEAST_SECONDS: f64 = 3.0;

/// What is wrong with the follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Nothing,
    Killed,
    SlowDisk,
}

/// Measures so many rounds, and prints a table.
pub(super) fn run(
    tool: &Tool,
    servers: &mut Cluster,
    rounds: usize,
    seconds: f64,
) -> Result<(), String> {
    let mut troubles = vec![Trouble::Nothing, Trouble::Killed];
    match steps::output(Command::new("strace").arg("--version")) {
        Ok(_) => troubles.push(Trouble::SlowDisk),
        Err(_) => eprintln!("a slow disk is not measured: that needs strace"),
    }
    let seconds = seconds.max(LEAST_SECONDS);
    let (clients, connections) = CLIENTS[CLIENTS.len() - 1];
    let fastest = super::shape("put", clients, connections);
    let peak = super::system::measure(&super::Ours { tool, servers }, &fastest, seconds)?;
    let rate = (peak.ops_per_s * SHARE) as u64;
    let load = Shape {
        rate: Some(rate),
        ..super::shape("put", OPEN_LOOP_CLIENTS.0, OPEN_LOOP_CLIENTS.1)
    };
    let total = (rate as f64 * seconds) as u64;
    let mut found: Vec<(Trouble, Vec<BenchResult>)> =
        troubles.into_iter().map(|t| (t, Vec::new())).collect();
    for round in 1..=rounds {
        for (trouble, results) in &mut found {
            eprintln!("round {round}: a follower with {trouble:?}, {rate} puts a second");
            let run = Run {
                load: &load,
                total,
                seconds,
            };
            results.push(run.with(*trouble, tool, servers)?);
        }
    }
    print(rate, &found);
    Ok(())
}

struct Run<'a> {
    load: &'a Shape,
    total: u64,
    seconds: f64,
}

impl Run<'_> {
    fn with(
        &self,
        trouble: Trouble,
        tool: &Tool,
        servers: &mut Cluster,
    ) -> Result<BenchResult, String> {
        let (_, leader) = await_leader(tool, servers, None)?;
        let follower = servers.running().into_iter().find(|id| *id != leader);
        let follower = follower.ok_or("there is no follower")?;
        if trouble == Trouble::SlowDisk {
            servers.kill(follower)?;
            let delay = format!("inject=fdatasync:delay_exit={SLOWER_US}");
            let tracer = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"];
            let filters = ["-e", "trace=fdatasync", "-e", &delay];
            servers.restart_under(follower, &[&tracer[..], &filters].concat())?;
            await_equal_hashes(tool, servers)?;
        }
        let run = BenchRun::start(tool, self.load, self.total)?;
        if trouble == Trouble::Killed {
            std::thread::sleep(Duration::from_secs_f64(self.seconds / 3.0));
            servers.kill(follower)?;
        }
        let result = run.finish()?;
        if trouble == Trouble::SlowDisk {
            servers.kill_traced(follower)?;
        }
        if trouble != Trouble::Nothing {
            servers.restart(follower)?;
        }
        await_equal_hashes(tool, servers)?;
        Ok(result)
    }
}

fn print(rate: u64, found: &[(Trouble, Vec<BenchResult>)]) {
    println!();
    println!(
        "Puts at {rate} a second ({:.0} % of the highest speed), open loop, {NODES} nodes; ratios within each round:",
        SHARE * 100.0
    );
    println!();
    println!("| follower | p50 µs | p99 µs | ratio of p99 | p99 of every round |");
    println!("| --- | --- | --- | --- | --- |");
    let of = |results: &[BenchResult], figure: fn(&BenchResult) -> f64| {
        results.iter().map(figure).collect::<Vec<_>>()
    };
    let sound = found.first().map_or(&[][..], |(_, results)| results);
    for (trouble, results) in found {
        let p99 = of(results, |result| result.p99_us);
        let ratios = results.iter().zip(sound).map(|(a, b)| a.p99_us / b.p99_us);
        let all: Vec<_> = p99.iter().map(|us| format!("{us:.0}")).collect();
        let name = match trouble {
            Trouble::Nothing => "sound".to_string(),
            Trouble::Killed => "killed after a third of the time".to_string(),
            Trouble::SlowDisk => format!("every fdatasync takes {} ms longer", SLOWER_US / 1000),
        };
        println!(
            "| {name} | {:.0} | {:.0} | {:.2} | {} |",
            median(&of(results, |result| result.p50_us)),
            median(&p99),
            median(&ratios.collect::<Vec<_>>()),
            all.join(", ")
        );
    }
}
