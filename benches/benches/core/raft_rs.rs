//! raft-rs 0.7 in one thread, at its best: entries of `Bytes`, `batch_append`, one message for all
//! proposals of a batch, no extra message that only tells a commit, its own storage in memory.

use std::collections::VecDeque;

use bytes::Bytes;
use raft_rs::eraftpb::{Entry, Message, MessageType};
use raft_rs::storage::MemStorage;
use raft_rs::{Config, RawNode, StateRole};

/// After how many entries the storage is compacted: it moves all that stay.
const COMPACT_EVERY: u64 = 16 * super::KEPT_ENTRIES;

/// A cluster whose messages and writes take no time.
pub(super) struct Cluster {
    nodes: Vec<Node>,
    network: VecDeque<Message>,
    payload: Bytes,
}

struct Node {
    raw: RawNode<MemStorage>,
    applied: u64,
    applied_bytes: u64,
    compacted: u64,
}

impl Cluster {
    /// A cluster led by its first node.
    pub(super) fn new(size: u64) -> Self {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let voters: Vec<u64> = (1..=size).collect();
        let node = |id: &u64| {
            let config = Config {
                id: *id,
                batch_append: true,
                skip_bcast_commit: true,
                pre_vote: true,
                max_size_per_msg: 256 << 10,
                max_inflight_msgs: 256,
                ..Config::default()
            };
            let storage = MemStorage::new_with_conf_state((voters.clone(), Vec::new()));
            let raw = RawNode::new(&config, storage, &logger);
            Node {
                raw: raw.expect("the configuration is valid"),
                applied: 0,
                applied_bytes: 0,
                compacted: 0,
            }
        };
        let mut cluster = Self {
            nodes: voters.iter().map(node).collect(),
            network: VecDeque::new(),
            payload: super::payload(),
        };
        cluster.nodes[0].raw.campaign().expect("it may campaign");
        cluster.nodes[0].drain(&mut cluster.network);
        cluster.deliver();
        assert_eq!(cluster.nodes[0].raw.raft.state, StateRole::Leader);
        cluster
    }

    /// Proposes so many commands at once and delivers until nothing is left to do; returns how
    /// many were committed.
    pub(super) fn commit(&mut self, batch: u64) -> u64 {
        let leader = &mut self.nodes[0];
        let before = leader.raw.raft.raft_log.committed;
        let mut proposal = Message::default();
        proposal.set_msg_type(MessageType::MsgPropose);
        proposal.from = leader.raw.raft.id;
        let entry = || Entry {
            data: self.payload.clone(),
            ..Entry::default()
        };
        proposal.entries = (0..batch).map(|_| entry()).collect();
        leader
            .raw
            .raft
            .step(proposal)
            .expect("a leader takes proposals");
        leader.drain(&mut self.network);
        self.deliver();
        let committed = self.nodes[0].raw.raft.raft_log.committed - before;
        assert_eq!(committed, batch, "everything proposed is committed");
        committed
    }

    fn deliver(&mut self) {
        while let Some(message) = self.network.pop_front() {
            // Ids count from 1.
            let node = &mut self.nodes[message.to as usize - 1];
            node.raw.step(message).expect("the message is for it");
            node.drain(&mut self.network);
        }
    }
}

impl Node {
    /// Does what the library asks for, in the order that its documentation gives.
    fn drain(&mut self, network: &mut VecDeque<Message>) {
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            network.extend(ready.take_messages());
            self.apply(ready.take_committed_entries());
            let storage = self.raw.raft.raft_log.store.clone();
            if !ready.entries().is_empty() {
                let appended = storage.wl().append(ready.entries());
                appended.expect("the entries follow the log");
            }
            if let Some(hard_state) = ready.hs() {
                storage.wl().set_hardstate(hard_state.clone());
            }
            network.extend(ready.take_persisted_messages());
            let mut light = self.raw.advance(ready);
            if let Some(commit) = light.commit_index() {
                storage.wl().mut_hard_state().set_commit(commit);
            }
            network.extend(light.take_messages());
            self.apply(light.take_committed_entries());
            self.raw.advance_apply();
        }
        if self.applied > self.compacted + COMPACT_EVERY {
            let until = self.applied - super::KEPT_ENTRIES;
            let storage = self.raw.raft.raft_log.store.clone();
            storage.wl().compact(until).expect("it is applied");
            self.compacted = until;
        }
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.applied = entry.index;
            self.applied_bytes += entry.data.len() as u64;
        }
    }
}
