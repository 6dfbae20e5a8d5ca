//! What to do after each attempt of a call: pure decisions, no clock and no network.
//!
//! A call is tried until it is answered, refused for good, or out of time. What may be repeated
//! depends on the call: a read always, a write of a session too (it counts once), a write
//! without a session only as long as it certainly has not reached a server.

use std::time::Duration;

use raft_proto::mutants::{Mutant, is_planted};
use thiserror::Error;

use crate::protocol::{Redirect, ServerRefusal};
use crate::reply::Refusal;

/// Times of a call, all counted from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallPolicy {
    /// When the caller gives up.
    pub deadline: Duration,
    /// How long the first attempt of a repeatable call may take; each later one twice as long.
    pub first_attempt: Duration,
    /// How long to get a connection for the first attempt; for each later one twice as long.
    pub first_connect: Duration,
    /// Silence after which the other endpoints are asked whether somebody else leads by now.
    pub doubt_after: Duration,
    /// First pause between attempts; later ones are twice as long, each with jitter.
    pub pause_min: Duration,
    /// Longest pause between attempts.
    pub pause_max: Duration,
}

impl Default for CallPolicy {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            first_attempt: Duration::from_millis(1_000),
            first_connect: Duration::from_millis(300),
            doubt_after: Duration::from_millis(150),
            pause_min: Duration::from_millis(10),
            pause_max: Duration::from_millis(100),
        }
    }
}

/// Whether a call may be sent again after it may have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repetition {
    /// It changes nothing that matters: a read, a status, a registration.
    Harmless,
    /// Its session makes it count once; not knowing its outcome must still be said.
    CountedOnce,
    /// It might count twice.
    Forbidden,
}

/// What an attempt ran into.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// No connection; the request was not sent.
    #[error("cannot connect to {address}: {reason}")]
    NotConnected {
        /// The endpoint.
        address: String,
        /// Why.
        reason: String,
    },
    /// No endpoint can be reached; the request was not sent.
    #[error("no endpoint can be reached ({0})")]
    NoEndpoint(String),
    /// No endpoint will ever accept us as we are, or we them.
    #[error("no endpoint can be used ({0})")]
    Incompatible(String),
    /// The request could not be sent.
    #[error("the request was not sent: {0}")]
    NotSent(String),
    /// The connection broke after the request was sent.
    #[error("the connection to {address} was lost: {reason}")]
    Lost {
        /// The endpoint.
        address: String,
        /// Why.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer from {0} in time")]
    NoAnswer(String),
    /// The server does not know the write's outcome.
    #[error("the server does not know the outcome")]
    ServerUnsure,
    /// The node does not lead and knows no leader.
    #[error("no leader is known at {0}")]
    NoLeader(String),
    /// The node does not lead.
    #[error("{0} does not lead")]
    NotLeader(String),
    /// The server refused.
    #[error(transparent)]
    Refused(#[from] ServerRefusal),
    /// The session has expired, or never existed.
    #[error("the session has expired")]
    SessionExpired,
    /// The session has no room for the reply of another write.
    #[error("the session has no room: {0}")]
    NoRoom(Refusal),
}

/// How long parts of an attempt may take, all from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// To get a connection.
    pub connect: Duration,
    /// Without a sign that the server makes progress.
    pub attempt: Duration,
    /// Without such a sign, until others are asked who leads.
    pub doubt: Duration,
    /// What happens when somebody else leads by now.
    pub patience: Patience,
    /// Whatever happens: then the call is out of time.
    pub deadline: Duration,
}

/// What a call does that waits for an endpoint when it hears that another one leads by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It is made again there.
    Switches,
    /// It waits on, because it must not be made twice.
    Stays,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt<T> {
    /// With an answer.
    Answered(T),
    /// The node does not lead.
    Redirected {
        /// The node asked.
        from: String,
        /// Where to go.
        redirect: Redirect,
    },
    /// The request certainly had no effect.
    NotDone(Problem),
    /// The request may have had an effect, or have it yet.
    Unsure(Problem),
}

/// How a call ended without an answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CallError {
    /// Refused for good; nothing has changed.
    #[error("{0}")]
    Refused(Problem),
    /// Out of time; nothing has changed.
    #[error("gave up after {} ms: {last}", .after.as_millis())]
    TimedOut {
        /// How long it was tried.
        after: Duration,
        /// What the last attempt ran into.
        last: Problem,
    },
    /// One endpoint, which was meant, did not answer.
    #[error("unreachable: {0}")]
    Unreachable(Problem),
    /// The write may have been carried out, or may yet be.
    #[error("outcome unknown, the write may or may not have been carried out: {0}")]
    Unknown(Problem),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// Return this to the caller.
    Done(Result<T, CallError>),
    /// Try again after a pause.
    Retry {
        /// The pause; often zero.
        after: Duration,
    },
}

/// Redirects with a known leader that are followed without a pause.
const QUICK_REDIRECTS: u32 = 3;

