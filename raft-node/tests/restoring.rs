//! Snapshots as one driver sees them, message by message: those that arrive while the state machine is
//! still being restored from an earlier one, and one that cannot be read any more.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::sync::Arc;
use std::sync::mpsc::channel;

use bytes::Bytes;
use raft_core::{Config, PersistId, RaftCore, Recovered, Time};
use raft_node::driver::{
    Driver, DriverLimits, FetchId, Input, Output, PartName, SnapshotDone, SnapshotJob,
};
use raft_proto::{
    AppendRequest, Boot, Entry, EntryKind, Incarnation, InstallSnapshotRequest, LogIndex,
    LogPosition, Member, Membership, Message, NodeId, ProtocolVersion, SnapshotDescription, Term,
};

const LEADER: NodeId = NodeId(2);
const TERM: Term = Term(2);
const SNAPSHOT_BYTES: u64 = 100;

/// A follower whose disk, state machine and leader are the test.
struct Follower {
    driver: Driver,
    sequence: u64,
    writing: Option<PersistId>,
    fetch: Option<FetchId>,
    restores: Vec<LogPosition>,
    /// Reads of the log and batches for the applier.
    handed_over: usize,
    cuts: usize,
    /// Transfers that were given up.
    given_up: usize,
}

fn membership() -> Membership {
    let member = |id: u64| {
        let address = format!("n{id}:1");
        let incarnation = None;
        (
            NodeId(id),
            Member {
                incarnation,
                address,
            },
        )
    };
    Membership::of_voters((1..=3).map(member))
}

fn snapshot(index: u64) -> SnapshotDescription {
    SnapshotDescription {
        last_included: at(index),
        membership: membership(),
        total_bytes: SNAPSHOT_BYTES,
        checksum: 7,
    }
}

fn at(index: u64) -> LogPosition {
    LogPosition {
        index: LogIndex(index),
        term: TERM,
    }
}

impl Follower {
    fn new() -> Self {
        let recovered = Recovered::bootstrap(membership(), Boot::default()).unwrap();
        let core = RaftCore::new(Config::new(NodeId(1)), recovered, Time::ZERO).unwrap();
        let mut follower = Self {
            driver: Driver::new(core, DriverLimits::default(), None),
            sequence: 0,
            writing: None,
            fetch: None,
            restores: Vec::new(),
            handed_over: 0,
            cuts: 0,
            given_up: 0,
        };
        follower.flush();
        follower
    }

    fn give(&mut self, input: Input) {
        self.driver.handle(Time::ZERO, input);
        self.flush();
    }

    fn flush(&mut self) {
        self.driver.flush(Time::ZERO);
        while let Some(output) = self.driver.poll_output() {
            match output {
                Output::Write { id, .. } => self.writing = Some(id),
                Output::Snapshot(SnapshotJob::Receive { fetch, .. }) => self.fetch = Some(fetch),
                Output::Snapshot(SnapshotJob::StopReceiving { .. }) => self.given_up += 1,
                Output::Restore(position) => self.restores.push(position),
                Output::Apply(_) | Output::ReadLog(_) => self.handed_over += 1,
                Output::Cut(_) => self.cuts += 1,
                Output::Send { .. }
                | Output::Peers { .. }
                | Output::Snapshot(_)
                | Output::Compact(_)
                | Output::ReportRot(_)
                | Output::Halt(_) => {}
            }
        }
    }

    fn hear(&mut self, message: impl Into<Message>) {
        self.hear_from(LEADER, message);
    }

    fn hear_from(&mut self, from: NodeId, message: impl Into<Message>) {
        self.give(Input::Message {
            from,
            uncounted: false,
            message: message.into(),
        });
    }

    fn sync(&mut self) {
        let id = self.writing.take().unwrap();
        self.give(Input::Persisted(id));
    }

    /// The leader offers a snapshot.
    fn offer(&mut self, index: u64) {
        self.sequence += 1;
        self.hear(InstallSnapshotRequest {
            term: TERM,
            sequence: self.sequence,
            snapshot: snapshot(index),
        });
    }

    /// The leader offers a snapshot, and all of it arrives.
    fn receive(&mut self, index: u64) {
        self.offer(index);
        let fetch = self.fetch.take().unwrap();
        self.give(Input::SnapshotDone(SnapshotDone::Receiving {
            fetch,
            received_bytes: SNAPSHOT_BYTES,
        }));
        self.give(Input::SnapshotDone(SnapshotDone::Received {
            fetch,
            last_included: at(index),
        }));
    }

    /// The leader sends the entry after this one, and commits it.
    fn append_after(&mut self, previous: u64) {
        self.sequence += 1;
        let entry = Entry {
            index: LogIndex(previous + 1),
            term: TERM,
            kind: EntryKind::Command,
            payload: Bytes::from_static(b"command"),
        };
        self.hear(AppendRequest {
            term: TERM,
            sequence: self.sequence,
            previous: at(previous),
            commit_index: entry.index,
            entries: vec![entry],
        });
    }
}

