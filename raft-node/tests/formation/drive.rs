//! What makes the world go on: disks complete, time passes, everything heals.

use std::collections::BTreeMap;

use raft_node::formation::RETRY_MS;
use raft_proto::NodeId;

use crate::world::{Delivery, Life, Process, World};

/// Rounds after which a healed world must have come to rest.
const SETTLE_ROUNDS: usize = 60;
/// How often a supervisor starts a node that failed, while the world settles.
const RESTARTS: u32 = 4;

impl World {
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
