//! The table of sessions with the replies they may still ask for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use raft_proto::mutants::{Mutant, is_planted};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::clock::{LogClock, LogTime};
use super::{Origin, Sequence, SessionId};
#[cfg(feature = "simulation")]
use crate::limits::MAX_RESPONSE_BYTES;
use crate::limits::{
    MAX_SESSIONS, SESSION_REPLY_BYTES_MAX, SESSION_TTL_MS_MAX, SESSION_TTL_MS_MIN, SESSION_WINDOW,
    SESSIONS_REPLY_BYTES_MAX,
};
use crate::reply::Refusal;

/// What to do with a write that arrives under a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is new: carry it out and [`SessionTable::record`] its reply.
    Apply,
    /// It was carried out before, with this reply.
    Replay(Bytes),
    /// It must not be carried out.
    Refuse(Refusal),
    /// The session is unknown.
    Expired,
}

#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) ttl_ms: u64,
    pub(super) last_active: LogTime,
    /// All writes up to this number are finished for the client.
    pub(super) acknowledged: u64,
    /// Replies of the writes after `acknowledged`, `None` where a number was not seen yet.
    pub(super) replies: VecDeque<Option<Bytes>>,
    pub(super) reply_bytes: usize,
}

/// All sessions of a cluster, and the log time by which they live.
#[derive(Debug, Default)]
pub struct SessionTable {
    /// Shared with a cut that is being taken: a session that changes meanwhile is copied first.
    pub(super) sessions: BTreeMap<SessionId, Arc<Session>>,
    /// Bytes of all replies that are kept.
    pub(super) reply_bytes: usize,
    /// The log's clock; the owner of the table feeds it.
    pub clock: LogClock,
    /// No session can have expired before this time, so nobody need look.
    pub(super) next_sweep: LogTime,
}

/// Sweeps are at least this far apart, in milliseconds of log time, so that their cost does not
/// grow with the number of sessions that expire one by one.
const SWEEP_INTERVAL_MS: u64 = SESSION_TTL_MS_MIN;

impl SessionTable {
    /// Registers a session; its id must be new.
    ///
    /// # Errors
    /// [`Refusal::TooManySessions`], [`Refusal::SessionTtl`].
    pub fn register(&mut self, id: SessionId, ttl_ms: u64) -> Result<(), Refusal> {
        if !(SESSION_TTL_MS_MIN..=SESSION_TTL_MS_MAX).contains(&ttl_ms) {
            return Err(Refusal::SessionTtl { asked_ms: ttl_ms });
        }
        if self.sessions.len() >= MAX_SESSIONS {
            return Err(Refusal::TooManySessions);
        }
        let session = Session {
            ttl_ms,
            last_active: self.clock.now(),
            acknowledged: 0,
            replies: VecDeque::new(),
            reply_bytes: 0,
        };
        let previous = self.sessions.insert(id, Arc::new(session));
        assert!(previous.is_none(), "log indexes are used once");
        Ok(())
    }

    /// Notes a sign of life, and that the client has finished with writes up to `acknowledged`.
    /// Returns whether the session exists.
    pub fn keep_alive(&mut self, id: SessionId, acknowledged: Sequence) -> bool {
        let Some(session) = self.touch(id) else {
            return false;
        };
        let freed = session.acknowledge(acknowledged.0);
        self.reply_bytes -= freed;
        true
    }

    /// Decides about a write. [`Admission::Apply`] must be followed by [`SessionTable::record`].
    pub fn admit(&mut self, origin: Origin) -> Admission {
        let all_reply_bytes = self.reply_bytes;
        let Some(session) = self.touch(origin.session) else {
            return Admission::Expired;
        };
        let sequence = origin.sequence.0;
        if origin.acknowledged.0 >= sequence {
            return Admission::Refuse(Refusal::Malformed);
        }
        let freed = session.acknowledge(origin.acknowledged.0);
        let admission = session.admit(sequence);
        self.reply_bytes = all_reply_bytes - freed;
        if admission == Admission::Apply && self.reply_bytes > SESSIONS_REPLY_BYTES_MAX {
            return Admission::Refuse(Refusal::ReplyMemory);
        }
        admission
    }

