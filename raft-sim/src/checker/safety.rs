//! Raft's safety properties (Figure 3), and durability, checked from outside after every event.
//!
//! The checker sees every node's role, term and log through [`NodeView`], every write that became
//! durable, and every entry that was applied. It shares no code with the core, so that the same
//! mistake is not made twice.

use std::collections::{BTreeMap, BTreeSet};

use raft_core::Role;
use raft_log::LogWrite;
use raft_proto::{Entry, HardState, LogIndex, LogPosition, Membership, Message, NodeId, Term};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::image::{
    Image, LogChange, StartView, entries_of, images_of, is_expected, is_installed_late, terms_of,
};
use super::promises::Promises;
use super::violation::Violation;

/// What a node shows of itself at one moment.
pub struct NodeView<'a> {
    /// The node.
    pub id: NodeId,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// The entry before the first one in its log, by its own account.
    pub base_index: LogIndex,
    /// What it takes for applied.
    pub applied_index: LogIndex,
    /// What it takes for committed.
    pub commit_index: LogIndex,
    /// The end of its log.
    pub last_index: LogIndex,
    /// The term of one of its entries; `None` if a snapshot covers it, or it has none there.
    pub term_at: &'a dyn Fn(LogIndex) -> Option<Term>,
    /// The members in force at its log's end.
    pub membership: &'a Membership,
    /// Where its log says so.
    pub membership_index: LogIndex,
    /// How many memberships its log holds after an index.
    pub memberships_after: &'a dyn Fn(LogIndex) -> usize,
}

/// An entry of the one chain of committed entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Committed {
    pub(super) term: Term,
    /// The term of the node that was first seen to take it for committed.
    seen_in: Term,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EntryFacts {
    digest: u64,
    previous_term: Term,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    term: Term,
    role: Role,
    commit_index: LogIndex,
    last_index: LogIndex,
}

#[derive(Clone, Debug, Default)]
pub(super) struct NodeFacts {
    pub(super) image: Image,
    /// The writes that were under way when the node crashed.
    in_flight: Vec<LogChange>,
    /// The newest snapshot that is durable.
    pub(super) snapshot: LogIndex,
    pub(super) applied: LogIndex,
    seen: Option<Seen>,
    /// The membership in force when it was seen last, and where its log said so.
    configuration: Option<(LogIndex, Option<Term>, Membership)>,
}

/// See the module's page.
#[derive(Default)]
pub struct SafetyChecker {
    leaders: BTreeMap<Term, NodeId>,
    /// All entries that were ever durable anywhere, by index and term.
    entries: BTreeMap<(LogIndex, Term), EntryFacts>,
    pub(super) chain: Vec<Committed>,
    pub(super) nodes: BTreeMap<NodeId, NodeFacts>,
    /// Hashes of the state after an entry, as snapshots and restored machines showed it.
    pub(super) states: BTreeMap<LogIndex, u64>,
    promises: Promises,
}

impl SafetyChecker {
    /// A checker that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A node starts with what it found on its disk.
    ///
    /// # Errors
    /// [`Violation::LostDurable`] if it is not what the node had made durable before,
    /// [`Violation::NotCommitted`] if it rests on a snapshot of something else,
    /// [`Violation::LogMismatch`].
    pub fn started(&mut self, node: NodeId, view: StartView) -> Result<(), Violation> {
        let snapshot = view.snapshot.map_or(LogIndex::ZERO, |at| at.index);
        if let Some(position) = view.snapshot {
            self.check_committed(node, position)?;
        }
        let facts = self.nodes.entry(node).or_default();
        let is_covered = view.mark <= snapshot && facts.snapshot <= snapshot;
        let mut terms = terms_of(&self.chain, view.mark);
        terms.extend(&view.terms);
        let found = Image {
            hard_state: view.hard_state,
            mark: view.mark,
            terms,
        };
        let mut expected = is_expected(&self.chain, &facts.image, &facts.in_flight, &found);
        if let Some(position) = view.snapshot {
            // What was under way may have become durable before the snapshot was installed.
            let images = images_of(&self.chain, &facts.image, &facts.in_flight);
            expected |= images
                .iter()
                .any(|before| is_installed_late(before, &found, position));
        }
        if !expected || !is_covered {
            let (was, is) = (facts.image.summary(), found.summary());
            let (stored, under_way) = (facts.snapshot, &facts.in_flight);
            let detail = format!(
                "it has {is} and a snapshot of {snapshot}, and had {was} and one of {stored}; \
                 under way was {under_way:?}"
            );
            return Err(Violation::LostDurable { node, detail });
        }
        let in_flight = std::mem::take(&mut facts.in_flight);
        let survived =
            |entry: &&Entry| found.terms.get(entry.index.0 as usize - 1) == Some(&entry.term);
        let survivors = in_flight.iter().flat_map(entries_of);
        for entry in survivors.filter(survived) {
            learn(&mut self.entries, node, entry, &found.terms)?;
        }
        *facts = NodeFacts {
            image: found,
            snapshot,
            applied: snapshot,
            ..NodeFacts::default()
        };
        Ok(())
    }