/// The machine takes long to be restored. Meanwhile the leader has compacted what comes after the
/// first snapshot, and the second one is installed in the log, but not durably yet.
#[test]
fn nothing_is_handed_over_between_two_installations() {
    let mut follower = Follower::new();
    follower.receive(10);
    follower.sync();
    assert_eq!(follower.restores, [at(10)]);
    follower.append_after(10);
    follower.sync();
    follower.receive(20);
    let (send, taken) = channel();
    let waiter = Box::new(move |taken| drop(send.send(taken)));
    follower.give(Input::TakeSnapshot { waiter });

    follower.give(Input::Restored(at(10)));
    assert_eq!(
        follower.handed_over, 0,
        "the log has nothing of it any more"
    );
    assert_eq!(follower.cuts, 0, "the log does not know its term any more");

    follower.sync();
    assert_eq!(follower.restores, [at(10), at(20)]);
    follower.give(Input::Restored(at(20)));
    assert_eq!(follower.driver.newest_snapshot(), Some(&snapshot(20)));
    let taken = taken.try_recv().unwrap();
    assert_eq!(taken.unwrap(), snapshot(20), "nothing was applied since");
    follower.append_after(20);
    follower.sync();
    assert_eq!(follower.handed_over, 1);
}

/// The second snapshot is fetched while the machine is restored, but the log has its entries by
/// the time it is there.
#[test]
fn a_snapshot_that_came_too_late_does_not_hide_the_one_installed() {
    let mut follower = Follower::new();
    follower.receive(10);
    follower.sync();
    follower.sequence += 1;
    follower.hear(InstallSnapshotRequest {
        term: TERM,
        sequence: follower.sequence,
        snapshot: snapshot(12),
    });
    let fetch = follower.fetch.take().unwrap();
    follower.give(Input::SnapshotDone(SnapshotDone::Receiving {
        fetch,
        received_bytes: SNAPSHOT_BYTES,
    }));
    follower.append_after(10);
    follower.append_after(11);
    let last_included = at(12);
    follower.give(Input::SnapshotDone(SnapshotDone::Received {
        fetch,
        last_included,
    }));
    follower.sync();
    follower.give(Input::Restored(at(10)));
    assert_eq!(follower.driver.newest_snapshot(), Some(&snapshot(10)));
    assert_eq!(follower.handed_over, 1, "entries 11 and 12");
}

/// The file of the newest snapshot is damaged, so a peer gets nothing of it. It would be offered the
/// same one until enough has been written for another.
#[test]
fn a_snapshot_that_cannot_be_read_is_followed_by_another() {
    let mut follower = Follower::new();
    follower.receive(10);
    follower.sync();
    follower.give(Input::Restored(at(10)));
    follower.append_after(10);
    follower.sync();
    assert_eq!(follower.cuts, 0, "none is due");
    let unreadable = |index| {
        let part = PartName {
            last_included: at(index),
            offset: 0,
            max_bytes: 1,
        };
        let (to, found) = (NodeId(3), None);
        Input::SnapshotDone(SnapshotDone::PartRead { to, part, found })
    };
    follower.give(unreadable(9));
    assert_eq!(follower.cuts, 0, "an older one was removed");
    follower.give(unreadable(10));
    assert_eq!(
        follower.cuts, 2,
        "it begins, and the first part is asked for"
    );
}

#[test]
fn after_a_transfer_that_failed_here_the_next_one_waits() {
    let mut follower = Follower::new();
    let mut now = Time::ZERO;
    let mut pauses = Vec::new();
    follower.offer(10);
    for _ in 0..3 {
        let fetch = follower.fetch.take().unwrap();
        let error = Arc::new(std::io::Error::other("no room"));
        let failed = SnapshotDone::ReceiveFailed { fetch, error };
        follower.driver.handle(now, Input::SnapshotDone(failed));
        let began = now;
        // The leader offers again and again.
        while follower.fetch.is_none() {
            now = now.plus_ms(250);
            follower.driver.handle_timeout(now);
            follower.offer(10);
        }
        pauses.push(now.ms_since(began));
    }
    assert_eq!(pauses, [1_000, 2_000, 4_000]);
}

/// The owner of a snapshot is unplugged in the middle of a transfer, and the next leader needs this
/// node for every commit: it must not wait for the owner, which may take ten seconds.
#[test]
fn a_transfer_whose_owner_is_gone_ends_when_another_node_leads() {
    const NEXT_LEADER: NodeId = NodeId(3);
    let offer = InstallSnapshotRequest {
        term: Term(TERM.0 + 1),
        sequence: 1,
        snapshot: snapshot(20),
    };
    let mut follower = Follower::new();
    follower.offer(10);
    let fetch = follower.fetch.take().unwrap();
    follower.give(Input::SnapshotDone(SnapshotDone::Receiving {
        fetch,
        received_bytes: 0,
    }));
    follower.give(Input::PeerDown { peer: LEADER });
    assert_eq!(follower.given_up, 0, "nobody else leads yet");
    follower.hear_from(NEXT_LEADER, offer.clone());
    assert_eq!(follower.given_up, 1);
    let again = InstallSnapshotRequest {
        sequence: 2,
        ..offer
    };
    follower.hear_from(NEXT_LEADER, again);
    assert!(follower.fetch.is_some(), "the next one is fetched");
}

/// As long as its owner is connected, a transfer goes on under the next leader.
#[test]
fn a_transfer_outlives_the_leadership_of_its_owner() {
    let mut follower = Follower::new();
    follower.give(Input::PeerUp {
        peer: LEADER,
        incarnation: Incarnation(2),
        boot: Boot::default(),
        version: ProtocolVersion::OLDEST,
    });
    follower.offer(10);
    follower.hear_from(
        NodeId(3),
        InstallSnapshotRequest {
            term: Term(TERM.0 + 1),
            sequence: 1,
            snapshot: snapshot(20),
        },
    );
    assert_eq!(follower.given_up, 0);
}
