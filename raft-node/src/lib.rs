//! Replicate any state machine with Raft: the runtime that joins core, log and transport.
