//! The bounded model checker of the core, with the bounds whose counts are in `docs/TESTING.md`.

use std::time::{Duration, Instant};

use raft_sim::exhaustive::{Bounds, explore_with};

/// Which bounds.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only the bounds with this name
    #[arg(long)]
    only: Option<String>,
    /// Most states of each; each takes about 2 kB of memory while it is open, and 16 bytes after
    #[arg(long, default_value_t = 50_000_000)]
    max_states: usize,
}

const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Name and bounds, smallest first.
fn all() -> [(&'static str, Bounds); 7] {
    let small = Bounds::small();
    let six = Bounds {
        timeouts: 6,
        ..small
    };
    [
        ("no-faults", six),
        (
            "one-deviation",
            Bounds {
                deviations: 1,
                ..six
            },
        ),
        (
            "two-deviations",
            Bounds {
                timeouts: 5,
                deviations: 2,
                ..small
            },
        ),
        (
            "crash-and-deviation",
            Bounds {
                crashes: 1,
                deviations: 1,
                ..six
            },
        ),
        (
            "two-cuts",
            Bounds {
                max_term: 4,
                cuts: 2,
                ..six
            },
        ),
        (
            "membership",
            Bounds {
                changes: 2,
                cuts: 1,
                ..six
            },
        ),
        (
            "two-crashes",
            Bounds {
                max_term: 4,
                timeouts: 5,
                crashes: 2,
                cuts: 1,
                ..small
            },
        ),
    ]
}

/// Explores all bounds, or the one named.
///
/// # Errors
/// The history that breaks a property, or bounds that were not explored completely.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let wanted = |name: &str| options.only.as_deref().is_none_or(|only| only == name);
    let chosen: Vec<_> = all().into_iter().filter(|(name, _)| wanted(name)).collect();
    if chosen.is_empty() {
        let names = all().map(|(name, _)| name).join(", ");
        return Err(format!("no bounds have that name; there are {names}"));
    }
    for (name, bounds) in chosen {
        explore_one(name, bounds, options.max_states)?;
    }
    Ok(())
}

fn explore_one(name: &str, bounds: Bounds, max_states: usize) -> Result<(), String> {
    let bounds = Bounds {
        max_states,
        ..bounds
    };
    println!("{name}: {bounds:?}");
    let start = Instant::now();
    let mut told = start;
    let report = explore_with(&bounds, |report| {
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            println!(
                "  {:5.0} s  {} states, {} events",
                start.elapsed().as_secs_f64(),
                report.states,
                report.transitions
            );
        }
    });
    println!(
        "  {} states, {} events, longest history {}, {:.1} s, complete: {}; two leaders {}, \
         truncated entries {}, joint {}, longest committed log {}",
        report.states,
        report.transitions,
        report.longest,
        start.elapsed().as_secs_f64(),
        report.is_complete,
        report.two_leaders,
        report.truncations,
        report.joint,
        report.longest_commit
    );
    match report.violation {
        Some(violation) => Err(violation.to_string()),
        None if report.is_complete => Ok(()),
        None => Err(format!("{name}: more than {max_states} states")),
    }
}
