//! The way in: what a transport tells its node, and the door where peers are admitted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_log::DataDir;
use raft_proto::{
    Boot, ClusterId, Hello, Incarnation, Membership, Message, NodeId, ProtocolVersion, Refusal,
    Versions,
};
use thiserror::Error;

use crate::admission::{Admission, BOOTS_RECORD, Standing, Vantage, Verdict, explain};
use crate::driver::Input;
use crate::error::FatalError;
use crate::formation::{FORMATION_RECORD, FormedResponder, InitialVoters};
use crate::inbox::{Inbox, Notice};
use crate::refusals::{News, Refusals, RefusedBy};

/// A message was dropped because too much waits for the node, or it has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the node takes no more messages at the moment")]
pub struct NotDelivered;

/// What this node is at the moment, which decides whom it admits.
enum OwnStanding {
    Forming(InitialVoters),
    Joining,
    /// Its directory belongs to a cluster; the log that names the members is not open yet.
    Opening(ClusterId),
    Formed {
        cluster: ClusterId,
        membership: Membership,
        /// Whom the node follows; itself if it leads.
        leader: Option<NodeId>,
    },
}

impl OwnStanding {
    fn borrowed(&self, node: NodeId, incarnation: Incarnation) -> Standing<'_> {
        match self {
            Self::Forming(voters) => Standing::Forming(voters),
            Self::Joining => Standing::Joining,
            Self::Opening(cluster) => Standing::Opening { cluster: *cluster },
            Self::Formed {
                cluster,
                membership,
                leader,
            } => Standing::Formed {
                cluster: *cluster,
                membership,
                vantage: Vantage::of(membership, node, incarnation, *leader),
            },
        }
    }
}

/// What admits peers.
struct Door {
    admission: Admission,
    /// `None` once the node has stopped: the directory may be somebody else's by then.
    directory: Option<Arc<DataDir>>,
}

struct Inner {
    inbox: Arc<Inbox>,
    node: NodeId,
    incarnation: Incarnation,
    boot: Boot,
    versions: Versions,
    /// Held for look-ups and changes only, so that the main thread never waits for a disk.
    standing: Mutex<OwnStanding>,
    /// Held while a record is made durable; only blocking threads take it.
    door: Mutex<Door>,
    /// The latest hello that was admitted from each peer.
    hellos: Mutex<BTreeMap<NodeId, Hello>>,
    /// Whose boot of which life is at the other end of each connection.
    connected: Mutex<BTreeMap<NodeId, (Incarnation, Boot)>>,
    refusals: Arc<Refusals>,
}

/// A node's end for its transport. Cheap to clone.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

impl Link {
    /// A node whose directory belongs to a cluster names it from its first hello on: a peer that
    /// knew it as a member would otherwise take it for one that has forgotten its cluster.
    pub(crate) fn new(
        directory: Arc<DataDir>,
        inbox: Arc<Inbox>,
        versions: Versions,
        refusals: Arc<Refusals>,
    ) -> Result<Self, FatalError> {
        let read = |name| {
            let record = directory.read_record(name);
            record.map_err(|error| FatalError::Directory(Arc::new(error)))
        };
        let admission = Admission::new(directory.node(), read(BOOTS_RECORD)?.as_deref())
            .map_err(|error| FatalError::Formation(error.to_string()))?;
        let formation = read(FORMATION_RECORD)?;
        let cluster = formation.as_deref().map(FormedResponder::cluster_of_record);
        let cluster = cluster
            .transpose()
            .map_err(|error| FatalError::Formation(error.to_string()))?;
        let standing = match cluster.flatten() {
            Some(cluster) => OwnStanding::Opening(cluster),
            None => OwnStanding::Joining,
        };
        Ok(Self(Arc::new(Inner {
            inbox,
            node: directory.node(),
            incarnation: directory.incarnation(),
            boot: directory.boot(),
            versions,
            standing: Mutex::new(standing),
            door: Mutex::new(Door {
                admission,
                directory: Some(directory),
            }),
            hellos: Mutex::default(),
            connected: Mutex::default(),
            refusals,
        })))
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// The life of its data directory.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.0.incarnation
    }

