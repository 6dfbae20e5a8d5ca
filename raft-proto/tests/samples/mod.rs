//! One or more sample values of every message, shared by the format tests.

use bytes::Bytes;
use raft_proto::*;

/// A message with the name of its golden file.
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) uncounted: bool,
    pub(crate) message: Message,
}

impl Sample {
    pub(crate) fn encode(&self) -> wire::EncodedFrame {
        wire::encode(GroupId(0), self.uncounted, &self.message).unwrap()
    }
}

/// Samples of every message, in the order of their kinds; every enum variant appears.
pub(crate) fn all() -> Vec<Sample> {
    let mut samples = forming();
    samples.extend(elections());
    samples.extend(leadership());
    samples.extend(replication());
    samples.extend(bulk());
    samples.extend(repair());
    samples
}

fn sample(name: &'static str, message: impl Into<Message>) -> Sample {
    Sample {
        name,
        uncounted: false,
        message: message.into(),
    }
}

fn position(index: u64, term: u64) -> LogPosition {
    LogPosition {
        index: LogIndex(index),
        term: Term(term),
    }
}

fn entry(index: u64, term: u64, kind: EntryKind, payload: &'static [u8]) -> Entry {
    Entry {
        index: LogIndex(index),
        term: Term(term),
        kind,
        payload: Bytes::from_static(payload),
    }
}

fn cluster() -> ClusterId {
    ClusterId(std::array::from_fn(|at| 0xa0 + at as u8))
}

/// Three voters, one of them not bound to an incarnation yet.
pub(crate) fn voters() -> Membership {
    let member = |id: u64, incarnation| {
        let address = format!("10.0.0.{id}:7000");
        let member = Member {
            incarnation,
            address,
        };
        (NodeId(id), member)
    };
    Membership::of_voters([
        member(1, Some(Incarnation(0x11))),
        member(2, Some(Incarnation(0x22))),
        member(3, None),
    ])
}

/// A joint configuration with learners of both kinds.
pub(crate) fn joint() -> Membership {
    let mut membership = voters();
    membership.voters = [NodeId(1)].into();
    membership.outgoing = [NodeId(1), NodeId(2)].into();
    membership.learners = [(NodeId(2), Promotion::Manual), (NodeId(3), Promotion::Auto)].into();
    membership
}

fn hello(cluster: Option<ClusterId>) -> Hello {
    Hello {
        cluster,
        node: NodeId(2),
        incarnation: Incarnation(0x1122_3344_5566_7788),
        boot: Boot {
            counter: 5,
            nonce: 0x99aa_bbcc_ddee_ff00,
        },
        receiver: NodeId(1),
        versions: Versions::CURRENT,
    }
}

fn refused(name: &'static str, refusal: Refusal) -> Sample {
    let refusal = Some(refusal);
    sample(name, HelloResponse { refusal })
}

