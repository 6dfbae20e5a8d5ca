//! A network inside one process, for tests and examples of replicated state machines.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_proto::{Message, NodeId};

use crate::link::Link;
use crate::transport::{SendError, Transport, TransportBuilder};

/// Connects the nodes of one process with each other. Messages are handed over at once, in order;
/// links can be cut and healed.
///
/// ```
/// use raft_node::MemoryNetwork;
/// use raft_proto::NodeId;
///
/// let network = MemoryNetwork::new();
/// let transport = network.transport(NodeId(1));
/// network.cut(NodeId(1), NodeId(2));
/// network.heal();
/// # drop(transport);
/// ```
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    links: BTreeMap<NodeId, Link>,
    /// Pairs of nodes, the lower id first, that see each other at the moment.
    connected: BTreeSet<(NodeId, NodeId)>,
    /// Pairs that must not see each other.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Who wants to be connected with whom.
    wanted: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl MemoryNetwork {
    /// An empty network.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The transport of one node, to be given to [`crate::Raft::start`].
    #[must_use]
    pub fn transport(&self, node: NodeId) -> Box<dyn TransportBuilder> {
        Box::new(MemoryBuilder {
            network: self.clone(),
            node,
        })
    }

    /// Cuts the link between two nodes, both ways.
    pub fn cut(&self, a: NodeId, b: NodeId) {
        let mut shared = self.lock();
        shared.cut.insert(pair(a, b));
        self.reconnect(shared);
    }

    /// Cuts a node off from all others.
    pub fn isolate(&self, node: NodeId) {
        let mut shared = self.lock();
        let others: Vec<_> = shared
            .links
            .keys()
            .copied()
            .filter(|n| *n != node)
            .collect();
        shared
            .cut
            .extend(others.into_iter().map(|other| pair(node, other)));
        self.reconnect(shared);
    }

    /// Restores every link.
    pub fn heal(&self) {
        let mut shared = self.lock();
        shared.cut.clear();
        self.reconnect(shared);
    }

    /// Brings connections in line with what is wanted, cut and admitted, then tells both ends
    /// with the lock released.
    fn reconnect(&self, shared: MutexGuard<'_, Shared>) {
        let mut wanted = BTreeSet::new();
        for (node, peers) in &shared.wanted {
            let present = peers.iter().filter(|peer| shared.links.contains_key(*peer));
            wanted.extend(present.map(|peer| pair(*node, *peer)));
        }
        let allowed: BTreeSet<_> = wanted.difference(&shared.cut).copied().collect();
        let mut changes = Vec::new();
        for &(a, b) in shared.connected.symmetric_difference(&allowed) {
            let (Some(link_a), Some(link_b)) = (shared.links.get(&a), shared.links.get(&b)) else {
                changes.push((a, b, None));
                continue;
            };
            let is_up = allowed.contains(&(a, b));
            changes.push((a, b, Some((link_a.clone(), link_b.clone(), is_up))));
        }
        drop(shared);
        for (a, b, ends) in changes {
            match ends {
                Some((link_a, link_b, true)) => self.connect((a, link_a), (b, link_b)),
                Some((link_a, link_b, false)) => {
                    self.lock().connected.remove(&(a, b));
                    link_a.peer_down(b);
                    link_b.peer_down(a);
                }
                None => {
                    self.lock().connected.remove(&(a, b));
                }
            }
        }
    }

    fn connect(&self, (a, link_a): (NodeId, Link), (b, link_b): (NodeId, Link)) {
        let outcomes = [
            link_b.admit(&link_a.hello(b)),
            link_a.admit(&link_b.hello(a)),
        ];
        let [at_b, at_a] = outcomes;
        if let Err(refusal) = &at_b {
            link_a.refused(b, refusal);
        }
        if let Err(refusal) = &at_a {
            link_b.refused(a, refusal);
        }
        if at_a.is_ok() && at_b.is_ok() {
            let mut shared = self.lock();
            // Meanwhile the link may have been cut, or an end replaced or stopped.
            let is_current = |node: NodeId, link: &Link| {
                shared.links.get(&node).is_some_and(|l| l.is_same(link))
            };
            let is_wanted = !shared.cut.contains(&(a, b));
            if is_wanted && is_current(a, &link_a) && is_current(b, &link_b) {
                shared.connected.insert((a, b));
                drop(shared);
                link_a.peer_up(b, link_b.incarnation(), link_b.boot());
                link_b.peer_up(a, link_a.incarnation(), link_a.boot());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // No code that could panic runs under the lock.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

struct MemoryBuilder {
    network: MemoryNetwork,
    node: NodeId,
}

impl TransportBuilder for MemoryBuilder {
    fn start(self: Box<Self>, link: Link) -> Result<Box<dyn Transport>, String> {
        let mut shared = self.network.lock();
        shared.links.insert(self.node, link);
        // What an earlier life left behind, if it ended without a word.
        shared
            .connected
            .retain(|(a, b)| *a != self.node && *b != self.node);
        drop(shared);
        Ok(Box::new(MemoryTransport {
            network: self.network,
            node: self.node,
        }))
    }
}

struct MemoryTransport {
    network: MemoryNetwork,
    node: NodeId,
}

impl Transport for MemoryTransport {
    fn send(&self, to: NodeId, uncounted: bool, message: Message) -> Result<(), SendError> {
        let shared = self.network.lock();
        if !shared.connected.contains(&pair(self.node, to)) {
            return Err(SendError::NotConnected);
        }
        let link = shared.links.get(&to).cloned();
        drop(shared);
        let link = link.ok_or(SendError::UnknownPeer)?;
        link.deliver(self.node, uncounted, message)
            .map_err(|_| SendError::QueueFull)
    }

    fn set_peers(&self, peers: &[(NodeId, String)]) {
        let mut shared = self.network.lock();
        let ids = peers.iter().map(|(id, _)| *id).collect();
        shared.wanted.insert(self.node, ids);
        self.network.reconnect(shared);
    }

    fn shutdown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            let mut shared = self.network.lock();
            shared.links.remove(&self.node);
            shared.wanted.remove(&self.node);
            let gone: Vec<_> = shared
                .connected
                .iter()
                .filter(|(a, b)| *a == self.node || *b == self.node)
                .copied()
                .collect();
            let mut told = Vec::new();
            for (a, b) in gone {
                shared.connected.remove(&(a, b));
                let other = if a == self.node { b } else { a };
                told.extend(shared.links.get(&other).cloned());
            }
            drop(shared);
            for link in told {
                link.peer_down(self.node);
            }
        })
    }
}
