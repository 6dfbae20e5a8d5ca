//! What happens in a campaign, drawn from a seed before anything has happened.

use std::time::Duration;

use raft_sim::{Random, Stream};

use crate::cluster::Network;
use crate::shape::{Reach, Shape};

/// Shortest and longest time that a drawn round's faults stay, in milliseconds.
const HOLD_MS: (u64, u64) = (500, 4_000);
/// Of a hundred drawn rounds, how many have a second fault beside the first.
const SECOND_FAULT_PERCENT: u64 = 40;

/// Something that is done to the cluster. Nodes are named by their place: the leader has place 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Servers end by SIGKILL, and start again when the round is over.
    Kill {
        /// Their places.
        places: Vec<usize>,
    },
    /// Servers end by SIGKILL and start again at once.
    Restart {
        /// Their places.
        places: Vec<usize>,
    },
    /// A server is stopped by SIGSTOP until the round is over.
    Pause {
        /// Its place.
        place: usize,
    },
    /// Ways between servers are cut until the round is over. Needs namespaces.
    Partition(Shape),
    /// A server's own interface is down until the round is over. Needs namespaces.
    Unplug {
        /// Its place.
        place: usize,
    },
    /// Another node is asked to lead.
    Transfer {
        /// Its place.
        place: usize,
    },
    /// A server is killed for good, a new one joins, and the dead one is removed.
    Replace {
        /// Its place.
        place: usize,
    },
    /// A server takes a snapshot.
    Snapshot {
        /// Its place.
        place: usize,
    },
    /// The small disk of the first node is full until the round is over. Needs namespaces.
    FillDisk,
}

impl Fault {
    /// What is done, with the names of the nodes in their places.
    pub(crate) fn describe(&self, line_up: &[u64]) -> String {
        let name = |place: &usize| match place {
            0 => format!("n{} (leader)", line_up[0]),
            place => format!("n{}", line_up[*place]),
        };
        let names = |places: &[usize]| places.iter().map(name).collect::<Vec<_>>().join(", ");
        match self {
            Self::Kill { places } => format!("kill {}", names(places)),
            Self::Restart { places } => format!("kill and start {}", names(places)),
            Self::Pause { place } => format!("pause {}", name(place)),
            Self::Partition(shape) => match shape {
                Shape::Isolate { place } => format!("isolate {}", name(place)),
                Shape::Halves { left } => format!("part {} from the rest", names(left)),
                Shape::Bridge { middle } => format!("bridge over {}", name(middle)),
                Shape::Ring => "ring".to_owned(),
                Shape::Deaf { place } => format!("{} is deaf", name(place)),
                Shape::Mute { place } => format!("{} is mute", name(place)),
                Shape::OneWay { from } => format!("{} not heard by the rest", names(from)),
            },
            Self::Unplug { place } => format!("unplug {}", name(place)),
            Self::Transfer { place } => format!("hand over to {}", name(place)),
            Self::Replace { place } => format!("replace {}", name(place)),
            Self::Snapshot { place } => format!("snapshot at {}", name(place)),
            Self::FillDisk => "fill the small disk".to_owned(),
        }
    }
}

/// Faults that come together, stay, and are healed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// What is done, in this order.
    pub faults: Vec<Fault>,
    /// How long it stays, besides the time until writes have gone through where they must.
    pub hold: Duration,
    /// By how many places the followers are turned in the line-up.
    pub turn: usize,
}

impl Round {
    /// A round that is over as soon as writes have gone through.
    #[must_use]
    pub const fn of(faults: Vec<Fault>) -> Self {
        Self {
            faults,
            hold: Duration::ZERO,
            turn: 0,
        }
    }

    /// Who runs and who hears whom while it stays.
    pub(crate) fn reach(&self, nodes: usize) -> Reach {
        let mut reach = Reach::whole(nodes);
        for fault in &self.faults {
            match fault {
                Fault::Kill { places } => places.iter().for_each(|at| reach.runs[*at] = false),
                Fault::Pause { place } | Fault::Unplug { place } => reach.runs[*place] = false,
                Fault::Partition(shape) => reach.cut.extend(shape.cuts(nodes)),
                // Where the small disk is, is not known here: any one node may be missing.
                Fault::FillDisk => reach.runs[nodes - 1] = false,
                Fault::Restart { .. }
                | Fault::Transfer { .. }
                | Fault::Replace { .. }
                | Fault::Snapshot { .. } => {}
            }
        }
        reach
    }
}

/// Rounds without end, the same for the same seed.
pub(crate) struct Plan {
    random: Random,
    nodes: usize,
    network: Network,
}

impl Plan {
    pub(crate) fn new(seed: u64, nodes: usize, network: Network) -> Self {
        Self {
            random: Random::stream(seed, Stream::Scenario),
            nodes,
            network,
        }
    }

