//! A state of the model, the events possible in it, and what each leads to.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

use bytes::Bytes;
use raft_core::{MembershipChange, RaftCore, Role, Time};
use raft_proto::{Incarnation, Member, Membership, NodeId, Promotion};
use xxhash_rust::xxh3::Xxh3;

use super::fingerprint;
use super::invariants::History;
use super::node::{Envelope, Node};
use super::{Bounds, Disks};

/// One event. Nodes are named by their position in the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// What is first in the queue happens.
    Next,
    /// The message that is first in the queue arrives, and will again at the end of the queue.
    Twice,
    /// The message that is first in the queue is lost.
    Lose,
    /// What is first in the queue goes to its end.
    Postpone,
    /// The node's earliest timer fires.
    TimeOut(usize),
    /// The node loses its memory, and all but so many of its writes under way, and starts again.
    Crash(usize, usize),
    /// The node is asked to replicate a command.
    Propose(usize),
    /// The node is asked to change the membership.
    Change(usize),
    /// Nothing that the node sends or is sent arrives from now on.
    CutOff(usize),
    /// The node that is cut off is heard again.
    Heal,
}

/// What waits in the queue.
#[derive(Clone, Debug)]
enum Item {
    Message(Envelope),
    /// A node's oldest write becomes durable.
    Written(usize),
}

/// Something shared, whose fingerprint is taken once, when it is needed.
#[derive(Debug)]
struct Hashed<T>(Rc<(T, OnceCell<u64>)>);

impl<T> Hashed<T> {
    fn new(value: T) -> Self {
        Self(Rc::new((value, OnceCell::new())))
    }

    fn value(&self) -> &T {
        &self.0.0
    }

    fn hash(&self, fingerprint: impl FnOnce(&T) -> u64) -> u64 {
        *self.0.1.get_or_init(|| fingerprint(&self.0.0))
    }
}

impl<T> Clone for Hashed<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

/// What happened so far of what is bounded.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    timeouts: u32,
    proposals: u32,
    changes: u32,
    crashes: u32,
    cuts: u32,
    deviations: u32,
}

/// Nodes, what is to happen next, and what the invariants remember.
#[derive(Clone)]
pub(super) struct State {
    /// By id, from 1. Shared by the states that do not differ in it.
    nodes: Vec<Hashed<Node>>,
    queue: VecDeque<Hashed<Item>>,
    cut_off: Option<usize>,
    spent: Spent,
    /// So many nodes, from the first on, have done something.
    active: usize,
    history: Rc<History>,
}

impl State {
    pub(super) fn new(bounds: &Bounds) -> Self {
        let ids = (1..=bounds.nodes).map(NodeId);
        let membership = Membership::of_voters(ids.clone().map(|id| (id, member(id.0))));
        Self {
            nodes: ids
                .map(|id| Hashed::new(Node::new(id, &membership)))
                .collect(),
            queue: VecDeque::new(),
            cut_off: None,
            spent: Spent::default(),
            active: 0,
            history: Rc::default(),
        }
    }

    pub(super) fn cores(&self) -> impl Iterator<Item = &RaftCore> {
        self.nodes.iter().map(|node| &node.value().core)
    }

    /// How many entries are known to be committed.
    pub(super) fn committed(&self) -> usize {
        self.history.committed()
    }

    pub(super) fn fingerprint(&self) -> u64 {
        let mut hash = Xxh3::new();
        let mut word = |word: u64| hash.update(&word.to_le_bytes());
        for node in &self.nodes {
            word(node.hash(Node::fingerprint));
        }
        for item in &self.queue {
            word(item.hash(|item| fingerprint::of(item, Time::ZERO)));
        }
        let Spent {
            timeouts,
            proposals,
            changes,
            crashes,
            cuts,
            deviations,
        } = self.spent;
        let spent = [timeouts, proposals, changes, crashes, cuts, deviations];
        spent.into_iter().map(u64::from).for_each(&mut word);
        word(self.cut_off.map_or(0, |at| at as u64 + 1));
        word(self.active as u64);
        word(self.history.fingerprint());
        hash.digest()
    }

    /// Every event that may come next.
    pub(super) fn actions(&self, bounds: &Bounds) -> Vec<Action> {
        let mut actions = Vec::new();
        let may_deviate = self.spent.deviations < bounds.deviations;
        if let Some(first) = self.queue.front() {
            actions.push(Action::Next);
            let is_message = matches!(first.value(), Item::Message(_));
            if may_deviate && is_message {
                actions.extend([Action::Twice, Action::Lose]);
            }
            if may_deviate && self.queue.len() > 1 {
                actions.push(Action::Postpone);
            }
            if !may_deviate {
                return actions;
            }
        }
        // Nodes become active in order: see the module's page.
        let eligible = (self.active + 1).min(self.nodes.len());
        for at in 0..eligible {
            self.actions_of(at, bounds, &mut actions);
        }
        if self.cut_off.is_some() {
            actions.push(Action::Heal);
        }
        actions
    }

