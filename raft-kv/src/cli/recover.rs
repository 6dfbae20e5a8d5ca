//! `recover`: makes the directory of a survivor that of the only member of a new cluster.

use std::io::{self, BufRead, IsTerminal};
use std::path::Path;
use std::sync::Arc;

use raft_log::LogOptions;
use raft_log::vfs::{RealVfs, Vfs};
use raft_node::recover::{NewCluster, RecoverPlan, Survey, recover_directory, survey};
use raft_proto::Membership;
use serde_json::json;

use super::args::{Common, Format, RecoverArgs};
use super::error::CliError;
use super::output::{print_json, print_line};
use crate::server::check_address;

pub(super) fn run(common: &Common, args: &RecoverArgs) -> Result<(), CliError> {
    if let Some(address) = &args.address {
        check_address(address).map_err(|error| CliError::Usage(error.to_string()))?;
    }
    let vfs: Arc<dyn Vfs> = Arc::new(RealVfs);
    let options = LogOptions::default();
    let failed = |error: raft_node::recover::RecoverError| CliError::Failed(error.to_string());
    let found = survey(&vfs, &args.data_dir, options).map_err(failed)?;
    // Where people read warnings, also if the output goes to a program.
    eprintln!("{}", warning(&args.data_dir, &found));
    confirm(args, &found)?;
    let plan = RecoverPlan {
        directory: args.data_dir.clone(),
        address: args.address.clone(),
        log: options,
    };
    let made = recover_directory(&vfs, &plan).map_err(failed)?;
    remove_empty(&made.build);
    match common.write_out {
        Format::Simple => print_line(&told(&args.data_dir, &made)),
        Format::Json => print_json(&json!({
            "data_dir": args.data_dir.display().to_string(),
            "id": made.survey.node.0,
            "cluster": made.cluster.to_string(),
            "address": made.address,
            "old_cluster": made.survey.cluster.to_string(),
            "last": { "index": made.survey.last.index.0, "term": made.survey.last.term.0 },
            "replaced": made.replaced.display().to_string(),
        })),
    }
}

/// What the operator is about to give up.
fn warning(directory: &Path, found: &Survey) -> String {
    let Survey {
        node,
        cluster,
        last,
        membership,
        ..
    } = found;
    let id = node.0;
    format!(
        "WARNING: this gives up cluster {cluster}.\n\
         {} is the directory of node {id}. It has everything up to entry {} of term {}.\n\
         Members as it knows them: {}.\n\
         * Writes that were acknowledged and that node {id} does not have are LOST. If another \
         member survives too, look at it with this command first: the one whose last entry has the \
         higher term, or in the same term the higher index, has more.\n\
         * Writes that were never acknowledged may appear.\n\
         * If a majority of the voters can still be brought back, do that instead, and nothing is lost.\n\
         * No other node of the old cluster may ever be started again on its old directory.",
        directory.display(),
        last.index.0,
        last.term.0,
        members(membership),
    )
}

fn members(membership: &Membership) -> String {
    let member = |(id, member): (&raft_proto::NodeId, &raft_proto::Member)| {
        let role = match membership.is_voter(*id) {
            true => "voter",
            false => "learner",
        };
        format!("{} at {} ({role})", id.0, member.address)
    };
    let all: Vec<String> = membership.members.iter().map(member).collect();
    all.join(", ")
}

/// Nothing is given up by a slip of the hand: both flags, or the cluster's id typed again.
fn confirm(args: &RecoverArgs, found: &Survey) -> Result<(), CliError> {
    if !args.new_cluster {
        return Err(CliError::Usage(
            "nothing was changed; --new-cluster says that another cluster is to be made of it"
                .to_owned(),
        ));
    }
    if args.yes_i_lose_unreplicated_writes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(CliError::Usage(
            "nothing was changed; confirm with --yes-i-lose-unreplicated-writes".to_owned(),
        ));
    }
    eprintln!("To go on, type the id of the cluster that you give up:");
    let mut typed = String::new();
    let read = io::stdin().lock().read_line(&mut typed);
    read.map_err(|source| CliError::io("read from the standard input", source))?;
    if typed.trim() == found.cluster.to_string() {
        return Ok(());
    }
    Err(CliError::Usage(
        "that is another id; nothing was changed".to_owned(),
    ))
}

/// The directories in which the new files were made are empty now, but for a lock.
fn remove_empty(build: &Path) {
    // They are in nobody's way.
    let _ = std::fs::remove_file(build.join("LOCK"));
    for inside in ["log-0", "snapshots-0"] {
        let _ = std::fs::remove_dir(build.join(inside));
    }
    let _ = std::fs::remove_dir(build);
}

fn told(directory: &Path, made: &NewCluster) -> String {
    let id = made.survey.node.0;
    let directory = directory.display();
    format!(
        "{directory} is the directory of node {id}, the only member of the new cluster {}.\n\
         What it had been is kept in {}; delete that once you are sure.\n\
         Start it without --peer (and without `peer` in its configuration):\n  \
         raft-kv server --id {id} --data-dir {directory} --listen {} --tls-dir tls\n\
         Then let others join, with empty directories:\n  \
         raft-kv member add ID=HOST:PORT",
        made.cluster,
        made.replaced.display(),
        made.address,
    )
}
