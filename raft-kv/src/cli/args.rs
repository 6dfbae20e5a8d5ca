//! Every command and flag. Each flag can also be given as an environment variable `RAFT_KV_*`.

mod certs;
mod cluster;
mod data;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(super) use self::certs::{CertAddArgs, CertArgs, CertCommand, CertInitArgs};
pub(super) use self::cluster::{
    MemberAddArgs, MemberArgs, MemberCommand, MemberListArgs, MemberRemoveArgs, PromoteWhen,
    RecoverArgs, RestoreArgs, SnapshotArgs, SnapshotCommand,
};
pub(super) use self::data::{
    AppendArgs, CasArgs, CompactArgs, DelArgs, GetArgs, OrderArg, PutArgs, RangeArgs, SortArg,
};
use super::logging::{self, LogFormat};
use crate::server::PeerAddress;

/// A fault-tolerant, linearizable key/value store over QUIC.
///
/// Exit codes: 0 done, 1 refused or failed, 2 usage, 3 outcome unknown.
#[derive(Debug, Parser)]
#[command(name = "raft-kv", version)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Flags of all commands that talk to a cluster.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// Endpoints of the cluster, HOST:PORT, separated by commas; one that works is enough.
    #[arg(
        long,
        global = true,
        env = "RAFT_KV_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7001"
    )]
    pub(super) endpoints: Vec<String>,
    /// Directory with ca.pem and the certificates, as `raft-kv cert init` makes it.
    #[arg(long, global = true, env = "RAFT_KV_TLS_DIR", value_name = "DIR")]
    pub(super) tls_dir: Option<PathBuf>,
    /// Whose client certificate to use; may be left out if the directory has only one.
    #[arg(long, global = true, env = "RAFT_KV_CLIENT_NAME", value_name = "NAME")]
    pub(super) client_name: Option<String>,
    /// How long to try: a number with ms, s or m.
    #[arg(long, global = true, env = "RAFT_KV_TIMEOUT", default_value = "5s", value_parser = duration)]
    pub(super) timeout: Duration,
    /// How to print.
    #[arg(
        short = 'w',
        long = "write-out",
        global = true,
        env = "RAFT_KV_WRITE_OUT",
        default_value = "simple"
    )]
    pub(super) write_out: Format,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Simple,
    /// One JSON value.
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a local cluster in the foreground, certificates made for you.
    Dev(DevArgs),
    /// Make certificates.
    Cert(CertArgs),
    /// Run one server.
    Server(ServerArgs),
    /// Set a key.
    Put(PutArgs),
    /// Print keys and their values.
    Get(GetArgs),
    /// Remove keys.
    Del(DelArgs),
    /// Compare keys, and do one of two lists of things, all at once.
    ///
    /// Reads the standard input: compares, a blank line, the requests for when all of them hold, a
    /// blank line, the requests for otherwise. For example:
    ///
    ///   mod("colour") > "0"
    ///
    ///   put colour "red \"again\""
    ///
    ///   put colour red
    ///   get --prefix col
    #[command(verbatim_doc_comment)]
    Txn,
    /// Forget all revisions before this one.
    Compact(CompactArgs),
    /// Add to the end of a key's value.
    Append(AppendArgs),
    /// Set a key if it is as expected.
    Cas(CasArgs),
    /// Ask every endpoint how it is.
    Status,
    /// Hand leadership to another node.
    Transfer(TransferArgs),
    /// Have the members compare their stores and logs; fails if one differs, or has not reported.
    VerifyReplicas(VerifyReplicasArgs),
    /// See and change who belongs to the cluster.
    Member(MemberArgs),
    /// Save, check and restore snapshots.
    Snapshot(SnapshotArgs),
    /// Make a cluster of its own of one surviving node, when the majority is lost for good.
    Recover(RecoverArgs),
    /// Look into a data directory's log, without changing it.
    Log(LogArgs),
    /// Put the cluster under load and measure.
    Bench(BenchArgs),
}

#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// How many servers.
    #[arg(long, env = "RAFT_KV_NODES", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    pub(super) nodes: u64,
    /// Where certificates and data are kept; made if it does not exist, used again if it does.
    #[arg(
        long,
        env = "RAFT_KV_DATA_DIR",
        default_value = "raft-kv-dev",
        value_name = "DIR"
    )]
    pub(super) data_dir: PathBuf,
    /// Port of the first server, the others follow; 0 lets the system choose. Only for a new
    /// directory.
    #[arg(long, env = "RAFT_KV_FIRST_PORT", default_value_t = 7001)]
    pub(super) first_port: u16,
}

