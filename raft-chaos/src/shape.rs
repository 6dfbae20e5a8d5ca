//! Shapes of partitions, and what a partitioned cluster owes: pure, by the place of a node.
//!
//! Nodes are named by their place in a line-up: the leader has place 0, its followers come behind
//! it in an order that the round has drawn.

use std::collections::BTreeSet;

/// Which ways between the servers are cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One node is cut off from all others.
    Isolate {
        /// Its place.
        place: usize,
    },
    /// Two sides that do not reach each other.
    Halves {
        /// The places of one of them.
        left: Vec<usize>,
    },
    /// Two sides that do not reach each other, and a node that reaches everybody.
    Bridge {
        /// Its place.
        middle: usize,
    },
    /// Everybody reaches two neighbours.
    Ring,
    /// One node hears nobody, and is heard by all.
    Deaf {
        /// Its place.
        place: usize,
    },
    /// One node hears everybody, and is heard by none.
    Mute {
        /// Its place.
        place: usize,
    },
    /// Nothing gets from one side to the other; the way back works.
    OneWay {
        /// The places of the side that is not heard.
        from: Vec<usize>,
    },
}

impl Shape {
    /// The ways that are cut among `nodes` nodes, each as (sender, receiver).
    #[must_use]
    pub fn cuts(&self, nodes: usize) -> BTreeSet<(usize, usize)> {
        let ways = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
        let differ = |side: &dyn Fn(usize) -> usize, from, to| side(from) != side(to);
        ways.filter(|(from, to)| from != to)
            .filter(|&(from, to)| match self {
                Self::Isolate { place } => (from == *place) != (to == *place),
                Self::Halves { left } => left.contains(&from) != left.contains(&to),
                Self::Bridge { middle } => {
                    // The others take sides in turn.
                    let side = |place: usize| {
                        let rank = if place > *middle { place - 1 } else { place };
                        rank % 2
                    };
                    from != *middle && to != *middle && differ(&side, from, to)
                }
                Self::Ring => (from + 1) % nodes != to && (to + 1) % nodes != from,
                Self::Deaf { place } => to == *place,
                Self::Mute { place } => from == *place,
                Self::OneWay { from: side } => side.contains(&from) && !side.contains(&to),
            })
            .collect()
    }
}

/// Who runs and who hears whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Per place: whether the node runs.
    pub runs: Vec<bool>,
    /// Ways that are cut, each as (sender, receiver).
    pub cut: BTreeSet<(usize, usize)>,
}

impl Reach {
    /// Everybody runs and hears everybody.
    #[must_use]
    pub fn whole(nodes: usize) -> Self {
        Self {
            runs: vec![true; nodes],
            cut: BTreeSet::new(),
        }
    }

    /// Whether writes must go through as long as it stays like this.
    ///
    /// They must if among some nodes that could commit, the one with the newest log can be elected.
    /// That is so for a majority of nodes that all reach each other: the newest of them is elected
    /// by the rest. And it is so for nodes that reach nobody else, if each of them reaches a
    /// majority: the newest of all is elected by those it reaches. Where a node reaches a majority
    /// only through one that is newer and reaches no majority itself, nobody can be elected.
    #[must_use]
    pub fn can_progress(&self) -> bool {
        let nodes = self.runs.len();
        let majority = nodes / 2 + 1;
        let peers = |of: usize| {
            let reached = (0..nodes).filter(move |to| self.is_two_way(of, *to));
            reached.collect::<BTreeSet<_>>()
        };
        let all: Vec<_> = (0..nodes).map(peers).collect();
        let is_clique = |members: &[usize]| {
            let mut pairs = members
                .iter()
                .flat_map(|a| members.iter().map(move |b| (*a, *b)));
            pairs.all(|(a, b)| all[a].contains(&b))
        };
        let mut sets = (0u32..1 << nodes).map(|set| {
            let members = (0..nodes).filter(|place| set & (1 << place) != 0);
            members.collect::<Vec<_>>()
        });
        let is_closed = |members: &[usize]| {
            let mut members_peers = members.iter().map(|member| &all[*member]);
            members_peers.all(|peers| {
                peers.len() >= majority && peers.iter().all(|peer| members.contains(peer))
            })
        };
        sets.any(|members| {
            !members.is_empty()
                && (members.len() >= majority && is_clique(&members) || is_closed(&members))
        })
    }

    fn is_two_way(&self, a: usize, b: usize) -> bool {
        let both_run = self.runs[a] && self.runs[b];
        both_run && !self.cut.contains(&(a, b)) && !self.cut.contains(&(b, a))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(shape: &Shape, nodes: usize, dead: &[usize]) -> Reach {
        let runs = (0..nodes).map(|place| !dead.contains(&place)).collect();
        let cut = shape.cuts(nodes);
        Reach { runs, cut }
    }

    #[test]
    fn cuts_are_those_of_the_shape() {
        let set = |ways: &[(usize, usize)]| ways.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(
            Shape::Isolate { place: 0 }.cuts(3),
            set(&[(0, 1), (0, 2), (1, 0), (2, 0)])
        );
        assert_eq!(Shape::Deaf { place: 2 }.cuts(3), set(&[(0, 2), (1, 2)]));
        assert_eq!(Shape::Mute { place: 2 }.cuts(3), set(&[(2, 0), (2, 1)]));
        assert_eq!(Shape::Bridge { middle: 1 }.cuts(3), set(&[(0, 2), (2, 0)]));
        let bridge = Shape::Bridge { middle: 2 }.cuts(5);
        assert_eq!(bridge.len(), 8, "two by two, both ways");
        assert!(bridge.iter().all(|(from, to)| *from != 2 && *to != 2));
        assert_eq!(Shape::Ring.cuts(5).len(), 10);
        let one_way = Shape::OneWay { from: vec![0, 1] };
        assert_eq!(one_way.cuts(3), set(&[(0, 2), (1, 2)]));
        let halves = Shape::Halves { left: vec![0, 1] };
        assert_eq!(halves.cuts(5).len(), 12);
    }

    #[test]
    fn a_majority_that_can_elect_its_newest_must_progress() {
        for shape in [
            Shape::Isolate { place: 0 },
            Shape::Halves { left: vec![0, 1] },
            Shape::Bridge { middle: 0 },
            Shape::Ring,
            Shape::Deaf { place: 0 },
            Shape::Mute { place: 0 },
            Shape::OneWay { from: vec![3, 4] },
        ] {
            assert!(reach(&shape, 5, &[]).can_progress(), "{shape:?}");
        }
        assert!(reach(&Shape::Bridge { middle: 1 }, 3, &[]).can_progress());
        assert!(Reach::whole(3).can_progress());
    }

    #[test]
    fn without_such_a_majority_nothing_is_owed() {
        let isolated = Shape::Isolate { place: 0 };
        assert!(!reach(&isolated, 3, &[1]).can_progress());
        assert!(reach(&isolated, 5, &[1]).can_progress());
        assert!(!reach(&isolated, 5, &[1, 2]).can_progress());
        // In the middle a node reaches a majority, but those it needs may be newer than it.
        let star = reach(&Shape::Bridge { middle: 0 }, 5, &[1, 2]);
        assert!(!star.can_progress());
        let halves = Shape::Halves { left: vec![0, 1] };
        assert!(!reach(&halves, 5, &[4]).can_progress());
    }
}
