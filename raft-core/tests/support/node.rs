//! One node of a test cluster: a core, its log in memory and on a model disk, and a driver loop.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft_core::{
    Commit, Config, Event, MessageId, Persist, PersistId, ProposeError, RaftCore, Recovered, Time,
};
use raft_proto::{
    Entry, EntryKind, HardState, LogIndex, LogPosition, Membership, Message, NodeId, Term, TermRun,
};

use super::{Envelope, boot, filled, story};

/// What survives a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    pub hard_state: HardState,
    pub entries: Vec<Entry>,
}

pub struct Node {
    pub core: RaftCore,
    pub is_up: bool,
    pub disk: Disk,
    /// The log with its content, as the driver knows it: durable or not.
    pub log: Vec<Entry>,
    /// Writes handed out and not yet durable, with their entries.
    pub writes: VecDeque<(Persist, Vec<Entry>)>,
    pub applied: Vec<Entry>,
    pub events: Vec<Event>,
    /// What the node did since last asked, in words.
    pub story: Vec<String>,
    pub boots: u64,
    messages: BTreeMap<MessageId, Vec<Entry>>,
    next_message: u64,
    config: Config,
}

pub fn first_entry(membership: &Membership) -> Entry {
    Entry {
        index: LogIndex(1),
        term: Term(1),
        kind: EntryKind::Membership,
        payload: membership.to_bytes().unwrap(),
    }
}

/// What a log recovers from these entries.
pub fn recovered_from(disk: &Disk, boots: u64) -> Recovered {
    let mut recovered = Recovered::empty(boot(boots));
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
            let membership = Membership::from_bytes(&entry.payload).unwrap();
            recovered.memberships.push((entry.index, membership));
        }
        recovered.last = entry.position();
    }
    recovered
}

impl Node {
    pub fn new(config: Config, recovered: Recovered, entries: Vec<Entry>, now: Time) -> Self {
        let hard_state = recovered.hard_state;
        Self {
            core: RaftCore::new(config.clone(), recovered, now).unwrap(),
            is_up: true,
            disk: Disk {
                hard_state,
                entries: entries.clone(),
            },
            log: entries,
            writes: VecDeque::new(),
            applied: Vec::new(),
            events: Vec::new(),
            story: Vec::new(),
            boots: 1,
            messages: BTreeMap::new(),
            next_message: 1,
            config,
        }
    }

    pub fn receive(&mut self, now: Time, envelope: &Envelope) {
        let id = MessageId(self.next_message);
        self.next_message += 1;
        if let Message::AppendRequest(request) = &envelope.message {
            self.messages.insert(id, request.entries.clone());
        }
        self.core.handle_message(
            now,
            envelope.from,
            envelope.uncounted,
            id,
            &envelope.message,
        );
    }

    pub fn propose(&mut self, now: Time, payload: &str) -> Result<LogIndex, ProposeError> {
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        let position = self.core.propose(now, payload.len() as u32)?;
        self.put(Entry {
            index: position.index,
            term: position.term,
            kind: EntryKind::Command,
            payload,
        });
        Ok(position.index)
    }

    /// Takes persists, commits and events from the core, as a driver does.
    pub fn drain(&mut self) {
        while let Some(persist) = self.core.poll_persist() {
            let entries = self.content_of(&persist);
            if let Some(from) = persist.truncate_from {
                self.log.truncate(from.0 as usize - 1);
            }
            for entry in &entries {
                self.put(entry.clone());
            }
            let written = story::persist(&persist, &entries);
            self.tell(&format!("writes {written}"));
            self.writes.push_back((persist, entries));
        }
        self.messages.clear();
        while let Some(commit) = self.core.poll_commit() {
            let Commit::Entries(range) = commit;
            self.tell(&format!("applies {}", story::range(range)));
            for index in range.indexes() {
                assert_eq!(
                    self.applied.len() as u64 + 1,
                    index.0,
                    "commits leave no gap"
                );
                self.applied.push(self.log[index.0 as usize - 1].clone());
            }
            self.core.handle_applied(Time::ZERO, range.last);
        }
        while let Some(event) = self.core.poll_event() {
            if let Some(line) = story::event(&event) {
                self.tell(&line);
            }
            self.events.push(event);
        }
    }

    fn tell(&mut self, line: &str) {
        let line = format!("{} {line}", story::name(self));
        self.story.push(line);
    }

    pub fn transmits(&mut self) -> Vec<(NodeId, Message)> {
        let mut sent = Vec::new();
        while let Some(transmit) = self.core.poll_transmit() {
            sent.push(filled(transmit, &self.log));
        }
        sent
    }

    /// The oldest write becomes durable, and the core is told.
    pub fn persist_one(&mut self, now: Time) -> Option<PersistId> {
        if !self.is_up {
            return None;
        }
        let (persist, entries) = self.writes.pop_front()?;
        self.write(&persist, entries);
        self.core.handle_persisted(now, persist.id);
        Some(persist.id)
    }

    fn write(&mut self, persist: &Persist, entries: Vec<Entry>) {
        self.disk.hard_state = persist.hard_state;
        if let Some(from) = persist.truncate_from {
            self.disk.entries.truncate(from.0 as usize - 1);
        }
        for entry in entries {
            assert_eq!(
                self.disk.entries.len() as u64 + 1,
                entry.index.0,
                "a log has no gaps"
            );
            self.disk.entries.push(entry);
        }
    }

    /// Loses everything that is not durable; `kept` writes under way still reach the disk.
    pub fn crash(&mut self, kept: usize) {
        self.is_up = false;
        for _ in 0..kept {
            if let Some((persist, entries)) = self.writes.pop_front() {
                self.write(&persist, entries);
            }
        }
        self.writes.clear();
    }

    pub fn restart(&mut self, now: Time) {
        self.restart_as(now, true);
    }

    /// Restarts with a log whose end is unknown.
    pub fn restart_uncounted(&mut self, now: Time) {
        self.restart_as(now, false);
    }

    fn restart_as(&mut self, now: Time, counted: bool) {
        self.crash(0);
        self.boots += 1;
        let mut recovered = recovered_from(&self.disk, self.boots);
        recovered.counted = counted;
        self.core = RaftCore::new(self.config.clone(), recovered, now).unwrap();
        self.log = self.disk.entries.clone();
        self.applied.clear();
        self.messages.clear();
        self.is_up = true;
    }

    fn content_of(&self, persist: &Persist) -> Vec<Entry> {
        let Some(range) = persist.entries else {
            return Vec::new();
        };
        let from_message = persist.message.map(|id| &self.messages[&id]);
        let find = |index: LogIndex| {
            let generated = persist.generated.iter();
            let sent = from_message.into_iter().flatten();
            let mut given = generated.chain(sent).filter(|entry| entry.index == index);
            match given.next() {
                Some(entry) => entry.clone(),
                None => self.log[index.0 as usize - 1].clone(),
            }
        };
        range.indexes().map(find).collect()
    }

    fn put(&mut self, entry: Entry) {
        self.log.truncate(entry.index.0 as usize - 1);
        assert_eq!(
            self.log.len() as u64 + 1,
            entry.index.0,
            "a log has no gaps"
        );
        self.log.push(entry);
    }

    pub fn last(&self) -> LogPosition {
        self.core.last_position()
    }
}