fn forming() -> Vec<Sample> {
    let address = |id| (NodeId(id), format!("h{id}:7"));
    let gathered = |outcome| GatherResponse {
        gatherer: Incarnation(0x11),
        outcome,
    };
    vec![
        sample("hello", hello(Some(cluster()))),
        sample("hello_unformed", hello(None)),
        sample("hello_response_welcome", HelloResponse { refusal: None }),
        refused(
            "hello_response_wrong_identity",
            Refusal::WrongIdentity {
                certified: NodeId(3),
            },
        ),
        refused(
            "hello_response_wrong_receiver",
            Refusal::WrongReceiver {
                receiver: NodeId(4),
            },
        ),
        refused(
            "hello_response_wrong_cluster",
            Refusal::WrongCluster { cluster: cluster() },
        ),
        refused("hello_response_not_a_member", Refusal::NotAMember),
        refused(
            "hello_response_wrong_incarnation",
            Refusal::WrongIncarnation {
                member: Incarnation(0x22),
            },
        ),
        refused(
            "hello_response_old_boot",
            Refusal::OldBoot {
                seen: Boot {
                    counter: 6,
                    nonce: 7,
                },
            },
        ),
        refused(
            "hello_response_other_voters",
            Refusal::OtherVoters {
                voters: vec![address(1), address(2)],
            },
        ),
        refused("hello_response_unavailable", Refusal::Unavailable),
        refused(
            "hello_response_no_common_version",
            Refusal::NoCommonVersion {
                versions: Versions::CURRENT,
            },
        ),
        sample(
            "gather_request",
            GatherRequest {
                incarnation: Incarnation(0x11),
                voters: vec![address(1), address(2)],
            },
        ),
        sample(
            "gather_response_joining",
            gathered(GatherOutcome::Joining {
                incarnation: Incarnation(0x22),
            }),
        ),
        sample(
            "gather_response_other_voters",
            gathered(GatherOutcome::OtherVoters {
                voters: vec![address(2)],
            }),
        ),
        sample(
            "gather_response_formed",
            gathered(GatherOutcome::Formed { cluster: cluster() }),
        ),
        sample(
            "gather_response_started_to_join",
            gathered(GatherOutcome::StartedToJoin),
        ),
        sample(
            "gather_response_superseded",
            gathered(GatherOutcome::Superseded),
        ),
        sample(
            "gather_response_released",
            gathered(GatherOutcome::Released),
        ),
        sample(
            "adopt_request",
            AdoptRequest {
                first_entry: voters().to_bytes().unwrap(),
            },
        ),
        sample(
            "adopt_response",
            AdoptResponse {
                cluster: Some(cluster()),
            },
        ),
        sample("adopt_response_unformed", AdoptResponse { cluster: None }),
        sample(
            "gather_abandoned",
            GatherAbandoned {
                incarnation: Incarnation(0x11),
            },
        ),
    ]
}

fn elections() -> Vec<Sample> {
    let vote = |term, index, leadership_transfer| VoteRequest {
        term: Term(term),
        last_log: position(index, term - 1),
        leadership_transfer,
    };
    vec![
        sample(
            "pre_vote_request",
            PreVoteRequest {
                term: Term(8),
                last_log: position(41, 7),
            },
        ),
        sample(
            "pre_vote_response",
            PreVoteResponse {
                term: Term(8),
                granted: true,
            },
        ),
        sample("vote_request", vote(8, 41, false)),
        sample("vote_request_transfer", vote(251, 250, true)),
        // Every width of an integer: 251 and 300 take two bytes, 70,000 four, the last one eight.
        sample("vote_request_wide", vote(301, 70_000, false)),
        sample("vote_request_widest", vote(1 << 33, (1 << 62) - 1, false)),
        sample(
            "vote_response",
            VoteResponse {
                term: Term(8),
                granted: false,
            },
        ),
    ]
}

fn leadership() -> Vec<Sample> {
    let heartbeat = Heartbeat {
        term: Term(7),
        round: 3,
        commit_index: LogIndex(41),
    };
    let read_index = |read_index| ReadIndexResponse {
        term: Term(7),
        id: 9,
        read_index,
    };
    vec![
        sample("heartbeat", heartbeat),
        Sample {
            uncounted: true,
            ..sample(
                "heartbeat_response_uncounted",
                HeartbeatResponse {
                    term: Term(7),
                    round: 3,
                },
            )
        },
        sample("timeout_now", TimeoutNow { term: Term(7) }),
        sample(
            "read_index_request",
            ReadIndexRequest {
                term: Term(7),
                id: 9,
            },
        ),
        sample("read_index_response", read_index(Some(LogIndex(41)))),
        sample("read_index_response_unknown", read_index(None)),
    ]
}

