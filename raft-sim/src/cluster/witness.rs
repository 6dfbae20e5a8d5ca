//! Listens to the state machines: what each replies to a command must be what the others reply.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use raft_node::{Applied, StateMachine, Step};
use raft_proto::{LogIndex, NodeId};
use xxhash_rust::xxh3::xxh3_64;

use super::Cluster;

/// A reply: who gave it, to the command at which index, and a hash of it.
type Heard = (NodeId, LogIndex, u64);

/// Replies that were not compared yet.
#[derive(Clone, Default)]
pub(super) struct Replies(Arc<Mutex<Vec<Heard>>>);

impl Replies {
    fn lock(&self) -> MutexGuard<'_, Vec<Heard>> {
        // Every change is one push or take.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A state machine whose replies are noted.
struct Witnessed {
    node: NodeId,
    machine: Box<dyn StateMachine>,
    replies: Replies,
}

/// The same state machine, and its replies are noted.
pub(super) fn listen(
    node: NodeId,
    machine: Box<dyn StateMachine>,
    replies: &Replies,
) -> Box<dyn StateMachine> {
    Box::new(Witnessed {
        node,
        machine,
        replies: replies.clone(),
    })
}

impl StateMachine for Witnessed {
    fn apply(&mut self, applied: Applied<'_>) -> Bytes {
        let index = applied.index;
        let reply = self.machine.apply(applied);
        let heard = (self.node, index, xxh3_64(&reply));
        self.replies.lock().push(heard);
        reply
    }

    fn query(&mut self, query: &Bytes) -> Bytes {
        self.machine.query(query)
    }

    fn takes_long(&self, step: Step<'_>) -> bool {
        self.machine.takes_long(step)
    }

    fn state_hash(&self) -> Option<u64> {
        self.machine.state_hash()
    }

    fn begin_snapshot(&mut self) {
        self.machine.begin_snapshot();
    }

    fn snapshot_part(&mut self, max_bytes: usize) -> Option<Bytes> {
        self.machine.snapshot_part(max_bytes)
    }

    fn end_snapshot(&mut self) {
        self.machine.end_snapshot();
    }

    fn restore(&mut self, source: &mut dyn Read) -> io::Result<()> {
        self.machine.restore(source)
    }
}

impl Cluster {
    /// Compares what was replied since the last time.
    pub(super) fn check_replies(&mut self) {
        let heard = std::mem::take(&mut *self.replies.lock());
        for (node, index, hash) in heard {
            let checked = self.checker.replied(node, index, hash);
            checked.unwrap_or_else(|violation| panic!("{violation}"));
        }
    }
}
