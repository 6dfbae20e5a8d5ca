//! What a server shows to a scraper, gathered from Raft, from the transport and from the store.
//!
//! Names follow the conventions of Prometheus: base units as suffixes, `_total` for what only
//! counts up. `docs/OPERATIONS.md` explains each of them.

mod damage;
mod page;
mod process;

use raft_core::Role;
use raft_net::{NetStats, PeerStats};
use raft_node::{Metrics, SnapshotStatus, Status};
use raft_proto::{Class, NodeId};

use self::page::{Labels, Page, Unit};
use self::process::ProcessStats;
use crate::reply::StoreStatus;

/// Everything that one scrape shows.
pub(super) struct Scrape {
    /// This node.
    pub(super) node: NodeId,
    /// Its cluster, once it has one.
    pub(super) cluster: Option<String>,
    /// What the node counted.
    pub(super) raft: Metrics,
    /// Its view of the group; `None` unless it runs and answers in time.
    pub(super) status: Option<Status>,
    /// What the transport counted; `None` unless there is one.
    pub(super) net: Option<NetStats>,
    /// The store; `None` unless the node runs and answers in time.
    pub(super) store: Option<StoreStatus>,
}

impl Scrape {
    /// The text of all metrics.
    pub(super) fn into_text(self) -> String {
        let mut page = Page::default();
        self.identity(&mut page);
        consensus(&mut page, &self.raft);
        proposals(&mut page, &self.raft);
        disk(&mut page, &self.raft);
        if let Some(status) = &self.status {
            group(&mut page, status);
            snapshots(&mut page, &status.snapshots);
        }
        if let Some(net) = &self.net {
            peers(&mut page, &net.peers);
            traffic(&mut page, &net.peers);
            clients(&mut page, net);
        }
        if let Some(store) = &self.store {
            self::store(&mut page, store);
        }
        process(&mut page, &ProcessStats::read());
        page.into_text()
    }

    fn identity(&self, page: &mut Page) {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let build = vec![("version", version)];
        page.gauges("raft_kv_build_info", "The program.", [(build, 1)]);
        let cluster = self.cluster.clone().unwrap_or_default();
        let node = vec![("node", self.node.0.to_string()), ("cluster", cluster)];
        page.gauges("raft_node_info", "The node and its cluster.", [(node, 1)]);
    }
}

fn consensus(page: &mut Page, raft: &Metrics) {
    let roles = [
        ("follower", Role::Follower),
        ("pre-candidate", Role::PreCandidate),
        ("candidate", Role::Candidate),
        ("leader", Role::Leader),
    ];
    let roles = roles.map(|(name, role)| {
        let is_it = u64::from(raft.role == Some(role));
        (vec![("role", name.to_owned())], is_it)
    });
    page.gauges(
        "raft_role",
        "1 for the node's role; 0 for all before it takes part.",
        roles,
    );
    page.gauge("raft_term", "The node's term.", raft.term.0);
    let leader = raft.leader.map_or(0, |id| id.0);
    page.gauge(
        "raft_leader_id",
        "The leader it follows, itself included; 0 for none.",
        leader,
    );
    page.counter(
        "raft_leader_changes_total",
        "How often it learned of a new leader.",
        raft.leader_changes,
    );
    page.counter(
        "raft_elections_total",
        "How often it asked whether it would be elected.",
        raft.elections,
    );
    page.gauge(
        "raft_commit_index",
        "Everything up to here is committed, as far as the node knows.",
        raft.commit_index.0,
    );
    page.gauge(
        "raft_applied_index",
        "Everything up to here is in the store.",
        raft.applied_index.0,
    );
    page.gauge(
        "raft_last_index",
        "The end of the node's log.",
        raft.last_index.0,
    );
    let members = [("voter", raft.voters), ("learner", raft.learners)];
    let members = members.map(|(kind, count)| (vec![("kind", kind.to_owned())], count));
    page.gauges("raft_members", "Members of the cluster by kind.", members);
}

