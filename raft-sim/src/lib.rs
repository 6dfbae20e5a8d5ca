//! A deterministic simulator for replicated state machines: virtual time, hostile network and disk.
//!
//! The simulator runs the real thing — the driver of `raft-node`, the consensus core, the log with
//! its recovery, and your [`StateMachine`](raft_node::StateMachine) — on one thread and in virtual
//! time. Only sockets, threads and fsync are replaced: links delay, lose, reorder and are cut;
//! disks take their time and forget what was not synced; processes crash and recover; clocks
//! drift. Ten seconds of a five-node cluster take a fraction of a second, and a seed gives the
//! same run every time, on every platform.
//!
//! After every event the [safety checker](checker::SafetyChecker) compares the nodes: one leader a
//! term, matching logs, nothing committed without a durable quorum, nothing applied out of order,
//! nothing durable lost. What clients saw can be checked for
//! [linearizability](checker::linearizability).
//!
//! ```
//! use bytes::Bytes;
//! use raft_node::{Applied, Small, SmallState};
//! use raft_sim::{Cluster, ClusterOptions, LinkOptions};
//!
//! /// Your own state: here, a sum.
//! #[derive(Default)]
//! struct Sum(u64);
//!
//! impl SmallState for Sum {
//!     fn apply(&mut self, applied: Applied<'_>) -> Bytes {
//!         self.0 += applied.command.len() as u64;
//!         self.0.to_string().into()
//!     }
//!     fn query(&mut self, _query: &Bytes) -> Bytes {
//!         self.0.to_string().into()
//!     }
//!     fn save(&self) -> Bytes {
//!         Bytes::copy_from_slice(&self.0.to_le_bytes())
//!     }
//!     fn load(&mut self, saved: &[u8]) -> std::io::Result<()> {
//!         self.0 = u64::from_le_bytes(saved.try_into().map_err(std::io::Error::other)?);
//!         Ok(())
//!     }
//! }
//!
//! let options = ClusterOptions::new(3).seed(42).links(LinkOptions::unreliable());
//! let mut cluster = Cluster::new(options, |_node| Small::boxed(Sum::default()));
//! assert!(cluster.run_until(5_000, |cluster| cluster.leader().is_some()));
//!
//! // A leader that is cut off keeps its promises, and the others go on without it.
//! let old = cluster.leader().expect("there is one");
//! cluster.disconnect(old);
//! assert!(cluster.run_until(5_000, |c| c.leader().is_some_and(|new| new != old)));
//! let new = cluster.leader().expect("there is one");
//! let proposed = cluster.propose(new, "four".into())?;
//! assert!(cluster.run_until(5_000, |c| c.outcome(proposed.ticket).is_some()));
//!
//! // It loses its memory, comes back, and catches up.
//! cluster.crash(old);
//! cluster.restart(old);
//! cluster.connect(old);
//! let index = proposed.position.index;
//! assert!(cluster.run_until(10_000, |c| c.applied_by(index) == 3));
//! # Ok::<(), raft_node::ProposeError>(())
//! ```
//!
//! # Seeds of trouble
//!
//! [`campaign`] draws a world and a list of faults from a seed and plays them under a
//! [`Workload`](campaign::Workload) of yours: a state machine, its clients, and what must hold of what
//! they were told. `examples/bank.rs` is a complete one, with an invariant of its own: however nodes
//! crash, disks fail and members come and go, no money is made or lost.
//!
//! # Determinism
//!
//! Every source of chance draws from a [stream](Stream) of its own, named after the link, disk,
//! clock or client that uses it. [`Cluster::trace_hash`] covers everything that happened: equal
//! seeds give equal hashes. State machines must be deterministic anyway.
#![forbid(unsafe_code)]

mod atlas;
pub mod campaign;
pub mod checker;
mod client;
mod clock;
mod cluster;
mod disk;
pub mod exhaustive;
mod marks;
mod network;
mod options;
mod queue;
mod random;
pub mod registers;
mod trace;

pub use client::{CallError, SimClient};
pub use cluster::{
    AppliedCommand, Cluster, CrashKind, PendingChange, Proposed, StartFailure, Ticket,
};
pub use disk::{Corruption, PagesAfterFailure};
pub use marks::{Mark, Tally};
pub use network::{Direction, Shape, Traffic};
pub use options::{
    Capacity, ClockOptions, ClusterOptions, Damage, DeliveryOrder, LateReplies, Latency,
    LinkOptions, ProcessOptions, Replays, StorageRates, Transport,
};
pub use raft_core::Time;
pub use random::{Random, Stream};
pub use trace::{Record, TraceDepth};