    /// A node stopped while these changes were under way: each may have become durable or not.
    pub fn stopped(&mut self, node: NodeId, in_flight: Vec<LogChange>) {
        self.nodes.entry(node).or_default().in_flight = in_flight;
    }

    /// A change of a log became durable.
    ///
    /// # Errors
    /// [`Violation::TruncatedCommitted`], [`Violation::VotedTwice`], [`Violation::WentBack`],
    /// [`Violation::LogMismatch`], [`Violation::NotCommitted`], [`Violation::Uncovered`].
    pub fn durable(&mut self, node: NodeId, change: &LogChange) -> Result<(), Violation> {
        match change {
            LogChange::Compact(position) => self.compacted(node, *position),
            LogChange::Write { install, write } => {
                if let Some(position) = install {
                    self.check_committed(node, *position)?;
                    self.check_covered(node, position.index)?;
                }
                self.written(node, change, write, *install)
            }
        }
    }

    fn written(
        &mut self,
        node: NodeId,
        change: &LogChange,
        write: &LogWrite,
        install: Option<LogPosition>,
    ) -> Result<(), Violation> {
        let facts = self.nodes.entry(node).or_default();
        let removed = match install {
            // What it covers stays, as a snapshot.
            Some(position) => Some(position.index.next()),
            None => write.truncate_from,
        };
        if let Some(first) = removed {
            // If the first entry removed is not the committed one, none after it is (§5.3).
            let at = first.0 as usize - 1;
            let committed = self.chain.get(at).map(|committed| committed.term);
            if committed.is_some() && facts.image.terms.get(at).copied() == committed {
                return Err(Violation::TruncatedCommitted { node, first });
            }
        }
        check_hard_state(node, facts.image.hard_state, write)?;
        facts.image.apply(&self.chain, change);
        for entry in &write.entries {
            learn(&mut self.entries, node, entry, &facts.image.terms)?;
        }
        Ok(())
    }

    /// A node applies an entry.
    ///
    /// # Errors
    /// [`Violation::AppliedWrongly`].
    pub fn applied(&mut self, node: NodeId, entry: &Entry) -> Result<(), Violation> {
        let facts = self.nodes.entry(node).or_default();
        let index = entry.index;
        let committed = self.chain.get(index.0 as usize - 1);
        let is_as_committed = committed.is_some_and(|committed| committed.term == entry.term)
            && self
                .entries
                .get(&(index, entry.term))
                .is_some_and(|known| known.digest == digest(entry));
        if index != facts.applied.next() || !is_as_committed {
            return Err(Violation::AppliedWrongly { node, index });
        }
        facts.applied = index;
        Ok(())
    }

    /// A node sends a message.
    ///
    /// # Errors
    /// [`Violation::PromisedTooEarly`].
    pub fn sent(&mut self, node: NodeId, to: NodeId, message: &Message) -> Result<(), Violation> {
        let facts = self.nodes.entry(node).or_default();
        let (hard_state, terms) = (facts.image.hard_state, &facts.image.terms);
        if self.promises.is_kept(node, to, message, hard_state, terms) {
            return Ok(());
        }
        let message = message.name();
        Err(Violation::PromisedTooEarly { node, to, message })
    }

