//! What a node counts and measures about itself, cheaply enough for every write.
//!
//! The threads of a node add to atomics that nothing is synchronised by; [`Metrics`] is a copy of
//! them at one moment, taken by whoever wants to look. A histogram has fixed bounds, so to record a
//! value is a search in a short table and two additions. The clock is read once per batch, never
//! per entry.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use raft_core::{RaftCore, Role};
use raft_proto::{LogIndex, NodeId, Term};

/// Upper bounds of durations, in nanoseconds: 1, 2 and 5 per decade from 10 µs to 10 s.
const DURATION_BOUNDS_NS: [u64; 19] = [
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Upper bounds of how much is done at once: powers of 4 from 1 to 64 Ki.
const COUNT_BOUNDS: [u64; 9] = [1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536];

/// Upper bounds of bytes at once: powers of 4 from 1 KiB to 64 MiB.
const BYTES_BOUNDS: [u64; 9] = [
    1 << 10,
    1 << 12,
    1 << 14,
    1 << 16,
    1 << 18,
    1 << 20,
    1 << 22,
    1 << 24,
    1 << 26,
];

/// What a node has measured since it started, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Its role; `None` before it takes part in a cluster.
    pub role: Option<Role>,
    /// Its term.
    pub term: Term,
    /// The leader it follows, itself included.
    pub leader: Option<NodeId>,
    /// Everything up to here is committed, as far as it knows.
    pub commit_index: LogIndex,
    /// Everything up to here is in its state machine.
    pub applied_index: LogIndex,
    /// The end of its log.
    pub last_index: LogIndex,
    /// What its log takes on disk, in bytes.
    pub log_bytes: u64,
    /// Voters in its membership.
    pub voters: u64,
    /// Members that do not vote.
    pub learners: u64,
    /// Whether the disk has made no progress for `disk_stall_timeout`.
    pub is_disk_stalled: bool,
    /// How often it learned of a leader that it did not follow before.
    pub leader_changes: u64,
    /// How often it asked whether it would be elected (pre-votes, thesis §9.6).
    pub elections: u64,
    /// Commands of its clients that got a place in the log.
    pub proposals: u64,
    /// Commands that got none, because this node does not lead or has too much to do.
    pub proposals_refused: u64,
    /// Reads of its clients.
    pub reads: u64,
    /// Client requests that found the inbox full.
    pub inbox_refused: u64,
    /// Peers' messages that found the inbox full.
    pub inbox_dropped: u64,
    /// Inputs that wait for the node's main thread.
    pub inbox_waiting: u64,
    /// Bytes of client requests among them.
    pub inbox_waiting_bytes: u64,
    /// Payload bytes of recent entries in memory.
    pub entry_buffer_bytes: u64,
    /// Writes that failed because the disk was full, and were kept.
    pub disk_full: u64,
    /// Entries that turned out to be damaged on the disk.
    pub entries_lost: u64,
    /// Entries among them whose content came back from peers.
    pub entries_healed: u64,
    /// Snapshots that turned out to be damaged.
    pub snapshots_lost: u64,
    /// Snapshots that took the place of what was damaged.
    pub snapshots_healed: u64,
    /// Whether anything is damaged and not healed yet.
    pub is_damaged: bool,
    /// Whether the node takes part in nothing that is counted, because it does not know what it has
    /// promised.
    pub is_uncounted: bool,
    /// Bytes of sealed segments and snapshots that were read to find rot.
    pub scrubbed_bytes: u64,
    /// What was found so.
    pub scrub_findings: u64,
    /// Comparisons of replicas that ended.
    pub comparisons: u64,
    /// How often replicas were found to differ, by this node's judgement.
    pub replica_differences: u64,
    /// From taking a command out of the inbox until it was applied and its client answered, in
    /// nanoseconds. Commands that were superseded or expired are not in it.
    pub proposal_duration: Histogram,
    /// From the first input of a batch until the main thread took the batch, in nanoseconds.
    pub inbox_wait: Histogram,
    /// One write and sync of everything that waited for the disk, in nanoseconds.
    pub log_sync_duration: Histogram,
    /// Entries of each of these.
    pub log_sync_entries: Histogram,
    /// Bytes of each of these.
    pub log_sync_bytes: Histogram,
    /// Entries and queries that the state machine got at once.
    pub apply_batch: Histogram,
}

/// Values by size, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// Each upper bound, itself included, in order, with how many values are within it and above
    /// the one before. The last bound is `u64::MAX`.
    pub buckets: Vec<(u64, u64)>,
    /// The sum of all values.
    pub sum: u64,
}