    /// Keeps the reply of a write that was just admitted and carried out.
    pub fn record(&mut self, origin: Origin, reply: Bytes) {
        let Some(session) = self.sessions.get_mut(&origin.session) else {
            panic!("a write is recorded right after its session admitted it");
        };
        let session = Arc::make_mut(session);
        self.reply_bytes += reply.len();
        assert!(origin.sequence.0 > session.acknowledged);
        let offset = (origin.sequence.0 - session.acknowledged - 1) as usize;
        if session.replies.len() <= offset {
            session.replies.resize(offset + 1, None);
        }
        session.reply_bytes += reply.len();
        let previous = session.replies[offset].replace(reply);
        assert!(previous.is_none(), "a write is carried out once");
    }

    /// Forgets sessions that have expired. Cheap when called often.
    pub fn sweep(&mut self) {
        let now = self.clock.now();
        if now < self.next_sweep {
            return;
        }
        let clock = self.clock;
        let mut freed = 0;
        self.sessions.retain(|_, session| {
            let lives = !clock.has_expired(session.last_active, session.ttl_ms);
            let is_freed = !lives && !is_planted(Mutant::ExpiredRepliesCount);
            freed += if is_freed { session.reply_bytes } else { 0 };
            lives
        });
        self.reply_bytes -= freed;
        self.next_sweep = now.plus_ms(SWEEP_INTERVAL_MS);
    }

    /// How many sessions are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there is no session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// A hash of the clock and of every session with all its replies: equal tables have equal
    /// hashes. Takes time in proportion to what is kept.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut hash = TableHash::new(&self.clock, self.next_sweep);
        for (id, session) in &self.sessions {
            hash.session(*id, session);
            session.replies.iter().for_each(|reply| hash.reply(reply));
        }
        hash.0
    }

    /// The session, if it lives, with its last activity set to now.
    fn touch(&mut self, id: SessionId) -> Option<&mut Session> {
        use std::collections::btree_map::Entry;
        let Entry::Occupied(entry) = self.sessions.entry(id) else {
            return None;
        };
        let Session {
            last_active,
            ttl_ms,
            reply_bytes,
            ..
        } = **entry.get();
        if self.clock.has_expired(last_active, ttl_ms) {
            self.reply_bytes -= reply_bytes;
            entry.remove();
            return None;
        }
        let session = Arc::make_mut(entry.into_mut());
        session.last_active = self.clock.now();
        Some(session)
    }
}

impl Session {
    /// Decides about a write that is not a contradiction in itself.
    fn admit(&self, sequence: u64) -> Admission {
        if sequence <= self.acknowledged {
            return Admission::Refuse(Refusal::AlreadyAcknowledged);
        }
        let offset = sequence - self.acknowledged - 1;
        if offset >= SESSION_WINDOW {
            return Admission::Refuse(Refusal::SessionWindow);
        }
        // The window is far below `usize::MAX`.
        if let Some(Some(reply)) = self.replies.get(offset as usize) {
            return Admission::Replay(reply.clone());
        }
        if self.reply_bytes > SESSION_REPLY_BYTES_MAX {
            return Admission::Refuse(Refusal::SessionReplies);
        }
        Admission::Apply
    }

    /// Forgets replies that the client has; returns their bytes.
    fn acknowledge(&mut self, acknowledged: u64) -> usize {
        let finished = acknowledged.saturating_sub(self.acknowledged);
        // No more replies exist than the window is long.
        let count = (finished.min(SESSION_WINDOW) as usize).min(self.replies.len());
        let done = self.replies.drain(..count).flatten();
        let freed = done.map(|reply| reply.len()).sum();
        self.reply_bytes -= freed;
        self.acknowledged = self.acknowledged.max(acknowledged);
        freed
    }
}

/// The hash of a table, made of its words one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableHash(pub(super) u64);

impl TableHash {
    pub(super) fn new(clock: &LogClock, next_sweep: LogTime) -> Self {
        let mut hash = Self(0);
        clock.summary().into_iter().for_each(|word| hash.word(word));
        hash.word(next_sweep.0);
        hash
    }

    /// The session without its replies, which must follow.
    pub(super) fn session(&mut self, id: SessionId, session: &Session) {
        let Session {
            ttl_ms,
            last_active,
            acknowledged,
            replies,
            reply_bytes: _,
        } = session;
        for word in [id.0, *ttl_ms, last_active.0, *acknowledged] {
            self.word(word);
        }
        self.word(replies.len() as u64);
    }

