//! One request and its answer on one connection, with the patience that the connection deserves.

use bytes::Bytes;
use raft_net::client::{RequestError, Response, Sent};
use tokio::time::Instant;

use super::call::{Attempt, Bounds, Patience, Problem};
use super::pool::{Connected, Pool};
use super::request::Request;
use super::scout::Doubt;
use crate::protocol::{self, Redirect, RequestKind, ResponseKind, ServerRefusal};
use crate::reply::Reply;

/// Longest reply that is looked at for a refusal, in bytes: all refusals are shorter.
const REFUSAL_BYTES_MAX: usize = 32;

/// What a server answered: the kind and the body.
pub(super) type Answer = (ResponseKind, Bytes);

/// Sends a request and waits for its answer: for as long as `bounds` say, and, until the call's
/// deadline, as long as the server answers other requests. One that is only busy is not asked
/// twice. While it is silent, others are asked who leads; if that is another endpoint by now, and
/// the call may be repeated, the wait is over.
pub(super) async fn exchange(
    pool: &Pool,
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
    let patience = |bound| deadline.min(began.max(activity.last()) + bound);
    let no_answer = || Attempt::Unsure(Problem::NoAnswer(address.to_string()));
    loop {
        let until = patience(bounds.doubt.min(bounds.attempt));
        match tokio::time::timeout_at(until, &mut asked).await {
            Err(_) => {}
            Ok(outcome) => return answered(connected, request.kind, outcome),
        }
        if Instant::now() >= patience(bounds.attempt) {
            return no_answer();
        }
        if until < patience(bounds.doubt) {
            continue;
        }
        pool.signals().doubt(Doubt::Silent(connection.node()));
        let look_again = Instant::now() + bounds.doubt;
        tokio::select! {
            outcome = &mut asked => return answered(connected, request.kind, outcome),
            () = moved_elsewhere(pool, address), if bounds.patience == Patience::Switches => {
                return no_answer();
            }
            () = tokio::time::sleep_until(look_again.min(patience(bounds.attempt))) => {}
        }
    }
}

/// Waits until another endpoint is to be asked than this one.
async fn moved_elsewhere(pool: &Pool, address: &str) {
    let mut moved = pool.signals().moved();
    while !pool.is_elsewhere(address) {
        if moved.changed().await.is_err() {
            // Nobody looks for another endpoint.
            std::future::pending::<()>().await;
        }
    }
}

fn answered(
    connected: &Connected,
    kind: RequestKind,
    outcome: Result<Response, RequestError>,
) -> Attempt<Answer> {
    let address = &connected.address;
    let response = match outcome {
        Ok(response) => response,
        Err(error) => return request_failed(address, &error),
    };
    let mut attempt = attempt_of(address, response);
    if let (RequestKind::Write, Attempt::Answered(answer)) = (kind, &attempt)
        && let Some(problem) = no_room(answer)
    {
        attempt = Attempt::NotDone(problem);
    }
    if shows_progress(kind, &attempt) {
        connected.activity.note();
    }
    attempt
}

/// A session that has no room for another reply refuses this attempt of a write, not the write: an
/// earlier attempt that is still on its way may find room. So it is tried again, and not called
/// rejected.
fn no_room((kind, body): &Answer) -> Option<Problem> {
    let may_refuse = *kind == ResponseKind::Answer && body.len() <= REFUSAL_BYTES_MAX;
    match may_refuse.then(|| Reply::from_bytes(body))? {
        Ok(Reply::Refused(refusal)) if refusal.is_of_session_room() => {
            Some(Problem::NoRoom(refusal))
        }
        Ok(_) | Err(_) => None,
    }
}

/// Whether an answer shows that the cluster makes progress through this server. A server that is
/// cut off from the others still tells its status and its old data.
fn shows_progress(kind: RequestKind, attempt: &Attempt<Answer>) -> bool {
    let needs_quorum = match kind {
        RequestKind::Write | RequestKind::Read | RequestKind::Register | RequestKind::KeepAlive => {
            true
        }
        RequestKind::ReadLocal
        | RequestKind::Status
        | RequestKind::Transfer
        | RequestKind::Members
        | RequestKind::ChangeMembers
        | RequestKind::TakeSnapshot
        | RequestKind::ReadSnapshot
        | RequestKind::CompareReplicas => false,
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
        ResponseKind::Answer
        | ResponseKind::Status
        | ResponseKind::Done
        | ResponseKind::Members
        | ResponseKind::Snapshot
        | ResponseKind::SnapshotPart
        | ResponseKind::Compared => Attempt::Answered((kind, response.body)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::{Refusal, ReplyRef};

    #[test]
    fn a_session_without_room_refuses_the_attempt_and_not_the_write() {
        let answer = |refusal| (ResponseKind::Answer, ReplyRef::Refused(refusal).to_bytes());
        let of_room = [
            Refusal::SessionWindow,
            Refusal::SessionReplies,
            Refusal::ReplyMemory,
        ];
        for refusal in of_room {
            assert_eq!(no_room(&answer(refusal)), Some(Problem::NoRoom(refusal)));
        }
        let bytes = u64::MAX;
        assert_eq!(no_room(&answer(Refusal::ValueTooLong { bytes })), None);
        assert_eq!(no_room(&(ResponseKind::Done, Bytes::new())), None);
    }
}
