//! The world: nodes, links, disks, clocks and clients on one agenda, one event at a time.

mod control;
mod copies;
mod describe;
mod disks;
mod door;
mod faults;
mod forming;
mod node;
mod observe;
mod operator;
mod process;
mod rare;
mod requests;
mod snapshots;
mod witness;

use std::collections::BTreeMap;
use std::future::Future;

use bytes::Bytes;
use raft_core::{Role, Time};
use raft_node::StateMachine;
use raft_node::driver::LogReadRequest;
use raft_proto::{ClusterId, LogIndex, Membership, NodeId, Term};

pub use self::faults::{CrashKind, StartFailure};
pub use self::observe::AppliedCommand;
pub use self::operator::PendingChange;
pub use self::requests::{Proposed, Ticket};

use self::control::Connections;
use self::door::Acquaintances;
use self::forming::Newcomers;
use self::node::{Node, ProcessId};
use self::observe::AppliedLog;
use self::requests::{Mailbox, Tickets};
use self::witness::Replies;
use crate::atlas::FaultAtlas;
use crate::campaign::{Task, Tasks};
use crate::checker::{LogChange, SafetyChecker};
use crate::client::{CallError, Clients, Request, SimClient, WaitId, Wish};
use crate::marks::Tally;
use crate::network::{Direction, Network, draw_arrival};
use crate::options::{ClusterOptions, Damage, LinkOptions};
use crate::queue::Agenda;
use crate::random::{Random, Stream};
use crate::trace::{Record, Trace, TraceDepth};

type MachineFactory = Box<dyn Fn(NodeId) -> Box<dyn StateMachine>>;
type Action = Box<dyn FnOnce(&mut Cluster)>;
type Witness = Box<dyn FnOnce(&Cluster)>;

/// What can happen.
enum Event {
    /// A node looks at its inbox.
    Step(ProcessId),
    /// A timer of a node may be due.
    Wake(ProcessId),
    /// A message arrives.
    Arrive(Packet),
    /// A node learns that a peer is there, or gone.
    PeerNotice(PeerNotice),
    /// A node's log write is done.
    Synced(ProcessId),
    /// A node's log has been idle since the sync of this number.
    VouchDue(ProcessId, u64),
    /// A node's applier gets to the next batch.
    Apply(ProcessId),
    /// A node has read its log.
    LogRead(ProcessId, LogReadRequest),
    /// A node is done with a job on snapshot files.
    SnapshotWork(ProcessId),
    /// A client's request arrives.
    ClientRequest {
        client: u64,
        wait: WaitId,
        node: NodeId,
        request: Request,
    },
    /// An answer arrives at a client.
    ClientReply {
        wait: WaitId,
        answer: Result<Bytes, CallError>,
    },
    /// A client's timeout or pause ends.
    ClientWake(WaitId),
    /// The scenario wanted something to happen now.
    Act(Action),
}

/// A message on its way, as bytes.
struct Packet {
    from: ProcessId,
    to: ProcessId,
    bytes: Bytes,
}

struct PeerNotice {
    observer: ProcessId,
    peer: NodeId,
    /// The peer's process, or `None` if it is gone.
    met: Option<ProcessId>,
    /// Of the connection; an older notice is void.
    generation: u64,
}

/// A simulated cluster and everything around it.
///
/// Nothing happens by itself: [`Cluster::run_for_ms`] and [`Cluster::run_until`] let virtual time
/// pass. After every event the safety properties are checked; a violation panics, and so does
/// anything that a healthy program cannot do (a log that does not open). When a test panics, the
/// seed and the latest events are printed.
pub struct Cluster {
    options: ClusterOptions,
    machines: MachineFactory,
    cluster_id: ClusterId,
    first_entry: Bytes,
    newcomers: Newcomers,
    now: Time,
    agenda: Agenda<Event>,
    nodes: BTreeMap<NodeId, Node>,
    network: Network,
    connections: Connections,
    acquaintances: Acquaintances,
    tasks: Tasks,
    clients: Clients,
    client_links: BTreeMap<u64, Random>,
    client_link_options: LinkOptions,
    mailbox: Mailbox,
    tickets: Tickets,
    /// A command and a query that any state accepts.
    probes: (Bytes, Bytes),
    checker: SafetyChecker,
    /// What state machines have just replied.
    replies: Replies,
    applied: AppliedLog,
    /// What was last recorded of each node.
    shown: BTreeMap<NodeId, (Role, Term, LogIndex)>,
    trace: Trace,
    atlas: FaultAtlas,
    tally: Tally,
    /// Nothing that was begun is ended any more.
    is_frozen: bool,
    /// Looks at the world once more before it goes.
    witness: Option<Witness>,
    random: Random,
}

