//! A store of a million keys: memory, restart, snapshots under load, and a node that catches up.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use super::VALUE_BYTES;
use super::restart::{LOOK_AGAIN, PATIENCE, await_node, restart_follower};
use super::system::{memory_kb, processor_seconds};
use super::table::median;
use crate::demo::await_leader;
use crate::demo::cluster::{Cluster, data_directory, free_ports};
use crate::demo::load::{Bar, BenchResult, BenchRun, Keys, Shape};
use crate::demo::tool::Tool;

/// The node that joins late.
const NEW: u64 = super::NODES + 1;
/// Clients and connections that load the keys, and that find the highest speed.
const CLIENTS: (u64, u64) = (256, 4);
/// Requests that may be under way at a time in an open loop, far more than are if all is well.
const OPEN_LOOP_CLIENTS: u64 = 2_000;
/// Share of the highest speed at which latency is measured.
const SHARE: f64 = 0.3;
/// No snapshot is taken but those that are asked for.
const ONLY_ON_REQUEST: [&str; 4] = [
    "--snapshot-log-bytes",
    "1000000000000",
    "--snapshot-entries",
    "1000000000000",
];

/// What a run takes.
pub(super) struct Plan {
    pub(super) keys: u64,
    pub(super) rounds: usize,
    pub(super) seconds: f64,
}

/// Measures, and prints a line per figure.
pub(super) fn run(binary: &Path, directory: &Path, plan: &Plan) -> Result<(), String> {
    let ports = free_ports(super::NODES)?;
    let tool = Tool::new(binary, &directory.join("tls"), &ports);
    tool.make_certificates(super::NODES)?;
    let mut servers = Cluster::start_with(&tool, directory, &ports, &ONLY_ON_REQUEST)?;
    await_leader(&tool, &mut servers, None)?;

    load_keys(&tool, &servers, plan)?;
    for port in &ports {
        let began = Instant::now();
        let bytes = take_snapshot(&tool.at(&[*port]), directory)?;
        let seconds = began.elapsed().as_secs_f64();
        say(&format!(
            "snapshot of the node at {port}: {bytes} bytes, made, fetched and stored in {seconds:.2} s"
        ));
    }
    memory(&servers)?;
    snapshots_under_load(&tool, &mut servers, directory, plan)?;
    restart(&tool, &mut servers)?;
    catch_up(&tool, &mut servers, directory)?;
    memory(&servers)?;
    servers.stop()
}

