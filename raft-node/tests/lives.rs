//! Whose answers count, whom a leader binds, and who stays quiet: the driver alone, message by
//! message. A life is one incarnation of a node's data directory.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use raft_core::{Config, IndexRange, PersistId, RaftCore, Recovered, Role, Time};
use raft_node::driver::{ChangeWaiter, Driver, DriverLimits, Input, Output};
use raft_node::{ChangeSafety, MembershipChange};
use raft_proto::{
    AppendOutcome, AppendResponse, Boot, FetchEntriesResponse, HardState, Heartbeat,
    HeartbeatResponse, HelloResponse, Incarnation, LogIndex, LogPosition, Member, Membership,
    Message, NodeId, PreVoteResponse, Promotion, Refusal, Term, TermRun, VoteResponse,
};

/// Node 1, whose disk and peers are the test.
struct Node {
    driver: Driver,
    now: Time,
    sent: Vec<(NodeId, Message)>,
    writing: Option<PersistId>,
    peers: Membership,
    leaving: Vec<NodeId>,
}

fn life(number: u64) -> Incarnation {
    Incarnation(number)
}

fn member(id: u64, incarnation: Option<Incarnation>) -> (NodeId, Member) {
    let address = format!("n{id}:1");
    (
        NodeId(id),
        Member {
            incarnation,
            address,
        },
    )
}

impl Node {
    /// Node 1 in its life 10 of a cluster of nodes 1 to 3, which names the lives 10, 20 and 30.
    fn new(own: Incarnation) -> Self {
        let voters = (1..=3).map(|id| member(id, Some(life(id * 10))));
        Self::of(own, Membership::of_voters(voters))
    }

    fn of(own: Incarnation, membership: Membership) -> Self {
        let recovered = Recovered::bootstrap(membership.clone(), Boot::default()).unwrap();
        Self::recovered(own, membership, recovered)
    }

    fn recovered(own: Incarnation, membership: Membership, recovered: Recovered) -> Self {
        let config = Config {
            incarnation: Some(own),
            ..Config::new(NodeId(1))
        };
        let core = RaftCore::new(config, recovered, Time::ZERO).unwrap();
        Self {
            driver: Driver::new(core, DriverLimits::default(), None),
            now: Time::ZERO,
            sent: Vec::new(),
            writing: None,
            peers: membership,
            leaving: Vec::new(),
        }
    }

    /// The leader of a cluster of its own, with its first entry committed.
    fn alone() -> Self {
        let only = Membership::of_voters([member(1, Some(life(10)))]);
        let mut node = Self::of(life(10), only);
        node.pass_time();
        node.sync();
        node.sync();
        assert_eq!(node.role(), Role::Leader);
        node
    }

    fn role(&self) -> Role {
        self.driver.core().role()
    }

    fn give(&mut self, input: Input) {
        self.driver.handle(self.now, input);
        self.flush();
    }

    fn hear(&mut self, from: u64, message: impl Into<Message>) {
        let (from, message) = (NodeId(from), message.into());
        self.give(Input::Message {
            from,
            uncounted: false,
            message,
        });
    }

    fn connect(&mut self, peer: u64, incarnation: Incarnation) {
        let boot = Boot {
            counter: 1,
            nonce: incarnation.0,
        };
        self.give(Input::PeerUp {
            peer: NodeId(peer),
            incarnation,
            boot,
            version: raft_proto::ProtocolVersion::NEWEST,
        });
    }

    fn flush(&mut self) {
        self.driver.flush(self.now);
        while let Some(output) = self.driver.poll_output() {
            if let Output::Write { id, .. } = output {
                self.writing = Some(id);
            } else if let Output::Send { to, message, .. } = output {
                self.sent.push((to, message));
            } else if let Output::Peers {
                membership,
                leaving,
            } = output
            {
                self.peers = membership;
                self.leaving = leaving.into_iter().map(|(id, _)| id).collect();
            }
        }
    }

    fn sync(&mut self) {
        if let Some(id) = self.writing.take() {
            self.give(Input::Persisted(id));
        }
    }

    fn pass_time(&mut self) {
        self.now = self.driver.poll_timeout().unwrap();
        self.driver.handle_timeout(self.now);
        self.flush();
    }

    fn change(&mut self, change: MembershipChange) {
        self.give(Input::ChangeMembership {
            changes: vec![change],
            safety: ChangeSafety::Force,
            waiter: ChangeWaiter::new(|outcome| drop(outcome.unwrap())),
        });
    }

    fn add(&mut self, id: u64) {
        let (id, member) = member(id, None);
        self.change(MembershipChange::AddLearner {
            id,
            member,
            promotion: Promotion::Manual,
        });
    }

