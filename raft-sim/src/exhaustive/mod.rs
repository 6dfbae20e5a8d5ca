//! A bounded model checker for the consensus core: all histories within given bounds.
//!
//! Seeds try likely and unlikely histories; this module tries *all* of them, for a small cluster
//! and a bounded adversary. The nodes are real [`raft_core::RaftCore`]s; what driver, log and
//! network do is reduced to what can be told apart from inside the core.
//!
//! # Histories
//!
//! Messages and completions of writes wait in one queue, and by default the oldest comes next. The
//! adversary decides what happens in the world:
//!
//! * **time out**: a node's earliest timer fires. Every node has a clock of its own that moves only
//!   then, so every order of timeouts is possible, as with clocks that drift without bound;
//! * **propose** a command, or a **change** of the membership, at any node that leads;
//! * **crash**: a node loses its memory and every write under way, except for the first few of them
//!   (each number is tried), and starts again from its disk;
//! * **cut off** a node, so that nothing it sends or is sent arrives, until it is **healed**.
//!
//! It does so whenever the queue is empty, and at a price while something is in it. For the same
//! price it may **lose** the message that comes next, deliver it **twice**, or put it, or a
//! completion, **behind** everything else. How many of these deviations a history may have is
//! bounded, like the number of timeouts, proposals and so on ([`Bounds`]); within the bounds every
//! history is explored. (Bounding deviations instead of the length of histories is the idea of
//! delay-bounded scheduling: most bugs need few of them, in long histories.) Equal states are
//! looked at once, whatever led to them. After every event the safety properties of the paper
//! (Figure 3) are checked, and that nothing counts as committed that is not durable on a quorum.
//!
//! # Symmetry
//!
//! At the start the voters are alike but for their names. So only histories are explored in which
//! nodes become active in the order of their ids: every other one is such a history with names
//! exchanged. With three voters that is a sixth of all. (The order in which one broadcast is queued
//! follows the ids, too; the other orders are deviations.)
//!
//! # What "equal" leaves out
//!
//! Two states count as equal if all of their cores' state is, except that times count relative to
//! the node's clock in steps of half a heartbeat interval, and that the generator of election
//! timeouts is left out: it decides when a timer fires, and here every timer may fire at any moment.
//! So a state may be passed over that differs from one already seen in fractions of an interval
//! only. Whatever is reported did happen.
//!
//! ```
//! use raft_sim::exhaustive::{Bounds, explore};
//!
//! let report = explore(&Bounds { timeouts: 2, deviations: 1, ..Bounds::small() });
//! assert!(report.violation.is_none());
//! assert!(report.is_complete && report.leading > 0);
//! ```

mod fingerprint;
mod invariants;
mod node;
mod state;

use std::collections::HashSet;
use std::fmt;
use std::rc::Rc;

use raft_core::Role;

pub use self::state::Action;
use self::state::State;

/// How many events of each kind a history may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Voters at the start.
    pub nodes: u64,
    /// No node campaigns for a term beyond this one. The cluster starts in term 1.
    pub max_term: u64,
    /// Timers that fire.
    pub timeouts: u32,
    /// Commands proposed.
    pub proposals: u32,
    /// Changes of the membership proposed: each removes the highest voter, or brings it back.
    pub changes: u32,
    /// Crashes, each followed by a restart.
    pub crashes: u32,
    /// Times that a node is cut off; healing is free.
    pub cuts: u32,
    /// Deviations from the order of the queue: see the module's page.
    pub deviations: u32,
    /// What a crash does to the disk.
    pub disks: Disks,
    /// Stop after so many different states, without being complete.
    pub max_states: usize,
}

/// What a crash does to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disks {
    /// What was reported durable stays.
    Sound,
    /// The last entry goes, although it was reported durable: a planted fault that the checker must
    /// find.
    Forgetful,
}

impl Bounds {
    /// Three nodes, three terms, two proposals, no faults; explored in moments.
    #[must_use]
    pub const fn small() -> Self {
        Self {
            nodes: 3,
            max_term: 3,
            timeouts: 3,
            proposals: 2,
            changes: 0,
            crashes: 0,
            cuts: 0,
            deviations: 0,
            disks: Disks::Sound,
            max_states: 50_000_000,
        }
    }
}

