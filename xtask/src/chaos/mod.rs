//! `cargo xtask chaos`: real servers under kill -9, pauses, partitions and full disks, judged by what
//! their clients saw. It builds the server and `raft-chaos`, which does the rest.

use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use crate::binaries::{self, Profile};
use crate::steps;

/// What can be chosen.
#[derive(Args)]
pub(crate) struct Options {
    /// How long; the judgement at the end comes on top
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// How many servers, 3 to 7
    #[arg(long, default_value_t = 3)]
    nodes: u64,
    /// How many clients, each with one call at a time
    #[arg(long, default_value_t = 8)]
    clients: u64,
    /// Draws the same faults again; by default from the time
    #[arg(long)]
    seed: Option<u64>,
    /// Fails where there are no network namespaces, instead of leaving partitions out
    #[arg(long)]
    require_netns: bool,
    /// Writes the summary and the timeline to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keeps certificates, data and logs of the servers of a sound run too
    #[arg(long)]
    keep: bool,
    /// Build the server with optimisation
    #[arg(long)]
    release: bool,
    /// Use this raft-kv instead of building one
    #[arg(long, value_name = "FILE", conflicts_with = "release")]
    binary: Option<PathBuf>,
}

/// Runs a campaign.
///
/// # Errors
/// Something does not build, something is wrong, or not everything could be judged; what is wrong
/// has been printed, and where the logs are.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let (campaign, server) = programs(options)?;
    let mut command = Command::new(campaign);
    command.arg("--binary").arg(server);
    command.arg(format!("--minutes={}", options.minutes));
    command.arg(format!("--nodes={}", options.nodes));
    command.arg(format!("--clients={}", options.clients));
    if let Some(seed) = options.seed {
        command.arg(format!("--seed={seed}"));
    }
    if let Some(json) = &options.json {
        command.arg("--json").arg(json);
    }
    for (is_given, flag) in [
        (options.require_netns, "--require-netns"),
        (options.keep, "--keep"),
    ] {
        if is_given {
            command.arg(flag);
        }
    }
    steps::call(&mut command)
}

/// The program that runs campaigns, and the server.
fn programs(options: &Options) -> Result<(PathBuf, PathBuf), String> {
    const CAMPAIGN: &str = "raft-chaos";
    const SERVER: &str = "raft-kv";
    if let Some(server) = &options.binary {
        let campaign = binaries::build(CAMPAIGN, Profile::Debug)?;
        return Ok((campaign, server.clone()));
    }
    if options.release {
        let server = binaries::build(SERVER, Profile::Release)?;
        return Ok((binaries::build(CAMPAIGN, Profile::Debug)?, server));
    }
    // Together, so that what both depend on is built once.
    let packages = ["--package", CAMPAIGN, "--package", SERVER];
    let bins = ["--bin", CAMPAIGN, "--bin", SERVER];
    let arguments = [packages, bins].concat();
    let built = binaries::build_all(&arguments, &[CAMPAIGN, SERVER], Profile::Debug)?;
    match <[PathBuf; 2]>::try_from(built) {
        Ok([campaign, server]) => Ok((campaign, server)),
        Err(_) => Err("two programs were asked for".to_string()),
    }
}
