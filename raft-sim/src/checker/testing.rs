//! A hand-made world of three nodes, for traces that the checkers must refuse.

use raft_core::Role;
use raft_log::LogWrite;
use raft_node::driver::Held;
use raft_proto::{
    Entry, EntryKind, HardState, LogIndex, LogPosition, Member, Membership, NodeId, Term,
};

use super::image::{LogChange, Standing, StartView};
use super::safety::SafetyChecker;
use super::view::{NodeView, Window};
use super::violation::Violation;

/// What all nodes show, but for what [`World::observe`] is told.
pub(super) struct World {
    pub(super) checker: SafetyChecker,
    pub(super) membership: Membership,
    pub(super) membership_index: u64,
    pub(super) open_memberships: usize,
    pub(super) base_index: u64,
    pub(super) applied_index: u64,
    pub(super) window: Option<Window>,
    pub(super) held: Vec<Held>,
}

pub(super) fn entry(index: u64, term: u64, payload: &'static str) -> Entry {
    Entry {
        index: LogIndex(index),
        term: Term(term),
        kind: EntryKind::Command,
        payload: payload.into(),
    }
}

pub(super) fn at(index: u64, term: u64) -> LogPosition {
    LogPosition {
        index: LogIndex(index),
        term: Term(term),
    }
}

pub(super) fn append(entries: &[Entry]) -> LogWrite {
    LogWrite {
        entries: entries.to_vec(),
        ..LogWrite::default()
    }
}

pub(super) fn change(write: &LogWrite) -> LogChange {
    LogChange::Write {
        install: None,
        write: write.clone(),
    }
}

/// A start without a snapshot.
pub(super) fn start(hard_state: HardState, terms: Vec<Term>) -> StartView {
    StartView {
        hard_state,
        mark: LogIndex::ZERO,
        terms,
        snapshot: None,
        standing: Standing::Counted,
    }
}

impl World {
    /// Three nodes with one common entry, 1@1.
    pub(super) fn new() -> Self {
        let member = |id: u64| Member {
            incarnation: None,
            address: format!("n{id}:1"),
        };
        let mut world = Self {
            checker: SafetyChecker::new(),
            membership: Membership::of_voters((1..=3).map(|id| (NodeId(id), member(id)))),
            membership_index: 1,
            open_memberships: 0,
            base_index: 0,
            applied_index: 0,
            window: None,
            held: Vec::new(),
        };
        for node in 1..=3 {
            world.durable(node, &append(&[entry(1, 1, "a")])).unwrap();
        }
        world
    }

    /// Entries 1@1, 2@2 and 3@2 are committed; node 3 has entry 2 of another term.
    pub(super) fn three_committed() -> Self {
        let mut world = Self::new();
        let more = [entry(2, 2, "b"), entry(3, 2, "c")];
        for node in [1, 2] {
            world.durable(node, &append(&more)).unwrap();
        }
        world.durable(3, &append(&[entry(2, 1, "x")])).unwrap();
        world.observe(1, Role::Leader, 2, 3, &[1, 2, 2]).unwrap();
        world
    }

    pub(super) fn durable(&mut self, node: u64, write: &LogWrite) -> Result<(), Violation> {
        self.checker.durable(NodeId(node), &change(write))
    }

    pub(super) fn install(&mut self, node: u64, position: LogPosition) -> Result<(), Violation> {
        let install = LogChange::Write {
            install: Some(position),
            write: LogWrite::default(),
        };
        self.checker.durable(NodeId(node), &install)
    }

    /// These nodes crash during a write, and come back with logs of these terms.
    pub(super) fn crash_and_keep(&mut self, nodes: &[u64], write: &LogWrite, terms: &[u64]) {
        for node in nodes.iter().copied().map(NodeId) {
            self.checker.stopped(node, vec![change(write)]);
            let terms = terms.iter().copied().map(Term).collect();
            let view = start(HardState::default(), terms);
            self.checker.started(node, &view).unwrap();
        }
    }

    pub(super) fn observe(
        &mut self,
        node: u64,
        role: Role,
        term: u64,
        commit: u64,
        log: &[u64],
    ) -> Result<(), Violation> {
        let term_at = |index: LogIndex| {
            let at = usize::try_from(index.0.checked_sub(1)?).ok()?;
            log.get(at).copied().map(Term)
        };
        self.checker.observe(&NodeView {
            id: NodeId(node),
            role,
            term: Term(term),
            base_index: LogIndex(self.base_index),
            applied_index: LogIndex(self.applied_index),
            commit_index: LogIndex(commit),
            last_index: LogIndex(log.len() as u64),
            term_at: &term_at,
            membership: &self.membership,
            membership_index: LogIndex(self.membership_index),
            memberships_after: &|_| self.open_memberships,
            window: self.window,
            held: &self.held,
        })
    }
}
