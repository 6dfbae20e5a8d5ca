//! The log-reader thread: entries that left the buffer, for slow followers and for replay.

use std::sync::Arc;

use crossbeam_channel::Receiver;
use raft_log::{LogReader, ReadError};

use crate::driver::{Input, LogReadRequest};
use crate::error::FatalError;
use crate::inbox::{Inbox, Notice};

/// Runs until the sender of requests is gone.
pub(super) fn run(reader: &LogReader, requests: &Receiver<LogReadRequest>, inbox: &Arc<Inbox>) {
    while let Ok(request) = requests.recv() {
        let entries = match reader.read(request.first, request.last, request.max_bytes) {
            Ok(entries) => entries,
            // Truncated, compacted or replaced since it was asked for: the driver will ask again.
            Err(error) if is_gone(&error) => Vec::new(),
            Err(error) => {
                let error = FatalError::ReadLog(Arc::new(error));
                return inbox.push_notice(Notice::Failed(error));
            }
        };
        let read = Input::LogRead { request, entries };
        inbox.push_notice(Notice::Input(read));
    }
}

fn is_gone(error: &ReadError) -> bool {
    match error {
        ReadError::Compacted { .. } | ReadError::BeyondEnd { .. } => true,
        ReadError::Missing { .. } | ReadError::Corrupt { .. } | ReadError::File(_) => false,
    }
}
