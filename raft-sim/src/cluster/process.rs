//! What happens inside a running node: its inbox, driver, log writer and applier.

use bytes::Bytes;
use raft_log::ReadError;
use raft_node::apply_batch;
use raft_node::driver::{ApplyBatch, ApplyItem, Input, LogReadPurpose, LogReadRequest, Output};
use raft_proto::{GroupId, Message, NodeId, frame, wire};

use super::describe::{fullest_window, numbers_of};
use super::disks::DiskUse;
use super::node::{ApplierWork, Process, ProcessId};
use super::{Cluster, Event, Packet};
use crate::checker::NodeView;
use crate::disk::Finished;
use crate::marks::Mark;
use crate::network::Direction;
use crate::options::{Latency, ProcessOptions, Transport};

/// Operations of a disk that write one batch: the write, and its sync.
const BATCH_OPERATIONS: u64 = 2;
/// Largest frame body that a node takes, in bytes.
const MAX_BODY_BYTES: u32 = 64 << 20;

impl Cluster {
    /// The process, if it still runs.
    pub(super) fn process(&mut self, id: ProcessId) -> Option<&mut Process> {
        let process = self.nodes.get_mut(&id.node)?.process.as_mut()?;
        (process.id == id).then_some(process)
    }

    /// Puts something into a node's inbox and has the node look at it soon.
    pub(super) fn give(&mut self, id: ProcessId, input: Input) {
        let Some(process) = self.process(id) else {
            return;
        };
        process.inbox.push(input);
        self.schedule_step(id);
    }

    pub(super) fn schedule_step(&mut self, id: ProcessId) {
        let Some(process) = self.process(id) else {
            return;
        };
        if !std::mem::replace(&mut process.is_step_scheduled, true) {
            self.schedule_after(id, |latencies| latencies.step, Event::Step(id));
        }
    }

    /// Schedules an event of a node after a latency drawn from the node's process stream.
    pub(super) fn schedule_after(
        &mut self,
        id: ProcessId,
        latency: impl FnOnce(&ProcessOptions) -> Latency,
        event: Event,
    ) {
        if let Some(node) = self.nodes.get_mut(&id.node) {
            let latency = latency(&node.latencies);
            let at = self.now.plus_ns(latency.draw_ns(&mut node.random));
            self.agenda.schedule(at, event);
        }
    }

    /// The node handles all that waits, as the loop of a real node's main thread does.
    pub(super) fn step_process(&mut self, id: ProcessId) {
        let now = self.now;
        let Some(process) = self.process(id) else {
            return;
        };
        process.is_step_scheduled = false;
        let local = process.clock.local(now);
        for input in std::mem::take(&mut process.inbox) {
            process.driver.handle(local, input);
        }
        if process
            .driver
            .poll_timeout()
            .is_some_and(|due| due <= local)
        {
            process.driver.handle_timeout(local);
        }
        process.driver.flush(local);
        let outputs: Vec<_> = std::iter::from_fn(|| process.driver.poll_output()).collect();
        self.observe(id);
        for output in outputs {
            if self.crashes_before_effect(id) {
                return;
            }
            self.carry_out(id, output);
        }
        self.begin_sync(id);
        self.schedule_wake(id);
    }

    fn carry_out(&mut self, id: ProcessId, output: Output) {
        match output {
            Output::Write {
                id: persist,
                install,
                write,
            } => {
                if let Some(process) = self.process(id) {
                    process.writer.push(persist, install, write);
                }
            }
            Output::Compact(through) => {
                if let Some(process) = self.process(id) {
                    process.writer.push_compaction(through);
                }
            }
            Output::ReportRot(range) => {
                if let Some(process) = self.process(id) {
                    // What is about to be written cannot be what was read.
                    process.writer.log.report_rot(range.first, range.last);
                }
            }
            Output::Halt(error) => self.halt(id.node, &error),
            Output::Send {
                to,
                uncounted,
                message,
            } => self.send(id, to, uncounted, &message),
            Output::Apply(batch) => self.give_applier(id, ApplierWork::Apply(batch)),
            Output::Cut(step) => self.give_applier(id, ApplierWork::Cut(step)),
            Output::Restore(position) => self.give_applier(id, ApplierWork::Restore(position)),
            Output::Snapshot(job) => self.give_keeper(id, job),
            Output::ReadLog(request) => {
                let event = Event::LogRead(id, request);
                self.schedule_after(id, |latencies| latencies.log_read, event);
            }
            // Everybody can reach everybody here: admission decides who is connected.
            Output::Peers { .. } => {}
        }
    }

