//! Links between nodes: which are open, what they lose, delay, double and reorder, and what they
//! carried.

mod link;
mod shape;

use std::collections::{BTreeMap, BTreeSet};

use raft_core::Time;
use raft_proto::{Class, Message, NodeId};

pub use self::shape::Shape;

pub(crate) use self::link::{Arrivals, draw_arrival};

use self::link::Link;
use crate::options::LinkOptions;

/// Whether a message asks or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It asks; this is what MIT 6.824 counts as an RPC.
    Request,
    /// It answers.
    Reply,
}

impl Direction {
    /// The direction of a message between peers.
    #[must_use]
    pub const fn of(message: &Message) -> Self {
        match message {
            Message::Hello(_)
            | Message::GatherRequest(_)
            | Message::AdoptRequest(_)
            | Message::GatherAbandoned(_)
            | Message::PreVoteRequest(_)
            | Message::VoteRequest(_)
            | Message::Heartbeat(_)
            | Message::TimeoutNow(_)
            | Message::ReadIndexRequest(_)
            | Message::AppendRequest(_)
            | Message::InstallSnapshotRequest(_)
            | Message::FetchSnapshotRequest(_)
            | Message::FetchEntriesRequest(_)
            | Message::DescribeSnapshotRequest(_)
            | Message::RecountRequest(_)
            | Message::RecountOffer(_)
            | Message::ComparisonReport(_) => Self::Request,
            Message::HelloResponse(_)
            | Message::GatherResponse(_)
            | Message::AdoptResponse(_)
            | Message::PreVoteResponse(_)
            | Message::VoteResponse(_)
            | Message::HeartbeatResponse(_)
            | Message::ReadIndexResponse(_)
            | Message::AppendResponse(_)
            | Message::InstallSnapshotResponse(_)
            | Message::FetchSnapshotResponse(_)
            | Message::FetchEntriesResponse(_)
            | Message::DescribeSnapshotResponse(_)
            | Message::RecountResponse(_) => Self::Reply,
        }
    }
}

/// What was sent since the world began, lost messages included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests.
    pub requests: u64,
    /// Answers.
    pub replies: u64,
    /// Bytes of both on the wire, frame headers included.
    pub bytes: u64,
}

/// All links.
pub(crate) struct Network {
    links: BTreeMap<(NodeId, NodeId), Link>,
    /// Nodes whose cable is out.
    unplugged: BTreeSet<NodeId>,
    traffic: BTreeMap<NodeId, Traffic>,
}

impl Network {
    pub(crate) fn new(seed: u64, nodes: &[NodeId], options: LinkOptions) -> Self {
        let mut links = BTreeMap::new();
        for &from in nodes {
            for &to in nodes.iter().filter(|to| **to != from) {
                links.insert((from, to), Link::new(seed, from, to, options));
            }
        }
        Self {
            links,
            unplugged: BTreeSet::new(),
            traffic: nodes
                .iter()
                .map(|node| (*node, Traffic::default()))
                .collect(),
        }
    }

