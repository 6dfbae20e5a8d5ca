//! The core's only randomness: a small generator that is a pure function of its seed.

/// SplitMix64: every seed gives a full-period, well-mixed sequence.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    /// A generator whose sequence depends on all of the parts.
    pub(crate) fn from_parts(parts: &[u64]) -> Self {
        let mut random = Self { state: 0 };
        for part in parts {
            random.state ^= part;
            random.state = random.next();
        }
        random
    }

    /// A number in `0..bound`; 0 if the bound is 0. The bias is below `bound` / 2^64.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let product = u128::from(self.next()) * u128::from(bound);
        (product >> 64) as u64
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_depend_on_every_part_and_stay_in_bounds() {
        let draw = |parts: &[u64]| {
            let mut random = Random::from_parts(parts);
            [random.below(1000), random.below(1000), random.below(1000)]
        };
        assert_eq!(draw(&[1, 2]), draw(&[1, 2]));
        assert_ne!(draw(&[1, 2]), draw(&[2, 1]));
        assert_ne!(draw(&[1, 2]), draw(&[1, 3]));
        let mut random = Random::from_parts(&[7]);
        assert!((0..1000).all(|_| random.below(3) < 3));
        assert_eq!(random.below(0), 0);
    }
}
