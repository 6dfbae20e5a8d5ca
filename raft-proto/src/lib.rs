//! Wire types of the Raft stack: ids, entries, membership, one struct per RPC, framing and codec.
//!
//! This crate does no I/O and has no async code. Everything that crosses a network or a file
//! boundary in the stack is defined here once:
//!
//! * [`ids`]: node, cluster, incarnation, term and log-index newtypes;
//! * [`entry`]: log entries, hard state, term runs;
//! * [`membership`]: voters, learners and joint configurations;
//! * [`comparison`]: what replicas are compared by;
//! * [`message`]: one struct per RPC;
//! * [`version`]: which kinds of messages two nodes may send each other;
//! * [`envelope`]: the [`Message`] enum over them, their numbers and traffic classes;
//! * [`frame`]: the 16-byte frame header that precedes every message;
//! * [`wire`]: messages to frames and back, payloads sliced and never copied;
//! * [`codec`]: the only module that knows the serialisation library.
//!
//! The byte layout is described in `docs/WIRE_FORMAT.md`.
//!
//! ```
//! use bytes::Bytes;
//! use raft_proto::{wire, GroupId, Heartbeat, LogIndex, Message, Term};
//!
//! let message = Message::Heartbeat(Heartbeat {
//!     term: Term(7),
//!     round: 3,
//!     commit_index: LogIndex(41),
//! });
//! let encoded = wire::encode(GroupId(0), false, &message)?;
//! let bytes = Bytes::from(encoded.to_vec());
//! let (header, body) = raft_proto::frame::split(&bytes, 1 << 20)?;
//! assert_eq!(wire::decode(&header, &body)?, message);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod codec;
pub mod comparison;
pub mod entry;
pub mod envelope;
pub mod frame;
pub mod ids;
pub mod membership;
pub mod message;
pub mod mutants;
pub mod version;
pub mod wire;

pub use codec::CodecError;
pub use comparison::Comparison;
pub use entry::{Entry, EntryKind, HardState, LogPosition, TermRun};
pub use envelope::{Class, Message};
pub use frame::{FrameError, FrameHeader};
pub use ids::{Boot, ClusterId, GroupId, Incarnation, LogIndex, MAX_COUNT, NodeId, Term};
pub use membership::{Member, Membership, MembershipError, Promotion};
pub use message::*;
pub use version::{ProtocolVersion, Versions};
