//! What must hold: Raft's safety properties after every event, linearizability at the end.

pub mod linearizability;
mod safety;

pub use self::safety::{NodeView, SafetyChecker, Violation};
