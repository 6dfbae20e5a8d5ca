//! One request and its answer on one connection, with the patience that the connection deserves.

use bytes::Bytes;
use raft_net::client::{RequestError, Response, Sent};
use tokio::time::Instant;

use super::call::{Attempt, Bounds, Problem};
use super::pool::Connected;
use super::request::Request;
use crate::protocol::{self, Redirect, RequestKind, ResponseKind, ServerRefusal};

/// What a server answered: the kind and the body.
pub(super) type Answer = (ResponseKind, Bytes);

/// Sends a request and waits for its answer: for as long as `bounds` say, and, until the call's
/// deadline, as long as the server answers other requests. One that is only busy is not asked
/// twice.
pub(super) async fn exchange(
    connected: &Connected,
    request: &Request,
    bounds: Bounds,
) -> Attempt<Answer> {
    let Connected {
        address,
        connection,
        activity,
    } = connected;
    let payload = request.payload.clone();
    let asked = connection.request(request.kind as u8, &request.head, payload);
    tokio::pin!(asked);
    let began = Instant::now();
    let deadline = began + bounds.deadline;
    // Patience ends so long after the last sign of progress.
    let patience = || deadline.min(began.max(activity.last()) + bounds.attempt);
    loop {
        let until = patience();
        match tokio::time::timeout_at(until, &mut asked).await {
            Err(_) if until < patience() => {}
            Err(_) => return Attempt::Unsure(Problem::NoAnswer(address.to_string())),
            Ok(Err(error)) => return request_failed(address, &error),
            Ok(Ok(response)) => {
                let attempt = attempt_of(address, response);
                if shows_progress(request.kind, &attempt) {
                    activity.note();
                }
                return attempt;
            }
        }
    }
}

/// Whether an answer shows that the cluster makes progress through this server. A server that is
/// cut off from the others still tells its status and its old data.
fn shows_progress(kind: RequestKind, attempt: &Attempt<Answer>) -> bool {
    let needs_quorum = match kind {
        RequestKind::Write | RequestKind::Read | RequestKind::Register | RequestKind::KeepAlive => {
            true
        }
        RequestKind::ReadLocal | RequestKind::Status | RequestKind::Transfer => false,
    };
    needs_quorum && matches!(attempt, Attempt::Answered(_))
}

fn request_failed(address: &str, error: &RequestError) -> Attempt<Answer> {
    match error {
        RequestError::Disconnected {
            sent: Sent::Maybe,
            reason,
        } => Attempt::Unsure(Problem::Lost {
            address: address.to_owned(),
            reason: reason.to_string(),
        }),
        RequestError::Disconnected { sent: Sent::No, .. } | RequestError::QueueFull => {
            Attempt::NotDone(Problem::NotSent(error.to_string()))
        }
        RequestError::TooLarge { found, limit } => {
            Attempt::NotDone(Problem::Refused(ServerRefusal::TooLarge {
                bytes: *found as u64,
                limit: *limit as u64,
            }))
        }
    }
}

fn attempt_of(address: &str, response: Response) -> Attempt<Answer> {
    // A body that cannot be read says nothing about what was done.
    let unsure = |reason: String| {
        Attempt::Unsure(Problem::Lost {
            address: address.to_owned(),
            reason,
        })
    };
    let Some(kind) = ResponseKind::from_number(response.kind) else {
        return unsure(format!("response of unknown kind {}", response.kind));
    };
    match kind {
        ResponseKind::Answer | ResponseKind::Status | ResponseKind::Done => {
            Attempt::Answered((kind, response.body))
        }
        ResponseKind::Redirect => match protocol::from_body::<Redirect>(&response.body) {
            Ok(redirect) => Attempt::Redirected {
                from: address.to_owned(),
                redirect,
            },
            Err(error) => unsure(error.to_string()),
        },
        ResponseKind::Refused => match protocol::from_body::<ServerRefusal>(&response.body) {
            Ok(refusal) => Attempt::NotDone(Problem::Refused(refusal)),
            Err(error) => unsure(error.to_string()),
        },
        ResponseKind::Unknown => Attempt::Unsure(Problem::ServerUnsure),
    }
}
