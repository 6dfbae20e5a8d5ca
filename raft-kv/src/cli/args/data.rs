//! Flags of the commands that read and write keys.

use std::ffi::OsString;

use clap::{Args, ValueEnum};

#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct PutArgs {
    /// The key.
    pub(in crate::cli) key: OsString,
    /// The value; `-` reads it from the standard input.
    pub(in crate::cli) value: OsString,
    /// Print the pair that was replaced, too.
    #[arg(long, env = "RAFT_KV_PREV_KV")]
    pub(in crate::cli) prev_kv: bool,
}

/// Which keys: one, from one up to another, or all with a prefix.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct RangeArgs {
    /// The key, or the first of several.
    pub(in crate::cli) key: OsString,
    /// The first key beyond; with it, all keys from KEY up to END are meant.
    #[arg(conflicts_with_all = ["prefix", "from_key"])]
    pub(in crate::cli) end: Option<OsString>,
    /// All keys that begin with KEY; with an empty KEY every key.
    #[arg(long, env = "RAFT_KV_PREFIX", conflicts_with = "from_key")]
    pub(in crate::cli) prefix: bool,
    /// All keys from KEY on.
    #[arg(long, env = "RAFT_KV_FROM_KEY")]
    pub(in crate::cli) from_key: bool,
}

#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct GetArgs {
    #[command(flatten)]
    pub(in crate::cli) range: RangeArgs,
    /// Print at most this many pairs; 0 means all.
    #[arg(long, env = "RAFT_KV_LIMIT", default_value_t = 0, value_name = "N")]
    pub(in crate::cli) limit: u64,
    /// Read as of this revision; 0 means the latest.
    #[arg(long, env = "RAFT_KV_REV", default_value_t = 0, value_name = "N")]
    pub(in crate::cli) rev: u64,
    /// In which order.
    #[arg(long, env = "RAFT_KV_ORDER", default_value = "asc", ignore_case = true)]
    pub(in crate::cli) order: OrderArg,
    /// By what to order.
    #[arg(
        long,
        env = "RAFT_KV_SORT_BY",
        default_value = "key",
        ignore_case = true
    )]
    pub(in crate::cli) sort_by: SortArg,
    /// Print only how many there are.
    #[arg(long, env = "RAFT_KV_COUNT_ONLY", conflicts_with_all = ["keys_only", "print_value_only"])]
    pub(in crate::cli) count_only: bool,
    /// Print only keys.
    #[arg(long, env = "RAFT_KV_KEYS_ONLY", conflicts_with = "print_value_only")]
    pub(in crate::cli) keys_only: bool,
    /// Print only values; not with `-w json`.
    #[arg(long, env = "RAFT_KV_PRINT_VALUE_ONLY")]
    pub(in crate::cli) print_value_only: bool,
    /// Ask one node for what it has, which may be old.
    #[arg(long, env = "RAFT_KV_STALE")]
    pub(in crate::cli) stale: bool,
}

/// An order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum OrderArg {
    /// Smallest first.
    #[value(alias = "ascend")]
    Asc,
    /// Largest first.
    #[value(alias = "descend")]
    Desc,
}

/// What pairs are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum SortArg {
    /// The key.
    Key,
    /// The revision that created the key.
    Create,
    /// The revision that last wrote it.
    #[value(alias = "modify")]
    Mod,
    /// How often it was written.
    Version,
    /// The value.
    Value,
}

#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct DelArgs {
    #[command(flatten)]
    pub(in crate::cli) range: RangeArgs,
    /// Print the pairs that were removed, too.
    #[arg(long, env = "RAFT_KV_PREV_KV")]
    pub(in crate::cli) prev_kv: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CompactArgs {
    /// The oldest revision that can be read from then on, from 1 on; `raft-kv status` shows the
    /// latest.
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(in crate::cli) revision: u64,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct AppendArgs {
    /// The key.
    pub(in crate::cli) key: OsString,
    /// What to add; `-` reads it from the standard input.
    pub(in crate::cli) value: OsString,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CasArgs {
    /// The key.
    pub(in crate::cli) key: OsString,
    #[command(flatten)]
    pub(in crate::cli) expected: ExpectedArgs,
    /// The new value; `-` reads it from the standard input.
    pub(in crate::cli) new: OsString,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(in crate::cli) struct ExpectedArgs {
    /// The key has this value; `-` reads it from the standard input.
    #[arg(long, env = "RAFT_KV_EXPECT", value_name = "OLD")]
    pub(in crate::cli) expect: Option<OsString>,
    /// The key does not exist.
    #[arg(long, env = "RAFT_KV_ABSENT")]
    pub(in crate::cli) absent: bool,
    /// The key was last written by this revision.
    #[arg(long, env = "RAFT_KV_MOD_REV", value_name = "N")]
    pub(in crate::cli) mod_rev: Option<u64>,
}
