//! A deterministic Raft consensus core: no I/O, no clock, no threads.
#![forbid(unsafe_code)]

mod buffer;
mod config;
mod core;
mod driver_inputs;
mod election;
mod error;
mod follower;
mod leader;
mod log_view;
mod membership_log;
mod output;
mod persist_queue;
mod progress;
mod proposals;
pub mod quorum;
mod random;
mod read;
mod recovered;
mod replication;
mod roles;
mod step;
mod time;
mod timers;
mod transfer;

pub use self::core::{PeerStatus, RaftCore};
pub use buffer::{EntryBuffer, Fill};
pub use config::{Config, ConfigError, MAX_APPEND_ENTRIES};
pub use error::{CoreError, ProposeError, ReadIndexError, TransferError};
pub use output::{
    AppendOrder, Commit, Event, IndexRange, MembershipStage, Persist, ProposalOutcome, ReadFailure,
    Role, TransferOutcome, Transmit, UnsentReason, Violation,
};
pub use progress::{Counting, Replication};
pub use recovered::Recovered;
pub use time::{Epoch, MessageId, PersistId, ReadId, Time};
