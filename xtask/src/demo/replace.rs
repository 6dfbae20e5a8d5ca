//! A member of the cluster is replaced while clients write.

use std::path::Path;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, free_ports};
use super::load::{Bar, BenchRun, Shape};
use super::report::Report;
use super::tool::Tool;
use super::{LOOK_AGAIN, NODES, PATIENCE, await_equal_hashes, await_leader, milliseconds, say};

/// The id of the node that comes.
const NEW: u64 = NODES + 1;
/// Seconds of load, at the speed that was measured just before.
const LOAD_SECONDS: f64 = 6.0;
/// Puts that measure the speed.
const WARM_UP_PUTS: u64 = 2_000;

/// Replaces the leader, the hardest to do without; returns the tool with the addresses there are
/// now.
pub(super) fn member_under_load(
    tool: &Tool,
    cluster: &mut Cluster,
    directory: &Path,
    report: &mut Report,
) -> Result<Tool, String> {
    let (_, old) = await_leader(tool, cluster, None)?;
    let port = free_ports(1)?[0];
    let warm_up = BenchRun::start(tool, &Shape::of_demo("put", Bar::Hidden), WARM_UP_PUTS)?;
    // Truncation is meant: the number only has to be near.
    let puts = (warm_up.finish()?.ops_per_s * LOAD_SECONDS) as u64;
    say(&format!(
        "replacing the leader, n{old}, by a new node, n{NEW}, under a load of {puts} puts"
    ));
    let mut load = BenchRun::start(tool, &Shape::of_demo("put", Bar::Hidden), puts)?;
    tool.add_certificate(NEW)?;
    let began = Instant::now();
    tool.add_member(NEW, port)?;
    cluster.join(tool, directory, NEW, port)?;
    await_vote(tool, cluster)?;
    let joined = began.elapsed();
    say(&format!(
        "n{NEW} has caught up and votes after {}",
        milliseconds(joined)
    ));
    tool.remove_member(old)?;
    let replaced = began.elapsed();
    cluster.retire(old)?;
    load.must_still_run("the load ended before the member was replaced")?;
    say(&format!(
        "n{old} is no member any more after {}",
        milliseconds(replaced)
    ));
    let (_, leader) = await_leader(tool, cluster, Some(old))?;
    let result = load.finish()?;
    report.add(
        "leader replaced under load",
        format!(
            "n{old} by n{NEW} in {}, of which {} to catch up and vote; n{leader} leads",
            milliseconds(replaced),
            milliseconds(joined)
        ),
    );
    report.add("put load over the replacement", result.to_string());
    await_equal_hashes(tool, cluster)?;
    let ports: Result<Vec<u16>, String> = cluster
        .endpoints()
        .iter()
        .map(|endpoint| {
            let port = endpoint
                .rsplit(':')
                .next()
                .and_then(|port| port.parse().ok());
            port.ok_or(format!("{endpoint} has no port"))
        })
        .collect();
    Ok(tool.at(&ports?))
}

/// Waits until the new node is a voter.
fn await_vote(tool: &Tool, cluster: &mut Cluster) -> Result<Duration, String> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        cluster.must_be_alive()?;
        if tool.members()?.contains(&(NEW, "voter".to_string())) {
            return Ok(start.elapsed());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Err(format!(
        "n{NEW} has not become a voter within {} s",
        PATIENCE.as_secs()
    ))
}
