//! `server`: runs one server until it is told to stop.

use std::io::{self, Read};
use std::time::Duration;

use raft_node::{ComparisonPolicy, NodeState, Raft, SnapshotPolicy};
use raft_proto::NodeId;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::args::{Common, ServerArgs};
use super::config_file::{Effective, Origin};
use super::error::CliError;
use super::output::print_line;
use super::{block_on, logging};
use crate::server::{Server, ServerConfig, ServerError, StartMode, Timers};

pub(super) fn run(
    common: &Common,
    args: ServerArgs,
    effective: &Effective,
) -> Result<(), CliError> {
    let Some(tls_dir) = common.tls_dir.clone() else {
        let message = "name the directory of certificates with --tls-dir or RAFT_KV_TLS_DIR";
        return Err(CliError::Usage(message.to_owned()));
    };
    let until_stdin_closes = args.until_stdin_closes;
    let config = ServerConfig {
        id: NodeId(args.id),
        data_dir: args.data_dir,
        listen: args.listen,
        peers: args.peers,
        start: match args.join {
            true => StartMode::Join,
            false => StartMode::Form,
        },
        tls_dir,
        timers: Timers {
            heartbeat_interval_ms: args.heartbeat_ms,
            election_timeout_ms_min: args.election_timeout_ms,
            election_timeout_ms_max: args
                .election_timeout_ms
                .saturating_add(args.election_spread_ms),
        },
        segment_bytes: args.segment_bytes,
        snapshots: SnapshotPolicy {
            max_log_bytes: args.snapshot_log_bytes,
            max_log_entries: args.snapshot_entries,
            keep_entries: args.snapshot_keep_entries,
            ..SnapshotPolicy::default()
        },
        comparison: ComparisonPolicy {
            interval: match args.compare_interval_seconds {
                0 => None,
                seconds => Some(Duration::from_secs(seconds)),
            },
            ..ComparisonPolicy::default()
        },
        scrub_bytes_per_second: args.scrub_bytes_per_second,
        metrics_listen: args.metrics_listen,
    };
    if args.check {
        return check(&config, effective);
    }
    let format = args.log_format;
    logging::start(format, &args.log_level, config.id);
    tell_settings(config.id, effective);
    let node = config.id;
    let outcome = block_on(serve(config, until_stdin_closes));
    logging::ended(format, node, outcome)
}

/// Prints what is in force before it is judged: whoever asks wants to see what is wrong.
fn check(config: &ServerConfig, effective: &Effective) -> Result<(), CliError> {
    print_line(effective.to_string().trim_end())?;
    config.to_raft().map_err(ServerError::from)?;
    Ok(())
}

fn tell_settings(node: NodeId, effective: &Effective) {
    let file = effective.file.as_ref();
    tracing::info!(
        node = node.0,
        version = env!("CARGO_PKG_VERSION"),
        file = file.map(|path| path.display().to_string()),
        from_file = effective.names_from(Origin::File),
        from_environment = effective.names_from(Origin::Environment),
        from_flags = effective.names_from(Origin::Flag),
        "configured; what is not named has its default"
    );
}

async fn serve(config: ServerConfig, until_stdin_closes: bool) -> Result<(), CliError> {
    let mut terminate = watch_signal(SignalKind::terminate())?;
    let mut interrupt = watch_signal(SignalKind::interrupt())?;
    let parent_gone = parent_gone(until_stdin_closes)?;
    let server = Server::start(&config)?;
    let node = config.id.0;
    tracing::info!(node, listen = %config.listen, "started");
    let warned = tokio::spawn(doubt_address(config, server.raft().clone()));
    if let Some(address) = server.metrics_address() {
        tracing::info!(node, %address, "serving metrics, health and readiness");
    }
    tokio::select! {
        stopped = server.stopped() => return Ok(stopped?),
        _ = terminate.recv() => tracing::info!(node, "asked to terminate"),
        _ = interrupt.recv() => tracing::info!(node, "interrupted"),
        _ = parent_gone => tracing::info!(node, "the parent process is gone"),
    }
    warned.abort();
    server.shutdown().await?;
    tracing::info!(node, "stopped");
    Ok(())
}

/// Warns if the cluster reaches this node elsewhere than where it listens: as early as it is known.
async fn doubt_address(config: ServerConfig, raft: Raft) {
    let given = config.peers.iter().find(|peer| peer.id == config.id);
    let address = match given {
        Some(peer) => Some(peer.address.clone()),
        None => own_address(&config, &raft).await,
    };
    if let Some(doubt) = address.and_then(|address| config.doubt_about(&address)) {
        tracing::warn!(node = config.id.0, "{doubt}");
    }
}

/// The address by which the members know this node, once it belongs to a cluster.
async fn own_address(config: &ServerConfig, raft: &Raft) -> Option<String> {
    let is_running = |state: &NodeState| matches!(state, NodeState::Running { .. });
    raft.wait_for(is_running).await;
    let status = raft.status().await?;
    let member = status.membership.members.get(&config.id)?;
    Some(member.address.clone())
}

fn watch_signal(kind: SignalKind) -> Result<tokio::signal::unix::Signal, CliError> {
    signal(kind).map_err(|source| CliError::io("watch for signals", source))
}

/// Resolves when the standard input ends, or never.
fn parent_gone(is_watched: bool) -> Result<impl Future<Output = ()>, CliError> {
    let (gone, is_gone) = oneshot::channel();
    let mut never = None;
    if is_watched {
        std::thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || {
                let mut ignored = [0; 1024];
                while io::stdin().read(&mut ignored).is_ok_and(|bytes| bytes > 0) {}
                // The receiver is gone only if the server is stopping anyway.
                let _ = gone.send(());
            })
            .map_err(|source| CliError::io("start a thread", source))?;
    } else {
        never = Some(gone);
    }
    Ok(async move {
        let _ = is_gone.await;
        drop(never);
    })
}