impl Histogram {
    /// How many values there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

/// Where the node's threads count. One for each node, shared by its threads.
#[derive(Debug)]
pub(crate) struct Recorder {
    role: AtomicU64,
    term: AtomicU64,
    leader: AtomicU64,
    commit_index: AtomicU64,
    applied_index: AtomicU64,
    last_index: AtomicU64,
    voters: AtomicU64,
    learners: AtomicU64,
    entry_buffer_bytes: AtomicU64,
    pub(crate) log_bytes: AtomicU64,
    pub(crate) is_disk_stalled: AtomicU64,
    pub(crate) leader_changes: Counter,
    pub(crate) elections: Counter,
    pub(crate) proposals: Counter,
    pub(crate) proposals_refused: Counter,
    pub(crate) reads: Counter,
    pub(crate) disk_full: Counter,
    pub(crate) entries_lost: Counter,
    pub(crate) entries_healed: Counter,
    pub(crate) snapshots_lost: Counter,
    pub(crate) snapshots_healed: Counter,
    is_damaged: AtomicU64,
    is_uncounted: AtomicU64,
    pub(crate) scrubbed_bytes: Counter,
    pub(crate) scrub_findings: Counter,
    pub(crate) comparisons: Counter,
    pub(crate) replica_differences: Counter,
    pub(crate) proposal_duration: Recorded<19>,
    pub(crate) inbox_wait: Recorded<19>,
    pub(crate) log_sync_duration: Recorded<19>,
    pub(crate) log_sync_entries: Recorded<9>,
    pub(crate) log_sync_bytes: Recorded<9>,
    pub(crate) apply_batch: Recorded<9>,
}

/// What the inbox knows about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InboxDepth {
    pub(crate) waiting: u64,
    pub(crate) waiting_bytes: u64,
    pub(crate) refused: u64,
    pub(crate) dropped: u64,
}

/// Counts up.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A histogram that is filled.
#[derive(Debug)]
pub(crate) struct Recorded<const N: usize> {
    bounds: &'static [u64; N],
    within: [AtomicU64; N],
    above: AtomicU64,
    sum: AtomicU64,
}

