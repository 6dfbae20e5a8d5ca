//! The rules of the paper and the dissertation, one test each, cited by section.

mod support;

use raft_core::{Event, ProposeError, ReadId, Role};
use raft_proto::{
    AppendOutcome, AppendRequest, Entry, EntryKind, HardState, Heartbeat, LogIndex, LogPosition,
    Message, NodeId, Term, VoteRequest,
};
use support::{Cluster, Envelope};

fn envelope(from: u64, to: u64, message: impl Into<Message>) -> Envelope {
    Envelope {
        from: NodeId(from),
        to: NodeId(to),
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

fn entries(positions: &[(u64, u64)]) -> Vec<Entry> {
    let entry = |&(index, term): &(u64, u64)| Entry {
        index: LogIndex(index),
        term: Term(term),
        kind: EntryKind::Command,
        payload: bytes::Bytes::new(),
    };
    positions.iter().map(entry).collect()
}

fn append(term: u64, previous: LogPosition, sent: &[(u64, u64)], commit: u64) -> AppendRequest {
    AppendRequest {
        term: Term(term),
        sequence: 1,
        previous,
        commit_index: LogIndex(commit),
        entries: entries(sent),
    }
}

fn vote(term: u64, last_log: LogPosition) -> VoteRequest {
    VoteRequest {
        term: Term(term),
        last_log,
        leadership_transfer: false,
    }
}

/// Delivers a made-up message, makes everything durable, and returns what the node sent.
fn inject(cluster: &mut Cluster, message: Envelope) -> Vec<Message> {
    cluster.invariants.injected(&message);
    cluster.network.clear();
    cluster.deliver(&message);
    while cluster.persist_one(message.to).is_some() {}
    let sent = std::mem::take(&mut cluster.network);
    sent.into_iter().map(|envelope| envelope.message).collect()
}

fn grants(sent: &[Message]) -> Option<bool> {
    sent.iter().find_map(|message| {
        let Message::VoteResponse(response) = message else {
            return None;
        };
        Some(response.granted)
    })
}

fn outcome(sent: &[Message]) -> Option<&AppendOutcome> {
    sent.iter().find_map(|message| {
        let Message::AppendResponse(response) = message else {
            return None;
        };
        Some(&response.outcome)
    })
}

/// Sets a node's log to entries of these terms from index 2 on.
fn set_log(cluster: &mut Cluster, id: u64, terms: &[u64], term: u64) {
    let positions: Vec<(u64, u64)> = (2..).zip(terms.iter().copied()).collect();
    let node = cluster.node(id);
    node.disk.entries.truncate(1);
    node.disk.entries.extend(entries(&positions));
    node.disk.hard_state = HardState {
        term: Term(term),
        vote: None,
    };
    cluster.invariants.node_wiped(NodeId(id));
    cluster.restart(id);
}

#[test]
fn s5_1_current_term_is_updated_by_any_later_term() {
    let mut cluster = Cluster::new(3, |_| {});
    inject(&mut cluster, envelope(2, 1, vote(7, position(1, 1))));
    assert_eq!(cluster.node(1).core.term(), Term(7));
    assert_eq!(cluster.node(1).disk.hard_state.term, Term(7));
}

#[test]
fn s5_1_a_leader_of_an_earlier_term_steps_down() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.elect(1);
    let heartbeat = Heartbeat {
        term: Term(9),
        round: 1,
        commit_index: LogIndex(0),
    };
    inject(&mut cluster, envelope(2, 1, heartbeat));
    assert_eq!(cluster.node(1).core.role(), Role::Follower);
    assert_eq!(cluster.node(1).core.leader(), Some(NodeId(2)));
}

#[test]
fn s5_1_requests_of_earlier_terms_are_refused() {
    let mut cluster = Cluster::new(3, |_| {});
    set_log(&mut cluster, 1, &[], 5);
    let sent = inject(
        &mut cluster,
        envelope(2, 1, append(4, position(1, 1), &[(2, 4)], 0)),
    );
    assert_eq!(outcome(&sent), Some(&AppendOutcome::StaleTerm));
    let sent = inject(&mut cluster, envelope(2, 1, vote(4, position(9, 4))));
    assert_eq!(grants(&sent), Some(false));
    assert_eq!(cluster.node(1).last(), position(1, 1));
}

#[test]
fn s5_2_a_cluster_elects_one_leader_and_keeps_it() {
    for size in [1, 2, 3, 5] {
        let mut cluster = Cluster::new(size, |_| {});
        cluster.run_for(2_000);
        let leader = cluster.leader().expect("a leader within two seconds");
        let term = cluster.nodes[&leader].core.term();
        cluster.run_for(5_000);
        assert_eq!(cluster.leader(), Some(leader));
        assert_eq!(cluster.nodes[&leader].core.term(), term);
        cluster.propose(leader.0, "x");
        cluster.run_for(500);
        for node in cluster.nodes.values() {
            assert_eq!(node.core.commit_index(), node.last().index);
        }
    }
}

#[test]
fn s5_2_a_follower_without_a_leader_becomes_candidate() {
    let mut cluster = Cluster::new(3, |_| {});
    let deadline = cluster.node(1).core.poll_timeout().unwrap();
    let config = cluster.node(1).core.config().clone();
    assert!(deadline.as_ms() >= config.election_timeout_ms_min);
    assert!(deadline.as_ms() < config.election_timeout_ms_max);
    cluster.campaign(1);
    cluster.settle();
    assert_eq!(cluster.node(1).core.term(), Term(2));
    assert_eq!(cluster.node(1).core.role(), Role::Leader);
}

#[test]
fn s5_2_votes_are_first_come_first_served_and_survive_a_restart() {
    let mut cluster = Cluster::new(3, |_| {});
    let last = position(1, 1);
    assert_eq!(
        grants(&inject(&mut cluster, envelope(2, 1, vote(2, last)))),
        Some(true)
    );
    assert_eq!(
        grants(&inject(&mut cluster, envelope(3, 1, vote(2, last)))),
        Some(false)
    );
    cluster.restart(1);
    assert_eq!(
        grants(&inject(&mut cluster, envelope(3, 1, vote(2, last)))),
        Some(false)
    );
    assert_eq!(
        grants(&inject(&mut cluster, envelope(2, 1, vote(2, last)))),
        Some(true)
    );
}

#[test]
fn s5_2_a_candidate_follows_the_leader_of_its_term() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.campaign(1);
    cluster.settle_if(|e| !matches!(e.message, Message::VoteRequest(_)));
    assert_eq!(cluster.node(1).core.role(), Role::Candidate);
    inject(
        &mut cluster,
        envelope(2, 1, append(2, position(1, 1), &[], 0)),
    );
    assert_eq!(cluster.node(1).core.role(), Role::Follower);
    assert_eq!(cluster.node(1).core.leader(), Some(NodeId(2)));
}

