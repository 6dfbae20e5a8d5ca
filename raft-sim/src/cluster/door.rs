//! Connections begin with a hello: both sides admit each other by the real rules, or do not.
//!
//! What the admission of a node remembers is written to its disk before the hello is answered, as
//! [`raft_node::Link`] does. What is not admitted is tried again, as a transport does.

use std::collections::{BTreeMap, BTreeSet};

use raft_log::DataDir;
use raft_node::admission::{Admission, BOOTS_RECORD, Standing, Vantage, Verdict};
use raft_node::formation::{FORMATION_RECORD, FormedResponder};
use raft_proto::{Hello, NodeId, ProtocolVersion, Refusal, Versions};

use super::Cluster;
use super::node::ProcessId;
use crate::disk::DiskError;
use crate::marks::Mark;

/// What a running node knows of other nodes, and of its cluster's beginning.
pub(crate) struct Door {
    pub(super) admission: Admission,
    pub(super) responder: FormedResponder,
}

impl Door {
    /// That of a node that belongs to a cluster, from the records in its directory.
    pub(super) fn open(directory: &DataDir) -> Result<Self, DiskError> {
        let boots = directory.read_record(BOOTS_RECORD)?;
        let admission = Admission::new(directory.node(), boots.as_deref())?;
        let formed = directory.read_record(FORMATION_RECORD)?;
        let responder = formed.as_deref().map(FormedResponder::from_record);
        let responder = responder.transpose()?.flatten();
        Ok(Self {
            admission,
            responder: responder.ok_or(DiskError::NotFormed)?,
        })
    }
}

/// Which processes have admitted each other; a message of any other one reaches nobody.
#[derive(Default)]
pub(super) struct Acquaintances {
    /// By host and guest, the lives of the guest that some life of the host has admitted.
    lives: BTreeMap<(NodeId, NodeId), BTreeSet<u64>>,
    /// By host and guest, the processes that admitted each other last.
    latest: BTreeMap<(NodeId, NodeId), (u64, u64)>,
}

impl Acquaintances {
    fn add(&mut self, host: ProcessId, guest: ProcessId) {
        let names = (host.node, guest.node);
        self.lives.entry(names).or_default().insert(guest.life);
        self.latest.insert(names, (host.life, guest.life));
    }

    /// Whether a life of the host has admitted this one of the guest.
    fn has(&self, host: NodeId, guest: ProcessId) -> bool {
        let lives = self.lives.get(&(host, guest.node));
        lives.is_some_and(|lives| lives.contains(&guest.life))
    }

    /// Whether these very processes have admitted each other.
    fn are_connected(&self, host: ProcessId, guest: ProcessId) -> bool {
        let latest = self.latest.get(&(host.node, guest.node));
        latest == Some(&(host.life, guest.life))
    }

    /// Nothing is left of a node and what it knew.
    pub(super) fn forget(&mut self, node: NodeId) {
        let stays = |(host, guest): &(NodeId, NodeId)| *host != node && *guest != node;
        self.lives.retain(|names, _| stays(names));
        self.latest.retain(|names, _| stays(names));
    }
}

/// Whether a node lets another one in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    Yes,
    /// It cannot answer at the moment.
    NotNow,
    No(Refusal),
}

/// What came of two hellos.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// Both sides have admitted each other, and speak this version.
    Welcome(ProtocolVersion),
    /// Not now, perhaps later.
    NotYet,
}

