//! Ours, etcd and the bare floor, in turn in every round, so that each ratio is of figures taken
//! next to each other.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::etcd::{self, Etcd};
use super::floor::Floor;
use super::plot::{Line, Plot};
use super::system::{Ours, System, measure};
use super::table::{Row, median_of, ratio};
use super::{CLIENTS, KEYS, Options, shape};
use crate::binaries::{Profile, build_all};
use crate::demo::cluster::Cluster;
use crate::demo::load::{Keys, Shape};
use crate::demo::tool::Tool;
use crate::{steps, workspace};

/// Clients and connections of the open loop.
const OPEN_LOOP_CLIENTS: (u64, u64) = (1000, 4);
/// The share of a system's highest speed at which the open loop goes.
const OPEN_LOOP_SHARE: f64 = 0.3;
/// Large values: length in bytes, clients, connections, keys.
const LARGE_VALUES: [(u64, u64, u64, u64); 2] = [(16 << 10, 64, 1, 1_000), (1 << 20, 4, 1, 32)];
/// The page that is written, and the lines between which.
const PAGE: &str = "docs/BENCHMARKS.md";
const BEGIN: &str = "<!-- written by cargo xtask bench --against etcd --publish: begin -->";
const END: &str = "<!-- end -->";

/// A line of the tables: what is measured.
struct Scene {
    kind: &'static str,
    clients: (u64, u64),
    value_bytes: u64,
    keys: u64,
    /// Whether the floor takes part: it has no store, so it is compared at one length only.
    with_floor: bool,
}

impl Scene {
    fn all() -> Vec<Self> {
        let short = |kind| {
            CLIENTS.map(|clients| Self {
                kind,
                clients,
                value_bytes: super::VALUE_BYTES,
                keys: KEYS,
                with_floor: true,
            })
        };
        let large = LARGE_VALUES.map(|(value_bytes, clients, connections, keys)| Self {
            kind: "put",
            clients: (clients, connections),
            value_bytes,
            keys,
            with_floor: false,
        });
        let short = short("put").into_iter().chain(short("get"));
        short.chain(large).collect()
    }

    fn shape(&self) -> Shape {
        Shape {
            value_bytes: self.value_bytes,
            keys: self.keys,
            ..shape(self.kind, self.clients.0, self.clients.1)
        }
    }

    fn title(&self) -> String {
        let (clients, connections) = self.clients;
        let value = match self.value_bytes {
            super::VALUE_BYTES => String::new(),
            bytes => format!(" of {} KiB", bytes >> 10),
        };
        format!(
            "{}{value}, {clients} clients, {connections} connections",
            self.kind
        )
    }
}

/// What one system did in one scene, a row for each round.
struct Found {
    scene: usize,
    system: &'static str,
    rows: Vec<Row>,
}

/// What one system did when puts were due at a constant rate, a row for each round.
struct OpenLoop {
    system: &'static str,
    /// Puts due per second.
    rate: u64,
    rows: Vec<Row>,
}

/// Measures, prints, and with `--publish` writes the page and the plots.
///
/// # Errors
/// Something is not installed, a server failed, or an operation did.
pub(super) fn run(
    options: &Options,
    directory: &Path,
    tool: &Tool,
    servers: &Cluster,
) -> Result<(), String> {
    let version = etcd::version()?;
    let programs = ["--package", "benches", "--features", "etcd", "--bins"];
    let built = build_all(&programs, &["quic-floor", "etcd-load"], Profile::Release)?;
    let [floor, load] = &built[..] else {
        return Err("two programs were asked for".to_string());
    };
    let ours = Ours { tool, servers };
    let etcd = Etcd::start(directory, load)?;
    let floor = Floor::start(directory, floor)?;
    let systems: [&dyn System; 3] = [&ours, &etcd, &floor];
    for system in &systems[..2] {
        eprintln!("loading {KEYS} keys into {}", system.name());
        let clients = CLIENTS[CLIENTS.len() - 1];
        let all = Shape {
            order: Keys::InOrder,
            ..shape("put", clients.0, clients.1)
        };
        system.load(&all, KEYS)?;
    }
    let scenes = Scene::all();
    let mut found = Vec::new();
    for round in 1..=options.rounds {
        for (at, scene) in scenes.iter().enumerate() {
            eprintln!("round {round}: {}", scene.title());
            for system in systems
                .iter()
                .filter(|s| scene.with_floor || s.name() != floor.name())
            {
                let row = measure(*system, &scene.shape(), options.seconds)?;
                note(&mut found, at, system.name(), row);
            }
        }
    }
    let open_loop = open_loop(options, &systems[..2], &scenes, &found)?;
    let report = report(options, &version, &scenes, &found, &open_loop)?;
    println!("{report}");
    if options.publish {
        publish(&report)?;
        plots(&scenes, &found)?;
    }
    Ok(())
}

