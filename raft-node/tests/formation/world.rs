//! A few nodes with disks that survive, processes that crash, and a network that does anything.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use raft_core::Time;
use raft_node::admission::{Admission, Standing, Verdict};
use raft_node::formation::{
    Event, FirstEntry, Formation, FormationError, FormedResponder, InitialVoters, Local, Persist,
    RETRY_MS, Start,
};
use raft_proto::{
    AdoptResponse, Boot, ClusterId, GatherOutcome, GatherRequest, Hello, Incarnation, Message,
    NodeId,
};

/// Rounds after which a healed world must have come to rest.
const SETTLE_ROUNDS: usize = 60;
/// How often a supervisor starts a node that failed, while the world settles.
const RESTARTS: u32 = 4;

/// Which messages of dead connections still arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Those of a connection that its receiver has not seen replaced, as with the real transport.
    PerConnection,
    /// All of them, at any later process of the receiver.
    Anytime,
}

/// What is left when a process dies.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) incarnation: Incarnation,
    pub(crate) boots: u64,
    pub(crate) record: Option<Bytes>,
    pub(crate) table: Option<Bytes>,
    pub(crate) log: Option<ClusterId>,
}

pub(crate) enum Life {
    Forming(Box<Formation>),
    Formed(FormedResponder),
}

pub(crate) struct Link {
    pub(crate) serial: u64,
    pub(crate) hello: Hello,
}

pub(crate) struct Process {
    pub(crate) boot: Boot,
    pub(crate) life: Life,
    pub(crate) admission: Admission,
    pub(crate) links: BTreeMap<NodeId, Link>,
    pub(crate) writing: Option<Persist>,
    pub(crate) log_to_write: Option<ClusterId>,
}

pub(crate) struct Node {
    pub(crate) start: Start,
    pub(crate) disk: Disk,
    pub(crate) process: Option<Process>,
    pub(crate) failure: Option<FormationError>,
}

#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) link: u64,
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) message: Message,
}

pub(crate) struct World {
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) network: Vec<Packet>,
    pub(crate) now: Time,
    pub(crate) delivery: Delivery,
    pub(crate) clusters: BTreeMap<ClusterId, FirstEntry>,
    /// Clusters that could have acknowledged a write.
    pub(crate) working: BTreeSet<ClusterId>,
    pub(crate) wiped: BTreeSet<(NodeId, Incarnation)>,
    pub(crate) wipes: BTreeMap<NodeId, u32>,
    /// Rare answers that were given.
    pub(crate) sent: BTreeSet<&'static str>,
    serial: u64,
}

/// The usual voters: n1 at h1:1, and so on.
pub(crate) fn voters(count: u64) -> Vec<(NodeId, String)> {
    (1..=count)
        .map(|id| (NodeId(id), format!("h{id}:1")))
        .collect()
}

pub(crate) fn n(id: u64) -> NodeId {
    NodeId(id)
}

impl World {
    /// Nodes with empty directories, none started.
    pub(crate) fn new(count: u64) -> Self {
        let mut world = Self {
            nodes: BTreeMap::new(),
            network: Vec::new(),
            now: Time::ZERO,
            delivery: Delivery::PerConnection,
            clusters: BTreeMap::new(),
            working: BTreeSet::new(),
            wiped: BTreeSet::new(),
            wipes: BTreeMap::new(),
            sent: BTreeSet::new(),
            serial: 100,
        };
        for (id, _) in voters(count) {
            world.add(id, form(id, voters(count)));
        }
        world
    }

    pub(crate) fn add(&mut self, id: NodeId, start: Start) {
        let disk = self.empty_disk();
        let node = Node {
            start,
            disk,
            process: None,
            failure: None,
        };
        self.nodes.insert(id, node);
    }

