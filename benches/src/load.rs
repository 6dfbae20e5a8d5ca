//! What a load is asked for and what it found, in the words of `raft-kv bench`.

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Operation {
    /// Writes.
    Put,
    /// Linearizable reads.
    Get,
}

/// A load.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// What clients do
    #[arg(long, value_enum)]
    pub kind: Operation,
    /// Operations in total
    #[arg(long)]
    pub total: u64,
    /// Clients; each does one operation after the other
    #[arg(long)]
    pub clients: u64,
    /// Connections that they share
    #[arg(long)]
    pub connections: u64,
    /// Length of values in bytes
    #[arg(long, default_value_t = 256)]
    pub value_size: usize,
    /// How many different keys there are
    #[arg(long, default_value_t = 100_000)]
    pub key_space: u64,
    /// Operations that are due per second, whether earlier ones have ended or not; without it, as
    /// many as are answered
    #[arg(long)]
    pub rate: Option<f64>,
    /// Each key once, in order, instead of keys at random
    #[arg(long)]
    pub sequential: bool,
}

impl Plan {
    /// When an operation is due after the begin; `None` if it is due as soon as a client is free.
    #[must_use]
    pub fn due(&self, number: u64) -> Option<Duration> {
        let rate = self.rate?;
        Some(Duration::from_secs_f64(number as f64 / rate))
    }

    /// The key of an operation: 16 bytes.
    #[must_use]
    pub fn key(&self, number: u64) -> String {
        let key = if self.sequential {
            number % self.key_space
        } else {
            scatter(number) % self.key_space
        };
        format!("key/{key:012}")
    }
}

/// Numbers in no particular order, the same for the same number.
fn scatter(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Latencies of the operations that ended.
#[derive(Debug)]
pub struct Latencies {
    begin: Instant,
    histogram: Histogram<u64>,
}

impl Latencies {
    /// Of operations that begin now.
    ///
    /// # Panics
    /// Never: the precision is a constant that works.
    #[must_use]
    pub fn begin() -> Self {
        Self {
            begin: Instant::now(),
            histogram: Histogram::new(3).expect("three digits are possible"),
        }
    }

    /// When it began.
    #[must_use]
    pub const fn begun(&self) -> Instant {
        self.begin
    }

    /// An operation took so long.
    ///
    /// # Panics
    /// Never: the histogram grows as it must.
    pub fn record(&mut self, latency: Duration) {
        // Nanoseconds of an operation fit.
        let recorded = self.histogram.record(latency.as_nanos() as u64);
        recorded.expect("the histogram grows");
    }

    /// One line of JSON with the fields of `raft-kv bench -w json`.
    #[must_use]
    pub fn report(&self, errors: u64) -> String {
        let elapsed = self.begin.elapsed().as_secs_f64();
        let ops = self.histogram.len();
        let us = |ns: u64| ns as f64 / 1e3;
        serde_json::json!({
            "ops": ops,
            "errors": errors,
            "ops_per_s": ops as f64 / elapsed,
            "p50_us": us(self.histogram.value_at_quantile(0.5)),
            "p99_us": us(self.histogram.value_at_quantile(0.99)),
            "max_us": us(self.histogram.max()),
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut latencies = Latencies::begin();
        for ms in 1..=100 {
            latencies.record(Duration::from_millis(ms));
        }
        let report: serde_json::Value = serde_json::from_str(&latencies.report(2)).unwrap();
        let about = |field: &str, us: f64| {
            let found = report[field].as_f64().unwrap();
            assert!((found / us - 1.0).abs() < 0.01, "{field}: {found}");
        };
        about("p50_us", 50_000.0);
        about("p99_us", 99_000.0);
        about("max_us", 100_000.0);
        assert_eq!(
            (&report["ops"], &report["errors"]),
            (&100.into(), &2.into())
        );
    }
}
