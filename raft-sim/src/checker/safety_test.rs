//! Histories that the safety checker must refuse, one per property.

use raft_proto::{EntryKind, Member};

use super::*;

struct World {
    checker: SafetyChecker,
    membership: Membership,
}

fn entry(index: u64, term: u64, payload: &'static str) -> Entry {
    Entry {
        index: LogIndex(index),
        term: Term(term),
        kind: EntryKind::Command,
        payload: payload.into(),
    }
}

fn append(entries: &[Entry]) -> LogWrite {
    LogWrite {
        entries: entries.to_vec(),
        ..LogWrite::default()
    }
}

/// A start without a snapshot.
fn start(hard_state: HardState, terms: Vec<Term>) -> StartView {
    StartView {
        hard_state,
        mark: LogIndex::ZERO,
        terms,
        snapshot: None,
    }
}

fn change(write: &LogWrite) -> LogChange {
    LogChange::Write {
        install: None,
        write: write.clone(),
    }
}

impl World {
    /// Three nodes with one common entry, 1@1.
    fn new() -> Self {
        let member = |id: u64| Member {
            incarnation: None,
            address: format!("n{id}:1"),
        };
        let mut world = Self {
            checker: SafetyChecker::new(),
            membership: Membership::of_voters((1..=3).map(|id| (NodeId(id), member(id)))),
        };
        for node in 1..=3 {
            world.durable(node, &append(&[entry(1, 1, "a")])).unwrap();
        }
        world
    }

    fn durable(&mut self, node: u64, write: &LogWrite) -> Result<(), Violation> {
        self.checker.durable(NodeId(node), &change(write))
    }

    fn observe(
        &mut self,
        node: u64,
        role: Role,
        term: u64,
        commit: u64,
        log: &[u64],
    ) -> Result<(), Violation> {
        let term_at = |index: LogIndex| log.get(index.0 as usize - 1).copied().map(Term);
        self.checker.observe(&NodeView {
            id: NodeId(node),
            role,
            term: Term(term),
            base_index: LogIndex::ZERO,
            applied_index: LogIndex::ZERO,
            commit_index: LogIndex(commit),
            last_index: LogIndex(log.len() as u64),
            term_at: &term_at,
            membership: &self.membership,
            membership_index: LogIndex(1),
            memberships_after: &|_| 0,
        })
    }
}

#[test]
fn an_orderly_history_is_accepted() {
    let mut world = World::new();
    world.observe(1, Role::Leader, 2, 1, &[1]).unwrap();
    for node in [1, 2] {
        world.durable(node, &append(&[entry(2, 2, "b")])).unwrap();
    }
    world.observe(1, Role::Leader, 2, 2, &[1, 2]).unwrap();
    let both = [entry(1, 1, "a"), entry(2, 2, "b")];
    for applied in &both {
        world.checker.applied(NodeId(1), applied).unwrap();
    }
    world.observe(2, Role::Leader, 3, 2, &[1, 2]).unwrap();
    assert_eq!(world.checker.committed(), LogIndex(2));
}

#[test]
fn two_leaders_of_one_term_are_refused() {
    let mut world = World::new();
    world.observe(1, Role::Leader, 2, 0, &[1]).unwrap();
    world.observe(2, Role::Leader, 3, 0, &[1]).unwrap();
    let error = world.observe(3, Role::Leader, 2, 0, &[1]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "election safety: n1 and n3 both lead term 2"
    );
}

#[test]
fn a_leader_that_shortens_its_log_is_refused() {
    let mut world = World::new();
    world.observe(1, Role::Leader, 2, 0, &[1, 2]).unwrap();
    let error = world.observe(1, Role::Leader, 2, 0, &[1]).unwrap_err();
    assert!(matches!(error, Violation::LeaderLogShrank { .. }));
}

