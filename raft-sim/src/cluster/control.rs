//! What a scenario does to the world: crashes, restarts, partitions, links.

use std::collections::{BTreeMap, BTreeSet};

use raft_core::{Recovered, SnapshotContent};
use raft_node::driver::Input;
use raft_proto::{Boot, Incarnation, NodeId, ProtocolVersion};

use super::door::Greeting;
use super::node::ProcessId;
use super::witness;
use super::{Cluster, CrashKind, Event, PeerNotice, StartFailure};
use crate::checker::{Standing, StartView};
use crate::marks::Mark;
use crate::network::{Shape, Traffic};
use crate::options::{LinkOptions, ProcessOptions};
use crate::random::Random;

/// How often nodes say hello again that did not admit each other, in milliseconds.
const HELLO_RETRY_MS: u64 = 250;

/// What one node knows of its connection to another.
#[derive(Default)]
struct Connection {
    /// What it will know once the notice under way has arrived.
    wanted: Option<(ProcessId, Incarnation, Boot)>,
    /// What it was told.
    told: Option<(ProcessId, Incarnation, Boot)>,
    generation: u64,
}

/// Connections by observer and peer.
#[derive(Default)]
pub(super) struct Connections(BTreeMap<(NodeId, NodeId), Connection>);

impl Connections {
    /// Whether a node knows of a later process of a peer.
    pub(super) fn has_met_later(&self, observer: NodeId, peer: ProcessId) -> bool {
        let told = self
            .0
            .get(&(observer, peer.node))
            .and_then(|connection| connection.told);
        told.is_some_and(|(process, ..)| process.life > peer.life)
    }

    /// Whether a node still takes one of the first `lives` processes of a peer for connected.
    pub(super) fn has_met_one_of(&self, observer: NodeId, peer: NodeId, lives: u64) -> bool {
        let connection = self.0.get(&(observer, peer));
        let told = connection.and_then(|connection| connection.told);
        told.is_some_and(|(process, ..)| process.life <= lives)
    }
}

impl Cluster {
    /// The power of a node fails: what is not synced is lost, or torn.
    ///
    /// Does nothing if it does not run.
    pub fn crash(&mut self, node: NodeId) {
        self.crash_by(node, CrashKind::PowerCut);
    }