    fn empty_disk(&mut self) -> Disk {
        Disk {
            incarnation: Incarnation(self.next_serial()),
            boots: 0,
            record: None,
            table: None,
            log: None,
        }
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    pub(crate) fn is_up(&self, id: NodeId) -> bool {
        self.nodes[&id].process.is_some()
    }

    pub(crate) fn failure(&self, id: NodeId) -> String {
        let failure = self.nodes[&id].failure.as_ref();
        failure.expect("the node has failed").to_string()
    }

    /// The cluster that the node belongs to and has a log of.
    pub(crate) fn cluster(&self, id: NodeId) -> Option<ClusterId> {
        self.nodes[&id].disk.log
    }

    pub(crate) fn formation(&self, id: NodeId) -> &Formation {
        match &self.nodes[&id].process.as_ref().unwrap().life {
            Life::Forming(formation) => formation,
            Life::Formed(_) => panic!("{id} is formed"),
        }
    }

    pub(crate) fn start(&mut self, id: NodeId) {
        let now = self.now;
        let nonce = self.next_serial();
        let node = self.node(id);
        assert!(node.process.is_none());
        node.failure = None;
        node.disk.boots += 1;
        let boot = Boot {
            counter: node.disk.boots,
            nonce,
        };
        let stored = node.disk.record.clone();
        let responder = stored
            .as_deref()
            .and_then(|stored| FormedResponder::from_record(stored).unwrap());
        let life = match responder {
            Some(responder) => {
                assert_eq!(node.disk.log, Some(responder.cluster()), "log lost");
                Life::Formed(responder)
            }
            None => {
                let local = Local {
                    node: id,
                    incarnation: node.disk.incarnation,
                };
                match Formation::new(local, node.start.clone(), stored.as_deref(), now) {
                    Ok(formation) => Life::Forming(Box::new(formation)),
                    Err(error) => {
                        node.failure = Some(error);
                        return;
                    }
                }
            }
        };
        node.process = Some(Process {
            boot,
            life,
            admission: Admission::new(id, node.disk.table.as_deref()).unwrap(),
            links: BTreeMap::new(),
            writing: None,
            log_to_write: None,
        });
        self.drain(id);
    }

    pub(crate) fn start_all(&mut self) {
        for id in self.ids() {
            if !self.is_up(id) {
                self.start(id);
            }
        }
    }

    /// The process dies; what it was writing is lost.
    pub(crate) fn crash(&mut self, id: NodeId) {
        self.node(id).process = None;
    }

    /// The process dies and its directory is emptied.
    pub(crate) fn wipe(&mut self, id: NodeId) {
        let incarnation = self.nodes[&id].disk.incarnation;
        self.wiped.insert((id, incarnation));
        *self.wipes.entry(id).or_default() += 1;
        let disk = self.empty_disk();
        let node = self.node(id);
        node.process = None;
        node.failure = None;
        node.disk = disk;
    }

    fn hello(&self, from: NodeId, to: NodeId) -> Hello {
        let node = &self.nodes[&from];
        let process = node.process.as_ref().unwrap();
        Hello {
            cluster: match &process.life {
                Life::Formed(responder) => Some(responder.cluster()),
                Life::Forming(_) => None,
            },
            node: from,
            incarnation: node.disk.incarnation,
            boot: process.boot,
            receiver: to,
        }
    }

    /// Whether `to` admits `from`. The table is durable before the answer.
    fn admit(&mut self, from: NodeId, to: NodeId) -> bool {
        let hello = self.hello(from, to);
        let now = self.now;
        let node = self.nodes.get_mut(&to).unwrap();
        let process = node.process.as_mut().unwrap();
        let standing = match (&process.life, &node.start) {
            (Life::Formed(responder), _) => Standing::Formed {
                cluster: responder.cluster(),
                membership: responder.first_entry().membership(),
            },
            (Life::Forming(_), Start::Form(voters)) => Standing::Forming(voters),
            (Life::Forming(_), Start::Join) => Standing::Joining,
        };
        match process.admission.admit(from, &hello, standing) {
            Verdict::Admit { record } => {
                if let Life::Formed(responder) = &process.life {
                    let first = responder.first_entry();
                    let is_named = first.names(from, hello.incarnation);
                    assert!(is_named, "a stranger was admitted silently: {hello:?}");
                }
                if record.is_some() {
                    node.disk.table = record;
                }
                true
            }
            Verdict::Refuse(refusal) => {
                let refused = self.node(from).process.as_mut().unwrap();
                if let Life::Forming(formation) = &mut refused.life {
                    formation.handle_refused(now, to, &refusal);
                }
                self.drain(from);
                false
            }
        }
    }

    /// A connection is made, which replaces an earlier one of the two. Both must be up.
    pub(crate) fn connect(&mut self, a: NodeId, b: NodeId) {
        if !self.admit(a, b) || !self.is_up(a) || !self.admit(b, a) || !self.is_up(b) {
            return;
        }
        let serial = self.next_serial();
        self.link_up(a, b, serial);
        self.link_up(b, a, serial);
    }

    /// `at` learns of its connection to `peer`.
    fn link_up(&mut self, at: NodeId, peer: NodeId, serial: u64) {
        if !self.is_up(peer) || !self.is_up(at) {
            return;
        }
        let hello = self.hello(peer, at);
        let incarnation = hello.incarnation;
        let process = self.node(at).process.as_mut().unwrap();
        let handed = match &mut process.life {
            Life::Forming(formation) => {
                formation.handle_peer_up(peer, incarnation);
                None
            }
            Life::Formed(responder) => {
                responder.hand_out(&hello, responder.first_entry().membership())
            }
        };
        process.links.insert(peer, Link { serial, hello });
        if let Some(message) = handed {
            self.send(at, peer, message);
        }
        self.drain(at);
    }

    pub(crate) fn disconnect(&mut self, at: NodeId, peer: NodeId) {
        let Some(process) = self.node(at).process.as_mut() else {
            return;
        };
        process.links.remove(&peer);
        if let Life::Forming(formation) = &mut process.life {
            formation.handle_peer_down(peer);
        }
        self.drain(at);
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        if let Message::GatherAbandoned(_) = message {
            self.sent.insert("abandoned");
        } else if let Message::GatherResponse(response) = &message {
            match response.outcome {
                GatherOutcome::Released => self.sent.insert("released"),
                GatherOutcome::Superseded => self.sent.insert("superseded"),
                GatherOutcome::Joining { .. }
                | GatherOutcome::OtherVoters { .. }
                | GatherOutcome::Formed { .. }
                | GatherOutcome::StartedToJoin => false,
            };
        }
        let process = self.nodes[&from].process.as_ref().unwrap();
        if let Some(link) = process.links.get(&to) {
            let link = link.serial;
            self.network.push(Packet {
                link,
                from,
                to,
                message,
            });
        }
    }

    /// The packet arrives, if its receiver still listens to its connection.
    pub(crate) fn deliver(&mut self, packet: Packet) {
        let Packet {
            link,
            from,
            to,
            message,
        } = packet;
        let (now, delivery) = (self.now, self.delivery);
        let Some(process) = self.node(to).process.as_mut() else {
            return;
        };
        let current = process.links.get(&from);
        if delivery == Delivery::PerConnection && current.is_none_or(|l| l.serial != link) {
            return;
        }
        match &mut process.life {
            Life::Forming(formation) => {
                formation.handle_message(now, from, &message);
            }
            Life::Formed(responder) => {
                let Some(link) = current else { return };
                let membership = responder.first_entry().membership();
                let answer = responder.respond(&link.hello, membership, &message);
                if let Message::AdoptResponse(AdoptResponse { cluster: Some(c) }) = message
                    && c == responder.cluster()
                {
                    let incarnation = link.hello.incarnation;
                    let record = process.admission.note_adopted(from, incarnation);
                    if record.is_some() {
                        self.node(to).disk.table = record;
                    }
                }
                if let Some(answer) = answer {
                    self.send(to, from, answer);
                }
            }
        }
        self.drain(to);
    }

    /// Takes what the node puts out, until it puts out nothing.
    fn drain(&mut self, id: NodeId) {
        while let Some(process) = self.node(id).process.as_mut() {
            let Life::Forming(formation) = &mut process.life else {
                return;
            };
            if let Some(persist) = formation.poll_persist() {
                assert!(process.writing.is_none());
                process.writing = Some(persist);
            } else if let Some((to, message)) = formation.poll_transmit() {
                self.assert_durable(id, to, &message);
                self.send(id, to, message);
            } else if let Some(event) = formation.poll_event() {
                self.handle_event(id, event);
            } else {
                return;
            }
        }
    }

    fn handle_event(&mut self, id: NodeId, event: Event) {
        match event {
            Event::WriteFirstEntry {
                first_entry,
                cluster,
            } => {
                let first = FirstEntry::parse(first_entry).unwrap();
                let incarnation = self.nodes[&id].disk.incarnation;
                let node = self.node(id);
                if node.start != Start::Join {
                    assert!(first.names(id, incarnation), "adopted by a stranger");
                }
                let process = node.process.as_mut().unwrap();
                process.log_to_write = Some(cluster);
                self.clusters.insert(cluster, first);
            }
            Event::Formed {
                first_entry,
                cluster,
            } => {
                let node = self.node(id);
                assert_eq!(node.disk.log, Some(cluster), "log missing");
                let responder = FormedResponder::new(first_entry).unwrap();
                let process = node.process.as_mut().unwrap();
                let membership = responder.first_entry().membership();
                let handed: Vec<_> = process
                    .links
                    .iter()
                    .filter_map(|(peer, link)| {
                        Some((*peer, responder.hand_out(&link.hello, membership)?))
                    })
                    .collect();
                let standing = Standing::Formed {
                    cluster,
                    membership,
                };
                let strangers: Vec<_> = process
                    .links
                    .iter()
                    .filter(|(_, link)| Admission::recheck(&link.hello, standing).is_some())
                    .map(|(peer, _)| *peer)
                    .collect();
                process.life = Life::Formed(responder);
                for (peer, message) in handed {
                    self.send(id, peer, message);
                }
                for peer in strangers {
                    self.disconnect(id, peer);
                    self.disconnect(peer, id);
                }
            }
            Event::Failed(error) => {
                let node = self.node(id);
                node.failure = Some(error);
                node.process = None;
            }
        }
    }

    /// What a message promises must survive the crash of its sender at this moment.
    fn assert_durable(&self, from: NodeId, to: NodeId, message: &Message) {
        let node = &self.nodes[&from];
        let local = Local {
            node: from,
            incarnation: node.disk.incarnation,
        };
        let stored = node.disk.record.as_deref();
        let mut again = Formation::new(local, node.start.clone(), stored, self.now).unwrap();
        match message {
            Message::GatherResponse(response) => {
                let Start::Form(voters) = &node.start else {
                    return;
                };
                if matches!(response.outcome, GatherOutcome::OtherVoters { .. }) {
                    return;
                }
                let request = GatherRequest {
                    incarnation: response.gatherer,
                    voters: voters.as_slice().to_vec(),
                };
                again.handle_message(self.now, to, &request.into());
                let answer = again.poll_transmit();
                let expected = match &response.outcome {
                    GatherOutcome::Released => GatherOutcome::Superseded,
                    outcome => outcome.clone(),
                };
                let Some((_, Message::GatherResponse(answer))) = answer else {
                    panic!("{from} would not answer {message:?} again");
                };
                assert_eq!(answer.outcome, expected, "{from} forgets {message:?}");
            }
            Message::GatherAbandoned(_) => {
                again.handle_peer_up(to, Incarnation(1));
                assert!(
                    !matches!(again.poll_transmit(), Some((_, Message::GatherRequest(_)))),
                    "{from} would gather again"
                );
            }
            Message::AdoptResponse(AdoptResponse {
                cluster: Some(promised),
            }) => match again.poll_event() {
                Some(Event::WriteFirstEntry { cluster, .. } | Event::Formed { cluster, .. }) => {
                    assert_eq!(cluster, *promised);
                }
                other => panic!("{from} would not belong to {promised}: {other:?}"),
            },
            _ => {}
        }
    }

    /// The disk completes the node's write; the node hears of it only if `then_told`.
    pub(crate) fn complete_write(&mut self, id: NodeId, then_told: bool) {
        let now = self.now;
        let node = self.node(id);
        let Some(process) = node.process.as_mut() else {
            return;
        };
        let Some(persist) = process.writing.take() else {
            return;
        };
        node.disk.record = Some(persist.record);
        if !then_told {
            return self.crash(id);
        }
        let Life::Forming(formation) = &mut process.life else {
            panic!("formed nodes write no record");
        };
        formation.handle_persisted(now, persist.id);
        self.drain(id);
    }

    /// The log is created; the node hears of it only if `then_told`.
    pub(crate) fn create_log(&mut self, id: NodeId, then_told: bool) {
        let node = self.node(id);
        let Some(process) = node.process.as_mut() else {
            return;
        };
        let Some(cluster) = process.log_to_write.take() else {
            return;
        };
        let existing = node.disk.log.replace(cluster);
        assert!(existing.is_none_or(|before| before == cluster));
        self.note_working();
        let node = self.node(id);
        if !then_told {
            return self.crash(id);
        }
        if let Some(Process {
            life: Life::Forming(formation),
            ..
        }) = &mut node.process
        {
            formation.handle_log_created();
        }
        self.drain(id);
    }

    /// A cluster works once a majority of its members hold its log. Two may only if a majority of
    /// one has been wiped.
    fn note_working(&mut self) {
        for (cluster, first) in &self.clusters {
            let named = |id: &NodeId| first.membership().members[id].incarnation;
            let voters = &first.membership().voters;
            let majority = voters.len() / 2 + 1;
            let holds = |id: &&NodeId| {
                let disk = &self.nodes[*id].disk;
                disk.log == Some(*cluster) && named(id) == Some(disk.incarnation)
            };
            if voters.iter().filter(holds).count() >= majority {
                self.working.insert(*cluster);
            }
        }
        let alive = |cluster: &&ClusterId| {
            let first = &self.clusters[*cluster];
            let wiped = |id: &&NodeId| {
                let named = first.membership().members[*id].incarnation;
                named.is_some_and(|named| self.wiped.contains(&(**id, named)))
            };
            let voters = &first.membership().voters;
            voters.iter().filter(wiped).count() <= voters.len() / 2
        };
        let working: Vec<_> = self.working.iter().filter(alive).collect();
        assert!(working.len() <= 1, "two clusters work: {working:?}");
    }

    /// No two directories that exist belong to different clusters.
    pub(crate) fn assert_one_cluster(&self) {
        let logs: BTreeSet<_> = self.nodes.values().filter_map(|n| n.disk.log).collect();
        assert!(logs.len() <= 1, "two clusters have members: {logs:?}");
    }

    pub(crate) fn tick(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        let now = self.now;
        for id in self.ids() {
            if let Some(Process {
                life: Life::Forming(formation),
                ..
            }) = &mut self.node(id).process
            {
                while let Some(due) = formation.poll_timeout().filter(|due| *due <= now) {
                    formation.handle_timeout(now);
                    assert!(
                        formation.poll_timeout() != Some(due),
                        "a timer that never moves"
                    );
                }
            }
            self.drain(id);
        }
    }

    /// Delivers and completes everything, in order, until nothing moves.
    pub(crate) fn run(&mut self) {
        for _ in 0..1000 {
            let packets = std::mem::take(&mut self.network);
            let mut idle = packets.is_empty();
            for packet in packets {
                self.deliver(packet);
            }
            for id in self.ids() {
                let process = self.node(id).process.as_ref();
                idle &= process.is_none_or(|p| p.writing.is_none() && p.log_to_write.is_none());
                self.complete_write(id, true);
                self.create_log(id, true);
            }
            if idle {
                return;
            }
        }
        panic!("messages without end");
    }

    /// Connects every pair that is up and has no common connection.
    pub(crate) fn connect_all(&mut self) {
        let ids = self.ids();
        for (position, &a) in ids.iter().enumerate() {
            for &b in &ids[position + 1..] {
                let link = |at: NodeId, to: NodeId| {
                    let process = self.nodes[&at].process.as_ref();
                    process.and_then(|p| p.links.get(&to)).map(|l| l.serial)
                };
                let linked = link(a, b).is_some() && link(a, b) == link(b, a);
                if self.is_up(a) && self.is_up(b) && !linked {
                    self.connect(a, b);
                }
            }
        }
    }

    /// Everything works from now on: nodes that are down start, and those that fail are started
    /// a few times again, as a supervisor would.
    pub(crate) fn settle(&mut self) {
        self.delivery = Delivery::PerConnection;
        let mut restarts: BTreeMap<NodeId, u32> = BTreeMap::new();
        for _ in 0..SETTLE_ROUNDS {
            for id in self.ids() {
                let count = restarts.entry(id).or_default();
                if self.nodes[&id].process.is_none() && *count < RESTARTS {
                    *count += 1;
                    self.start(id);
                }
            }
            self.connect_all();
            self.run();
            self.tick(RETRY_MS);
        }
    }
}

pub(crate) fn form(local: NodeId, voters: Vec<(NodeId, String)>) -> Start {
    Start::Form(InitialVoters::new(local, voters).unwrap())
}