impl Cluster {
    /// Two running processes that can reach each other say hello.
    pub(super) fn greet(&mut self, one: ProcessId, other: ProcessId) -> Greeting {
        // Who does not run answers nobody.
        if self.is_paused(one.node) || self.is_paused(other.node) {
            return Greeting::NotYet;
        }
        let (Some(hello), Some(back)) = (self.hello(one, other.node), self.hello(other, one.node))
        else {
            return Greeting::NotYet;
        };
        let Some(version) = hello.versions.in_common(back.versions) else {
            return Greeting::NotYet;
        };
        if self.admits(other, &hello) != Admitted::Yes || self.admits(one, &back) != Admitted::Yes {
            return Greeting::NotYet;
        }
        for (guest, host) in [(one.node, other.node), (other.node, one.node)] {
            let is_old = self.is_old_copy(guest);
            assert!(
                !is_old,
                "{host} lets {guest} in on an old copy, although it knows a later boot"
            );
        }
        self.acquaintances.add(one, other);
        self.acquaintances.add(other, one);
        if version < ProtocolVersion::NEWEST {
            self.tally.mark(Mark::OldVersionSpoken);
        }
        Greeting::Welcome(version)
    }

    pub(super) fn hello(&mut self, from: ProcessId, receiver: NodeId) -> Option<Hello> {
        let cluster = self.cluster_id;
        let newest = self.nodes.get(&from.node)?.version;
        let process = self.process(from)?;
        Some(Hello {
            cluster: Some(cluster),
            node: from.node,
            incarnation: process.incarnation,
            boot: process.boot,
            receiver,
            versions: Versions::up_to(newest),
        })
    }

    /// Whether a running node admits a peer, now that what it remembers of it is durable.
    pub(super) fn admits(&mut self, host: ProcessId, hello: &Hello) -> Admitted {
        let cluster = self.cluster_id;
        let Some(node) = self.nodes.get_mut(&host.node) else {
            return Admitted::NotNow;
        };
        let hangs = node.disk.hangs();
        let Some(process) = node.process.as_mut().filter(|process| process.id == host) else {
            return Admitted::NotNow;
        };
        let core = process.driver.core();
        let (membership, leader) = (core.membership(), core.leader());
        let standing = Standing::Formed {
            cluster,
            membership,
            vantage: Vantage::of(membership, host.node, process.incarnation, leader),
        };
        let mut admission = process.door.admission.clone();
        match admission.admit(hello.node, hello, standing) {
            Verdict::Refuse(refusal) => {
                self.note_refusal(host.node, hello.node, &refusal);
                Admitted::No(refusal)
            }
            Verdict::Admit { record: Some(_) } if hangs => Admitted::NotNow,
            Verdict::Admit { record } => {
                let written = record.map(|record| {
                    let directory = &process.directory;
                    directory.write_record(BOOTS_RECORD, &record)
                });
                if let Some(Err(error)) = written {
                    self.halt(host.node, &error);
                    return Admitted::NotNow;
                }
                process.door.admission = admission;
                Admitted::Yes
            }
        }
    }

    fn note_refusal(&mut self, host: NodeId, guest: NodeId, refusal: &Refusal) {
        if let Refusal::OldBoot { seen } = refusal {
            let is_old = self.is_old_copy(guest) || self.is_old_copy(host);
            assert!(
                is_old,
                "{host} takes {guest} for an old copy, after boot {}",
                seen.counter
            );
            self.tally.mark(Mark::OldCopyRefused);
        }
        self.record(host, "refuses", "a hello", &[("peer", guest.0)]);
    }

    /// Whether what one process sent does not reach another one: nobody there has admitted it, or
    /// the sender's present process is not admitted there yet, its disk was cleared since, or the
    /// receiver has not noticed that it was cleared before.
    pub(super) fn is_refused(&self, from: ProcessId, to: ProcessId) -> bool {
        let node = self.nodes.get(&from.node);
        let wiped_after = node.map_or(0, |node| node.wiped_after);
        let is_old = from.life <= wiped_after
            || (self.connections).has_met_one_of(to.node, from.node, wiped_after);
        let present = self.running(from.node);
        let is_cut = present.is_some_and(|now| !self.acquaintances.are_connected(to, now));
        is_old || is_cut || self.is_old_copy(to.node) || !self.acquaintances.has(to.node, from)
    }
}
