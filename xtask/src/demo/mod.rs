//! `cargo xtask demo`: three server processes take every file of this repository, lose their
//! leader by SIGKILL under load, have a member replaced under load, give every byte back, and come
//! up again as another cluster from a snapshot.

pub(crate) mod cluster;
pub(crate) mod load;
pub(crate) mod process;
mod replace;
mod report;
mod snapshot;
pub(crate) mod tool;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use crate::binaries::{self, Profile};
use crate::workspace;
use cluster::Cluster;
use load::{Bar, BenchRun, Files, Shape};
use report::Report;
use tool::{NodeState, Tool};

/// How many nodes the cluster has.
const NODES: u64 = 3;
/// How long a cluster may take to form, elect, or catch up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at something that is awaited.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long the load is meant to run, at the speed that was measured just before.
const LOAD_SECONDS: f64 = 10.0;
/// Bounds for the number of puts of the load.
const LOAD_PUTS: (u64, u64) = (2_000, 1_000_000);
/// Puts that measure the speed.
const WARM_UP_PUTS: u64 = 2_000;

/// What can be chosen.
#[derive(Args)]
pub(crate) struct Options {
    /// Keep the data directory, the certificates and the servers' logs
    #[arg(long)]
    keep: bool,
    /// Puts of the load, instead of about ten seconds' worth
    #[arg(long)]
    puts: Option<u64>,
    /// Use this raft-kv instead of building one in release mode
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Runs the demonstration.
///
/// # Errors
/// Whatever is wrong; then everything that was written is kept, and its place is named.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let start = Instant::now();
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => build()?,
    };
    let directory = tempfile::Builder::new()
        .prefix("raft-kv-demo-")
        .tempdir()
        .map_err(|error| format!("cannot create a directory for the demo: {error}"))?;
    let outcome = perform(&binary, directory.path(), options);
    if outcome.is_err() || options.keep {
        let kept = directory.keep();
        println!(
            "data, certificates and server logs are kept in {}",
            kept.display()
        );
    }
    let mut report = outcome?;
    report.add(
        "whole demo",
        format!("{:.1} s", start.elapsed().as_secs_f64()),
    );
    report.print();
    Ok(())
}

/// Builds the server in release mode; returns its path.
pub(crate) fn build() -> Result<PathBuf, String> {
    binaries::build("raft-kv", Profile::Release)
}

/// The story, from certificates to the last comparison.
fn perform(binary: &Path, directory: &Path, options: &Options) -> Result<Report, String> {
    let mut report = Report::default();
    let ports = cluster::free_ports(NODES)?;
    let tool = Tool::new(binary, &directory.join("tls"), &ports);
    say("making certificates");
    tool.make_certificates(NODES)?;
    say("starting three server processes on loopback");
    let mut cluster = Cluster::start(&tool, directory, &ports)?;
    let formed = Instant::now();
    let (states, leader) = await_leader(&tool, &mut cluster, None)?;
    report.add("cluster formed in", milliseconds(formed.elapsed()));
    report::print_members(&states);

    let files = load_repository(&tool, &mut report)?;
    let killed = kill_leader_under_load(&tool, &mut cluster, leader, options, &mut report)?;
    report.add(
        "leader killed",
        format!("n{leader} by SIGKILL, in the middle of the load"),
    );
    report.add("writes interrupted for", milliseconds(killed.interruption));
    report.add("new leader", format!("n{}", killed.new_leader));

    say("waiting until all three state hashes are equal");
    let states = await_equal_hashes(&tool, &mut cluster)?;
    report::print_members(&states);
    let equal_after = milliseconds(killed.restarted.elapsed());
    report.add(
        "killed node restarted",
        format!("equal to the others {equal_after} later, rest of the load included"),
    );
    report.add("state hash of all nodes", report::hashes(&states));

    let tool = replace::member_under_load(&tool, &mut cluster, directory, &mut report)?;
    say("reading every file back");
    let compared = files.compare(&tool)?;
    report.add("files read back, equal byte by byte", compared.to_string());
    killed.probe_is_there(&tool)?;
    snapshot::save_and_restore(&tool, directory, &mut report)?;
    say("stopping the servers and verifying their logs");
    let running = cluster.running();
    cluster.stop()?;
    for id in &running {
        tool.verify_log(&cluster::data_directory(directory, *id))?;
    }
    report.add("servers stopped, logs verified", running.len().to_string());
    Ok(report)
}

fn load_repository(tool: &Tool, report: &mut Report) -> Result<Files, String> {
    let files = Files::read(&workspace::root())?;
    let loading = Instant::now();
    say(&format!(
        "loading {} files of this repository, each under its path",
        files.count()
    ));
    files.store(tool)?;
    let seconds = loading.elapsed().as_secs_f64();
    report.add(
        "files loaded",
        format!("{}, {} bytes, {seconds:.1} s", files.count(), files.bytes()),
    );
    Ok(files)
}

/// What the loss of the leader looked like from outside.
struct Killed {
    /// From SIGKILL to the first write accepted from a client that started after it.
    interruption: Duration,
    new_leader: u64,
    restarted: Instant,
}

impl Killed {
    const PROBE_KEY: &str = "demo/first-write-after-the-kill";
    const PROBE_VALUE: &[u8] = b"accepted";