    pub(super) fn schedule_wake(&mut self, id: ProcessId) {
        let now = self.now;
        let Some(process) = self.process(id) else {
            return;
        };
        let Some(due) = process.driver.poll_timeout() else {
            return;
        };
        // A clock that stands still wakes nobody; when it goes on this is done again.
        let Some(at) = process.clock.world(due) else {
            return;
        };
        let at = at.max(now);
        if process.wake_at.is_none_or(|scheduled| at < scheduled) {
            process.wake_at = Some(at);
            self.agenda.schedule(at, Event::Wake(id));
        }
    }

    pub(super) fn wake_process(&mut self, id: ProcessId) {
        let now = self.now;
        let Some(process) = self.process(id) else {
            return;
        };
        // An earlier wake-up took its place, or a step in between served the timer.
        if process.wake_at != Some(now) {
            return;
        }
        process.wake_at = None;
        let local = process.clock.local(now);
        if process
            .driver
            .poll_timeout()
            .is_some_and(|due| due <= local)
        {
            self.schedule_step(id);
        } else {
            self.schedule_wake(id);
        }
    }

    fn send(&mut self, id: ProcessId, to: NodeId, uncounted: bool, message: &Message) {
        let frame = match wire::encode(GroupId(0), uncounted, message) {
            Ok(frame) => frame,
            Err(error) => panic!("{} cannot encode {}: {error}", id.node, message.name()),
        };
        let checked = self.checker.sent(self.known_as(id.node), to, message);
        checked.unwrap_or_else(|violation| panic!("{violation}"));
        self.mark_message(id, message);
        let route = ((id.node, to), (Direction::of(message), message.class()));
        let arrivals = self.network.send(self.now, route.0, route.1, frame.len());
        let what = match arrivals.first {
            Some(_) => "sends",
            None => "loses",
        };
        let numbers = numbers_of(message);
        self.record(
            id.node,
            what,
            message.name(),
            &[("to", to.0), numbers[0], numbers[1], numbers[2]],
        );
        let Some(receiver) = self.receiver(to) else {
            return;
        };
        let bytes: Bytes = frame.to_vec().into();
        for at in arrivals.times() {
            let bytes = bytes.clone();
            let (from, to) = (id, receiver);
            let packet = Packet { from, to, bytes };
            self.agenda.schedule(at, Event::Arrive(packet));
        }
    }

    /// The process that a message sent now is meant for.
    fn receiver(&self, to: NodeId) -> Option<ProcessId> {
        let node = self.nodes.get(&to)?;
        match self.options.transport {
            Transport::Connections => node.process.as_ref().map(|process| process.id),
            Transport::Datagrams => Some(ProcessId {
                node: to,
                life: node.life,
            }),
        }
    }

    /// The process that a message reaches: one that still runs and has not met a later process of
    /// the sender, which replaces the connection; or, without connections, any.
    fn reached(&mut self, packet: &Packet) -> Option<ProcessId> {
        match self.options.transport {
            Transport::Connections => {
                let is_replaced = self.connections.has_met_later(packet.to.node, packet.from);
                self.process(packet.to).filter(|_| !is_replaced)?;
                Some(packet.to)
            }
            Transport::Datagrams => {
                let process = self.nodes.get(&packet.to.node)?.process.as_ref()?;
                Some(process.id)
            }
        }
    }

