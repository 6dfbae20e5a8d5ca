//! The harness of MIT 6.824's Raft tests, in virtual time: the same checks and bounds, on the real
//! driver, core and log.

use bytes::Bytes;
use raft_core::Role;
use raft_node::{Applied, Small, SmallState};
use raft_proto::{LogIndex, NodeId, Term};
use raft_sim::{Cluster, ClusterOptions, LinkOptions};

/// Pause between two looks for a leader.
const LOOK_AGAIN_MS: u64 = 10;
/// The lab's election bound, in milliseconds.
pub(crate) const ELECTION_MS: u64 = 1_000;
/// The lab's bound for an agreement, in milliseconds.
pub(crate) const AGREEMENT_MS: u64 = 10_000;
/// How long the lab waits for one proposal before it tries elsewhere, in milliseconds.
const PROPOSAL_MS: u64 = 2_000;

/// Runs a scenario for each of the first seeds (`RAFT_SIM_SEEDS` says how many), or only for the
/// one in `RAFT_SIM_SEED`.
pub(crate) fn for_seeds(count: u64, scenario: impl Fn(u64)) {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse().ok())
    };
    match number("RAFT_SIM_SEED") {
        Some(seed) => scenario(seed),
        None => (1..=number("RAFT_SIM_SEEDS").unwrap_or(count)).for_each(scenario),
    }
}

/// Replicated state that only counts; the world keeps the commands.
struct Counter(u64);

impl SmallState for Counter {
    fn apply(&mut self, _applied: Applied<'_>) -> Bytes {
        self.0 += 1;
        self.0.to_string().into()
    }

    fn query(&mut self, _query: &Bytes) -> Bytes {
        self.0.to_string().into()
    }

    fn save(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }

    fn load(&mut self, saved: &[u8]) -> std::io::Result<()> {
        let number = saved.try_into().map_err(std::io::Error::other)?;
        self.0 = u64::from_le_bytes(number);
        Ok(())
    }
}

/// Whether a command that was not agreed on in time may be proposed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    Yes,
    No,
}

/// A cluster under the lab's tests.
pub(crate) struct Lab {
    pub(crate) cluster: Cluster,
    pub(crate) nodes: Vec<NodeId>,
    next_command: u64,
    next_start: usize,
}

impl Lab {
    pub(crate) fn new(nodes: u64, seed: u64) -> Self {
        Self::with_links(nodes, seed, LinkOptions::reliable())
    }

    pub(crate) fn with_links(nodes: u64, seed: u64, links: LinkOptions) -> Self {
        Self::with_options(ClusterOptions::new(nodes).seed(seed).links(links))
    }

    pub(crate) fn with_options(options: ClusterOptions) -> Self {
        let cluster = Cluster::new(options, |_| Small::boxed(Counter(0)));
        Self {
            nodes: cluster.node_ids(),
            cluster,
            next_command: 100,
            next_start: 0,
        }
    }

    /// The node `offset` places after `node`, around the circle.
    pub(crate) fn after(&self, node: NodeId, offset: usize) -> NodeId {
        let at = (node.0 as usize - 1 + offset) % self.nodes.len();
        self.nodes[at]
    }

    pub(crate) fn run_ms(&mut self, ms: u64) {
        self.cluster.run_for_ms(ms);
    }

    /// A command that was never proposed before.
    pub(crate) fn command(&mut self) -> Bytes {
        self.next_command += 1;
        self.next_command.to_string().into()
    }

    fn leaders(&self) -> Vec<(Term, NodeId)> {
        let connected = self
            .nodes
            .iter()
            .filter(|id| self.cluster.is_connected(**id));
        let states = connected.filter_map(|id| Some((self.cluster.state(*id)?, *id)));
        states
            .filter(|((_, role), _)| *role == Role::Leader)
            .map(|((term, _), id)| (term, id))
            .collect()
    }

    /// Expects one leader among the connected nodes within the lab's election bound, and returns
    /// it: looks after half of the bound, as the lab does, and then until the whole.
    pub(crate) fn check_one_leader(&mut self) -> NodeId {
        let pause = 450 + self.cluster.random().below(100);
        self.run_ms(pause);
        let mut passed = pause;
        while passed < ELECTION_MS && self.leaders().is_empty() {
            self.run_ms(LOOK_AGAIN_MS);
            passed += LOOK_AGAIN_MS;
        }
        let leaders = self.leaders();
        let Some((latest, leader)) = leaders.iter().max() else {
            panic!("expected one leader within {ELECTION_MS} ms, got none");
        };
        let of_latest = leaders.iter().filter(|(term, _)| term == latest);
        assert_eq!(of_latest.count(), 1, "{leaders:?}");
        *leader
    }

