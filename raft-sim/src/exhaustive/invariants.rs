//! What must hold after every event of the model: the properties of Figure 3, and durability.

use raft_proto::{AppendOutcome, Entry, HardState, Message, NodeId, Term};
use xxhash_rust::xxh3::xxh3_64;

use super::fingerprint;
use super::node::{Envelope, Node};

/// What was seen so far, as far as the properties need it. Equal histories of equal states are
/// equal here, too: everything that is compared with the future is part of the fingerprint.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// The leader of each term, in order of terms.
    leaders: Vec<(Term, NodeId)>,
    /// The one chain of committed entries.
    committed: Vec<Entry>,
    /// Votes that were sent: term, voter, candidate.
    votes: Vec<(Term, NodeId, NodeId)>,
    /// Each node's commit index when last seen in its current boot.
    commits: Vec<u64>,
    /// Each node's durable hard state when last seen.
    hard_states: Vec<HardState>,
}

impl History {
    pub(super) fn committed(&self) -> usize {
        self.committed.len()
    }

    pub(super) fn fingerprint(&self) -> u64 {
        let Self {
            leaders,
            committed,
            votes,
            // Both are implied by the nodes' states.
            commits: _,
            hard_states: _,
        } = self;
        let positions: Vec<_> = committed.iter().map(Entry::position).collect();
        let parts = (leaders, positions, votes);
        let hash = fingerprint::of(&parts, raft_core::Time::ZERO);
        xxh3_64(&hash.to_le_bytes())
    }

    /// The node has lost its memory.
    pub(super) fn restarted(&mut self, at: usize) {
        if let Some(commit) = self.commits.get_mut(at) {
            *commit = 0;
        }
    }

    /// Checks what a change of one node, and what it sent, can break.
    pub(super) fn check(
        &mut self,
        nodes: &[&Node],
        changed: usize,
        sent: &[Envelope],
    ) -> Result<(), String> {
        let node = nodes[changed];
        self.election_safety(node)?;
        log_matching(nodes, node)?;
        self.state_machine_safety(nodes, node)?;
        self.leader_completeness(nodes)?;
        self.nothing_regresses(nodes, changed)?;
        for envelope in sent {
            self.promises_are_durable(node, envelope)?;
        }
        Ok(())
    }

    /// At most one leader can be elected in a given term (§5.2).
    fn election_safety(&mut self, node: &Node) -> Result<(), String> {
        if !node.is_leader() {
            return Ok(());
        }
        let (term, id) = (node.core.term(), node.core.id());
        match self.leaders.iter().find(|(led, _)| *led == term) {
            Some((_, leader)) if *leader != id => Err(format!(
                "election safety: {leader} and {id} lead term {term}"
            )),
            Some(_) => Ok(()),
            None => {
                self.leaders.push((term, id));
                self.leaders.sort_unstable();
                Ok(())
            }
        }
    }

    /// No node takes an entry for committed where another one is (§5.4.3), and what is committed is
    /// durable on a quorum of every half of the configuration that the committing node goes by.
    fn state_machine_safety(&mut self, nodes: &[&Node], node: &Node) -> Result<(), String> {
        let id = node.core.id();
        // A log of the model has a few entries.
        let commit = node.core.commit_index().0 as usize;
        if node.log.len() < commit {
            return Err(format!(
                "{id} takes {commit} for committed and does not have it"
            ));
        }
        let known = commit.min(self.committed.len());
        if node.log[..known] != self.committed[..known] {
            return Err(format!(
                "state machine safety: {id} takes other entries for committed, up to {commit}"
            ));
        }
        let applied = &node.log[..node.applied];
        if node.disk.entries.get(..node.applied) != Some(applied) || node.applied > commit {
            return Err(format!("{id} applied what is not committed or not durable"));
        }
        if commit > self.committed.len() {
            let prefix = node.log[..commit].to_vec();
            durable_on_a_quorum(nodes, node, &prefix)?;
            self.committed = prefix;
        }
        Ok(())
    }

    /// What is committed in a term is in the log of every leader of a later one (§5.4).
    fn leader_completeness(&self, nodes: &[&Node]) -> Result<(), String> {
        let Some(last) = self.committed.last() else {
            return Ok(());
        };
        let later = |node: &&&Node| node.is_leader() && node.core.term() > last.term;
        match nodes
            .iter()
            .filter(later)
            .find(|node| !node.log.starts_with(&self.committed))
        {
            None => Ok(()),
            Some(node) => Err(format!(
                "leader completeness: {} leads term {} without {}",
                node.core.id(),
                node.core.term(),
                last.position()
            )),
        }
    }

