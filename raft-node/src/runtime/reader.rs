//! The log-reader thread: entries that left the buffer, for slow followers and for replay.

use std::sync::Arc;

use crossbeam_channel::Receiver;
use raft_log::{LogReader, ReadError};
use raft_proto::{LogIndex, NodeId};

use crate::driver::{Input, LogReadPurpose, LogReadRequest};
use crate::error::FatalError;
use crate::inbox::{Inbox, Notice};

/// Runs until the sender of requests is gone.
pub(super) fn run(
    node: NodeId,
    reader: &LogReader,
    requests: &Receiver<LogReadRequest>,
    inbox: &Arc<Inbox>,
) {
    while let Ok(request) = requests.recv() {
        let read = match request.purpose {
            LogReadPurpose::Compare(_) | LogReadPurpose::Checked => LogReader::read_medium,
            LogReadPurpose::Append(_) | LogReadPurpose::Apply | LogReadPurpose::Fetched(_) => {
                LogReader::read
            }
        };
        let input = match read(reader, request.first, request.last, request.max_bytes) {
            Ok(entries) => Input::LogRead { request, entries },
            Err(error) => match outcome_of(&error) {
                Outcome::Gone => Input::LogRead {
                    request,
                    entries: Vec::new(),
                },
                Outcome::Damaged(index) => {
                    tracing::error!(node = node.0, %error, "an entry cannot be read");
                    Input::LogUnreadable { request, index }
                }
                Outcome::Failed => {
                    let error = FatalError::ReadLog(Arc::new(error));
                    return inbox.push_notice(Notice::Failed(error));
                }
            },
        };
        inbox.push_notice(Notice::Input(input));
    }
}

/// What a failed read means.
enum Outcome {
    /// Truncated, compacted or replaced since it was asked for: the driver will ask again.
    Gone,
    /// The content of this entry is damaged; peers may have it.
    Damaged(LogIndex),
    /// The file system refuses.
    Failed,
}

const fn outcome_of(error: &ReadError) -> Outcome {
    match error {
        ReadError::Compacted { .. } | ReadError::BeyondEnd { .. } => Outcome::Gone,
        ReadError::Missing { first, .. } => Outcome::Damaged(*first),
        ReadError::Corrupt { index, .. } => Outcome::Damaged(*index),
        ReadError::File(_) => Outcome::Failed,
    }
}
