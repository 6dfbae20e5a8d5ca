//! Fetching a snapshot of one node, part by part.

use std::time::{Duration, Instant};

use super::call::{Attempt, CallError};
use super::cluster::bounds_of_one;
use super::exchange::Answer;
use super::request::Request;
use super::{Client, ClientError};
use crate::protocol::{
    self, NodeStatus, ReadSnapshotRequest, RequestKind, ResponseKind, SavingStatus, SnapshotOffer,
    SnapshotPart,
};

/// How long a node that makes a snapshot may stand still. However large its state is, it takes some
/// of it every few milliseconds; a snapshot that it has begun before this one is waited for, too.
pub const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(60);
/// How often it is asked how far it is.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// The request itself is open for as long as there is progress: a day is beyond any state that fits
/// into memory.
const REQUEST_BOUND: Duration = Duration::from_secs(24 * 3600);

impl Client {
    /// Has the node at this endpoint make a snapshot of what it has applied, and waits for it: for
    /// as long as it makes progress.
    ///
    /// # Errors
    /// [`ClientError`], [`ClientError::SnapshotStalled`] among others; asking again does no harm.
    pub async fn take_snapshot(&self, address: &str) -> Result<SnapshotOffer, ClientError> {
        self.take_snapshot_watched(address, |_| {}).await
    }

    /// As [`Client::take_snapshot`]; twice a second `watch` is told how the node is.
    ///
    /// # Errors
    /// As [`Client::take_snapshot`].
    pub async fn take_snapshot_watched(
        &self,
        address: &str,
        mut watch: impl FnMut(&NodeStatus),
    ) -> Result<SnapshotOffer, ClientError> {
        // A node that cannot be reached is given up after the deadline, not after the long bound.
        self.status_of(address).await?;
        let request = Request::empty(RequestKind::TakeSnapshot);
        let taken = self.ask(address, &request, bounds_of_one(REQUEST_BOUND));
        tokio::pin!(taken);
        let mut progress = Progress::new(Instant::now());
        loop {
            let look = async {
                tokio::time::sleep(LOOK_INTERVAL).await;
                self.status_of(address).await
            };
            let status = tokio::select! {
                attempt = &mut taken => return offer_of(attempt),
                status = look => status.ok(),
            };
            if let Some(status) = &status {
                watch(status);
            }
            if progress.has_stalled(Instant::now(), status.as_ref()) {
                return Err(ClientError::SnapshotStalled {
                    address: address.to_owned(),
                    patience: SNAPSHOT_PATIENCE,
                });
            }
        }
    }

    /// Reads a part of a snapshot of the node at this endpoint; retries until the deadline.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::is_snapshot_gone`] if the node has removed it meanwhile.
    pub async fn read_snapshot(
        &self,
        address: &str,
        part: &ReadSnapshotRequest,
    ) -> Result<SnapshotPart, ClientError> {
        let request = Request::of(RequestKind::ReadSnapshot, part);
        match self.ask_until_answered(address, &request).await? {
            (ResponseKind::SnapshotPart, body) => {
                let read = SnapshotPart::from_body(&body)?;
                if read.offset == part.offset && !read.data.is_empty() {
                    return Ok(read);
                }
                Err(ClientError::Mismatched)
            }
            _ => Err(ClientError::Mismatched),
        }
    }
}

fn offer_of(attempt: Attempt<Answer>) -> Result<SnapshotOffer, ClientError> {
    match attempt {
        Attempt::Answered((ResponseKind::Snapshot, body)) => Ok(protocol::from_body(&body)?),
        Attempt::Answered(_) | Attempt::Redirected { .. } => Err(ClientError::Mismatched),
        Attempt::NotDone(problem) | Attempt::Unsure(problem) => {
            Err(CallError::Refused(problem).into())
        }
    }
}

/// Tells a node that takes long from one that stands still.
struct Progress {
    seen: Option<SavingStatus>,
    at: Instant,
}

impl Progress {
    fn new(now: Instant) -> Self {
        Self {
            seen: None,
            at: now,
        }
    }

    /// Whether nothing has changed for too long. A node that does not answer makes no progress.
    fn has_stalled(&mut self, now: Instant, status: Option<&NodeStatus>) -> bool {
        let saving = status.and_then(|status| status.saving);
        // It begins once its store is whole again.
        let is_restoring = status.is_some_and(|status| status.is_restoring);
        if is_restoring || saving.is_some() && saving != self.seen {
            self.seen = saving;
            self.at = now;
        }
        now.duration_since(self.at) >= SNAPSHOT_PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(saving: Option<(u64, u64)>, is_restoring: bool) -> NodeStatus {
        NodeStatus {
            saving: saving.map(|(index, bytes)| SavingStatus { index, bytes }),
            is_restoring,
            ..NodeStatus::default()
        }
    }

    /// 40 GiB at 64 MiB/s are more than the ten minutes that such a request once had.
    #[test]
    fn a_large_state_is_waited_for_as_long_as_it_moves() {
        let start = Instant::now();
        let mut progress = Progress::new(start);
        for second in 0..1_000 {
            let now = start + Duration::from_secs(second);
            let (index, bytes) = if second < 400 {
                (7, second)
            } else {
                (9, second - 400)
            };
            let status = status(Some((index, bytes << 26)), false);
            assert!(
                !progress.has_stalled(now, Some(&status)),
                "after {second} s"
            );
        }
        // The store is replaced before the cut begins.
        for second in 1_000..2_000 {
            let now = start + Duration::from_secs(second);
            assert!(!progress.has_stalled(now, Some(&status(None, true))));
        }
    }

    #[test]
    fn who_stands_still_or_says_nothing_is_given_up() {
        for standing in [Some(status(Some((7, 1)), false)), None] {
            let start = Instant::now();
            let mut progress = Progress::new(start);
            let stalled = |second| {
                let now = start + Duration::from_secs(second);
                progress.has_stalled(now, standing.as_ref())
            };
            let after = (1..).map(stalled).position(|stalled| stalled).unwrap() as u64;
            assert!((59..=60).contains(&after), "after {after} s");
        }
    }
}
