//! The snapshot thread: everything that reads or writes snapshot files, so that nothing else waits
//! for them. What waits for it is bounded by the driver: two parts of a cut, one window of a
//! transfer, a few parts for each peer.

use std::sync::Arc;

use crossbeam_channel::Receiver;

use crate::driver::{Input, SnapshotJob};
use crate::inbox::{Inbox, Notice};
use crate::snapshot_keeper::SnapshotKeeper;

/// Runs until the sender of jobs is gone.
pub(super) fn run(mut keeper: SnapshotKeeper, jobs: &Receiver<SnapshotJob>, inbox: &Arc<Inbox>) {
    while let Ok(job) = jobs.recv() {
        if let Some(done) = keeper.carry_out(job) {
            inbox.push_notice(Notice::Input(Input::SnapshotDone(done)));
        }
    }
    keeper.stop();
}
