//! What must hold: Raft's safety properties after every event, linearizability at the end.

pub mod linearizability;
mod promises;
mod safety;
mod violation;

pub use self::safety::{NodeView, SafetyChecker};
pub use self::violation::Violation;
