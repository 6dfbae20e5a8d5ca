//! Snapshots between nodes: parts for peers, the transfer to this node, and its installation.

use raft_core::Time;
use raft_proto::{
    FetchSnapshotRequest, FetchSnapshotResponse, LogPosition, Message, NodeId, SnapshotDescription,
};

use super::super::Driver;
use super::super::io::Output;
use super::Snapshots;
use super::fetching::{Arrival, Ask, Fetch};
use super::jobs::{FetchId, FoundPart, JobError, PartName, PartReader, PartWaiter, SnapshotJob};
use super::policy::Backoff;
use super::serving::{MAX_PART_BYTES, Reader};

impl Snapshots {
    fn fetch_of(&mut self, id: FetchId) -> Option<&mut Fetch> {
        self.fetch.as_mut().filter(|fetch| fetch.id == id)
    }
}

/// Parts for others.
impl Driver {
    /// Takes messages of the transfer, which the core has nothing to do with; returns all others.
    pub(in super::super) fn take_bulk(
        &mut self,
        now: Time,
        from: NodeId,
        message: Message,
    ) -> Option<Message> {
        if let Message::FetchSnapshotRequest(request) = message {
            self.serve_part(now, from, &request);
            return None;
        }
        if let Message::FetchSnapshotResponse(part) = message {
            self.take_part(now, from, part);
            return None;
        }
        Some(message)
    }

    fn serve_part(&mut self, now: Time, from: NodeId, request: &FetchSnapshotRequest) {
        let last_included = request.last_included;
        let reader = Reader::Peer(from);
        if !self.snapshots.readers.ask(now, reader, last_included) {
            return;
        }
        let part = PartName {
            last_included,
            offset: request.offset,
            max_bytes: request.max_bytes.min(MAX_PART_BYTES),
        };
        let reader = PartReader::Peer(from);
        self.ask(SnapshotJob::Read { part, reader });
    }

    pub(super) fn send_part(&mut self, to: NodeId, part: PartName, found: FoundPart) {
        self.snapshots.readers.answered(to);
        if found.is_none() {
            self.replace_damaged_snapshot(part.last_included);
        }
        let (data, total_bytes) = found.unwrap_or_default();
        self.snapshots.counts.served_bytes += data.len() as u64;
        let response = FetchSnapshotResponse {
            term: self.core.term(),
            last_included: part.last_included,
            offset: part.offset,
            total_bytes,
            checksum: crc32fast::hash(&data),
            data,
        };
        self.send(to, response.into());
    }

    /// A stored snapshot turned out to be damaged. The newest one is never removed, so a peer that
    /// needs it would get nothing, and a restart would have to fetch another one: the next one is due
    /// at once.
    pub(in super::super) fn replace_damaged_snapshot(&mut self, damaged: LogPosition) {
        let newest = self.snapshots.newest.as_ref();
        if newest.is_some_and(|newest| newest.last_included == damaged) {
            self.snapshots.want();
        }
    }

    pub(in super::super) fn read_snapshot(
        &mut self,
        now: Time,
        part: PartName,
        waiter: PartWaiter,
    ) {
        let readers = &mut self.snapshots.readers;
        readers.ask(now, Reader::Local, part.last_included);
        let reader = PartReader::Local(waiter);
        self.ask(SnapshotJob::Read { part, reader });
    }
}

/// The transfer to this node.
impl Driver {
    pub(in super::super) fn begin_fetch(
        &mut self,
        now: Time,
        from: NodeId,
        snapshot: SnapshotDescription,
    ) {
        let (node, index) = (self.core.id().0, snapshot.last_included.index.0);
        let bytes = snapshot.total_bytes;
        tracing::info!(node, from = from.0, index, bytes, "a snapshot is fetched");
        // The core has taken another offer: the pause was for the one before.
        self.snapshots.refuse_at = None;
        self.snapshots.last_fetch.0 += 1;
        let id = self.snapshots.last_fetch;
        let fetch = Fetch::new(id, from, snapshot.clone(), now);
        assert!(
            self.snapshots.fetch.replace(fetch).is_none(),
            "the core offers one snapshot at a time"
        );
        self.ask(SnapshotJob::Receive {
            fetch: id,
            snapshot,
        });
    }