#[test]
fn s5_2_election_timeouts_differ_between_nodes_and_draws() {
    let mut cluster = Cluster::new(7, |_| {});
    let mut deadlines = std::collections::BTreeSet::new();
    for id in 1..=7 {
        deadlines.insert(cluster.node(id).core.poll_timeout());
    }
    assert_eq!(
        deadlines.len(),
        7,
        "nodes with one seed draw different timeouts"
    );
    for _ in 0..10 {
        cluster.restart(1);
        deadlines.insert(cluster.node(1).core.poll_timeout());
    }
    assert_eq!(deadlines.len(), 17, "each boot draws anew");
}

/// Students' Guide: the election timer is reset by the current leader's messages, by granting a
/// vote, and by campaigning; not by messages of earlier terms or by refusing a vote.
#[test]
fn guide_three_reasons_reset_the_election_timer() {
    let mut cluster = Cluster::new(3, |_| {});
    set_log(&mut cluster, 1, &[3], 4);
    let deadline = |cluster: &mut Cluster| cluster.node(1).core.poll_timeout();
    let before = deadline(&mut cluster);
    cluster.now = cluster.now.plus_ms(100);
    inject(
        &mut cluster,
        envelope(2, 1, append(3, position(1, 1), &[], 0)),
    );
    inject(&mut cluster, envelope(2, 1, vote(5, position(1, 1))));
    assert_eq!(deadline(&mut cluster), before, "neither resets it");
    inject(&mut cluster, envelope(3, 1, vote(6, position(9, 5))));
    let after_vote = deadline(&mut cluster);
    assert!(after_vote > before, "a granted vote resets it");
    cluster.now = cluster.now.plus_ms(150);
    inject(
        &mut cluster,
        envelope(3, 1, append(6, position(1, 1), &[], 0)),
    );
    assert!(deadline(&mut cluster) > after_vote, "the leader resets it");
}

