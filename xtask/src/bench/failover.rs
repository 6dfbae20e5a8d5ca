//! How long writes pause when the leader is killed: the longest put of one client that writes
//! without a break, from before the SIGKILL until long after.

use std::time::{Duration, Instant};

use super::NODES;
use crate::demo::cluster::Cluster;
use crate::demo::load::BenchRun;
use crate::demo::tool::Tool;
use crate::demo::{await_equal_hashes, await_leader};

/// Puts of one trial: a few seconds' worth at a few hundred to two thousand a second.
const PUTS: u64 = 6_000;
/// How long the load runs before the leader is killed.
const BEFORE_THE_KILL: Duration = Duration::from_millis(700);

/// Kills the leader so many times; returns the pauses, in milliseconds.
pub(super) fn measure(
    tool: &Tool,
    servers: &mut Cluster,
    trials: usize,
) -> Result<Vec<f64>, String> {
    let mut pauses = Vec::new();
    for trial in 1..=trials {
        let (_, leader) = await_leader(tool, servers, None)?;
        eprintln!("failover {trial}: killing n{leader}");
        let mut run = BenchRun::start(tool, &super::shape("put", 1, 1), PUTS)?;
        let started = Instant::now();
        while started.elapsed() < BEFORE_THE_KILL {
            run.must_still_run("the load ended before the leader was killed")?;
            std::thread::sleep(Duration::from_millis(10));
        }
        servers.kill(leader)?;
        let result = run.finish()?;
        pauses.push(result.max_us / 1e3);
        servers.restart(leader)?;
        await_equal_hashes(tool, servers)?;
    }
    Ok(pauses)
}

/// Prints the pauses.
pub(super) fn print(pauses: &[f64], median: f64) {
    println!();
    println!(
        "SIGKILL of the leader of {NODES} nodes to the next accepted write, {} trials: median {median:.0} ms",
        pauses.len()
    );
    let all: Vec<String> = pauses.iter().map(|pause| format!("{pause:.0}")).collect();
    println!("all, in ms: {}", all.join(", "));
}
