//! Formation nodes on a simulated network and disks: named scenarios, every crash point, seeds.

mod admission;
mod crash_points;
mod random;
mod scenarios;
mod world;
