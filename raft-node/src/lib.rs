//! Replicate any state machine with Raft: the runtime that joins core, log and transport.

pub mod admission;
pub mod formation;
