//! `cargo xtask exhaustive`: everything within bounds that are too large for every CI run.

mod core;
mod wal;

use clap::Subcommand;

/// What to explore. Use an optimised build: `cargo run --release -p xtask -- exhaustive …`.
#[derive(Subcommand)]
pub(crate) enum What {
    /// Histories of a cluster of real consensus cores
    Core(core::Options),
    /// Histories of the log, cut at every operation of the disk; builds with optimisation itself
    Wal(wal::Options),
}

/// Explores.
///
/// # Errors
/// The history that breaks a property.
pub(crate) fn run(what: &What) -> Result<(), String> {
    match what {
        What::Core(options) => core::run(options),
        What::Wal(options) => wal::run(options),
    }
}
