//! `server`: runs one server until it is told to stop.

use std::io::{self, IsTerminal, Read};

use raft_proto::NodeId;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

use super::args::{Common, ServerArgs};
use super::block_on;
use super::error::CliError;
use crate::server::{Server, ServerConfig, StartMode, Timers};

pub(super) fn run(common: &Common, args: ServerArgs) -> Result<(), CliError> {
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
    };
    start_logging();
    block_on(serve(config, until_stdin_closes))
}

/// Logs go to the standard error; `RAFT_KV_LOG` chooses what is logged.
fn start_logging() {
    let filter = EnvFilter::try_from_env("RAFT_KV_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

async fn serve(config: ServerConfig, until_stdin_closes: bool) -> Result<(), CliError> {
    let mut terminate = watch_signal(SignalKind::terminate())?;
    let mut interrupt = watch_signal(SignalKind::interrupt())?;
    let parent_gone = parent_gone(until_stdin_closes)?;
    let server = Server::start(&config)?;
    tracing::info!(node = config.id.0, listen = %config.listen, "started");
    tokio::select! {
        stopped = server.stopped() => return Ok(stopped?),
        _ = terminate.recv() => tracing::info!("asked to terminate"),
        _ = interrupt.recv() => tracing::info!("interrupted"),
        _ = parent_gone => tracing::info!("the parent process is gone"),
    }
    server.shutdown().await?;
    tracing::info!(node = config.id.0, "stopped");
    Ok(())
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