#[test]
fn s5_3_the_consistency_check_refuses_what_does_not_follow() {
    let mut cluster = Cluster::new(3, |_| {});
    set_log(&mut cluster, 1, &[1, 2, 2], 2);
    let refused = |sent: &[Message]| match outcome(sent) {
        Some(AppendOutcome::Rejected {
            conflict_term,
            conflict_index,
            last_index,
        }) => Some((conflict_term.map(|t| t.0), conflict_index.0, last_index.0)),
        Some(AppendOutcome::Accepted | AppendOutcome::StaleTerm) | None => None,
    };
    let sent = inject(
        &mut cluster,
        envelope(2, 1, append(3, position(6, 2), &[(7, 3)], 0)),
    );
    assert_eq!(refused(&sent), Some((None, 5, 4)), "too far");
    let sent = inject(
        &mut cluster,
        envelope(2, 1, append(3, position(4, 3), &[(5, 3)], 0)),
    );
    assert_eq!(refused(&sent), Some((Some(2), 3, 4)), "another term");
    let sent = inject(
        &mut cluster,
        envelope(2, 1, append(3, position(2, 1), &[(3, 3)], 0)),
    );
    assert_eq!(outcome(&sent), Some(&AppendOutcome::Accepted));
    assert_eq!(cluster.node(1).last(), position(3, 3));
}

#[test]
fn s5_3_only_conflicting_entries_are_removed() {
    let mut cluster = Cluster::new(3, |_| {});
    set_log(&mut cluster, 1, &[1, 1, 1], 1);
    inject(
        &mut cluster,
        envelope(2, 1, append(2, position(1, 1), &[(2, 1)], 0)),
    );
    assert_eq!(
        cluster.node(1).last(),
        position(4, 1),
        "a prefix removes nothing"
    );
    inject(
        &mut cluster,
        envelope(2, 1, append(2, position(2, 1), &[(3, 2)], 0)),
    );
    assert_eq!(
        cluster.node(1).last(),
        position(3, 2),
        "a conflict removes all after it"
    );
}

#[test]
fn s5_3_a_leader_never_changes_its_own_log() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.elect(1);
    cluster.propose(1, "a");
    let before = cluster.node(1).log.clone();
    inject(
        &mut cluster,
        envelope(2, 1, append(2, position(1, 1), &[(2, 2)], 0)),
    );
    assert_eq!(cluster.node(1).log, before);
    assert_eq!(cluster.node(1).core.role(), Role::Leader);
    let accused = cluster
        .events(1)
        .into_iter()
        .any(|event| matches!(event, Event::PeerViolated { peer, .. } if peer == NodeId(2)));
    assert!(accused);
}

#[test]
fn s5_3_followers_apply_up_to_the_leaders_commit_index() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.elect(1);
    cluster.propose(1, "a");
    cluster.settle();
    assert_eq!(cluster.node(1).core.commit_index(), LogIndex(3));
    assert_eq!(cluster.node(2).core.commit_index(), LogIndex(2));
    cluster.run_for(150);
    assert_eq!(cluster.node(2).core.commit_index(), LogIndex(3));
    assert_eq!(cluster.node(2).applied.len(), 3);
}

#[test]
fn s5_4_1_votes_go_to_logs_that_are_at_least_as_up_to_date() {
    let ask = |last_log: LogPosition| {
        let mut cluster = Cluster::new(3, |_| {});
        set_log(&mut cluster, 1, &[2, 2, 3], 3);
        grants(&inject(&mut cluster, envelope(2, 1, vote(4, last_log))))
    };
    assert_eq!(ask(position(4, 3)), Some(true), "equal");
    assert_eq!(ask(position(5, 3)), Some(true), "longer");
    assert_eq!(ask(position(2, 4)), Some(true), "shorter with a later term");
    assert_eq!(ask(position(3, 3)), Some(false), "shorter");
    assert_eq!(
        ask(position(9, 2)),
        Some(false),
        "longer with an earlier term"
    );
}

