//! A cluster of cores in one thread, with a network and disks that the test controls, and the
//! safety invariants checked after every step.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::wildcard_enum_match_arm,
    clippy::unwrap_used,
    reason = "each test binary uses a part of this, and a broken expectation must fail the test"
)]

pub mod invariants;
pub mod node;
pub mod story;

use std::collections::BTreeMap;

use raft_core::{Config, Event, PersistId, Recovered, Time, Transmit};
use raft_proto::{Boot, Incarnation, LogPosition, Member, Membership, Message, NodeId};

pub use invariants::Invariants;
pub use node::Node;

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub from: NodeId,
    pub to: NodeId,
    pub uncounted: bool,
    pub message: Message,
}

/// Nodes, the messages between them, and what must always hold.
pub struct Cluster {
    pub now: Time,
    pub nodes: BTreeMap<NodeId, Node>,
    pub network: Vec<Envelope>,
    pub invariants: Invariants,
    /// Whether snapshots offered are fetched while the cluster settles.
    pub fetches: bool,
    /// How many were.
    pub fetched: u64,
}

pub fn member(id: u64) -> (NodeId, Member) {
    let member = Member {
        incarnation: Some(Incarnation(id)),
        address: format!("127.0.0.1:{}", 7000 + id),
    };
    (NodeId(id), member)
}

pub fn membership_of(ids: &[u64]) -> Membership {
    Membership::of_voters(ids.iter().map(|id| member(*id)))
}

pub fn boot(counter: u64) -> Boot {
    boot_of_life(1, counter)
}

/// The boots of one life of a data directory; one that was wiped counts from 1 again. Nonces are
/// chosen so that ids of requests are readable in scripts.
pub fn boot_of_life(life: u64, counter: u64) -> Boot {
    Boot {
        counter,
        nonce: ((life - 1) << 20) + counter,
    }
}

impl Cluster {
    /// A formed cluster of voters 1 to `size`, at the first boot of each.
    pub fn new(size: u64, configure: impl Fn(&mut Config)) -> Self {
        let ids: Vec<u64> = (1..=size).collect();
        let recovered = Recovered::bootstrap(membership_of(&ids), boot(1)).unwrap();
        let entry = node::first_entry(&membership_of(&ids));
        let mut cluster = Self {
            now: Time::ZERO,
            nodes: BTreeMap::new(),
            network: Vec::new(),
            invariants: Invariants::default(),
            fetches: false,
            fetched: 0,
        };
        for id in ids {
            let mut config = Config::new(NodeId(id));
            config.seed = 1;
            configure(&mut config);
            let node = Node::new(config, recovered.clone(), vec![entry.clone()], Time::ZERO);
            cluster.nodes.insert(NodeId(id), node);
        }
        cluster
    }

    /// Adds a node that is no member yet and has no log.
    pub fn add_spare(&mut self, id: u64, configure: impl Fn(&mut Config)) {
        let mut config = Config::new(NodeId(id));
        config.seed = 1;
        configure(&mut config);
        let recovered = Recovered::empty(boot(1));
        let node = Node::new(config, recovered, Vec::new(), self.now);
        self.nodes.insert(NodeId(id), node);
    }

