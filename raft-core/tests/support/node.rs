//! One node of a test cluster: a core, its log in memory and on a model disk, and a driver loop.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use raft_core::{
    AppendOrder, Commit, Config, EntryBuffer, Event, Fill, IndexRange, Install, MessageId, Persist,
    PersistId, ProposeError, RaftCore, Recovered, SnapshotContent, Time, Transmit, UnsentReason,
};
use raft_proto::{
    Boot, Entry, EntryKind, HardState, LogIndex, LogPosition, Membership, Message, NodeId,
    SnapshotDescription, Term, TermRun,
};

use super::{Envelope, boot_of_life, filled, story};

/// What survives a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    pub hard_state: HardState,
    /// Everything that was ever in the log, from index 1: what a snapshot covers is kept here as
    /// its content.
    pub entries: Vec<Entry>,
    pub snapshot: Option<SnapshotDescription>,
    /// Index of the first entry that is still in the log.
    pub first_index: u64,
    /// Entries whose content has rotted: `entries` tells what it was, for the checks only.
    pub missing: BTreeSet<LogIndex>,
    /// The snapshot has rotted.
    pub snapshot_content: SnapshotContent,
    /// Whether the end of the log is known.
    pub counted: bool,
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
    /// Lives of its data directory, which ends when it is wiped.
    life: u64,
    /// A snapshot that the core was offered and the driver has not fetched.
    pub offered: Option<SnapshotDescription>,
    /// Content of snapshots fetched, by the last index that they cover.
    fetched: BTreeMap<LogIndex, (SnapshotDescription, Vec<Entry>)>,
    /// What a driver fills appends from.
    buffer: EntryBuffer,
    /// Appends that wait to be filled; `None` while they are filled at once.
    pub held: Option<Vec<AppendOrder>>,
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
pub fn recovered_from(disk: &Disk, boot: Boot) -> Recovered {
    let mut recovered = Recovered::empty(boot);
    recovered.hard_state = disk.hard_state;
    recovered.first_index = LogIndex(disk.first_index);
    recovered.snapshot_content = disk.snapshot_content;
    recovered.counted = disk.counted;
    if let Some(snapshot) = &disk.snapshot {
        recovered.snapshot = Some(snapshot.last_included);
        recovered.last = snapshot.last_included;
    }
    let (gone, held) = disk.entries.split_at(disk.first_index as usize - 1);
    recovered.memberships.extend(last_membership(gone));
    for entry in held {
        if recovered.term_runs.last().map(|run| run.term) != Some(entry.term) {
            recovered.term_runs.push(TermRun {
                first: entry.index,
                term: entry.term,
            });
        }
        let covered = recovered.snapshot.map_or(0, |position| position.index.0);
        let is_missing = disk.missing.contains(&entry.index) && entry.index.0 > covered;
        match recovered.missing.last_mut() {
            Some(hole) if is_missing && hole.last.next() == entry.index => hole.last = entry.index,
            Some(_) | None if is_missing => recovered.missing.push(IndexRange {
                first: entry.index,
                last: entry.index,
            }),
            Some(_) | None => {}
        }
        let size = entry.payload.len() as u32;
        recovered
            .entry_sizes
            .push(if is_missing { 0 } else { size });
        if entry.kind == EntryKind::Membership {
            let membership = Membership::from_bytes(&entry.payload).unwrap();
            recovered.memberships.push((entry.index, membership));
        }
        recovered.last = entry.position();
    }
    recovered
}

