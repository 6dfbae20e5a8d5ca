//! A fault-tolerant, linearizable key/value store over QUIC, replicated by Raft.
#![forbid(unsafe_code)]

pub mod cli;
pub mod client;
pub mod codec;
pub mod command;
pub mod limits;
pub mod machine;
pub mod operation;
pub mod protocol;
pub mod reply;
pub mod server;
pub mod session;
pub mod store;