impl<const N: usize> Recorded<N> {
    fn new(bounds: &'static [u64; N]) -> Self {
        Self {
            bounds,
            within: [const { AtomicU64::new(0) }; N],
            above: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    pub(crate) fn record(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        let count = self.within.get(bucket).unwrap_or(&self.above);
        count.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    pub(crate) fn record_duration(&self, duration: Duration) {
        // 584 years of nanoseconds fit.
        self.record(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    fn read(&self) -> Histogram {
        let within = self.within.iter().map(load);
        let bounded = self.bounds.iter().copied().zip(within);
        Histogram {
            buckets: bounded.chain([(u64::MAX, load(&self.above))]).collect(),
            sum: load(&self.sum),
        }
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            role: AtomicU64::new(0),
            term: AtomicU64::new(0),
            leader: AtomicU64::new(0),
            commit_index: AtomicU64::new(0),
            applied_index: AtomicU64::new(0),
            last_index: AtomicU64::new(0),
            voters: AtomicU64::new(0),
            learners: AtomicU64::new(0),
            entry_buffer_bytes: AtomicU64::new(0),
            log_bytes: AtomicU64::new(0),
            is_disk_stalled: AtomicU64::new(0),
            leader_changes: Counter::default(),
            elections: Counter::default(),
            proposals: Counter::default(),
            proposals_refused: Counter::default(),
            reads: Counter::default(),
            disk_full: Counter::default(),
            entries_lost: Counter::default(),
            entries_healed: Counter::default(),
            snapshots_lost: Counter::default(),
            snapshots_healed: Counter::default(),
            is_damaged: AtomicU64::new(0),
            is_uncounted: AtomicU64::new(0),
            scrubbed_bytes: Counter::default(),
            scrub_findings: Counter::default(),
            comparisons: Counter::default(),
            replica_differences: Counter::default(),
            proposal_duration: Recorded::new(&DURATION_BOUNDS_NS),
            inbox_wait: Recorded::new(&DURATION_BOUNDS_NS),
            log_sync_duration: Recorded::new(&DURATION_BOUNDS_NS),
            log_sync_entries: Recorded::new(&COUNT_BOUNDS),
            log_sync_bytes: Recorded::new(&BYTES_BOUNDS),
            apply_batch: Recorded::new(&COUNT_BOUNDS),
        }
    }
}

impl Recorder {
    /// Remembers where the core is.
    pub(crate) fn observe(&self, core: &RaftCore, entry_buffer_bytes: u64) {
        store(&self.role, role_number(core.role()));
        store(&self.term, core.term().0);
        // Node ids start at 1.
        store(&self.leader, core.leader().map_or(0, |id| id.0));
        store(&self.commit_index, core.commit_index().0);
        store(&self.applied_index, core.applied_index().0);
        store(&self.last_index, core.last_position().index.0);
        store(&self.entry_buffer_bytes, entry_buffer_bytes);
        let membership = core.membership();
        store(&self.voters, membership.voters.len() as u64);
        store(&self.learners, membership.learners.len() as u64);
        store(&self.is_damaged, u64::from(!core.is_whole()));
        store(&self.is_uncounted, u64::from(core.is_uncounted()));
    }

    /// A copy of everything.
    pub(crate) fn read(&self, inbox: InboxDepth) -> Metrics {
        Metrics {
            role: role_of(load(&self.role)),
            term: Term(load(&self.term)),
            leader: Some(load(&self.leader)).filter(|id| *id > 0).map(NodeId),
            commit_index: LogIndex(load(&self.commit_index)),
            applied_index: LogIndex(load(&self.applied_index)),
            last_index: LogIndex(load(&self.last_index)),
            log_bytes: load(&self.log_bytes),
            voters: load(&self.voters),
            learners: load(&self.learners),
            is_disk_stalled: load(&self.is_disk_stalled) > 0,
            leader_changes: self.leader_changes.read(),
            elections: self.elections.read(),
            proposals: self.proposals.read(),
            proposals_refused: self.proposals_refused.read(),
            reads: self.reads.read(),
            inbox_refused: inbox.refused,
            inbox_dropped: inbox.dropped,
            inbox_waiting: inbox.waiting,
            inbox_waiting_bytes: inbox.waiting_bytes,
            entry_buffer_bytes: load(&self.entry_buffer_bytes),
            disk_full: self.disk_full.read(),
            entries_lost: self.entries_lost.read(),
            entries_healed: self.entries_healed.read(),
            snapshots_lost: self.snapshots_lost.read(),
            snapshots_healed: self.snapshots_healed.read(),
            is_damaged: load(&self.is_damaged) > 0,
            is_uncounted: load(&self.is_uncounted) > 0,
            scrubbed_bytes: self.scrubbed_bytes.read(),
            scrub_findings: self.scrub_findings.read(),
            comparisons: self.comparisons.read(),
            replica_differences: self.replica_differences.read(),
            proposal_duration: self.proposal_duration.read(),
            inbox_wait: self.inbox_wait.read(),
            log_sync_duration: self.log_sync_duration.read(),
            log_sync_entries: self.log_sync_entries.read(),
            log_sync_bytes: self.log_sync_bytes.read(),
            apply_batch: self.apply_batch.read(),
        }
    }
}

const fn role_number(role: Role) -> u64 {
    match role {
        Role::Follower => 1,
        Role::PreCandidate => 2,
        Role::Candidate => 3,
        Role::Leader => 4,
    }
}

fn role_of(number: u64) -> Option<Role> {
    let roles = [
        Role::Follower,
        Role::PreCandidate,
        Role::Candidate,
        Role::Leader,
    ];
    roles.into_iter().find(|role| role_number(*role) == number)
}

fn store(gauge: &AtomicU64, value: u64) {
    gauge.store(value, Ordering::Relaxed);
}

fn load(gauge: &AtomicU64) -> u64 {
    gauge.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_falls_into_the_first_bucket_that_holds_it() {
        let recorded = Recorded::new(&COUNT_BOUNDS);
        for value in [0, 1, 2, 4, 5, 65_536, 65_537, 1 << 40] {
            recorded.record(value);
        }
        let found = recorded.read();
        let filled: Vec<_> = found.buckets.iter().filter(|(_, n)| *n > 0).collect();
        let expected = [(1, 2), (4, 2), (16, 1), (65_536, 1), (u64::MAX, 2)];
        assert_eq!(filled, expected.iter().collect::<Vec<_>>());
        assert_eq!(found.count(), 8);
        assert_eq!(found.sum, 12 + 65_536 + 65_537 + (1 << 40));
    }

    #[test]
    fn bounds_ascend() {
        assert!(DURATION_BOUNDS_NS.is_sorted_by(|a, b| a < b));
        assert!(COUNT_BOUNDS.is_sorted_by(|a, b| a < b));
        assert!(BYTES_BOUNDS.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn nothing_is_known_at_first() {
        let metrics = Recorder::default().read(InboxDepth::default());
        assert_eq!((metrics.role, metrics.leader), (None, None));
        assert_eq!(metrics.proposal_duration.count(), 0);
    }

    #[test]
    fn roles_keep_their_number() {
        for number in 1..=4 {
            assert_eq!(role_of(number).map(role_number), Some(number));
        }
        assert_eq!(role_of(0), None);
    }
}