    /// A message arrives. Its sender may be dead by now.
    pub(super) fn arrive(&mut self, packet: &Packet) {
        let reached = self.reached(packet);
        let Some(receiver) = reached.filter(|to| !self.is_refused(packet.from, *to)) else {
            return;
        };
        if self.process(packet.from).is_none() {
            self.tally.mark(Mark::MessageOfTheDead);
        }
        let split = frame::split(&packet.bytes, MAX_BODY_BYTES);
        let (header, body) = split.unwrap_or_else(|error| panic!("a frame as sent: {error}"));
        let message = wire::decode(&header, &body);
        let message = message.unwrap_or_else(|error| panic!("a message as sent: {error}"));
        self.trace.add_bytes(&packet.bytes);
        self.record(
            packet.to.node,
            "gets",
            message.name(),
            &[("from", packet.from.node.0)],
        );
        let input = Input::Message {
            from: packet.from.node,
            uncounted: header.is_uncounted(),
            message,
        };
        self.give(receiver, input);
    }

    fn begin_sync(&mut self, id: ProcessId) {
        let Some(process) = self.process(id) else {
            return;
        };
        match process.writer.begin_sync() {
            Ok(true) => self.schedule_sync_end(id),
            Ok(false) => {}
            Err(error) => self.halt(id.node, &error),
        }
    }

    pub(super) fn schedule_sync_end(&mut self, id: ProcessId) {
        if let Some(node) = self.nodes.get_mut(&id.node)
            && !node.disk.holds_sync()
        {
            let latency = node.latencies.sync;
            let at = self.now.plus_ns(latency.draw_ns(&mut node.disk.random));
            self.agenda.schedule(at, Event::Synced(id));
        }
    }

    pub(super) fn finish_sync(&mut self, id: ProcessId) {
        let vouch_at = self.now.plus_ms(self.options.process.vouch_ms);
        let before = self.disk_operations(id.node);
        let Some(process) = self.process(id) else {
            return;
        };
        let finished = process.writer.finish();
        let syncs = process.writer.syncs;
        if process.writer.log.needs_vouching() {
            self.agenda.schedule(vouch_at, Event::VouchDue(id, syncs));
        }
        match finished {
            Ok(Finished::Nothing) => {}
            Ok(Finished::Synced { through, changes }) => {
                let hard_state = self.checker.hard_state(self.known_as(id.node));
                self.note_durable(id.node, &changes);
                let last = through.map_or(0, |through| through.0);
                let numbers = [("through", last), ("writes", changes.len() as u64)];
                self.record(id.node, "syncs", "", &numbers);
                if let Some(through) = through {
                    self.give(id, Input::Persisted(through));
                }
                self.report_compactions(id, &changes);
                let operations = self.disk_operations(id.node) - before;
                if operations == BATCH_OPERATIONS {
                    self.lose_write(id, &changes, hard_state);
                }
                self.damage_by_chance(id.node, DiskUse::Write);
            }
            Ok(Finished::DiskFull { ahead, has_written }) => {
                if let Some((through, change)) = ahead {
                    if has_written {
                        self.note_durable(id.node, &[change]);
                        self.record(id.node, "syncs its term", "", &[("through", through.0)]);
                        self.tally.mark(Mark::TermAheadOfRoom);
                    }
                    self.give(id, Input::HardStatePersisted(through));
                }
                self.wait_for_room(id);
            }
            Err(error) => return self.halt(id.node, &error),
        }
        self.begin_sync(id);
    }

    pub(super) fn vouch(&mut self, id: ProcessId, syncs: u64) {
        let Some(process) = self.process(id) else {
            return;
        };
        if process.writer.begin_vouching(syncs) {
            self.schedule_sync_end(id);
        }
    }

    fn give_applier(&mut self, id: ProcessId, work: ApplierWork) {
        let Some(process) = self.process(id) else {
            return;
        };
        process.work.push_back(work);
        if process.work.len() == 1 {
            self.schedule_applier(id);
        }
    }

    fn schedule_applier(&mut self, id: ProcessId) {
        let Some(next) = self.process(id).and_then(|process| process.work.front()) else {
            return;
        };
        let latency = match next {
            ApplierWork::Apply(_) | ApplierWork::Cut(_) => {
                |latencies: &ProcessOptions| latencies.apply
            }
            ApplierWork::Restore(_) => |latencies: &ProcessOptions| latencies.restore,
        };
        self.schedule_after(id, latency, Event::Apply(id));
    }

