//! What the cluster is given: the files of the repository, and a put/get load.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::process::Process;
use super::tool::{self, Tool};
use crate::workspace;

/// Files that are stored or read at a time.
const PARALLEL: usize = 4;
/// How often progress is shown, in files.
const SHOW_EVERY: usize = 50;
/// When a load counts as hanging.
const PATIENCE: Duration = Duration::from_secs(600);

/// The files of the repository, with their contents as first read.
pub(crate) struct Files(Vec<(String, Vec<u8>)>);

impl Files {
    pub(crate) fn read(root: &Path) -> Result<Self, String> {
        let paths =
            workspace::files(root).map_err(|error| format!("cannot list files: {error}"))?;
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            let key = path
                .to_str()
                .ok_or(format!("{} is not UTF-8", path.display()))?;
            let bytes = fs::read(root.join(&path)).map_err(|error| format!("{key}: {error}"))?;
            files.push((key.to_string(), bytes));
        }
        if files.is_empty() {
            return Err(format!("there are no files in {}", root.display()));
        }
        Ok(Self(files))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// Puts every file under its path.
    pub(crate) fn store(&self, tool: &Tool) -> Result<(), String> {
        self.for_each("stored", |key, bytes| tool.put(key, bytes))
    }

    /// Gets every file and compares it byte by byte; returns how many were equal, which is all.
    pub(crate) fn compare(&self, tool: &Tool) -> Result<usize, String> {
        self.for_each("equal", |key, bytes| match tool.get(key)? {
            Some(found) if found == bytes => Ok(()),
            Some(found) => Err(difference(key, bytes, &found)),
            None => Err(format!("{key} is lost")),
        })?;
        Ok(self.count())
    }

    /// Does something with every file, some at a time; the first error ends it.
    fn for_each(
        &self,
        done: &str,
        each: impl Fn(&str, &[u8]) -> Result<(), String> + Sync,
    ) -> Result<(), String> {
        let next = AtomicUsize::new(0);
        let worker = || {
            while let Some((key, bytes)) = self.0.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(reason) = each(key, bytes) {
                    // The others find nothing more to do.
                    next.store(self.count(), Ordering::Relaxed);
                    return Err(reason);
                }
                let so_far = next.load(Ordering::Relaxed).min(self.count());
                if so_far.is_multiple_of(SHOW_EVERY) {
                    println!("    {so_far} of {} files {done}", self.count());
                }
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..PARALLEL).map(|_| scope.spawn(worker)).collect();
            let ended = workers.into_iter().map(thread::ScopedJoinHandle::join);
            let outcomes = ended.map(|outcome| match outcome {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            outcomes.collect::<Result<Vec<()>, _>>().map(drop)
        })
    }
}

/// Where two contents begin to differ.
fn difference(key: &str, stored: &[u8], found: &[u8]) -> String {
    let equal = stored.iter().zip(found).take_while(|(a, b)| a == b).count();
    format!(
        "{key} came back different from byte {equal} on: {} bytes stored, {} bytes read",
        stored.len(),
        found.len()
    )
}

/// Whether a load shows its progress bar.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bar {
    Shown,
    Hidden,
}

/// Which key comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    AtRandom,
    /// Each once, if there are as many operations as keys.
    InOrder,
}

/// What a load does.
pub(crate) struct Shape {
    /// `put`, or `get` for linearizable reads.
    pub(crate) kind: &'static str,
    pub(crate) clients: u64,
    /// Connections that the clients share.
    pub(crate) connections: u64,
    pub(crate) value_bytes: u64,
    /// How many different keys there are.
    pub(crate) keys: u64,
    pub(crate) order: Keys,
    /// Operations per second that are due, whether earlier ones have ended or not; `None` for as
    /// many as are answered.
    pub(crate) rate: Option<u64>,
    pub(crate) bar: Bar,
}

impl Shape {
    /// The demonstration's load.
    pub(crate) const fn of_demo(kind: &'static str, bar: Bar) -> Self {
        Self {
            kind,
            clients: 64,
            connections: 2,
            value_bytes: 256,
            keys: 10_000,
            order: Keys::AtRandom,
            rate: None,
            bar,
        }
    }
}

/// A running load generator.
pub(crate) struct BenchRun {
    name: String,
    total: u64,
    process: Process,
}

