//! A deterministic Raft consensus core: no I/O, no clock, no threads.
#![forbid(unsafe_code)]

mod buffer;
mod config;
mod error;
mod output;
mod recovered;
mod time;

pub use buffer::{EntryBuffer, Fill};
pub use config::{Config, ConfigError, MAX_APPEND_ENTRIES};
pub use error::{CoreError, ProposeError, ReadIndexError, TransferError};
pub use output::{
    AppendOrder, Commit, Event, IndexRange, MembershipStage, Persist, ProposalOutcome, ReadFailure,
    Role, TransferOutcome, Transmit, UnsentReason, Violation,
};
pub use recovered::Recovered;
pub use time::{Epoch, MessageId, PersistId, ReadId, Time};