    /// The first write after the kill was acknowledged, so it is there.
    fn probe_is_there(&self, tool: &Tool) -> Result<(), String> {
        match tool.get(Self::PROBE_KEY)? {
            Some(value) if value == Self::PROBE_VALUE => Ok(()),
            found => Err(format!(
                "the first write after the kill is lost: found {found:?}"
            )),
        }
    }
}

fn kill_leader_under_load(
    tool: &Tool,
    cluster: &mut Cluster,
    leader: u64,
    options: &Options,
    report: &mut Report,
) -> Result<Killed, String> {
    say("measuring the speed");
    let warm_up = BenchRun::start(
        tool,
        &Shape::of_demo("put", load::Bar::Hidden),
        WARM_UP_PUTS,
    )?
    .finish()?;
    let puts = options.puts.unwrap_or_else(|| {
        // Truncation is meant: the number only has to be near.
        let wanted = (warm_up.ops_per_s * LOAD_SECONDS) as u64;
        wanted.clamp(LOAD_PUTS.0, LOAD_PUTS.1)
    });
    let before = highest_revision(&tool.status(&cluster.endpoints())?);
    say(&format!(
        "load: {puts} puts and as many gets, 64 clients each"
    ));
    let mut put_load = BenchRun::start(tool, &Shape::of_demo("put", load::Bar::Shown), puts)?;
    let get_load = BenchRun::start(tool, &Shape::of_demo("get", Bar::Hidden), puts)?;
    await_state(tool, cluster, "a third of the load", |states| {
        (highest_revision(states) >= before + puts / 3).then_some(())
    })?;

    cluster.kill(leader)?;
    let at = Instant::now();
    say(&format!("killed the leader, n{leader}, with SIGKILL"));
    tool.put(Killed::PROBE_KEY, Killed::PROBE_VALUE)?;
    let interruption = at.elapsed();
    put_load.must_still_run("the load ended before the leader was killed; give more --puts")?;
    say(&format!(
        "writes were interrupted for {}",
        milliseconds(interruption)
    ));
    let (_, new_leader) = await_leader(tool, cluster, Some(leader))?;
    say(&format!("n{new_leader} leads; restarting n{leader}"));
    cluster.restart(leader)?;
    let restarted = Instant::now();

    let (puts, gets) = (put_load.finish()?, get_load.finish()?);
    report.add("put load over the failover", puts.to_string());
    report.add("get load over the failover", gets.to_string());
    Ok(Killed {
        interruption,
        new_leader,
        restarted,
    })
}

/// Waits until every running node follows one and the same leader, other than `not`.
pub(crate) fn await_leader(
    tool: &Tool,
    cluster: &mut Cluster,
    not: Option<u64>,
) -> Result<(Vec<NodeState>, u64), String> {
    let running = cluster.endpoints().len();
    await_state(tool, cluster, "one leader", |states| {
        let known: Vec<_> = states
            .iter()
            .filter_map(|state| state.known.as_ref())
            .collect();
        let leader = known.first()?.leader?;
        let agreed = known.iter().all(|state| state.leader == Some(leader));
        let leads = known
            .iter()
            .any(|state| state.id == leader && state.role == "leader");
        (known.len() == running && agreed && leads && Some(leader) != not)
            .then(|| (states.to_vec(), leader))
    })
}

pub(crate) fn await_equal_hashes(
    tool: &Tool,
    cluster: &mut Cluster,
) -> Result<Vec<NodeState>, String> {
    let mut differing = None;
    let states = await_state(tool, cluster, "equal state hashes", |states| {
        let known: Vec<_> = states
            .iter()
            .filter_map(|state| state.known.as_ref())
            .collect();
        let first = known.first()?;
        let caught_up = known.len() as u64 == NODES
            && known
                .iter()
                .all(|state| state.applied_index == first.applied_index);
        if caught_up && known.iter().any(|state| state.hash != first.hash) {
            differing = Some(first.applied_index);
        }
        caught_up.then(|| states.to_vec())
    })?;
    match differing {
        None => Ok(states),
        Some(index) => {
            report::print_members(&states);
            Err(format!("state hashes differ at applied index {index}"))
        }
    }
}

/// Looks at the cluster again and again until `ready` says something.
fn await_state<T>(
    tool: &Tool,
    cluster: &mut Cluster,
    what: &str,
    mut ready: impl FnMut(&[NodeState]) -> Option<T>,
) -> Result<T, String> {
    let start = Instant::now();
    let mut last = Vec::new();
    while start.elapsed() < PATIENCE {
        cluster.must_be_alive()?;
        last = tool.status(&cluster.endpoints())?;
        if let Some(found) = ready(&last) {
            return Ok(found);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    report::print_members(&last);
    Err(format!(
        "waited {} s for {what} in vain",
        PATIENCE.as_secs()
    ))
}

fn highest_revision(states: &[NodeState]) -> u64 {
    let known = states.iter().filter_map(|state| state.known.as_ref());
    known.map(|state| state.revision).max().unwrap_or(0)
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.0} ms", duration.as_secs_f64() * 1000.0)
}

fn say(what: &str) {
    println!("==> {what}");
}
