//! Linearizable reads without log entries (ReadIndex, thesis §6.4), in batches, on leaders and
//! followers.
//!
//! A leader answers a batch with its commit index as of the start of a confirmation round, once
//! a majority has answered a heartbeat of that round or a later one in its term: then nobody can
//! have led a later term before the round began. It starts none before the first commit of its
//! term (§8), because only then its commit index is known to cover its predecessors' commits.
//! A follower asks its leader. In both cases one batch is under way and the next one gathers.

use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{Boot, LogIndex, NodeId, ReadIndexRequest, ReadIndexResponse};

use crate::core::RaftCore;
use crate::error::ReadIndexError;
use crate::output::{Event, ReadFailure};
use crate::progress::Counting;
use crate::roles::RoleState;
use crate::time::{ReadId, Time};
use crate::timers::Timer;

/// Bits of a request id that count requests, from a start that each boot draws anew.
const REQUEST_ID_BITS: u32 = 40;

/// Who waits for a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Local(ReadId),
    Peer { id: NodeId, request: u64 },
}

#[derive(Clone, Copy, Debug)]
struct Read {
    reader: Reader,
    deadline: Time,
}

/// What the batch under way waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// Answers to a confirmation round; the reads are then served at the index.
    Round { round: u64, index: LogIndex },
    /// The leader's answer to a request.
    Answer { request: u64, sent_at: Time },
}

#[derive(Clone, Debug)]
struct Batch {
    waiting: Waiting,
    reads: Vec<Read>,
}

/// Reads that are not confirmed yet.
#[derive(Clone, Debug)]
pub(crate) struct Reads {
    under_way: Option<Batch>,
    gathering: Vec<Read>,
    last_request: u64,
}

impl Reads {
    pub(crate) fn new(boot: Boot) -> Self {
        Self {
            under_way: None,
            gathering: Vec::new(),
            last_request: if is_planted(Mutant::RequestIdsRestart) {
                0
            } else {
                // By the counter alone, a wiped node would use those of its earlier life again, and
                // answers to that may still be on their way.
                boot.nonce.wrapping_add(boot.counter << REQUEST_ID_BITS)
            },
        }
    }

    fn len(&self) -> usize {
        let under_way = self.under_way.as_ref().map_or(0, |batch| batch.reads.len());
        under_way + self.gathering.len()
    }

    /// The oldest read comes first: all wait equally long.
    fn next_deadline(&self) -> Option<Time> {
        let first = |reads: &[Read]| reads.first().map(|read| read.deadline);
        let under_way = self.under_way.as_ref().and_then(|b| first(&b.reads));
        under_way.into_iter().chain(first(&self.gathering)).min()
    }

    fn take_expired(&mut self, now: Time) -> Vec<Read> {
        let mut expired = Vec::new();
        let mut drain = |reads: &mut Vec<Read>| {
            let count = reads.partition_point(|read| read.deadline <= now);
            expired.extend(reads.drain(..count));
        };
        if let Some(batch) = &mut self.under_way {
            drain(&mut batch.reads);
        }
        drain(&mut self.gathering);
        if self.under_way.as_ref().is_some_and(|b| b.reads.is_empty()) {
            self.under_way = None;
        }
        expired
    }

    fn take_all(&mut self) -> Vec<Read> {
        let under_way = self.under_way.take().map(|batch| batch.reads);
        let mut all = under_way.unwrap_or_default();
        all.append(&mut self.gathering);
        all
    }
}

/// Whether an answer with this id is one to this request.
fn answers(id: u64, request: u64) -> bool {
    // With numbers that never come again, an answer to a later request would do as well.
    let is_later = id > request && is_planted(Mutant::RequestIdsRestart);
    id == request || is_later || is_planted(Mutant::OldReadAnswerCounts)
}