    /// Looks at a node after it has done something.
    ///
    /// # Errors
    /// Any [`Violation`] that can be seen on a running node.
    pub fn observe(&mut self, view: &NodeView<'_>) -> Result<(), Violation> {
        let node = view.id;
        let seen = self.nodes.entry(node).or_default().seen;
        check_progress(view, seen)?;
        self.check_order(view)?;
        if view.role == Role::Leader {
            let first = *self.leaders.entry(view.term).or_insert(node);
            if first != node {
                let (term, second) = (view.term, node);
                return Err(Violation::TwoLeaders {
                    term,
                    first,
                    second,
                });
            }
            let is_new = seen.is_none_or(|s| s.role != Role::Leader || s.term != view.term);
            if is_new {
                self.check_completeness(view)?;
            }
        }
        check_counting(view, seen)?;
        let checked = seen.map_or(0, |seen| seen.commit_index.0);
        for index in (checked + 1..=view.commit_index.0).map(LogIndex) {
            self.check_commit(view, index)?;
        }
        let open = (view.memberships_after)(self.committed());
        if open > 1 {
            return Err(Violation::TwoOpenMemberships { node });
        }
        self.remember_configuration(view);
        self.nodes.entry(node).or_default().seen = Some(Seen {
            term: view.term,
            role: view.role,
            commit_index: view.commit_index,
            last_index: view.last_index,
        });
        Ok(())
    }

    /// How many entries are known to be committed.
    #[must_use]
    pub fn committed(&self) -> LogIndex {
        LogIndex(self.chain.len() as u64)
    }

    /// Everything on a node's disk is gone, and with it what it promised. Only one that is no
    /// member any more may come back like that.
    pub fn wiped(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    fn remember_configuration(&mut self, view: &NodeView<'_>) {
        let facts = self.nodes.entry(view.id).or_default();
        let at = view.membership_index;
        let term = (view.term_at)(at);
        let known = facts
            .configuration
            .as_ref()
            .map(|(at, term, _)| (*at, *term));
        if known != Some((at, term)) {
            facts.configuration = Some((at, term, view.membership.clone()));
        }
    }

    /// Whether the holders of an entry are a quorum of the configuration that it was counted by: a
    /// change is in force from its entry on (§6). What stands at or before the entry of the
    /// configuration that was in force before this step was counted by that one, because the next
    /// one may only follow its commit. What stands behind it may have been counted by either.
    fn counts_for(&self, view: &NodeView<'_>, index: LogIndex, holders: &BTreeSet<NodeId>) -> bool {
        let facts = self.nodes.get(&view.id);
        let before = facts.and_then(|facts| facts.configuration.as_ref());
        let is_now = is_joint_quorum(view.membership, holders);
        match before {
            // A configuration that is gone from the log was not in force any more.
            Some((at, term, before)) if (view.term_at)(*at) == *term => {
                let was_before = is_joint_quorum(before, holders);
                was_before || (index > *at && is_now)
            }
            Some(_) | None => is_now,
        }
    }

    fn check_completeness(&self, view: &NodeView<'_>) -> Result<(), Violation> {
        let indexes = (1..).map(LogIndex);
        for (index, committed) in indexes.zip(&self.chain) {
            // What was committed in a later term may be missing: this is an old term's candidate.
            let must_have = committed.seen_in < view.term;
            let found = (view.term_at)(index);
            if must_have && found.is_some_and(|found| found != committed.term)
                || must_have && found.is_none() && index > view.last_index
            {
                let (leader, term) = (view.id, view.term);
                return Err(Violation::LeaderIncomplete {
                    leader,
                    term,
                    index,
                });
            }
        }
        Ok(())
    }

    fn check_commit(&mut self, view: &NodeView<'_>, index: LogIndex) -> Result<(), Violation> {
        let node = view.id;
        // What a snapshot covers was checked when it was committed.
        let Some(term) = (view.term_at)(index) else {
            return Ok(());
        };
        if let Some(committed) = self.chain.get(index.0 as usize - 1) {
            if committed.term == term {
                return Ok(());
            }
            return Err(Violation::CommitMismatch { node, index });
        }
        let holders: BTreeSet<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, facts)| facts.image.terms.get(index.0 as usize - 1) == Some(&term))
            .map(|(id, _)| *id)
            .collect();
        if !self.counts_for(view, index, &holders) {
            let holders = holders.into_iter().collect();
            return Err(Violation::CommitWithoutQuorum {
                node,
                index,
                holders,
            });
        }
        let seen_in = view.term;
        self.chain.push(Committed { term, seen_in });
        assert_eq!(
            self.chain.len() as u64,
            index.0,
            "commits are seen in order"
        );
        Ok(())
    }
}

