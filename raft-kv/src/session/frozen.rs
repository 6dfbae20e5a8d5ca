//! All sessions as they were at one point, for a snapshot, and the way back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use raft_proto::LogIndex;

use super::SessionId;
use super::table::{Session, SessionTable, TableHash};
use crate::codec::Slice;
use crate::limits::{MAX_SESSIONS, SESSION_TTL_MS_MAX, SESSION_TTL_MS_MIN, SESSION_WINDOW};
use crate::snapshot::{Block, Header, RestoreError, SessionHead, ensure};

/// The sessions that a cut has not taken yet. They are shared with the table, which copies a
/// session before it changes it; so freezing costs one reference per session.
#[derive(Debug)]
pub(crate) struct FrozenSessions {
    rest: BTreeMap<SessionId, Arc<Session>>,
    /// The session whose replies are being taken, and how many of them were.
    current: Option<(Arc<Session>, usize)>,
    hash: TableHash,
}

impl SessionTable {
    pub(crate) fn freeze(&self) -> FrozenSessions {
        FrozenSessions {
            rest: self.sessions.clone(),
            current: None,
            hash: TableHash::new(&self.clock, self.next_sweep),
        }
    }

    /// What the header of a snapshot says about sessions.
    pub(crate) fn describe(&self, header: &mut Header) {
        header.clock = self.clock;
        header.next_sweep = self.next_sweep;
        header.sessions = self.sessions.len() as u64;
    }
}

impl FrozenSessions {
    /// Appends the next block to `out`, of about `room` bytes. Returns whether there was one.
    pub(crate) fn append_block(&mut self, out: &mut Vec<u8>, room: usize) -> bool {
        if let Some((session, taken)) = self.current.take() {
            let taken = self.append_replies(&session, taken, out, room);
            if taken < session.replies.len() {
                self.current = Some((session, taken));
            }
            return true;
        }
        let Some((id, session)) = self.rest.pop_first() else {
            return false;
        };
        self.hash.session(id, &session);
        let head = SessionHead {
            id,
            ttl_ms: session.ttl_ms,
            last_active: session.last_active,
            acknowledged: session.acknowledged,
            replies: session.replies.len() as u64,
        };
        Block::Session(head).append_to(out);
        if !session.replies.is_empty() {
            self.current = Some((session, 0));
        }
        true
    }

    /// The hash of the table that was frozen, once every block was taken.
    pub(crate) fn hash(&self) -> u64 {
        assert!(
            self.rest.is_empty() && self.current.is_none(),
            "every session is in the hash"
        );
        self.hash.0
    }

    fn append_replies(
        &mut self,
        session: &Session,
        taken: usize,
        out: &mut Vec<u8>,
        room: usize,
    ) -> usize {
        let mut replies = Vec::new();
        let mut bytes = 0;
        for reply in session.replies.range(taken..) {
            if bytes >= room && !replies.is_empty() {
                break;
            }
            bytes += 8 + reply.as_ref().map_or(0, Bytes::len);
            self.hash.reply(reply);
            replies.push(reply.as_ref().map(|reply| Slice(reply)));
        }
        let taken = taken + replies.len();
        Block::Replies(replies).append_to(out);
        taken
    }
}

/// Takes the sessions of a snapshot and builds a table from them.
#[derive(Debug)]
pub(crate) struct SessionRestorer {
    table: SessionTable,
    applied_index: LogIndex,
    announced: u64,
    /// The session whose replies come next, and how many are missing.
    open: Option<(SessionId, Session, u64)>,
}

impl SessionRestorer {
    pub(crate) fn new(header: &Header) -> Result<Self, RestoreError> {
        ensure(
            header.sessions <= MAX_SESSIONS as u64,
            "there are more sessions than there can be",
        )?;
        ensure(
            header.clock.is_consistent(),
            "the clock's term began in its future",
        )?;
        let table = SessionTable {
            clock: header.clock,
            next_sweep: header.next_sweep,
            ..SessionTable::default()
        };
        Ok(Self {
            table,
            applied_index: header.applied_index,
            announced: header.sessions,
            open: None,
        })
    }

    pub(crate) fn session(&mut self, head: &SessionHead) -> Result<(), RestoreError> {
        ensure(self.open.is_none(), "a session's replies are missing")?;
        let last = self.table.sessions.last_key_value();
        ensure(
            last.is_none_or(|(last, _)| *last < head.id),
            "sessions are out of order",
        )?;
        ensure(
            head.id.0 <= self.applied_index.0,
            "a session was registered after the last command",
        )?;
        ensure(
            (SESSION_TTL_MS_MIN..=SESSION_TTL_MS_MAX).contains(&head.ttl_ms)
                && head.last_active <= self.table.clock.now()
                && head.replies <= SESSION_WINDOW
                && head.acknowledged.checked_add(head.replies).is_some(),
            "a session is as none can be",
        )?;
        let session = Session {
            ttl_ms: head.ttl_ms,
            last_active: head.last_active,
            acknowledged: head.acknowledged,
            replies: VecDeque::new(),
            reply_bytes: 0,
        };
        self.open = Some((head.id, session, head.replies));
        self.close_if_complete();
        Ok(())
    }

    pub(crate) fn replies(&mut self, replies: &[Option<Slice<'_>>]) -> Result<(), RestoreError> {
        let fits = |left: u64| !replies.is_empty() && replies.len() as u64 <= left;
        let open = self.open.as_mut().filter(|(_, _, left)| fits(*left));
        let Some((_, session, left)) = open else {
            let what = "replies belong to no session";
            return Err(RestoreError::Contradiction { what });
        };
        *left -= replies.len() as u64;
        for reply in replies {
            let reply = reply.map(|reply| Bytes::copy_from_slice(reply.0));
            session.reply_bytes += reply.as_ref().map_or(0, Bytes::len);
            session.replies.push_back(reply);
        }
        self.close_if_complete();
        Ok(())
    }

    /// The table, if it is complete.
    pub(crate) fn finish(self) -> Result<SessionTable, RestoreError> {
        ensure(self.open.is_none(), "a session's replies are missing")?;
        ensure(
            self.table.sessions.len() as u64 == self.announced,
            "the number of sessions is not the one announced",
        )?;
        Ok(self.table)
    }

    fn close_if_complete(&mut self) {
        if let Some((id, session, _)) = self.open.take_if(|(_, _, left)| *left == 0) {
            self.table.reply_bytes += session.reply_bytes;
            self.table.sessions.insert(id, Arc::new(session));
        }
    }
}
