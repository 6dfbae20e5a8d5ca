//! Seeded random numbers: the same on every platform, and a stream of its own for every purpose.
//!
//! Removing one source of chance (a link, a disk, a client) must not shift the others, or a
//! failing seed could not be shrunk. So nothing shares a generator: each takes the stream that is
//! named after it.

use raft_proto::NodeId;

/// Who draws from a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Loss, delay and order of what one node sends to another.
    Link {
        /// The sender.
        from: NodeId,
        /// The receiver.
        to: NodeId,
    },
    /// Latency of a node's disk, and what survives of its unsynced sectors.
    Disk(NodeId),
    /// Origin and rate of a node's clock.
    Clock(NodeId),
    /// Latencies within a node's process, and the seed of its consensus core.
    Process(NodeId),
    /// What a simulated client decides.
    Client(u64),
    /// Loss and delay between a client and the nodes.
    ClientLink(u64),
    /// The scenario: what a test decides.
    Scenario,
    /// When and how faults of one kind happen.
    Nemesis(u64),
}

impl Stream {
    fn numbers(self) -> [u64; 3] {
        match self {
            Self::Link { from, to } => [1, from.0, to.0],
            Self::Disk(node) => [2, node.0, 0],
            Self::Clock(node) => [3, node.0, 0],
            Self::Process(node) => [4, node.0, 0],
            Self::Client(client) => [5, client, 0],
            Self::ClientLink(client) => [6, client, 0],
            Self::Scenario => [7, 0, 0],
            Self::Nemesis(kind) => [8, kind, 0],
        }
    }
}

/// A generator (xoshiro256++, seeded by SplitMix64).
///
/// ```
/// use raft_sim::{Random, Stream};
///
/// let mut a = Random::stream(7, Stream::Scenario);
/// let mut b = Random::stream(7, Stream::Scenario);
/// assert_eq!(a.below(1_000_000), b.below(1_000_000));
/// ```
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The stream for this purpose in the world of this seed.
    #[must_use]
    pub fn stream(seed: u64, stream: Stream) -> Self {
        let mut mixed = seed;
        for number in stream.numbers() {
            mixed = split_mix(&mut mixed) ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93);
        }
        let state = std::array::from_fn(|_| split_mix(&mut mixed));
        Self { state }
    }

    /// The generator that follows from these bits.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        let mut mixed = bits;
        let state = std::array::from_fn(|_| split_mix(&mut mixed));
        Self { state }
    }

    /// Another generator, which follows from this one and shares nothing with it.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::from_bits(self.bits())
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let [s0, s1, s2, s3] = &mut self.state;
        let result = s0.wrapping_add(*s3).rotate_left(23).wrapping_add(*s0);
        let shifted = *s1 << 17;
        *s2 ^= *s0;
        *s3 ^= *s1;
        *s1 ^= *s2;
        *s0 ^= *s3;
        *s2 ^= shifted;
        *s3 = s3.rotate_left(45);
        result
    }

    /// A number below `bound`, every one as likely.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below 0");
        // Numbers at the end that would favour some remainders are drawn again; at most half of
        // all are, so the chance of 128 bad draws in a row is nil, and the bound keeps it finite.
        let unbiased = u64::MAX - u64::MAX % bound;
        for _ in 0..128 {
            let drawn = self.bits();
            if drawn < unbiased {
                return drawn % bound;
            }
        }
        0
    }

    /// A number from `low` to `high`, both included.
    ///
    /// # Panics
    /// If `low` exceeds `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range has no number");
        match (high - low).checked_add(1) {
            Some(count) => low + self.below(count),
            None => self.bits(),
        }
    }

    /// Whether something happens that has this chance, in thousandths.
    pub fn per_mille(&mut self, chance: u64) -> bool {
        self.below(1000) < chance
    }

    /// One of the items.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// Puts the items into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            items.swap(last, other);
        }
    }

    /// `length` random bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.bits().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_independent_and_repeatable() {
        let first = |stream| Random::stream(42, stream).bits();
        let link = |from, to| Stream::Link {
            from: NodeId(from),
            to: NodeId(to),
        };
        let streams = [
            link(1, 2),
            link(2, 1),
            Stream::Disk(NodeId(1)),
            Stream::Clock(NodeId(1)),
            Stream::Client(1),
            Stream::Scenario,
        ];
        for (at, a) in streams.iter().enumerate() {
            assert_eq!(first(*a), first(*a));
            for b in &streams[at + 1..] {
                assert_ne!(first(*a), first(*b), "{a:?} {b:?}");
            }
        }
        assert_ne!(
            Random::stream(1, Stream::Scenario).bits(),
            Random::stream(2, Stream::Scenario).bits()
        );
    }

    #[test]
    fn the_generator_gives_the_published_numbers() {
        // xoshiro256++ from the state 1, 2, 3, 4.
        let mut random = Random {
            state: [1, 2, 3, 4],
        };
        let drawn: [u64; 3] = std::array::from_fn(|_| random.bits());
        assert_eq!(drawn, [41_943_041, 58_720_359, 3_588_806_011_781_223]);
    }

    #[test]
    fn ranges_are_kept_and_filled() {
        let mut random = Random::stream(3, Stream::Scenario);
        let mut seen = [0u32; 5];
        for _ in 0..5000 {
            seen[random.between(10, 14) as usize - 10] += 1;
        }
        assert!(
            seen.iter().all(|count| (800..1200).contains(count)),
            "{seen:?}"
        );
        assert_eq!(random.bytes(13).len(), 13);
        let hits = (0..10_000).filter(|_| random.per_mille(100)).count();
        assert!((800..1200).contains(&hits), "{hits}");
    }
}