    fn bound(&self, id: u64) -> Option<Incarnation> {
        self.driver.core().membership().members[&NodeId(id)].incarnation
    }

    /// The node of this id answers a heartbeat.
    fn hear_sign_of_life(&mut self, from: u64) {
        let term = self.driver.core().term();
        self.hear(from, HeartbeatResponse { term, round: 1 });
    }

    fn told(&mut self, id: u64) -> bool {
        let refusal = Some(Refusal::NotAMember);
        let word = (NodeId(id), HelloResponse { refusal }.into());
        let was_told = self.sent.contains(&word);
        self.sent.retain(|sent| *sent != word);
        was_told
    }
}

#[test]
fn votes_of_a_life_that_the_membership_does_not_name_count_for_nothing() {
    let mut node = Node::new(life(10));
    node.connect(2, life(21));
    while node.role() != Role::PreCandidate {
        node.pass_time();
    }
    let (granted, term) = (true, node.driver.core().term().next());
    node.hear(2, PreVoteResponse { term, granted });
    assert_eq!(node.role(), Role::PreCandidate, "a wiped node answered");
    node.hear(3, PreVoteResponse { term, granted });
    assert_eq!(node.role(), Role::PreCandidate, "nobody knows who that is");
    node.connect(3, life(30));
    node.hear(3, PreVoteResponse { term, granted });
    assert_eq!(node.role(), Role::Candidate);
    node.sync();
    node.hear(2, VoteResponse { term, granted });
    assert_eq!(node.role(), Role::Candidate, "a wiped node voted");
    node.give(Input::PeerDown { peer: NodeId(2) });
    node.hear(2, VoteResponse { term, granted });
    assert_eq!(node.role(), Role::Candidate, "late, it counts as little");
    node.connect(2, life(20));
    node.give(Input::PeerDown { peer: NodeId(2) });
    node.hear(2, VoteResponse { term, granted });
    assert_eq!(node.role(), Role::Leader, "a late vote is a vote");
}

/// Nodes 1 to 4 had the missing entry 3 in force with node 2 in its life 20, which entry 5 replaces by
/// its life 21. Two denials say that entry 3 was never committed: of lives that entry 1 names.
#[test]
fn what_another_life_never_had_its_former_one_may_have_acknowledged() {
    let first = Membership::of_voters((1..=4).map(|id| member(id, Some(life(id * 10)))));
    let without = Membership::of_voters([1, 3, 4].map(|id| member(id, Some(life(id * 10)))));
    let mut replaced = without.clone();
    replaced.members.extend([member(2, Some(life(21)))]);
    replaced.learners.insert(NodeId(2), Promotion::Manual);
    let changes = [(1, &first), (4, &without), (5, &replaced)];
    let hole = IndexRange {
        first: LogIndex(3),
        last: LogIndex(3),
    };
    let recovered = Recovered {
        hard_state: HardState {
            term: Term(1),
            vote: None,
        },
        last: LogPosition {
            index: LogIndex(5),
            term: Term(1),
        },
        term_runs: vec![TermRun {
            first: LogIndex(1),
            term: Term(1),
        }],
        entry_sizes: vec![100; 5],
        memberships: changes
            .map(|(index, membership)| (LogIndex(index), membership.clone()))
            .to_vec(),
        missing: vec![hole],
        ..Recovered::empty(Boot::default())
    };
    let mut node = Node::recovered(life(10), replaced, recovered);
    let denial = || FetchEntriesResponse {
        term: Term(2),
        entries: Vec::new(),
        never_had: vec![LogPosition {
            index: LogIndex(3),
            term: Term(1),
        }],
        unavailable: Vec::new(),
    };
    let misses = |node: &Node| node.driver.core().missing().any(|range| range == hole);
    node.connect(2, life(21));
    node.connect(3, life(30));
    node.connect(4, life(41));
    node.hear(2, denial());
    node.hear(3, denial());
    assert!(misses(&node), "node 2 is another one now");
    node.hear(4, denial());
    assert!(
        misses(&node),
        "the membership does not name this life of node 4"
    );
    node.connect(4, life(40));
    node.hear(4, denial());
    assert!(!misses(&node), "two voters never had it");
    assert_eq!(node.driver.core().last_position().index, LogIndex(2));
}

#[test]
fn a_leader_of_another_life_is_heard_all_the_same() {
    let mut node = Node::new(life(10));
    node.connect(2, life(21));
    let heartbeat = Heartbeat {
        term: Term(7),
        round: 1,
        commit_index: LogIndex::ZERO,
    };
    node.hear(2, heartbeat);
    assert_eq!(node.driver.core().leader(), Some(NodeId(2)));
}

