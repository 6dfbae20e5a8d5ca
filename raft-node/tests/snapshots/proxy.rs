//! A UDP proxy on the loopback that carries so many bytes a millisecond and drops what exceeds its
//! queue, as a slow line does.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

/// What may wait, in bytes.
const QUEUE_BYTES: u64 = 64 << 10;
/// The largest datagram.
const MAX_DATAGRAM_BYTES: usize = 64 << 10;

/// The rate of all lines, in bytes a millisecond; may be changed.
pub(crate) type Rate = Arc<AtomicU64>;

/// One direction of a line. What waits is bounded by its queue.
struct Line {
    rate: Rate,
    free_at: Instant,
    datagrams: UnboundedSender<(Instant, Vec<u8>)>,
}

impl Line {
    fn new(rate: &Rate, socket: Arc<UdpSocket>, to: SocketAddr) -> Self {
        let (datagrams, waiting) = unbounded_channel();
        tokio::spawn(deliver(waiting, socket, to));
        Self {
            rate: Arc::clone(rate),
            free_at: Instant::now(),
            datagrams,
        }
    }

    fn push(&mut self, datagram: &[u8]) {
        let rate = self.rate.load(Ordering::Relaxed);
        let duration = |bytes: u64| Duration::from_micros(bytes * 1_000 / rate);
        let now = Instant::now();
        let start = self.free_at.max(now);
        if start - now > duration(QUEUE_BYTES) {
            return;
        }
        self.free_at = start + duration(datagram.len() as u64);
        // The receiver ends with the test.
        let _ = self.datagrams.send((self.free_at, datagram.to_vec()));
    }
}

async fn deliver(
    mut waiting: UnboundedReceiver<(Instant, Vec<u8>)>,
    socket: Arc<UdpSocket>,
    to: SocketAddr,
) {
    while let Some((at, datagram)) = waiting.recv().await {
        sleep_until(at).await;
        // Nobody may be there: then it is lost.
        let _ = socket.send_to(&datagram, to).await;
    }
}

/// Starts a proxy for a node; returns the address to reach the node at.
pub(crate) async fn start(node: SocketAddr, rate: &Rate) -> SocketAddr {
    let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = front.local_addr().unwrap();
    tokio::spawn(forward(front, node, Arc::clone(rate)));
    address
}

async fn forward(front: Arc<UdpSocket>, node: SocketAddr, rate: Rate) {
    let mut lines: HashMap<SocketAddr, Line> = HashMap::new();
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    loop {
        // An error only says that an earlier datagram did not arrive.
        let Ok((bytes, from)) = front.recv_from(&mut buffer).await else {
            continue;
        };
        let line = match lines.entry(from) {
            Entry::Occupied(line) => line.into_mut(),
            Entry::Vacant(slot) => {
                let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                let answers = Line::new(&rate, Arc::clone(&front), from);
                tokio::spawn(answer(Arc::clone(&back), answers));
                slot.insert(Line::new(&rate, back, node))
            }
        };
        line.push(&buffer[..bytes]);
    }
}

async fn answer(back: Arc<UdpSocket>, mut line: Line) {
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    loop {
        if let Ok(bytes) = back.recv(&mut buffer).await {
            line.push(&buffer[..bytes]);
        }
    }
}
