//! What is simulated reads no clock, draws nothing from the system and starts no thread: time and
//! chance are arguments, or a seed would not give the same run again.

use std::path::Path;

use super::source::{Source, line_of, word_starts};
use super::{Problem, Tree};

/// Files and folders whose code runs in virtual time.
const SOURCES: [&str; 18] = [
    "raft-proto/src",
    "raft-core/src",
    "raft-node/src/admission.rs",
    "raft-node/src/driver",
    "raft-node/src/formation",
    "raft-node/src/machine.rs",
    "raft-node/src/snapshot_keeper.rs",
    "raft-node/src/startup.rs",
    "raft-sim/src",
    "raft-kv/src/client/call.rs",
    "raft-kv/src/client/window.rs",
    "raft-kv/src/command",
    "raft-kv/src/command.rs",
    "raft-kv/src/machine",
    "raft-kv/src/machine.rs",
    "raft-kv/src/session",
    "raft-kv/src/simulation",
    "raft-kv/src/store",
];

/// Names by which code gets at clocks, randomness and threads.
const IMPURE: [&str; 9] = [
    "Instant",
    "SystemTime",
    "UNIX_EPOCH",
    "RandomState",
    "getrandom",
    "OsRng",
    "thread_rng",
    "JoinHandle",
    "tokio",
];

/// Checks every such file.
pub(super) fn check(tree: &Tree, problems: &mut Vec<Problem>) {
    for folder in SOURCES {
        let mut is_there = false;
        for (path, text) in tree.under(folder) {
            is_there = true;
            if path.extension().is_some_and(|extension| extension == "rs") {
                problems.extend(check_file(path, text));
            }
        }
        if !is_there {
            let what = "is not there; the list of what must read no clock is out of date";
            problems.push(Problem::new(Path::new(folder), 1, what));
        }
    }
}

fn check_file(path: &Path, text: &str) -> Vec<Problem> {
    let code = Source::parse(text).code;
    let found = |name: &'static str| {
        let starts = word_starts(&code, name);
        let lines: Vec<_> = starts.iter().map(|start| line_of(&code, *start)).collect();
        lines.into_iter().map(move |line| {
            let what = format!("uses `{name}`: this code runs in virtual time, from a seed");
            Problem::new(path, line, what)
        })
    };
    IMPURE.into_iter().flat_map(found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_in_core_or_driver_is_found() {
        let planted = "//! Instant.\nfn f() {\n    let t = std::time::Instant::now();\n}\n";
        let calm = "//! Fine.\nfn f(instant: u64) {}\n";
        let files: Vec<(String, &str)> = SOURCES
            .iter()
            .map(|source| match source.ends_with(".rs") {
                true => ((*source).to_string(), calm),
                false => (format!("{source}/a.rs"), calm),
            })
            .collect();
        let mut files: Vec<(&str, &str)> = files
            .iter()
            .map(|(path, text)| (&path[..], *text))
            .collect();
        let problems = |files: &[(&str, &str)]| {
            let mut problems = Vec::new();
            check(&Tree::of(files), &mut problems);
            problems.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(problems(&files), [""; 0]);
        for path in ["raft-core/src/x/b.rs", "raft-node/src/driver/b.rs"] {
            files.push((path, planted));
            let found = problems(&files);
            let what = "uses `Instant`: this code runs in virtual time, from a seed";
            assert_eq!(found, [format!("{path}:3: {what}")]);
            files.pop();
        }
        let random = "//! Chance.\nfn f() { getrandom::fill(&mut []); }\n";
        files[1].1 = random;
        assert_eq!(problems(&files).len(), 1);
    }
}