/// One call in progress.
#[derive(Clone, Debug)]
pub struct Call {
    policy: CallPolicy,
    repetition: Repetition,
    /// Attempts that ended.
    attempts: u32,
    redirects: u32,
    /// Pauses made, for the next one's length.
    pauses: u32,
    /// Some earlier attempt may have had, or may yet have, its effect.
    unsure: Option<Problem>,
    random: u64,
}

impl Call {
    /// A call that starts now; `seed` makes its jitter.
    #[must_use]
    pub const fn new(policy: CallPolicy, repetition: Repetition, seed: u64) -> Self {
        Self {
            policy,
            repetition,
            attempts: 0,
            redirects: 0,
            pauses: 0,
            unsure: None,
            random: seed,
        }
    }

    /// How long the next attempt may take, `elapsed` after the call started.
    #[must_use]
    pub fn bounds(&self, elapsed: Duration) -> Bounds {
        let deadline = self.policy.deadline.saturating_sub(elapsed);
        let factor = 1u32 << self.attempts.min(8);
        let grown = |first: Duration| deadline.min(first.saturating_mul(factor));
        let (attempt, patience) = match self.repetition {
            // Giving up early would only make the outcome unknown.
            Repetition::Forbidden => (deadline, Patience::Stays),
            Repetition::Harmless | Repetition::CountedOnce => {
                (grown(self.policy.first_attempt), Patience::Switches)
            }
        };
        Bounds {
            connect: grown(self.policy.first_connect),
            attempt,
            doubt: self.policy.doubt_after,
            patience,
            deadline,
        }
    }

    /// Decides what follows an attempt that ended `elapsed` after the call started.
    pub fn next<T>(&mut self, attempt: Attempt<T>, elapsed: Duration) -> Next<T> {
        self.attempts += 1;
        match attempt {
            Attempt::Answered(answer) => Next::Done(Ok(answer)),
            Attempt::Redirected { from, redirect } => {
                let is_hinted = redirect.address.is_some();
                self.redirects += 1;
                if is_hinted && self.redirects <= QUICK_REDIRECTS && elapsed < self.policy.deadline
                {
                    return Next::Retry {
                        after: Duration::ZERO,
                    };
                }
                self.pause(
                    elapsed,
                    if is_hinted {
                        Problem::NotLeader(from)
                    } else {
                        Problem::NoLeader(from)
                    },
                )
            }
            Attempt::NotDone(problem) => {
                let is_final = match &problem {
                    Problem::Refused(refusal) => !refusal.is_transient(),
                    Problem::Incompatible(_) => true,
                    Problem::SessionExpired
                    | Problem::NoRoom(_)
                    | Problem::NotConnected { .. }
                    | Problem::NoEndpoint(_)
                    | Problem::NotSent(_)
                    | Problem::Lost { .. }
                    | Problem::NoAnswer(_)
                    | Problem::ServerUnsure
                    | Problem::NoLeader(_)
                    | Problem::NotLeader(_) => false,
                };
                if is_final {
                    return Next::Done(Err(self.failed(CallError::Refused(problem))));
                }
                self.pause(elapsed, problem)
            }
            Attempt::Unsure(problem) => match self.repetition {
                Repetition::Forbidden if is_planted(Mutant::OneShotRepeated) => {
                    self.pause(elapsed, problem)
                }
                Repetition::Forbidden => Next::Done(Err(CallError::Unknown(problem))),
                Repetition::CountedOnce => {
                    self.unsure = Some(problem.clone());
                    self.pause(elapsed, problem)
                }
                Repetition::Harmless => self.pause(elapsed, problem),
            },
        }
    }

    fn pause<T>(&mut self, elapsed: Duration, problem: Problem) -> Next<T> {
        let longest = self
            .policy
            .pause_min
            .saturating_mul(1 << self.pauses.min(16))
            .min(self.policy.pause_max);
        self.pauses += 1;
        // Between half and all of it, so that clients who failed together do not return together.
        let after = longest / 2 + (longest / 2).mul_f64(self.random_fraction());
        if elapsed + after >= self.policy.deadline {
            return Next::Done(Err(self.failed(CallError::TimedOut {
                after: elapsed,
                last: problem,
            })));
        }
        Next::Retry { after }
    }

    /// An error says that nothing has changed only if no attempt may have changed something.
    fn failed(&self, error: CallError) -> CallError {
        match &self.unsure {
            Some(_) if is_planted(Mutant::EarlierAttemptForgotten) => error,
            Some(problem) => CallError::Unknown(problem.clone()),
            None => error,
        }
    }

    /// The next of a sequence of numbers in [0, 1) (splitmix64).
    fn random_fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn call(repetition: Repetition) -> Call {
        Call::new(CallPolicy::default(), repetition, 7)
    }

    fn lost() -> Attempt<()> {
        Attempt::Unsure(Problem::NoAnswer("a:1".to_owned()))
    }

    fn redirected(address: Option<&str>) -> Attempt<()> {
        Attempt::Redirected {
            from: "a:1".to_owned(),
            redirect: Redirect {
                leader: None,
                address: address.map(str::to_owned),
            },
        }
    }

    fn is_retry(next: &Next<()>) -> bool {
        matches!(next, Next::Retry { .. })
    }