    /// Ends a node's process in order: everything that waits is answered with what is known, and
    /// what was being written is written.
    ///
    /// Does nothing if it does not run.
    pub fn shut_down(&mut self, node: NodeId) {
        let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut()) else {
            return;
        };
        process.driver.shut_down();
        let id = process.id;
        self.deliver_answers();
        // One sync may be under way, another one wait for it, and the last batch be vouched for.
        for _ in 0..3 {
            self.finish_sync(id);
        }
        if let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.take()) {
            let known_as = self.known_as(node);
            self.checker.stopped(known_as, process.writer.in_flight());
            drop(process);
        }
        self.record(node, "stops", "", &[]);
        self.refresh_connections();
    }

    /// Starts a node's process, with a new state machine and whatever its disk holds.
    ///
    /// # Panics
    /// If it runs already, or cannot start; see [`Cluster::try_restart`].
    pub fn restart(&mut self, node: NodeId) {
        let started = self.try_restart(node);
        started.unwrap_or_else(|error| panic!("{node} does not start: {error}"));
    }

    /// The same, for nodes whose disks have faults.
    ///
    /// # Errors
    /// [`StartFailure`].
    ///
    /// # Panics
    /// If it runs already, or cannot start although its disk has no fault.
    pub fn try_restart(&mut self, node: NodeId) -> Result<(), StartFailure> {
        assert!(self.is_formed(node), "{node} has not joined yet");
        if self.is_old_copy(node) {
            // Nobody restarts what everybody refuses.
            return Err(self.old_copy_failed(node));
        }
        let machine = witness::listen(node, (self.machines)(node), &self.replies);
        let Some(entry) = self.nodes.get_mut(&node) else {
            panic!("there is no {node} in this world");
        };
        let started = entry.start(self.now, self.cluster_id, &self.options, machine);
        entry.disk.calm();
        let life = entry.life;
        let lost_snapshots = started.is_ok() && std::mem::take(&mut entry.trouble.lost_snapshots);
        if started.is_ok() && entry.trouble.dropped_torn {
            self.tally.mark(Mark::TornBatchDropped);
        }
        let recovered = match started {
            Ok(recovered) => recovered,
            Err(error) => return Err(self.note_failed_start(node, &error)),
        };
        let lost_from = self.checker.lost_from(node);
        if lost_from.is_some_and(|first| recovered.last.index < first) {
            self.tally.mark(Mark::AcknowledgedForgotten);
        }
        let mut view = start_view(&recovered);
        if view.standing == Standing::Counted && lost_snapshots {
            view.standing = Standing::SnapshotOlder;
        }
        let checked = self.checker.started(node, &view);
        checked.unwrap_or_else(|violation| panic!("{violation}"));
        self.forget_applied(node);
        let is_lost = recovered.snapshot_content == SnapshotContent::Lost;
        if !recovered.missing.is_empty() || !recovered.counted || is_lost {
            let is_victim = self.atlas.is_victim(node);
            assert!(is_victim, "{node} reports damage that nobody did");
            self.tally.mark(Mark::DamageReported);
            let missing: u64 = recovered.missing.iter().map(|hole| hole.count()).sum();
            let numbers = [
                ("missing", missing),
                ("uncounted", u64::from(!recovered.counted)),
                ("snapshot lost", u64::from(is_lost)),
            ];
            self.record(node, "reports damage", "", &numbers);
        }
        if let Some(position) = recovered.snapshot.filter(|_| !is_lost) {
            self.tally.mark(Mark::StartedFromSnapshot);
            self.note_restored(node, position);
        }
        let numbers = [
            ("life", life),
            ("term", recovered.hard_state.term.0),
            ("last", recovered.last.index.0),
        ];
        self.record(node, "starts", "", &numbers);
        self.schedule_step(ProcessId { node, life });
        self.refresh_connections();
        Ok(())
    }

    /// Whether a node's process runs.
    #[must_use]
    pub fn is_running(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|n| n.process.is_some())
    }

    /// Pulls a node's cable: nothing gets in or out.
    pub fn disconnect(&mut self, node: NodeId) {
        self.network.unplug(node);
        self.record(node, "is disconnected", "", &[]);
        self.refresh_connections();
    }

    /// Plugs a node's cable in again. Links that are cut stay cut.
    pub fn connect(&mut self, node: NodeId) {
        self.network.plug_in(node);
        self.record(node, "is connected", "", &[]);
        self.refresh_connections();
    }

    /// Whether a node's cable is plugged in.
    #[must_use]
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.network.is_plugged(node)
    }

    /// Cuts all links between different groups and restores all others; a node in no group is
    /// alone.
    pub fn partition(&mut self, groups: &[&[NodeId]]) {
        self.network.partition(groups);
        for (number, group) in (1..).zip(groups) {
            for node in *group {
                self.record(*node, "is in partition", "", &[("group", number)]);
            }
        }
        self.refresh_connections();
    }

    /// Restores all links and cables.
    pub fn heal(&mut self) {
        self.network.heal();
        self.record(NodeId(0), "heals", "", &[]);
        self.refresh_connections();
    }

    /// Cuts one direction between two nodes.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.network.set_cut(from, to, true);
        self.record(from, "is cut off", "", &[("to", to.0)]);
        self.refresh_connections();
    }

    /// Opens all links among these nodes, plugs them in, and changes nothing else.
    pub fn heal_among(&mut self, nodes: &BTreeSet<NodeId>) {
        self.network.heal_among(nodes);
        self.record(NodeId(0), "heals a core", "", &[]);
        self.refresh_connections();
    }

    /// Closes the links of a partition of this shape, drawn with `random`, and returns them for
    /// [`Cluster::end_partition`]. Partitions add up.
    pub fn begin_partition(&mut self, shape: Shape, random: &mut Random) -> Vec<(NodeId, NodeId)> {
        self.begin_partition_around(shape, None, random)
    }

    /// The same, with this node in the special place if the shape has one: alone, deaf, a bridge.
    pub fn begin_partition_around(
        &mut self,
        shape: Shape,
        around: Option<NodeId>,
        random: &mut Random,
    ) -> Vec<(NodeId, NodeId)> {
        let closed = shape.closed(&self.node_ids(), around, random);
        self.network.block(&closed);
        self.record(NodeId(0), "parts", shape.name(), &[]);
        self.refresh_connections();
        closed
    }

    /// Opens the links of a partition again, unless another one closes them, too.
    pub fn end_partition(&mut self, closed: &[(NodeId, NodeId)]) {
        self.network.unblock(closed);
        self.record(NodeId(0), "ends a partition", "", &[]);
        self.refresh_connections();
    }

    /// Whether messages pass from one node to another.
    #[must_use]
    pub fn is_open(&self, from: NodeId, to: NodeId) -> bool {
        self.network.is_open(from, to)
    }

    /// Keeps what one node sends to another on its way for so long, and then lets it all arrive.
    pub fn clog(&mut self, from: NodeId, to: NodeId, ms: u64) {
        let until = self.now.plus_ms(ms);
        self.network.clog(from, to, until);
        self.record(from, "is clogged", "", &[("to", to.0), ("ms", ms)]);
    }

    /// Changes all links, between nodes and to clients.
    pub fn set_links(&mut self, options: LinkOptions) {
        self.network.set_options(options);
        self.client_link_options = options;
    }

    /// Changes all links to clients.
    pub fn set_client_links(&mut self, options: LinkOptions) {
        self.client_link_options = options;
    }

    /// Changes one direction between two nodes.
    pub fn set_link(&mut self, from: NodeId, to: NodeId, options: LinkOptions) {
        self.network.set_link_options(from, to, options);
    }

    /// Changes how long things take inside a node and on its disk, from now on.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn set_process(&mut self, node: NodeId, latencies: ProcessOptions) {
        let Some(entry) = self.nodes.get_mut(&node) else {
            panic!("there is no {node} in this world");
        };
        entry.latencies = latencies;
    }

    /// How long things take inside a node and on its disk, as the world began.
    #[must_use]
    pub fn process_options(&self) -> ProcessOptions {
        self.options.process
    }

    /// Changes that back to how the world began.
    pub fn reset_process(&mut self, node: NodeId) {
        self.set_process(node, self.options.process);
    }

    /// From its next start on a node speaks versions of the protocol up to this one.
    pub fn set_version(&mut self, node: NodeId, newest: ProtocolVersion) {
        if let Some(entry) = self.nodes.get_mut(&node) {
            entry.version = newest;
        }
    }

    /// The newest version of the protocol that a node speaks from its next start on.
    #[must_use]
    pub fn version(&self, node: NodeId) -> Option<ProtocolVersion> {
        self.nodes.get(&node).map(|node| node.version)
    }

    /// What all nodes have sent to each other.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.network.traffic()
    }

    /// What one node has sent.
    #[must_use]
    pub fn traffic_of(&self, node: NodeId) -> Traffic {
        self.network.sent_by(node)
    }

    /// Brings what nodes know of each other in line with who can reach whom: a connection is made
    /// soon, and its end is noticed after the idle timeout.
    pub(super) fn refresh_connections(&mut self) {
        let ids = self.node_ids();
        for &observer in &ids {
            for &peer in ids.iter().filter(|peer| **peer != observer) {
                self.refresh_connection(observer, peer);
            }
        }
    }

    fn refresh_connection(&mut self, observer: NodeId, peer: NodeId) {
        let Some(process) = self.nodes.get(&observer).and_then(|n| n.process.as_ref()) else {
            self.connections.0.remove(&(observer, peer));
            return;
        };
        let observer_id = process.id;
        let is_open = self.network.is_open(observer, peer) && self.network.is_open(peer, observer);
        let reached = self.nodes.get(&peer).and_then(|n| n.process.as_ref());
        let reached = reached
            .filter(|_| is_open)
            .map(|p| (p.id, p.incarnation, p.boot));
        let connection = self.connections.0.entry((observer, peer)).or_default();
        if connection.wanted == reached {
            return;
        }
        connection.wanted = reached;
        connection.generation += 1;
        if connection.told == reached {
            return;
        }
        let delay_ns = match reached {
            Some(_) => {
                let Some(node) = self.nodes.get_mut(&observer) else {
                    return;
                };
                self.options.connect.draw_ns(&mut node.random)
            }
            None => self.options.idle_timeout_ms * 1_000_000,
        };
        let notice = PeerNotice {
            observer: observer_id,
            peer,
            met: reached.map(|(process, ..)| process),
            generation: connection.generation,
        };
        let at = self.now.plus_ns(delay_ns);
        self.agenda.schedule(at, Event::PeerNotice(notice));
    }

    pub(super) fn notify_peer(&mut self, notice: PeerNotice) {
        let (observer, peer) = (notice.observer, notice.peer);
        let Some(connection) = self.connections.0.get_mut(&(observer.node, peer)) else {
            return;
        };
        if connection.generation != notice.generation || self.process(observer).is_none() {
            return;
        }
        let version = match notice.met.map(|met| self.greet(observer, met)) {
            None => ProtocolVersion::OLDEST,
            Some(Greeting::Welcome(version)) => version,
            Some(Greeting::NotYet) => {
                let at = self.now.plus_ms(HELLO_RETRY_MS);
                return self.agenda.schedule(at, Event::PeerNotice(notice));
            }
        };
        self.tell_of_peer(observer, peer, version);
        if let Some(met) = notice.met {
            // One handshake connects both ends, and each knows before the other's first message.
            let other = self.connections.0.get_mut(&(met.node, observer.node));
            let other = other.filter(|other| other.told != other.wanted);
            let waits = other.filter(|other| other.wanted.is_some_and(|(one, ..)| one == observer));
            if let Some(other) = waits {
                other.generation += 1;
                self.tell_of_peer(met, observer.node, version);
            }
        }
    }

    fn tell_of_peer(&mut self, observer: ProcessId, peer: NodeId, version: ProtocolVersion) {
        let Some(connection) = self.connections.0.get_mut(&(observer.node, peer)) else {
            return;
        };
        connection.told = connection.wanted;
        let (input, what) = match connection.told {
            Some((_, incarnation, boot)) => {
                let up = Input::PeerUp {
                    peer,
                    incarnation,
                    boot,
                    version,
                };
                (up, "sees")
            }
            None => (Input::PeerDown { peer }, "misses"),
        };
        self.record(observer.node, what, "", &[("peer", peer.0)]);
        self.give(observer, input);
    }
}

/// What the checker is to hear of a start.
pub(super) fn start_view(recovered: &Recovered) -> StartView {
    let count = recovered.last.index.next().since(recovered.first_index);
    let mut terms = Vec::with_capacity(count as usize);
    for (at, run) in recovered.term_runs.iter().enumerate() {
        let next = recovered.term_runs.get(at + 1);
        let end = next.map_or(recovered.last.index.next(), |next| next.first);
        terms.extend(std::iter::repeat_n(run.term, end.since(run.first) as usize));
    }
    StartView {
        hard_state: recovered.hard_state,
        mark: recovered.first_index.previous(),
        terms,
        snapshot: match recovered.snapshot_content {
            SnapshotContent::Whole => recovered.snapshot,
            SnapshotContent::Lost => None,
        },
        standing: match recovered.snapshot_content {
            _ if !recovered.counted => Standing::Uncounted,
            SnapshotContent::Lost => Standing::SnapshotLost,
            SnapshotContent::Whole => Standing::Counted,
        },
    }
}