fn proposals(page: &mut Page, raft: &Metrics) {
    page.counter(
        "raft_proposals_total",
        "Commands that got a place in the log here.",
        raft.proposals,
    );
    page.counter(
        "raft_proposals_refused_total",
        "Commands that got none: this node does not lead, or has too much to do.",
        raft.proposals_refused,
    );
    page.counter("raft_reads_total", "Reads that came here.", raft.reads);
    page.histogram(
        "raft_proposal_duration_seconds",
        "From taking a command out of the inbox until it was applied and answered.",
        Unit::Nanoseconds,
        &raft.proposal_duration,
    );
    page.histogram(
        "raft_apply_batch_steps",
        "Commands and queries that the store got at once.",
        Unit::Plain,
        &raft.apply_batch,
    );
    page.histogram(
        "raft_inbox_wait_seconds",
        "From the first input of a batch until the node's main thread took the batch.",
        Unit::Nanoseconds,
        &raft.inbox_wait,
    );
    page.gauge(
        "raft_inbox_inputs",
        "Inputs that wait for the node's main thread.",
        raft.inbox_waiting,
    );
    page.gauge(
        "raft_inbox_bytes",
        "Bytes of client requests among them.",
        raft.inbox_waiting_bytes,
    );
    page.counter(
        "raft_inbox_refused_total",
        "Client requests refused because the inbox was full.",
        raft.inbox_refused,
    );
    page.counter(
        "raft_inbox_dropped_total",
        "Messages of peers dropped because the inbox was full.",
        raft.inbox_dropped,
    );
    page.gauge(
        "raft_entry_buffer_bytes",
        "Payload bytes of recent entries in memory.",
        raft.entry_buffer_bytes,
    );
}

fn disk(page: &mut Page, raft: &Metrics) {
    page.histogram(
        "raft_log_sync_duration_seconds",
        "One write and sync of everything that waited for the disk.",
        Unit::Nanoseconds,
        &raft.log_sync_duration,
    );
    page.histogram(
        "raft_log_sync_entries",
        "Entries of one such write.",
        Unit::Plain,
        &raft.log_sync_entries,
    );
    page.histogram(
        "raft_log_sync_bytes",
        "Bytes of one such write.",
        Unit::Plain,
        &raft.log_sync_bytes,
    );
    page.gauge(
        "raft_log_size_bytes",
        "What the log takes on disk.",
        raft.log_bytes,
    );
    page.gauge(
        "raft_disk_stalled",
        "1 while writes wait for the disk without any progress for too long.",
        u64::from(raft.is_disk_stalled),
    );
    page.counter(
        "raft_disk_full_total",
        "Writes that found the disk full; they are kept and tried again.",
        raft.disk_full,
    );
    damage::write(page, raft);
}

fn group(page: &mut Page, status: &Status) {
    page.gauge(
        "raft_snapshot_index",
        "The last entry that the node's snapshot covers.",
        status.snapshot_index.0,
    );
    let of = |id: NodeId| vec![("peer", id.0.to_string())];
    let matched = status.peers.iter().map(|p| (of(p.id), p.match_index.0));
    page.gauges(
        "raft_peer_match_index",
        "On the leader: the peer durably holds the log up to here.",
        matched,
    );
    let silent = status.peers.iter();
    let silent = silent.map(|p| (of(p.id), p.silent_for.as_secs_f64()));
    page.fractions(
        "raft_peer_silent_seconds",
        "On the leader: how long nothing was heard of the peer.",
        silent,
    );
}

fn snapshots(page: &mut Page, snapshots: &SnapshotStatus) {
    page.gauge(
        "raft_snapshot_saving_bytes",
        "Bytes of the snapshot being taken so far; 0 if there is none.",
        snapshots.saving.map_or(0, |saving| saving.bytes),
    );
    page.gauge(
        "raft_snapshot_fetching_bytes",
        "Bytes of the snapshot being fetched so far; 0 if there is none.",
        snapshots
            .fetching
            .map_or(0, |fetching| fetching.stored_bytes),
    );
    page.gauge(
        "raft_snapshot_fetching_size_bytes",
        "Size of the snapshot being fetched; 0 if there is none.",
        snapshots
            .fetching
            .map_or(0, |fetching| fetching.total_bytes),
    );
    page.gauge(
        "raft_snapshot_restoring",
        "1 while the store is being replaced by a snapshot.",
        u64::from(snapshots.is_restoring),
    );
    page.counter(
        "raft_snapshots_taken_total",
        "Snapshots taken.",
        snapshots.taken,
    );
    page.counter(
        "raft_snapshots_failed_total",
        "Snapshots that could not be taken or fetched.",
        snapshots.failed,
    );
    page.counter(
        "raft_snapshots_installed_total",
        "Snapshots of peers that replaced this node's store.",
        snapshots.installed,
    );
    page.counter(
        "raft_snapshot_fetched_bytes_total",
        "Bytes of snapshots fetched from peers.",
        snapshots.fetched_bytes,
    );
    page.counter(
        "raft_snapshot_repeated_bytes_total",
        "Bytes of these that had been there already.",
        snapshots.repeated_bytes,
    );
    page.counter(
        "raft_snapshot_served_bytes_total",
        "Bytes of snapshots sent to peers.",
        snapshots.served_bytes,
    );
}