    pub(super) fn start_fetching(&mut self, now: Time, id: FetchId, received_bytes: u64) {
        if let Some(fetch) = self.snapshots.fetch_of(id) {
            fetch.opened(now, received_bytes);
        }
        self.fetch_on(now);
    }

    pub(super) fn continue_fetching(
        &mut self,
        now: Time,
        id: FetchId,
        stored_bytes: u64,
        durable_bytes: u64,
    ) {
        let Some(fetch) = self.snapshots.fetch_of(id) else {
            return;
        };
        if let Some(durable) = fetch.stored(now, stored_bytes, durable_bytes) {
            self.core.handle_snapshot_progress(now, durable);
        }
        self.fetch_on(now);
    }

    /// Asks for as much as the window allows, or ends the transfer.
    fn fetch_on(&mut self, now: Time) {
        let commit_index = self.core.commit_index();
        let Some(fetch) = &mut self.snapshots.fetch else {
            return;
        };
        let position = fetch.position();
        if position.index <= commit_index && !self.core.is_healed_by(position) {
            // The log got there first.
            return self.give_up_fetch(now, "the log has its entries");
        }
        if fetch.take_completion() {
            let job = SnapshotJob::FinishReceiving { fetch: fetch.id };
            return self.ask(job);
        }
        let policy = &self.limits.snapshots;
        let asks: Vec<Ask> = std::iter::from_fn(|| fetch.next_ask(policy)).collect();
        self.send_asks(asks);
    }

    fn send_asks(&mut self, asks: Vec<Ask>) {
        let Some(fetch) = &self.snapshots.fetch else {
            return;
        };
        let (to, last_included) = (fetch.from, fetch.position());
        let term = self.core.term();
        for Ask { offset, max_bytes } in asks {
            let request = FetchSnapshotRequest {
                term,
                last_included,
                offset,
                max_bytes,
            };
            self.send(to, request.into());
        }
    }

    fn take_part(&mut self, now: Time, from: NodeId, part: FetchSnapshotResponse) {
        let Some(fetch) = self.snapshots.fetch.as_mut().filter(|f| f.from == from) else {
            return;
        };
        self.snapshots.counts.fetched_bytes += part.data.len() as u64;
        match fetch.arrived(now, part) {
            Arrival::Store(parts) => {
                let fetch = fetch.id;
                for (offset, data) in parts {
                    self.ask(SnapshotJob::Store {
                        fetch,
                        offset,
                        data,
                    });
                }
                self.fetch_on(now);
            }
            Arrival::Ignored => {}
            Arrival::Gone => self.give_up_fetch(now, "its owner does not have it any more"),
        }
    }

    /// A peer is connected anew.
    pub(in super::super) fn resume_fetch(&mut self, now: Time, peer: NodeId) {
        if let Some(fetch) = self.snapshots.fetch.as_mut().filter(|f| f.from == peer) {
            let asks = fetch.reconnected(now);
            self.send_asks(asks);
        }
    }

    pub(super) fn retry_fetch(&mut self, now: Time) {
        let policy = &self.limits.snapshots;
        let Some(fetch) = &mut self.snapshots.fetch else {
            return;
        };
        if fetch.is_hopeless(now, policy) {
            return self.give_up_fetch(now, "nothing has arrived for too long");
        }
        let asks = fetch.overdue(now, policy);
        self.send_asks(asks);
    }

    /// Gives up a transfer whose owner is out of reach while another node leads, which offers its own
    /// snapshot as soon as it may. Waiting for the former owner would keep this node behind for the
    /// whole patience, and with it every commit that needs this node.
    ///
    /// As long as nobody else leads, the owner is waited for: it may come back, and then what has
    /// arrived is of use.
    pub(in super::super) fn abandon_lost_fetch(&mut self, now: Time) {
        let Some(fetch) = &self.snapshots.fetch else {
            return;
        };
        let another_leads = self
            .core
            .leader()
            .is_some_and(|leader| leader != fetch.from);
        if another_leads && fetch.needs_owner() && !self.peers.is_connected(fetch.from) {
            self.give_up_fetch(now, "its owner is out of reach and another node leads");
        }
    }

