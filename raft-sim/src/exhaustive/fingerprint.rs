//! A hash of everything a core holds, taken from its `Debug` text as it is written.
//!
//! The text is complete, because the core derives `Debug` everywhere, and cannot fall behind when
//! the core gets a field. Two things in it are changed on the way: a `Time` is hashed relative to
//! the node's clock, in steps of [`STEP_MS`], and the state of `Random` not at all.

use std::fmt::{self, Write};

use raft_core::Time;
use xxhash_rust::xxh3::Xxh3;

/// Times closer than this are taken for equal: half a heartbeat interval of the model.
pub(super) const STEP_MS: i64 = 50;

/// Hashes the `Debug` text of `value`, seen at `now`.
pub(super) fn of(value: &impl fmt::Debug, now: Time) -> u64 {
    let mut sink = Sink {
        hash: Xxh3::new(),
        now,
        place: Place::Anywhere,
    };
    // This sink never fails.
    let _ = write!(sink, "{value:?}");
    sink.hash.digest()
}

/// What the text just written means for the next number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Anywhere,
    /// After the name `Time`.
    TimeName,
    /// After `Time(`: the next number is a time.
    Time,
    /// After the name `Random`: the next number is the generator's state.
    Random,
}

struct Sink {
    hash: Xxh3,
    now: Time,
    place: Place,
}

impl Write for Sink {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let number = text.parse::<u64>().ok();
        self.place = match (self.place, number) {
            (Place::Time, Some(time)) => {
                let relative = time as i64 - self.now.0 as i64;
                let steps = relative.div_euclid(STEP_MS * 1_000_000);
                self.hash.update(&steps.to_le_bytes());
                Place::Anywhere
            }
            (Place::Random, Some(_)) => Place::Anywhere,
            (place, _) => {
                self.hash.update(text.as_bytes());
                match (place, text) {
                    (_, "Time") => Place::TimeName,
                    (Place::TimeName, "(") => Place::Time,
                    (_, "Random") | (Place::Random, _) => Place::Random,
                    (Place::Anywhere | Place::TimeName | Place::Time, _) => Place::Anywhere,
                }
            }
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Random {
        #[allow(dead_code, reason = "read by Debug only")]
        state: u64,
    }

    #[derive(Debug)]
    struct Sample {
        #[allow(dead_code, reason = "read by Debug only")]
        random: Random,
        #[allow(dead_code, reason = "read by Debug only")]
        deadline: Option<Time>,
        #[allow(dead_code, reason = "read by Debug only")]
        count: u64,
    }

    fn sample(state: u64, deadline_ms: u64, count: u64) -> Sample {
        Sample {
            random: Random { state },
            deadline: Some(Time::from_ms(deadline_ms)),
            count,
        }
    }

    #[test]
    fn times_are_relative_and_coarse_and_randomness_is_left_out() {
        let base = of(&sample(1, 700, 3), Time::from_ms(500));
        assert_eq!(base, of(&sample(2, 1_700, 3), Time::from_ms(1_500)));
        assert_eq!(base, of(&sample(1, 720, 3), Time::from_ms(500)));
        assert_ne!(base, of(&sample(1, 750, 3), Time::from_ms(500)));
        assert_ne!(base, of(&sample(1, 700, 4), Time::from_ms(500)));
    }
}
