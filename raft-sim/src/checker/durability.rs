//! What was durable is there after a crash (§5.3, Figure 2; thesis §3.8), and what is committed is
//! never removed: an acknowledged write is durable on a quorum for good.
//!
//! A node comes back with its durable image, or with that of a write that was under way. Only one that
//! reports itself uncounted may have less: it counts for nothing until it holds what the others do.

use raft_proto::{LogIndex, LogPosition, NodeId};

use super::facts::{Facts, NodeFacts};
use super::image::{
    Image, LogChange, Standing, StartView, entries_of, images_of, is_expected, is_installed_late,
    terms_of,
};
use super::violation::Violation;

/// A node starts with what it found on its disk.
pub(super) fn started(facts: &mut Facts, node: NodeId, view: &StartView) -> Result<(), Violation> {
    let snapshot = view.snapshot.map_or(LogIndex::ZERO, |at| at.index);
    let mut terms = terms_of(&facts.chain, view.mark);
    terms.extend(&view.terms);
    let found = Image {
        hard_state: view.hard_state,
        mark: view.mark,
        terms,
    };
    let known = facts.nodes.entry(node).or_default();
    let is_newest = known.snapshot <= snapshot;
    let is_covered = view.mark <= snapshot;
    let is_expected = may_be_found(facts, node, &found, view.snapshot);
    let is_as_it_says = match view.standing {
        Standing::Counted => is_covered && is_newest && is_expected,
        Standing::SnapshotOlder => is_covered && is_expected,
        Standing::SnapshotLost => is_expected,
        Standing::Uncounted => true,
    };
    if !is_as_it_says {
        let known = facts.node(node);
        let (was, is) = (known.image.summary(), found.summary());
        let (stored, under_way) = (known.snapshot, &known.in_flight);
        let detail = format!(
            "it has {is} and a snapshot of {snapshot}, and had {was} and one of {stored}; \
             under way was {under_way:?}"
        );
        return Err(Violation::LostDurable { node, detail });
    }
    let in_flight = std::mem::take(&mut facts.node(node).in_flight);
    for entry in in_flight.iter().flat_map(entries_of) {
        if found.terms.get(entry.index.0 as usize - 1) == Some(&entry.term) {
            facts.entries.learn(node, entry, &found.terms)?;
        }
    }
    if view.standing == Standing::Uncounted {
        let known = facts.node(node).clone();
        let images = images_of(&facts.chain, &known.image, &in_flight);
        let lost = images.into_iter().map(|image| (node, image.terms));
        facts.former.extend(lost);
    }
    // What is before the log is committed, whether the node still has a snapshot of it or not.
    let applied = if view.mark <= snapshot {
        snapshot
    } else {
        LogIndex::ZERO
    };
    *facts.node(node) = NodeFacts {
        image: found,
        snapshot: snapshot.max(view.mark),
        applied,
        ..NodeFacts::default()
    };
    Ok(())
}

/// Whether a node may come back like that, by what was durable and what was under way.
fn may_be_found(facts: &Facts, node: NodeId, found: &Image, snapshot: Option<LogPosition>) -> bool {
    let Some(known) = facts.nodes.get(&node) else {
        return true;
    };
    if is_expected(&facts.chain, &known.image, &known.in_flight, found) {
        return true;
    }
    let lossy = known.without_what_is_lost();
    if lossy.as_ref() == Some(found) {
        return true;
    }
    // What was under way may have become durable before the snapshot was installed.
    let images = || images_of(&facts.chain, &known.image, &known.in_flight);
    snapshot.is_some_and(|position| {
        let mut images = images().into_iter().chain(lossy);
        images.any(|before| is_installed_late(&before, found, position))
    })
}

