//! The snapshot thread: everything that reads or writes snapshot files, so that nothing else waits
//! for them. What waits for it is bounded by the driver: two parts of a cut, one window of a
//! transfer, a few parts for each peer.

use std::sync::Arc;

use crossbeam_channel::Receiver;
use raft_log::SnapshotError;

use crate::driver::{Input, SnapshotJob};
use crate::error::FatalError;
use crate::inbox::{Inbox, Notice};
use crate::snapshot_keeper::SnapshotKeeper;

/// Runs until the sender of jobs is gone.
pub(super) fn run(mut keeper: SnapshotKeeper, jobs: &Receiver<SnapshotJob>, inbox: &Arc<Inbox>) {
    while let Ok(job) = jobs.recv() {
        let done = keeper.carry_out(job);
        if keeper.is_poisoned() {
            // An fsync is believed once: a second one could name what is not there.
            let error = FatalError::Snapshots(Arc::new(SnapshotError::Poisoned));
            inbox.push_notice(Notice::Failed(error));
            break;
        }
        if let Some(done) = done {
            inbox.push_notice(Notice::Input(Input::SnapshotDone(done)));
        }
    }
    keeper.stop();
}
