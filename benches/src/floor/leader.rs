//! The leader of the floor: whatever waits goes to the disk and to both followers at once; a put
//! is answered when two of the three have it, a get when a follower has echoed a later round.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;

use super::disk::Disk;
use super::frame::{self, Kind, Parser};
use crate::Failure;
use crate::tls::NAME;

/// What a get answers.
const VALUE: [u8; 256] = [7; 256];

/// Serves clients until the process ends. Must run on a local set.
///
/// # Errors
/// The network's, or the disk's.
pub async fn run(
    endpoint: Endpoint,
    file: &Path,
    followers: [SocketAddr; 2],
) -> Result<(), Failure> {
    let leader = Rc::new(Leader {
        disk: Disk::start(file)?,
        state: RefCell::default(),
        outs: RefCell::default(),
        work: Notify::new(),
    });
    for (at, address) in followers.into_iter().enumerate() {
        let connection = endpoint.connect(address, NAME)?.await?;
        let (send, receive) = connection.open_bi().await?;
        leader.outs.borrow_mut().push(Rc::default());
        spawn_local(write(send, leader.out(at)));
        spawn_local(Rc::clone(&leader).hear_follower(at, receive));
    }
    spawn_local(Rc::clone(&leader).hear_disk());
    spawn_local(Rc::clone(&leader).serve());
    println!("ready");
    while let Some(incoming) = endpoint.accept().await {
        let connection = incoming.await?;
        spawn_local(Rc::clone(&leader).hear_client(connection));
    }
    Ok(())
}

struct Leader {
    disk: Disk,
    state: RefCell<State>,
    /// Where to write: the followers first, then the clients.
    outs: RefCell<Vec<Rc<Out>>>,
    /// Something came in, or became durable.
    work: Notify,
}

/// Bytes that wait to be written to a stream.
#[derive(Default)]
struct Out {
    bytes: RefCell<Vec<u8>>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Contents of puts that nobody has been sent yet.
    gathered: Vec<u8>,
    /// Entries so far, those gathered included.
    entries: u64,
    sent: u64,
    /// How many entries each follower has.
    durable: [u64; 2],
    /// Puts that wait: entry, client, number.
    puts: VecDeque<(u64, usize, u64)>,
    /// Gets that wait for the round under way, and those that came later.
    confirming: Vec<(usize, u64)>,
    gets: Vec<(usize, u64)>,
    round: u64,
    confirmed: u64,
}

impl Leader {
    fn out(&self, at: usize) -> Rc<Out> {
        Rc::clone(&self.outs.borrow()[at])
    }

    async fn hear_client(self: Rc<Self>, connection: Connection) {
        // A client that goes away is no failure of the leader.
        let Ok((send, mut receive)) = connection.accept_bi().await else {
            return;
        };
        let client = self.outs.borrow().len();
        self.outs.borrow_mut().push(Rc::default());
        spawn_local(write(send, self.out(client)));
        let mut parser = Parser::default();
        while let Ok(Some(chunk)) = receive.read_chunk(usize::MAX, true).await {
            let state = &mut *self.state.borrow_mut();
            parser.feed(&chunk.bytes, |kind, number, content| match kind {
                Kind::Put => {
                    state.gathered.extend_from_slice(content);
                    state.entries += 1;
                    state.puts.push_back((state.entries, client, number));
                }
                Kind::Get => state.gets.push((client, number)),
                Kind::Append | Kind::Durable | Kind::Round => {
                    unreachable!("a client sends no {kind:?}")
                }
            });
            self.work.notify_one();
        }
    }

    async fn hear_follower(self: Rc<Self>, at: usize, mut receive: RecvStream) {
        let mut parser = Parser::default();
        while let Ok(Some(chunk)) = receive.read_chunk(usize::MAX, true).await {
            let state = &mut *self.state.borrow_mut();
            parser.feed(&chunk.bytes, |kind, number, _| match kind {
                Kind::Durable => state.durable[at] = number,
                Kind::Round => state.confirmed = state.confirmed.max(number),
                Kind::Put | Kind::Get | Kind::Append => {
                    unreachable!("a follower sends no {kind:?}")
                }
            });
            self.work.notify_one();
        }
    }

    async fn hear_disk(self: Rc<Self>) {
        let done = self.disk.done();
        loop {
            done.changed.notified().await;
            self.work.notify_one();
        }
    }

    async fn serve(self: Rc<Self>) {
        loop {
            self.work.notified().await;
            self.send_gathered();
            self.answer();
        }
    }

    /// One batch of whatever waits.
    fn send_gathered(&self) {
        let state = &mut *self.state.borrow_mut();
        if state.entries > state.sent {
            let batch = std::mem::take(&mut state.gathered);
            for at in 0..2 {
                let out = self.out(at);
                frame::push(
                    &mut out.bytes.borrow_mut(),
                    Kind::Append,
                    state.entries,
                    &batch,
                );
                out.changed.notify_one();
            }
            self.disk.write(state.entries, batch);
            state.sent = state.entries;
        }
    }

    fn answer(&self) {
        let state = &mut *self.state.borrow_mut();
        let outs = self.outs.borrow();
        let mut durable = [
            state.durable[0],
            state.durable[1],
            self.disk.done().durable(),
        ];
        durable.sort_unstable();
        while let Some((entry, client, number)) = state.puts.pop_front_if(|put| put.0 <= durable[1])
        {
            debug_assert!(entry <= durable[1]);
            frame::push(&mut outs[client].bytes.borrow_mut(), Kind::Put, number, &[]);
            outs[client].changed.notify_one();
        }
        if state.confirmed == state.round {
            for (client, number) in state.confirming.drain(..) {
                frame::push(
                    &mut outs[client].bytes.borrow_mut(),
                    Kind::Get,
                    number,
                    &VALUE,
                );
                outs[client].changed.notify_one();
            }
            if !state.gets.is_empty() {
                std::mem::swap(&mut state.confirming, &mut state.gets);
                state.round += 1;
                for out in &outs[..2] {
                    frame::push(&mut out.bytes.borrow_mut(), Kind::Round, state.round, &[]);
                    out.changed.notify_one();
                }
            }
        }
    }
}

/// Writes all that waits, as often as there is something.
async fn write(mut send: SendStream, out: Rc<Out>) {
    loop {
        out.changed.notified().await;
        let bytes = out.bytes.take();
        if send.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
