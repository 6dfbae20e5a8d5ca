//! Flags of `member`.

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
    List,
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