#[test]
fn s5_4_2_only_entries_of_the_current_term_are_committed_by_counting() {
    let mut cluster = Cluster::new(3, |config| config.max_append_bytes = 1);
    for id in 1..=3 {
        set_log(&mut cluster, id, &[1, 1], 1);
    }
    cluster.now = cluster.now.plus_ms(1_000);
    cluster.campaign(1);
    // Elected; nothing that carries the new term's first entry arrives.
    let is_not_append = |e: &Envelope| !matches!(e.message, Message::AppendRequest(_));
    cluster.settle_if(is_not_append);
    assert_eq!(cluster.node(1).core.role(), Role::Leader);
    assert_eq!(
        cluster.node(1).core.commit_index(),
        LogIndex(0),
        "all have entries 1 to 3"
    );
    cluster.run_for(500);
    assert_eq!(cluster.node(1).core.commit_index(), LogIndex(4));
}

#[test]
fn s5_5_a_crashed_follower_catches_up() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.elect(1);
    cluster.node(3).crash(0);
    for payload in ["a", "b", "c"] {
        cluster.propose(1, payload);
        cluster.settle();
    }
    cluster.restart(3);
    cluster.run_for(1_000);
    let log = cluster.node(1).log.clone();
    assert_eq!(cluster.node(3).log, log);
}

#[test]
fn s5_5_requests_are_idempotent() {
    let mut cluster = Cluster::new(3, |_| {});
    let request = append(2, position(1, 1), &[(2, 2), (3, 2)], 2);
    inject(&mut cluster, envelope(2, 1, request.clone()));
    let log = cluster.node(1).log.clone();
    let sent = inject(&mut cluster, envelope(2, 1, request));
    assert_eq!(outcome(&sent), Some(&AppendOutcome::Accepted));
    assert_eq!(cluster.node(1).log, log);
}

#[test]
fn s5_6_timing_a_leader_sends_heartbeats_well_within_election_timeouts() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.elect(1);
    let config = cluster.node(1).core.config().clone();
    let next = cluster.node(1).core.poll_timeout().unwrap();
    assert!(next.ms_since(cluster.now) <= config.heartbeat_interval_ms);
    // MIT 6.824 "count": an idle second of three nodes takes at most 60 messages.
    let sent = std::cell::Cell::new(0);
    cluster.run_for_if(1_000, |_| {
        sent.set(sent.get() + 1);
        true
    });
    assert!(
        sent.get() <= 60,
        "{} messages in an idle second",
        sent.get()
    );
}

/// MIT 6.824 "count": an election takes at most 30 messages, ten entries at most 42.
#[test]
fn s5_6_messages_are_few() {
    let mut cluster = Cluster::new(3, |_| {});
    let sent = std::cell::Cell::new(0);
    let count = |_: &Envelope| {
        sent.set(sent.get() + 1);
        true
    };
    cluster.campaign(1);
    cluster.settle_if(count);
    assert!(sent.get() <= 30, "{} messages for an election", sent.get());
    sent.set(0);
    for number in 0..10 {
        cluster.propose(1, &number.to_string());
    }
    cluster.settle_if(count);
    assert!(sent.get() <= 42, "{} messages for ten entries", sent.get());
    assert_eq!(cluster.node(1).core.commit_index(), LogIndex(12));
}

#[test]
fn s8_a_new_leader_appends_an_empty_entry() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.elect(1);
    let first = cluster.node(1).log[1].clone();
    assert_eq!((first.kind, first.term), (EntryKind::Noop, Term(2)));
}

#[test]
fn s8_followers_name_the_leader_to_clients() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.elect(1);
    let now = cluster.now;
    let refused = cluster.node(2).core.propose(now, 1);
    let leader = Some(NodeId(1));
    assert_eq!(refused, Err(ProposeError::NotLeader { leader }));
}

