//! A system under load: ours, or one that it is measured against.

use std::fs;

use crate::demo::cluster::Cluster;
use crate::demo::load::{BenchResult, BenchRun, Shape};
use crate::demo::tool::Tool;

use super::table::Row;

/// Clock ticks of /proc/PID/stat per second; fixed in Linux's user interface.
const TICKS_PER_SECOND: f64 = 100.0;
/// Operations of each client in the short run that finds the speed and warms everything up.
const TRIAL_OPERATIONS: u64 = 20;
/// The longest trial, in bytes of values.
const TRIAL_BYTES: u64 = 64 << 20;
/// The longest measurement, in bytes of values: stores keep old versions.
const MEASURED_BYTES: u64 = 512 << 20;
/// The shortest measurement, in operations.
const LEAST_OPERATIONS: u64 = 100;

/// Servers that run, and a load for them.
pub(super) trait System {
    /// What tables call it.
    fn name(&self) -> &'static str;

    /// Does so many operations.
    ///
    /// # Errors
    /// An operation failed, or a server did.
    fn load(&self, shape: &Shape, total: u64) -> Result<BenchResult, String>;

    /// The servers' processes.
    fn process_ids(&self) -> Vec<u32>;
}

/// Our servers.
pub(super) struct Ours<'a> {
    pub(super) tool: &'a Tool,
    pub(super) servers: &'a Cluster,
}

impl System for Ours<'_> {
    fn name(&self) -> &'static str {
        "raft-kv"
    }

    fn load(&self, shape: &Shape, total: u64) -> Result<BenchResult, String> {
        BenchRun::start(self.tool, shape, total)?.finish()
    }

    fn process_ids(&self) -> Vec<u32> {
        self.servers.process_ids()
    }
}

/// One run of the load generator, long enough to mean something.
pub(super) fn measure(system: &dyn System, shape: &Shape, seconds: f64) -> Result<Row, String> {
    let value_bytes = shape.value_bytes.max(1);
    let at_most = |total: u64, bytes: u64| total.min((bytes / value_bytes).max(shape.clients));
    let trial = at_most(shape.clients * TRIAL_OPERATIONS, TRIAL_BYTES);
    let trial = system.load(shape, trial)?;
    let total = ((trial.ops_per_s * seconds) as u64).max(LEAST_OPERATIONS);
    let before = processor_seconds(&system.process_ids())?;
    let result = system.load(shape, at_most(total, MEASURED_BYTES))?;
    let used = processor_seconds(&system.process_ids())? - before;
    Ok(Row {
        ops_per_s: result.ops_per_s,
        p50_us: result.p50_us,
        p99_us: result.p99_us,
        server_cpu_us: used * 1e6 / result.ops as f64,
    })
}

/// A figure of /proc/PID/status, in kB.
pub(super) fn memory_kb(process: u32, name: &str) -> Result<f64, String> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let line = status.lines().find(|line| line.starts_with(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    number.ok_or(format!("{path} has no {name}"))
}

/// Processor time of all these processes since they started: user and system, all threads.
pub(super) fn processor_seconds(processes: &[u32]) -> Result<f64, String> {
    let mut ticks = 0.0;
    for id in processes {
        let path = format!("/proc/{id}/stat");
        let stat = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        // The name in parentheses may hold spaces; utime and stime are fields 14 and 15.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok());
        let used = field(11).zip(field(12));
        let (user, system) = used.ok_or_else(|| format!("{path} is not understood: {stat}"))?;
        ticks += user + system;
    }
    Ok(ticks / TICKS_PER_SECOND)
}
