//! Gives three consensus cores arbitrary sequences of the inputs that a driver may give them: messages
//! late, twice and never, time, writes that become durable one by one or only their term, crashes in
//! between, full and stalled disks, proposals, transfers, reads.
//!
//! Apart from not panicking: a term has one leader (§5.2), a node votes once in a term whatever it has
//! forgotten, what is committed is the same everywhere (§5.4.3), and later leaders have it (§5.4).

use std::collections::{BTreeMap, VecDeque};

use raft_core::{
    AppendOrder, Commit, Config, MessageId, Persist, PersistId, RaftCore, ReadId, Recovered, Role,
    Time, Transmit,
};
use raft_proto::{
    Boot, Entry, EntryKind, HardState, LogIndex, Member, Membership, Message, NodeId, Term, TermRun,
};

use super::input::Input;

/// How many steps one input may make.
const MOST_STEPS: usize = 600;
/// How many messages are on the way at most; older ones are lost.
const MOST_MESSAGES: usize = 48;
const HEARTBEAT_MS: u64 = 10;
const NODES: usize = 3;

/// What an input has led to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reached {
    /// Terms that had a leader.
    pub leaders: usize,
    /// Entries that were committed.
    pub committed: usize,
}

/// Runs one input.
pub fn run(data: &[u8]) -> Reached {
    let mut input = Input(data);
    let mut world = World::new();
    for _ in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
        world.check();
    }
    Reached {
        leaders: world.leaders.len(),
        committed: world.committed.len() - 1,
    }
}

/// What survives a crash.
#[derive(Clone)]
struct Disk {
    hard_state: HardState,
    entries: Vec<Entry>,
}

struct Node {
    core: RaftCore,
    now: Time,
    disk: Disk,
    /// Entries that the driver holds.
    log: Vec<Entry>,
    /// Writes on their way to the disk.
    writes: VecDeque<(Persist, Vec<Entry>)>,
    /// The write up to which term and vote are durable ahead of the rest.
    ahead: Option<PersistId>,
    boots: u64,
    next_message: u64,
}

struct Envelope {
    from: NodeId,
    to: NodeId,
    message: Message,
}

struct World {
    nodes: Vec<Node>,
    bag: VecDeque<Envelope>,
    leaders: BTreeMap<Term, NodeId>,
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// What was committed, and in which term at the latest.
    committed: BTreeMap<LogIndex, (Entry, Term)>,
    reads: u64,
}

