//! What must hold in every state of a cluster, whatever the network and the disks do.

use std::collections::BTreeMap;

use raft_core::Role;
use raft_proto::{
    AppendOutcome, Entry, EntryKind, HardState, InstallOutcome, LogIndex, Message, NodeId, Term,
};

use super::node::last_membership;
use super::{Envelope, Node};

/// History that the invariants need.
#[derive(Default)]
pub struct Invariants {
    /// The leader of each term.
    leaders: BTreeMap<Term, NodeId>,
    /// The one chain of committed entries, from index 1.
    committed: Vec<Entry>,
    /// Each node's durable hard state when last seen.
    hard_states: BTreeMap<NodeId, HardState>,
    /// Each node's commit index when last seen in this boot.
    commits: BTreeMap<NodeId, LogIndex>,
    /// Each leader's log when last seen, with its term.
    leader_logs: BTreeMap<NodeId, (Term, Vec<Entry>)>,
    /// Votes ever sent, by term and voter.
    votes: BTreeMap<(Term, NodeId), NodeId>,
    /// Appends ever sent, by leader, term, receiver and sequence: the last index each covers.
    appends: BTreeMap<(NodeId, Term, NodeId, u64), LogIndex>,
    /// Logs whose ends nodes have lost.
    lost_logs: Vec<(NodeId, Vec<Entry>)>,
    /// Up to here a leader that the test made up claims to have committed.
    claimed: LogIndex,
}

impl Invariants {
    /// A message that a test made up counts as sent.
    pub fn injected(&mut self, envelope: &Envelope) {
        if let Message::AppendRequest(request) = &envelope.message {
            let last = request.previous.index.plus(request.entries.len() as u64);
            let key = (envelope.from, request.term, envelope.to, request.sequence);
            self.appends.insert(key, last);
            self.claimed = self.claimed.max(request.commit_index);
        }
        if let Message::InstallSnapshotRequest(request) = &envelope.message {
            let last = request.snapshot.last_included.index;
            let key = (envelope.from, request.term, envelope.to, request.sequence);
            self.appends.insert(key, last);
            self.claimed = self.claimed.max(last);
        }
        if let Message::Heartbeat(heartbeat) = &envelope.message {
            self.claimed = self.claimed.max(heartbeat.commit_index);
        }
    }

    pub fn node_restarted(&mut self, id: NodeId) {
        self.commits.remove(&id);
        self.leader_logs.remove(&id);
    }

    /// A node lost everything, its promises included.
    pub fn node_wiped(&mut self, id: NodeId) {
        self.hard_states.remove(&id);
        self.node_restarted(id);
    }

    /// A node lost the end of its log and its newest votes, and knows that. What it acknowledged
    /// before may still be counted.
    pub fn node_lost_its_end(&mut self, id: NodeId, had: Vec<Entry>) {
        self.lost_logs.push((id, had));
        self.votes.retain(|(_, voter), _| *voter != id);
        self.node_wiped(id);
    }

    /// The entries committed so far.
    pub fn committed(&self) -> &[Entry] {
        &self.committed
    }

    /// Checks everything that a change of one node can break.
    pub fn check(&mut self, nodes: &BTreeMap<NodeId, Node>, changed: NodeId, sent: &[Envelope]) {
        let node = &nodes[&changed];
        self.election_safety(node);
        leaders_are_whole(node);
        self.leader_append_only(node);
        self.log_matching(nodes, node);
        latest_membership_is_in_force(node);
        self.state_machine_safety(node);
        self.committed_on_a_durable_quorum(nodes, node);
        self.leader_completeness(nodes);
        self.nothing_regresses(node);
        self.one_change_at_a_time(node);
        for envelope in sent {
            self.promises_are_durable(nodes, envelope);
        }
    }

    /// At most one leader can be elected in a given term (§5.2).
    fn election_safety(&mut self, node: &Node) {
        if is_leading(node) {
            let id = node.core.id();
            let leader = *self.leaders.entry(node.core.term()).or_insert(id);
            assert_eq!(leader, id, "two leaders in term {}", node.core.term());
            let own = node.disk.hard_state;
            assert!(
                own.term >= node.core.term(),
                "{id} leads before its vote is durable"
            );
        }
    }