    #[test]
    fn a_one_shot_write_is_not_repeated_once_it_may_have_arrived() {
        let mut one_shot = call(Repetition::Forbidden);
        let refused = Attempt::NotDone(Problem::Refused(ServerRefusal::Overloaded));
        assert!(is_retry(&one_shot.next::<()>(refused, NOW)));
        assert!(matches!(
            one_shot.next(lost(), NOW),
            Next::Done(Err(CallError::Unknown(_)))
        ));
    }

    #[test]
    fn a_write_of_a_session_is_repeated_but_never_called_undone() {
        let mut write = call(Repetition::CountedOnce);
        assert!(is_retry(&write.next(lost(), NOW)));
        // Even if the last attempt certainly failed, the first may yet be carried out.
        let late = Duration::from_secs(5);
        let refused = Attempt::NotDone::<()>(Problem::Refused(ServerRefusal::Overloaded));
        assert!(matches!(
            write.next(refused, late),
            Next::Done(Err(CallError::Unknown(_)))
        ));
        let mut write = call(Repetition::CountedOnce);
        assert!(is_retry(&write.next(lost(), NOW)));
        let refused = Attempt::NotDone::<()>(Problem::Refused(ServerRefusal::Malformed));
        assert!(matches!(
            write.next(refused, NOW),
            Next::Done(Err(CallError::Unknown(_)))
        ));
    }

    #[test]
    fn a_session_without_room_does_not_undo_an_earlier_attempt() {
        let no_room = || Attempt::NotDone::<()>(Problem::NoRoom(Refusal::SessionReplies));
        let late = Duration::from_secs(5);
        let mut write = call(Repetition::CountedOnce);
        assert!(is_retry(&write.next(no_room(), NOW)));
        assert!(matches!(
            write.next(no_room(), late),
            Next::Done(Err(CallError::TimedOut { .. }))
        ));
        let mut write = call(Repetition::CountedOnce);
        assert!(is_retry(&write.next(lost(), NOW)));
        assert!(is_retry(&write.next(no_room(), NOW)));
        assert!(matches!(
            write.next(no_room(), late),
            Next::Done(Err(CallError::Unknown(_)))
        ));
    }

    #[test]
    fn a_read_that_gets_nothing_times_out() {
        let mut read = call(Repetition::Harmless);
        assert!(is_retry(&read.next(lost(), NOW)));
        assert!(matches!(
            read.next(lost(), Duration::from_secs(5)),
            Next::Done(Err(CallError::TimedOut { .. }))
        ));
    }

    #[test]
    fn hints_are_followed_at_once_but_not_forever() {
        let mut read = call(Repetition::Harmless);
        for _ in 0..QUICK_REDIRECTS {
            let next = read.next(redirected(Some("b:2")), NOW);
            assert_eq!(next, Next::Retry { after: NOW });
        }
        let Next::Retry { after } = read.next(redirected(Some("b:2")), NOW) else {
            panic!("gave up");
        };
        assert!(after > NOW);
        let Next::Retry { after } = call(Repetition::Harmless).next(redirected(None), NOW) else {
            panic!("gave up");
        };
        assert!(after > NOW);
    }

    #[test]
    fn pauses_grow_up_to_a_bound_and_differ() {
        let policy = CallPolicy {
            deadline: Duration::from_secs(1 << 20),
            ..CallPolicy::default()
        };
        let mut read = Call::new(policy, Repetition::Harmless, 1);
        let mut pauses = Vec::new();
        for _ in 0..20 {
            let Next::Retry { after } = read.next(redirected(None), NOW) else {
                panic!("gave up");
            };
            pauses.push(after);
        }
        assert!(pauses[0] <= policy.pause_min);
        assert!(pauses.iter().all(|pause| *pause <= policy.pause_max));
        assert!(pauses[19] >= policy.pause_max / 2);
        assert_ne!(pauses[18], pauses[19]);
    }

    #[test]
    fn attempts_of_repeatable_calls_are_short_at_first() {
        let mut read = call(Repetition::Harmless);
        let first = read.bounds(NOW).attempt;
        assert_eq!(first, CallPolicy::default().first_attempt);
        read.next(lost(), NOW);
        assert_eq!(read.bounds(NOW).attempt, first * 2);
        let late = Duration::from_millis(4_900);
        assert_eq!(read.bounds(late).attempt, Duration::from_millis(100));
        assert_eq!(read.bounds(NOW).deadline, Duration::from_secs(5));
        let one_shot = call(Repetition::Forbidden);
        assert_eq!(one_shot.bounds(NOW).patience, Patience::Stays);
        assert_eq!(
            one_shot.bounds(NOW).connect,
            CallPolicy::default().first_connect
        );
        assert_eq!(one_shot.bounds(NOW).attempt, Duration::from_secs(5));
    }

    #[test]
    fn what_can_never_work_ends_at_once() {
        let foreign = Problem::Incompatible("certificate".to_owned());
        assert!(matches!(
            call(Repetition::Harmless).next::<()>(Attempt::NotDone(foreign), NOW),
            Next::Done(Err(CallError::Refused(_)))
        ));
    }
}
