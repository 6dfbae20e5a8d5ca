//! A cluster of `raft-core` in one thread, with the buffers that a driver keeps: messages are handed
//! over directly, writes take no time.

use std::collections::VecDeque;

use bytes::Bytes;
use raft_core::{
    Commit, Config, ENTRY_OVERHEAD_BYTES, EntryBuffer, Fill, MessageId, RaftCore, Recovered, Role,
    Time, Transmit,
};
use raft_proto::{Boot, Entry, EntryKind, LogIndex, Member, Membership, Message, NodeId};

/// Entries that a node keeps at least; older ones are dropped.
pub const KEPT_ENTRIES: u64 = 4096;

/// A cluster whose messages and writes take no time.
pub struct Cluster {
    nodes: Vec<Node>,
    network: VecDeque<(NodeId, NodeId, Message)>,
    now: Time,
    payload: Bytes,
}

struct Node {
    core: RaftCore,
    buffer: EntryBuffer,
    messages: u64,
    applied: LogIndex,
    applied_bytes: u64,
}

impl Cluster {
    /// A cluster led by its first node, whose commands are all this one.
    ///
    /// # Panics
    /// If the size is no possible one.
    #[must_use]
    pub fn new(size: u64, payload: Bytes) -> Self {
        let member = |id| {
            let address = format!("127.0.0.1:{}", 7000 + id);
            let incarnation = None;
            (
                NodeId(id),
                Member {
                    incarnation,
                    address,
                },
            )
        };
        let membership = Membership::of_voters((1..=size).map(member));
        let boot = Boot {
            counter: 1,
            nonce: 7,
        };
        let first = membership.to_bytes().expect("a small membership encodes");
        let recovered = Recovered::bootstrap(membership, boot).expect("as above");
        let cost = payload.len() as u64 + ENTRY_OVERHEAD_BYTES;
        let node = |id| {
            let core = RaftCore::new(Config::new(NodeId(id)), recovered.clone(), Time::ZERO);
            let mut buffer = EntryBuffer::new(KEPT_ENTRIES * cost);
            buffer.insert(Entry {
                index: LogIndex::FIRST,
                term: raft_proto::Term(1),
                kind: EntryKind::Membership,
                payload: first.clone(),
            });
            Node {
                core: core.expect("the defaults are valid"),
                buffer,
                messages: 0,
                applied: LogIndex::ZERO,
                applied_bytes: 0,
            }
        };
        let mut cluster = Self {
            nodes: (1..=size).map(node).collect(),
            network: VecDeque::new(),
            now: Time::ZERO,
            payload,
        };
        cluster.elect();
        cluster
    }

    fn elect(&mut self) {
        let deadline = self.nodes[0].core.poll_timeout();
        self.now = deadline.expect("a follower waits for its election timeout");
        self.nodes[0].core.handle_timeout(self.now);
        self.nodes[0].drain(self.now, None, &mut self.network);
        self.deliver();
        assert_eq!(self.nodes[0].core.role(), Role::Leader);
    }

    /// Proposes so many commands at once and delivers until nothing is left to do; returns how
    /// many were committed.
    ///
    /// # Panics
    /// If not all were.
    pub fn commit(&mut self, batch: u64) -> u64 {
        let leader = &mut self.nodes[0];
        let before = leader.core.commit_index();
        for _ in 0..batch {
            let position = leader.core.propose(self.now, self.payload.len() as u32);
            let position = position.expect("an idle leader takes proposals");
            leader.buffer.insert(Entry {
                index: position.index,
                term: position.term,
                kind: EntryKind::Command,
                payload: self.payload.clone(),
            });
        }
        leader.drain(self.now, None, &mut self.network);
        self.deliver();
        let committed = self.nodes[0].core.commit_index().since(before);
        assert_eq!(committed, batch, "everything proposed is committed");
        committed
    }

    /// The last command as each node holds it.
    pub fn last_payloads(&self) -> impl Iterator<Item = Option<&Bytes>> {
        let last = |node: &Node| node.buffer.last_index();
        self.nodes
            .iter()
            .map(move |node| Some(&node.buffer.get(last(node)?)?.payload))
    }

    fn deliver(&mut self) {
        while let Some((from, to, message)) = self.network.pop_front() {
            // Ids count from 1.
            self.nodes[to.0 as usize - 1].receive(self.now, from, message, &mut self.network);
        }
    }
}

impl Node {
    fn receive(
        &mut self,
        now: Time,
        from: NodeId,
        message: Message,
        network: &mut VecDeque<(NodeId, NodeId, Message)>,
    ) {
        self.messages += 1;
        let id = MessageId(self.messages);
        self.core.handle_message(now, from, false, id, &message);
        let entries = if let Message::AppendRequest(request) = message {
            Some(request.entries)
        } else {
            None
        };
        self.drain(now, entries, network);
    }

    /// Does what the core asks for, as a driver does: what is sent is filled from the buffer.
    fn drain(
        &mut self,
        now: Time,
        mut source: Option<Vec<Entry>>,
        network: &mut VecDeque<(NodeId, NodeId, Message)>,
    ) {
        while let Some(persist) = self.core.poll_persist() {
            if let Some(first) = persist.truncate_from {
                self.buffer.truncate_from(first, persist.epoch);
            }
            if persist.message.is_some() {
                for entry in source.take().into_iter().flatten() {
                    let is_written = persist.entries.is_some_and(|r| r.contains(entry.index));
                    if is_written {
                        self.buffer.insert(entry);
                    }
                }
            }
            for entry in persist.generated {
                self.buffer.insert(entry);
            }
            self.core.handle_persisted(now, persist.id);
        }
        let me = self.core.id();
        while let Some(transmit) = self.core.poll_transmit() {
            network.push_back(match transmit {
                Transmit::Message { to, message } => (me, to, message),
                Transmit::Fetched(_) => unreachable!("nobody has lost anything"),
                Transmit::Append(order) => match self.buffer.fill(&order) {
                    Fill::Found(entries) => (me, order.to, order.into_request(entries).into()),
                    Fill::Evicted | Fill::Stale => unreachable!("nobody is behind"),
                },
            });
        }
        while let Some(Commit::Entries(range)) = self.core.poll_commit() {
            for index in range.indexes() {
                let entry = self.buffer.get(index).expect("what is new is held");
                self.applied_bytes += entry.payload.len() as u64;
            }
            self.applied = range.last;
            self.core.handle_applied(now, range.last);
        }
        // What a slower peer may still need stays.
        self.buffer
            .evict(LogIndex(self.applied.0.saturating_sub(KEPT_ENTRIES)));
        while self.core.poll_event().is_some() {}
    }
}
