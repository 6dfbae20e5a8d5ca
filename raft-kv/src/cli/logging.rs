//! Logs of a server: to the standard error, for people or as one JSON object a line.
//!
//! Fields have the same names everywhere: `node` is this node, `peer` another one, `term`, `index`
//! and `error` are what they say.

use std::io::{self, IsTerminal};
use std::panic;

use clap::ValueEnum;
use raft_proto::NodeId;
use tracing_subscriber::EnvFilter;

use super::error::CliError;

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Checks a filter: a level, or directives like `info,raft_net=debug`.
pub(super) fn filter(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "{error}; write a level (error, warn, info, debug, trace), or levels of parts, for \
             example info,raft_net=debug"
        )),
    }
}

/// Starts logging for the whole process.
pub(super) fn start(format: LogFormat, filter: &str, node: NodeId) {
    // It was checked when it was parsed.
    let filter = EnvFilter::new(filter);
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match format {
        LogFormat::Human => logs.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => {
            logs.json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .init();
            // Otherwise a panic would be the only thing that is no JSON.
            panic::set_hook(Box::new(move |panic| {
                let thread = std::thread::current();
                let thread = thread.name().unwrap_or("unnamed");
                tracing::error!(node = node.0, thread, error = %panic, "a thread panicked");
            }));
        }
    }
}

/// Puts what ended a server where its other logs are, if people do not read those.
pub(super) fn ended(
    format: LogFormat,
    node: NodeId,
    outcome: Result<(), CliError>,
) -> Result<(), CliError> {
    match (outcome, format) {
        (Err(error), LogFormat::Json) => {
            tracing::error!(node = node.0, %error, "the server has ended");
            Err(CliError::Logged(Box::new(error)))
        }
        (outcome, LogFormat::Json | LogFormat::Human) => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_levels_or_directives() {
        for good in ["info", "debug,quinn=warn", "raft_net=trace", "off"] {
            assert_eq!(filter(good).as_deref(), Ok(good));
        }
        let refused = filter("raft_net=loud").unwrap_err();
        assert!(refused.contains("for example"), "{refused}");
    }
}