#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    /// This node's id, from 1 on.
    #[arg(long, env = "RAFT_KV_ID", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) id: u64,
    /// Where this node keeps its data.
    #[arg(long, env = "RAFT_KV_DATA_DIR", value_name = "DIR")]
    pub(super) data_dir: PathBuf,
    /// The UDP address to listen on, for peers and clients.
    #[arg(long, env = "RAFT_KV_LISTEN", value_name = "IP:PORT")]
    pub(super) listen: SocketAddr,
    /// A voter of the new cluster, this node included; once for each, the same on all of them.
    #[arg(
        long = "peer",
        env = "RAFT_KV_PEERS",
        value_name = "ID=HOST:PORT",
        value_delimiter = ','
    )]
    pub(super) peers: Vec<PeerAddress>,
    /// Join a cluster to which `raft-kv member add` has added this node, instead of forming a new
    /// one. Once the node belongs to a cluster this means nothing any more.
    #[arg(long, env = "RAFT_KV_JOIN")]
    pub(super) join: bool,
    /// How often a leader sends heartbeats, in milliseconds.
    #[arg(long, env = "RAFT_KV_HEARTBEAT_MS", default_value_t = 100)]
    pub(super) heartbeat_ms: u64,
    /// Shortest election timeout, in milliseconds.
    #[arg(long, env = "RAFT_KV_ELECTION_TIMEOUT_MS", default_value_t = 210)]
    pub(super) election_timeout_ms: u64,
    /// How much longer an election timeout may be, at random, in milliseconds.
    #[arg(long, env = "RAFT_KV_ELECTION_SPREAD_MS", default_value_t = 500)]
    pub(super) election_spread_ms: u64,
    /// Size of new log segments, in bytes.
    #[arg(long, env = "RAFT_KV_SEGMENT_BYTES", default_value_t = 64 << 20)]
    pub(super) segment_bytes: u64,
    /// Take a snapshot once this many bytes of log entries were applied since the last one, and no
    /// fewer than half of that one's size.
    #[arg(long, env = "RAFT_KV_SNAPSHOT_LOG_BYTES", default_value_t = 64 << 20)]
    pub(super) snapshot_log_bytes: u64,
    /// Take one also once this many entries were applied since.
    #[arg(long, env = "RAFT_KV_SNAPSHOT_ENTRIES", default_value_t = 1_000_000)]
    pub(super) snapshot_entries: u64,
    /// How many entries before the end of the log to keep for followers that are a little behind.
    #[arg(long, env = "RAFT_KV_SNAPSHOT_KEEP_ENTRIES", default_value_t = 10_000)]
    pub(super) snapshot_keep_entries: u64,
    /// How often the leader has the replicas compared, in seconds; 0 for only when asked. A node that
    /// differs from most others is named in status, log and metrics.
    #[arg(long, env = "RAFT_KV_COMPARE_INTERVAL_SECONDS", default_value_t = 60)]
    pub(super) compare_interval_seconds: u64,
    /// How fast to read sealed log segments and snapshots in the background to find rot, in bytes per
    /// second; 0 for not at all.
    #[arg(long, env = "RAFT_KV_SCRUB_BYTES_PER_SECOND", default_value_t = 2 << 20)]
    pub(super) scrub_bytes_per_second: u64,
    /// The TCP address to serve /metrics, /health and /ready on; without it they are not served.
    /// Anybody who reaches it can read them.
    #[arg(long, env = "RAFT_KV_METRICS_LISTEN", value_name = "IP:PORT")]
    pub(super) metrics_listen: Option<SocketAddr>,
    /// How logs are written to the standard error.
    #[arg(long, env = "RAFT_KV_LOG_FORMAT", default_value = "human")]
    pub(super) log_format: LogFormat,
    /// What is logged: a level, or levels of parts, for example info,raft_net=debug.
    #[arg(long, env = "RAFT_KV_LOG", value_name = "FILTER", default_value = "info", value_parser = logging::filter)]
    pub(super) log_level: String,
    /// A TOML file with any of these flags, by their names; flags and environment beat it.
    #[arg(long, env = "RAFT_KV_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print the settings in force and where each comes from, check them, and do not start.
    #[arg(long, env = "RAFT_KV_CHECK")]
    pub(super) check: bool,
    /// Shut down when the standard input ends: a parent that dies takes its servers along.
    #[arg(long, env = "RAFT_KV_UNTIL_STDIN_CLOSES", hide = true)]
    pub(super) until_stdin_closes: bool,
}

#[derive(Debug, Args)]
pub(super) struct TransferArgs {
    /// The id of the next leader.
    pub(super) id: u64,
}

