//! What may go wrong in a campaign: of the cluster under test, or of the machine it runs on.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use raft_kv::client::ClientError;
use raft_net::NetError;
use thiserror::Error;

use crate::host::NetworkError;

/// What went wrong.
#[derive(Debug, Error)]
pub enum Problem {
    /// The network of the servers cannot be made or changed.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The operating system refused something.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// A command of the program under test failed.
    #[error("`raft-kv {command}` failed: {said}")]
    Command {
        /// Its arguments.
        command: String,
        /// How it ended and what it printed.
        said: String,
    },
    /// The certificates cannot be used.
    #[error(transparent)]
    Certificates(#[from] NetError),
    /// A client cannot be set up, or understands no answer.
    #[error("a client failed: {0}")]
    Client(#[from] ClientError),
    /// No ports of loopback stayed free long enough.
    #[error("other programs took the ports of the servers in {attempts} attempts")]
    NoPorts {
        /// How often it was tried.
        attempts: u32,
    },
    /// A server ended that nobody has ended.
    #[error("n{node} ended by itself with {status}; the end of its log:\n{log}")]
    Died {
        /// The server.
        node: u64,
        /// How.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// Something that must happen did not.
    #[error("waited {} s for {what} in vain", .after.as_secs())]
    InVain {
        /// What was awaited.
        what: String,
        /// How long.
        after: Duration,
    },
    /// A call of a client never ended.
    #[error("client {client} called and heard nothing for {} s, although its deadline was {} s: {call}", .after.as_secs(), .deadline.as_secs())]
    CallHangs {
        /// The client.
        client: u64,
        /// What it called.
        call: String,
        /// How long it waited.
        after: Duration,
        /// When it should have been told at the latest.
        deadline: Duration,
    },
    /// A client was answered in a way that it does not understand.
    #[error("client {client} was answered what it does not understand: {said}")]
    Misunderstood {
        /// The client.
        client: u64,
        /// The error.
        said: String,
    },
    /// No order of the operations on a key explains what clients saw.
    #[error("the history of key {key} is not linearizable; these calls fit in no order:\n{calls}")]
    NotLinearizable {
        /// The key.
        key: String,
        /// The first calls behind the longest order that was found.
        calls: String,
    },
    /// An append did not count as it must.
    #[error("append {token} of key {key}, {fate}, is there {count} times")]
    Miscounted {
        /// What was appended.
        token: String,
        /// To which key.
        key: String,
        /// What its client was told.
        fate: &'static str,
        /// How often it is in the key's value.
        count: usize,
    },
    /// A key holds what nobody appended.
    #[error("key {key} holds {token:?}, which nobody appended")]
    Invented {
        /// The key.
        key: String,
        /// What it holds.
        token: String,
    },
    /// Replicas that have applied the same entries have different states.
    #[error("replicas differ at applied index {applied_index}: {hashes}")]
    Diverged {
        /// What they have applied.
        applied_index: u64,
        /// Node and state hash of each.
        hashes: String,
    },
}

impl Problem {
    /// For `map_err`: what the operating system refused.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
