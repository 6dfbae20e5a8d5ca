//! `cargo xtask bench`: three servers and a client on this machine, measured from outside. Prints
//! the tables of `docs/BENCHMARKS.md`.

mod against;
mod etcd;
mod failover;
mod floor;
mod followers;
mod growth;
mod large;
mod plot;
mod restart;
mod system;
mod table;

use clap::{Args, ValueEnum};

use crate::demo::cluster::{self, Cluster};
use crate::demo::load::{Bar, Keys, Shape};
use crate::demo::tool::Tool;
use crate::demo::{await_leader, build};
use system::{Ours, measure};

/// How many nodes the cluster has.
const NODES: u64 = 3;
/// Clients and the connections that they share.
const CLIENTS: [(u64, u64); 5] = [(1, 1), (16, 1), (64, 1), (256, 4), (1000, 4)];
/// Length of every value, in bytes.
const VALUE_BYTES: u64 = 256;
/// Keys that are written and read.
const KEYS: u64 = 100_000;

/// What ours can be measured against, besides the bare floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// From the system's package.
    Etcd,
}

/// What is measured of ours alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Puts and gets at full speed.
    Rates,
    /// How long puts pause when the leader goes.
    Failover,
    /// What a bad follower does to puts.
    Followers,
}

/// What can be chosen.
#[derive(Args)]
pub(crate) struct Options {
    /// Rounds; each measures everything once, and medians are printed
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Times that the leader is killed, stopped and deposed
    #[arg(long, default_value_t = 10)]
    failovers: usize,
    /// Seconds that one measurement takes, about
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Measures a store of so many keys instead: memory, restart, snapshots under load, catching up
    #[arg(long, value_name = "N")]
    keys: Option<u64>,
    /// Measures what a put costs as keys grow tenfold up to N instead, and with more nodes
    #[arg(long, value_name = "N", conflicts_with = "keys")]
    growth: Option<u64>,
    /// Measures another system and a bare floor in turn with ours
    #[arg(long, value_enum, conflicts_with_all = ["keys", "growth", "only"])]
    against: Option<Peer>,
    /// Measures only this part of what is measured without other options
    #[arg(long, value_enum, conflicts_with_all = ["keys", "growth"])]
    only: Option<Part>,
    /// Writes what was measured against another system into docs/BENCHMARKS.md, and plots into
    /// docs/img
    #[arg(long)]
    publish: bool,
}

/// Measures, and prints tables in Markdown.
///
/// # Errors
/// Whatever is wrong with the cluster or the load.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    if options.publish && options.against.is_none() && options.growth.is_none() {
        return Err("--publish goes with --against or --growth".to_string());
    }
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
    if let Some(keys) = options.growth {
        let plan = growth::Plan {
            keys,
            rounds: options.rounds,
            seconds: options.seconds,
            publish: options.publish,
        };
        return growth::run(&binary, directory.path(), &plan);
    }
    let ports = cluster::free_ports(NODES)?;
    let tool = Tool::new(&binary, &directory.path().join("tls"), &ports);
    tool.make_certificates(NODES)?;
    let mut servers = Cluster::start(&tool, directory.path(), &ports)?;
    await_leader(&tool, &mut servers, None)?;
    match options.against {
        Some(Peer::Etcd) => against::run(options, directory.path(), &tool, &servers)?,
        None => alone(options, &tool, &mut servers)?,
    }
    servers.stop()
}

/// Our servers alone.
fn alone(options: &Options, tool: &Tool, servers: &mut Cluster) -> Result<(), String> {
    let is_due = |part| options.only.is_none_or(|only| only == part);
    if is_due(Part::Rates) {
        rates(options, tool, servers)?;
    }
    if is_due(Part::Failover) {
        failover::run(tool, servers, options.failovers)?;
    }
    if is_due(Part::Followers) {
        followers::run(tool, servers, options.rounds, options.seconds)?;
    }
    Ok(())
}

fn rates(options: &Options, tool: &Tool, servers: &Cluster) -> Result<(), String> {
    let kinds = ["put", "get"];
    let mut measured = vec![Vec::new(); kinds.len() * CLIENTS.len()];
    for round in 1..=options.rounds {
        for (at, kind) in kinds.iter().enumerate() {
            for (position, &(clients, connections)) in CLIENTS.iter().enumerate() {
                eprintln!("round {round}: {kind}, {clients} clients");
                let shape = shape(kind, clients, connections);
                let ours = Ours { tool, servers };
                let row = measure(&ours, &shape, options.seconds)?;
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
    Ok(())
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