#[test]
fn s8_reads_wait_for_the_first_commit_of_the_term_and_a_majority() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.campaign(1);
    cluster.settle_if(|e| !matches!(e.message, Message::AppendRequest(_)));
    let now = cluster.now;
    cluster.node(1).core.read_index(now, ReadId(1)).unwrap();
    cluster.collect(NodeId(1));
    cluster.settle_if(|e| !matches!(e.message, Message::AppendRequest(_)));
    let is_ready = |event: &Event| matches!(event, Event::ReadReady { .. });
    assert!(!cluster.events(1).iter().any(is_ready));
    cluster.run_for(500);
    let events = cluster.events(1);
    let ready = Event::ReadReady {
        id: ReadId(1),
        index: LogIndex(2),
    };
    assert!(events.contains(&ready), "{events:?}");
}

#[test]
fn thesis_9_6_pre_vote_moves_no_term() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.elect(1);
    // Node 3 is cut off for ten seconds, then back.
    let alone = |e: &Envelope| e.from != NodeId(3) && e.to != NodeId(3);
    cluster.run_for_if(10_000, alone);
    assert_eq!(cluster.node(3).core.term(), Term(2));
    cluster.run_for(1_000);
    assert_eq!(cluster.leader(), Some(NodeId(1)));
    assert_eq!(cluster.node(1).core.term(), Term(2));
    assert_eq!(cluster.node(3).core.leader(), Some(NodeId(1)));
}

/// A node that sends but cannot receive disturbs nobody.
#[test]
fn thesis_9_6_a_deaf_node_disturbs_nobody() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.elect(1);
    cluster.run_for_if(10_000, |e| e.to != NodeId(3));
    assert_eq!(cluster.leader(), Some(NodeId(1)));
    assert_eq!(cluster.node(1).core.term(), Term(2));
}

/// A partial partition: followers 2 and 3 cannot talk, both hear the leader.
#[test]
fn thesis_9_6_a_partial_partition_keeps_the_leader() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.elect(1);
    cluster.run_for_if(10_000, |e| e.from.0 + e.to.0 != 5);
    assert_eq!(cluster.leader(), Some(NodeId(1)));
    assert_eq!(cluster.node(1).core.term(), Term(2));
    // The link between 1 and 3 breaks as well: 3 alone is cut off, 1 and 2 go on.
    cluster.run_for_if(5_000, |e| e.from != NodeId(3) && e.to != NodeId(3));
    assert_eq!(cluster.node(1).core.term(), Term(2));
}

#[test]
fn thesis_6_2_a_leader_without_a_quorum_steps_down() {
    let mut cluster = Cluster::new(5, |_| {});
    cluster.elect(1);
    let cut = |e: &Envelope| (e.from.0 <= 2) == (e.to.0 <= 2);
    cluster.run_for_if(2_000, cut);
    assert_ne!(cluster.node(1).core.role(), Role::Leader);
    let leader = cluster.leader().expect("the majority elects another");
    assert!(leader.0 > 2);
    cluster.run_for(2_000);
    assert_eq!(
        cluster.leader(),
        Some(leader),
        "the minority comes back quietly"
    );
}

/// A leader that can send but not receive would hold off elections with its heartbeats forever.
#[test]
fn thesis_6_2_a_deaf_leader_is_replaced() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.elect(1);
    cluster.run_for_if(3_000, |e| e.to != NodeId(1));
    let leader = cluster.leader().expect("a leader that hears");
    assert_ne!(leader, NodeId(1));
}

/// A bridge: 1 and 2 hear only 3, as do 4 and 5 on the other side; progress goes on through it.
#[test]
fn thesis_6_2_a_bridge_keeps_a_leader_with_a_quorum() {
    let mut cluster = Cluster::new(5, |_| {});
    cluster.elect(1);
    let side = |id: NodeId| match id.0 {
        1 | 2 => 1,
        3 => 0,
        _ => 2,
    };
    let bridged = |e: &Envelope| {
        let (a, b) = (side(e.from), side(e.to));
        a == b || a == 0 || b == 0
    };
    cluster.run_for_if(5_000, bridged);
    let leader = cluster.leader().expect("a leader");
    let index = cluster.propose(leader.0, "x");
    cluster.run_for_if(2_000, bridged);
    let leader = cluster.leader().expect("a leader");
    let node = cluster.node(leader.0);
    assert!(node.core.commit_index().0 >= index || node.core.term() > Term(2));
    cluster.run_for(3_000);
    let last = cluster.nodes[&cluster.leader().unwrap()].last();
    assert!(cluster.nodes.values().all(|node| node.last() == last));
}