    /// The applier does what is first in its queue.
    pub(super) fn apply_next(&mut self, id: ProcessId) {
        let Some(work) = self
            .process(id)
            .and_then(|process| process.work.pop_front())
        else {
            return;
        };
        match work {
            ApplierWork::Apply(batch) => self.apply(id, batch),
            ApplierWork::Cut(step) => self.take_cut_step(id, step),
            ApplierWork::Restore(position) => self.restore_machine(id, position),
        }
        self.schedule_applier(id);
    }

    fn apply(&mut self, id: ProcessId, batch: ApplyBatch) {
        let entries: Vec<_> = batch
            .items
            .iter()
            .filter_map(|item| match item {
                ApplyItem::Entry(entry, _) => Some(entry.clone()),
                ApplyItem::Query(..) => None,
            })
            .collect();
        let known_as = self.known_as(id.node);
        for entry in &entries {
            let checked = self.checker.applied(known_as, entry);
            checked.unwrap_or_else(|violation| panic!("{violation}"));
        }
        if let Some(last) = entries.last() {
            self.record(id.node, "applies", "", &[("through", last.index.0)]);
        }
        self.note_applied(id.node, entries);
        let Some(process) = self.process(id) else {
            return;
        };
        let applied = apply_batch(process.machine.as_mut(), batch);
        self.check_replies();
        self.give(id, applied);
    }

    pub(super) fn finish_log_read(&mut self, id: ProcessId, request: LogReadRequest) {
        self.damage_by_chance(id.node, DiskUse::Read);
        let Some(process) = self.process(id) else {
            return;
        };
        let read = process
            .reader
            .read(request.first, request.last, request.max_bytes);
        let entries = match read {
            Ok(entries) => entries,
            // Truncated, compacted or not yet durable: the driver orders it anew.
            Err(ReadError::Compacted { .. } | ReadError::BeyondEnd { .. }) => Vec::new(),
            Err(ReadError::Missing { first: index, .. } | ReadError::Corrupt { index, .. }) => {
                let input = Input::LogUnreadable { request, index };
                return self.give(id, input);
            }
            Err(error) => return self.halt(id.node, &error),
        };
        match request.purpose {
            LogReadPurpose::Append(_) => self.tally.mark(Mark::FollowerServedFromDisk),
            LogReadPurpose::Apply => self.tally.mark(Mark::AppliedFromDisk),
            LogReadPurpose::Fetched(_) | LogReadPurpose::Compare(_) | LogReadPurpose::Checked => {}
        }
        self.give(id, Input::LogRead { request, entries });
    }

    /// Checks the node after it has done something.
    fn observe(&mut self, id: ProcessId) {
        let Some(process) = self
            .nodes
            .get(&id.node)
            .and_then(|node| node.process.as_ref())
        else {
            return;
        };
        let core = process.driver.core();
        let (role, term) = (core.role(), core.term());
        let commit_index = core.commit_index();
        let view = NodeView {
            id: self.known_as(id.node),
            role,
            term,
            base_index: core.base_position().index,
            applied_index: core.applied_index(),
            commit_index,
            last_index: core.last_position().index,
            term_at: &|index| core.term_at(index),
            membership: core.membership(),
            membership_index: core.membership_index(),
            memberships_after: &|index| core.memberships_after(index),
            window: fullest_window(core),
            held: &process.driver.held(),
        };
        if let Err(violation) = self.checker.observe(&view) {
            panic!("{violation}");
        }
        let shown = (role, term, commit_index);
        let before = self.shown.insert(id.node, shown);
        if let Some(before) = before {
            self.mark_step(id, before, shown);
        }
        if before != Some(shown) {
            let numbers = [("term", term.0), ("commit", commit_index.0)];
            self.record(id.node, "is", super::observe::role_name(role), &numbers);
        }
    }
}
