//! Nodes whose directories are new: the real formation and the members' admission decide whether
//! they belong to the cluster.
//!
//! A node that was wiped and is started as if nothing had happened is refused; one that a
//! membership names is handed the cluster's first entry. What such a node and members say to each
//! other is not lost on the way, and arrives at once if links are open both ways; formation has
//! seeds of its own for the rest, and for what two such nodes say to each other.

use std::collections::{BTreeMap, BTreeSet};

use raft_log::DataDir;
use raft_node::admission::{Admission, BOOTS_RECORD, Standing, Verdict};
use raft_node::formation::{
    Event, FORMATION_RECORD, Formation, InitialVoters, Local, RETRY_MS, Start,
};
use raft_proto::{AdoptResponse, Hello, Message, NodeId, Versions};

use super::Cluster;
use super::door::Admitted;
use super::node::ProcessId;
use crate::checker::LogChange;
use crate::marks::Mark;

/// How long what is said takes, and what is decided, in milliseconds.
const STEP_MS: u64 = 5;
/// Most things that a node does in one go.
const ACTS_MAX: usize = 64;

/// A node that belongs to no cluster.
enum Newcomer {
    /// It does not run.
    Off,
    /// It waits for the first entry.
    Waiting(Box<Forming>),
    /// It was refused, and has ended.
    Refused,
}

/// The process of a node that belongs to no cluster.
struct Forming {
    formation: Formation,
    admission: Admission,
    voters: Option<InitialVoters>,
    directory: DataDir,
    /// Whom it is connected with.
    connected: BTreeSet<ProcessId>,
}

/// How a process went on.
enum Outcome {
    Waits,
    Formed,
    Refused,
    /// Its disk failed.
    Fails,
}

/// Nodes that belong to no cluster.
#[derive(Default)]
pub(super) struct Newcomers(BTreeMap<NodeId, Newcomer>);

impl Newcomers {
    pub(super) fn add(&mut self, node: NodeId) {
        self.0.insert(node, Newcomer::Off);
    }

    pub(super) fn contains(&self, node: NodeId) -> bool {
        self.0.contains_key(&node)
    }
}

impl Cluster {
    /// Starts a node whose disk is empty; it waits for a member to hand it the first entry.
    ///
    /// # Panics
    /// If it belongs to the cluster already.
    pub fn join(&mut self, node: NodeId) {
        assert!(!self.is_formed(node), "{node} belongs to the cluster");
        self.record(node, "waits to join", "", &[]);
        self.start_forming(node, None);
    }

    /// Starts a node whose disk was wiped with the command that it was first started with, as if
    /// nothing had happened; members refuse it.
    ///
    /// # Panics
    /// If it belongs to the cluster.
    pub fn start_wiped(&mut self, node: NodeId) {
        assert!(!self.is_formed(node), "{node} belongs to the cluster");
        self.record(node, "starts", "with an empty disk", &[]);
        let voters = (1..=self.options.nodes).map(NodeId);
        let voters = voters.map(|id| (id, self.open_member(id).address));
        // Who joined later was started to join.
        let voters = InitialVoters::new(node, voters).ok();
        self.start_forming(node, voters);
    }

    /// Ends the process of a node that belongs to no cluster.
    pub fn stop_forming(&mut self, node: NodeId) {
        if let Some(newcomer) = self.newcomers.0.get_mut(&node) {
            *newcomer = Newcomer::Off;
        }
    }

    /// Whether a node was started, belongs to no cluster and has not been refused.
    #[must_use]
    pub fn is_waiting(&self, node: NodeId) -> bool {
        matches!(self.newcomers.0.get(&node), Some(Newcomer::Waiting(_)))
    }

    /// Whether a node that belongs to no cluster has ended because it was refused.
    #[must_use]
    pub fn was_refused(&self, node: NodeId) -> bool {
        matches!(self.newcomers.0.get(&node), Some(Newcomer::Refused))
    }

