//! A follower of the floor: syncs what the leader sends and says so; echoes rounds.

use std::path::Path;
use std::sync::Arc;

use quinn::{Endpoint, RecvStream, SendStream};
use tokio::sync::Notify;

use super::disk::{Disk, Done};
use super::frame::{self, Kind, Parser};
use crate::Failure;

/// Serves the leader until it goes away.
///
/// # Errors
/// The network's, or the disk's.
pub async fn run(endpoint: Endpoint, file: &Path) -> Result<(), Failure> {
    let disk = Disk::start(file)?;
    let incoming = endpoint.accept().await.ok_or("the endpoint is closed")?;
    let (send, receive) = incoming.await?.accept_bi().await?;
    let rounds = Arc::<Rounds>::default();
    let answers = tokio::spawn(answer(send, disk.done(), Arc::clone(&rounds)));
    take(receive, &disk, &rounds).await?;
    answers.abort();
    Ok(())
}

/// Rounds to be echoed.
#[derive(Default)]
struct Rounds {
    latest: std::sync::atomic::AtomicU64,
    changed: Notify,
}

async fn take(mut receive: RecvStream, disk: &Disk, rounds: &Rounds) -> Result<(), Failure> {
    let mut parser = Parser::default();
    while let Some(chunk) = receive.read_chunk(usize::MAX, true).await? {
        let mut latest = None;
        parser.feed(&chunk.bytes, |kind, number, content| match kind {
            Kind::Append => disk.write(number, content.to_vec()),
            Kind::Round => latest = Some(number),
            Kind::Put | Kind::Get | Kind::Durable => unreachable!("a leader sends no {kind:?}"),
        });
        if let Some(round) = latest {
            rounds
                .latest
                .store(round, std::sync::atomic::Ordering::Relaxed);
            rounds.changed.notify_one();
        }
    }
    Ok(())
}

async fn answer(mut send: SendStream, done: Arc<Done>, rounds: Arc<Rounds>) -> Result<(), Failure> {
    let (mut durable, mut round) = (0, 0);
    let mut out = Vec::new();
    loop {
        tokio::select! {
            () = done.changed.notified() => {}
            () = rounds.changed.notified() => {}
        }
        if done.durable() > durable {
            durable = done.durable();
            frame::push(&mut out, Kind::Durable, durable, &[]);
        }
        let latest = rounds.latest.load(std::sync::atomic::Ordering::Relaxed);
        if latest > round {
            round = latest;
            frame::push(&mut out, Kind::Round, round, &[]);
        }
        send.write_all(&out).await?;
        out.clear();
    }
}
