//! One direction between two nodes: when what is sent arrives, and how often.

use std::collections::BTreeMap;

use raft_core::Time;
use raft_proto::{Class, NodeId};

use super::Direction;
use crate::options::{Capacity, DeliveryOrder, LinkOptions};
use crate::random::{Random, Stream};

/// When a message arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arrivals {
    /// The first time; `None` if it is lost.
    pub(crate) first: Option<Time>,
    /// A copy that travels beside it.
    pub(crate) duplicate: Option<Time>,
    /// A copy that comes long after.
    pub(crate) replay: Option<Time>,
}

impl Arrivals {
    /// All of them.
    pub(crate) fn times(self) -> impl Iterator<Item = Time> {
        [self.first, self.duplicate, self.replay]
            .into_iter()
            .flatten()
    }
}

/// One direction between two nodes.
pub(super) struct Link {
    random: Random,
    /// Decides about copies, so that they shift nothing else.
    copies: Random,
    pub(super) options: LinkOptions,
    pub(super) cut: bool,
    /// How many partitions close it.
    pub(super) blocks: u32,
    /// What is sent before arrives after.
    pub(super) clogged_until: Time,
    /// When everything accepted so far has left: control and append, and bulk.
    free_at: [Time; 2],
    /// The latest arrival scheduled per class.
    last_arrival: BTreeMap<Class, Time>,
}

impl Link {
    pub(super) fn new(seed: u64, from: NodeId, to: NodeId, options: LinkOptions) -> Self {
        let mut random = Random::stream(seed, Stream::Link { from, to });
        Self {
            copies: random.fork(),
            random,
            options,
            cut: false,
            blocks: 0,
            clogged_until: Time::ZERO,
            free_at: [Time::ZERO; 2],
            last_arrival: BTreeMap::new(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        !self.cut && self.blocks == 0
    }

    pub(super) fn open(&mut self) {
        self.cut = false;
        self.blocks = 0;
        self.clogged_until = Time::ZERO;
        self.free_at = [Time::ZERO; 2];
    }

    /// A message leaves now.
    pub(super) fn send(
        &mut self,
        now: Time,
        (direction, class): (Direction, Class),
        bytes: u64,
    ) -> Arrivals {
        let options = self.options;
        let drawn = draw_arrival(&mut self.random, &options, now, direction);
        let is_doubled = self.copies.per_mille(options.duplicates_per_mille);
        let copy_ns = options.latency.draw_ns(&mut self.copies);
        let replay_ns = options.replays.and_then(|replays| {
            let ns = replays.latency.draw_ns(&mut self.copies);
            self.copies.per_mille(replays.per_mille).then_some(ns)
        });
        let queued = match options.capacity {
            Some(capacity) => self.queue(capacity, now, class, bytes),
            None => Some(0),
        };
        let (Some(drawn), Some(queued_ns)) = (drawn, queued) else {
            return Arrivals::default();
        };
        let arrival = drawn.plus_ns(queued_ns).max(self.clogged_until);
        Arrivals {
            first: Some(self.in_order(arrival, class)),
            duplicate: is_doubled.then(|| arrival.plus_ns(copy_ns)),
            replay: replay_ns.map(|ns| arrival.plus_ns(ns)),
        }
    }

    /// How long it takes until the last byte has left, in nanoseconds; `None` if the queue is full.
    fn queue(&mut self, capacity: Capacity, now: Time, class: Class, bytes: u64) -> Option<u64> {
        let (lane, rate) = match class {
            Class::Control | Class::Append => (0, capacity.bytes_per_ms),
            Class::Bulk => (1, capacity.bulk_bytes_per_ms),
        };
        let rate = rate.max(1);
        let free_at = &mut self.free_at[lane];
        let waiting_ns = free_at.0.saturating_sub(now.0);
        let waiting_bytes = waiting_ns.saturating_mul(rate) / 1_000_000;
        if waiting_bytes > capacity.queue_bytes {
            return None;
        }
        let ns = waiting_ns + bytes * 1_000_000 / rate;
        *free_at = now.plus_ns(ns);
        Some(ns)
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
