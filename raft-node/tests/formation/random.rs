//! Seeds: loss, duplication, reordering, crashes at every write, wiped directories.

use std::collections::BTreeSet;

use raft_node::formation::FormationError;
use raft_proto::{NodeId, Refusal};

use crate::world::{Delivery, World, n};

/// Things that happen in a seed before everything works again.
const STEPS: usize = 800;

/// SplitMix64: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    fn pick(&mut self, ids: &[NodeId]) -> NodeId {
        ids[self.below(ids.len())]
    }
}

/// How often rare states were reached, over all seeds.
#[derive(Debug, Default)]
struct Reached {
    formed_in_chaos: usize,
    wiped_gatherers: usize,
    refused_as_wiped: usize,
    abandoned: usize,
    released: usize,
    superseded: usize,
}

/// What may happen in a seed, and how often.
struct Faults {
    loss_percent: u64,
    crash_percent: u64,
    wipe_percent: u64,
    gatherer_wipes: u32,
}

impl Faults {
    /// Each kind of fault is off in some seeds.
    fn draw(random: &mut Random, gatherer_wipes: u32) -> Self {
        Self {
            loss_percent: [0, 5, 20][random.below(3)],
            crash_percent: [0, 5, 15][random.below(3)],
            wipe_percent: [0, 20, 60, 100][random.below(4)],
            gatherer_wipes,
        }
    }
}

fn step(world: &mut World, random: &mut Random, faults: &Faults) {
    let ids = world.ids();
    let id = random.pick(&ids);
    let told = !random.chance(faults.crash_percent);
    match random.below(100) {
        0..40 if !world.network.is_empty() => {
            let at = random.below(world.network.len());
            let packet = if random.chance(15) {
                world.network[at].clone()
            } else {
                world.network.swap_remove(at)
            };
            if !random.chance(faults.loss_percent) {
                world.deliver(packet);
            }
        }
        40..58 => world.complete_write(id, told),
        58..68 => world.create_log(id, told),
        68..84 => {
            let other = random.pick(&ids);
            if id != other && world.is_up(id) && world.is_up(other) {
                world.connect(id, other);
            }
        }
        84..85 => {
            let other = random.pick(&ids);
            world.disconnect(id, other);
        }
        85..90 => {
            let ms = 1 + random.next() % 300;
            world.tick(ms);
        }
        90..91 if random.chance(5 * faults.crash_percent) => world.crash(id),
        91..98 if !world.is_up(id) => world.start(id),
        98..100 if random.chance(faults.wipe_percent) => {
            let victim = if random.chance(40) { n(1) } else { id };
            let wipes = world.wipes.get(&victim).copied().unwrap_or(0);
            if victim != n(1) || wipes < faults.gatherer_wipes {
                world.wipe(victim);
            }
        }
        _ => {}
    }
    // What never arrives must not slow the rest down.
    let excess = world.network.len().saturating_sub(40);
    world.network.drain(..excess);
}

fn chaos(seed: u64, delivery: Delivery, gatherer_wipes: u32) -> World {
    let mut random = Random(seed);
    let faults = Faults::draw(&mut random, gatherer_wipes);
    let mut world = World::new(3 + seed % 3);
    world.delivery = delivery;
    for _ in 0..STEPS {
        step(&mut world, &mut random, &faults);
        if delivery == Delivery::PerConnection {
            world.assert_one_cluster();
        }
    }
    world
}

/// After everything works again: one cluster of all whom it names, the rest refused with reasons.
fn assert_settled(world: &mut World, reached: &mut Reached) {
    world.settle();
    let mut logs: BTreeSet<_> = world.nodes.values().filter_map(|n| n.disk.log).collect();
    if logs.is_empty() {
        // A gatherer gave up for a cluster whose last member was wiped since. Its message says
        // to clear its directory.
        if let Some(FormationError::FormedElsewhere { .. }) = world.nodes[&n(1)].failure {
            world.wipe(n(1));
            world.settle();
        }
        logs = world.nodes.values().filter_map(|n| n.disk.log).collect();
    }
    assert_eq!(logs.len(), 1, "one cluster once all nodes are up");
    let Some(cluster) = logs.pop_first() else {
        return;
    };
    let first = world.clusters[&cluster].clone();
    for (id, node) in &world.nodes {
        if first.names(*id, node.disk.incarnation) {
            assert_eq!(node.disk.log, Some(cluster), "{id} is named and left out");
            continue;
        }
        assert_eq!(node.disk.log, None, "{id} was let in");
        reached.refused_as_wiped += 1;
        match node.failure.as_ref() {
            Some(FormationError::FormedElsewhere { .. }) => assert_eq!(*id, n(1)),
            Some(FormationError::Refused {
                refusal: Refusal::WrongIncarnation { .. },
                ..
            }) => assert_ne!(*id, n(1)),
            other => panic!("{id} should have been refused: {other:?}"),
        }
    }
}

fn count(world: &World, reached: &mut Reached) {
    reached.formed_in_chaos += usize::from(!world.working.is_empty());
    reached.wiped_gatherers += usize::from(world.wipes.contains_key(&n(1)));
    let sent = |name: &str| usize::from(world.sent.contains(name));
    reached.abandoned += sent("abandoned");
    reached.released += sent("released");
    reached.superseded += sent("superseded");
}

/// Which seeds to run; `RAFT_FORMATION_SEEDS` sets how many.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let wanted = std::env::var("RAFT_FORMATION_SEEDS");
    let wanted = wanted.ok().and_then(|text| text.parse().ok());
    0..wanted.unwrap_or(default)
}

/// Runs one seed after the other; a failing one is named before its panic is passed on.
fn for_each_seed(default: u64, mut run: impl FnMut(u64)) {
    for seed in seeds(default) {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed)));
        if let Err(panic) = outcome {
            eprintln!("seed {seed} failed");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn seeds_form_exactly_one_cluster() {
    let mut reached = Reached::default();
    for_each_seed(1500, |seed| {
        let mut world = chaos(seed, Delivery::PerConnection, 1);
        count(&world, &mut reached);
        assert_settled(&mut world, &mut reached);
        world.assert_one_cluster();
    });
    eprintln!("{reached:?}");
    assert!(reached.formed_in_chaos > 50, "{reached:?}");
    assert!(reached.wiped_gatherers > 50, "{reached:?}");
    assert!(reached.refused_as_wiped > 50, "{reached:?}");
    assert!(reached.abandoned > 10, "{reached:?}");
    assert!(reached.released > 5, "{reached:?}");
}

#[test]
fn seeds_with_messages_from_the_dead_never_let_two_clusters_work() {
    let mut reached = Reached::default();
    for_each_seed(1500, |seed| {
        // `World` checks after each log that is created.
        let world = chaos(seed, Delivery::Anytime, 5);
        count(&world, &mut reached);
    });
    eprintln!("{reached:?}");
    assert!(reached.superseded > 5, "{reached:?}");
    assert!(reached.formed_in_chaos > 50, "{reached:?}");
}
