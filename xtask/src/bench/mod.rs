//! `cargo xtask bench`: three servers and a client on this machine, measured from outside. Prints
//! the tables of `docs/BENCHMARKS.md`.

mod failover;
mod large;
mod table;

use std::fs;
use std::path::Path;

use clap::Args;

use crate::demo::cluster::{self, Cluster};
use crate::demo::load::{Bar, BenchRun, Keys, Shape};
use crate::demo::tool::Tool;
use crate::demo::{await_leader, build};
use table::{Row, median};

/// How many nodes the cluster has.
const NODES: u64 = 3;
/// Clients and the connections that they share.
const CLIENTS: [(u64, u64); 5] = [(1, 1), (16, 1), (64, 1), (256, 4), (1000, 4)];
/// Length of every value, in bytes.
const VALUE_BYTES: u64 = 256;
/// Keys that are written and read.
const KEYS: u64 = 100_000;
/// Clock ticks of /proc/PID/stat per second; fixed in Linux's user interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// What can be chosen.
#[derive(Args)]
pub(crate) struct Options {
    /// Rounds; each measures everything once, and medians are printed
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Times that the leader is killed
    #[arg(long, default_value_t = 10)]
    failovers: usize,
    /// Seconds that one measurement takes, about
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Measures a store of so many keys instead: memory, restart, snapshots under load, catching up
    #[arg(long, value_name = "N")]
    keys: Option<u64>,
}

/// Measures, and prints tables in Markdown.
///
/// # Errors
/// Whatever is wrong with the cluster or the load.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let binary = build()?;
    let directory = tempfile::Builder::new()
        .prefix("raft-kv-bench-")
        .tempdir()
        .map_err(|error| format!("cannot create a directory for the data: {error}"))?;
    if let Some(keys) = options.keys {
        let plan = large::Plan {
            keys,
            rounds: options.rounds,
            seconds: options.seconds,
        };
        return large::run(&binary, directory.path(), &plan);
    }
    let ports = cluster::free_ports(NODES)?;
    let tool = Tool::new(&binary, &directory.path().join("tls"), &ports);
    tool.make_certificates(NODES)?;
    let mut servers = Cluster::start(&tool, directory.path(), &ports)?;
    await_leader(&tool, &mut servers, None)?;

    let kinds = ["put", "get"];
    let mut measured = vec![Vec::new(); kinds.len() * CLIENTS.len()];
    for round in 1..=options.rounds {
        for (at, kind) in kinds.iter().enumerate() {
            for (position, &(clients, connections)) in CLIENTS.iter().enumerate() {
                eprintln!("round {round}: {kind}, {clients} clients");
                let shape = shape(kind, clients, connections);
                let row = measure(&tool, &servers, &shape, options.seconds)?;
                measured[at * CLIENTS.len() + position].push(row);
            }
        }
    }
    for (at, kind) in kinds.iter().enumerate() {
        table::print(
            kind,
            &CLIENTS,
            &measured[at * CLIENTS.len()..][..CLIENTS.len()],
        );
    }
    let pauses = failover::measure(&tool, &mut servers, options.failovers)?;
    failover::print(&pauses, median(&pauses));
    servers.stop()
}

/// One run of the load generator, long enough to mean something.
fn measure(tool: &Tool, servers: &Cluster, shape: &Shape, seconds: f64) -> Result<Row, String> {
    // A short run finds the speed, and warms everything up.
    let trial = BenchRun::start(tool, shape, shape.clients * 20)?.finish()?;
    let total = (trial.ops_per_s * seconds).max(200.0);
    let before = processor_seconds(servers)?;
    let run = BenchRun::start(tool, shape, total as u64)?;
    let result = run.finish()?;
    let used = processor_seconds(servers)? - before;
    Ok(Row {
        ops_per_s: result.ops_per_s,
        p50_us: result.p50_us,
        p99_us: result.p99_us,
        server_cpu_us: used * 1e6 / result.ops as f64,
    })
}

fn shape(kind: &'static str, clients: u64, connections: u64) -> Shape {
    Shape {
        kind,
        clients,
        connections,
        value_bytes: VALUE_BYTES,
        keys: KEYS,
        order: Keys::AtRandom,
        rate: None,
        bar: Bar::Hidden,
    }
}

/// Processor time of all servers since they started: user and system, all threads.
fn processor_seconds(servers: &Cluster) -> Result<f64, String> {
    let mut ticks = 0.0;
    for id in servers.process_ids() {
        let path = format!("/proc/{id}/stat");
        let stat = fs::read_to_string(Path::new(&path)).map_err(|e| format!("{path}: {e}"))?;
        // The name in parentheses may hold spaces; utime and stime are fields 14 and 15.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok());
        let used = field(11).zip(field(12));
        let (user, system) = used.ok_or_else(|| format!("{path} is not understood: {stat}"))?;
        ticks += user + system;
    }
    Ok(ticks / TICKS_PER_SECOND)
}
