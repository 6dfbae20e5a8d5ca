//! Who may connect: compares a hello with the certificate, the membership and earlier boots.
//!
//! A member is an id **and** an incarnation, the life of its data directory. A node that comes
//! back with an empty directory is somebody else and is refused until an operator re-admits it;
//! a node that comes back with an *old copy* of its directory has forgotten promises, and is
//! recognised by its boot: a counter that grows with each start, and a nonce drawn at each start.
//! A lower counter, or the same counter with another nonce, is an old copy (or two processes on
//! two copies). So is a node that belonged to the cluster and now says that it belongs to none.
//!
//! What this module remembers must be durable **before** a hello is answered. Otherwise a crash
//! of the receiver would forget the boot it just saw and let the old copy in. If the crash comes
//! before the record is durable, the hello was not answered, and nothing was promised.
//!
//! Refused is only what is provably wrong by what is known here. A peer of the same cluster that
//! is *no* member in this node's log is admitted: this node may lag behind and that peer may be
//! its leader (§6: servers accept entries from a leader that is not in their configuration).
//! A *voter* refuses another life under the id of a member all the same: it counts by id, and two
//! lives that take turns at its door would disturb it. But only as long as it hears from a leader,
//! and so learns who is a member today. A voter without a leader may have missed that a member was
//! removed and added again, and that member may be its leader by now: it admits whoever belongs to
//! its cluster. So does a node that is no voter by its own log: one that has just joined starts with
//! the cluster's first membership, and since then every member in it may have been replaced. Safety
//! does not rest on this door: [`crate::driver`] counts no answer of a life that the membership does
//! not name.
//!
//! ```
//! use raft_node::admission::{Admission, Standing, Vantage, Verdict};
//! use raft_proto::{Boot, ClusterId, Hello, Incarnation, Member, Membership, NodeId, Refusal, Versions};
//!
//! let member = Member { incarnation: Some(Incarnation(2)), address: "127.0.0.1:7002".into() };
//! let membership = Membership::of_voters([(NodeId(2), member)]);
//! let cluster = ClusterId([1; 16]);
//! let standing = Standing::Formed { cluster, membership: &membership, vantage: Vantage::Voter };
//!
//! let mut admission = Admission::new(NodeId(1), None)?;
//! let hello = Hello {
//!     cluster: Some(cluster),
//!     node: NodeId(2),
//!     incarnation: Incarnation(2),
//!     boot: Boot { counter: 5, nonce: 77 },
//!     receiver: NodeId(1),
//!     versions: Versions::CURRENT,
//! };
//! // Welcome, once the record is durable.
//! assert!(matches!(
//!     admission.admit(NodeId(2), &hello, standing),
//!     Verdict::Admit { record: Some(_) }
//! ));
//!
//! // An old copy of the directory was started.
//! let old = Hello { boot: Boot { counter: 3, nonce: 5 }, ..hello.clone() };
//! assert_eq!(
//!     admission.admit(NodeId(2), &old, standing),
//!     Verdict::Refuse(Refusal::OldBoot { seen: hello.boot })
//! );
//! # Ok::<(), raft_node::admission::TableError>(())
//! ```

use bytes::Bytes;
use raft_proto::membership::MAX_MEMBERS;
use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{
    Boot, ClusterId, CodecError, Hello, Incarnation, Membership, NodeId, Refusal, Versions, codec,
};
use thiserror::Error;

use crate::formation::InitialVoters;

/// The record in the data directory that holds every peer's latest boot.
pub const BOOTS_RECORD: &str = "peer-boots";

/// First bytes of every table.
const MAGIC: [u8; 4] = *b"RADM";
/// The only version there is.
const VERSION: u8 = 1;
/// How many boots are remembered. Members are never forgotten; the rest are, oldest first.
pub const MAX_BOOTS: usize = 4 * MAX_MEMBERS;

/// Why stored bytes are not a table of boots.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TableError {
    /// The bytes are not what this module writes.
    #[error(
        "the table of peers' boots is damaged; restore it from a copy of this very directory, or clear the directory and re-admit the node"
    )]
    Damaged,
    /// The structured part does not decode.
    #[error(
        "the table of peers' boots is damaged ({0}); restore it from a copy of this very directory, or clear the directory and re-admit the node"
    )]
    Codec(#[from] CodecError),
    /// A newer program wrote it.
    #[error(
        "the table of peers' boots has version {0}, this program knows {VERSION}; start a newer program on this directory"
    )]
    UnsupportedVersion(u8),
}

