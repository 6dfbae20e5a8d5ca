//! Runs seeds on several threads, shows how far it is, and adds up what they did.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use raft_sim::campaign::{Failure, Report, run};
use raft_sim::{Mark, Tally, TraceDepth};
use serde_json::json;

use super::Plans;
use super::workload::Factory;

/// One seed in so many runs twice and must leave the same trace.
const REPEAT_EVERY: u64 = 100;
/// How often progress is shown.
const SHOW_EVERY: Duration = Duration::from_secs(5);
/// Failures after which nothing more is learned.
const FAILURES_MAX: usize = 20;
/// So many histories may hold one in which the search for an order was given up.
const UNDECIDED_ONE_IN: u64 = 1_000;
/// Latest events that a failing seed keeps.
const LATEST: usize = 200;

/// Which seeds to run.
pub(crate) struct Campaign {
    first: u64,
    seeds: Option<u64>,
    deadline: Option<Instant>,
    workload: Factory,
    plans: Plans,
    taken: AtomicU64,
    outcome: Mutex<Outcome>,
}

/// What became of them.
#[derive(Default)]
pub(crate) struct Outcome {
    seeds: u64,
    repeated: u64,
    undecided: u64,
    /// Seeds after which too few sound disks were left to go on.
    halted: u64,
    virtual_ms: u64,
    operations: u64,
    /// Writes acknowledged after the first fault, per seed.
    acknowledged: Vec<u64>,
    pub(crate) failures: BTreeMap<u64, Failure>,
    pub(crate) tally: Tally,
    took: Duration,
}

impl Campaign {
    pub(crate) fn new(
        first: u64,
        seeds: Option<u64>,
        deadline: Option<Instant>,
        workload: Factory,
        plans: Plans,
    ) -> Self {
        Self {
            first,
            seeds,
            deadline,
            workload,
            plans,
            taken: AtomicU64::new(0),
            outcome: Mutex::default(),
        }
    }

    /// Runs until the seeds or the time are used up.
    pub(crate) fn run(self, jobs: usize) -> Outcome {
        let start = Instant::now();
        println!("seeds from {} on, {jobs} at a time", self.first);
        std::thread::scope(|scope| {
            for job in 0..jobs {
                let campaign = &self;
                scope.spawn(move || campaign.work(start, job == 0));
            }
        });
        let outcome = self.outcome.into_inner();
        let mut outcome = outcome.unwrap_or_else(PoisonError::into_inner);
        outcome.took = start.elapsed();
        outcome
    }

    fn work(&self, start: Instant, shows: bool) {
        let mut shown = start;
        while let Some(seed) = self.next_seed() {
            let plan = self.plans.plan(seed);
            let depth = TraceDepth::Latest(LATEST);
            let result = run(&plan, &self.workload, depth);
            let repeated = seed.is_multiple_of(REPEAT_EVERY).then(|| {
                let again = run(&plan, &self.workload, TraceDepth::Latest(0));
                again.map(|report| report.trace_hash)
            });
            match &result {
                Ok(report) if report.undecided > 0 => {
                    println!("seed {seed} is undecided: the search for an order was given up");
                }
                Ok(_) => {}
                Err(failure) => println!("seed {seed} {}", super::first_line(failure)),
            }
            let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
            outcome.add(seed, result, repeated);
            if shows && shown.elapsed() >= SHOW_EVERY {
                shown = Instant::now();
                println!("{}", outcome.progress(start.elapsed()));
            }
        }
    }

    fn next_seed(&self) -> Option<u64> {
        let failed = self
            .outcome
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .failures
            .len();
        let is_over = self.deadline.is_some_and(|at| Instant::now() >= at);
        if is_over || failed >= FAILURES_MAX {
            return None;
        }
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        let is_left = self.seeds.is_none_or(|seeds| number < seeds);
        is_left.then(|| self.first.wrapping_add(number))
    }
}

impl Outcome {
    fn add(
        &mut self,
        seed: u64,
        result: Result<Report, Failure>,
        repeated: Option<Result<u64, Failure>>,
    ) {
        self.seeds += 1;
        let report = match result {
            Ok(report) => report,
            Err(failure) => {
                self.failures.insert(seed, failure);
                return;
            }
        };
        if let Some(again) = repeated {
            self.repeated += 1;
            if again != Ok(report.trace_hash) {
                let message = "determinism: another run of the seed leaves another trace";
                self.failures.insert(
                    seed,
                    Failure {
                        message: message.to_string(),
                        at_ms: report.virtual_ms,
                        trace: Vec::new(),
                    },
                );
            }
        }
        self.undecided += report.undecided;
        self.halted += u64::from(report.has_halted);
        self.virtual_ms += report.virtual_ms;
        self.operations += report.operations;
        self.acknowledged.push(report.acknowledged_after_fault);
        self.tally.add(&report.tally);
    }

    /// More histories that show nothing than can be borne: one in a thousand.
    pub(crate) fn is_too_undecided(&self) -> bool {
        self.undecided > self.seeds.div_ceil(UNDECIDED_ONE_IN)
    }

    fn progress(&self, took: Duration) -> String {
        let kinds = self.tally.faults.iter();
        let kinds: Vec<_> = kinds
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        format!(
            "{} seeds ({:.1}/s), {:.2} virtual hours, {} operations, {} of {} rare states, \
             {} undecided, {} failed; faults: {}",
            self.seeds,
            self.seeds as f64 / took.as_secs_f64(),
            self.virtual_ms as f64 / 3.6e6,
            self.operations,
            self.tally.marks.len(),
            Mark::ALL.len(),
            self.undecided,
            self.failures.len(),
            kinds.join(", "),
        )
    }

    /// One line of JSON.
    pub(crate) fn summary(&self) -> String {
        let mut acknowledged = self.acknowledged.clone();
        acknowledged.sort_unstable();
        let median = acknowledged.get(acknowledged.len() / 2).copied();
        let marks: serde_json::Map<_, _> = Mark::ALL
            .iter()
            .map(|mark| {
                let count = self.tally.marks.get(mark).copied().unwrap_or_default();
                (mark.name().to_string(), json!(count))
            })
            .collect();
        json!({
            "seeds": self.seeds,
            "failed": self.failures.len(),
            "undecided": self.undecided,
            "halted": self.halted,
            "repeated": self.repeated,
            "virtual_seconds": self.virtual_ms / 1000,
            "seconds": self.took.as_secs_f64(),
            "operations": self.operations,
            "median_acknowledged_after_first_fault": median,
            "faults": self.tally.faults,
            "repairs": self.tally.repairs,
            "marks": marks,
        })
        .to_string()
    }
}