/// Has a node make a snapshot and fetches it; returns its length.
fn take_snapshot(tool: &Tool, directory: &Path) -> Result<u64, String> {
    let file = directory.join("snapshot");
    let bytes = tool.save_snapshot(&file)?;
    fs::remove_file(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(bytes)
}

fn load_keys(tool: &Tool, servers: &Cluster, plan: &Plan) -> Result<(), String> {
    say(&format!(
        "loading {} keys of {VALUE_BYTES} bytes",
        plan.keys
    ));
    let before = processor_seconds(&servers.process_ids())?;
    let shape = Shape {
        bar: Bar::Shown,
        ..shape(plan.keys, Keys::InOrder, CLIENTS)
    };
    let loaded = BenchRun::start(tool, &shape, plan.keys)?.finish()?;
    let used = (processor_seconds(&servers.process_ids())? - before) * 1e6 / loaded.ops as f64;
    say(&format!(
        "loaded: {loaded}; {used:.1} µs of the servers' processors a put"
    ));
    Ok(())
}

fn shape(keys: u64, order: Keys, (clients, connections): (u64, u64)) -> Shape {
    Shape {
        kind: "put",
        clients,
        connections,
        value_bytes: VALUE_BYTES,
        keys,
        order,
        rate: None,
        bar: Bar::Hidden,
    }
}

/// Prints what each server has in memory.
fn memory(servers: &Cluster) -> Result<(), String> {
    for id in servers.process_ids() {
        let megabytes = |name: &str| memory_kb(id, name).map(|kb| kb / 1e3);
        say(&format!(
            "memory of process {id}: {:.0} MB anonymous, {:.0} MB resident, {:.0} MB resident at most",
            megabytes("RssAnon")?,
            megabytes("VmRSS")?,
            megabytes("VmHWM")?,
        ));
    }
    Ok(())
}

/// Open loop at a share of the highest speed, in turn without and with snapshots being taken.
fn snapshots_under_load(
    tool: &Tool,
    servers: &mut Cluster,
    directory: &Path,
    plan: &Plan,
) -> Result<(), String> {
    let fastest = shape(plan.keys, Keys::AtRandom, CLIENTS);
    let trial = BenchRun::start(tool, &fastest, 50_000)?.finish()?;
    let total = (trial.ops_per_s * plan.seconds) as u64;
    let peak = BenchRun::start(tool, &fastest, total)?.finish()?;
    say(&format!("highest speed over all keys: {peak}"));
    let open_loop = Shape {
        rate: Some((peak.ops_per_s * SHARE) as u64),
        ..shape(plan.keys, Keys::AtRandom, (OPEN_LOOP_CLIENTS, CLIENTS.1))
    };
    let total = (peak.ops_per_s * SHARE * plan.seconds) as u64;
    let (_, leader) = await_leader(tool, servers, None)?;
    let at_leader = tool.at(&[servers.port(leader)?]);
    let mut without = Vec::new();
    let mut with = Vec::new();
    for round in 1..=plan.rounds {
        let quiet = BenchRun::start(tool, &open_loop, total)?.finish()?;
        say(&format!("round {round}, no snapshot: {quiet}"));
        let (busy, taken) = with_snapshots(&at_leader, directory, || {
            BenchRun::start(tool, &open_loop, total)?.finish()
        })?;
        say(&format!("round {round}, {taken} snapshots: {busy}"));
        without.push(quiet.p99_us);
        with.push(busy.p99_us);
    }
    let (without, with) = (median(&without), median(&with));
    say(&format!(
        "p99 of puts at {:.0} % of the highest speed, open loop, medians of {}: {without:.0} µs without, {with:.0} µs with snapshots of the leader, ratio {:.2}",
        SHARE * 100.0,
        plan.rounds,
        with / without
    ));
    Ok(())
}

/// Does something while snapshots are taken one after the other; returns how many there were.
fn with_snapshots(
    tool: &Tool,
    directory: &Path,
    work: impl FnOnce() -> Result<BenchResult, String>,
) -> Result<(BenchResult, u32), String> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let snapshots = scope.spawn(|| {
            let mut taken = 0;
            while !is_over.load(Ordering::Relaxed) {
                take_snapshot(tool, directory)?;
                taken += 1;
            }
            Ok(taken)
        });
        let result = work();
        is_over.store(true, Ordering::Relaxed);
        let taken: Result<u32, String> = match snapshots.join() {
            Ok(taken) => taken,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        Ok((result?, taken?))
    })
}

/// Kills a follower, and sees how long it takes until it serves what it served before.
fn restart(tool: &Tool, servers: &mut Cluster) -> Result<(), String> {
    let restarted = restart_follower(tool, servers)?;
    say(&format!(
        "n{} killed and started again: serves everything up to index {} after {:.2} s",
        restarted.follower, restarted.last_index, restarted.seconds
    ));
    Ok(())
}

/// Adds a node, and sees how long it takes until it has everything and votes.
fn catch_up(tool: &Tool, servers: &mut Cluster, directory: &Path) -> Result<(), String> {
    let (states, _) = await_leader(tool, servers, None)?;
    let known = states.iter().filter_map(|state| state.known.as_ref());
    let applied = known.map(|known| known.applied_index).max().unwrap_or(0);
    let port = free_ports(1)?[0];
    tool.add_certificate(NEW)?;
    let began = Instant::now();
    tool.add_member(NEW, port)?;
    servers.join(tool, directory, NEW, port)?;
    await_node(tool, servers, NEW, |known| known.applied_index >= applied)?;
    let caught_up = began.elapsed().as_secs_f64();
    while !tool.members()?.contains(&(NEW, "voter".to_string())) {
        if began.elapsed() > PATIENCE {
            return Err(format!("n{NEW} has not become a voter"));
        }
        thread::sleep(LOOK_AGAIN);
    }
    say(&format!(
        "n{NEW} joined: has everything up to index {applied} after {caught_up:.2} s, votes after {:.2} s; {} of data",
        began.elapsed().as_secs_f64(),
        disk_usage(&data_directory(directory, NEW))?
    ));
    Ok(())
}

fn disk_usage(directory: &Path) -> Result<String, String> {
    let mut bytes = 0;
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory) = open.pop() {
        let fail = |error| format!("{}: {error}", directory.display());
        for entry in fs::read_dir(&directory).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let metadata = entry.metadata().map_err(fail)?;
            match metadata.is_dir() {
                true => open.push(entry.path()),
                false => bytes += metadata.len(),
            }
        }
    }
    Ok(format!("{:.0} MB", bytes as f64 / 1e6))
}

fn say(line: &str) {
    println!("{line}");
}
