//! How long a node takes until it serves what it should.

use std::thread;
use std::time::{Duration, Instant};

use crate::demo::await_leader;
use crate::demo::cluster::Cluster;
use crate::demo::tool::{KnownState, Tool};

/// Pause between two looks at a node.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long a node may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);

/// How a follower came back.
pub(super) struct Restarted {
    pub(super) follower: u64,
    /// What it serves again.
    pub(super) last_index: u64,
    pub(super) seconds: f64,
}

/// Kills a follower, starts it again, and waits until it serves what it served before.
pub(super) fn restart_follower(tool: &Tool, servers: &mut Cluster) -> Result<Restarted, String> {
    let (states, leader) = await_leader(tool, servers, None)?;
    let follower = servers.running().into_iter().find(|id| *id != leader);
    let follower = follower.ok_or("there is no follower")?;
    let known = states.iter().filter_map(|state| state.known.as_ref());
    let last_index = known.map(|known| known.applied_index).max().unwrap_or(0);
    servers.kill(follower)?;
    let began = Instant::now();
    servers.restart(follower)?;
    await_node(tool, servers, follower, |known| {
        known.applied_index >= last_index
    })?;
    Ok(Restarted {
        follower,
        last_index,
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// Waits until a node says of itself that it is ready.
pub(super) fn await_node(
    tool: &Tool,
    servers: &mut Cluster,
    id: u64,
    is_ready: impl Fn(&KnownState) -> bool,
) -> Result<(), String> {
    let endpoint = format!("127.0.0.1:{}", servers.port(id)?);
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        servers.must_be_alive()?;
        let states = tool.status(std::slice::from_ref(&endpoint))?;
        if states
            .iter()
            .filter_map(|state| state.known.as_ref())
            .any(&is_ready)
        {
            return Ok(());
        }
        thread::sleep(LOOK_AGAIN);
    }
    Err(format!(
        "n{id} is not where it should be after {} s",
        PATIENCE.as_secs()
    ))
}