impl Cluster {
    /// A formed cluster whose nodes start now, each with a state machine made by `machines`, as
    /// they do after every restart.
    ///
    /// # Panics
    /// If the options cannot work.
    pub fn new(
        options: ClusterOptions,
        machines: impl Fn(NodeId) -> Box<dyn StateMachine> + 'static,
    ) -> Self {
        let seed = options.seed;
        let voters = options.nodes;
        let ids: Vec<NodeId> = (1..=voters + options.spares).map(NodeId).collect();
        let node = |id: &NodeId| (*id, Node::new(&options, *id));
        let nodes: BTreeMap<NodeId, Node> = ids.iter().map(node).collect();
        let membership = Membership::of_voters(
            (nodes.iter().filter(|(id, _)| id.0 <= voters))
                .map(|(id, node)| (*id, node.as_member())),
        );
        let encoded = membership.to_bytes();
        let first_entry = encoded.unwrap_or_else(|error| panic!("no such cluster: {error}"));
        let mut cluster = Self {
            cluster_id: ClusterId::of_first_entry(&first_entry),
            first_entry,
            newcomers: Newcomers::default(),
            machines: Box::new(machines),
            now: Time::ZERO,
            agenda: Agenda::new(),
            nodes,
            network: Network::new(seed, &ids, options.links),
            connections: Connections::default(),
            acquaintances: Acquaintances::default(),
            tasks: Tasks::default(),
            clients: Clients::new(seed),
            client_links: BTreeMap::new(),
            client_link_options: options.client_links,
            mailbox: Mailbox::default(),
            tickets: Tickets::default(),
            probes: Default::default(),
            checker: SafetyChecker::new(),
            replies: Replies::default(),
            applied: AppliedLog::default(),
            shown: BTreeMap::new(),
            trace: Trace::new(options.trace),
            atlas: match options.damage {
                Damage::WithinAtlas => FaultAtlas::new(voters as usize),
                Damage::BeyondAtlas => FaultAtlas::without_limit(),
            },
            tally: Tally::default(),
            is_frozen: false,
            witness: None,
            random: Random::stream(seed, Stream::Scenario),
            options,
        };
        for id in ids {
            if id.0 <= voters {
                cluster.form(id);
            } else {
                cluster.newcomers.add(id);
            }
        }
        (1..=voters).for_each(|id| cluster.restart(NodeId(id)));
        cluster
    }

    /// Writes the log that forming the cluster, or joining it, leaves behind.
    fn form(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(&id) else {
            return;
        };
        let formed = node
            .disk
            .form(self.cluster_id, self.options.log, &self.first_entry);
        let write = formed.unwrap_or_else(|error| panic!("{id}: {error}"));
        let change = LogChange::Write {
            install: None,
            write,
        };
        let checked = self.checker.durable(id, &change);
        checked.unwrap_or_else(|violation| panic!("{violation}"));
    }

    /// Plays a client from now on.
    ///
    /// ```
    /// use std::cell::RefCell;
    /// use std::rc::Rc;
    ///
    /// use bytes::Bytes;
    /// use raft_node::{Applied, Small, SmallState};
    /// use raft_sim::{Cluster, ClusterOptions};
    ///
    /// struct Echo;
    /// impl SmallState for Echo {
    ///     fn apply(&mut self, applied: Applied<'_>) -> Bytes {
    ///         applied.command.clone()
    ///     }
    ///     fn query(&mut self, query: &Bytes) -> Bytes {
    ///         query.clone()
    ///     }
    ///     fn save(&self) -> Bytes {
    ///         Bytes::new()
    ///     }
    ///     fn load(&mut self, _saved: &[u8]) -> std::io::Result<()> {
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let mut cluster = Cluster::new(ClusterOptions::new(3).seed(1), |_| Small::boxed(Echo));
    /// let nodes = cluster.node_ids();
    /// let replies = Rc::new(RefCell::new(Vec::new()));
    /// let seen = Rc::clone(&replies);
    /// cluster.spawn(move |client| async move {
    ///     for attempt in 0..100 {
    ///         let node = nodes[attempt % nodes.len()];
    ///         match client.write(node, "hello".into(), 300).await {
    ///             Ok(reply) => return seen.borrow_mut().push(reply),
    ///             Err(_) => client.sleep_ms(50).await,
    ///         }
    ///     }
    /// });
    /// assert!(cluster.run_until(10_000, |cluster| cluster.clients_running() == 0));
    /// assert_eq!(*replies.borrow(), ["hello"]);
    /// ```
    pub fn spawn<F, T>(&mut self, play: F) -> u64
    where
        F: FnOnce(SimClient) -> T,
        T: Future<Output = ()> + 'static,
    {
        let id = self.clients.spawn(play);
        let link = Random::stream(self.options.seed, Stream::ClientLink(id));
        self.client_links.insert(id, link);
        self.run_clients();
        id
    }

    /// How many clients have not finished.
    #[must_use]
    pub fn clients_running(&self) -> usize {
        self.clients.running()
    }

    /// Lets this much virtual time pass.
    pub fn run_for_ms(&mut self, ms: u64) {
        self.run_until(ms, |_| false);
    }

