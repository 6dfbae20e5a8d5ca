//! Whether the unit, script, paper and lab tests would have found a bug without the simulator's seeds.
//!
//! The test programs are built once, with all bugs and optimised, and run once for each bug, which the
//! environment plants in the whole program; the first one that fails ends the search.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use raft_proto::mutants::{Mutant, PLANTED_IN_PROGRAM};
use serde_json::Value;

use super::{Bug, Rows, each};
use crate::workspace::{cargo, root};

/// What is built: the unit tests of these crates,
const PACKAGES: [&str; 6] = [
    "raft-proto",
    "raft-core",
    "raft-log",
    "raft-node",
    "raft-sim",
    "raft-kv",
];
/// and these tests of theirs: scripts, paper, lab.
const TESTS: [&str; 4] = ["scripts", "paper", "lab_6824", "lab_6824_kv"];

/// A program that has not ended by then hangs.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is looked whether a program has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A test program.
struct Program {
    /// Its crate and its name.
    name: String,
    path: PathBuf,
    /// Where its crate is, in which cargo would run it.
    folder: PathBuf,
}

/// How a test program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Passed,
    Failed,
    /// It was ended, because it hangs.
    Hangs,
}

pub(super) fn run(wanted: &[Bug], jobs: usize) -> Result<Rows, String> {
    let programs = build()?;
    for program in &programs {
        let start = Instant::now();
        let ended = program.run(None)?;
        println!("{}: {:.1} s", program.name, start.elapsed().as_secs_f64());
        if ended != Ended::Passed {
            return Err(format!("{} fails without any bug", program.name));
        }
    }
    let found = each(wanted, jobs, |(mutant, _)| {
        let found = first_failure(&programs, mutant)?;
        let words = found.as_deref().unwrap_or("nothing");
        println!("{}: found by {words}", mutant.name());
        Ok(found)
    });
    let found: Vec<Option<String>> = found.into_iter().collect::<Result<_, String>>()?;
    let missed = found.iter().filter(|found| found.is_none()).count();
    println!("{missed} of {} bugs pass all of these tests", wanted.len());
    let rows = wanted.iter().zip(found).map(|((mutant, section), found)| {
        let found = found.unwrap_or_else(|| "nothing".to_string());
        vec![
            format!("`{}`", mutant.name()),
            (*section).to_string(),
            found,
        ]
    });
    Ok(Rows {
        head: &["planted bug", "section", "found by"],
        rows: rows.collect(),
        verdict: Ok(()),
    })
}

/// The first program that fails with this bug.
fn first_failure(programs: &[Program], mutant: Mutant) -> Result<Option<String>, String> {
    for program in programs {
        match program.run(Some(mutant))? {
            Ended::Passed => {}
            Ended::Failed => return Ok(Some(program.name.clone())),
            Ended::Hangs => return Ok(Some(format!("{} (hangs)", program.name))),
        }
    }
    Ok(None)
}

/// Builds the programs; the quick ones come first.
fn build() -> Result<Vec<Program>, String> {
    let mut arguments = vec!["test", "--no-run", "--message-format=json", "--lib"];
    arguments.extend(PACKAGES.iter().flat_map(|package| ["--package", package]));
    arguments.extend(TESTS.iter().flat_map(|test| ["--test", test]));
    arguments.extend(["--features", "raft-proto/mutants", "--profile", "sim"]);
    let built = cargo(&arguments).stderr(Stdio::inherit()).output();
    let built = built.map_err(|error| format!("cannot start cargo: {error}"))?;
    if !built.status.success() {
        return Err("the tests do not build".to_string());
    }
    let printed = String::from_utf8_lossy(&built.stdout);
    let mut programs: Vec<_> = printed.lines().filter_map(program_of).collect();
    programs.sort_by_key(|program| cost(&program.name));
    if programs.is_empty() {
        return Err("cargo names no test program".to_string());
    }
    Ok(programs)
}

/// The program that a line of cargo's messages tells of.
fn program_of(line: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_test = message["profile"]["test"].as_bool()?;
    let path = PathBuf::from(message["executable"].as_str().filter(|_| is_test)?);
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    let folder = manifest.parent()?.to_path_buf();
    let package = folder.strip_prefix(root()).ok()?.display().to_string();
    let target = &message["target"];
    let name = match target["kind"][0].as_str()? {
        "lib" => format!("{package}'s unit tests"),
        _ => format!("{package}'s {}", target["name"].as_str()?),
    };
    Some(Program { name, path, folder })
}

/// In which order programs are tried.
fn cost(name: &str) -> usize {
    let slow = ["scripts", "paper", "unit tests", "lab_6824", "lab_6824_kv"];
    slow.iter()
        .rposition(|end| name.ends_with(end))
        .unwrap_or(0)
}

impl Program {
    fn run(&self, mutant: Option<Mutant>) -> Result<Ended, String> {
        let mut command = Command::new(&self.path);
        command.current_dir(&self.folder).arg("--quiet");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(mutant) = mutant {
            command.env(PLANTED_IN_PROGRAM, mutant.name());
        }
        let child = command.spawn();
        let child = child.map_err(|error| format!("cannot start {}: {error}", self.name))?;
        wait(child).map_err(|error| format!("cannot wait for {}: {error}", self.name))
    }
}

fn wait(mut child: Child) -> std::io::Result<Ended> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(if status.success() {
                Ended::Passed
            } else {
                Ended::Failed
            });
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(Ended::Hangs);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
