//! How long writes pause when the leader goes: the longest put of one client that writes without a
//! break, from before until long after.

use std::fmt;
use std::time::{Duration, Instant};

use super::NODES;
use super::table::median;
use crate::demo::cluster::Cluster;
use crate::demo::load::BenchRun;
use crate::demo::tool::Tool;
use crate::demo::{await_equal_hashes, await_leader};

/// Puts of one trial: a few seconds' worth at a few hundred to two thousand a second.
const PUTS: u64 = 6_000;
/// How long the load runs before the leader goes.
const BEFORE: Duration = Duration::from_millis(700);

/// How a leader goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It stays: the longest put of a load that nothing disturbs.
    Stays,
    /// `raft-kv transfer`.
    Transfer,
    /// SIGTERM.
    Stop,
    /// SIGKILL.
    Kill,
}

impl Way {
    const ALL: [Self; 4] = [Self::Stays, Self::Transfer, Self::Stop, Self::Kill];

    fn happen(self, tool: &Tool, servers: &mut Cluster, leader: u64) -> Result<(), String> {
        match self {
            Self::Stays => Ok(()),
            Self::Transfer => {
                let other = servers.running().into_iter().find(|id| *id != leader);
                tool.transfer_leadership(other.ok_or("there is nobody else to lead")?)
            }
            Self::Stop => servers.retire(leader),
            Self::Kill => servers.kill(leader),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stays => "none",
            Self::Transfer => "transfer of leadership",
            Self::Stop => "orderly shutdown of the leader (SIGTERM)",
            Self::Kill => "SIGKILL of the leader",
        })
    }
}

/// Lets the leader go so many times in each way, in turn, and prints the pauses.
pub(super) fn run(tool: &Tool, servers: &mut Cluster, trials: usize) -> Result<(), String> {
    let mut pauses = Way::ALL.map(|way| (way, Vec::new()));
    for trial in 1..=trials {
        for (way, pauses) in &mut pauses {
            eprintln!("trial {trial}: {way}");
            pauses.push(pause(tool, servers, *way)?);
        }
    }
    println!();
    println!("Longest put of one client, {NODES} nodes, {trials} trials:");
    println!();
    println!("| disturbance | median, ms | all, ms |");
    println!("| --- | --- | --- |");
    for (way, pauses) in &pauses {
        let all: Vec<_> = pauses.iter().map(|pause| format!("{pause:.0}")).collect();
        println!("| {way} | {:.0} | {} |", median(pauses), all.join(", "));
    }
    Ok(())
}

/// The longest put of a trial, in milliseconds.
fn pause(tool: &Tool, servers: &mut Cluster, way: Way) -> Result<f64, String> {
    let (_, leader) = await_leader(tool, servers, None)?;
    let mut run = BenchRun::start(tool, &super::shape("put", 1, 1), PUTS)?;
    let started = Instant::now();
    while started.elapsed() < BEFORE {
        run.must_still_run("the load ended before the leader went")?;
        std::thread::sleep(Duration::from_millis(10));
    }
    way.happen(tool, servers, leader)?;
    let result = run.finish()?;
    if !servers.running().contains(&leader) {
        servers.restart(leader)?;
    }
    await_equal_hashes(tool, servers)?;
    Ok(result.max_us / 1e3)
}
