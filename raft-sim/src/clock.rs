//! A node's own clock: starts anywhere at each boot, and may run fast or slow.

use raft_core::Time;

use crate::options::ClockOptions;
use crate::random::Random;

const MILLION: u128 = 1_000_000;

/// Largest origin of a node's clock, in milliseconds: an hour.
const ORIGIN_MS_MAX: u64 = 3_600_000;

/// Translates between the world's time and the node's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeClock {
    /// The world's time at boot, or when the clock was changed last.
    boot: Time,
    /// What the node's clock showed then.
    origin: Time,
    /// Nanoseconds that it advances in a million of the world's.
    rate: u64,
}

impl NodeClock {
    pub(crate) fn booted(now: Time, options: ClockOptions, random: &mut Random) -> Self {
        let drift = options.drift_ppm_max.min(500_000);
        Self {
            boot: now,
            origin: Time::from_ms(random.below(ORIGIN_MS_MAX)),
            rate: random.between(1_000_000 - drift, 1_000_000 + drift),
        }
    }

    /// From now on it advances by so many nanoseconds in a million of the world's.
    pub(crate) fn set_rate(&mut self, now: Time, rate: u64) {
        self.origin = self.local(now);
        self.boot = now;
        self.rate = rate;
    }

    /// It jumps ahead, as a clock does that counts the time in which a machine was suspended.
    pub(crate) fn step_ms(&mut self, now: Time, ms: u64) {
        self.origin = self.local(now).plus_ms(ms);
        self.boot = now;
    }

    /// What the node's clock shows.
    pub(crate) fn local(&self, world: Time) -> Time {
        let elapsed = u128::from(world.0.saturating_sub(self.boot.0));
        let shown = elapsed * u128::from(self.rate) / MILLION;
        Time(self.origin.0.saturating_add(narrow(shown)))
    }

    /// The first moment at which the node's clock shows `local` or later; `None` if it stands still
    /// before.
    pub(crate) fn world(&self, local: Time) -> Option<Time> {
        let ahead = u128::from(local.0.saturating_sub(self.origin.0));
        if self.rate == 0 && ahead > 0 {
            return None;
        }
        let elapsed = (ahead * MILLION).div_ceil(u128::from(self.rate.max(1)));
        Some(Time(self.boot.0.saturating_add(narrow(elapsed))))
    }
}

fn narrow(nanoseconds: u128) -> u64 {
    u64::try_from(nanoseconds).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    #[test]
    fn a_clock_that_stands_still_reaches_nothing_until_it_goes_on() {
        let mut random = Random::stream(1, Stream::Scenario);
        let options = ClockOptions { drift_ppm_max: 0 };
        let mut clock = NodeClock::booted(Time::ZERO, options, &mut random);
        let due = clock.local(Time::ZERO).plus_ms(10);
        clock.set_rate(Time::from_ms(4), 0);
        assert_eq!(clock.world(due), None);
        assert!(clock.local(Time::from_ms(1_000)) < due);
        clock.set_rate(Time::from_ms(1_000), 1_000_000);
        assert_eq!(clock.world(due), Some(Time::from_ms(1_006)));
    }

    #[test]
    fn a_timer_is_due_when_the_world_says_so_whatever_the_rate() {
        let mut random = Random::stream(1, Stream::Scenario);
        for drift_ppm_max in [0, 100, 500_000] {
            let options = ClockOptions { drift_ppm_max };
            for _ in 0..100 {
                let boot = Time(random.below(1 << 40));
                let clock = NodeClock::booted(boot, options, &mut random);
                let due = clock.local(boot).plus_ns(random.below(1 << 32));
                let world = clock.world(due).expect("it runs");
                assert!(clock.local(world) >= due);
                assert!(world == boot || clock.local(Time(world.0 - 1)) < due);
            }
        }
    }
}
