//! Replicates any state machine with Raft: the runtime that joins the consensus core
//! (`raft-core`), the write-ahead log (`raft-log`) and a transport.
//!
//! Implement [`SmallState`], or [`StateMachine`] if the state is large, open a [`raft_log::DataDir`], pick a transport, and call
//! [`Raft::start`]. The API is MIT 6.824's: `Make` is [`Raft::start`], `Start` is
//! [`Raft::propose`], `GetState` is [`Raft::status`], the apply channel is
//! [`StateMachine::apply`], `Kill` is [`Raft::shutdown`].
//!
//! ```
//! use bytes::Bytes;
//! use raft_log::DataDir;
//! use raft_log::vfs::RealVfs;
//! use raft_node::{
//!     Applied, MemoryNetwork, NodeState, Parts, ProposeError, Raft, RaftConfig, Small, SmallState,
//! };
//! use raft_proto::NodeId;
//!
//! /// Remembers the last command.
//! struct Register(Bytes);
//!
//! impl SmallState for Register {
//!     fn apply(&mut self, applied: Applied<'_>) -> Bytes {
//!         std::mem::replace(&mut self.0, Bytes::copy_from_slice(applied.command))
//!     }
//!     fn query(&mut self, _query: &Bytes) -> Bytes {
//!         self.0.clone()
//!     }
//!     fn save(&self) -> Bytes {
//!         self.0.clone()
//!     }
//!     fn load(&mut self, saved: &[u8]) -> std::io::Result<()> {
//!         self.0 = Bytes::copy_from_slice(saved);
//!         Ok(())
//!     }
//! }
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
//! # runtime.block_on(async {
//! let home = tempfile::tempdir()?;
//! let id = NodeId(1);
//! let raft = Raft::start(
//!     RaftConfig::new(id, vec![(id, "only:1".to_owned())]),
//!     Parts {
//!         directory: DataDir::open(RealVfs::shared(), home.path(), id)?,
//!         machine: Small::boxed(Register(Bytes::new())),
//!         transport: MemoryNetwork::new().transport(id),
//!     },
//! )?;
//! let proposal = loop {
//!     match raft.propose("first".into()).await {
//!         Ok(proposal) => break proposal,
//!         // Not elected yet.
//!         Err(ProposeError::NotLeader { .. }) => tokio::task::yield_now().await,
//!         Err(error) => return Err(error.into()),
//!     }
//! };
//! assert_eq!(proposal.outcome().await?, "");
//! raft.shutdown().await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Nodes come and go while the group works: [`RaftConfig::joining`] starts one that waits to be
//! added, [`Raft::change_membership`] adds, promotes and removes. [`restore`] makes the data
//! directories of a new group from a snapshot file, [`recover`] that of a group of its own from a
//! survivor's.
//!
//! The parts: [`driver`] joins core, entry buffer, pending proposals and reads without any I/O, so
//! that a simulator can run the same code; [`formation`] and [`admission`] decide, without I/O too,
//! who belongs to a cluster; the runtime around them is threads, sockets and fsync.
#![forbid(unsafe_code)]

pub mod admission;
mod config;
pub mod driver;
mod error;
pub mod formation;
mod handle;
mod inbox;
mod link;
mod machine;
mod membership;
mod memory;
mod metrics;
#[cfg(feature = "quic")]
mod quic;
pub mod recover;
mod refusals;
pub mod restore;
mod runtime;
mod snapshot_keeper;
pub mod startup;
mod state;
mod transport;

pub use config::{ApplyOn, Parts, RaftConfig, StartError, StartKind};
pub use driver::{
    Blame, Compared, ComparisonOutcome, ComparisonPolicy, ComparisonStatus, Difference,
    FetchProgress, PeerStatus, PolicyError, ReadConsistency, SaveProgress, SnapshotPolicy,
    SnapshotStatus, Status,
};
pub use error::{FatalError, LeaderHint, ProposeError, ReadError, SnapshotError, TransferError};
pub use handle::{Proposal, Raft};
pub use link::{Link, NotDelivered};
pub use machine::{Applied, Small, SmallState, StateMachine, Step};
pub use membership::{ChangeError, ChangeSafety};
pub use memory::MemoryNetwork;
pub use metrics::{Histogram, Metrics};
#[cfg(feature = "quic")]
pub use quic::QuicBuilder;
pub use raft_core::MembershipChange;
pub use refusals::RefusedBy;
pub use runtime::{apply_batch, stage_persist, take_cut_step};
pub use snapshot_keeper::SnapshotKeeper;
pub use state::NodeState;
pub use transport::{SendError, Transport, TransportBuilder};