    /// A leader never overwrites or deletes entries in its log (§5.3).
    fn leader_append_only(&mut self, node: &Node) {
        if is_leading(node) {
            let (id, term) = (node.core.id(), node.core.term());
            if let Some((seen_term, seen)) = self.leader_logs.get(&id)
                && *seen_term == term
            {
                assert!(node.log.starts_with(seen), "leader {id} changed its log");
            }
            self.leader_logs.insert(id, (term, node.log.clone()));
        }
    }

    /// If two logs contain an entry with the same index and term, then the logs are identical in
    /// all entries up through the given index (§5.3). The core's view agrees with the content.
    fn log_matching(&self, nodes: &BTreeMap<NodeId, Node>, node: &Node) {
        if node.is_up {
            let core = &node.core;
            assert_eq!(core.last_position().index.0, node.log.len() as u64);
            let base = core.base_position().index;
            for entry in node.log.iter().filter(|entry| entry.index >= base) {
                assert_eq!(core.term_at(entry.index), Some(entry.term));
            }
        }
        for one in logs_of(node) {
            for other in nodes.values().flat_map(logs_of) {
                let common = (0..one.len().min(other.len()))
                    .rev()
                    .find(|i| one[*i].term == other[*i].term);
                if let Some(last) = common {
                    assert!(
                        one[..=last] == other[..=last],
                        "logs differ before a common entry: {one:?} {other:?}"
                    );
                }
            }
        }
    }

    /// No two nodes apply different entries at an index (§5.4.3).
    fn state_machine_safety(&mut self, node: &Node) {
        for (entry, committed) in node.applied.iter().zip(&self.committed) {
            assert_eq!(entry, committed, "two entries committed at one index");
        }
        assert!(
            node.disk.entries.starts_with(&node.applied),
            "applied but not durable"
        );
    }

    /// What any node takes for committed is durable on a majority, or was once and lives on in
    /// every log that can win (leader completeness checks the latter).
    fn committed_on_a_durable_quorum(&mut self, nodes: &BTreeMap<NodeId, Node>, node: &Node) {
        if !node.is_up {
            return;
        }
        let commit_index = node.core.commit_index().0 as usize;
        if commit_index <= self.committed.len() {
            let known = &self.committed[..commit_index];
            assert_eq!(&node.log[..commit_index], known, "committed entries differ");
            return;
        }
        let membership = node.core.membership();
        let prefix = &node.log[..commit_index];
        let holds = |id: &&NodeId| {
            let holder = nodes.get(*id);
            let held = |(lost, had): &(NodeId, Vec<Entry>)| lost == *id && had.starts_with(prefix);
            holder.is_some_and(|holder| holder.disk.entries.starts_with(prefix))
                || self.lost_logs.iter().any(held)
        };
        for half in [&membership.voters, &membership.outgoing] {
            let holders = half.iter().filter(holds).count();
            assert!(
                half.is_empty()
                    || holders * 2 > half.len()
                    || commit_index as u64 <= self.claimed.0,
                "{} committed {commit_index} held by {holders} of {half:?}",
                node.core.id(),
            );
        }
        self.committed = prefix.to_vec();
    }

    /// If a log entry is committed in a given term, then that entry will be present in the logs
    /// of the leaders for all higher-numbered terms (§5.4).
    fn leader_completeness(&self, nodes: &BTreeMap<NodeId, Node>) {
        let Some(last) = self.committed.last() else {
            return;
        };
        for node in nodes.values().filter(|node| is_leading(node)) {
            if node.core.term() > last.term {
                let id = node.core.id();
                assert!(
                    node.log.starts_with(&self.committed),
                    "leader {id} lacks commits"
                );
            }
        }
    }

    /// At most one membership of a leader's log is not committed (§6).
    fn one_change_at_a_time(&self, node: &Node) {
        let open = node.log.iter().skip(self.committed.len());
        let changes = open.filter(|entry| entry.kind == EntryKind::Membership);
        if is_leading(node) {
            assert!(
                changes.count() <= 1,
                "{} has two changes in flight",
                node.core.id()
            );
        }
    }

    /// Durable term and vote never go back, nor does the commit index within a boot.
    fn nothing_regresses(&mut self, node: &Node) {
        let id = node.core.id();
        let now = node.disk.hard_state;
        if let Some(seen) = self.hard_states.insert(id, now) {
            assert!(now.term >= seen.term, "{id}'s term went back");
            if now.term == seen.term && seen.vote.is_some() {
                assert_eq!(now.vote, seen.vote, "{id} changed its vote");
            }
        }
        if node.is_up {
            let commit_index = node.core.commit_index();
            let seen = self.commits.insert(id, commit_index);
            assert!(
                seen.is_none_or(|seen| commit_index >= seen),
                "{id}'s commit went back"
            );
        }
    }

