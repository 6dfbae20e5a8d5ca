//! The scrub thread: looks for rot at a bounded speed, so that nothing else waits for the disk. What it
//! finds goes to the driver, which has it healed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use raft_core::IndexRange;
use raft_log::{FileError, ScrubFinding, ScrubStep, Scrubber};
use raft_proto::NodeId;

use crate::driver::{Input, Rot};
use crate::inbox::{Inbox, Notice};
use crate::metrics::Recorder;

/// How often it reads.
const STEPS_PER_SECOND: u64 = 10;
/// The wait after a pass, so that an empty store is not looked through all the time.
const PAUSE: Duration = Duration::from_secs(10);

/// How many findings it remembers to have told.
const MAX_TOLD: usize = 10_000;

/// What it works with.
pub(super) struct ScrubThread {
    pub(super) node: NodeId,
    pub(super) scrubber: Scrubber,
    pub(super) bytes_per_second: u64,
    pub(super) recorder: Arc<Recorder>,
    pub(super) inbox: Arc<Inbox>,
    /// What was told, so that no pass tells it again.
    pub(super) told: BTreeSet<String>,
}

impl ScrubThread {
    /// Runs until the sender is gone.
    pub(super) fn run(mut self, stopped: &Receiver<()>) {
        let budget = self.bytes_per_second / STEPS_PER_SECOND;
        let mut wait = Duration::ZERO;
        loop {
            match stopped.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
            let step = self.scrubber.step(budget);
            wait = self.take(step);
        }
    }

    /// Tells what was found, and how long to wait so that the speed is kept.
    fn take(&mut self, step: Result<ScrubStep, FileError>) -> Duration {
        let node = self.node.0;
        match step {
            Ok(step) => {
                self.recorder.scrubbed_bytes.add(step.read_bytes);
                for finding in &step.findings {
                    self.tell(finding);
                }
                if step.pass_ended {
                    return PAUSE;
                }
                // The rate is at least one byte a second, says the configuration.
                let nanoseconds = step.read_bytes.saturating_mul(1_000_000_000);
                Duration::from_nanos(nanoseconds / self.bytes_per_second.max(1))
            }
            Err(error) => {
                tracing::warn!(node, %error, "a scrub was refused; it goes on behind it");
                PAUSE
            }
        }
    }

    /// Logs what was found, once, and has the driver heal it as long as it is found.
    fn tell(&mut self, finding: &ScrubFinding) {
        let node = self.node.0;
        if self.told.len() < MAX_TOLD && self.told.insert(finding.to_string()) {
            self.recorder.scrub_findings.add(1);
            tracing::error!(node, %finding, "the disk has lost what was written; check it");
        }
        let rot = match finding {
            ScrubFinding::Entries { lost, .. } => {
                IndexRange::new(lost.first, lost.last).map(Rot::Entries)
            }
            ScrubFinding::Snapshot { position, .. } => Some(Rot::Snapshot(*position)),
            // No content is lost yet, and no block of a segment is written twice: the segment goes with
            // the next compaction that covers it.
            ScrubFinding::Segment { .. } => None,
        };
        if let Some(rot) = rot {
            self.inbox.push_notice(Notice::Input(Input::RotFound(rot)));
        }
    }
}