    pub(super) fn reply(&mut self, reply: &Option<Bytes>) {
        self.word(reply.as_ref().map_or(0, |reply| xxh3_64(reply)));
    }

    fn word(&mut self, word: u64) {
        self.0 = xxh3_64_with_seed(&word.to_le_bytes(), self.0);
    }
}

#[cfg(any(test, feature = "simulation"))]
impl SessionTable {
    /// Whether the bytes of replies that are noted are those that are kept.
    pub(crate) fn counts_right(&self) -> bool {
        let bytes_of =
            |session: &Session| -> usize { session.replies.iter().flatten().map(Bytes::len).sum() };
        let mut sessions = self.sessions.values();
        sessions.all(|session| session.reply_bytes == bytes_of(session))
            && self.reply_bytes == self.sessions.values().map(|s| bytes_of(s)).sum::<usize>()
    }
}

#[cfg(feature = "simulation")]
impl SessionTable {
    /// Whether no more is kept than [`crate::limits`] allows: sessions, replies of each, bytes of
    /// replies. The last reply that finds room may be as long as a reply gets.
    pub(crate) fn is_within_limits(&self) -> bool {
        let fits = |session: &Arc<Session>| {
            session.replies.len() as u64 <= SESSION_WINDOW
                && session.reply_bytes <= SESSION_REPLY_BYTES_MAX + MAX_RESPONSE_BYTES
        };
        self.sessions.len() <= MAX_SESSIONS
            && self.sessions.values().all(fits)
            && self.reply_bytes <= SESSIONS_REPLY_BYTES_MAX + MAX_RESPONSE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use raft_proto::Term;

    use super::*;
    use crate::session::LeaderTime;

    const ID: SessionId = SessionId(7);

    fn table() -> SessionTable {
        let mut table = SessionTable::default();
        table.clock.observe_term(Term(1));
        table.clock.observe_stamp(LeaderTime(0));
        table.register(ID, 10_000).unwrap();
        table
    }

    fn origin(sequence: u64, acknowledged: u64) -> Origin {
        Origin {
            session: ID,
            sequence: Sequence(sequence),
            acknowledged: Sequence(acknowledged),
        }
    }

    fn write(table: &mut SessionTable, sequence: u64, acknowledged: u64) {
        let origin = origin(sequence, acknowledged);
        assert_eq!(table.admit(origin), Admission::Apply, "{sequence}");
        table.record(origin, reply(sequence));
    }

    fn reply(sequence: u64) -> Bytes {
        sequence.to_le_bytes().to_vec().into()
    }

    #[test]
    fn a_write_that_comes_again_gets_its_first_reply() {
        let mut table = table();
        for sequence in [2, 1, 5] {
            write(&mut table, sequence, 0);
        }
        for sequence in [1, 2, 5] {
            let again = table.admit(origin(sequence, 0));
            assert_eq!(again, Admission::Replay(reply(sequence)));
        }
        write(&mut table, 3, 0);
    }

    #[test]
    fn acknowledged_writes_are_never_carried_out_again() {
        let mut table = table();
        (1..=4).for_each(|sequence| write(&mut table, sequence, 0));
        // 5 was given up by the client and never arrived; its acknowledgement covers it.
        write(&mut table, 6, 5);
        for sequence in 1..=5 {
            let late = table.admit(origin(sequence, 0));
            assert_eq!(late, Admission::Refuse(Refusal::AlreadyAcknowledged));
        }
        assert_eq!(table.admit(origin(6, 5)), Admission::Replay(reply(6)));
        assert_eq!(table.sessions[&ID].reply_bytes, 8);
    }

    #[test]
    fn pipelining_is_bounded_by_number_and_by_bytes() {
        let mut table = table();
        write(&mut table, SESSION_WINDOW, 0);
        let beyond = origin(SESSION_WINDOW + 1, 0);
        assert_eq!(
            table.admit(beyond),
            Admission::Refuse(Refusal::SessionWindow)
        );
        write(&mut table, SESSION_WINDOW + 1, 1);
        let large = Bytes::from(vec![0; SESSION_REPLY_BYTES_MAX]);
        assert_eq!(table.admit(origin(2, 1)), Admission::Apply);
        table.record(origin(2, 1), large);
        let full = Admission::Refuse(Refusal::SessionReplies);
        assert_eq!(table.admit(origin(3, 1)), full);
        write(&mut table, 3, 2);
        assert!(table.sessions[&ID].replies.len() <= SESSION_WINDOW as usize);
    }

    #[test]
    fn the_replies_of_all_sessions_together_are_bounded() {
        let mut table = table();
        // The table counts what it was given; the test shares one reply, to be small.
        let large = Bytes::from(vec![0; SESSION_REPLY_BYTES_MAX]);
        let of = |session: u64, sequence, acknowledged| Origin {
            session: SessionId(session),
            ..origin(sequence, acknowledged)
        };
        let fill = SESSIONS_REPLY_BYTES_MAX / SESSION_REPLY_BYTES_MAX;
        for session in 100..=100 + fill as u64 {
            table.register(SessionId(session), 20_000).unwrap();
            assert_eq!(table.admit(of(session, 1, 0)), Admission::Apply);
            table.record(of(session, 1, 0), large.clone());
        }
        let full = Admission::Refuse(Refusal::ReplyMemory);
        assert_eq!(table.admit(origin(1, 0)), full);
        assert_eq!(table.admit(of(100, 1, 0)), Admission::Replay(large));
        // An acknowledgement frees, and so does an expiry.
        assert!(table.keep_alive(SessionId(100), Sequence(1)));
        write(&mut table, 1, 0);
        assert!(table.counts_right());
        table.clock.observe_stamp(LeaderTime(20_001));
        table.sweep();
        assert!(table.is_empty() && table.reply_bytes == 0);
    }

    #[test]
    fn an_acknowledgement_far_ahead_costs_nothing() {
        let mut table = table();
        write(&mut table, 1, 0);
        assert!(table.keep_alive(ID, Sequence(u64::MAX - 1)));
        assert_eq!(table.sessions[&ID].replies.len(), 0);
        write(&mut table, u64::MAX, u64::MAX - 1);
        let nonsense = table.admit(origin(3, 3));
        assert_eq!(nonsense, Admission::Refuse(Refusal::Malformed));
    }

    #[test]
    fn silence_expires_and_signs_of_life_prolong() {
        let mut table = table();
        table.clock.observe_stamp(LeaderTime(10_000));
        assert!(table.keep_alive(ID, Sequence(0)));
        table.clock.observe_stamp(LeaderTime(20_000));
        write(&mut table, 1, 0);
        table.clock.observe_stamp(LeaderTime(30_001));
        assert_eq!(table.admit(origin(1, 0)), Admission::Expired);
        assert!(!table.keep_alive(ID, Sequence(0)));
        assert!(table.is_empty());
    }

    #[test]
    fn sweeps_free_what_nobody_asks_for() {
        let mut table = table();
        table.register(SessionId(8), 60_000).unwrap();
        table.clock.observe_stamp(LeaderTime(10_000));
        table.sweep();
        assert_eq!(table.len(), 2);
        table.clock.observe_stamp(LeaderTime(11_000));
        table.sweep();
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn ttl_and_number_of_sessions_are_bounded() {
        let mut table = table();
        for asked_ms in [0, SESSION_TTL_MS_MIN - 1, SESSION_TTL_MS_MAX + 1] {
            let refused = table.register(SessionId(9), asked_ms);
            assert_eq!(refused, Err(Refusal::SessionTtl { asked_ms }));
        }
        (1..MAX_SESSIONS as u64).for_each(|n| table.register(SessionId(100 + n), 5_000).unwrap());
        let refused = table.register(SessionId(9), 5_000);
        assert_eq!(refused, Err(Refusal::TooManySessions));
    }

    #[test]
    fn every_difference_shows_in_the_hash() {
        let base = table().hash();
        assert_eq!(base, table().hash());
        let mut other = table();
        write(&mut other, 1, 0);
        let one = other.hash();
        assert_ne!(base, one);
        other.keep_alive(ID, Sequence(1));
        assert_ne!(one, other.hash());
        let mut later = table();
        later.clock.observe_stamp(LeaderTime(1));
        assert_ne!(base, later.hash());
    }
}
