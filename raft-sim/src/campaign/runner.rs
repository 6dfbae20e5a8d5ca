//! Runs a plan: the world, its faults, its clients, restarts, and the demands at the end.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use raft_core::Time;
use raft_proto::{LogIndex, NodeId};

use super::healing::Healing;
use super::liveness;
use super::operator::Operator;
use super::plan::{Plan, STREAM_RESTARTS};
use super::workload::Workload;
use crate::cluster::{Cluster, CrashKind, StartFailure};
use crate::marks::{Mark, Tally};
use crate::random::{Random, Stream};
use crate::trace::{Record, TraceDepth};

/// How often the run looks for processes to start, in milliseconds.
const LOOK_MS: u64 = 10;
/// How long clients may take to end after the trouble, in milliseconds.
const CLIENTS_END_MS: u64 = 10_000;

/// Makes the workload of a run.
pub type WorkloadFactory = dyn Fn(&Plan) -> Box<dyn Workload>;

/// What a run without a failure did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Covers everything that happened.
    pub trace_hash: u64,
    /// Virtual time, in milliseconds.
    pub virtual_ms: u64,
    /// Operations of clients.
    pub operations: u64,
    /// Writes acknowledged after the first fault.
    pub acknowledged_after_fault: u64,
    /// Whether the cluster could not go on after the trouble, because of damage beyond the atlas
    /// that nodes have reported.
    pub has_halted: bool,
    /// Histories whose check was given up.
    pub undecided: u64,
    /// Faults and rare states.
    pub tally: Tally,
    /// What happened, as much of it as was asked for.
    pub trace: Vec<Record>,
}

/// A run that broke a promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which one.
    pub message: String,
    /// When, in virtual milliseconds.
    pub at_ms: u64,
    /// What happened, as much of it as was asked for.
    pub trace: Vec<Record>,
}

/// What the world leaves behind when a check in it panics.
#[derive(Default)]
struct LastWords {
    at_ms: u64,
    trace: Vec<Record>,
}

/// Runs a plan to its end.
///
/// # Errors
/// [`Failure`]: a violated invariant, a panic of the code under test, a history that is not
/// linearizable, or no progress after the trouble.
pub fn run(plan: &Plan, workload: &WorkloadFactory, depth: TraceDepth) -> Result<Report, Failure> {
    let last_words = Rc::new(RefCell::new(LastWords::default()));
    let kept = Rc::clone(&last_words);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut workload = workload(plan);
        let mut cluster = Cluster::new(plan.options(depth), workload.machines());
        cluster.set_witness(move |cluster| {
            *kept.borrow_mut() = LastWords {
                at_ms: cluster.now().as_ms(),
                trace: cluster.recent().copied().collect(),
            };
        });
        play(&mut cluster, plan, workload.as_mut())
    }));
    let message = match outcome {
        Ok(Ok(report)) => {
            let trace = last_words.take().trace;
            return Ok(Report { trace, ..report });
        }
        Ok(Err(message)) => message,
        Err(panic) => message_of(panic.as_ref()),
    };
    let LastWords { at_ms, trace } = last_words.take();
    Err(Failure {
        message,
        at_ms,
        trace,
    })
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let owned = panic.downcast_ref::<String>().cloned();
    let borrowed = || panic.downcast_ref::<&str>().map(ToString::to_string);
    owned
        .or_else(borrowed)
        .unwrap_or_else(|| "a panic without words".to_string())
}