#[test]
fn thesis_4_2_3_nodes_that_hear_from_a_leader_ignore_candidates() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.elect(1);
    let sent = inject(&mut cluster, envelope(3, 2, vote(9, position(9, 8))));
    assert_eq!(grants(&sent), None);
    assert_eq!(cluster.node(2).core.term(), Term(2));
    let sent = inject(&mut cluster, envelope(3, 1, vote(9, position(9, 8))));
    assert_eq!(grants(&sent), None);
    assert_eq!(cluster.node(1).core.role(), Role::Leader);
}

#[test]
fn thesis_3_10_transfer_takes_far_less_than_an_election_timeout() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.elect(1);
    let now = cluster.now;
    cluster
        .node(1)
        .core
        .transfer_leadership(now, NodeId(3))
        .unwrap();
    cluster.collect(NodeId(1));
    cluster.settle();
    assert_eq!(cluster.now, now, "no timer was needed");
    assert_eq!(cluster.leader(), Some(NodeId(3)));
    assert_eq!(cluster.node(3).core.term(), Term(3));
}

#[test]
fn thesis_10_2_1_appends_leave_before_the_leaders_own_write() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.elect(1);
    cluster.network.clear();
    cluster.propose(1, "a");
    let carries = |e: &Envelope| matches!(&e.message, Message::AppendRequest(request) if request.entries.len() == 1);
    assert_eq!(cluster.network.iter().filter(|e| carries(e)).count(), 2);
    assert_eq!(cluster.node(1).core.durable_index(), LogIndex(2));
}

/// What others have committed stays in the leader's memory until its own disk has it, so the limit
/// holds for that, too.
#[test]
fn a_leader_takes_on_no_more_than_its_own_disk_follows() {
    let mut cluster = Cluster::new(3, |config| {
        config.max_uncommitted_bytes = 1_000;
        config.max_entry_bytes = 100;
    });
    cluster.elect(1);
    cluster.settle();
    let refused = (0..100).find_map(|_| {
        let now = cluster.now;
        let refused = cluster.node(1).propose(now, "a").err();
        cluster.collect(NodeId(1));
        let others = [NodeId(2), NodeId(3)];
        while !cluster.network.is_empty()
            || others.iter().any(|id| cluster.persist_one(*id).is_some())
        {
            for envelope in std::mem::take(&mut cluster.network) {
                cluster.deliver(&envelope);
            }
        }
        refused
    });
    assert!(
        matches!(refused, Some(ProposeError::Overloaded { .. })),
        "{refused:?}"
    );
    assert_eq!(cluster.node(1).core.uncommitted_bytes(), 0);
    assert!(cluster.node(1).core.unsynced_bytes() > 900);
    while cluster.persist_one(NodeId(1)).is_some() {}
    assert_eq!(cluster.node(1).core.unsynced_bytes(), 0);
    let now = cluster.now;
    assert!(cluster.node(1).propose(now, "a").is_ok());
}

/// Failover with the default timers: from the leader's crash to the next leader's first commit.
#[test]
fn failover_is_fast() {
    let mut times = Vec::new();
    for seed in 0..101 {
        let mut cluster = Cluster::new(3, |config| config.seed = seed);
        cluster.run_for(3_000 + seed * 7);
        let leader = cluster.leader().expect("a leader");
        cluster.node(leader.0).crash(0);
        let crashed = cluster.now;
        let term = cluster.nodes[&leader].core.term();
        for _ in 0..5_000 {
            cluster.run_for(1);
            let is_new = |id: &NodeId| cluster.nodes[id].core.term() > term;
            if let Some(next) = cluster.leader().filter(is_new)
                && cluster.nodes[&next].core.commit_index() == cluster.nodes[&next].last().index
            {
                break;
            }
        }
        times.push(cluster.now.ms_since(crashed));
    }
    times.sort_unstable();
    let (median, worst) = (times[50], times[100]);
    assert!(median <= 400, "median failover of {median} ms");
    assert!(worst <= 1_500, "worst failover of {worst} ms");
}
