//! What a put and a restart cost as keys and log grow, and with more nodes. A cluster that stays small
//! is measured in turn, so that each ratio is of figures taken next to each other.

use std::fs;
use std::path::Path;

use super::plot::{Line, Plot};
use super::restart::restart_follower;
use super::system::{Ours, measure};
use super::table::{Row, median_of, ratio};
use super::{CLIENTS, NODES, VALUE_BYTES};
use crate::demo::await_leader;
use crate::demo::cluster::{Cluster, free_ports};
use crate::demo::load::{Bar, BenchRun, Keys, Shape};
use crate::demo::tool::Tool;

/// Keys of the smallest store, and of the one that stays small.
const FEWEST_KEYS: u64 = 10_000;
/// By how much keys grow from one step to the next.
const STEP: u64 = 10;
/// Sizes of clusters.
const CLUSTERS: [u64; 3] = [3, 5, 7];

/// What a run takes.
pub(super) struct Plan {
    /// The largest number of keys.
    pub(super) keys: u64,
    pub(super) rounds: usize,
    pub(super) seconds: f64,
    /// Whether plots are written.
    pub(super) publish: bool,
}

/// A cluster with its tool.
struct Subject {
    tool: Tool,
    servers: Cluster,
}

/// A store of some size.
struct Step {
    keys: u64,
    last_index: u64,
    large: Vec<Row>,
    small: Vec<Row>,
    anonymous_mb: f64,
    restart_seconds: f64,
}

/// Measures, and prints tables in Markdown.
pub(super) fn run(binary: &Path, directory: &Path, plan: &Plan) -> Result<(), String> {
    let mut steps = Vec::new();
    let mut large = Subject::start(binary, &directory.join("large"), NODES)?;
    let mut small = Subject::start(binary, &directory.join("small"), NODES)?;
    small.load(FEWEST_KEYS)?;
    let mut keys = FEWEST_KEYS;
    while keys <= plan.keys {
        eprintln!("{keys} keys");
        large.load(keys)?;
        let (mut at_large, mut at_small) = (Vec::new(), Vec::new());
        for _ in 0..plan.rounds {
            at_large.push(large.put(keys, plan.seconds)?);
            at_small.push(small.put(FEWEST_KEYS, plan.seconds)?);
        }
        let anonymous_mb = large.anonymous_mb()?;
        let restarted = restart_follower(&large.tool, &mut large.servers)?;
        steps.push(Step {
            keys,
            last_index: restarted.last_index,
            large: at_large,
            small: at_small,
            anonymous_mb,
            restart_seconds: restarted.seconds,
        });
        keys *= STEP;
    }
    large.servers.stop()?;
    small.servers.stop()?;
    print_steps(plan, &steps);
    let clusters = clusters(binary, directory, plan)?;
    print_clusters(&clusters);
    match plan.publish {
        true => plot(&steps, &clusters),
        false => Ok(()),
    }
}

/// Clusters of different sizes, in turn.
fn clusters(binary: &Path, directory: &Path, plan: &Plan) -> Result<Vec<(u64, Vec<Row>)>, String> {
    let mut subjects = Vec::new();
    for nodes in CLUSTERS {
        let subject = Subject::start(binary, &directory.join(format!("of-{nodes}")), nodes)?;
        subject.load(FEWEST_KEYS)?;
        subjects.push((nodes, subject, Vec::new()));
    }
    for _ in 0..plan.rounds {
        for (nodes, subject, rows) in &mut subjects {
            eprintln!("{nodes} nodes");
            rows.push(subject.put(FEWEST_KEYS, plan.seconds)?);
        }
    }
    let mut found = Vec::new();
    for (nodes, mut subject, rows) in subjects {
        subject.servers.stop()?;
        found.push((nodes, rows));
    }
    Ok(found)
}

