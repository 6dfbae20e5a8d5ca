//! One node of the model: a real core, its disk as a list of entries, and the driver's duties.

use std::collections::VecDeque;

use bytes::Bytes;
use raft_core::{
    AppendOrder, ChangeError, Commit, Config, MembershipChange, MessageId, Persist, ProposeError,
    RaftCore, Recovered, Role, Time, Transmit,
};
use raft_proto::{
    Boot, Entry, EntryKind, HardState, LogIndex, Membership, Message, NodeId, Term, TermRun,
};

use super::fingerprint;

/// Timers of the model. The spread of election timeouts is as small as is allowed: every order of
/// timeouts is tried anyway.
const HEARTBEAT_MS: u64 = 100;

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) message: Message,
}

/// What survives a crash.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) hard_state: HardState,
    pub(super) entries: Vec<Entry>,
}

/// A node that runs.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) core: RaftCore,
    /// Its clock, which moves when one of its timers fires.
    now: Time,
    pub(super) disk: Disk,
    /// The log, durable or not.
    pub(super) log: Vec<Entry>,
    /// Writes that are not durable yet, oldest first.
    pub(super) writes: VecDeque<(Persist, Vec<Entry>)>,
    /// Entries handed out to be applied.
    pub(super) applied: usize,
    boots: u64,
    next_message: u64,
    /// Entries removed from the log by the latest event.
    pub(super) truncations: u64,
}

impl Node {
    /// A node right after the cluster was formed.
    pub(super) fn new(id: NodeId, membership: &Membership) -> Self {
        let payload = membership.to_bytes();
        let first = Entry {
            index: LogIndex::FIRST,
            term: Term(1),
            kind: EntryKind::Membership,
            // A membership of a few members is far below the limit.
            payload: payload.expect("a small membership encodes"),
        };
        let disk = Disk {
            hard_state: HardState {
                term: Term(1),
                vote: None,
            },
            entries: vec![first],
        };
        Self::boot(id, disk, 1)
    }

    fn boot(id: NodeId, disk: Disk, boots: u64) -> Self {
        let config = Config {
            election_timeout_ms_min: 2 * HEARTBEAT_MS,
            election_timeout_ms_max: 3 * HEARTBEAT_MS,
            heartbeat_interval_ms: HEARTBEAT_MS,
            ..Config::new(id)
        };
        let recovered = recovered(&disk, boots);
        let core = RaftCore::new(config, recovered, Time::ZERO);
        Self {
            core: core.expect("what the model wrote is consistent"),
            now: Time::ZERO,
            log: disk.entries.clone(),
            disk,
            writes: VecDeque::new(),
            applied: 0,
            boots,
            next_message: 1,
            truncations: 0,
        }
    }

    /// Its memory is lost, and with it all but the first `kept` writes under way.
    pub(super) fn crash(&mut self, kept: usize) {
        for _ in 0..kept {
            self.write_one();
        }
        *self = Self::boot(self.core.id(), self.disk.clone(), self.boots + 1);
    }

    /// As [`Node::crash`], and the disk has lost its last entry.
    pub(super) fn crash_and_forget(&mut self) {
        if self.disk.entries.len() > 1 {
            self.disk.entries.pop();
        }
        *self = Self::boot(self.core.id(), self.disk.clone(), self.boots + 1);
    }

    /// Its earliest timer fires.
    pub(super) fn time_out(&mut self) -> Vec<Envelope> {
        if let Some(due) = self.core.poll_timeout() {
            self.now = self.now.max(due);
            self.core.handle_timeout(self.now);
        }
        self.drain(None)
    }

    pub(super) fn receive(&mut self, envelope: &Envelope) -> Vec<Envelope> {
        let id = MessageId(self.next_message);
        self.next_message += 1;
        let message = &envelope.message;
        self.core
            .handle_message(self.now, envelope.from, false, id, message);
        let source = if let Message::AppendRequest(append) = message {
            Some((id, &append.entries[..]))
        } else {
            None
        };
        self.drain(source)
    }

    pub(super) fn propose(&mut self, payload: Bytes) -> Result<Vec<Envelope>, ProposeError> {
        // A few bytes.
        let size = payload.len() as u32;
        let position = self.core.propose(self.now, size)?;
        self.put(Entry {
            index: position.index,
            term: position.term,
            kind: EntryKind::Command,
            payload,
        });
        Ok(self.drain(None))
    }

    pub(super) fn change(
        &mut self,
        change: MembershipChange,
    ) -> Result<Vec<Envelope>, ChangeError> {
        self.core.propose_membership(self.now, &[change])?;
        Ok(self.drain(None))
    }