    /// Durable terms never go back, a vote in a term never changes, and the commit index does not
    /// go back within a boot.
    fn nothing_regresses(&mut self, nodes: &[&Node], changed: usize) -> Result<(), String> {
        if self.commits.is_empty() {
            self.commits = vec![0; nodes.len()];
            self.hard_states = nodes.iter().map(|node| node.disk.hard_state).collect();
        }
        let node = nodes[changed];
        let (id, commit) = (node.core.id(), node.core.commit_index().0);
        let before = std::mem::replace(&mut self.commits[changed], commit);
        if commit < before {
            return Err(format!(
                "{id}'s commit index went back from {before} to {commit}"
            ));
        }
        let now = node.disk.hard_state;
        let before = std::mem::replace(&mut self.hard_states[changed], now);
        let is_same_vote = before.vote.is_none() || now.vote == before.vote;
        if now.term < before.term || (now.term == before.term && !is_same_vote) {
            return Err(format!("{id}'s hard state went from {before:?} to {now:?}"));
        }
        Ok(())
    }

    /// No vote and no acknowledgement leaves before it is durable; one vote a term (§5.2).
    fn promises_are_durable(&mut self, node: &Node, envelope: &Envelope) -> Result<(), String> {
        let (from, to) = (envelope.from, envelope.to);
        match &envelope.message {
            Message::VoteResponse(response) if response.granted => {
                let vote = HardState {
                    term: response.term,
                    vote: Some(to),
                };
                if node.disk.hard_state != vote {
                    return Err(format!("{from} votes for {to} before that is durable"));
                }
                self.voted(response.term, from, to)
            }
            Message::VoteRequest(request) => {
                if node.disk.hard_state.vote != Some(from) {
                    return Err(format!("{from} asks for votes before its own is durable"));
                }
                self.voted(request.term, from, from)
            }
            Message::AppendResponse(response)
                if response.outcome == AppendOutcome::Accepted
                    && node.disk.hard_state.term < response.term =>
            {
                Err(format!("{from} acknowledges before its term is durable"))
            }
            Message::PreVoteRequest(_)
            | Message::PreVoteResponse(_)
            | Message::VoteResponse(_)
            | Message::AppendRequest(_)
            | Message::AppendResponse(_)
            | Message::Heartbeat(_)
            | Message::HeartbeatResponse(_)
            | Message::TimeoutNow(_)
            | Message::ReadIndexRequest(_)
            | Message::ReadIndexResponse(_)
            | Message::InstallSnapshotRequest(_)
            | Message::InstallSnapshotResponse(_)
            | Message::FetchSnapshotRequest(_)
            | Message::FetchSnapshotResponse(_)
            | Message::FetchEntriesRequest(_)
            | Message::FetchEntriesResponse(_)
            | Message::DescribeSnapshotRequest(_)
            | Message::DescribeSnapshotResponse(_)
            | Message::RecountRequest(_)
            | Message::RecountOffer(_)
            | Message::RecountResponse(_)
            | Message::Hello(_)
            | Message::HelloResponse(_)
            | Message::GatherRequest(_)
            | Message::GatherResponse(_)
            | Message::GatherAbandoned(_)
            | Message::AdoptRequest(_)
            | Message::AdoptResponse(_)
            | Message::ComparisonReport(_) => Ok(()),
        }
    }

    fn voted(&mut self, term: Term, voter: NodeId, candidate: NodeId) -> Result<(), String> {
        let mut votes = self.votes.iter();
        match votes.find(|(at, by, _)| (*at, *by) == (term, voter)) {
            Some((_, _, other)) if *other != candidate => Err(format!(
                "{voter} votes for {other} and {candidate} in term {term}"
            )),
            Some(_) => Ok(()),
            None => {
                self.votes.push((term, voter, candidate));
                self.votes.sort_unstable();
                Ok(())
            }
        }
    }
}

/// If two logs have an entry with the same index and term, they are identical up to it (§5.3).
fn log_matching(nodes: &[&Node], node: &Node) -> Result<(), String> {
    for other in nodes {
        for (one, two) in [
            (&node.log, &other.log),
            (&node.disk.entries, &other.disk.entries),
            (&node.log, &other.disk.entries),
        ] {
            let both = one.iter().zip(two.iter());
            let common = both.rev().position(|(a, b)| a.term == b.term);
            let shorter = one.len().min(two.len());
            let equal = common.map_or(0, |from_end| shorter - from_end);
            if one[..equal] != two[..equal] {
                return Err(format!(
                    "log matching: {} and {} differ before index {equal}",
                    node.core.id(),
                    other.core.id()
                ));
            }
        }
    }
    Ok(())
}

fn durable_on_a_quorum(nodes: &[&Node], node: &Node, prefix: &[Entry]) -> Result<(), String> {
    let holds = |id: &&NodeId| {
        let holder = nodes.iter().find(|holder| holder.core.id() == **id);
        holder.is_some_and(|holder| holder.disk.entries.starts_with(prefix))
    };
    let membership = node.core.membership();
    for half in [&membership.voters, &membership.outgoing] {
        let holders = half.iter().filter(holds).count();
        if !half.is_empty() && holders * 2 <= half.len() {
            return Err(format!(
                "{} takes {} for committed, which {holders} of {half:?} hold",
                node.core.id(),
                prefix.len()
            ));
        }
    }
    Ok(())
}
