//! What must hold: Raft's safety properties after every event, linearizability at the end.

mod image;
pub mod linearizability;
mod promises;
mod safety;
mod snapshots;
mod violation;

pub use self::image::{LogChange, StartView};
pub use self::safety::{NodeView, SafetyChecker};
pub use self::violation::Violation;