/// What this node is at the moment, which decides whom it admits.
#[derive(Clone, Copy, Debug)]
pub enum Standing<'a> {
    /// Belongs to no cluster and waits to form one.
    Forming(&'a InitialVoters),
    /// Belongs to no cluster and waits to join one.
    Joining,
    /// Belongs to a cluster, but its log is still being opened, so it does not know the members.
    Opening {
        /// The cluster.
        cluster: ClusterId,
    },
    /// Belongs to a cluster.
    Formed {
        /// The cluster.
        cluster: ClusterId,
        /// The newest membership in this node's log.
        membership: &'a Membership,
        /// Whether this node is one of its voters.
        vantage: Vantage,
    },
}

/// From where a node looks at its membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vantage {
    /// As one of the voters that hears from a leader: it knows who the members are.
    Voter,
    /// As anybody else (a learner, a node that has only just joined, a removed one), or as a voter
    /// without a leader: its membership may be ancient.
    Onlooker,
}

impl Vantage {
    /// That of this life of a node, which follows this leader, or leads.
    #[must_use]
    pub fn of(
        membership: &Membership,
        node: NodeId,
        incarnation: Incarnation,
        leader: Option<NodeId>,
    ) -> Self {
        let member = membership.members.get(&node);
        let is_named = member.is_some_and(|m| m.incarnation.is_none_or(|own| own == incarnation));
        if is_named && membership.is_voter(node) && leader.is_some() {
            Self::Voter
        } else {
            Self::Onlooker
        }
    }
}

/// What to answer to a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Welcome. If the member's incarnation is open, the leader binds it to the hello's.
    Admit {
        /// To be made durable, in place of the record before, before the hello is answered.
        record: Option<Bytes>,
    },
    /// Answer with the refusal and close the connection.
    Refuse(Refusal),
}

/// Whether a life of a node is known to belong to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Belonging {
    Unknown,
    Formed,
}

/// The latest boot seen of one life of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    node: NodeId,
    incarnation: Incarnation,
    boot: Boot,
    belonging: Belonging,
}

/// Decides about hellos, and remembers each member's latest boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    local: NodeId,
    /// In order of first sight, so that the oldest can go.
    table: Vec<Seen>,
}

impl Admission {
    /// Starts from the last durable record.
    ///
    /// # Errors
    /// [`TableError`] if it is not usable.
    pub fn new(local: NodeId, stored: Option<&[u8]>) -> Result<Self, TableError> {
        let table = stored.map_or(Ok(Vec::new()), decode)?;
        Ok(Self { local, table })
    }

    /// Decides about a hello on a connection whose certificate names `certified`.
    pub fn admit(&mut self, certified: NodeId, hello: &Hello, standing: Standing<'_>) -> Verdict {
        if let Some(refusal) = self.identity_refusal(certified, hello) {
            return Verdict::Refuse(refusal);
        }
        if let Some(refusal) = standing_refusal(hello, standing) {
            return Verdict::Refuse(refusal);
        }
        if let Some(refusal) = self.boot_refusal(hello) {
            return Verdict::Refuse(refusal);
        }
        let record = self.remember(hello, standing);
        Verdict::Admit { record }
    }

    /// Whether a peer that was admitted earlier is still welcome, by what this node is now. A node
    /// that was wiped while the others formed a cluster is connected already when they learn that
    /// the cluster names its former life. [`crate::formation::FormedResponder::respond`] tells
    /// such a peer as soon as it asks for the first entry; a transport may also close the
    /// connection.
    #[must_use]
    pub fn recheck(hello: &Hello, standing: Standing<'_>) -> Option<Refusal> {
        standing_refusal(hello, standing)
    }

    /// A peer that was admitted as belonging to no cluster has answered that it adopted the first
    /// entry. From now on it must not say again that it belongs to none. Returns the record to
    /// make durable, if it changed.
    pub fn note_adopted(&mut self, node: NodeId, incarnation: Incarnation) -> Option<Bytes> {
        let seen = self.find_mut(node, incarnation)?;
        if seen.belonging == Belonging::Formed {
            return None;
        }
        seen.belonging = Belonging::Formed;
        Some(encode(&self.table))
    }

    /// The latest boot that was seen of a life of a node.
    #[must_use]
    pub fn latest_boot(&self, node: NodeId, incarnation: Incarnation) -> Option<Boot> {
        self.find(node, incarnation).map(|seen| seen.boot)
    }

