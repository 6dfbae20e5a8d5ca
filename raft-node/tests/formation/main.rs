//! Formation nodes on a simulated network and disks: named scenarios, every crash point, seeds.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admission;
mod bad_input;
mod crash_points;
mod drive;
mod oracle;
mod random;
mod scenarios;
mod world;