fn note(found: &mut Vec<Found>, scene: usize, system: &'static str, row: Row) {
    let known = found
        .iter_mut()
        .find(|f| f.scene == scene && f.system == system);
    match known {
        Some(known) => known.rows.push(row),
        None => found.push(Found {
            scene,
            system,
            rows: vec![row],
        }),
    }
}

/// Puts at a share of each system's own highest speed: a rate, and p99s of all rounds.
fn open_loop(
    options: &Options,
    systems: &[&dyn System],
    scenes: &[Scene],
    found: &[Found],
) -> Result<Vec<OpenLoop>, String> {
    let peak = |name: &str| {
        let puts = found.iter().filter(|f| {
            let scene = &scenes[f.scene];
            f.system == name && scene.kind == "put" && scene.value_bytes == super::VALUE_BYTES
        });
        puts.map(|f| median_of(&f.rows, |row| row.ops_per_s))
            .fold(0.0, f64::max)
    };
    let mut results: Vec<_> = systems
        .iter()
        .map(|system| {
            let rate = (peak(system.name()) * OPEN_LOOP_SHARE) as u64;
            OpenLoop {
                system: system.name(),
                rate,
                rows: Vec::new(),
            }
        })
        .collect();
    for round in 1..=options.rounds {
        for (system, OpenLoop { rate, rows, .. }) in systems.iter().zip(&mut results) {
            let name = system.name();
            eprintln!("round {round}: {name}, open loop at {rate} puts a second");
            let shape = Shape {
                rate: Some(*rate),
                ..shape("put", OPEN_LOOP_CLIENTS.0, OPEN_LOOP_CLIENTS.1)
            };
            let total = (*rate as f64 * options.seconds) as u64;
            let result = system.load(&shape, total)?;
            rows.push(Row {
                ops_per_s: result.ops_per_s,
                p50_us: result.p50_us,
                p99_us: result.p99_us,
                server_cpu_us: 0.0,
            });
        }
    }
    Ok(results)
}

/// The report in Markdown.
fn report(
    options: &Options,
    version: &str,
    scenes: &[Scene],
    found: &[Found],
    open_loop: &[OpenLoop],
) -> Result<String, String> {
    let mut lines = vec![
        format!(
            "`cargo xtask bench --against etcd --rounds {} --seconds {}`: medians, and medians over the rounds of the ratios within each.",
            options.rounds, options.seconds
        ),
        format!("{}; {version} without TLS, one connection each to its leader for every connection of ours.", machine()?),
        String::new(),
        "| | system | operations/s | lowest to highest | p50 µs | p99 µs | server CPU µs | ours / it: rate | p99 |".to_string(),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |".to_string(),
    ];
    for (at, scene) in scenes.iter().enumerate() {
        let here: Vec<_> = found.iter().filter(|f| f.scene == at).collect();
        let ours = here.first().ok_or("nothing was measured")?;
        for theirs in &here {
            let rates = theirs.rows.iter().map(|row| row.ops_per_s);
            lines.push(format!(
                "| {} | {} | {:.0} | {:.0} to {:.0} | {:.0} | {:.0} | {:.1} | {:.2} | {:.2} |",
                scene.title(),
                theirs.system,
                median_of(&theirs.rows, |row| row.ops_per_s),
                rates.clone().fold(f64::INFINITY, f64::min),
                rates.fold(0.0, f64::max),
                median_of(&theirs.rows, |row| row.p50_us),
                median_of(&theirs.rows, |row| row.p99_us),
                median_of(&theirs.rows, |row| row.server_cpu_us),
                ratio(&ours.rows, &theirs.rows, |row| row.ops_per_s),
                ratio(&ours.rows, &theirs.rows, |row| row.p99_us),
            ));
        }
    }
    lines.push(String::new());
    lines.push(format!(
        "Open loop, puts of {} bytes at {:.0} % of each system's own highest speed, {} clients, {} connections; latency counts from when a put is due:",
        super::VALUE_BYTES,
        OPEN_LOOP_SHARE * 100.0,
        OPEN_LOOP_CLIENTS.0,
        OPEN_LOOP_CLIENTS.1
    ));
    lines.push(String::new());
    lines.push("| system | puts/s due | p50 µs | p99 µs, every round |".to_string());
    lines.push("| --- | --- | --- | --- |".to_string());
    for OpenLoop { system, rate, rows } in open_loop {
        let all: Vec<_> = rows
            .iter()
            .map(|row| format!("{:.0}", row.p99_us))
            .collect();
        let p50 = median_of(rows, |row| row.p50_us);
        lines.push(format!(
            "| {system} | {rate} | {p50:.0} | {} |",
            all.join(", ")
        ));
    }
    Ok(lines.join("\n"))
}