fn peers(page: &mut Page, peers: &[PeerStats]) {
    let of = |peer: &PeerStats| vec![("peer", peer.node.0.to_string())];
    page.gauges(
        "raft_network_peer_connected",
        "1 if there is a connection to the peer.",
        peers
            .iter()
            .map(|p| (of(p), u64::from(p.connected.is_some()))),
    );
    page.counters(
        "raft_network_connections_total",
        "Connections to the peer so far.",
        peers.iter().map(|p| (of(p), p.connections)),
    );
    let round_trips = peers.iter();
    let round_trips = round_trips.filter_map(|p| Some((of(p), p.round_trip?.as_secs_f64())));
    page.fractions(
        "raft_network_round_trip_seconds",
        "Smoothed round-trip time of the connection to the peer.",
        round_trips,
    );
}

/// Picks a counter of a peer for every class.
type ByClass = fn(&PeerStats) -> [u64; 3];

fn traffic(page: &mut Page, peers: &[PeerStats]) {
    let counters: [(&str, &str, ByClass); 5] = [
        (
            "raft_network_sent_bytes_total",
            "Bytes written to the peer, by class of traffic.",
            |p| p.sent_bytes,
        ),
        (
            "raft_network_sent_messages_total",
            "Messages written to the peer, by class of traffic.",
            |p| p.sent_messages,
        ),
        (
            "raft_network_received_bytes_total",
            "Bytes of messages received from the peer, by class of traffic.",
            |p| p.received_bytes,
        ),
        (
            "raft_network_received_messages_total",
            "Messages received from the peer, by class of traffic.",
            |p| p.received_messages,
        ),
        (
            "raft_network_dropped_messages_total",
            "Messages dropped because the peer's queue was full or its connection went.",
            |p| p.dropped,
        ),
    ];
    for (name, help, of) in counters {
        page.counters(name, help, by_class(peers, of));
    }
    page.gauges(
        "raft_network_queued_messages",
        "Messages that wait to be written to the peer.",
        by_class(peers, |p| p.queued_messages.map(|n| n as u64)),
    );
    page.gauges(
        "raft_network_queued_bytes",
        "Bytes that wait to be written to the peer.",
        by_class(peers, |p| p.queued_bytes.map(|n| n as u64)),
    );
}

fn by_class(
    peers: &[PeerStats],
    of: impl Fn(&PeerStats) -> [u64; 3],
) -> impl Iterator<Item = (Labels, u64)> {
    peers.iter().flat_map(move |peer| {
        let values = of(peer);
        Class::ALL.map(|class| {
            let name = match class {
                Class::Control => "control",
                Class::Append => "append",
                Class::Bulk => "bulk",
            };
            let peer = ("peer", peer.node.0.to_string());
            (
                vec![peer, ("class", name.to_owned())],
                values[class as usize],
            )
        })
    })
}

fn clients(page: &mut Page, net: &NetStats) {
    page.counter(
        "raft_network_rejected_connections_total",
        "Incoming connections turned away.",
        net.rejected_connections,
    );
    page.gauge(
        "raft_kv_client_connections",
        "Connections of clients.",
        net.clients.connections as u64,
    );
    page.counter(
        "raft_kv_client_requests_total",
        "Requests of clients.",
        net.clients.received_messages,
    );
    page.counter(
        "raft_kv_client_responses_total",
        "Responses to clients.",
        net.clients.sent_messages,
    );
    page.counter(
        "raft_kv_client_received_bytes_total",
        "Bytes of requests.",
        net.clients.received_bytes,
    );
    page.counter(
        "raft_kv_client_sent_bytes_total",
        "Bytes of responses.",
        net.clients.sent_bytes,
    );
}

fn store(page: &mut Page, store: &StoreStatus) {
    page.gauge(
        "raft_kv_store_revision",
        "The store's revision.",
        store.revision.0,
    );
    page.gauge(
        "raft_kv_store_oldest_revision",
        "The oldest revision that can still be read.",
        store.oldest_revision.0,
    );
    page.gauge("raft_kv_store_keys", "Keys in the store.", store.keys);
    page.gauge(
        "raft_kv_store_bytes",
        "Bytes of live keys and values.",
        store.bytes,
    );
    page.gauge(
        "raft_kv_sessions",
        "Sessions that are alive.",
        store.sessions,
    );
}

fn process(page: &mut Page, process: &ProcessStats) {
    if let Some(bytes) = process.resident_bytes {
        page.gauge(
            "process_resident_memory_bytes",
            "Resident memory of the process.",
            bytes,
        );
    }
    if let Some(count) = process.open_files {
        page.gauge(
            "process_open_fds",
            "Open file descriptors of the process.",
            count,
        );
    }
}