/// A change of a log became durable: nothing that is committed may go. If the first entry removed is
/// not the committed one, none after it is (§5.3). A node that has not heard of the term in which it was
/// committed was not needed for that: an append of an earlier leader, which is late, may still
/// replace its copy.
pub(super) fn check_removal(
    facts: &Facts,
    node: NodeId,
    change: &LogChange,
) -> Result<(), Violation> {
    let LogChange::Write { install, write } = change else {
        return Ok(());
    };
    let removed = match install {
        // What it covers stays, as a snapshot.
        Some(position) => Some(position.index.next()),
        None => write.truncate_from,
    };
    let Some(first) = removed else {
        return Ok(());
    };
    let (Some(committed), Some(known)) = (facts.committed(first), facts.nodes.get(&node)) else {
        return Ok(());
    };
    let held = known.image.terms.get(first.0 as usize - 1);
    let hard_state = write.hard_state.unwrap_or(known.image.hard_state);
    if held == Some(&committed.term) && hard_state.term >= committed.seen_in {
        return Err(Violation::TruncatedCommitted { node, first });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use raft_core::Role;
    use raft_log::LogWrite;
    use raft_proto::{HardState, Term};

    use super::super::testing::{World, append, at, change, entry, start};
    use super::*;

    #[test]
    fn truncating_what_is_committed_is_refused() {
        let mut world = World::new();
        world.observe(1, Role::Follower, 2, 1, &[1]).unwrap();
        let truncation = LogWrite {
            hard_state: Some(in_term(2)),
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
    fn an_earlier_leader_that_is_late_may_replace_a_copy_that_was_not_counted() {
        let mut world = World::new();
        for node in 1..=3 {
            world.durable(node, &append(&[entry(2, 2, "b")])).unwrap();
        }
        for node in [1, 2] {
            world.durable(node, &append(&[entry(3, 4, "c")])).unwrap();
        }
        world.observe(1, Role::Leader, 4, 3, &[1, 2, 4]).unwrap();
        let replaced_in = |term: u64| LogWrite {
            hard_state: Some(in_term(term)),
            truncate_from: Some(LogIndex(2)),
            ..append(&[entry(2, 3, "x")])
        };
        let error = world.durable(3, &replaced_in(4)).unwrap_err();
        assert!(
            matches!(error, Violation::TruncatedCommitted { .. }),
            "{error}"
        );
        world.durable(3, &replaced_in(3)).unwrap();
    }

    fn in_term(term: u64) -> HardState {
        HardState {
            term: Term(term),
            vote: None,
        }
    }

    #[test]
    fn after_a_crash_the_durable_state_is_there_and_what_was_under_way_may_be() {
        let write = LogWrite {
            hard_state: Some(in_term(3)),
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
            let mut view = start(in_term(term), terms);
            let outcome = world.checker.started(NodeId(1), &view);
            assert_eq!(outcome.is_ok(), is_fine, "{term} {log:?}");
            // Whoever says that it does not know counts for nothing.
            view.standing = Standing::Uncounted;
            world.checker.started(NodeId(1), &view).unwrap();
        }
    }

    #[test]
    fn a_mark_may_be_durable_ahead_of_a_truncation_but_the_entries_it_covers_must_have_been() {
        let truncation = LogWrite {
            hard_state: Some(in_term(3)),
            truncate_from: Some(LogIndex(3)),
            ..LogWrite::default()
        };
        for (mark, terms, is_fine) in [(2, vec![2], true), (3, vec![], false)] {
            let mut world = World::three_committed();
            let under_way = vec![change(&truncation), LogChange::Compact(at(2, 2))];
            world.checker.snapshot_stored(NodeId(1), at(2, 2)).unwrap();
            world.checker.stopped(NodeId(1), under_way);
            let hard_state = world.checker.hard_state(NodeId(1));
            let view = StartView {
                mark: LogIndex(mark),
                snapshot: Some(at(2, 2)),
                ..start(hard_state, terms.into_iter().map(Term).collect())
            };
            let outcome = world.checker.started(NodeId(1), &view);
            assert_eq!(outcome.is_ok(), is_fine, "{mark}: {outcome:?}");
        }
    }

    #[test]
    fn an_installation_replaces_a_log_that_ends_or_differs_before_it() {
        let mut world = World::three_committed();
        let early = world.install(3, at(3, 2)).unwrap_err();
        assert!(matches!(early, Violation::Uncovered { .. }), "{early}");
        world.checker.snapshot_stored(NodeId(3), at(3, 2)).unwrap();
        world.install(3, at(3, 2)).unwrap();
        world.checker.restored(NodeId(3), at(3, 2)).unwrap();
        world.durable(3, &append(&[entry(4, 2, "d")])).unwrap();
        // A log that holds what is committed behind the snapshot must keep it.
        let mut world = World::three_committed();
        world.checker.snapshot_stored(NodeId(3), at(2, 2)).unwrap();
        let whole = LogWrite {
            hard_state: Some(in_term(2)),
            truncate_from: Some(LogIndex(2)),
            entries: vec![entry(2, 2, "b"), entry(3, 2, "c")],
            ..LogWrite::default()
        };
        world.durable(3, &whole).unwrap();
        let lost = world.install(3, at(2, 2)).unwrap_err();
        assert!(
            matches!(lost, Violation::TruncatedCommitted { .. }),
            "{lost}"
        );
    }

    #[test]
    fn a_received_snapshot_is_installed_at_the_start_only_over_a_log_without_its_end() {
        let installed = |term: u64| StartView {
            mark: LogIndex(3),
            snapshot: Some(at(3, 2)),
            ..start(in_term(term), Vec::new())
        };
        let mut world = World::three_committed();
        world.checker.snapshot_stored(NodeId(3), at(3, 2)).unwrap();
        world.checker.started(NodeId(3), &installed(2)).unwrap();
        let mut world = World::three_committed();
        world.checker.snapshot_stored(NodeId(3), at(3, 2)).unwrap();
        let raised = world.checker.started(NodeId(3), &installed(9)).unwrap_err();
        assert!(matches!(raised, Violation::LostDurable { .. }), "{raised}");
        // Node 1 has the entry in its log: nothing may be thrown away.
        let mut world = World::three_committed();
        world.checker.snapshot_stored(NodeId(1), at(3, 2)).unwrap();
        let lost = world.checker.started(NodeId(1), &installed(0)).unwrap_err();
        assert!(matches!(lost, Violation::LostDurable { .. }), "{lost}");
    }
}
