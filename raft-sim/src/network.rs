//! Links between nodes: which are open, what they lose, delay and reorder, and what they carried.

use std::collections::{BTreeMap, BTreeSet};

use raft_core::Time;
use raft_proto::{Class, Message, NodeId};

use crate::options::{DeliveryOrder, LinkOptions};
use crate::random::{Random, Stream};

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
            | Message::FetchEntriesRequest(_) => Self::Request,
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
            | Message::FetchEntriesResponse(_) => Self::Reply,
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

/// One direction between two nodes.
struct Link {
    random: Random,
    options: LinkOptions,
    cut: bool,
    /// The latest arrival scheduled per class.
    last_arrival: BTreeMap<Class, Time>,
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
                let link = Link {
                    random: Random::stream(seed, Stream::Link { from, to }),
                    options,
                    cut: false,
                    last_arrival: BTreeMap::new(),
                };
                links.insert((from, to), link);
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

    /// Counts a message, and decides when it arrives; `None` if it is lost.
    pub(crate) fn send(
        &mut self,
        now: Time,
        (from, to): (NodeId, NodeId),
        (direction, class): (Direction, Class),
        bytes: usize,
    ) -> Option<Time> {
        let sent = self.traffic.entry(from).or_default();
        sent.bytes += bytes as u64;
        match direction {
            Direction::Request => sent.requests += 1,
            Direction::Reply => sent.replies += 1,
        }
        let is_open = self.is_open(from, to);
        let link = self.links.get_mut(&(from, to))?;
        // Drawn even for a closed link, so that a partition does not shift what comes after it.
        let arrival = link.draw(now, direction)?;
        if !is_open {
            return None;
        }
        Some(link.in_order(arrival, class))
    }

    /// Whether messages pass from one node to the other.
    pub(crate) fn is_open(&self, from: NodeId, to: NodeId) -> bool {
        let is_plugged = !self.unplugged.contains(&from) && !self.unplugged.contains(&to);
        is_plugged && self.links.get(&(from, to)).is_some_and(|link| !link.cut)
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

    pub(crate) fn heal(&mut self) {
        self.unplugged.clear();
        self.links.values_mut().for_each(|link| link.cut = false);
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

impl Link {
    fn draw(&mut self, now: Time, direction: Direction) -> Option<Time> {
        draw_arrival(&mut self.random, &self.options, now, direction)
    }

    fn in_order(&mut self, arrival: Time, class: Class) -> Time {
        match self.options.order {
            DeliveryOrder::None => arrival,
            DeliveryOrder::PerClass => {
                let last = self.last_arrival.entry(class).or_default();
                *last = arrival.max(*last);
                *last
            }
        }
    }
}

/// When a message that is sent now arrives; `None` if it is lost.
pub(crate) fn draw_arrival(
    random: &mut Random,
    options: &LinkOptions,
    now: Time,
    direction: Direction,
) -> Option<Time> {
    let loss = match direction {
        Direction::Request => options.request_loss_per_mille,
        Direction::Reply => options.reply_loss_per_mille,
    };
    let is_lost = random.per_mille(loss);
    let mut delay = options.latency.draw_ns(random);
    if let (Some(late), Direction::Reply) = (options.late_replies, direction)
        && random.per_mille(late.per_mille)
    {
        delay += late.latency.draw_ns(random);
    }
    (!is_lost).then(|| now.plus_ns(delay))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Latency;

    fn ids(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn send(network: &mut Network, at: u64, from: u64, to: u64) -> Option<Time> {
        network.send(
            Time::from_ms(at),
            (NodeId(from), NodeId(to)),
            (Direction::Request, Class::Append),
            10,
        )
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
}
