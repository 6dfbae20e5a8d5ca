//! A fault-tolerant, linearizable key/value store over QUIC, replicated by Raft.
//!
//! The program `raft-kv` is a thin shell around this library; the library can also be used by
//! itself: [`client`] to talk to a cluster, [`server`] to run a node inside another program,
//! [`store`] and [`session`] as parts of another state machine.
//!
//! ```
//! use raft_kv::operation::{Expected, KeyRange, Operation, RangeQuery};
//! use raft_kv::reply::Outcome;
//! use raft_kv::store::{Retention, Store};
//!
//! let mut store = Store::new(Retention::default());
//! let key = b"lock";
//! let take = Operation::CompareAndSwap { key, expected: Expected::Absent, value: b"me" };
//! assert_eq!(store.apply(&take)?.outcome, Outcome::Written);
//! assert_eq!(store.apply(&take)?.outcome, Outcome::Different);
//! let found = store.range(&RangeQuery::new(KeyRange::Prefix(b"lo")))?;
//! assert_eq!((found.count, found.pairs[0].version), (1, 1));
//! # Ok::<(), raft_kv::reply::Refusal>(())
//! ```
//!
//! How a write travels: [`client`] encodes it as the [`command`] that will be logged; the server
//! checks it and proposes the received bytes; once committed, [`machine`] asks the [`session`]
//! table whether it counts, applies it to the [`store`], and the [`reply`] goes back as it is. What
//! is replicated is deterministic: no clock, no randomness, no I/O. A [`snapshot`] of it is taken in
//! slices while writes go on.
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
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod snapshot;
pub mod store;
pub mod txn;