/// What was measured on, in a few words.
fn machine() -> Result<String, String> {
    let cpus = fs::read_to_string("/proc/cpuinfo").map_err(|e| format!("/proc/cpuinfo: {e}"))?;
    let models: Vec<_> = cpus
        .lines()
        .filter(|line| line.starts_with("model name"))
        .collect();
    let model = models
        .first()
        .and_then(|line| line.split(": ").nth(1))
        .unwrap_or("unknown CPU");
    let kernel = steps::output(Command::new("uname").arg("-r"))?;
    let compiler = steps::output(Command::new("rustc").arg("--version"))?;
    Ok(format!(
        "{} cores of {model}, Linux {}, {}",
        models.len(),
        kernel.trim(),
        compiler.trim()
    ))
}

/// Replaces what the last run wrote into the page.
fn publish(report: &str) -> Result<(), String> {
    let path = workspace::root().join(PAGE);
    let page = fs::read_to_string(&path).map_err(|e| format!("{PAGE}: {e}"))?;
    let page = replaced(&page, report).ok_or(format!("{PAGE} has no lines {BEGIN} and {END}"))?;
    fs::write(&path, page).map_err(|e| format!("{PAGE}: {e}"))
}

fn replaced(page: &str, report: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{report}\n\n{END}{after}"))
}

/// Rates and 99th percentiles over the number of clients.
fn plots(scenes: &[Scene], found: &[Found]) -> Result<(), String> {
    for kind in ["put", "get"] {
        for (what, unit, figure) in [
            (
                "rate",
                "per second",
                (|row| row.ops_per_s) as fn(&Row) -> f64,
            ),
            ("p99", "µs, 99th percentile", |row| row.p99_us),
        ] {
            let plot = Plot {
                title: format!("{kind}, {unit}"),
                across: "clients".to_string(),
                lines: lines_of(kind, scenes, found, figure),
            };
            plot.write(&format!("{kind}-{what}.svg"))?;
        }
    }
    Ok(())
}

fn lines_of(kind: &str, scenes: &[Scene], found: &[Found], figure: fn(&Row) -> f64) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for f in found {
        let scene = &scenes[f.scene];
        if scene.kind != kind || scene.value_bytes != super::VALUE_BYTES {
            continue;
        }
        let point = (scene.clients.0 as f64, median_of(&f.rows, figure));
        match lines.iter_mut().find(|line| line.name == f.system) {
            Some(line) => line.points.push(point),
            None => lines.push(Line {
                name: f.system,
                points: vec![point],
            }),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_part_between_the_marks_is_replaced() {
        let page = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let expected = format!("a\n{BEGIN}\n\nnew\n\n{END}\nb\n");
        assert_eq!(replaced(&page, "new"), Some(expected));
        assert_eq!(replaced("a\n", "new"), None);
    }

    #[test]
    fn a_ratio_is_taken_within_each_round() {
        let row = |ops_per_s| Row {
            ops_per_s,
            p50_us: 1.0,
            p99_us: 1.0,
            server_cpu_us: 1.0,
        };
        // The machine was ten times as fast in the second round.
        let ours = [row(2.0), row(20.0), row(2.0)];
        let theirs = [row(1.0), row(10.0), row(1.0)];
        assert_eq!(ratio(&ours, &theirs, |row| row.ops_per_s), 2.0);
    }

    #[test]
    fn the_page_has_the_marks() {
        let page = fs::read_to_string(workspace::root().join(PAGE)).unwrap();
        assert!(replaced(&page, "").is_some());
    }
}