impl Subject {
    fn start(binary: &Path, directory: &Path, nodes: u64) -> Result<Self, String> {
        fs::create_dir_all(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        let ports = free_ports(nodes)?;
        let tool = Tool::new(binary, &directory.join("tls"), &ports);
        tool.make_certificates(nodes)?;
        let mut servers = Cluster::start(&tool, directory, &ports)?;
        await_leader(&tool, &mut servers, None)?;
        Ok(Self { tool, servers })
    }

    /// Puts each key once.
    fn load(&self, keys: u64) -> Result<(), String> {
        let load = Shape {
            bar: Bar::Shown,
            ..shape(keys, Keys::InOrder)
        };
        BenchRun::start(&self.tool, &load, keys)?.finish().map(drop)
    }

    /// Puts over so many keys at random.
    fn put(&self, keys: u64, seconds: f64) -> Result<Row, String> {
        let ours = Ours {
            tool: &self.tool,
            servers: &self.servers,
        };
        measure(&ours, &shape(keys, Keys::AtRandom), seconds)
    }

    /// Anonymous memory of a server, the most that one has.
    fn anonymous_mb(&self) -> Result<f64, String> {
        let mut most = 0.0_f64;
        for id in self.servers.process_ids() {
            most = most.max(super::system::memory_kb(id, "RssAnon")? / 1e3);
        }
        Ok(most)
    }
}

fn shape(keys: u64, order: Keys) -> Shape {
    let (clients, connections) = CLIENTS[CLIENTS.len() - 1];
    Shape {
        keys,
        order,
        ..super::shape("put", clients, connections)
    }
}

fn print_steps(plan: &Plan, steps: &[Step]) {
    let (clients, _) = CLIENTS[CLIENTS.len() - 1];
    println!();
    println!(
        "Puts of {VALUE_BYTES} bytes over all keys at random, {clients} clients, medians of {} rounds; ratios to a cluster of {FEWEST_KEYS} keys measured in turn:",
        plan.rounds
    );
    println!();
    println!(
        "| keys | entries so far | puts/s | server CPU µs per put | ratio of CPU | p99 µs | ratio of p99 | anonymous MB a node | restart s |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for step in steps {
        println!(
            "| {} | {} | {:.0} | {:.1} | {:.2} | {:.0} | {:.2} | {:.0} | {:.2} |",
            step.keys,
            step.last_index,
            median_of(&step.large, |row| row.ops_per_s),
            median_of(&step.large, |row| row.server_cpu_us),
            ratio(&step.large, &step.small, |row| row.server_cpu_us),
            median_of(&step.large, |row| row.p99_us),
            ratio(&step.large, &step.small, |row| row.p99_us),
            step.anonymous_mb,
            step.restart_seconds,
        );
    }
}

fn print_clusters(clusters: &[(u64, Vec<Row>)]) {
    println!();
    println!("| nodes | puts/s | server CPU µs per put, all nodes | p50 µs | p99 µs |");
    println!("| --- | --- | --- | --- | --- |");
    for (nodes, rows) in clusters {
        println!(
            "| {nodes} | {:.0} | {:.1} | {:.0} | {:.0} |",
            median_of(rows, |row| row.ops_per_s),
            median_of(rows, |row| row.server_cpu_us),
            median_of(rows, |row| row.p50_us),
            median_of(rows, |row| row.p99_us),
        );
    }
}

fn plot(steps: &[Step], clusters: &[(u64, Vec<Row>)]) -> Result<(), String> {
    let cpu = |rows: &[Row]| median_of(rows, |row| row.server_cpu_us);
    let by_keys = |rows: fn(&Step) -> &[Row]| {
        let points = steps.iter().map(|step| (step.keys as f64, cpu(rows(step))));
        points.collect()
    };
    let growing = Plot {
        title: "server CPU µs per put, three nodes".to_string(),
        across: "keys".to_string(),
        lines: vec![
            Line {
                name: "growing",
                points: by_keys(|step| &step.large),
            },
            Line {
                name: "10 k keys",
                points: by_keys(|step| &step.small),
            },
        ],
    };
    let nodes = clusters
        .iter()
        .map(|(nodes, rows)| (*nodes as f64, cpu(rows)));
    let nodes = Plot {
        title: "server CPU µs per put, all nodes".to_string(),
        across: "nodes".to_string(),
        lines: vec![Line {
            name: "raft-kv",
            points: nodes.collect(),
        }],
    };
    growing.write("growth-keys.svg")?;
    nodes.write("growth-nodes.svg")
}