impl World {
    fn new() -> Self {
        let first = first_entry();
        let disk = Disk {
            hard_state: HardState {
                term: Term(1),
                vote: None,
            },
            entries: vec![first.clone()],
        };
        let nodes = (1..=NODES as u64).map(|id| Node::boot(NodeId(id), disk.clone(), 1));
        Self {
            nodes: nodes.collect(),
            bag: VecDeque::new(),
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            committed: BTreeMap::from([(LogIndex::FIRST, (first, Term(1)))]),
            reads: 0,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let kind = input.byte();
        let which = usize::from(input.byte());
        let at = which % NODES;
        match kind {
            // What a cluster does all the time is likelier than what is rare.
            0..=129 => self.deliver(0, which),
            130..=149 => self.deliver(which, which),
            150..=209 => self.with(at, |node| node.persist()),
            210..=217 => self.with(at, |node| node.time_out()),
            218..=231 => self.with(at, |node| node.propose(u32::from(kind))),
            232..=239 => self.with(at, |node| node.persist_hard_state(which / NODES)),
            240..=242 => {
                let kept = which / NODES % 4;
                self.nodes[at].crash(kept);
            }
            243..=244 => drop(self.bag.remove(which % MOST_MESSAGES)),
            245..=247 => self.with(at, |node| {
                match which / NODES % 3 {
                    0 => node.core.handle_disk_full(node.now),
                    1 => node.core.handle_disk_stalled(node.now),
                    _ => node.now = node.now.plus_ms(HEARTBEAT_MS / 2),
                }
                node.drain(None)
            }),
            248..=250 => {
                let peer = NodeId((which / NODES % NODES) as u64 + 1);
                let boot = self.nodes[peer.0 as usize - 1].boot_of();
                self.with(at, |node| node.peer(peer, boot, kind > 248));
            }
            251..=255 => {
                self.reads += 1;
                let read = ReadId(self.reads);
                let to = NodeId((which / NODES % NODES) as u64 + 1);
                self.with(at, |node| {
                    // Both are refused by whoever does not lead.
                    if kind < 253 {
                        let _ = node.core.read_index(node.now, read);
                    } else {
                        let _ = node.core.transfer_leadership(node.now, to);
                    }
                    node.drain(None)
                });
            }
        }
    }

    fn deliver(&mut self, which: usize, luck: usize) {
        if self.bag.is_empty() {
            return;
        }
        let at = which % self.bag.len();
        let Some(envelope) = self.bag.remove(at) else {
            return;
        };
        let to = envelope.to.0 as usize - 1;
        let sent = self.nodes[to].receive(&envelope);
        if luck.is_multiple_of(16) {
            // It arrives once more.
            self.bag.push_back(envelope);
        }
        self.send(sent);
    }

    fn with(&mut self, at: usize, act: impl FnOnce(&mut Node) -> Vec<Envelope>) {
        let sent = act(&mut self.nodes[at]);
        self.send(sent);
    }

    fn send(&mut self, sent: Vec<Envelope>) {
        for envelope in sent {
            if let Message::VoteResponse(vote) = &envelope.message
                && vote.granted
            {
                let given = self.votes.entry((envelope.from, vote.term));
                let to = *given.or_insert(envelope.to);
                assert_eq!(to, envelope.to, "a node votes once in a term");
            }
            self.bag.push_back(envelope);
        }
        while self.bag.len() > MOST_MESSAGES {
            self.bag.pop_front();
        }
    }

    fn check(&mut self) {
        for node in &mut self.nodes {
            let (id, term) = (node.core.id(), node.core.term());
            for entry in node.take_committed() {
                let known = self.committed.entry(entry.index);
                let (first, _) = known.or_insert_with(|| (entry.clone(), term));
                assert_eq!(first, &entry, "what is committed is the same everywhere");
            }
            if node.core.role() != Role::Leader {
                continue;
            }
            let leader = *self.leaders.entry(term).or_insert(id);
            assert_eq!(leader, id, "a term has one leader");
            for (entry, by) in self.committed.values() {
                let held = node.core.term_at(entry.index);
                assert!(
                    *by >= term || held == Some(entry.term),
                    "a later leader has what is committed"
                );
            }
        }
    }
}

impl Node {
    fn boot(id: NodeId, disk: Disk, boots: u64) -> Self {
        let config = Config {
            election_timeout_ms_min: 2 * HEARTBEAT_MS,
            election_timeout_ms_max: 3 * HEARTBEAT_MS,
            heartbeat_interval_ms: HEARTBEAT_MS,
            seed: id.0 * 1000 + boots,
            ..Config::new(id)
        };
        let core = RaftCore::new(config, recovered(&disk, boots), Time::ZERO);
        Self {
            core: core.expect("what was durable is consistent"),
            now: Time::ZERO,
            log: disk.entries.clone(),
            disk,
            writes: VecDeque::new(),
            ahead: None,
            boots,
            next_message: 1,
        }
    }

    fn boot_of(&self) -> Boot {
        Boot {
            counter: self.boots,
            nonce: self.boots,
        }
    }

    /// Its memory is lost, and with it all but the first writes under way.
    fn crash(&mut self, kept: usize) {
        for _ in 0..kept {
            self.write_one();
        }
        *self = Self::boot(self.core.id(), self.disk.clone(), self.boots + 1);
    }

    fn time_out(&mut self) -> Vec<Envelope> {
        if let Some(due) = self.core.poll_timeout() {
            self.now = self.now.max(due);
            self.core.handle_timeout(self.now);
        }
        self.drain(None)
    }

    fn receive(&mut self, envelope: &Envelope) -> Vec<Envelope> {
        let id = MessageId(self.next_message);
        self.next_message += 1;
        let message = &envelope.message;
        let from = envelope.from;
        self.core.handle_message(self.now, from, false, id, message);
        let source = match message {
            Message::AppendRequest(append) => Some((id, &append.entries[..])),
            _ => None,
        };
        self.drain(source)
    }

    fn propose(&mut self, payload: u32) -> Vec<Envelope> {
        if let Ok(position) = self.core.propose(self.now, 4) {
            let payload = payload.to_le_bytes().to_vec().into();
            self.put(Entry {
                index: position.index,
                term: position.term,
                kind: EntryKind::Command,
                payload,
            });
        }
        self.drain(None)
    }

    fn peer(&mut self, peer: NodeId, boot: Boot, is_up: bool) -> Vec<Envelope> {
        if peer != self.core.id() {
            match is_up {
                true => self.core.handle_peer_up(self.now, peer, boot),
                false => self.core.handle_peer_down(self.now, peer),
            }
        }
        self.drain(None)
    }

    /// The oldest write becomes durable.
    fn persist(&mut self) -> Vec<Envelope> {
        if let Some(id) = self.write_one() {
            self.core.handle_persisted(self.now, id);
        }
        self.drain(None)
    }

