//! Two transports of raft-net: one sends what a leader sends, the other answers.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use benches::authority::{Authority, CLUSTER};
use bytes::Bytes;
use raft_net::{LocalIdentity, NetConfig, PeerHandler, QuicTransport};
use raft_proto::{
    AppendOutcome, AppendRequest, AppendResponse, Boot, Class, ClusterId, Entry, EntryKind,
    FetchSnapshotResponse, GroupId, Hello, Incarnation, LogIndex, LogPosition, Message, NodeId,
    Refusal, Term,
};
use tokio::sync::{Notify, mpsc};

/// A connected pair.
pub(super) struct Pair {
    one: Arc<QuicTransport>,
    answers: mpsc::UnboundedReceiver<u64>,
    next: u64,
    _two: Arc<QuicTransport>,
}

/// One end: node 2 answers what it gets, node 1 counts the answers.
struct Node {
    transport: OnceLock<Arc<QuicTransport>>,
    up: Notify,
    answers: mpsc::UnboundedSender<u64>,
}

impl PeerHandler for Node {
    fn cluster(&self) -> Option<ClusterId> {
        None
    }

    fn admit(&self, _hello: &Hello) -> Result<(), Refusal> {
        Ok(())
    }

    fn on_message(&self, from: NodeId, _uncounted: bool, _group: GroupId, message: Message) {
        let sequence = if let Message::AppendResponse(response) = message {
            // The receiver lives as long as the benchmark.
            let _ = self.answers.send(response.sequence);
            return;
        } else if let Message::AppendRequest(request) = &message {
            request.sequence
        } else if let Message::FetchSnapshotResponse(part) = &message {
            part.offset
        } else {
            return;
        };
        let answer = AppendResponse {
            term: Term(1),
            sequence,
            outcome: AppendOutcome::Accepted,
        };
        if let Some(transport) = self.transport.get() {
            let sent = transport.send(from, &answer.into(), false);
            assert!(sent.is_ok(), "answers are few enough: {sent:?}");
        }
    }

    fn on_peer_up(&self, _peer: NodeId, _incarnation: Incarnation, _boot: Boot) {
        self.up.notify_one();
    }

    fn on_peer_down(&self, _peer: NodeId) {}

    fn on_refused(&self, _peer: NodeId, _refusal: &Refusal) {}
}

fn start(
    id: u64,
    authority: &Authority,
) -> (Arc<Node>, Arc<QuicTransport>, mpsc::UnboundedReceiver<u64>) {
    let (sender, answers) = mpsc::unbounded_channel();
    let node = Arc::new(Node {
        transport: OnceLock::new(),
        up: Notify::new(),
        answers: sender,
    });
    let local = LocalIdentity {
        node: NodeId(id),
        incarnation: Incarnation(id),
        boot: Boot::default(),
    };
    let tls = authority.node(id).expect("keys can be made");
    let config = NetConfig::new(local, CLUSTER, tls);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let transport = QuicTransport::bind(socket, config, node.clone(), None);
    let transport = Arc::new(transport.expect("a transport starts"));
    assert!(node.transport.set(Arc::clone(&transport)).is_ok());
    (node, transport, answers)
}

impl Pair {
    /// Must run on the runtime that runs it later.
    pub(super) async fn new() -> Self {
        let authority = Authority::new().expect("keys can be made");
        let (node, one, answers) = start(1, &authority);
        let (_, two, _) = start(2, &authority);
        let address = |transport: &QuicTransport| {
            let address = transport.local_addr().expect("it is bound");
            address.to_string()
        };
        let named = [(NodeId(1), address(&one)), (NodeId(2), address(&two))];
        one.set_peers(&named[1..]);
        two.set_peers(&named[..1]);
        node.up.notified().await;
        Self {
            one,
            answers,
            next: 1,
            _two: two,
        }
    }

    /// Keeps so many messages under way; returns how many were answered.
    pub(super) async fn run(
        &mut self,
        slice: Duration,
        class: Class,
        outstanding: usize,
        payload: &Bytes,
    ) -> u64 {
        let (mut under_way, mut answered) = (0, 0);
        let begin = Instant::now();
        loop {
            let is_over = begin.elapsed() >= slice;
            while !is_over && under_way < outstanding {
                let message = message(class, self.next, payload.clone());
                if self.one.send(NodeId(2), &message, false).is_err() {
                    break;
                }
                self.next += 1;
                under_way += 1;
            }
            if under_way == 0 && is_over {
                return answered;
            }
            let mut answer = self.answers.recv().await;
            while answer.is_some() {
                under_way -= 1;
                answered += 1;
                answer = self.answers.try_recv().ok();
            }
        }
    }
}

fn message(class: Class, sequence: u64, payload: Bytes) -> Message {
    if class == Class::Bulk {
        return FetchSnapshotResponse {
            term: Term(1),
            last_included: LogPosition::default(),
            offset: sequence,
            total_bytes: u64::MAX,
            checksum: 0,
            data: payload,
        }
        .into();
    }
    AppendRequest {
        term: Term(1),
        sequence,
        previous: LogPosition::default(),
        commit_index: LogIndex(0),
        entries: vec![Entry {
            index: LogIndex(1),
            term: Term(1),
            kind: EntryKind::Command,
            payload,
        }],
    }
    .into()
}
