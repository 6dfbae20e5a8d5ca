//! What has to hold before a change lands, and the test run that is part of it.

use crate::steps::{self, Steps};
use crate::tidy;
use crate::workspace::cargo;

/// Members of the workspace that are never published.
const UNPUBLISHED: [&str; 3] = ["xtask", "benches", "raft-chaos"];

/// Seeds of the simulator in a run of CI, with its own example of a workload.
const CI_SEEDS: u64 = 1_000;

/// The same with the service.
const CI_SEEDS_KV: u64 = 500;

/// The service's part of the simulator, which a build of the server does not have.
const SIMULATION: &str = "raft-kv/simulation";

/// Makes it a failure of tests that there are no network namespaces.
const REQUIRE_NETNS: &str = "RAFT_CHAOS_REQUIRE_NETNS";

/// Whether tests may skip what needs network namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Namespaces {
    /// They must be there.
    Required,
    /// Without them tests with partitions print SKIPPED.
    Optional,
}

impl Namespaces {
    /// What a flag asks for.
    pub(crate) const fn from_flag(is_required: bool) -> Self {
        match is_required {
            true => Self::Required,
            false => Self::Optional,
        }
    }

    /// Root can make them, so CI that runs as root skips nothing.
    fn of_this_user() -> Self {
        Self::from_flag(rustix::process::geteuid().is_root())
    }
}

/// A crate that must stay usable without another.
struct Without {
    package: &'static str,
    arguments: &'static [&'static str],
    /// Crates that its normal dependencies must not reach.
    banned: &'static [&'static str],
}

const INDEPENDENCE: [Without; 4] = [
    Without {
        package: "raft-proto",
        arguments: &[],
        banned: &["tokio", "quinn", "raft-core", "raft-log", "raft-net"],
    },
    Without {
        package: "raft-core",
        arguments: &[],
        banned: &["tokio", "quinn", "raft-log", "raft-net", "raft-node"],
    },
    Without {
        package: "raft-log",
        arguments: &[],
        banned: &["tokio", "quinn", "raft-core", "raft-net", "raft-node"],
    },
    Without {
        package: "raft-node",
        arguments: &["--no-default-features"],
        banned: &["quinn", "rustls", "raft-net", "raft-kv"],
    },
];

/// Runs every check, the cheap ones first, the tests last.
///
/// # Errors
/// The first check that fails.
pub(crate) fn run() -> Result<(), String> {
    let mut steps = Steps::new(10);
    steps.run("format", || {
        steps::call(&mut cargo(&["fmt", "--all", "--check"]))
    })?;
    steps.run("tidy", tidy::run)?;
    steps.run("independence", independence)?;
    steps.run("clippy", clippy)?;
    steps.run("documentation", documentation)?;
    steps.run("raft-node without quinn", || {
        let check = ["check", "--package", "raft-node", "--no-default-features"];
        steps::call(&mut cargo(&check))
    })?;
    steps.run("packages", packages)?;
    steps.run("simulator", || {
        crate::sim::run_for_ci(CI_SEEDS, CI_SEEDS_KV)
    })?;
    steps.run("planted bugs", crate::sim::run_mutants_for_ci)?;
    steps.run("tests", || test(false, Namespaces::of_this_user()))?;
    steps.summary();
    Ok(())
}

/// Runs all tests of the workspace.
///
/// # Errors
/// A test fails or does not compile.
pub(crate) fn test(release: bool, namespaces: Namespaces) -> Result<(), String> {
    let mut arguments = vec!["test", "--workspace", "--features", SIMULATION];
    if release {
        arguments.push("--release");
    }
    let mut command = cargo(&arguments);
    match namespaces {
        Namespaces::Required => command.env(REQUIRE_NETNS, "1"),
        Namespaces::Optional => &mut command,
    };
    steps::call(&mut command)
}

fn clippy() -> Result<(), String> {
    let arguments = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--features",
        SIMULATION,
        "--",
        "-D",
        "warnings",
    ];
    steps::call(&mut cargo(&arguments))
}

fn documentation() -> Result<(), String> {
    let mut command = cargo(&["doc", "--workspace", "--no-deps", "--features", SIMULATION]);
    steps::call(command.env("RUSTDOCFLAGS", "-D warnings"))
}

fn packages() -> Result<(), String> {
    let mut arguments = vec!["package", "--workspace", "--no-verify", "--allow-dirty"];
    for name in UNPUBLISHED {
        arguments.extend(["--exclude", name]);
    }
    steps::call(&mut cargo(&arguments))
}

fn independence() -> Result<(), String> {
    for rule in &INDEPENDENCE {
        let mut arguments = vec!["tree", "--package", rule.package];
        arguments.extend(["--edges", "normal", "--prefix", "none"]);
        arguments.extend(rule.arguments);
        let tree = steps::output(&mut cargo(&arguments))?;
        if let Some(found) = banned_in(&tree, rule.banned) {
            return Err(format!(
                "{} {} depends on {found}; see `cargo {} --invert {found}`",
                rule.package,
                rule.arguments.join(" "),
                arguments.join(" ")
            ));
        }
        println!(
            "    {} reaches none of {}",
            rule.package,
            rule.banned.join(", ")
        );
    }
    Ok(())
}

/// The first banned crate in the output of `cargo tree --prefix none`.
fn banned_in<'a>(tree: &str, banned: &[&'a str]) -> Option<&'a str> {
    let is_there = |name: &&&str| {
        let mut names = tree.lines().filter_map(|line| line.split(' ').next());
        names.any(|found| found == **name)
    };
    banned.iter().find(is_there).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_banned_crate_is_found_by_its_whole_name() {
        let tree = "raft-core v0.1.0 (raft-core)\nbytes v1.12.2\ntokio-util v0.7.0\n";
        assert_eq!(banned_in(tree, &["tokio", "quinn"]), None);
        let tree = format!("{tree}tokio v1.54.0 (*)\n");
        assert_eq!(banned_in(&tree, &["quinn", "tokio"]), Some("tokio"));
    }
}