/// What a load achieved, without a single error.
pub(crate) struct BenchResult {
    pub(crate) ops: u64,
    pub(crate) ops_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

impl BenchRun {
    pub(crate) fn start(tool: &Tool, shape: &Shape, total: u64) -> Result<Self, String> {
        let mut command = tool.client(&["bench", shape.kind, "-w", "json"]);
        Self::start_as("raft-kv bench", &mut command, shape, total)
    }

    /// Starts a load generator that takes the flags of `raft-kv bench` and prints its JSON.
    pub(crate) fn start_as(
        generator: &'static str,
        command: &mut Command,
        shape: &Shape,
        total: u64,
    ) -> Result<Self, String> {
        for (flag, number) in [
            ("--total", total),
            ("--clients", shape.clients),
            ("--value-size", shape.value_bytes),
            ("--key-space", shape.keys),
            ("--connections", shape.connections),
        ] {
            command.args([flag, &number.to_string()]);
        }
        if shape.order == Keys::InOrder {
            command.arg("--sequential");
        }
        if let Some(rate) = shape.rate {
            command.args(["--rate", &rate.to_string()]);
        }
        let stderr = match shape.bar {
            Bar::Shown => Stdio::inherit(),
            Bar::Hidden => Stdio::piped(),
        };
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let name = format!("{generator} {}", shape.kind);
        let process = Process::start(&name, command)?;
        Ok(Self {
            name,
            total,
            process,
        })
    }

    /// # Errors
    /// It has ended; `otherwise` says what that means.
    pub(crate) fn must_still_run(&mut self, otherwise: &str) -> Result<(), String> {
        match self.process.ended()?.is_none() {
            true => Ok(()),
            false => Err(otherwise.to_string()),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It failed, or one of its operations did.
    pub(crate) fn finish(self) -> Result<BenchResult, String> {
        let name = self.name;
        let output = self.process.finish(PATIENCE)?;
        let printed = tool::parse(&name, &output)?;
        let number = |field: &str| {
            let value = printed[field].as_f64();
            value.ok_or(format!("{name} printed no {field}: {printed}"))
        };
        let (ops, errors) = (printed["ops"].as_u64(), printed["errors"].as_u64());
        if ops != Some(self.total) || errors != Some(0) || !output.status.success() {
            let wanted = self.total;
            return Err(format!(
                "{name}: of {wanted} operations some failed: {printed}"
            ));
        }
        Ok(BenchResult {
            ops: self.total,
            ops_per_s: number("ops_per_s")?,
            p50_us: number("p50_us")?,
            p99_us: number("p99_us")?,
            max_us: number("max_us")?,
        })
    }
}

impl fmt::Display for BenchResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            ops,
            ops_per_s,
            p50_us,
            p99_us,
            max_us,
        } = self;
        let [p50, p99, max] = [p50_us, p99_us, max_us].map(|us| us / 1000.0);
        write!(
            f,
            "{ops} ops, no error, {ops_per_s:.0}/s, p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.0} ms"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn files(count: usize) -> Files {
        Files((0..count).map(|n| (n.to_string(), vec![n as u8])).collect())
    }

    #[test]
    fn every_file_is_visited_once() {
        let seen = Mutex::new(Vec::new());
        let visit = |key: &str, _: &[u8]| {
            seen.lock().unwrap().push(key.parse::<usize>().unwrap());
            Ok(())
        };
        files(120).for_each("seen", visit).unwrap();
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert_eq!(seen, (0..120).collect::<Vec<_>>());
    }

    #[test]
    fn one_error_ends_it() {
        let visit = |key: &str, _: &[u8]| match key {
            "7" => Err("no".to_string()),
            _ => Ok(()),
        };
        assert_eq!(files(20).for_each("seen", visit), Err("no".to_string()));
    }

    #[test]
    fn differences_are_located() {
        let said = difference("k", b"abc", b"abd");
        assert_eq!(
            said,
            "k came back different from byte 2 on: 3 bytes stored, 3 bytes read"
        );
    }

    #[test]
    fn the_repository_has_files() {
        let files = Files::read(&workspace::root()).unwrap();
        assert!(
            files
                .0
                .iter()
                .any(|(key, _)| key == "xtask/src/demo/load.rs")
        );
        assert!(files.bytes() > 10_000);
    }
}