    fn give_up_fetch(&mut self, now: Time, why: &'static str) {
        let Some(fetch) = self.end_fetch() else {
            return;
        };
        let (node, index) = (self.core.id().0, fetch.position().index.0);
        tracing::info!(node, index, why, "a transfer is given up");
        self.ask(SnapshotJob::StopReceiving { fetch: fetch.id });
        self.core.handle_snapshot_failed(now);
    }

    pub(super) fn fail_fetching(&mut self, now: Time, id: FetchId, error: &JobError) {
        if self.snapshots.fetch_of(id).is_none() {
            return;
        }
        self.end_fetch();
        self.snapshots.counts.failed += 1;
        let node = self.core.id().0;
        tracing::warn!(node, %error, "a snapshot was not received; another is fetched after a pause");
        // Offers are answered "fetching" until then: another attempt would begin by checking all
        // that was stored, and fail at once as long as the disk is full or failing.
        self.snapshots.refuse_at = Some(self.snapshots.fetch_failures.failed(now));
    }

    /// The pause after a transfer that failed here is over: the leader may offer a snapshot again.
    pub(super) fn end_fetch_pause(&mut self, now: Time) {
        if self
            .snapshots
            .refuse_at
            .take_if(|due| *due <= now)
            .is_some()
        {
            self.core.handle_snapshot_failed(now);
        }
    }

    /// The snapshot is whole, checked and durable under its name.
    pub(super) fn finish_fetching(&mut self, now: Time, id: FetchId) {
        if self.snapshots.fetch_of(id).is_none() {
            return;
        }
        let Some(fetch) = self.end_fetch() else {
            return;
        };
        self.snapshots.fetch_failures = Backoff::default();
        self.core.handle_snapshot_received(now, &fetch.snapshot);
        if self.core.base_position() != fetch.position() {
            return;
        }
        if self.core.applied_index() >= fetch.position().index {
            // It was fetched for the log: the state machine is further.
            self.snapshots.keep_fetched(fetch.snapshot);
        } else {
            self.snapshots.installing = Some(fetch.snapshot);
        }
    }

    fn end_fetch(&mut self) -> Option<Fetch> {
        let fetch = self.snapshots.fetch.take()?;
        self.snapshots.counts.repeated_bytes += fetch.repeated_bytes;
        Some(fetch)
    }
}

/// The installation.
impl Driver {
    /// The snapshot is installed in the log, durably: the state machine follows.
    pub(in super::super) fn begin_restore(&mut self, now: Time, position: LogPosition) {
        if (self.apply.handed_over()).is_some_and(|handed| handed >= position.index) {
            // The state machine gets there by itself: the snapshot was fetched for the log only.
            if let Some(fetched) = self.snapshots.installing.take() {
                self.snapshots.keep_fetched(fetched);
            }
            return self.tend_snapshots(now);
        }
        self.abandon_saving();
        self.apply.begin_restore(position);
        self.proposals.fail_through(position.index);
        self.snapshots.restoring = Some(position);
        let (node, index) = (self.core.id().0, position.index.0);
        tracing::info!(node, index, "a snapshot is installed");
        self.outputs.push_back(Output::Restore(position));
    }

    /// The state machine's state is that of the snapshot.
    pub(in super::super) fn handle_restored(&mut self, now: Time, position: LogPosition) {
        if self.snapshots.restoring != Some(position) {
            return;
        }
        self.snapshots.restoring = None;
        self.core.handle_applied(now, position.index);
        self.apply.restored(position);
        self.snapshots.counts.installed += 1;
        let installing = &mut self.snapshots.installing;
        // If the next one is being installed already, that one will be the newest.
        if let Some(installed) = installing.take_if(|s| s.last_included == position) {
            self.snapshots.schedule.replaced(installed.total_bytes);
            self.snapshots.newest = Some(installed);
        }
        self.tend_snapshots(now);
    }
}