    /// This start of it.
    #[must_use]
    pub fn boot(&self) -> Boot {
        self.0.boot
    }

    /// The cluster it belongs to, for its hello.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        match &*lock(&self.0.standing) {
            OwnStanding::Opening(cluster) | OwnStanding::Formed { cluster, .. } => Some(*cluster),
            OwnStanding::Forming(_) | OwnStanding::Joining => None,
        }
    }

    /// This node's hello to a peer.
    #[must_use]
    pub fn hello(&self, receiver: NodeId) -> Hello {
        Hello {
            cluster: self.cluster(),
            node: self.node(),
            incarnation: self.incarnation(),
            boot: self.boot(),
            receiver,
            versions: self.versions(),
        }
    }

    /// The versions of the protocol that this node speaks.
    #[must_use]
    pub fn versions(&self) -> Versions {
        self.0.versions
    }

    /// Decides whether a peer is welcome; the transport has verified that `hello.node` is who is
    /// at the other end. Makes the peer's boot durable first, so it blocks: not for a thread that
    /// serves anything else.
    ///
    /// # Errors
    /// The refusal to tell the peer.
    pub fn admit(&self, hello: &Hello) -> Result<(), Refusal> {
        let versions = self.versions();
        if versions.in_common(hello.versions).is_none() {
            return Err(Refusal::NoCommonVersion { versions });
        }
        let mut door = lock(&self.0.door);
        let Some(directory) = door.directory.clone() else {
            return Err(Refusal::Unavailable);
        };
        let verdict = {
            let standing = lock(&self.0.standing);
            let standing = standing.borrowed(self.0.node, self.0.incarnation);
            door.admission.admit(hello.node, hello, standing)
        };
        match verdict {
            Verdict::Refuse(refusal) => {
                let (node, peer) = (self.node().0, hello.node.0);
                tracing::warn!(node, peer, ?refusal, "a peer is refused");
                Err(refusal)
            }
            Verdict::Admit { record } => {
                if let Some(record) = record {
                    self.write_boots(&directory, &record)?;
                }
                lock(&self.0.hellos).insert(hello.node, hello.clone());
                Ok(())
            }
        }
    }

    /// Hands over a peer's message. Does not block.
    ///
    /// # Errors
    /// [`NotDelivered`]; dropping the message is fine.
    pub fn deliver(
        &self,
        from: NodeId,
        uncounted: bool,
        message: Message,
    ) -> Result<(), NotDelivered> {
        let input = Input::Message {
            from,
            uncounted,
            message,
        };
        self.0.inbox.push_message(input).map_err(|_| NotDelivered)
    }

    /// A peer that was admitted is connected: this boot of this life of its data directory. Does
    /// not block.
    pub fn peer_up(&self, peer: NodeId, incarnation: Incarnation, boot: Boot) {
        lock(&self.0.connected).insert(peer, (incarnation, boot));
        self.0.refusals.forget(peer);
        self.push_peer_up(peer, incarnation, boot);
    }

    fn push_peer_up(&self, peer: NodeId, incarnation: Incarnation, boot: Boot) {
        let hello = self.hello_of(peer);
        let common = hello.and_then(|hello| self.versions().in_common(hello.versions));
        let input = Input::PeerUp {
            peer,
            incarnation,
            boot,
            // Whoever is connected has said hello.
            version: common.unwrap_or(ProtocolVersion::OLDEST),
        };
        self.0.inbox.push_notice(Notice::Input(input));
    }

    /// Tells again who is connected: what came in while nobody listened was dropped.
    pub(crate) fn repeat_peers(&self) {
        let connected = lock(&self.0.connected).clone();
        for (peer, (incarnation, boot)) in connected {
            self.push_peer_up(peer, incarnation, boot);
        }
    }

    /// A peer's connection is gone. Does not block.
    pub fn peer_down(&self, peer: NodeId) {
        lock(&self.0.connected).remove(&peer);
        let input = Input::PeerDown { peer };
        self.0.inbox.push_notice(Notice::Input(input));
    }

    /// A peer refuses this node. Does not block.
    pub fn refused(&self, peer: NodeId, refusal: &Refusal) {
        if !self.asks(peer) {
            // A stranger that turned up: it belongs elsewhere, and this node wants nothing of it.
            return;
        }
        let (node, why) = (self.node(), explain(refusal, self.node(), peer));
        match self.0.refusals.note(peer, refusal) {
            News::First => tracing::warn!(node = node.0, peer = peer.0, "{why}"),
            News::Repeated => tracing::debug!(node = node.0, peer = peer.0, "{why}"),
        }
        let refusal = refusal.clone();
        self.0.inbox.push_notice(Notice::Refused { peer, refusal });
    }

    /// Whether it matters to this node if that peer admits it.
    fn asks(&self, peer: NodeId) -> bool {
        match &*lock(&self.0.standing) {
            OwnStanding::Formed { membership, .. } => {
                membership.contains(peer) || !membership.contains(self.0.node)
            }
            OwnStanding::Forming(_) | OwnStanding::Joining | OwnStanding::Opening(_) => true,
        }
    }

    /// Whether both are the same node's, in the same life.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn hello_of(&self, peer: NodeId) -> Option<Hello> {
        lock(&self.0.hellos).get(&peer).cloned()
    }

    pub(crate) fn hellos(&self) -> Vec<Hello> {
        lock(&self.0.hellos).values().cloned().collect()
    }

    /// What the node belongs to is not known otherwise, so it forms a cluster of these voters.
    pub(crate) fn set_forming(&self, voters: InitialVoters) {
        let mut standing = lock(&self.0.standing);
        if matches!(*standing, OwnStanding::Joining) {
            *standing = OwnStanding::Forming(voters);
        }
    }

    /// Refusals of nobody but these count from now on.
    pub(crate) fn retain_refusals(&self, peers: &[(NodeId, String)]) {
        self.0.refusals.retain(peers);
    }

    /// The refusals that end the part of this boot in its cluster; empty if there is hope.
    pub(crate) fn refusals_for_good(&self, membership: &Membership) -> Vec<RefusedBy> {
        let refusals = &self.0.refusals;
        refusals.for_good(self.node(), self.boot(), membership)
    }

    pub(crate) fn set_formed(&self, cluster: ClusterId, membership: Membership) {
        let mut standing = lock(&self.0.standing);
        let leader = match &*standing {
            OwnStanding::Formed { leader, .. } => *leader,
            OwnStanding::Forming(_) | OwnStanding::Joining | OwnStanding::Opening(_) => None,
        };
        *standing = OwnStanding::Formed {
            cluster,
            membership,
            leader,
        };
    }

    /// The node follows this leader from now on, or none; it has been formed before.
    pub(crate) fn set_leader(&self, now: Option<NodeId>) {
        if let OwnStanding::Formed { leader, .. } = &mut *lock(&self.0.standing) {
            *leader = now;
        }
    }

    /// The peer has adopted the first entry: from now on it belongs to the cluster. Blocks.
    pub(crate) fn note_adopted(&self, peer: NodeId, incarnation: Incarnation) {
        let mut door = lock(&self.0.door);
        let Some(directory) = door.directory.clone() else {
            return;
        };
        if let Some(record) = door.admission.note_adopted(peer, incarnation) {
            // On an error the node stops; there is nobody to refuse.
            let _ = self.write_boots(&directory, &record);
        }
    }

    /// Lets go of the data directory, after what is being written to it: a transport may hold the
    /// link for longer.
    pub(crate) fn close(&self) {
        lock(&self.0.door).directory = None;
    }

    /// Only while the door is locked, so that [`Link::close`] waits for it.
    fn write_boots(&self, directory: &DataDir, record: &[u8]) -> Result<(), Refusal> {
        let written = directory.write_record(BOOTS_RECORD, record);
        written.map_err(|error| {
            let error = FatalError::Directory(Arc::new(error));
            self.0.inbox.push_notice(Notice::Failed(error));
            Refusal::Unavailable
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that could panic halfway through a change runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