#[test]
fn another_entry_or_another_past_at_the_same_position_is_refused() {
    let mut world = World::new();
    world.durable(1, &append(&[entry(2, 2, "b")])).unwrap();
    let other = world.durable(2, &append(&[entry(2, 2, "c")])).unwrap_err();
    assert!(matches!(other, Violation::LogMismatch { .. }));

    let mut world = World::new();
    let path = [entry(2, 2, "b"), entry(3, 4, "d")];
    world.durable(1, &append(&path)).unwrap();
    let detour = [entry(2, 3, "c"), entry(3, 4, "d")];
    let error = world.durable(2, &append(&detour)).unwrap_err();
    assert!(matches!(error, Violation::LogMismatch { .. }));
}

#[test]
fn a_leader_without_a_committed_entry_is_refused() {
    let mut world = World::new();
    for node in [1, 2] {
        world.durable(node, &append(&[entry(2, 2, "b")])).unwrap();
    }
    world.observe(1, Role::Leader, 2, 2, &[1, 2]).unwrap();
    let error = world.observe(3, Role::Leader, 3, 0, &[1]).unwrap_err();
    assert!(matches!(
        error,
        Violation::LeaderIncomplete {
            index: LogIndex(2),
            ..
        }
    ));
}

#[test]
fn a_late_leader_of_an_older_term_need_not_be_complete() {
    let mut world = World::new();
    for node in [1, 2] {
        world.durable(node, &append(&[entry(2, 4, "b")])).unwrap();
    }
    world.observe(1, Role::Leader, 4, 2, &[1, 4]).unwrap();
    world.observe(3, Role::Leader, 3, 0, &[1]).unwrap();
}

#[test]
fn a_commit_needs_a_durable_quorum() {
    let mut world = World::new();
    world.durable(2, &append(&[entry(2, 2, "b")])).unwrap();
    // The leader has it in memory only.
    let error = world.observe(1, Role::Leader, 2, 2, &[1, 2]).unwrap_err();
    let holders = vec![NodeId(2)];
    assert!(matches!(error, Violation::CommitWithoutQuorum { holders: h, .. } if h == holders));
}

#[test]
fn a_leader_that_counts_an_earlier_terms_entry_is_refused() {
    let mut world = World::new();
    for node in [1, 2] {
        world.durable(node, &append(&[entry(2, 2, "b")])).unwrap();
    }
    world.observe(1, Role::Leader, 4, 1, &[1, 2, 4]).unwrap();
    let error = world.observe(1, Role::Leader, 4, 2, &[1, 2, 4]);
    assert!(matches!(error, Err(Violation::CommittedEarlierTerm { .. })));
}

#[test]
fn different_commits_are_refused() {
    let mut world = World::new();
    for node in [1, 2] {
        world.durable(node, &append(&[entry(2, 2, "b")])).unwrap();
    }
    world.observe(1, Role::Leader, 2, 2, &[1, 2]).unwrap();
    let error = world.observe(3, Role::Follower, 3, 2, &[1, 3]).unwrap_err();
    assert!(matches!(error, Violation::CommitMismatch { .. }));
}

#[test]
fn commits_beyond_the_log_and_falling_numbers_are_refused() {
    let mut world = World::new();
    let error = world.observe(1, Role::Follower, 2, 2, &[1]).unwrap_err();
    assert!(matches!(error, Violation::CommitBeyondLog { .. }));
    world.observe(1, Role::Follower, 2, 1, &[1]).unwrap();
    for (term, commit) in [(1, 1), (2, 0)] {
        let error = world.observe(1, Role::Follower, term, commit, &[1]);
        assert!(matches!(error, Err(Violation::WentBack { .. })));
    }
}

#[test]
fn truncating_what_is_committed_is_refused() {
    let mut world = World::new();
    world.observe(1, Role::Follower, 2, 1, &[1]).unwrap();
    let truncation = LogWrite {
        truncate_from: Some(LogIndex(1)),
        ..LogWrite::default()
    };
    for node in [1, 2] {
        let error = world.durable(node, &truncation).unwrap_err();
        assert!(matches!(error, Violation::TruncatedCommitted { .. }));
    }
    // What others have committed at that place may replace something else.
    world.durable(3, &append(&[entry(2, 2, "lost")])).unwrap();
    for node in [1, 2] {
        world.durable(node, &append(&[entry(2, 3, "b")])).unwrap();
    }
    world.observe(1, Role::Leader, 3, 2, &[1, 3]).unwrap();
    let replacement = LogWrite {
        truncate_from: Some(LogIndex(2)),
        ..append(&[entry(2, 3, "b")])
    };
    world.durable(3, &replacement).unwrap();
}

