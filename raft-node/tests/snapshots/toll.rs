//! Stands in every node's way out: counts the bytes of snapshots that pass, stops them beyond an
//! allowance, and slows them down.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use raft_node::{Link, SendError, Transport, TransportBuilder};
use raft_proto::{LogIndex, LogPosition, Message, NodeId};
use tokio::time::{Instant, sleep_until};

struct Gate {
    passed: u64,
    /// By the last entry that the snapshot covers.
    passed_of: BTreeMap<LogIndex, u64>,
    allowed: u64,
    bytes_per_ms: Option<u64>,
    /// When the next one may pass.
    free_at: Option<Instant>,
}

#[derive(Clone)]
pub(crate) struct Toll(Arc<Mutex<Gate>>);

impl Toll {
    pub(crate) fn free() -> Self {
        Self(Arc::new(Mutex::new(Gate {
            passed: 0,
            passed_of: BTreeMap::new(),
            allowed: u64::MAX,
            bytes_per_ms: None,
            free_at: None,
        })))
    }

    /// Lets so many bytes of snapshots pass, all together; the rest is lost.
    pub(crate) fn allow(&self, bytes: u64) {
        self.0.lock().unwrap().allowed = bytes;
    }

    pub(crate) fn slow_down(&self, bytes_per_ms: u64) {
        self.0.lock().unwrap().bytes_per_ms = Some(bytes_per_ms);
    }

    /// Bytes that passed of the snapshot that ends there.
    pub(crate) fn passed_of(&self, end: LogPosition) -> u64 {
        let gate = self.0.lock().unwrap();
        gate.passed_of.get(&end.index).copied().unwrap_or_default()
    }

    pub(crate) fn on(&self, inner: Box<dyn TransportBuilder>) -> Box<dyn TransportBuilder> {
        Box::new(TollBuilder(self.clone(), inner))
    }

    /// When so many bytes may pass; `None` if never.
    fn admit(&self, end: LogPosition, bytes: u64) -> Option<Instant> {
        let mut gate = self.0.lock().unwrap();
        if gate.passed + bytes > gate.allowed {
            return None;
        }
        gate.passed += bytes;
        *gate.passed_of.entry(end.index).or_default() += bytes;
        let now = Instant::now();
        let Some(bytes_per_ms) = gate.bytes_per_ms else {
            return Some(now);
        };
        let start = gate.free_at.map_or(now, |free_at| free_at.max(now));
        let end = start + Duration::from_millis(bytes / bytes_per_ms);
        gate.free_at = Some(end);
        Some(end)
    }
}

struct TollBuilder(Toll, Box<dyn TransportBuilder>);

impl TransportBuilder for TollBuilder {
    fn start(self: Box<Self>, link: Link) -> Result<Box<dyn Transport>, String> {
        let inner = self.1.start(link)?.into();
        Ok(Box::new(TollTransport(self.0, inner)))
    }
}

struct TollTransport(Toll, Arc<dyn Transport>);

impl Transport for TollTransport {
    fn send(&self, to: NodeId, uncounted: bool, message: Message) -> Result<(), SendError> {
        let Message::FetchSnapshotResponse(part) = &message else {
            return self.1.send(to, uncounted, message);
        };
        let Some(at) = self.0.admit(part.last_included, part.data.len() as u64) else {
            return Ok(());
        };
        if at <= Instant::now() {
            return self.1.send(to, uncounted, message);
        }
        let inner = Arc::clone(&self.1);
        tokio::spawn(async move {
            sleep_until(at).await;
            // Lost if the connection is: it is asked for again.
            let _ = inner.send(to, uncounted, message);
        });
        Ok(())
    }

    fn set_peers(&self, peers: &[(NodeId, String)]) {
        self.1.set_peers(peers);
    }

    fn shutdown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.1.shutdown()
    }
}
