//! Why a command failed, and the exit code that says so.

use std::io;
use std::process::ExitCode;

use thiserror::Error;

use crate::client::ClientError;
use crate::server::ServerError;

/// Why a command failed.
#[derive(Debug, Error)]
pub enum CliError {
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// A call to the cluster failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The server failed.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A compare-and-swap found something else; its answer has been printed.
    #[error("the key is not as expected; nothing was changed")]
    NotAsExpected,
    /// What was asked could not be done.
    #[error("{0}")]
    Failed(String),
    /// The log says what.
    #[error("")]
    Logged(Box<CliError>),
    /// The operating system refused.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// What the operating system says.
        source: io::Error,
    },
}

impl CliError {
    pub(super) fn io(action: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            action: action.into(),
            source,
        }
    }

    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Logged(error) => error.exit_code(),
            Self::Client(error) if error.is_unknown() => ExitCode::from(3),
            Self::Client(_)
            | Self::Server(_)
            | Self::NotAsExpected
            | Self::Failed(_)
            | Self::Io { .. } => ExitCode::FAILURE,
        }
    }
}