    fn actions_of(&self, at: usize, bounds: &Bounds, actions: &mut Vec<Action>) {
        let node = self.nodes[at].value();
        // A timer that does not concern elections does not raise the term.
        let is_within = node.is_leader() || node.core.term().0 < bounds.max_term;
        let has_timer = node.core.poll_timeout().is_some();
        if self.spent.timeouts < bounds.timeouts && is_within && has_timer {
            actions.push(Action::TimeOut(at));
        }
        if self.spent.crashes < bounds.crashes {
            let kept = 0..=node.writes.len();
            actions.extend(kept.map(|kept| Action::Crash(at, kept)));
        }
        if self.spent.cuts < bounds.cuts && self.cut_off.is_none() {
            actions.push(Action::CutOff(at));
        }
        if node.is_leader() && self.spent.proposals < bounds.proposals {
            actions.push(Action::Propose(at));
        }
        if node.is_leader() && self.spent.changes < bounds.changes {
            actions.push(Action::Change(at));
        }
    }

    /// Carries out an event; returns how many entries it removed from a log.
    ///
    /// # Errors
    /// The property that does not hold any more.
    pub(super) fn apply(&mut self, action: Action, bounds: &Bounds) -> Result<u64, String> {
        self.pay(action);
        let Some(at) = self.subject(action) else {
            self.rearrange(action);
            return Ok(0);
        };
        self.active = self.active.max(at + 1);
        let mut node = self.nodes[at].value().clone();
        node.truncations = 0;
        let sent = self.carry_out(action, &mut node, bounds);
        if let Action::Crash(..) = action {
            self.queue
                .retain(|item| !matches!(item.value(), Item::Written(of) if *of == at));
            Rc::make_mut(&mut self.history).restarted(at);
        }
        let truncations = node.truncations;
        let under_way = node.writes.len();
        self.nodes[at] = Hashed::new(node);
        let nodes: Vec<&Node> = self.nodes.iter().map(Hashed::value).collect();
        Rc::make_mut(&mut self.history).check(&nodes, at, &sent)?;
        self.enqueue(at, under_way, sent);
        Ok(truncations)
    }

    /// Puts what was sent, and every write that is not in the queue yet, at the end of the queue.
    fn enqueue(&mut self, at: usize, under_way: usize, sent: Vec<Envelope>) {
        let waiting = self.queue.iter().map(Hashed::value);
        let is_own = |item: &&Item| matches!(item, Item::Written(of) if *of == at);
        let known = waiting.filter(is_own).count();
        for _ in known..under_way {
            self.queue.push_back(Hashed::new(Item::Written(at)));
        }
        for envelope in sent {
            let (from, to) = (position_of(envelope.from), position_of(envelope.to));
            let is_cut = self.cut_off.is_some_and(|cut| cut == from || cut == to);
            if to < self.nodes.len() && !is_cut {
                self.queue.push_back(Hashed::new(Item::Message(envelope)));
            }
        }
    }

    fn pay(&mut self, action: Action) {
        let is_deviation = match action {
            Action::Next => false,
            Action::Twice | Action::Lose | Action::Postpone => true,
            Action::TimeOut(_)
            | Action::Crash(..)
            | Action::Propose(_)
            | Action::Change(_)
            | Action::CutOff(_)
            | Action::Heal => !self.queue.is_empty(),
        };
        self.spent.deviations += u32::from(is_deviation);
        match action {
            Action::Next | Action::Twice | Action::Lose | Action::Postpone | Action::Heal => {}
            Action::TimeOut(_) => self.spent.timeouts += 1,
            Action::Crash(..) => self.spent.crashes += 1,
            Action::Propose(_) => self.spent.proposals += 1,
            Action::Change(_) => self.spent.changes += 1,
            Action::CutOff(_) => self.spent.cuts += 1,
        }
    }

    /// The node that does something; `None` if only the queue or the network changes.
    fn subject(&self, action: Action) -> Option<usize> {
        match action {
            Action::Next | Action::Twice => self.queue.front().map(|first| match first.value() {
                Item::Message(envelope) => position_of(envelope.to),
                Item::Written(at) => *at,
            }),
            Action::TimeOut(at)
            | Action::Crash(at, _)
            | Action::Propose(at)
            | Action::Change(at) => Some(at),
            Action::Lose | Action::Postpone | Action::CutOff(_) | Action::Heal => None,
        }
    }