    pub fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&NodeId(id)).unwrap()
    }

    /// Collects a node's outputs after an input, and checks everything.
    pub fn collect(&mut self, id: NodeId) -> Vec<Envelope> {
        let node = self.nodes.get_mut(&id).unwrap();
        node.drain();
        let sent = node.transmits();
        self.send(id, sent)
    }

    /// Fills the appends that a node held, and collects what comes of it.
    pub fn fill(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).unwrap();
        let sent = node.fill_held(now);
        self.send(id, sent);
        self.collect(id);
    }

    fn send(&mut self, from: NodeId, messages: Vec<(NodeId, Message)>) -> Vec<Envelope> {
        let node = self.nodes.get_mut(&from).unwrap();
        let uncounted = node.core.is_uncounted();
        let mut sent = Vec::new();
        for (to, message) in messages {
            let line = story::message(&message);
            let name = story::name(node);
            node.story.push(format!("{name} → {to} {line}"));
            sent.push(Envelope {
                from,
                to,
                uncounted,
                message,
            });
        }
        self.network.extend(sent.iter().cloned());
        self.invariants.check(&self.nodes, from, &sent);
        sent
    }

    /// Delivers a message to its receiver, if that runs.
    pub fn deliver(&mut self, envelope: &Envelope) -> Vec<Envelope> {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&envelope.to) else {
            return Vec::new();
        };
        if !node.is_up {
            return Vec::new();
        }
        node.receive(now, envelope);
        self.collect(envelope.to)
    }

    /// Makes the oldest persist of a node durable; returns its id.
    pub fn persist_one(&mut self, id: NodeId) -> Option<PersistId> {
        let now = self.now;
        let node = self.nodes.get_mut(&id)?;
        let done = node.persist_one(now)?;
        self.collect(id);
        Some(done)
    }

    /// The snapshot that a node was offered arrives there.
    pub fn fetch(&mut self, id: NodeId) -> Option<LogPosition> {
        let now = self.now;
        let node = self.nodes.get_mut(&id)?;
        if !node.is_up {
            return None;
        }
        let position = node.fetch(now, self.invariants.committed())?;
        self.fetched += 1;
        self.collect(id);
        Some(position)
    }

    /// Fires a node's timers as of now.
    pub fn tick(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).unwrap();
        if node.is_up {
            node.core.handle_timeout(now);
            self.collect(id);
        }
    }

    /// Delivers and persists everything until nothing is left to do, without letting time pass.
    /// `passes` decides which messages arrive.
    pub fn settle_if(&mut self, passes: impl Fn(&Envelope) -> bool) {
        for _ in 0..100_000 {
            if !self.network.is_empty() {
                let envelope = self.network.remove(0);
                if passes(&envelope) {
                    self.deliver(&envelope);
                }
                continue;
            }
            let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
            let mut progressed = false;
            for id in ids {
                progressed |= self.persist_one(id).is_some();
                progressed |= self.fetches && self.fetch(id).is_some();
            }
            if !progressed {
                return;
            }
        }
        panic!("a cluster does not come to rest");
    }

    pub fn settle(&mut self) {
        self.settle_if(|_| true);
    }

    /// Lets time pass in steps to each next timer, settling in between.
    pub fn run_for_if(&mut self, ms: u64, passes: impl Fn(&Envelope) -> bool) {
        let end = self.now.plus_ms(ms);
        for _ in 0..1_000_000 {
            let running = self.nodes.iter().filter(|(_, node)| node.is_up);
            let next = running
                .filter_map(|(id, node)| Some((node.core.poll_timeout()?, *id)))
                .min();
            match next {
                Some((deadline, id)) if deadline <= end => {
                    self.now = self.now.max(deadline);
                    self.tick(id);
                    self.settle_if(&passes);
                }
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("timers fire forever");
    }

    pub fn run_for(&mut self, ms: u64) {
        self.run_for_if(ms, |_| true);
    }

    /// Makes this node campaign now, and everybody else wait.
    pub fn elect(&mut self, id: u64) {
        // Leases of an old leader run out.
        let patience_ms = self.node(id).core.config().election_timeout_ms_min;
        self.now = self.now.plus_ms(patience_ms);
        self.campaign(id);
        self.settle();
        assert_eq!(self.node(id).core.role(), raft_core::Role::Leader);
    }

    /// Fires this node's election timer, without delivering anything.
    pub fn campaign(&mut self, id: u64) {
        let node = self.nodes.get_mut(&NodeId(id)).unwrap();
        let deadline = node.core.poll_timeout().unwrap().max(self.now);
        self.now = deadline;
        self.tick(NodeId(id));
    }

    /// Proposes at a node; returns the index.
    pub fn propose(&mut self, id: u64, payload: &str) -> u64 {
        let now = self.now;
        let index = self.node(id).propose(now, payload).unwrap();
        self.collect(NodeId(id));
        index.0
    }

    pub fn restart(&mut self, id: u64) {
        let now = self.now;
        self.node(id).restart(now);
        self.invariants.node_restarted(NodeId(id));
        self.collect(NodeId(id));
    }

    /// Starts a node with an empty data directory.
    pub fn wipe(&mut self, id: u64) {
        let now = self.now;
        self.invariants.node_wiped(NodeId(id));
        self.node(id).wipe(now);
        self.invariants.node_restarted(NodeId(id));
        self.collect(NodeId(id));
    }

    pub fn leader(&self) -> Option<NodeId> {
        let leading = self
            .nodes
            .values()
            .filter(|node| node.is_up && node.core.role() == raft_core::Role::Leader);
        leading
            .max_by_key(|node| node.core.term())
            .map(|node| node.core.id())
    }

    /// Every node in a line, for failed expectations.
    pub fn describe(&self) -> String {
        let line = |node: &Node| {
            let core = &node.core;
            let members = core.membership();
            format!(
                "{} {:?} up {} disk {:?} base {} misses {:?} uncounted {} leader {:?} last {} durable {} commit {} voters {:?} {:?} until {:?}",
                story::name(node),
                core.role(),
                node.is_up,
                node.disk
                    .entries
                    .iter()
                    .map(|e| e.term.0)
                    .collect::<Vec<_>>(),
                core.base_position(),
                core.missing().collect::<Vec<_>>(),
                core.is_uncounted(),
                core.leader(),
                core.last_position(),
                core.durable_index(),
                core.commit_index(),
                members.voters,
                members.outgoing,
                core.poll_timeout(),
            )
        };
        let lines: Vec<String> = self.nodes.values().map(line).collect();
        format!("at {}\n{}", self.now, lines.join("\n"))
    }

    pub fn events(&mut self, id: u64) -> Vec<Event> {
        std::mem::take(&mut self.node(id).events)
    }
}

/// What a transmission says, filled with entries where it orders some.
pub fn filled(transmit: Transmit, entries: &[raft_proto::Entry]) -> (NodeId, Message) {
    match transmit {
        Transmit::Message { to, message } => (to, message),
        Transmit::Fetched(order) => {
            let found = order.entries.map_or_else(Vec::new, |range| {
                let wanted = entries.iter().filter(|entry| range.contains(entry.index));
                wanted.cloned().collect()
            });
            (order.to, order.into_response(found).into())
        }
        Transmit::Append(order) => {
            let found = match order.entries() {
                Some(range) => entries
                    .iter()
                    .filter(|entry| range.contains(entry.index))
                    .cloned()
                    .collect(),
                None => Vec::new(),
            };
            (order.to, order.into_request(found).into())
        }
    }
}