    /// No vote, vote request or acknowledgement leaves before what it says is durable.
    fn promises_are_durable(&mut self, nodes: &BTreeMap<NodeId, Node>, envelope: &Envelope) {
        let from = &nodes[&envelope.from];
        let disk = &from.disk;
        match &envelope.message {
            Message::VoteResponse(response) if response.granted => {
                let vote = HardState {
                    term: response.term,
                    vote: Some(envelope.to),
                };
                assert_eq!(disk.hard_state, vote, "a vote left before it was durable");
                let voted = self.votes.entry((response.term, envelope.from));
                assert_eq!(
                    *voted.or_insert(envelope.to),
                    envelope.to,
                    "two votes in a term"
                );
            }
            Message::VoteRequest(request) => {
                let vote = HardState {
                    term: request.term,
                    vote: Some(envelope.from),
                };
                assert_eq!(
                    disk.hard_state, vote,
                    "a candidate asked before its own vote"
                );
            }
            Message::AppendRequest(request) => {
                let last = request.previous.index.plus(request.entries.len() as u64);
                let key = (envelope.from, request.term, envelope.to, request.sequence);
                let seen = self.appends.insert(key, last);
                assert_eq!(seen, None, "a sequence was used twice");
            }
            Message::InstallSnapshotRequest(request) => {
                let last = request.snapshot.last_included.index;
                let key = (envelope.from, request.term, envelope.to, request.sequence);
                let seen = self.appends.insert(key, last);
                assert_eq!(seen, None, "a sequence was used twice");
                assert!(
                    last.0 <= self.committed.len() as u64,
                    "a snapshot of the future"
                );
            }
            Message::InstallSnapshotResponse(response)
                if response.outcome == InstallOutcome::Installed =>
            {
                let key = (envelope.to, response.term, envelope.from, response.sequence);
                let length = self.appends[&key].0 as usize;
                assert!(
                    disk.entries.len() >= length
                        && disk.entries[..length] == self.committed[..length],
                    "a snapshot was acknowledged before it was installed"
                );
            }
            Message::AppendResponse(response) if response.outcome == AppendOutcome::Accepted => {
                let key = (envelope.to, response.term, envelope.from, response.sequence);
                let last = self.appends[&key];
                assert!(
                    disk.entries.len() as u64 >= last.0,
                    "an append was acknowledged early"
                );
                let covered = disk
                    .snapshot
                    .as_ref()
                    .map_or(0, |s| s.last_included.index.0);
                let missing = disk.missing.iter().find(|index| index.0 > covered);
                assert!(
                    missing.is_none_or(|missing| *missing > last),
                    "{} acknowledges {last} and misses {missing:?}",
                    envelope.from
                );
                assert!(
                    disk.hard_state.term >= response.term,
                    "a term was acknowledged early"
                );
                let leader = &nodes[&envelope.to];
                if is_leading(leader) && leader.core.term() == response.term {
                    let length = last.0 as usize;
                    assert_eq!(
                        disk.entries[..length],
                        leader.log[..length],
                        "a false promise"
                    );
                }
            }
            _ => {}
        }
    }
}

/// The membership in force is the last one in the log, committed or not, and none that was
/// truncated or replaced by a snapshot (§6).
fn latest_membership_is_in_force(node: &Node) {
    if node.is_up {
        let last = last_membership(&node.log).map(|(_, membership)| membership);
        let expected = last.unwrap_or_default();
        assert_eq!(*node.core.membership(), expected, "{}", node.core.id());
    }
}

/// What a leader has not, it could not send; and nobody counts a node that does not know what it has
/// promised.
fn leaders_are_whole(node: &Node) {
    if is_leading(node) {
        let id = node.core.id();
        assert!(node.core.is_whole(), "{id} leads and misses content");
        assert!(!node.core.is_uncounted(), "{id} leads and does not count");
    }
}

fn is_leading(node: &Node) -> bool {
    node.is_up && node.core.role() == Role::Leader
}

fn logs_of(node: &Node) -> impl Iterator<Item = &[Entry]> {
    let memory = node.is_up.then_some(&node.log[..]);
    memory.into_iter().chain([&node.disk.entries[..]])
}
