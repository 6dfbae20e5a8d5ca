//! Persists to the log and transmissions to peers, with the payloads that the core only names.

use raft_core::{
    AppendOrder, FetchedOrder, Fill, IndexRange, Install, MessageId, Persist, Time, Transmit,
    UnsentReason,
};
use raft_log::LogWrite;
use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{Entry, LogIndex, Message, NodeId};

use super::Driver;
use super::io::{LogReadPurpose, LogReadRequest, Output, Rot};

impl Driver {
    /// Turns persists into log writes. `source` holds the entries of the message just handled.
    pub(super) fn take_persists(&mut self, now: Time, source: Option<(MessageId, Vec<Entry>)>) {
        while let Some(persist) = self.core.poll_persist() {
            match persist.install {
                Some(Install::Replace(position)) => {
                    // The whole log goes, and with it what was to be applied from it.
                    self.buffer.truncate_from(LogIndex::FIRST, persist.epoch);
                    if !is_planted(Mutant::InstallRacesApply) {
                        self.apply.await_restore(position);
                    }
                }
                Some(Install::Keep(position)) => {
                    self.apply.log_begins_after(position);
                    self.outputs.push_back(Output::Compact(position));
                }
                None => {}
            }
            if let Some(first) = persist.truncate_from {
                self.buffer.truncate_from(first, persist.epoch);
            }
            let mut refill = Vec::new();
            if let Some(id) = persist.message {
                let named = source.as_ref().filter(|(source, _)| *source == id);
                // The core names a message only while that message is being handled.
                let (_, entries) = named.expect("a persist names the message just handled");
                let written = |entry: &&Entry| {
                    persist
                        .entries
                        .is_some_and(|range| range.contains(entry.index))
                };
                for entry in entries.iter().filter(written) {
                    self.buffer.insert(entry.clone());
                }
                let lost = persist.refill;
                let refilled =
                    |entry: &&Entry| lost.is_some_and(|range| range.contains(entry.index));
                let kept = self.snapshots.compacting_through();
                refill.extend(entries.iter().filter(refilled).cloned());
                refill.retain(|entry| entry.index > kept);
            }
            for entry in &persist.generated {
                self.buffer.insert(entry.clone());
            }
            let write = self.log_write(&persist, refill);
            let id = persist.id;
            self.disk.started(now, id);
            let install = match persist.install {
                Some(Install::Replace(position)) => Some(position),
                Some(Install::Keep(_)) | None => None,
            };
            self.outputs.push_back(Output::Write { id, install, write });
        }
    }

    fn log_write(&self, persist: &Persist, refill: Vec<Entry>) -> LogWrite {
        let indexes = persist.entries.into_iter().flat_map(IndexRange::indexes);
        let entries = indexes.map(|index| {
            let entry = self.buffer.get(index);
            // Entries leave the buffer only once committed and durable here, so not before this.
            entry.expect("an entry to write is in the buffer").clone()
        });
        LogWrite {
            hard_state: Some(persist.hard_state),
            truncate_from: persist.truncate_from,
            refill,
            entries: entries.collect(),
            end_is_known: persist.end_is_known,
        }
    }

    pub(super) fn take_transmits(&mut self, now: Time) {
        while let Some(transmit) = self.core.poll_transmit() {
            match transmit {
                Transmit::Message { to, message } => self.send(to, message),
                Transmit::Fetched(order) => self.fill_fetched(order),
                Transmit::Append(order) => match self.buffer.fill(&order) {
                    Fill::Found(entries) => self.send_append(order, entries),
                    Fill::Evicted if is_planted(Mutant::DiskReadGivesUp) => {}
                    Fill::Evicted => self.outputs.push_back(Output::ReadLog(LogReadRequest {
                        first: order.previous.index.next(),
                        // What is not durable cannot be read, and has not left the buffer.
                        last: order.last.min(self.core.durable_index()),
                        max_bytes: u64::MAX,
                        epoch: self.core.epoch(),
                        purpose: LogReadPurpose::Append(order),
                    })),
                    Fill::Stale => {
                        self.core
                            .handle_unsent(now, order.to, order.sequence, UnsentReason::Stale);
                    }
                },
            }
        }
    }

