//! Client sessions: each write of a session counts once, however often it is sent (D13, thesis
//! §6.3). Part of the replicated state: deterministic, no clock, no I/O.
//!
//! A client registers a session and numbers its writes. The table keeps the reply of every write
//! until the client says that it has it; a write that arrives again gets the reply of the first
//! time. A session that shows no sign of life for its time-to-live, in [log time](clock), is
//! forgotten, and writes under it are refused from then on: whether they were carried out before
//! is then unknown, and they are never carried out under another session.

pub mod clock;
mod frozen;
mod table;

use serde::{Deserialize, Serialize};

pub use self::clock::{LeaderTime, LogClock, LogTime};
pub(crate) use self::frozen::{FrozenSessions, SessionRestorer};
pub use self::table::{Admission, SessionTable};

/// The id of a session: the log index of the command that registered it, so never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u64);

/// The number of a write within its session. The first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sequence(pub u64);

/// Where a write of a session comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The session.
    pub session: SessionId,
    /// The write's number.
    pub sequence: Sequence,
    /// All writes up to this number are finished for the client; their replies may go. Less than
    /// `sequence`; 0 if none.
    pub acknowledged: Sequence,
}