    /// The oldest write becomes durable.
    pub(super) fn persist(&mut self) -> Vec<Envelope> {
        if let Some(id) = self.write_one() {
            self.core.handle_persisted(self.now, id);
        }
        self.drain(None)
    }

    pub(super) fn is_leader(&self) -> bool {
        self.core.role() == Role::Leader
    }

    /// Equal nodes have equal fingerprints.
    pub(super) fn fingerprint(&self) -> u64 {
        let Self {
            core,
            now,
            disk,
            log,
            writes,
            applied,
            boots,
            next_message: _,
            truncations: _,
        } = self;
        fingerprint::of(&(core, disk, log, writes, applied, boots), *now)
    }

    fn write_one(&mut self) -> Option<raft_core::PersistId> {
        let (persist, entries) = self.writes.pop_front()?;
        self.disk.hard_state = persist.hard_state;
        if let Some(from) = persist.truncate_from {
            self.disk.entries.truncate(before(from));
        }
        self.disk.entries.extend(entries);
        Some(persist.id)
    }

    /// Takes everything from the core, as a driver does.
    fn drain(&mut self, source: Option<(MessageId, &[Entry])>) -> Vec<Envelope> {
        let mut sent = Vec::new();
        while let Some(persist) = self.core.poll_persist() {
            let entries = self.content_of(&persist, source);
            if let Some(from) = persist.truncate_from {
                self.truncations += (self.log.len() - before(from)) as u64;
                self.log.truncate(before(from));
            }
            for entry in &entries {
                self.put(entry.clone());
            }
            self.writes.push_back((persist, entries));
        }
        while let Some(commit) = self.core.poll_commit() {
            let Commit::Entries(range) = commit else {
                unreachable!("the model takes no snapshots");
            };
            self.applied = before(range.last.next());
            self.core.handle_applied(self.now, range.last);
        }
        while self.core.poll_event().is_some() {}
        while let Some(transmit) = self.core.poll_transmit() {
            let (to, message) = match transmit {
                Transmit::Message { to, message } => (to, message),
                Transmit::Append(order) => (order.to, self.fill(order)),
                Transmit::Fetched(order) => (order.to, order.into_response(Vec::new()).into()),
            };
            sent.push(Envelope {
                from: self.core.id(),
                to,
                message,
            });
        }
        sent
    }

    fn fill(&self, order: AppendOrder) -> Message {
        let found = order.entries().map_or(&[][..], |range| {
            &self.log[before(range.first)..before(range.last.next())]
        });
        order.into_request(found.to_vec()).into()
    }

    fn content_of(&self, persist: &Persist, source: Option<(MessageId, &[Entry])>) -> Vec<Entry> {
        let Some(range) = persist.entries else {
            return Vec::new();
        };
        let sent = match (persist.message, source) {
            (Some(named), Some((id, entries))) if named == id => entries,
            (None, _) => &[],
            (Some(named), _) => panic!("a persist names {named}, which is not being handled"),
        };
        let find = |index: LogIndex| {
            let mut given = persist.generated.iter().chain(sent);
            let found = given.find(|entry| entry.index == index);
            found.unwrap_or_else(|| &self.log[before(index)]).clone()
        };
        range.indexes().map(find).collect()
    }

    fn put(&mut self, entry: Entry) {
        self.log.truncate(before(entry.index));
        assert_eq!(
            self.log.len(),
            before(entry.index),
            "a log has no gaps: {entry:?}"
        );
        self.log.push(entry);
    }
}

/// How many entries stand before an index. The model's logs are short.
const fn before(index: LogIndex) -> usize {
    index.0 as usize - 1
}

fn recovered(disk: &Disk, boots: u64) -> Recovered {
    let mut recovered = Recovered::empty(Boot {
        counter: boots,
        nonce: boots,
    });
    recovered.hard_state = disk.hard_state;
    for entry in &disk.entries {
        if recovered.term_runs.last().map(|run| run.term) != Some(entry.term) {
            recovered.term_runs.push(TermRun {
                first: entry.index,
                term: entry.term,
            });
        }
        recovered.entry_sizes.push(entry.payload.len() as u32);
        if entry.kind == EntryKind::Membership {
            let membership = Membership::from_bytes(&entry.payload);
            let membership = membership.expect("the model wrote a membership");
            recovered.memberships.push((entry.index, membership));
        }
        recovered.last = entry.position();
    }
    recovered
}
