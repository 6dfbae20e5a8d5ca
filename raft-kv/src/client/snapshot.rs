//! Fetching a snapshot of one node, part by part.

use std::time::Duration;

use super::call::{Attempt, CallError};
use super::cluster::bounds_of_one;
use super::request::Request;
use super::{Client, ClientError};
use crate::protocol::{
    self, ReadSnapshotRequest, RequestKind, ResponseKind, SnapshotOffer, SnapshotPart,
};

/// How long a node may take to make a snapshot. Should it die meanwhile, its connection ends long
/// before.
pub const TAKE_SNAPSHOT_BOUND: Duration = Duration::from_secs(600);

impl Client {
    /// Has the node at this endpoint make a snapshot of what it has applied, and waits for it.
    ///
    /// # Errors
    /// [`ClientError`]; asking again does no harm.
    pub async fn take_snapshot(&self, address: &str) -> Result<SnapshotOffer, ClientError> {
        // A node that cannot be reached is given up after the deadline, not after the long bound.
        self.status_of(address).await?;
        let request = Request::empty(RequestKind::TakeSnapshot);
        let bounds = bounds_of_one(TAKE_SNAPSHOT_BOUND);
        match self.ask(address, &request, bounds).await {
            Attempt::Answered((ResponseKind::Snapshot, body)) => Ok(protocol::from_body(&body)?),
            Attempt::Answered(_) | Attempt::Redirected { .. } => Err(ClientError::Mismatched),
            Attempt::NotDone(problem) | Attempt::Unsure(problem) => {
                Err(CallError::Refused(problem).into())
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
