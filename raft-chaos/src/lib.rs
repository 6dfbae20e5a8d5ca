//! Real `raft-kv` processes under faults: what all clients saw together must be linearizable.
//!
//! [`run`] starts servers, keeps clients busy with puts, appends, swaps, deletions and reads, and
//! plays [`Round`]s: kill -9, SIGSTOP, restarts, partitions, leadership transfers, replaced
//! members, snapshots, a full disk. After every round everything is healed and the cluster must
//! recover. Then it judges:
//!
//! - every call ended, and no server ended by itself;
//! - while some nodes could form a majority ([`Reach::can_progress`]), writes went through;
//! - the whole history is linearizable, by the checker of `raft-sim`; a search that was given up is
//!   reported as undecided, which is no success;
//! - every acknowledged append is in its key once, every one with an unknown outcome at most once,
//!   and none that was refused;
//! - all replicas reach one state hash, and their logs verify.
//!
//! # Hosts
//!
//! With [`Network::Namespaces`] every server is a host of its own: a network namespace with one
//! interface, joined to the others by a bridge that is in a namespace of its own too. None has a
//! name, a file, or anything in the machine's own namespace: threads, processes and descriptors
//! hold them, and the kernel takes everything away when these are gone, however they went. Servers
//! end when the standard input that their parent holds is closed, so they follow a parent that was
//! killed; a paused one is woken by the system when its process group is orphaned.
//!
//! Addresses are bound to interfaces by permanent neighbour entries. To cut the way from one host
//! to another, the sender's entry is changed to its own hardware address: the bridge never sends a
//! frame back where it came from, so it is lost without a word to anybody, in this direction only.
#![forbid(unsafe_code)]

mod access;
mod campaign;
mod cluster;
mod commands;
mod history;
mod host;
mod judge;
mod lan;
mod load;
mod members;
mod plan;
mod problem;
mod process;
mod report;
mod shape;
mod timeline;
mod waiting;

pub use self::campaign::{Options, Progress, Rounds, run};
pub use self::cluster::Network;
pub use self::host::NetworkError;
pub use self::lan::check_namespaces;
pub use self::plan::{Fault, Round};
pub use self::problem::Problem;
pub use self::report::{Outcome, Report};
pub use self::shape::{Reach, Shape};