#[test]
fn a_vote_is_given_once_in_a_term() {
    let mut world = World::new();
    let vote = |term, vote: Option<u64>| LogWrite {
        hard_state: Some(HardState {
            term: Term(term),
            vote: vote.map(NodeId),
        }),
        ..LogWrite::default()
    };
    world.durable(1, &vote(2, None)).unwrap();
    world.durable(1, &vote(2, Some(3))).unwrap();
    let error = world.durable(1, &vote(2, Some(2))).unwrap_err();
    assert!(matches!(error, Violation::VotedTwice { .. }));
    world.durable(1, &vote(3, Some(2))).unwrap();
    let error = world.durable(1, &vote(2, Some(2))).unwrap_err();
    assert!(matches!(error, Violation::WentBack { .. }));
}

#[test]
fn entries_are_applied_in_order_and_as_committed() {
    let mut world = World::new();
    world.observe(1, Role::Follower, 2, 1, &[1]).unwrap();
    let applied = |world: &mut World, entry| world.checker.applied(NodeId(1), &entry);
    assert!(applied(&mut world, entry(2, 2, "b")).is_err());
    assert!(applied(&mut world, entry(1, 1, "x")).is_err());
    applied(&mut world, entry(1, 1, "a")).unwrap();
    assert!(applied(&mut world, entry(1, 1, "a")).is_err());
}

#[test]
fn after_a_crash_the_durable_state_is_there_and_what_was_under_way_may_be() {
    let state = |term| HardState {
        term: Term(term),
        vote: None,
    };
    let write = LogWrite {
        hard_state: Some(state(3)),
        truncate_from: Some(LogIndex(2)),
        entries: vec![entry(2, 3, "x"), entry(3, 3, "y")],
        ..LogWrite::default()
    };
    let cases: [(u64, &[u64], bool); 7] = [
        (0, &[1, 1, 1], true),
        (3, &[1, 3, 3], true),
        (3, &[1, 3], true),
        (0, &[1, 1], false),
        (2, &[1, 3, 3], false),
        (3, &[3], false),
        (3, &[1, 3, 3, 3], false),
    ];
    for (term, log, is_fine) in cases {
        let mut world = World::new();
        let more = [entry(2, 1, "b"), entry(3, 1, "c")];
        world.durable(1, &append(&more)).unwrap();
        world.checker.stopped(NodeId(1), vec![change(&write)]);
        let terms = log.iter().copied().map(Term).collect();
        let view = start(state(term), terms);
        let outcome = world.checker.started(NodeId(1), view);
        assert_eq!(outcome.is_ok(), is_fine, "{term} {log:?}");
    }
}

#[test]
fn what_survived_a_crash_may_be_committed_and_applied() {
    let mut world = World::new();
    let write = append(&[entry(2, 2, "b")]);
    for node in [1, 2] {
        world.checker.stopped(NodeId(node), vec![change(&write)]);
        let terms = vec![Term(1), Term(2)];
        world
            .checker
            .started(NodeId(node), start(HardState::default(), terms))
            .unwrap();
    }
    world.observe(1, Role::Leader, 3, 2, &[1, 2]).unwrap();
    for applied in [entry(1, 1, "a"), entry(2, 2, "b")] {
        world.checker.applied(NodeId(1), &applied).unwrap();
    }
}

fn at(index: u64, term: u64) -> LogPosition {
    LogPosition {
        index: LogIndex(index),
        term: Term(term),
    }
}

/// Entries 1@1, 2@2 and 3@2 are committed; node 3 has entry 2 of another term.
fn three_committed() -> World {
    let mut world = World::new();
    let more = [entry(2, 2, "b"), entry(3, 2, "c")];
    for node in [1, 2] {
        world.durable(node, &append(&more)).unwrap();
    }
    world.durable(3, &append(&[entry(2, 1, "x")])).unwrap();
    world.observe(1, Role::Leader, 2, 3, &[1, 2, 2]).unwrap();
    world
}