/// What an exploration saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Different states with a choice of what comes next.
    pub states: usize,
    /// Events carried out.
    pub transitions: u64,
    /// Events of the longest history.
    pub longest: usize,
    /// Whether every history within the bounds was explored.
    pub is_complete: bool,
    /// Events after which some node leads.
    pub leading: u64,
    /// Events after which two nodes take themselves for leaders, of different terms.
    pub two_leaders: u64,
    /// The longest committed log seen, in entries.
    pub longest_commit: usize,
    /// Events that removed entries from a log.
    pub truncations: u64,
    /// Events after which a joint configuration is in force somewhere.
    pub joint: u64,
    /// The first history that broke a property.
    pub violation: Option<Counterexample>,
}

/// A history that breaks a property.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// Which one, and how.
    pub property: String,
    /// The events that lead there, in order.
    pub actions: Vec<String>,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.property)?;
        for (number, action) in self.actions.iter().enumerate() {
            writeln!(f, "{:4}  {action}", number + 1)?;
        }
        Ok(())
    }
}

/// What the adversary chose; the events that follow without a choice are not kept.
struct Choice {
    action: Action,
    before: Option<Rc<Choice>>,
}

/// A state in which there is a choice, with the way that leads to it.
struct Open {
    state: State,
    path: Option<Rc<Choice>>,
    events: usize,
}

/// Explores every history within the bounds, depth first, until one breaks a property.
#[must_use]
pub fn explore(bounds: &Bounds) -> Report {
    explore_with(bounds, |_| {})
}

/// As [`explore`]; `progress` is told now and then how far it is.
#[must_use]
pub fn explore_with(bounds: &Bounds, mut progress: impl FnMut(&Report)) -> Report {
    let start = Open {
        state: State::new(bounds),
        path: None,
        events: 0,
    };
    let mut report = Report::default();
    let mut seen = HashSet::from([start.state.fingerprint()]);
    let mut open = vec![start];
    while let Some(current) = open.pop() {
        for action in current.state.actions(bounds) {
            let path = Rc::new(Choice {
                action,
                before: current.path.clone(),
            });
            let mut next = Open {
                state: current.state.clone(),
                path: Some(path),
                events: current.events,
            };
            if report.advance(&mut next, action, bounds).is_err() {
                report.states = seen.len();
                report.violation = next.path.as_deref().map(|path| retold(path, bounds));
                return report;
            }
            if seen.insert(next.state.fingerprint()) {
                open.push(next);
            }
        }
        report.states = seen.len();
        if report.states >= bounds.max_states {
            return report;
        }
        if report.states.is_multiple_of(1 << 12) {
            progress(&report);
        }
    }
    report.is_complete = true;
    report
}

impl Report {
    /// Carries out an event, and those that follow until there is a choice again.
    fn advance(&mut self, next: &mut Open, action: Action, bounds: &Bounds) -> Result<(), String> {
        let mut action = action;
        loop {
            self.transitions += 1;
            next.events += 1;
            self.truncations += next.state.apply(action, bounds)?;
            self.note(&next.state, next.events);
            match next.state.actions(bounds)[..] {
                [forced] => action = forced,
                [] | [_, _, ..] => return Ok(()),
            }
        }
    }

    fn note(&mut self, state: &State, events: usize) {
        self.longest = self.longest.max(events);
        self.longest_commit = self.longest_commit.max(state.committed());
        let leaders = state.cores().filter(|core| core.role() == Role::Leader);
        match leaders.count() {
            0 => {}
            count => {
                self.leading += 1;
                self.two_leaders += u64::from(count > 1);
            }
        }
        self.joint += u64::from(state.cores().any(|core| core.membership().is_joint()));
    }
}

/// Tells a history that breaks a property, by going through it again.
fn retold(path: &Choice, bounds: &Bounds) -> Counterexample {
    let mut choices = vec![path.action];
    let mut before = &path.before;
    while let Some(choice) = before {
        choices.push(choice.action);
        before = &choice.before;
    }
    let mut state = State::new(bounds);
    let mut actions = Vec::new();
    while let Some(mut action) = choices.pop() {
        loop {
            actions.push(state.describe(action));
            if let Err(property) = state.apply(action, bounds) {
                return Counterexample { property, actions };
            }
            match state.actions(bounds)[..] {
                [forced] => action = forced,
                [] | [_, _, ..] => break,
            }
        }
    }
    unreachable!("the same events break the same property")
}
