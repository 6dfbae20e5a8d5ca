//! Makes a failing plan smaller: faults by delta debugging, then nodes, then operations.
//!
//! A smaller plan counts only if it fails in the same way: with a message that begins alike.

use super::plan::Plan;
use super::runner::{Failure, WorkloadFactory, run};
use crate::trace::TraceDepth;

/// How many words of a failure's message make its kind.
const KIND_WORDS: usize = 2;

/// The smallest failing plan that was found.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The plan.
    pub plan: Plan,
    /// How it fails.
    pub failure: Failure,
    /// How many plans were run to find it.
    pub runs: u32,
}

/// Looks for a smaller plan that fails like `failure`, in at most `runs_max` runs.
pub fn shrink(plan: &Plan, failure: Failure, workload: &WorkloadFactory, runs_max: u32) -> Shrunk {
    let mut search = Search {
        kind: kind_of(&failure.message),
        best: Shrunk {
            plan: plan.clone(),
            failure,
            runs: 0,
        },
        workload,
        runs_max,
    };
    search.cut_the_end();
    search.drop_faults();
    search.drop_nodes();
    search.drop_operations();
    search.drop_faults();
    search.best
}

fn kind_of(message: &str) -> String {
    let words: Vec<_> = message.split_whitespace().take(KIND_WORDS).collect();
    words.join(" ")
}

struct Search<'a> {
    kind: String,
    best: Shrunk,
    workload: &'a WorkloadFactory,
    runs_max: u32,
}

impl Search<'_> {
    /// Runs a smaller plan; keeps it if it fails alike.
    fn try_plan(&mut self, plan: Plan) -> bool {
        if self.best.runs >= self.runs_max {
            return false;
        }
        self.best.runs += 1;
        match run(&plan, self.workload, TraceDepth::Latest(0)) {
            Err(failure) if kind_of(&failure.message) == self.kind => {
                self.best.plan = plan;
                self.best.failure = failure;
                true
            }
            Ok(_) | Err(_) => false,
        }
    }

    /// Faults after the failure have nothing to do with it.
    fn cut_the_end(&mut self) {
        let at_ms = self.best.failure.at_ms;
        let mut plan = self.best.plan.clone();
        plan.faults.retain(|(at, _)| *at <= at_ms);
        self.try_plan(plan);
    }

    /// Delta debugging (Zeller and Hildebrandt 2002): drops parts of the list, ever smaller ones.
    fn drop_faults(&mut self) {
        let mut parts = 2;
        while !self.best.plan.faults.is_empty() && self.best.runs < self.runs_max {
            let count = self.best.plan.faults.len();
            let size = count.div_ceil(parts);
            let dropped = (0..count).step_by(size).any(|start| {
                let mut plan = self.best.plan.clone();
                let end = (start + size).min(plan.faults.len());
                plan.faults.drain(start.min(end)..end);
                self.try_plan(plan)
            });
            if dropped {
                parts = 2.max(parts - 1);
            } else if size == 1 {
                return;
            } else {
                parts = (parts * 2).min(count);
            }
        }
    }

    fn drop_nodes(&mut self) {
        for nodes in [1, 2, 3, 4, 5] {
            if nodes < self.best.plan.world.nodes {
                let mut plan = self.best.plan.clone();
                plan.world.nodes = nodes;
                if self.try_plan(plan) {
                    return;
                }
            }
        }
    }

    fn drop_operations(&mut self) {
        for clients in [0, 1, 2, 4] {
            if clients < self.best.plan.clients {
                let mut plan = self.best.plan.clone();
                plan.clients = clients;
                if self.try_plan(plan) {
                    break;
                }
            }
        }
        for operations in [1, 3, 10, 30, 100] {
            if operations < self.best.plan.operations_max {
                let mut plan = self.best.plan.clone();
                plan.operations_max = operations;
                if self.try_plan(plan) {
                    return;
                }
            }
        }
    }
}