    /// Sends a message, unless its receiver does not know such messages.
    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        let version = self.peers.version_of(to).min(self.limits.newest_version);
        if message.since() > version {
            return;
        }
        let uncounted = self.core.is_uncounted();
        self.outputs.push_back(Output::Send {
            to,
            uncounted,
            message,
        });
    }

    /// Answers a peer that has lost entries, from memory or from disk.
    fn fill_fetched(&mut self, order: FetchedOrder) {
        let Some(range) = order.entries else {
            return self.send(order.to, order.into_response(Vec::new()).into());
        };
        let buffered = range.indexes().map(|index| self.buffer.get(index).cloned());
        if let Some(entries) = buffered.collect::<Option<Vec<Entry>>>() {
            return self.send(order.to, order.into_response(entries).into());
        }
        self.outputs.push_back(Output::ReadLog(LogReadRequest {
            first: range.first,
            // What is not durable cannot be read; the peer asks for the rest again.
            last: range.last.min(self.core.durable_index()),
            max_bytes: u64::MAX,
            epoch: self.core.epoch(),
            purpose: LogReadPurpose::Fetched(order),
        }));
    }

    /// Entries that should be in the log cannot be read: peers are asked for them. Whoever waits for
    /// the read does without.
    pub(super) fn handle_unreadable(&mut self, now: Time, request: LogReadRequest, at: LogIndex) {
        let is_current = self.core.epoch() == request.epoch;
        match request.purpose {
            LogReadPurpose::Apply => self.apply.read_failed(),
            LogReadPurpose::Fetched(_) => {}
            LogReadPurpose::Compare(entry) => self.skip_compared(entry),
            // There may be more of it.
            LogReadPurpose::Checked => self.check_on(request.clone(), at.next()),
            LogReadPurpose::Append(order) => {
                let reason = UnsentReason::Unreadable;
                self.core
                    .handle_unsent(now, order.to, order.sequence, reason);
            }
        }
        // What was truncated or replaced since says nothing about what is there now.
        if is_current && at > self.core.base_position().index {
            let range = IndexRange {
                first: at,
                last: at,
            };
            self.outputs.push_back(Output::ReportRot(range));
            self.core.handle_damaged(now, range);
        }
    }

    /// A scrub has found damage. It has seen the log some time ago, which may have changed since: so
    /// entries are read once more, which tells for certain, and a damaged one goes the way of any
    /// that a read meets: it is reported, and fetched from a peer. In place of the newest snapshot
    /// another one is taken, of the state that this node has; older ones are not needed.
    pub(super) fn handle_rot(&mut self, rot: Rot) {
        match rot {
            Rot::Entries(range) => {
                let request = LogReadRequest {
                    purpose: LogReadPurpose::Checked,
                    first: range.first,
                    last: range.last,
                    max_bytes: self.limits.max_log_read_bytes,
                    epoch: self.core.epoch(),
                };
                self.check_on(request, range.first);
            }
            Rot::Snapshot(position) => self.replace_damaged_snapshot(position),
        }
    }

    /// Goes on to look at the entries of a request from `first` on, as far as they are still there.
    fn check_on(&mut self, request: LogReadRequest, first: LogIndex) {
        let first = first.max(self.core.base_position().index.next());
        let last = request.last.min(self.core.durable_index());
        if first <= last && request.epoch == self.core.epoch() {
            self.outputs.push_back(Output::ReadLog(LogReadRequest {
                first,
                last,
                ..request
            }));
        }
    }

    fn send_append(&mut self, order: AppendOrder, entries: Vec<Entry>) {
        let to = order.to;
        self.send(to, order.into_request(entries).into());
    }

    pub(super) fn handle_log_read(
        &mut self,
        now: Time,
        request: LogReadRequest,
        mut entries: Vec<Entry>,
    ) {
        let order = match request.purpose {
            LogReadPurpose::Apply => return self.apply.supply(request.first, entries),
            LogReadPurpose::Fetched(order) => {
                let to = order.to;
                return self.send(to, order.into_response(entries).into());
            }
            LogReadPurpose::Compare(entry) => return self.take_compared(now, entry, &entries),
            LogReadPurpose::Checked => {
                if let Some(good) = entries.last() {
                    self.check_on(request, good.index.next());
                }
                return;
            }
            LogReadPurpose::Append(order) => order,
        };
        // The log may have changed while it was read.
        let is_current = self.core.epoch() == order.epoch && self.core.term() == order.term;
        while let Some(next) = entries.last().map(|last| last.index.next())
            && next <= order.last
            && let Some(entry) = self.buffer.get(next)
        {
            entries.push(entry.clone());
        }
        let is_complete = entries.last().is_some_and(|last| last.index == order.last)
            && entries.len() as u64 == order.last.since(order.previous.index);
        let is_as_ordered = |entry: &Entry| order.term_at(entry.index) == Some(entry.term);
        if is_current && is_complete && entries.iter().all(is_as_ordered) {
            return self.send_append(order, entries);
        }
        let next = entries.last().map(|last| last.index.next());
        let is_first_read = request.first == order.previous.index.next();
        if let Some(first) = next.filter(|_| is_current && is_first_read) {
            // What was good is given first, what is damaged only to a read that begins there: this
            // one tells which it is.
            self.outputs.push_back(Output::ReadLog(LogReadRequest {
                first,
                last: request.last.max(first),
                purpose: LogReadPurpose::Append(order),
                ..request
            }));
            return;
        }
        let reason = if is_current {
            UnsentReason::Unreadable
        } else {
            UnsentReason::Stale
        };
        self.core
            .handle_unsent(now, order.to, order.sequence, reason);
    }
}