fn play(cluster: &mut Cluster, plan: &Plan, workload: &mut dyn Workload) -> Result<Report, String> {
    for (at, fault) in plan.faults.iter().copied() {
        cluster.act_after_ms(at, move |cluster| fault.apply(cluster));
    }
    cluster.set_probes(workload.probe_command(), workload.probe_query());
    workload.spawn(cluster, plan);
    let mut restarts = Restarts::new(plan.seed);
    let mut operator = Operator::default();
    let mut compared = Compared::default();
    let mut healing = Healing::default();
    let end = Time::from_ms(plan.trouble_ms);
    while cluster.now() < end {
        cluster.run_for_ms(LOOK_MS);
        restarts.look(cluster);
        operator.look(cluster);
        compared.look(cluster)?;
        healing.look(cluster);
    }
    let recovery = liveness::demand(cluster, plan, workload)?;
    if !cluster.run_until(CLIENTS_END_MS, |cluster| cluster.clients_running() == 0) {
        return Err("clients wait for ever".to_string());
    }
    compared.look(cluster)?;
    healing.end(cluster);
    let judgement = workload.judge(cluster)?;
    let first_fault = Time::from_ms(plan.first_fault_ms());
    let after = judgement
        .acknowledged
        .iter()
        .filter(|at| **at > first_fault);
    Ok(Report {
        trace_hash: cluster.trace_hash(),
        virtual_ms: cluster.now().as_ms(),
        operations: judgement.operations,
        acknowledged_after_fault: after.count() as u64,
        has_halted: recovery == liveness::Recovery::Halted,
        undecided: u64::from(judgement.is_undecided),
        tally: cluster.tally().clone(),
        trace: Vec::new(),
    })
}

/// What replicas find of each other.
#[derive(Default)]
struct Compared {
    /// The last comparison that each node saw end.
    seen: BTreeMap<NodeId, LogIndex>,
}

impl Compared {
    /// No replica may differ from another one, whatever happened; a comparison that says so is
    /// wrong, or has found what no other check did.
    fn look(&mut self, cluster: &mut Cluster) -> Result<(), String> {
        for node in cluster.node_ids() {
            let Some(status) = cluster.comparison(node) else {
                continue;
            };
            if let Some(difference) = status.differences.first() {
                return Err(format!(
                    "replica comparison: {node} finds that {difference}"
                ));
            }
            let Some(last) = status.last else {
                continue;
            };
            let before = self.seen.insert(node, last.entry.index);
            if before != Some(last.entry.index) && last.silent.is_empty() {
                cluster.mark(Mark::ReplicasCompared);
            }
        }
        Ok(())
    }
}

/// Starts processes again that ended, some time later.
struct Restarts {
    seed: u64,
    random: BTreeMap<NodeId, Random>,
    due: BTreeMap<NodeId, Time>,
}

impl Restarts {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            random: BTreeMap::new(),
            due: BTreeMap::new(),
        }
    }

    fn look(&mut self, cluster: &mut Cluster) {
        let now = cluster.now();
        for node in cluster.node_ids() {
            let is_up = cluster.is_running(node) || !cluster.is_formed(node);
            if is_up || cluster.is_damaged(node) {
                self.due.remove(&node);
                continue;
            }
            let seed = self.seed;
            let random = self
                .random
                .entry(node)
                .or_insert_with(|| Random::stream(seed, Stream::Nemesis(STREAM_RESTARTS + node.0)));
            match self.due.get(&node) {
                None => {
                    let ms = *random.pick(&[0, 50, 400, 1_500]);
                    self.due.insert(node, now.plus_ms(ms));
                }
                Some(due) if *due > now => {}
                Some(_) => {
                    self.due.remove(&node);
                    start(cluster, node, random);
                }
            }
        }
    }
}

/// Starts a process; sometimes the power fails first, or in the middle of its recovery.
fn start(cluster: &mut Cluster, node: NodeId, random: &mut Random) {
    if random.per_mille(200) {
        cluster.cut_power(node);
    }
    let started = if random.per_mille(150) {
        let kind = *random.pick(&[CrashKind::PowerCut, CrashKind::Killed]);
        cluster.restart_cut_short(node, random.below(30), kind)
    } else {
        cluster.try_restart(node)
    };
    match started {
        // A disk that fails is tried again, a damaged node stays down.
        Ok(()) | Err(StartFailure::Disk(_) | StartFailure::Damaged(_)) => {}
    }
}