#[derive(Debug, Args)]
pub(super) struct VerifyReplicasArgs {
    /// Go on until the whole log was compared, instead of the next stretch of it.
    #[arg(long, env = "RAFT_KV_VERIFY_ALL")]
    pub(super) all: bool,
}

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    #[command(subcommand)]
    pub(super) command: LogCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Print what the log holds.
    Dump {
        /// The data directory.
        dir: PathBuf,
        /// What to print of it.
        #[command(flatten)]
        filter: DumpFilter,
    },
    /// Check everything the log holds.
    Verify {
        /// The data directory.
        dir: PathBuf,
    },
    /// Put in order what needs no guess: a torn end, a lost copy of what a batch is. The server must
    /// be stopped. A copy of the log is kept. Says what it would do, unless --yes is given.
    Repair {
        /// The data directory.
        dir: PathBuf,
        /// Do it.
        #[arg(long = "yes", env = "RAFT_KV_REPAIR_YES")]
        yes: bool,
    },
}

/// Which records a dump shows; all conditions must hold.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct DumpFilter {
    /// The first index.
    #[arg(long, env = "RAFT_KV_DUMP_FROM")]
    pub(super) from: Option<u64>,
    /// The last index.
    #[arg(long, env = "RAFT_KV_DUMP_TO")]
    pub(super) to: Option<u64>,
    /// Of this term only.
    #[arg(long, env = "RAFT_KV_DUMP_TERM")]
    pub(super) term: Option<u64>,
    /// In the segment with this number only.
    #[arg(long, env = "RAFT_KV_DUMP_SEGMENT")]
    pub(super) segment: Option<u64>,
    /// Of this kind only.
    #[arg(long, value_enum, env = "RAFT_KV_DUMP_KIND")]
    pub(super) kind: Option<RecordKind>,
    /// Print one record a line, as JSON with `-w json`, and nothing else.
    #[arg(long, env = "RAFT_KV_DUMP_LINES")]
    pub(super) lines: bool,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum RecordKind {
    /// The first entry of a leader's term.
    Noop,
    /// A command of the state machine.
    Command,
    /// A membership of the cluster.
    Membership,
}

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// What to do.
    pub(super) load: Load,
    /// Clients that each have one request under way.
    #[arg(long, env = "RAFT_KV_BENCH_CLIENTS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) clients: u32,
    /// Requests in total.
    #[arg(long, env = "RAFT_KV_BENCH_TOTAL", default_value_t = 100_000)]
    pub(super) total: u64,
    /// Bytes of each value.
    #[arg(long, env = "RAFT_KV_BENCH_VALUE_SIZE", default_value_t = 256)]
    pub(super) value_size: usize,
    /// Different keys.
    #[arg(long, env = "RAFT_KV_BENCH_KEY_SPACE", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) key_space: u64,
    /// Take the keys in order instead of at random, so that as many requests as there are keys
    /// reach every key once.
    #[arg(long, env = "RAFT_KV_BENCH_SEQUENTIAL")]
    pub(super) sequential: bool,
    /// Requests per second that are due in total, whether earlier ones have ended or not; latency
    /// then counts from when a request is due. Without it every client asks as fast as it is
    /// answered.
    #[arg(long, env = "RAFT_KV_BENCH_RATE", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) rate: Option<u32>,
    /// Connections to the leader, shared by the clients.
    #[arg(long, env = "RAFT_KV_BENCH_CONNECTIONS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) connections: u32,
    /// Write without sessions: a write whose connection breaks then counts as an error, because
    /// nobody knows whether it was carried out.
    #[arg(long, env = "RAFT_KV_BENCH_ONE_SHOT")]
    pub(super) one_shot: bool,
}

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Load {
    /// Write keys at random.
    Put,
    /// Read keys at random, linearizably.
    Get,
}

/// Reads `5s`, `250ms` or `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is not a number with ms, s or m"))?;
    let unit = &text[digits.len()..];
    let ms = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        _ => return Err(format!("{text:?} needs a unit: ms, s or m")),
    };
    match ms {
        Some(ms @ 1..=86_400_000) => Ok(Duration::from_millis(ms)),
        Some(_) | None => Err(format!("{text:?} is not between 1ms and one day")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let id = argument.get_id().as_str();
                if argument.is_positional() || id == "help" || id == "version" {
                    continue;
                }
                let env = argument
                    .get_env()
                    .unwrap_or_else(|| panic!("--{id} has none"));
                assert!(env.to_string_lossy().starts_with("RAFT_KV_"), "{id}");
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in [
            "5",
            "s",
            "",
            "0s",
            "-1s",
            "5h",
            "99999999999999999999s",
            "2000000m",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_swap_expects_exactly_one_thing() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["raft-kv", "cas", "k"], args].concat());
        assert!(parse(&["--absent", "new"]).is_ok());
        assert!(parse(&["--mod-rev", "7", "new"]).is_ok());
        assert!(parse(&["--expect", "old", "new"]).is_ok());
        assert!(parse(&["new"]).is_err());
        assert!(parse(&["--absent", "--expect", "old", "new"]).is_err());
    }
}
