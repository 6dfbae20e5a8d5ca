//! Shapes of partitions: which links are closed.

use raft_proto::NodeId;

use crate::random::Random;

/// The shape of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One node is alone.
    Isolate,
    /// Two groups.
    Split,
    /// Each node reaches its two neighbours only.
    Ring,
    /// Two groups, and one node that reaches both.
    Bridge,
    /// One node reaches everybody; the others reach only it.
    Star,
    /// One node hears nobody, and is heard.
    Deaf,
    /// One node is heard by nobody, and hears.
    Mute,
    /// What one group sends does not reach the other.
    OneWaySplit,
    /// Links closed one by one, each direction by itself.
    RandomLinks,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Isolate,
        Self::Split,
        Self::Ring,
        Self::Bridge,
        Self::Star,
        Self::Deaf,
        Self::Mute,
        Self::OneWaySplit,
        Self::RandomLinks,
    ];

    /// What reports call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Isolate => "partition-isolate",
            Self::Split => "partition-split",
            Self::Ring => "partition-ring",
            Self::Bridge => "partition-bridge",
            Self::Star => "partition-star",
            Self::Deaf => "partition-deaf",
            Self::Mute => "partition-mute",
            Self::OneWaySplit => "partition-one-way",
            Self::RandomLinks => "partition-random-links",
        }
    }

    /// The links that such a partition of these nodes closes; `around` is in the special place, if
    /// the shape has one.
    pub(crate) fn closed(
        self,
        nodes: &[NodeId],
        around: Option<NodeId>,
        random: &mut Random,
    ) -> Vec<(NodeId, NodeId)> {
        let mut order = nodes.to_vec();
        random.shuffle(&mut order);
        if let Some(at) = order.iter().position(|node| Some(*node) == around) {
            order.swap(0, at);
        }
        let left = random.between(1, order.len().max(2) as u64 - 1) as usize;
        let coin = random.between(100, 600);
        let count = order.len();
        let is_closed = |from: usize, to: usize, random: &mut Random| match self {
            Self::Isolate => from == 0 || to == 0,
            Self::Split => (from < left) != (to < left),
            Self::Ring => {
                let distance = from.abs_diff(to);
                distance != 1 && distance != count - 1
            }
            Self::Bridge => from != 0 && to != 0 && (from <= left) != (to <= left),
            Self::Star => from != 0 && to != 0,
            Self::Deaf => to == 0,
            Self::Mute => from == 0,
            Self::OneWaySplit => from < left && to >= left,
            Self::RandomLinks => random.per_mille(coin),
        };
        let mut closed = Vec::new();
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                if is_closed(from, to, random) {
                    closed.push((order[from], order[to]));
                }
            }
        }
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    #[test]
    fn shapes_close_as_many_links_as_they_must() {
        let nodes: Vec<_> = (1..=5).map(NodeId).collect();
        let mut random = Random::stream(1, Stream::Scenario);
        let mut closed = |shape: Shape| shape.closed(&nodes, None, &mut random);
        for (shape, count) in [
            (Shape::Isolate, 8),
            (Shape::Ring, 10),
            (Shape::Star, 12),
            (Shape::Deaf, 4),
            (Shape::Mute, 4),
        ] {
            assert_eq!(closed(shape).len(), count, "{shape:?}");
        }
        let both_ways = |links: &[(NodeId, NodeId)]| {
            let mut pairs = links.iter();
            pairs.all(|(from, to)| links.contains(&(*to, *from)))
        };
        for shape in [Shape::Split, Shape::Bridge, Shape::Ring, Shape::Star] {
            assert!(both_ways(&closed(shape)), "{shape:?}");
        }
        let one_way = closed(Shape::OneWaySplit);
        assert!(
            one_way
                .iter()
                .all(|(from, to)| !one_way.contains(&(*to, *from)))
        );
    }
}