    /// Term and vote of one of the writes become durable ahead of all that waits.
    fn persist_hard_state(&mut self, which: usize) -> Vec<Envelope> {
        let at = which % self.writes.len().max(1);
        let found = self.writes.get(at);
        if let Some((id, hard_state)) = found.map(|(persist, _)| (persist.id, persist.hard_state))
            && self.ahead.is_none_or(|ahead| ahead < id)
        {
            self.ahead = Some(id);
            self.disk.hard_state = hard_state;
            self.core.handle_hard_state_persisted(self.now, id);
        }
        self.drain(None)
    }

    fn write_one(&mut self) -> Option<PersistId> {
        let (persist, entries) = self.writes.pop_front()?;
        if self.ahead.is_none_or(|ahead| ahead < persist.id) {
            self.disk.hard_state = persist.hard_state;
        }
        if let Some(from) = persist.truncate_from {
            self.disk.entries.truncate(before(from));
        }
        self.disk.entries.extend(entries);
        Some(persist.id)
    }

    /// Takes everything from the core, as a driver does; what is committed waits.
    fn drain(&mut self, source: Option<(MessageId, &[Entry])>) -> Vec<Envelope> {
        while let Some(persist) = self.core.poll_persist() {
            let entries = self.content_of(&persist, source);
            if let Some(from) = persist.truncate_from {
                self.log.truncate(before(from));
            }
            for entry in &entries {
                self.put(entry.clone());
            }
            self.writes.push_back((persist, entries));
        }
        while self.core.poll_event().is_some() {}
        let mut sent = Vec::new();
        while let Some(transmit) = self.core.poll_transmit() {
            let (to, message) = match transmit {
                Transmit::Message { to, message } => (to, message),
                Transmit::Append(order) => (order.to, self.fill(order)),
                Transmit::Fetched(order) => (order.to, order.into_response(Vec::new()).into()),
            };
            let from = self.core.id();
            sent.push(Envelope { from, to, message });
        }
        sent
    }

    fn take_committed(&mut self) -> Vec<Entry> {
        let mut committed = Vec::new();
        while let Some(commit) = self.core.poll_commit() {
            let Commit::Entries(range) = commit else {
                unreachable!("nobody takes snapshots");
            };
            let entries = &self.log[before(range.first)..before(range.last.next())];
            let durable = self.disk.entries.get(before(range.last));
            let last = entries.last();
            assert_eq!(durable, last, "what is committed here is durable here");
            committed.extend_from_slice(entries);
            self.core.handle_applied(self.now, range.last);
        }
        committed
    }

    fn fill(&self, order: AppendOrder) -> Message {
        let found = order.entries().map_or(&[][..], |range| {
            &self.log[before(range.first)..before(range.last.next())]
        });
        order.into_request(found.to_vec()).into()
    }

    fn content_of(&self, persist: &Persist, source: Option<(MessageId, &[Entry])>) -> Vec<Entry> {
        let Some(range) = persist.entries else {
            return Vec::new();
        };
        let sent = match (persist.message, source) {
            (Some(named), Some((id, entries))) if named == id => entries,
            (None, _) => &[],
            (Some(named), _) => panic!("a persist names {named}, which is not being handled"),
        };
        let find = |index: LogIndex| {
            let mut given = persist.generated.iter().chain(sent);
            let found = given.find(|entry| entry.index == index);
            found.unwrap_or_else(|| &self.log[before(index)]).clone()
        };
        range.indexes().map(find).collect()
    }

    fn put(&mut self, entry: Entry) {
        self.log.truncate(before(entry.index));
        assert_eq!(self.log.len(), before(entry.index), "a log has no gaps");
        self.log.push(entry);
    }
}

/// How many entries stand before an index. These logs are short.
const fn before(index: LogIndex) -> usize {
    index.0 as usize - 1
}

fn first_entry() -> Entry {
    let member = |id: u64| Member {
        incarnation: None,
        address: format!("10.0.0.{id}:7000"),
    };
    let membership = Membership::of_voters((1..=NODES as u64).map(|id| (NodeId(id), member(id))));
    Entry {
        index: LogIndex::FIRST,
        term: Term(1),
        kind: EntryKind::Membership,
        payload: membership.to_bytes().expect("a valid membership"),
    }
}

fn recovered(disk: &Disk, boots: u64) -> Recovered {
    let mut recovered = Recovered::empty(Boot {
        counter: boots,
        nonce: boots,
    });
    recovered.hard_state = disk.hard_state;
    for entry in &disk.entries {
        if recovered.term_runs.last().map(|run| run.term) != Some(entry.term) {
            recovered.term_runs.push(TermRun {
                first: entry.index,
                term: entry.term,
            });
        }
        recovered.entry_sizes.push(entry.payload.len() as u32);
        if entry.kind == EntryKind::Membership {
            let membership = Membership::from_bytes(&entry.payload);
            let membership = membership.expect("it was encoded above");
            recovered.memberships.push((entry.index, membership));
        }
        recovered.last = entry.position();
    }
    recovered
}
