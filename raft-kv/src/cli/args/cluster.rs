//! Flags of `member` and `snapshot`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::server::PeerAddress;

#[derive(Debug, Args)]
pub(in crate::cli) struct MemberArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: MemberCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum MemberCommand {
    /// Print who belongs to the cluster.
    List(MemberListArgs),
    /// Let a node join: it receives the log, and votes once it is promoted.
    Add(MemberAddArgs),
    /// Make a learner that has caught up a voter.
    Promote {
        /// The learner's id.
        id: u64,
    },
    /// Let a member leave.
    Remove(MemberRemoveArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct MemberListArgs {
    /// What the endpoints know by themselves, without a leader; may be old.
    #[arg(long, env = "RAFT_KV_STALE")]
    pub(in crate::cli) stale: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct MemberAddArgs {
    /// The new node and the address that peers and clients reach it by. An id is never used again
    /// for another data directory.
    #[arg(value_name = "ID=HOST:PORT")]
    pub(in crate::cli) node: PeerAddress,
    /// When it becomes a voter: by itself once it has caught up, or by `member promote`.
    #[arg(long, env = "RAFT_KV_PROMOTE", default_value = "auto")]
    pub(in crate::cli) promote: PromoteWhen,
}

/// When a new node becomes a voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum PromoteWhen {
    /// As soon as it has caught up.
    Auto,
    /// When somebody asks for it.
    Manual,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct MemberRemoveArgs {
    /// The member's id.
    pub(in crate::cli) id: u64,
    /// Also if the voters that are left and can be reached are no majority.
    #[arg(long, env = "RAFT_KV_FORCE")]
    pub(in crate::cli) force: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RecoverArgs {
    /// The data directory of the survivor; no server may run on it.
    #[arg(long, env = "RAFT_KV_DATA_DIR", value_name = "DIR")]
    pub(in crate::cli) data_dir: PathBuf,
    /// Says that another cluster is to be made of it. Without this flag, what the directory has is
    /// told and nothing is changed.
    #[arg(long, env = "RAFT_KV_NEW_CLUSTER")]
    pub(in crate::cli) new_cluster: bool,
    /// Confirms that what the lost nodes had beyond this one is given up. At a terminal it is asked
    /// for instead.
    #[arg(long, env = "RAFT_KV_YES_I_LOSE_UNREPLICATED_WRITES")]
    pub(in crate::cli) yes_i_lose_unreplicated_writes: bool,
    /// Where peers and clients will reach the node; where they did so far, if it is left out.
    #[arg(long, env = "RAFT_KV_ADDRESS", value_name = "HOST:PORT")]
    pub(in crate::cli) address: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SnapshotArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SnapshotCommand {
    /// Have the first endpoint that answers make a snapshot, and store it in a file.
    Save {
        /// Where it goes; FILE.part holds it until it is complete and has been checked.
        file: PathBuf,
    },
    /// Check every byte of a snapshot and print what it holds.
    Verify {
        /// The snapshot.
        file: PathBuf,
    },
    /// Make the data directory of a node of a new cluster from a snapshot.
    Restore(RestoreArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RestoreArgs {
    /// The snapshot.
    pub(in crate::cli) file: PathBuf,
    /// Where the node will keep its data; must not exist, or be empty.
    #[arg(long, env = "RAFT_KV_DATA_DIR", value_name = "DIR")]
    pub(in crate::cli) data_dir: PathBuf,
    /// The node's id, from 1 on.
    #[arg(long, env = "RAFT_KV_ID")]
    pub(in crate::cli) id: u64,
    /// A voter of the new cluster, this node included; once for each, the same on all of them.
    #[arg(
        long = "peer",
        env = "RAFT_KV_PEERS",
        value_name = "ID=HOST:PORT",
        value_delimiter = ',',
        required = true
    )]
    pub(in crate::cli) peers: Vec<PeerAddress>,
    /// Confirms that this makes another cluster: what was written after the snapshot is not in it,
    /// and the nodes of the old one must not run on.
    #[arg(long, env = "RAFT_KV_NEW_CLUSTER")]
    pub(in crate::cli) new_cluster: bool,
}