    /// Lets virtual time pass until the condition holds, but at most `limit_ms`. Returns whether
    /// it holds. The condition is looked at after every event.
    pub fn run_until(&mut self, limit_ms: u64, condition: impl Fn(&Self) -> bool) -> bool {
        let limit = self.now.plus_ms(limit_ms);
        loop {
            if condition(self) {
                return true;
            }
            if self.agenda.next_time().is_none_or(|next| next > limit) {
                self.now = limit;
                return false;
            }
            self.step();
        }
    }

    /// Lets something happen after a pause.
    pub fn act_after_ms(&mut self, ms: u64, action: impl FnOnce(&mut Self) + 'static) {
        self.act_after_us(ms * 1_000, action);
    }

    /// The same, to the microsecond.
    pub fn act_after_us(&mut self, us: u64, action: impl FnOnce(&mut Self) + 'static) {
        let at = self.now.plus_ns(us * 1_000);
        self.agenda.schedule(at, Event::Act(Box::new(action)));
    }

    /// Has an operator do something, when there is time.
    pub(crate) fn ask_operator(&mut self, task: Task) {
        self.tasks.push(task);
    }

    pub(crate) fn take_task(&mut self) -> Option<Task> {
        self.tasks.pop()
    }

    /// Lets the next event happen.
    fn step(&mut self) {
        let Some((at, event)) = self.agenda.pop() else {
            return;
        };
        assert!(at >= self.now, "time does not go back");
        self.now = at;
        let Some(event) = self.hold_back(event) else {
            return;
        };
        match event {
            Event::Step(process) => self.step_process(process),
            Event::Wake(process) => self.wake_process(process),
            Event::Arrive(packet) => self.arrive(&packet),
            Event::PeerNotice(notice) => self.notify_peer(notice),
            Event::Synced(process) => self.finish_sync(process),
            Event::VouchDue(process, syncs) => self.vouch(process, syncs),
            Event::Apply(process) => self.apply_next(process),
            Event::LogRead(process, request) => self.finish_log_read(process, request),
            Event::SnapshotWork(process) => self.finish_snapshot_job(process),
            Event::ClientRequest {
                client,
                wait,
                node,
                request,
            } => self.take_client_request((client, wait), node, request),
            Event::ClientReply { wait, answer } => self.clients.answer(wait, answer),
            Event::ClientWake(wait) => self.clients.time_passed(wait),
            Event::Act(action) => action(self),
        }
        self.deliver_answers();
        self.run_clients();
    }

    fn run_clients(&mut self) {
        for wish in self.clients.run(self.now) {
            match wish {
                Wish::Wake { wait, at } => self.agenda.schedule(at, Event::ClientWake(wait)),
                Wish::Send {
                    wait,
                    client,
                    node,
                    request,
                } => {
                    let event = Event::ClientRequest {
                        client,
                        wait,
                        node,
                        request,
                    };
                    self.travel(client, Direction::Request, event);
                }
            }
        }
    }

    /// Sends something between a client and a node.
    fn travel(&mut self, client: u64, direction: Direction, event: Event) {
        let options = self.client_link_options;
        let Some(link) = self.client_links.get_mut(&client) else {
            return;
        };
        if let Some(at) = draw_arrival(link, &options, self.now, direction) {
            self.agenda.schedule(at, event);
        }
    }

    fn record(
        &mut self,
        node: NodeId,
        what: &'static str,
        name: &'static str,
        numbers: &[(&'static str, u64)],
    ) {
        let mut padded = [("", 0); 4];
        padded[..numbers.len()].copy_from_slice(numbers);
        self.trace.add(Record {
            time: self.now,
            node: node.0,
            what,
            name,
            numbers: padded,
        });
    }

    /// Virtual time since the world began.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// The scenario's own stream of random numbers.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// A hash over everything that happened; equal for equal options and scenarios.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.trace.digest()
    }

    /// How many things happened.
    #[must_use]
    pub fn trace_len(&self) -> u64 {
        self.trace.count()
    }

    /// Chooses how much of the trace is kept from now on.
    pub fn set_trace_depth(&mut self, depth: TraceDepth) {
        self.trace.set_depth(depth);
    }

    /// Lets somebody look at the world once more when it is dropped, instead of printing the latest
    /// events if that is because of a panic.
    pub(crate) fn set_witness(&mut self, witness: impl FnOnce(&Self) + 'static) {
        self.witness = Some(Box::new(witness));
    }

    /// The longest election timeout of the nodes, in milliseconds.
    #[must_use]
    pub fn longest_election_timeout_ms(&self) -> u64 {
        self.options.core.election_timeout_ms_max
    }

    /// What happened lately, oldest first.
    pub fn recent(&self) -> impl Iterator<Item = &Record> {
        self.trace.recent()
    }
}

impl Drop for Cluster {
    /// Whoever finds a failing run needs its seed and how it ended.
    fn drop(&mut self) {
        if let Some(witness) = self.witness.take() {
            return witness(self);
        }
        if std::thread::panicking() {
            self.trace.recent().for_each(|record| eprintln!("{record}"));
            let (seed, ms) = (self.options.seed, self.now.as_ms());
            eprintln!("failed after {ms} ms of virtual time with seed {seed}");
        }
    }
}