impl RaftCore {
    /// Asks for an index at which a read is linearizable: [`Event::ReadReady`] tells it, or
    /// [`Event::ReadFailed`] that there is none (after [`crate::Config::read_timeout_ms`] at the
    /// latest). Works on leaders and on followers that know their leader.
    ///
    /// # Errors
    /// [`ReadIndexError`]; then no event follows.
    pub fn read_index(&mut self, now: Time, id: ReadId) -> Result<(), ReadIndexError> {
        self.advance_clock(now);
        if self.is_halted() {
            return Err(ReadIndexError::Halted);
        }
        if self.leader.is_none() {
            return Err(ReadIndexError::NoLeader);
        }
        let pending = self.reads.len();
        if pending >= self.config.max_pending_reads {
            return Err(ReadIndexError::Overloaded(pending));
        }
        if is_planted(Mutant::FollowerReadsAlone) && !self.is_leader() {
            let index = self.commit_index;
            self.events.push_back(Event::ReadReady { id, index });
            return Ok(());
        }
        self.gather_read(Reader::Local(id));
        Ok(())
    }

    /// How many reads of this node, and requests of followers, wait for confirmation: at most
    /// [`crate::Config::max_pending_reads`].
    #[must_use]
    pub fn pending_reads(&self) -> usize {
        self.reads.len()
    }

    /// A follower wants an index to read at.
    pub(crate) fn handle_read_index_request(&mut self, from: NodeId, request: &ReadIndexRequest) {
        let has_room = self.reads.len() < self.config.max_pending_reads;
        let reader = Reader::Peer {
            id: from,
            request: request.id,
        };
        if self.is_leader() && has_room {
            self.gather_read(reader);
        } else {
            self.refuse_read(reader, ReadFailure::Refused);
        }
    }

    /// The leader's answer. Only the latest request counts: an earlier one may have been answered
    /// before the reads of this batch came.
    pub(crate) fn handle_read_index_response(
        &mut self,
        from: NodeId,
        response: &ReadIndexResponse,
    ) {
        let is_latest = self.reads.under_way.as_ref().is_some_and(|batch| {
            matches!(batch.waiting, Waiting::Answer { request, .. } if answers(response.id, request))
        });
        if self.leader != Some(from) || !is_latest {
            return;
        }
        let Some(batch) = self.reads.under_way.take() else {
            return;
        };
        match response.read_index {
            Some(index) => {
                // What the leader of this term has committed is committed here too, as far as
                // this log is known to be the leader's.
                self.advance_commit(index.min(self.verified));
                self.serve_reads(batch.reads, index);
            }
            None => {
                for read in batch.reads {
                    self.refuse_read(read.reader, ReadFailure::Refused);
                }
            }
        }
        self.next_batch();
        self.set_read_timer();
    }

    fn gather_read(&mut self, reader: Reader) {
        let deadline = self.now.plus_ms(self.config.read_timeout_ms);
        self.reads.gathering.push(Read { reader, deadline });
        self.next_batch();
        self.set_read_timer();
    }

    /// Begins the next batch if none is under way.
    fn next_batch(&mut self) {
        if self.is_leader() {
            self.start_read_round();
        } else {
            self.ask_leader();
        }
    }

    /// Begins a confirmation round for the reads gathered, if none is under way and the first
    /// entry of the term is committed.
    pub(crate) fn start_read_round(&mut self) {
        let index = self.commit_index;
        let RoleState::Leader(leader) = &mut self.role else {
            return;
        };
        let has_committed =
            index >= leader.first_index || is_planted(Mutant::ReadBeforeFirstCommit);
        let is_idle = self.reads.under_way.is_none() && !self.reads.gathering.is_empty();
        if !has_committed || !is_idle {
            return;
        }
        if is_planted(Mutant::ReadRoundReused) {
            leader.round = leader.round.saturating_sub(1);
        }
        let round = leader.round + 1;
        let reads = std::mem::take(&mut self.reads.gathering);
        self.reads.under_way = Some(Batch {
            waiting: Waiting::Round { round, index },
            reads,
        });
        // A new round, so that no answer to an earlier heartbeat can confirm these reads.
        self.broadcast_heartbeats();
        self.confirm_reads();
    }