    pub(crate) fn next_round(&mut self) -> Round {
        let first = self.fault();
        let is_alone = match first {
            // Each of these waits for its end, and needs a majority for that.
            Fault::Replace { .. } | Fault::Snapshot { .. } | Fault::FillDisk => true,
            Fault::Kill { .. }
            | Fault::Restart { .. }
            | Fault::Pause { .. }
            | Fault::Partition(_)
            | Fault::Unplug { .. }
            | Fault::Transfer { .. } => false,
        };
        let mut faults = vec![first];
        if !is_alone && self.random.below(100) < SECOND_FAULT_PERCENT {
            faults.extend(self.second(&faults[0]));
        }
        let (least, most) = HOLD_MS;
        Round {
            faults,
            hold: Duration::from_millis(least + self.random.below(most - least)),
            turn: self.place(),
        }
    }

    /// One that does not concern what the first one does.
    fn second(&mut self, first: &Fault) -> Option<Fault> {
        let place = self.place();
        let is_process = matches!(
            first,
            Fault::Kill { .. }
                | Fault::Restart { .. }
                | Fault::Pause { .. }
                | Fault::Transfer { .. }
        );
        match self.network {
            Network::Namespaces if is_process => Some(Fault::Partition(self.shape())),
            Network::Loopback if is_process => None,
            Network::Namespaces | Network::Loopback => Some(match self.random.below(3) {
                0 => Fault::Pause { place },
                1 => Fault::Restart {
                    places: vec![place],
                },
                _ => Fault::Kill {
                    places: vec![place],
                },
            }),
        }
    }

    fn fault(&mut self) -> Fault {
        let place = self.place();
        let follower = 1 + self.random.below(self.nodes as u64 - 1) as usize;
        let of_network = match self.network {
            Network::Namespaces => 10,
            Network::Loopback => 0,
        };
        match self.random.below(12 + of_network) {
            0 | 1 => Fault::Kill {
                places: self.some(),
            },
            2 => Fault::Kill { places: vec![0] },
            3 => Fault::Restart {
                places: self.some(),
            },
            4 => Fault::Restart {
                places: (0..self.nodes).collect(),
            },
            5 | 6 => Fault::Pause { place },
            7 => Fault::Pause { place: 0 },
            8 | 9 => Fault::Transfer { place: follower },
            10 => Fault::Replace { place },
            11 => Fault::Snapshot { place },
            12 => Fault::Unplug { place },
            13 => Fault::FillDisk,
            _ => Fault::Partition(self.shape()),
        }
    }

    fn shape(&mut self) -> Shape {
        let place = self.place();
        match self.random.below(8) {
            0 => Shape::Isolate { place },
            1 => Shape::Isolate { place: 0 },
            2 => Shape::Halves { left: self.some() },
            3 => Shape::Bridge { middle: place },
            // With three nodes it would cut nothing.
            4 if self.nodes > 3 => Shape::Ring,
            4 | 5 => Shape::Deaf { place },
            6 => Shape::Mute { place },
            _ => Shape::OneWay { from: self.some() },
        }
    }

    fn place(&mut self) -> usize {
        self.random.below(self.nodes as u64) as usize
    }

    /// Some nodes, not all of them.
    fn some(&mut self) -> Vec<usize> {
        let count = 1 + self.random.below(self.nodes as u64 - 1) as usize;
        let first = self.place();
        (first..first + count).map(|at| at % self.nodes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_rounds_again() {
        let rounds = |seed| {
            let mut plan = Plan::new(seed, 5, Network::Namespaces);
            (0..50).map(|_| plan.next_round()).collect::<Vec<_>>()
        };
        assert_eq!(rounds(7), rounds(7));
        assert_ne!(rounds(7), rounds(8));
    }

    #[test]
    fn every_kind_is_drawn_and_places_exist() {
        for nodes in [3, 5] {
            let mut plan = Plan::new(1, nodes, Network::Namespaces);
            let rounds: Vec<_> = (0..500).map(|_| plan.next_round()).collect();
            let all: Vec<_> = rounds.iter().flat_map(|round| &round.faults).collect();
            let count = |is: &dyn Fn(&Fault) -> bool| all.iter().filter(|fault| is(fault)).count();
            assert!(count(&|fault| matches!(fault, Fault::Partition(Shape::Bridge { .. }))) > 5);
            assert!(count(&|fault| matches!(fault, Fault::Partition(Shape::OneWay { .. }))) > 5);
            assert!(count(&|fault| matches!(fault, Fault::Replace { .. })) > 5);
            assert!(count(&|fault| matches!(fault, Fault::FillDisk)) > 5);
            assert!(count(&|fault| matches!(fault, Fault::Unplug { .. })) > 5);
            let owing = rounds
                .iter()
                .filter(|round| round.reach(nodes).can_progress());
            assert!(owing.count() > 200, "most rounds leave a majority");
        }
    }

    #[test]
    fn without_namespaces_nothing_needs_them() {
        let mut plan = Plan::new(1, 3, Network::Loopback);
        for _ in 0..300 {
            for fault in plan.next_round().faults {
                assert!(
                    !matches!(
                        fault,
                        Fault::Partition(_) | Fault::Unplug { .. } | Fault::FillDisk
                    ),
                    "{fault:?}"
                );
            }
        }
    }
}