    fn identity_refusal(&self, certified: NodeId, hello: &Hello) -> Option<Refusal> {
        if hello.node != certified {
            return Some(Refusal::WrongIdentity { certified });
        }
        // A peer with this node's own id is not who it wanted to reach either.
        if hello.receiver != self.local || hello.node == self.local {
            let receiver = self.local;
            return Some(Refusal::WrongReceiver { receiver });
        }
        None
    }

    fn boot_refusal(&self, hello: &Hello) -> Option<Refusal> {
        let seen = self.find(hello.node, hello.incarnation)?;
        if is_planted(Mutant::OldBootAccepted) {
            return None;
        }
        let is_older = hello.boot.counter < seen.boot.counter;
        let is_copy =
            hello.boot.counter == seen.boot.counter && hello.boot.nonce != seen.boot.nonce;
        // The same boot may have sent its hello before it adopted; a later one cannot.
        let has_forgotten = seen.belonging == Belonging::Formed
            && hello.cluster.is_none()
            && hello.boot != seen.boot;
        let refused = is_older || is_copy || has_forgotten;
        refused.then_some(Refusal::OldBoot { seen: seen.boot })
    }

    /// Returns the record to store if the table changed.
    fn remember(&mut self, hello: &Hello, standing: Standing<'_>) -> Option<Bytes> {
        let before = self.table.clone();
        let belonging = match hello.cluster {
            Some(_) => Belonging::Formed,
            None => Belonging::Unknown,
        };
        match self.find_mut(hello.node, hello.incarnation) {
            Some(seen) => {
                seen.boot = hello.boot;
                if belonging == Belonging::Formed {
                    seen.belonging = belonging;
                }
            }
            None => self.table.push(Seen {
                node: hello.node,
                incarnation: hello.incarnation,
                boot: hello.boot,
                belonging,
            }),
        }
        self.forget_strangers(standing, (hello.node, hello.incarnation));
        (self.table != before).then(|| encode(&self.table))
    }

    /// Keeps the table within [`MAX_BOOTS`], at the cost of nodes that are no members.
    fn forget_strangers(&mut self, standing: Standing<'_>, newest: (NodeId, Incarnation)) {
        while self.table.len() > MAX_BOOTS {
            let is_stranger = |seen: &Seen| match standing {
                Standing::Formed { membership, .. } => {
                    let member = membership.members.get(&seen.node);
                    member.is_none_or(|member| member.incarnation != Some(seen.incarnation))
                }
                Standing::Forming(_) | Standing::Joining => true,
                // The members may be any of them. Once they are known, the rest go.
                Standing::Opening { .. } => false,
            };
            let position = self
                .table
                .iter()
                .position(|seen| is_stranger(seen) && (seen.node, seen.incarnation) != newest);
            // Members are at most MAX_MEMBERS, so there is a stranger beside the newest.
            let Some(position) = position else { return };
            self.table.remove(position);
        }
    }

    fn find(&self, node: NodeId, incarnation: Incarnation) -> Option<&Seen> {
        let mut table = self.table.iter();
        table.find(|seen| seen.node == node && seen.incarnation == incarnation)
    }

    fn find_mut(&mut self, node: NodeId, incarnation: Incarnation) -> Option<&mut Seen> {
        let mut table = self.table.iter_mut();
        table.find(|seen| seen.node == node && seen.incarnation == incarnation)
    }
}

/// What speaks against the peer by its cluster and membership.
fn standing_refusal(hello: &Hello, standing: Standing<'_>) -> Option<Refusal> {
    match standing {
        Standing::Joining => None,
        Standing::Opening { cluster } => {
            let is_foreign = hello.cluster.is_some_and(|theirs| theirs != cluster);
            is_foreign.then_some(Refusal::WrongCluster { cluster })
        }
        // Whoever belongs to a cluster may be about to hand its first entry out.
        Standing::Forming(_) if hello.cluster.is_some() => None,
        Standing::Forming(voters) => (!voters.contains(hello.node)).then(|| {
            let voters = voters.as_slice().to_vec();
            Refusal::OtherVoters { voters }
        }),
        Standing::Formed {
            cluster,
            membership,
            vantage,
        } => {
            if hello.cluster.is_some_and(|theirs| theirs != cluster) {
                return Some(Refusal::WrongCluster { cluster });
            }
            if vantage == Vantage::Onlooker && hello.cluster.is_some() {
                return None;
            }
            match membership.members.get(&hello.node) {
                Some(member) => member
                    .incarnation
                    .filter(|bound| *bound != hello.incarnation)
                    .map(|member| Refusal::WrongIncarnation { member }),
                None if hello.cluster.is_some() => None,
                None => Some(Refusal::NotAMember),
            }
        }
    }
}