/// The last membership among these entries, with its index.
pub fn last_membership(entries: &[Entry]) -> Option<(LogIndex, Membership)> {
    let mut memberships = entries.iter().rev();
    let entry = memberships.find(|entry| entry.kind == EntryKind::Membership)?;
    Some((entry.index, Membership::from_bytes(&entry.payload).unwrap()))
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
                snapshot: None,
                first_index: 1,
                missing: BTreeSet::new(),
                snapshot_content: SnapshotContent::Whole,
                counted: true,
            },
            log: entries,
            writes: VecDeque::new(),
            applied: Vec::new(),
            events: Vec::new(),
            story: Vec::new(),
            boots: 1,
            life: 1,
            offered: None,
            fetched: BTreeMap::new(),
            buffer: EntryBuffer::new(u64::MAX),
            held: None,
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
        if let Message::FetchEntriesResponse(response) = &envelope.message {
            self.messages.insert(id, response.entries.clone());
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
            if let Some(Install::Replace(position)) = persist.install {
                self.log = self.fetched[&position.index].1.clone();
            }
            if let Some(Install::Keep(position)) = persist.install
                && let Some((snapshot, _)) = self.fetched.get(&position.index).cloned()
            {
                // Its file was durable before the core heard of it, and the log has its end.
                self.store_snapshot(snapshot);
            }
            let entries = self.content_of(&persist);
            self.check_refill(&persist);
            if let Some(from) = persist.truncate_from {
                self.log.truncate(from.0 as usize - 1);
                self.buffer.truncate_from(from, persist.epoch);
            }
            for entry in &entries {
                self.put(entry.clone());
                self.buffer.insert(entry.clone());
            }
            let written = story::persist(&persist, &entries);
            self.tell(&format!("writes {written}"));
            self.writes.push_back((persist, entries));
        }
        self.messages.clear();
        while let Some(commit) = self.core.poll_commit() {
            let range = match commit {
                Commit::Entries(range) => range,
                Commit::Restore(position) => {
                    self.tell(&format!("restores {position}"));
                    self.applied = self.fetched[&position.index].1.clone();
                    self.core.handle_applied(Time::ZERO, position.index);
                    continue;
                }
            };
            self.tell(&format!("applies {}", story::range(range)));
            for index in range.indexes() {
                assert_eq!(
                    self.applied.len() as u64 + 1,
                    index.0,
                    "commits leave no gap"
                );
                assert!(
                    !self.is_missing(index),
                    "{index} is applied without content"
                );
                self.applied.push(self.log[index.0 as usize - 1].clone());
            }
            self.core.handle_applied(Time::ZERO, range.last);
        }
        while let Some(event) = self.core.poll_event() {
            if let Some(line) = story::event(&event) {
                self.tell(&line);
            }
            if let Event::SnapshotOffered { snapshot, .. } = &event {
                self.offered = Some(snapshot.clone());
            }
            self.events.push(event);
        }
    }

    /// Takes a snapshot of what is applied.
    pub fn take_snapshot(&mut self, now: Time) -> Option<LogPosition> {
        let last = self.applied.last()?.position();
        let snapshot = SnapshotDescription {
            last_included: last,
            membership: last_membership(&self.applied)?.1,
            total_bytes: last.index.0,
            checksum: 0,
        };
        self.store_snapshot(snapshot.clone());
        self.core.handle_snapshot_saved(now, snapshot);
        Some(last)
    }

    /// Forgets entries up to `through`, which the snapshot covers.
    pub fn compact(&mut self, now: Time, through: u64) {
        assert!(self.disk.entries.len() as u64 >= through);
        self.disk.first_index = self.disk.first_index.max(through + 1);
        self.core.handle_compacted(now, LogIndex(through));
    }

    /// The snapshot offered has arrived.
    pub fn fetch(&mut self, now: Time, committed: &[Entry]) -> Option<LogPosition> {
        let snapshot = self.offered.take()?;
        let position = snapshot.last_included;
        let content = committed[..position.index.0 as usize].to_vec();
        assert_eq!(content.last().map(Entry::position), Some(position));
        self.fetched
            .insert(position.index, (snapshot.clone(), content));
        self.core.handle_snapshot_received(now, &snapshot);
        Some(position)
    }

    fn tell(&mut self, line: &str) {
        let line = format!("{} {line}", story::name(self));
        self.story.push(line);
    }

    pub fn transmits(&mut self) -> Vec<(NodeId, Message)> {
        let mut sent = Vec::new();
        while let Some(transmit) = self.core.poll_transmit() {
            if let Transmit::Append(order) = &transmit {
                let base = self.core.base_position().index;
                assert!(
                    order.previous.index >= base,
                    "compacted entries are not sent"
                );
            }
            if let Transmit::Fetched(order) = &transmit {
                for index in order.entries.into_iter().flat_map(IndexRange::indexes) {
                    assert!(!self.is_missing(index), "{index} is sent without content");
                }
            }
            match (transmit, &mut self.held) {
                (Transmit::Append(order), Some(held)) => held.push(order),
                (transmit, _) => sent.push(filled(transmit, &self.log)),
            }
        }
        sent
    }

    /// Fills the appends that were held, from the buffer; tells what became of each.
    pub fn fill_held(&mut self, now: Time) -> Vec<(NodeId, Message)> {
        let mut sent = Vec::new();
        for order in self.held.take().unwrap_or_default() {
            let (to, sequence) = (order.to, order.sequence);
            match self.buffer.fill(&order) {
                Fill::Found(entries) => sent.push((to, order.into_request(entries).into())),
                Fill::Evicted => panic!("this buffer evicts nothing"),
                Fill::Stale => {
                    self.tell(&format!("does not fill #{sequence} for {to}: stale"));
                    self.core
                        .handle_unsent(now, to, sequence, UnsentReason::Stale);
                }
            }
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
        self.disk.counted |= persist.end_is_known;
        match persist.install {
            Some(Install::Replace(position)) => {
                let (snapshot, content) = self.fetched[&position.index].clone();
                self.disk.entries = content;
                self.store_snapshot(snapshot);
                self.disk.missing.clear();
                self.disk.first_index = position.index.0 + 1;
            }
            Some(Install::Keep(position)) => {
                self.disk.missing.retain(|index| *index > position.index);
                self.disk.first_index = position.index.0 + 1;
            }
            None => {}
        }
        if let Some(from) = persist.truncate_from {
            self.disk.entries.truncate(from.0 as usize - 1);
            self.disk.missing.retain(|index| *index < from);
        }
        for index in persist.refill.into_iter().flat_map(IndexRange::indexes) {
            assert!(self.disk.missing.remove(&index), "{index} was not missing");
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

    fn store_snapshot(&mut self, snapshot: SnapshotDescription) {
        self.disk.snapshot = Some(snapshot);
        self.disk.snapshot_content = SnapshotContent::Whole;
    }

    /// What is refilled must be what was lost.
    fn check_refill(&self, persist: &Persist) {
        let Some(range) = persist.refill else {
            return;
        };
        let given = &self.messages[&persist.message.expect("a refill has its content")];
        for index in range.indexes() {
            let entry = given.iter().find(|entry| entry.index == index);
            let lost = &self.log[index.0 as usize - 1];
            assert_eq!(entry, Some(lost), "another entry comes back than was lost");
        }
    }

    fn is_missing(&self, index: LogIndex) -> bool {
        self.disk.missing.contains(&index) && index.0 >= self.disk.first_index
    }

    /// Durable entries rot. A node that runs finds out at once.
    pub fn rot(&mut self, now: Time, range: IndexRange) {
        let held = self.disk.first_index..=self.disk.entries.len() as u64;
        let rotten = range.indexes().filter(|index| held.contains(&index.0));
        self.disk.missing.extend(rotten);
        if self.is_up {
            self.core.handle_damaged(now, range);
        }
    }

    /// The end of the log from an index on is lost, and newer hard states than this.
    pub fn lose_end(&mut self, from: LogIndex, hard_state: HardState) {
        assert!(!self.is_up, "an end is found to be lost at a start");
        self.disk.entries.truncate(from.0 as usize - 1);
        self.disk.missing.retain(|index| *index < from);
        self.disk.hard_state = hard_state;
        self.disk.counted = false;
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

    /// Starts with an empty data directory, as one that is about to join.
    pub fn wipe(&mut self, now: Time) {
        self.disk.entries.clear();
        self.disk.snapshot = None;
        self.disk.first_index = 1;
        self.disk.hard_state = HardState::default();
        self.life += 1;
        self.boots = 0;
        self.restart(now);
    }

    /// Restarts with a log whose end is unknown.
    pub fn restart_uncounted(&mut self, now: Time) {
        self.disk.counted = false;
        self.restart(now);
    }

    pub fn restart(&mut self, now: Time) {
        self.crash(0);
        self.boots += 1;
        let recovered = recovered_from(&self.disk, boot_of_life(self.life, self.boots));
        self.core = RaftCore::new(self.config.clone(), recovered, now).unwrap();
        self.log = self.disk.entries.clone();
        self.applied.clear();
        self.offered = None;
        if let Some(snapshot) = self.disk.snapshot.clone()
            && self.disk.snapshot_content == SnapshotContent::Whole
        {
            let covered = snapshot.last_included.index.0 as usize;
            self.applied = self.log[..covered].to_vec();
            self.core.handle_snapshot_saved(now, snapshot);
        }
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
