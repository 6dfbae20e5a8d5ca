//! `snapshot`: saves a node's state into a file, checks such a file, and makes new clusters of it.

mod restore;
mod save;
mod verify;

use raft_log::snapshot::SnapshotSummary;
use raft_proto::Membership;
use serde_json::{Value, json};

use super::args::{Common, SnapshotArgs, SnapshotCommand};
use super::block_on;
use super::error::CliError;

pub(super) fn run(common: &Common, args: &SnapshotArgs) -> Result<(), CliError> {
    match &args.command {
        SnapshotCommand::Save { file } => block_on(save::run(common, file)),
        SnapshotCommand::Verify { file } => verify::run(common, file),
        SnapshotCommand::Restore(args) => restore::run(common, args),
    }
}

/// Each member's id, address and role.
fn members_json(membership: &Membership) -> Value {
    let member = |(id, member): (&raft_proto::NodeId, &raft_proto::Member)| {
        let role = match membership.is_voter(*id) {
            true => "voter",
            false => "learner",
        };
        json!({ "id": id.0, "address": member.address, "role": role })
    };
    Value::Array(membership.members.iter().map(member).collect())
}

/// The members in words.
fn members_text(membership: &Membership) -> String {
    let member = |(id, member): (&raft_proto::NodeId, &raft_proto::Member)| {
        format!("{}={}", id.0, member.address)
    };
    let all: Vec<String> = membership.members.iter().map(member).collect();
    all.join(", ")
}

/// What a checked file says of itself.
fn summary_json(summary: &SnapshotSummary) -> Value {
    json!({
        "cluster": summary.cluster.to_string(),
        "last_included": {
            "index": summary.last_included.index.0,
            "term": summary.last_included.term.0,
        },
        "members": members_json(&summary.membership),
        "total_bytes": summary.total_bytes,
        "payload_bytes": summary.payload_bytes,
        "chunks": summary.chunks,
        "checksum": format!("{:08x}", summary.checksum),
    })
}
