//! `snapshot restore`: makes the data directory of a node of a new cluster.

use std::sync::Arc;

use raft_log::LogOptions;
use raft_log::vfs::{RealVfs, Vfs};
use raft_node::restore::{RestorePlan, Restored, restore_directory};
use raft_proto::NodeId;

use super::super::args::{Common, Format, RestoreArgs};
use super::super::error::CliError;
use super::super::output::{print_json, print_line};
use super::{members_json, members_text};

pub(super) fn run(common: &Common, args: &RestoreArgs) -> Result<(), CliError> {
    let plan = plan(args)?;
    let vfs: Arc<dyn Vfs> = Arc::new(RealVfs);
    let restored =
        restore_directory(&vfs, &plan).map_err(|error| CliError::Failed(error.to_string()))?;
    match common.write_out {
        Format::Simple => print_line(&told(args, &restored)),
        Format::Json => print_json(&serde_json::json!({
            "data_dir": args.data_dir.display().to_string(),
            "cluster": restored.cluster.to_string(),
            "id": args.id,
            "members": members_json(&restored.membership),
            "last_included": {
                "index": restored.snapshot.last_included.index.0,
                "term": restored.snapshot.last_included.term.0,
            },
            "payload_bytes": restored.payload_bytes,
        })),
    }
}

fn plan(args: &RestoreArgs) -> Result<RestorePlan, CliError> {
    if args.id == 0 {
        return Err(CliError::Usage("node ids are numbers from 1 on".to_owned()));
    }
    if !args.new_cluster {
        let message = "restoring makes another cluster: what was written after the snapshot is not \
                       in it, and no node of the old one may run on; confirm with --new-cluster";
        return Err(CliError::Usage(message.to_owned()));
    }
    let node = NodeId(args.id);
    if !args.peers.iter().any(|peer| peer.id == node) {
        return Err(CliError::Usage(format!(
            "node {} is not among the peers; name it too, with its own address",
            args.id
        )));
    }
    Ok(RestorePlan {
        snapshot: args.file.clone(),
        directory: args.data_dir.clone(),
        node,
        members: args
            .peers
            .iter()
            .map(|peer| (peer.id, peer.address.clone()))
            .collect(),
        log: LogOptions::default(),
    })
}

fn told(args: &RestoreArgs, restored: &Restored) -> String {
    let others = match restored.membership.members.len() {
        1 => "Start it with:",
        _ => {
            "Restore the other members from the same file with the same --peer flags, each with its \
             own --id, then start all of them; this one with:"
        }
    };
    let peers: Vec<String> = args
        .peers
        .iter()
        .map(|peer| format!("--peer {peer}"))
        .collect();
    let own = args.peers.iter().find(|peer| peer.id.0 == args.id);
    let listen = own.map_or("HOST:PORT", |peer| &peer.address);
    format!(
        "{} is the directory of node {} of the new cluster {} ({}).\n{others}\n  \
         raft-kv server --id {} --data-dir {} --listen {listen} --tls-dir tls {}",
        args.data_dir.display(),
        args.id,
        restored.cluster,
        members_text(&restored.membership),
        args.id,
        args.data_dir.display(),
        peers.join(" "),
    )
}