type Row = (NodeId, Incarnation, Boot, u8);

fn encode(table: &[Seen]) -> Bytes {
    let row = |seen: &Seen| -> Row {
        let belonging = match seen.belonging {
            Belonging::Unknown => 0,
            Belonging::Formed => 1,
        };
        (seen.node, seen.incarnation, seen.boot, belonging)
    };
    let rows: Vec<Row> = table.iter().map(row).collect();
    let mut out = MAGIC.to_vec();
    out.push(VERSION);
    // MAX_BOOTS rows of at most 40 bytes.
    codec::encode(&rows, &mut out).expect("a table of boots is far below the codec's limit");
    out.into()
}

fn decode(stored: &[u8]) -> Result<Vec<Seen>, TableError> {
    let rest = stored.strip_prefix(&MAGIC).ok_or(TableError::Damaged)?;
    let (version, body) = rest.split_first().ok_or(TableError::Damaged)?;
    if *version != VERSION {
        return Err(TableError::UnsupportedVersion(*version));
    }
    let rows: Vec<Row> = codec::decode_exact(body)?;
    let seen = |(node, incarnation, boot, belonging): Row| {
        let belonging = match belonging {
            0 => Belonging::Unknown,
            1 => Belonging::Formed,
            _ => return Err(TableError::Damaged),
        };
        Ok(Seen {
            node,
            incarnation,
            boot,
            belonging,
        })
    };
    rows.into_iter().map(seen).collect()
}

/// A refusal as the refused node shows it: what happened, what it means, what to do. `local` is
/// the refused node, `peer` the one that refused it.
#[must_use]
pub fn explain(refusal: &Refusal, local: NodeId, peer: NodeId) -> String {
    let id = local.0;
    let readmit = format!(
        "`raft-kv member remove {id}`, `raft-kv member add {id}=ADDRESS`, then start it with --join and an empty data directory"
    );
    match refusal {
        Refusal::WrongIdentity { certified } => format!(
            "{peer} refused this node: its certificate says {certified}, but it runs as {local}; \
             start it with the certificate of {local}, or with the id of {certified}"
        ),
        Refusal::WrongReceiver { receiver } => format!(
            "the address given for {peer} belongs to {receiver}; correct the address of {peer} \
             (or stop the second process that runs as {receiver})"
        ),
        Refusal::WrongCluster { cluster } => format!(
            "{peer} belongs to cluster {cluster}, and this data directory of {local} to another one; \
             start {local} with the data directory that belongs to cluster {cluster}, or correct the addresses of its peers"
        ),
        Refusal::NotAMember => format!(
            "{peer} belongs to a cluster of which {local} is no member: it was removed, or never added; \
             to add it run `raft-kv member add {id}=ADDRESS` and start {local} with --join"
        ),
        Refusal::WrongIncarnation { member } => format!(
            "{peer} belongs to a cluster in which {local} has another data directory (incarnation {member}): \
             the directory of {local} was wiped, it is not the one that joined, or the two were restored from different snapshots. \
             What it had promised and stored is gone, so it cannot simply go on as {local}. \
             If the old directory still exists, start {local} on it. Otherwise re-admit the node: {readmit}. \
             If most members were wiped, so that the cluster of {peer} answers no more and its data is not wanted, \
             clear the data directory of {peer} and of every other member, and start all of them again"
        ),
        Refusal::OldBoot { seen } => format!(
            "{peer} has seen a later start of {local} (number {}) than this one: this is an old copy of its data directory \
             (a restored backup, perhaps), or a second process runs on a copy. \
             It has forgotten what it promised and acknowledged since. Put the latest directory back, or re-admit the node: {readmit}",
            seen.counter
        ),
        Refusal::OtherVoters { voters } => {
            let names: Vec<String> = voters
                .iter()
                .map(|(id, at)| format!("{}={at}", id.0))
                .collect();
            format!(
                "{peer} waits to form a cluster of [{}], and {local} is none of them; \
                 start all initial voters with the same list, or add {local} once the cluster is formed",
                names.join(", ")
            )
        }
        Refusal::NoCommonVersion { versions } => format!(
            "{peer} speaks the protocol in versions {versions} and {local} in {}; \
             upgrade the older of the two",
            Versions::CURRENT
        ),
        Refusal::Unavailable => format!(
            "{peer} cannot admit anybody at the moment, because its data directory fails; \
             {local} tries again, look at the log of {peer}"
        ),
    }
}