    fn rearrange(&mut self, action: Action) {
        match action {
            Action::Lose => drop(self.queue.pop_front()),
            Action::Postpone => self.queue.rotate_left(1),
            Action::CutOff(at) => {
                self.cut_off = Some(at);
                self.active = self.active.max(at + 1);
                self.queue.retain(|item| match item.value() {
                    Item::Message(envelope) => {
                        position_of(envelope.from) != at && position_of(envelope.to) != at
                    }
                    Item::Written(_) => true,
                });
            }
            Action::Heal => self.cut_off = None,
            Action::Next
            | Action::Twice
            | Action::TimeOut(_)
            | Action::Crash(..)
            | Action::Propose(_)
            | Action::Change(_) => {
                unreachable!("{action:?} is some node's")
            }
        }
    }

    fn carry_out(&mut self, action: Action, node: &mut Node, bounds: &Bounds) -> Vec<Envelope> {
        match action {
            Action::Next => match self.queue.pop_front().as_ref().map(Hashed::value) {
                Some(Item::Message(envelope)) => node.receive(envelope),
                Some(Item::Written(_)) => node.persist(),
                None => Vec::new(),
            },
            Action::Twice => {
                self.queue.rotate_left(1);
                match self.queue.back().map(Hashed::value) {
                    Some(Item::Message(envelope)) => node.receive(envelope),
                    Some(Item::Written(_)) | None => Vec::new(),
                }
            }
            Action::TimeOut(_) => node.time_out(),
            Action::Crash(_, kept) => {
                match bounds.disks {
                    Disks::Sound => node.crash(kept),
                    Disks::Forgetful => node.crash_and_forget(),
                }
                Vec::new()
            }
            Action::Propose(_) => {
                let payload = Bytes::from(format!("c{}", self.spent.proposals));
                // Refused by a leader that is about to step down, say; then nothing happens.
                node.propose(payload).unwrap_or_default()
            }
            Action::Change(_) => {
                let last = NodeId(bounds.nodes);
                let change = next_change(node.core.membership(), last);
                node.change(change).unwrap_or_default()
            }
            Action::Lose | Action::Postpone | Action::CutOff(_) | Action::Heal => {
                unreachable!("{action:?} is no node's")
            }
        }
    }

    /// The event in words, before it happens.
    pub(super) fn describe(&self, action: Action) -> String {
        let name = |at: usize| {
            let core = &self.nodes[at].value().core;
            format!("{}@{} {}", core.id(), core.term(), role_name(core.role()))
        };
        let first = match self.queue.front().map(Hashed::value) {
            Some(Item::Message(envelope)) => Letter(envelope).to_string(),
            Some(Item::Written(at)) => format!("{} has written", name(*at)),
            None => String::new(),
        };
        match action {
            Action::Next => first,
            Action::Twice => format!("{first} (and will again)"),
            Action::Lose => format!("lost: {first}"),
            Action::Postpone => format!("later: {first}"),
            Action::TimeOut(at) => format!("{} times out", name(at)),
            Action::Crash(at, kept) => format!("{} crashes, {kept} writes kept", name(at)),
            Action::Propose(at) => format!("{} is given a command", name(at)),
            Action::Change(at) => format!("{} is to change the membership", name(at)),
            Action::CutOff(at) => format!("{} is cut off", name(at)),
            Action::Heal => "the cut is healed".to_owned(),
        }
    }
}

/// A message in words.
struct Letter<'a>(&'a Envelope);

impl fmt::Display for Letter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Envelope { from, to, message } = self.0;
        write!(f, "{from} → {to} {message:?}")
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}

/// Removes the node if it votes, brings it back if it is gone, promotes it if it learns.
fn next_change(current: &Membership, id: NodeId) -> MembershipChange {
    if current.is_voter(id) {
        MembershipChange::Remove(id)
    } else if current.contains(id) {
        MembershipChange::Promote(id)
    } else {
        MembershipChange::AddLearner {
            id,
            member: member(id.0),
            promotion: Promotion::Manual,
        }
    }
}

fn member(id: u64) -> Member {
    Member {
        incarnation: Some(Incarnation(id)),
        address: format!("n{id}:1"),
    }
}

/// Ids are small numbers from 1.
const fn position_of(id: NodeId) -> usize {
    id.0 as usize - 1
}