    fn start_forming(&mut self, node: NodeId, voters: Option<InitialVoters>) {
        self.stop_forming(node);
        let now = self.now;
        let Some(entry) = self.nodes.get(&node) else {
            return;
        };
        let start = match &voters {
            Some(voters) => Start::Form(voters.clone()),
            None => Start::Join,
        };
        let forming = entry.disk.directory().and_then(|directory| {
            let boots = directory.read_record(BOOTS_RECORD)?;
            let stored = directory.read_record(FORMATION_RECORD)?;
            let local = Local {
                node,
                incarnation: directory.incarnation(),
            };
            let formation = Formation::new(local, start, stored.as_deref(), now)?;
            Ok(Forming {
                formation,
                admission: Admission::new(node, boots.as_deref())?,
                voters,
                directory,
                connected: BTreeSet::new(),
            })
        });
        if let Ok(forming) = forming {
            let waiting = Newcomer::Waiting(Box::new(forming));
            self.newcomers.0.insert(node, waiting);
            self.act_after_ms(STEP_MS, move |cluster| cluster.tend_newcomer(node));
        }
    }

    /// Lets a node that belongs to no cluster hear and decide.
    fn tend_newcomer(&mut self, node: NodeId) {
        let Some(newcomer) = self.newcomers.0.get_mut(&node) else {
            return;
        };
        let Newcomer::Waiting(mut forming) = std::mem::replace(newcomer, Newcomer::Off) else {
            return;
        };
        // What a start has found comes before what anybody says.
        let mut outcome = self.carry_out_forming(node, &mut forming);
        if let Outcome::Waits = outcome {
            self.connect_newcomer(node, &mut forming);
            let now = self.now;
            let is_due = |due| due <= now;
            if forming.formation.poll_timeout().is_some_and(is_due) {
                forming.formation.handle_timeout(now);
            }
            outcome = self.carry_out_forming(node, &mut forming);
        }
        match outcome {
            Outcome::Waits => {
                self.newcomers.0.insert(node, Newcomer::Waiting(forming));
                self.act_after_ms(RETRY_MS / 2, move |cluster| cluster.tend_newcomer(node));
            }
            Outcome::Formed => {
                // Lets go of the directory.
                drop(forming);
                self.newcomers.0.remove(&node);
                self.record(node, "belongs", "to the cluster", &[]);
                // A disk that fails is tried again by whoever looks after processes.
                let _ = self.try_restart(node);
            }
            Outcome::Refused => {
                self.newcomers.0.insert(node, Newcomer::Refused);
                self.tally.mark(Mark::WipedNodeRefused);
                self.record(node, "is refused", "under its id", &[]);
            }
            Outcome::Fails => self.record(node, "fails", "to join", &[]),
        }
    }

    /// Brings the newcomer's connections in line with who can be reached, by hellos of both sides.
    fn connect_newcomer(&mut self, node: NodeId, forming: &mut Forming) {
        for peer in self.node_ids() {
            let reached = self.running(peer).filter(|_| {
                peer != node
                    && self.network.is_open(node, peer)
                    && self.network.is_open(peer, node)
                    && !self.is_paused(peer)
                    && !self.is_old_copy(peer)
            });
            let before = forming.connected.iter().find(|id| id.node == peer).copied();
            if before == reached {
                continue;
            }
            if let Some(gone) = before {
                forming.connected.remove(&gone);
                forming.formation.handle_peer_down(peer);
            }
            if let Some(id) = reached {
                self.greet_newcomer(node, forming, id);
            }
        }
    }

    fn greet_newcomer(&mut self, node: NodeId, forming: &mut Forming, host: ProcessId) {
        let hello = forming.hello(host.node);
        match self.admits(host, &hello) {
            Admitted::Yes => {}
            Admitted::NotNow => return,
            Admitted::No(refusal) => {
                let formation = &mut forming.formation;
                return formation.handle_refused(self.now, host.node, &refusal);
            }
        }
        let (Some(back), Some(answer)) = (self.hello(host, node), self.greeting_of(host, &hello))
        else {
            return;
        };
        let standing = match &forming.voters {
            Some(voters) => Standing::Forming(voters),
            None => Standing::Joining,
        };
        match forming.admission.admit(host.node, &back, standing) {
            Verdict::Refuse(_) => return,
            Verdict::Admit { record } => {
                let directory = &forming.directory;
                let written = record.map(|record| directory.write_record(BOOTS_RECORD, &record));
                if let Some(Err(_)) = written {
                    return;
                }
            }
        }
        forming.connected.insert(host);
        forming
            .formation
            .handle_peer_up(host.node, back.incarnation);
        if let Some(message) = answer {
            let now = self.now;
            forming.formation.handle_message(now, host.node, &message);
        }
    }

