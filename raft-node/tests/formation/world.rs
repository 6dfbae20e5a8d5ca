//! A few nodes with disks that survive, processes that crash, and a network that does anything.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use raft_core::Time;
use raft_node::admission::{Admission, Standing, Vantage, Verdict};
use raft_node::formation::{
    Event, FirstEntry, Formation, FormationError, FormedResponder, InitialVoters, Local, Persist,
    Start,
};
use raft_proto::{
    AdoptResponse, Boot, ClusterId, GatherOutcome, Hello, Incarnation, Message, NodeId,
};

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
            versions: raft_proto::Versions::CURRENT,
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
                vantage: Vantage::of(
                    responder.first_entry().membership(),
                    to,
                    node.disk.incarnation,
                    // Whoever has just formed hears from a leader soon.
                    Some(to),
                ),
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
    pub(crate) fn drain(&mut self, id: NodeId) {
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
                process.life = Life::Formed(responder);
                for (peer, message) in handed {
                    self.send(id, peer, message);
                }
            }
            Event::Failed(error) => {
                let node = self.node(id);
                node.failure = Some(error);
                node.process = None;
            }
        }
    }
}

pub(crate) fn form(local: NodeId, voters: Vec<(NodeId, String)>) -> Start {
    Start::Form(InitialVoters::new(local, voters).unwrap())
}