/// Compares a durable entry with what is known of its position, or remembers it.
fn learn(
    entries: &mut BTreeMap<(LogIndex, Term), EntryFacts>,
    node: NodeId,
    entry: &Entry,
    terms: &[Term],
) -> Result<(), Violation> {
    let (index, term) = (entry.index, entry.term);
    let before = (index.0 as usize).checked_sub(2).map(|at| terms[at]);
    let found = EntryFacts {
        digest: digest(entry),
        previous_term: before.unwrap_or(Term::ZERO),
    };
    if *entries.entry((index, term)).or_insert(found) == found {
        Ok(())
    } else {
        Err(Violation::LogMismatch { node, index, term })
    }
}

fn check_hard_state(node: NodeId, before: HardState, write: &LogWrite) -> Result<(), Violation> {
    let Some(after) = write.hard_state else {
        return Ok(());
    };
    if after.term < before.term {
        let (from, to) = (before.term.0, after.term.0);
        let what = "durable term";
        return Err(Violation::WentBack {
            node,
            what,
            from,
            to,
        });
    }
    if after.term == before.term && before.vote.is_some() && after.vote != before.vote {
        let term = after.term;
        return Err(Violation::VotedTwice { node, term });
    }
    Ok(())
}

fn check_progress(view: &NodeView<'_>, seen: Option<Seen>) -> Result<(), Violation> {
    let node = view.id;
    if view.commit_index > view.last_index {
        return Err(Violation::CommitBeyondLog {
            node,
            commit_index: view.commit_index,
            last_index: view.last_index,
        });
    }
    let Some(seen) = seen else {
        return Ok(());
    };
    let grows = [
        ("term", seen.term.0, view.term.0),
        ("commit index", seen.commit_index.0, view.commit_index.0),
    ];
    for (what, from, to) in grows {
        if to < from {
            return Err(Violation::WentBack {
                node,
                what,
                from,
                to,
            });
        }
    }
    let leads_on = seen.role == Role::Leader && view.role == Role::Leader && seen.term == view.term;
    if leads_on && view.last_index < seen.last_index {
        return Err(Violation::LeaderLogShrank {
            leader: node,
            from: seen.last_index,
            to: view.last_index,
        });
    }
    Ok(())
}

/// A leader commits by counting copies of its own term's entries only; what is before them is
/// committed with them.
fn check_counting(view: &NodeView<'_>, seen: Option<Seen>) -> Result<(), Violation> {
    let (leader, term, index) = (view.id, view.term, view.commit_index);
    let led_before = seen.is_some_and(|seen| {
        seen.role == Role::Leader && seen.term == term && seen.commit_index < index
    });
    if view.role != Role::Leader || !led_before {
        return Ok(());
    }
    if (view.term_at)(index).is_some_and(|found| found != term) {
        return Err(Violation::CommittedEarlierTerm {
            leader,
            term,
            index,
        });
    }
    Ok(())
}

fn is_joint_quorum(membership: &Membership, holders: &BTreeSet<NodeId>) -> bool {
    is_quorum(&membership.voters, holders) && is_quorum(&membership.outgoing, holders)
}

/// Whether a majority of `voters` is among the holders; nobody is a majority of nobody.
fn is_quorum(voters: &BTreeSet<NodeId>, holders: &BTreeSet<NodeId>) -> bool {
    voters.is_empty() || 2 * voters.intersection(holders).count() > voters.len()
}

fn digest(entry: &Entry) -> u64 {
    xxh3_64_with_seed(&entry.payload, entry.kind as u64)
}

#[cfg(test)]
#[path = "safety_test.rs"]
mod tests;