fn install(world: &mut World, position: LogPosition) -> Result<(), Violation> {
    let install = LogChange::Write {
        install: Some(position),
        write: LogWrite::default(),
    };
    world.checker.durable(NodeId(3), &install)
}

#[test]
fn a_log_is_given_up_only_behind_a_durable_snapshot_of_what_is_committed() {
    let mut world = three_committed();
    let compact = LogChange::Compact(at(2, 2));
    let early = world.checker.durable(NodeId(1), &compact).unwrap_err();
    assert!(matches!(early, Violation::Uncovered { .. }), "{early}");
    let foreign = world.checker.snapshot_stored(NodeId(1), at(2, 1));
    let foreign = foreign.unwrap_err();
    assert!(
        matches!(foreign, Violation::NotCommitted { .. }),
        "{foreign}"
    );
    world.checker.snapshot_stored(NodeId(1), at(3, 2)).unwrap();
    world.checker.durable(NodeId(1), &compact).unwrap();
}

#[test]
fn an_installation_replaces_a_log_that_ends_or_differs_before_it() {
    let mut world = three_committed();
    let early = install(&mut world, at(3, 2)).unwrap_err();
    assert!(matches!(early, Violation::Uncovered { .. }), "{early}");
    world.checker.snapshot_stored(NodeId(3), at(3, 2)).unwrap();
    install(&mut world, at(3, 2)).unwrap();
    world.checker.restored(NodeId(3), at(3, 2)).unwrap();
    let back = world.checker.restored(NodeId(3), at(2, 2)).unwrap_err();
    assert!(matches!(back, Violation::WentBack { .. }), "{back}");
    world.durable(3, &append(&[entry(4, 2, "d")])).unwrap();
    // A log that holds what is committed behind the snapshot must keep it.
    let mut world = three_committed();
    world.checker.snapshot_stored(NodeId(3), at(2, 2)).unwrap();
    world
        .durable(
            3,
            &LogWrite {
                truncate_from: Some(LogIndex(2)),
                entries: vec![entry(2, 2, "b"), entry(3, 2, "c")],
                ..LogWrite::default()
            },
        )
        .unwrap();
    let lost = install(&mut world, at(2, 2)).unwrap_err();
    assert!(
        matches!(lost, Violation::TruncatedCommitted { .. }),
        "{lost}"
    );
}

#[test]
fn a_received_snapshot_is_installed_at_the_start_only_over_a_log_without_its_end() {
    let installed = |term: u64| StartView {
        hard_state: HardState {
            term: Term(term),
            vote: None,
        },
        mark: LogIndex(3),
        terms: Vec::new(),
        snapshot: Some(at(3, 2)),
    };
    let mut world = three_committed();
    world.checker.snapshot_stored(NodeId(3), at(3, 2)).unwrap();
    world.checker.started(NodeId(3), installed(2)).unwrap();
    let mut world = three_committed();
    world.checker.snapshot_stored(NodeId(3), at(3, 2)).unwrap();
    let raised = world.checker.started(NodeId(3), installed(9)).unwrap_err();
    assert!(matches!(raised, Violation::LostDurable { .. }), "{raised}");
    // Node 1 has the entry in its log: nothing may be thrown away.
    let mut world = three_committed();
    world.checker.snapshot_stored(NodeId(1), at(3, 2)).unwrap();
    let lost = world.checker.started(NodeId(1), installed(0)).unwrap_err();
    assert!(matches!(lost, Violation::LostDurable { .. }), "{lost}");
}

#[test]
fn equal_entries_give_equal_states() {
    let mut checker = SafetyChecker::new();
    checker.state_seen(NodeId(1), LogIndex(7), 42).unwrap();
    checker.state_seen(NodeId(2), LogIndex(7), 42).unwrap();
    checker.state_seen(NodeId(2), LogIndex(8), 43).unwrap();
    let error = checker.state_seen(NodeId(3), LogIndex(7), 43).unwrap_err();
    assert!(matches!(error, Violation::StateDiverged { .. }), "{error}");
}