fn replication() -> Vec<Sample> {
    let append = |entries| AppendRequest {
        term: Term(7),
        sequence: 12,
        previous: position(41, 5),
        commit_index: LogIndex(40),
        entries,
    };
    let appended = |outcome| AppendResponse {
        term: Term(7),
        sequence: 12,
        outcome,
    };
    let rejected = |conflict_term, conflict_index| {
        appended(AppendOutcome::Rejected {
            conflict_term,
            conflict_index: LogIndex(conflict_index),
            last_index: LogIndex(45),
        })
    };
    let installed = |outcome| InstallSnapshotResponse {
        term: Term(7),
        sequence: 13,
        outcome,
    };
    let entries = vec![
        entry(42, 5, EntryKind::Command, b"x=1"),
        entry(43, 7, EntryKind::Noop, b""),
        entry(44, 7, EntryKind::Membership, b"\x01\x02"),
    ];
    vec![
        sample("append_request", append(entries)),
        sample("append_request_probe", append(Vec::new())),
        sample(
            "append_response_accepted",
            appended(AppendOutcome::Accepted),
        ),
        sample("append_response_conflict", rejected(Some(Term(4)), 38)),
        sample("append_response_too_short", rejected(None, 46)),
        sample(
            "append_response_stale_term",
            appended(AppendOutcome::StaleTerm),
        ),
        sample(
            "install_snapshot_request",
            InstallSnapshotRequest {
                term: Term(7),
                sequence: 13,
                snapshot: snapshot(),
            },
        ),
        sample(
            "install_snapshot_response_fetching",
            installed(InstallOutcome::Fetching {
                received_bytes: 65_536,
            }),
        ),
        sample(
            "install_snapshot_response_installed",
            installed(InstallOutcome::Installed),
        ),
        sample(
            "install_snapshot_response_refused",
            installed(InstallOutcome::Refused),
        ),
    ]
}

fn bulk() -> Vec<Sample> {
    vec![
        sample(
            "fetch_snapshot_request",
            FetchSnapshotRequest {
                term: Term(7),
                last_included: position(41, 5),
                offset: 65_536,
                max_bytes: 1 << 16,
            },
        ),
        sample(
            "fetch_snapshot_response",
            FetchSnapshotResponse {
                term: Term(7),
                last_included: position(41, 5),
                offset: 65_536,
                total_bytes: 65_541,
                checksum: 0x3610_a686,
                data: Bytes::from_static(b"hello"),
            },
        ),
        sample(
            "fetch_entries_request",
            FetchEntriesRequest {
                term: Term(7),
                wanted: vec![position(42, 5), position(43, 7), position(44, 7)],
                max_bytes: 1 << 16,
            },
        ),
        sample(
            "fetch_entries_response",
            FetchEntriesResponse {
                term: Term(7),
                entries: vec![entry(42, 5, EntryKind::Command, b"x=1")],
                never_had: vec![position(43, 7)],
                unavailable: vec![position(44, 7)],
            },
        ),
    ]
}

fn repair() -> Vec<Sample> {
    let boot = Boot {
        counter: 5,
        nonce: 0x99aa_bbcc_ddee_ff00,
    };
    let entry = position(42, 7);
    vec![
        sample(
            "describe_snapshot_request",
            DescribeSnapshotRequest {
                term: Term(7),
                at_least: LogIndex(40),
                committed: position(41, 5),
            },
        ),
        sample(
            "describe_snapshot_response",
            DescribeSnapshotResponse {
                term: Term(7),
                snapshot: Some(snapshot()),
            },
        ),
        sample(
            "describe_snapshot_response_none",
            DescribeSnapshotResponse {
                term: Term(7),
                snapshot: None,
            },
        ),
        Sample {
            name: "recount_request",
            uncounted: true,
            message: RecountRequest {
                term: Term(7),
                boot,
            }
            .into(),
        },
        sample(
            "recount_offer",
            RecountOffer {
                term: Term(7),
                boot,
                entry,
            },
        ),
        sample(
            "recount_response",
            RecountResponse {
                term: Term(7),
                boot,
                entry,
            },
        ),
        sample(
            "comparison_report",
            ComparisonReport {
                entry,
                state: Some(0x0123_4567_89ab_cdef),
                sections: vec![Some(0xfedc_ba98_7654_3210), None, Some(7)],
            },
        ),
        sample(
            "comparison_report_nothing",
            ComparisonReport {
                entry,
                state: None,
                sections: Vec::new(),
            },
        ),
    ]
}

fn snapshot() -> SnapshotDescription {
    SnapshotDescription {
        last_included: position(41, 5),
        membership: joint(),
        total_bytes: 1 << 20,
        checksum: 0xcafe_f00d,
    }
}