    /// Serves the batch under way if a majority has answered its round or a later one.
    pub(crate) fn confirm_reads(&mut self) {
        let RoleState::Leader(leader) = &self.role else {
            return;
        };
        let me = self.config.id;
        let confirmed = self.members.quorum().reached(|id| {
            if id == me {
                return leader.round;
            }
            let counted = leader.peers.get(&id);
            counted
                .filter(|p| p.counting == Counting::Counted)
                .map_or(0, |p| p.acked_round)
        });
        let Some(batch) = self.reads.under_way.take() else {
            return;
        };
        match batch.waiting {
            Waiting::Round { round, index }
                if confirmed >= round || is_planted(Mutant::ReadWithoutQuorum) =>
            {
                self.serve_reads(batch.reads, index);
                self.start_read_round();
                self.set_read_timer();
            }
            Waiting::Round { .. } | Waiting::Answer { .. } => {
                self.reads.under_way = Some(batch);
            }
        }
    }

    /// Sends the reads gathered to the leader as one request, if none is under way.
    fn ask_leader(&mut self) {
        let Some(leader) = self.leader else {
            return;
        };
        if self.reads.under_way.is_some() || self.reads.gathering.is_empty() {
            return;
        }
        let id = self.reads.last_request.wrapping_add(1);
        self.reads.last_request = id;
        self.reads.under_way = Some(Batch {
            waiting: Waiting::Answer {
                request: id,
                sent_at: self.now,
            },
            reads: std::mem::take(&mut self.reads.gathering),
        });
        let term = self.term();
        self.send_after_term(leader, ReadIndexRequest { term, id }.into());
    }

    /// The read timer ran out: fails what waited too long, and asks the leader again, under a new
    /// id, if a request or its answer seems lost.
    pub(crate) fn read_timed_out(&mut self) {
        for read in self.reads.take_expired(self.now) {
            self.refuse_read(read.reader, ReadFailure::TimedOut);
        }
        let retry_at = self.read_retry_at();
        if retry_at.is_some_and(|at| at <= self.now)
            && let Some(batch) = self.reads.under_way.take()
        {
            let newer = std::mem::replace(&mut self.reads.gathering, batch.reads);
            self.reads.gathering.extend(newer);
        }
        self.next_batch();
        self.set_read_timer();
    }

    fn read_retry_at(&self) -> Option<Time> {
        let batch = self.reads.under_way.as_ref()?;
        match batch.waiting {
            Waiting::Round { .. } => None,
            Waiting::Answer { sent_at, .. } => {
                Some(sent_at.plus_ms(self.config.election_timeout_ms_min))
            }
        }
    }

    fn set_read_timer(&mut self) {
        let deadline = self.reads.next_deadline();
        match deadline.into_iter().chain(self.read_retry_at()).min() {
            Some(deadline) => self.timers.set(Timer::Read, deadline),
            None => self.timers.stop(Timer::Read),
        }
    }

    /// Fails every read that waits.
    pub(crate) fn fail_reads(&mut self, reason: ReadFailure) {
        for read in self.reads.take_all() {
            self.refuse_read(read.reader, reason);
        }
        self.timers.stop(Timer::Read);
    }

    fn serve_reads(&mut self, reads: Vec<Read>, index: LogIndex) {
        let term = self.term();
        for read in reads {
            match read.reader {
                Reader::Local(id) => self.events.push_back(Event::ReadReady { id, index }),
                Reader::Peer { id, request } => {
                    let response = ReadIndexResponse {
                        term,
                        id: request,
                        read_index: Some(index),
                    };
                    self.send_after_term(id, response.into());
                }
            }
        }
    }

    fn refuse_read(&mut self, reader: Reader, reason: ReadFailure) {
        match reader {
            Reader::Local(id) => self.events.push_back(Event::ReadFailed { id, reason }),
            Reader::Peer { id, request } => {
                let response = ReadIndexResponse {
                    term: self.term(),
                    id: request,
                    read_index: None,
                };
                self.send_after_term(id, response.into());
            }
        }
    }
}
