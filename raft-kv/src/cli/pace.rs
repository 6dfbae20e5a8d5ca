//! Open-loop load: requests are due at a constant rate, whether earlier ones have ended or not.
//!
//! A client that waits for an answer before it asks again asks less when the servers are slow, and
//! so leaves out the very moments that a percentile is about. Here each request has a time at which
//! it is due, and its latency counts from then on.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// Turns are given out at least this far apart, several at a time if need be: about what a thread
/// can sleep reliably.
const TICK: Duration = Duration::from_micros(50);

/// Gives out turns at a constant rate.
pub(super) struct Pace {
    began: Instant,
    per_second: f64,
    turns: Arc<Semaphore>,
}

impl Pace {
    /// Starts a thread that gives out `total` turns and ends.
    pub(super) fn start(per_second: f64, total: u64) -> std::io::Result<Self> {
        let turns = Arc::new(Semaphore::new(0));
        let began = Instant::now();
        let pace = Self {
            began,
            per_second,
            turns: Arc::clone(&turns),
        };
        let give_out = move || {
            let mut given = 0;
            while given < total {
                let elapsed = began.elapsed().as_secs_f64();
                // Truncation is meant: a turn is given when it is due, not before.
                let due = ((elapsed * per_second) as u64 + 1).min(total);
                // No run waits for more turns than a semaphore holds.
                turns.add_permits((due - given) as usize);
                given = due;
                let next = began + Duration::from_secs_f64(given as f64 / per_second);
                let pause = next.saturating_duration_since(Instant::now());
                thread::sleep(pause.max(TICK));
            }
        };
        thread::Builder::new()
            .name("bench-pace".to_owned())
            .spawn(give_out)?;
        Ok(pace)
    }

    /// Waits for the turn of request `number`, counted from 0; returns when it was due.
    pub(super) async fn turn(&self, number: u64) -> Instant {
        if let Ok(turn) = self.turns.acquire().await {
            turn.forget();
        }
        self.began + Duration::from_secs_f64(number as f64 / self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn no_turn_comes_early_and_all_come() {
        let pace = Pace::start(20_000.0, 200).unwrap();
        let began = pace.began;
        for number in 0..200 {
            let due = pace.turn(number).await;
            assert!(due <= Instant::now());
            assert_eq!(due, began + Duration::from_micros(50) * number as u32);
        }
        assert!(began.elapsed() >= Duration::from_micros(199 * 50));
    }
}