    /// Counts a message, and decides when it arrives, if at all, and how often.
    pub(crate) fn send(
        &mut self,
        now: Time,
        (from, to): (NodeId, NodeId),
        (direction, class): (Direction, Class),
        bytes: usize,
    ) -> Arrivals {
        let sent = self.traffic.entry(from).or_default();
        sent.bytes += bytes as u64;
        match direction {
            Direction::Request => sent.requests += 1,
            Direction::Reply => sent.replies += 1,
        }
        let is_open = self.is_open(from, to);
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return Arrivals::default();
        };
        // Drawn even for a closed link, so that a partition does not shift what comes after it.
        let arrivals = link.send(now, (direction, class), bytes as u64);
        if is_open {
            arrivals
        } else {
            Arrivals::default()
        }
    }

    /// Whether messages pass from one node to the other.
    pub(crate) fn is_open(&self, from: NodeId, to: NodeId) -> bool {
        let is_plugged = !self.unplugged.contains(&from) && !self.unplugged.contains(&to);
        is_plugged && self.links.get(&(from, to)).is_some_and(Link::is_open)
    }

    pub(crate) fn is_plugged(&self, node: NodeId) -> bool {
        !self.unplugged.contains(&node)
    }

    pub(crate) fn unplug(&mut self, node: NodeId) {
        self.unplugged.insert(node);
    }

    pub(crate) fn plug_in(&mut self, node: NodeId) {
        self.unplugged.remove(&node);
    }

    pub(crate) fn set_cut(&mut self, from: NodeId, to: NodeId, cut: bool) {
        if let Some(link) = self.links.get_mut(&(from, to)) {
            link.cut = cut;
        }
    }

    /// Cuts every link between nodes of different groups, and restores all others. Nodes in no
    /// group are alone.
    pub(crate) fn partition(&mut self, groups: &[&[NodeId]]) {
        for ((from, to), link) in &mut self.links {
            let together = |group: &&[NodeId]| group.contains(from) && group.contains(to);
            link.cut = !groups.iter().any(together);
        }
    }

    /// Opens all links, whoever closed them, and lets what is clogged flow.
    pub(crate) fn heal(&mut self) {
        self.unplugged.clear();
        self.links.values_mut().for_each(Link::open);
    }

    /// Opens the links among these nodes.
    pub(crate) fn heal_among(&mut self, nodes: &BTreeSet<NodeId>) {
        self.unplugged.retain(|node| !nodes.contains(node));
        for ((from, to), link) in &mut self.links {
            if nodes.contains(from) && nodes.contains(to) {
                link.open();
            }
        }
    }

    /// Closes links until [`Network::unblock`] is called as often.
    pub(crate) fn block(&mut self, links: &[(NodeId, NodeId)]) {
        for name in links {
            if let Some(link) = self.links.get_mut(name) {
                link.blocks += 1;
            }
        }
    }

    pub(crate) fn unblock(&mut self, links: &[(NodeId, NodeId)]) {
        for name in links {
            if let Some(link) = self.links.get_mut(name) {
                link.blocks = link.blocks.saturating_sub(1);
            }
        }
    }

    /// What is sent on a link before `until` arrives after it.
    pub(crate) fn clog(&mut self, from: NodeId, to: NodeId, until: Time) {
        if let Some(link) = self.links.get_mut(&(from, to)) {
            link.clogged_until = link.clogged_until.max(until);
        }
    }

    pub(crate) fn set_options(&mut self, options: LinkOptions) {
        self.links
            .values_mut()
            .for_each(|link| link.options = options);
    }

    pub(crate) fn set_link_options(&mut self, from: NodeId, to: NodeId, options: LinkOptions) {
        if let Some(link) = self.links.get_mut(&(from, to)) {
            link.options = options;
        }
    }

    pub(crate) fn sent_by(&self, node: NodeId) -> Traffic {
        self.traffic.get(&node).copied().unwrap_or_default()
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let add = |sum: Traffic, sent: &Traffic| Traffic {
            requests: sum.requests + sent.requests,
            replies: sum.replies + sent.replies,
            bytes: sum.bytes + sent.bytes,
        };
        self.traffic.values().fold(Traffic::default(), add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Capacity, DeliveryOrder, Latency, Replays};

    fn ids(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn send(network: &mut Network, at: u64, from: u64, to: u64) -> Option<Time> {
        network
            .send(
                Time::from_ms(at),
                (NodeId(from), NodeId(to)),
                (Direction::Request, Class::Append),
                10,
            )
            .first
    }

    #[test]
    fn partitions_separate_groups_and_unplugged_nodes_stay_alone() {
        let nodes = ids(&[1, 2, 3, 4]);
        let mut network = Network::new(1, &nodes, LinkOptions::reliable());
        network.partition(&[&ids(&[1, 2]), &ids(&[3])]);
        let open = |network: &Network| {
            let pairs = nodes
                .iter()
                .flat_map(|a| nodes.iter().map(move |b| (*a, *b)));
            let open = pairs.filter(|(a, b)| network.is_open(*a, *b));
            open.map(|(a, b)| (a.0, b.0)).collect::<Vec<_>>()
        };
        assert_eq!(open(&network), [(1, 2), (2, 1)]);
        network.heal();
        assert_eq!(open(&network).len(), 12);
        network.unplug(NodeId(2));
        network.set_cut(NodeId(1), NodeId(3), true);
        assert_eq!(open(&network), [(1, 4), (3, 1), (3, 4), (4, 1), (4, 3)]);
        assert!(!network.is_plugged(NodeId(2)));
        network.plug_in(NodeId(2));
        assert_eq!(open(&network).len(), 11);
    }

    #[test]
    fn a_stream_keeps_its_order_and_datagrams_do_not() {
        let slow = LinkOptions {
            latency: Latency::ms(1, 100),
            ..LinkOptions::reliable()
        };
        let free = LinkOptions {
            order: DeliveryOrder::None,
            ..slow
        };
        for (options, stays_ordered) in [(slow, true), (free, false)] {
            let mut network = Network::new(5, &ids(&[1, 2]), options);
            let arrivals: Vec<_> = (0..50)
                .filter_map(|at| send(&mut network, at, 1, 2))
                .collect();
            assert_eq!(arrivals.len(), 50);
            assert_eq!(arrivals.is_sorted(), stays_ordered);
        }
    }

    #[test]
    fn loss_is_as_configured_and_lost_messages_count() {
        let mut network = Network::new(5, &ids(&[1, 2]), LinkOptions::unreliable());
        let arrived = (0..10_000).filter(|at| send(&mut network, *at, 1, 2).is_some());
        let arrived = arrived.count();
        assert!((8_800..9_200).contains(&arrived), "{arrived}");
        assert_eq!(network.sent_by(NodeId(1)).requests, 10_000);
        assert_eq!(network.traffic().bytes, 100_000);
    }

    #[test]
    fn a_partition_does_not_shift_what_comes_after_it() {
        let run = |cut: bool| {
            let mut network = Network::new(9, &ids(&[1, 2]), LinkOptions::unreliable());
            network.set_cut(NodeId(1), NodeId(2), cut);
            send(&mut network, 1, 1, 2);
            network.heal();
            send(&mut network, 2, 1, 2)
        };
        assert_eq!(run(true), run(false));
    }

    #[test]
    fn doubled_and_replayed_messages_arrive_again_and_change_nothing_else() {
        let plain = LinkOptions::unreliable();
        let doubling = LinkOptions {
            duplicates_per_mille: 200,
            replays: Some(Replays {
                per_mille: 100,
                latency: Latency::ms(1_000, 9_000),
            }),
            ..plain
        };
        let arrivals = |options| {
            let mut network = Network::new(5, &ids(&[1, 2]), options);
            let kind = (Direction::Reply, Class::Control);
            let route = (NodeId(1), NodeId(2));
            let sent = (0..5_000).map(|at| network.send(Time::from_ms(at), route, kind, 10));
            sent.collect::<Vec<_>>()
        };
        let (once, again) = (arrivals(plain), arrivals(doubling));
        assert!(once.iter().zip(&again).all(|(a, b)| a.first == b.first));
        let doubled = again.iter().filter(|a| a.duplicate.is_some()).count();
        let replayed = again.iter().filter(|a| a.replay.is_some()).count();
        assert!((800..1_200).contains(&doubled), "{doubled}");
        assert!((400..600).contains(&replayed), "{replayed}");
    }

    #[test]
    fn a_narrow_link_queues_and_then_drops_and_bulk_has_its_own() {
        let narrow = LinkOptions {
            latency: Latency::fixed_us(0),
            capacity: Some(Capacity {
                bytes_per_ms: 10,
                bulk_bytes_per_ms: 1,
                queue_bytes: 45,
            }),
            ..LinkOptions::reliable()
        };
        let mut network = Network::new(5, &ids(&[1, 2]), narrow);
        let mut at_zero = |class| {
            let route = (NodeId(1), NodeId(2));
            network
                .send(Time::ZERO, route, (Direction::Request, class), 10)
                .first
        };
        let arrivals: Vec<_> = (0..6).map(|_| at_zero(Class::Append)).collect();
        let expected = [1, 2, 3, 4, 5].map(|ms| Some(Time::from_ms(ms)));
        assert_eq!(arrivals[..5], expected);
        assert_eq!(arrivals[5], None);
        assert_eq!(at_zero(Class::Bulk), Some(Time::from_ms(10)));
    }

    #[test]
    fn what_a_clog_holds_arrives_after_it() {
        let mut network = Network::new(5, &ids(&[1, 2]), LinkOptions::reliable());
        network.clog(NodeId(1), NodeId(2), Time::from_ms(500));
        let arrival = send(&mut network, 1, 1, 2);
        assert!(arrival >= Some(Time::from_ms(500)), "{arrival:?}");
        assert!(send(&mut network, 1, 2, 1) < Some(Time::from_ms(10)));
    }

    #[test]
    fn blocks_add_up_and_healing_a_core_opens_only_its_links() {
        let nodes = ids(&[1, 2, 3]);
        let mut network = Network::new(1, &nodes, LinkOptions::reliable());
        let links = [(NodeId(1), NodeId(2)), (NodeId(1), NodeId(3))];
        network.block(&links);
        network.block(&links[..1]);
        network.unblock(&links);
        assert!(!network.is_open(NodeId(1), NodeId(2)));
        assert!(network.is_open(NodeId(1), NodeId(3)));
        network.block(&links);
        network.heal_among(&[NodeId(1), NodeId(2)].into());
        assert!(network.is_open(NodeId(1), NodeId(2)));
        assert!(!network.is_open(NodeId(1), NodeId(3)));
    }
}