    /// Expects a leader among the connected nodes within the lab's election bound.
    pub(crate) fn elect_in_time(&mut self) -> NodeId {
        let elected = self
            .cluster
            .run_until(ELECTION_MS, |cluster| cluster.leader().is_some());
        assert!(elected, "no leader within {ELECTION_MS} ms");
        self.cluster.leader().expect("it was just elected")
    }

    pub(crate) fn check_no_leader(&self) {
        assert_eq!(self.leaders(), [], "no node has a quorum");
    }

    /// Expects that all connected nodes are in the same term, and returns it.
    pub(crate) fn check_terms(&self) -> Term {
        let connected = self
            .nodes
            .iter()
            .filter(|id| self.cluster.is_connected(**id));
        let terms: Vec<Term> = connected
            .filter_map(|id| Some(self.cluster.state(*id)?.0))
            .collect();
        assert!(terms.windows(2).all(|pair| pair[0] == pair[1]), "{terms:?}");
        terms[0]
    }

    /// How many nodes have applied the entry at this index.
    pub(crate) fn n_committed(&self, index: LogIndex) -> usize {
        self.cluster.applied_by(index)
    }

    /// How many commands were applied up to this index: what the lab, which has no entries of
    /// Raft's own, calls the index.
    pub(crate) fn ordinal(&self, index: LogIndex) -> usize {
        let applied = self.cluster.applied_commands();
        applied
            .filter(|command| command.position.index <= index)
            .count()
    }

    /// Proposes at a node; `None` if it does not lead.
    pub(crate) fn start(&mut self, node: NodeId) -> Option<(LogIndex, Bytes)> {
        let command = self.command();
        let proposed = self.cluster.propose(node, command.clone()).ok()?;
        Some((proposed.position.index, command))
    }

    /// Gets a new command agreed on by at least `expected` nodes within the lab's bound, and
    /// returns its index.
    pub(crate) fn one(&mut self, expected: usize, retry: Retry) -> LogIndex {
        let command = self.command();
        self.agree(&command, expected, retry)
    }

    pub(crate) fn agree(&mut self, command: &Bytes, expected: usize, retry: Retry) -> LogIndex {
        let deadline = self.cluster.now().plus_ms(AGREEMENT_MS);
        while self.cluster.now() < deadline {
            let Some(index) = self.propose_anywhere(command) else {
                self.run_ms(50);
                continue;
            };
            let agreed = self.cluster.run_until(PROPOSAL_MS, |cluster| {
                cluster.applied_by(index) >= expected
                    && cluster
                        .applied_command(index)
                        .is_some_and(|a| a.command == command)
            });
            if agreed {
                return index;
            }
            assert_eq!(retry, Retry::Yes, "{command:?} was not agreed on");
        }
        panic!("{command:?} was not agreed on by {expected} nodes within {AGREEMENT_MS} ms");
    }

    fn propose_anywhere(&mut self, command: &Bytes) -> Option<LogIndex> {
        for _ in 0..self.nodes.len() {
            self.next_start = (self.next_start + 1) % self.nodes.len();
            let node = self.nodes[self.next_start];
            if self.cluster.is_connected(node)
                && let Ok(proposed) = self.cluster.propose(node, command.clone())
            {
                return Some(proposed.position.index);
            }
        }
        None
    }

    /// Waits until `expected` nodes have applied the entry at this index.
    pub(crate) fn wait(&mut self, index: LogIndex, expected: usize) {
        let applied = self.cluster.run_until(AGREEMENT_MS, |cluster| {
            cluster.applied_by(index) >= expected
        });
        assert!(applied, "{index} was not applied by {expected} nodes");
    }

    pub(crate) fn disconnect(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        nodes
            .into_iter()
            .for_each(|node| self.cluster.disconnect(node));
    }

    pub(crate) fn connect(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        nodes
            .into_iter()
            .for_each(|node| self.cluster.connect(node));
    }

    /// Kills a node, if it runs, and starts it again from its disk.
    pub(crate) fn restart(&mut self, node: NodeId) {
        self.cluster.crash(node);
        self.cluster.restart(node);
    }

    /// Starts every node that does not run, and connects all of them.
    pub(crate) fn bring_all_back(&mut self) {
        for node in self.nodes.clone() {
            if !self.cluster.is_running(node) {
                self.cluster.restart(node);
            }
            self.cluster.connect(node);
        }
    }
}
