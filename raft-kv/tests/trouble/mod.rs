//! Campaigns of `raft-chaos` against the server that was built for these tests.
#![allow(
    dead_code,
    reason = "every test file compiles this module and uses a part of it"
)]

use std::io::Write;
use std::path::PathBuf;

use raft_chaos::{Network, Options, Outcome, Progress, Round, Rounds, check_namespaces, run};

/// Set to make it a failure that a machine has no network namespaces; `cargo xtask test
/// --require-netns` does.
const REQUIRE_NETNS: &str = "RAFT_CHAOS_REQUIRE_NETNS";
/// Clients that each have one call under way.
const CLIENTS: u64 = 8;
/// Calls that are answered at least, for every round: otherwise little would have been judged.
const ANSWERED_PER_ROUND: u64 = 20;

/// Whether servers can be hosts of their own here. Says so if not, and fails if they must.
pub(crate) fn has_namespaces(test: &str) -> bool {
    let Err(error) = check_namespaces() else {
        return true;
    };
    assert!(
        std::env::var_os(REQUIRE_NETNS).is_none(),
        "{REQUIRE_NETNS} is set, and there are no network namespaces: {error}"
    );
    // Past the capture of the test runner: whoever reads that all passed must read this too.
    let said = writeln!(std::io::stderr(), "SKIPPED {test}: {error}");
    said.expect("the standard error can be written");
    false
}

/// Plays these rounds; what clients saw must be linearizable, and everything else in order.
pub(crate) fn survive(nodes: u64, network: Network, rounds: Vec<Round>) {
    let expected = rounds.len();
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let report = run(Options {
        binary: PathBuf::from(env!("CARGO_BIN_EXE_raft-kv")),
        directory: directory.path().to_owned(),
        nodes,
        clients: CLIENTS,
        seed: nodes,
        network,
        rounds: Rounds::Given(rounds),
        progress: Progress::Hidden,
    });
    if report.outcome() != Outcome::Sound {
        let kept = directory.keep();
        panic!("{}\nkept in {}", report.summary(), kept.display());
    }
    println!("{}", report.summary());
    assert_eq!(report.recoveries.len(), expected, "every round was played");
    let least = ANSWERED_PER_ROUND * expected as u64;
    assert!(report.answered() >= least, "{}", report.summary());
}