#[test]
fn who_is_not_the_life_that_the_first_membership_names_never_campaigns() {
    let mut node = Node::new(life(11));
    for _ in 0..20 {
        node.pass_time();
        assert_eq!(node.role(), Role::Follower);
    }
    assert!(node.sent.is_empty(), "it asks nobody: {:?}", node.sent);
}

#[test]
fn a_member_is_bound_to_the_life_that_was_heard_of_since_it_was_added() {
    let mut node = Node::alone();
    // Its process is dead by now, and nobody has noticed.
    node.connect(4, life(40));
    node.add(4);
    node.sync();
    node.pass_time();
    node.sync();
    assert_eq!(node.bound(4), None, "a connection is no sign of life");
    node.connect(4, life(41));
    node.hear_sign_of_life(4);
    assert_eq!(node.bound(4), Some(life(41)));
    node.sync();
    assert_eq!(node.bound(4), Some(life(41)));
}

#[test]
fn binding_waits_for_the_change_that_is_in_flight() {
    let mut node = Node::alone();
    node.connect(4, life(40));
    node.add(4);
    node.hear_sign_of_life(4);
    assert_eq!(node.bound(4), None, "adding it is not committed yet");
    node.sync();
    assert_eq!(node.bound(4), Some(life(40)));
}

#[test]
fn what_an_earlier_life_acknowledged_does_not_count_for_the_next() {
    let mut node = Node::alone();
    node.add(4);
    node.sync();
    node.connect(4, life(40));
    let acknowledge = |node: &mut Node| {
        let term = node.driver.core().term();
        for (to, message) in std::mem::take(&mut node.sent) {
            if let (NodeId(4), Message::AppendRequest(request)) = (to, message) {
                node.driver.handle(
                    node.now,
                    Input::Message {
                        from: to,
                        uncounted: false,
                        message: AppendResponse {
                            term,
                            sequence: request.sequence,
                            outcome: AppendOutcome::Accepted,
                        }
                        .into(),
                    },
                );
            }
        }
    };
    acknowledge(&mut node);
    let matched = |node: &Node| node.driver.core().peers().next().unwrap().match_index;
    assert!(matched(&node) > LogIndex::ZERO);
    node.connect(4, life(41));
    assert_eq!(matched(&node), LogIndex::ZERO);
}

#[test]
fn strangers_are_told_once_the_leader_is_certain_and_again_if_they_ask() {
    let mut node = Node::alone();
    node.connect(5, life(50));
    assert!(node.told(5));
    node.pass_time();
    assert!(!node.told(5), "once is enough for a while");
    node.add(5);
    node.sync();
    assert!(!node.told(5));
    node.change(MembershipChange::Remove(NodeId(5)));
    assert!(!node.told(5), "its removal is not committed");
    node.sync();
    assert!(node.told(5));
    let ask = raft_proto::PreVoteRequest {
        term: Term(9),
        last_log: node.driver.core().last_position(),
    };
    node.hear(5, ask);
    assert!(node.told(5), "it has not taken note");
}

#[test]
fn who_is_told_that_it_was_removed_stays_quiet_until_a_leader_wants_it_or_is_lost() {
    let word = HelloResponse {
        refusal: Some(Refusal::NotAMember),
    };
    let mut node = Node::new(life(10));
    node.connect(2, life(20));
    node.hear(2, word.clone());
    assert!(node.driver.core().is_removed());
    for _ in 0..20 {
        node.pass_time();
    }
    assert_eq!(node.role(), Role::Follower);
    let heartbeat = Heartbeat {
        term: Term(7),
        round: 1,
        commit_index: LogIndex::ZERO,
    };
    node.hear(3, heartbeat);
    assert!(!node.driver.core().is_removed(), "it was added again");
    // A late word of another node changes nothing while a leader is there.
    node.hear(2, word.clone());
    assert!(!node.driver.core().is_removed());
    node.give(Input::PeerDown { peer: NodeId(3) });
    node.hear(2, word);
    assert!(node.driver.core().is_removed());
    node.give(Input::PeerDown { peer: NodeId(2) });
    assert!(!node.driver.core().is_removed(), "who said so is gone");
}

#[test]
fn members_that_leave_stay_connected_until_that_is_committed() {
    let mut node = Node::alone();
    node.add(4);
    node.sync();
    node.change(MembershipChange::Remove(NodeId(4)));
    assert!(!node.peers.contains(NodeId(4)));
    assert_eq!(node.leaving, [NodeId(4)]);
    node.sync();
    assert!(node.leaving.is_empty());
}