    /// What a member hands out to a newcomer that it has just admitted.
    fn greeting_of(&mut self, host: ProcessId, hello: &Hello) -> Option<Option<Message>> {
        let process = self.process(host)?;
        let membership = process.driver.core().membership();
        Some(process.door.responder.hand_out(hello, membership))
    }

    /// What a member answers to a newcomer.
    fn answer_newcomer(
        &mut self,
        host: ProcessId,
        hello: &Hello,
        message: &Message,
    ) -> Option<Message> {
        let process = self.process(host)?;
        let membership = process.driver.core().membership();
        let answer = process.door.responder.respond(hello, membership, message);
        if let Message::AdoptResponse(AdoptResponse { cluster: Some(_) }) = message {
            let admission = &mut process.door.admission;
            let record = admission.note_adopted(hello.node, hello.incarnation);
            let directory = &process.directory;
            let written = record.map(|record| directory.write_record(BOOTS_RECORD, &record));
            if let Some(Err(error)) = written {
                self.halt(host.node, &error);
            }
        }
        answer
    }

    /// Does everything that the newcomer has decided.
    fn carry_out_forming(&mut self, node: NodeId, forming: &mut Forming) -> Outcome {
        for _ in 0..ACTS_MAX {
            let now = self.now;
            if let Some((to, message)) = forming.formation.poll_transmit() {
                let host = forming.connected.iter().find(|id| id.node == to).copied();
                let hello = forming.hello(to);
                let answer = host.and_then(|host| self.answer_newcomer(host, &hello, &message));
                if let Some(answer) = answer {
                    forming.formation.handle_message(now, to, &answer);
                }
            } else if let Some(persist) = forming.formation.poll_persist() {
                let record = &persist.record;
                if forming
                    .directory
                    .write_record(FORMATION_RECORD, record)
                    .is_err()
                {
                    return Outcome::Fails;
                }
                forming.formation.handle_persisted(now, persist.id);
            } else {
                match forming.formation.poll_event() {
                    None => return Outcome::Waits,
                    Some(Event::Failed(_)) => return Outcome::Refused,
                    Some(Event::Formed { .. }) => return Outcome::Formed,
                    Some(Event::WriteFirstEntry { cluster, .. }) => {
                        assert_eq!(cluster, self.cluster_id, "there is one cluster");
                        if !self.write_first_entry(node, &forming.directory) {
                            return Outcome::Fails;
                        }
                        forming.formation.handle_log_created();
                    }
                }
            }
        }
        Outcome::Waits
    }

    /// Makes the first entry durable in a directory; says whether that worked.
    fn write_first_entry(&mut self, node: NodeId, directory: &DataDir) -> bool {
        let Some(entry) = self.nodes.get(&node) else {
            return false;
        };
        let options = self.options.log;
        let written =
            (entry.disk).begin_log(directory, self.cluster_id, options, &self.first_entry);
        let Ok(write) = written else {
            return false;
        };
        let change = LogChange::Write {
            install: None,
            write,
        };
        let checked = self.checker.durable(node, &change);
        checked.unwrap_or_else(|violation| panic!("{violation}"));
        true
    }
}

impl Forming {
    fn hello(&self, receiver: NodeId) -> Hello {
        Hello {
            cluster: None,
            node: self.directory.node(),
            incarnation: self.directory.incarnation(),
            boot: self.directory.boot(),
            receiver,
            versions: Versions::CURRENT,
        }
    }
}
