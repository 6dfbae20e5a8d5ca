//! Nodes come and go: real threads and files, a network inside the process.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use raft_core::Role;
use raft_log::{DataDir, LogOptions, vfs::RealVfs};
use raft_node::{
    Applied, ChangeError, ChangeSafety, MembershipChange, MemoryNetwork, NodeState, Parts, Raft,
    RaftConfig, StateMachine,
};
use raft_proto::{Member, Membership, NodeId, Promotion};
use tempfile::TempDir;

/// Generous: it only ends a test that hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Remembers every command once, in order, separated by a space.
#[derive(Default)]
struct Journal(Vec<u8>);

impl StateMachine for Journal {
    fn apply(&mut self, applied: Applied<'_>) -> Bytes {
        self.0.extend_from_slice(applied.command);
        self.0.push(b' ');
        Bytes::copy_from_slice(applied.command)
    }

    fn query(&mut self, _query: &Bytes) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }
}

struct Group {
    network: MemoryNetwork,
    home: TempDir,
    nodes: BTreeMap<u64, Raft>,
}

impl Group {
    async fn start(size: u64) -> Self {
        let mut group = Self {
            network: MemoryNetwork::new(),
            home: tempfile::tempdir().unwrap(),
            nodes: BTreeMap::new(),
        };
        let voters: Vec<_> = (1..=size).map(|id| (NodeId(id), address(id))).collect();
        for id in 1..=size {
            group.boot(id, RaftConfig::new(NodeId(id), voters.clone()));
        }
        for node in group.nodes.values() {
            let running = node.wait_for(|s| matches!(s, NodeState::Running { .. }));
            assert!(matches!(running.await, NodeState::Running { .. }));
        }
        group
    }

    fn boot(&mut self, id: u64, mut config: RaftConfig) {
        config.log = LogOptions::small();
        let path = self.home.path().join(id.to_string());
        let parts = Parts {
            directory: DataDir::open(RealVfs::shared(), &path, NodeId(id)).unwrap(),
            machine: Box::<Journal>::default(),
            transport: self.network.transport(NodeId(id)),
        };
        self.nodes.insert(id, Raft::start(config, parts).unwrap());
    }

    async fn leader(&self) -> u64 {
        loop {
            for (id, node) in &self.nodes {
                let status = node.status().await;
                if status.is_some_and(|status| status.role == Role::Leader) {
                    return *id;
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Asks whoever leads, again while it is only busy.
    async fn change(&self, changes: &[MembershipChange]) -> Result<Membership, ChangeError> {
        loop {
            let leader = &self.nodes[&self.leader().await];
            let changed = leader.change_membership(changes.to_vec(), ChangeSafety::KeepQuorum);
            match changed.await {
                Err(
                    ChangeError::NotLeader { .. } | ChangeError::NotReady | ChangeError::InProgress,
                ) => tokio::task::yield_now().await,
                outcome => return outcome,
            }
        }
    }

    async fn stop(self) {
        for node in self.nodes.into_values() {
            node.shutdown().await.unwrap();
        }
    }
}

fn address(id: u64) -> String {
    format!("n{id}:1")
}

fn add(id: u64, promotion: Promotion) -> MembershipChange {
    MembershipChange::AddLearner {
        id: NodeId(id),
        member: Member {
            incarnation: None,
            address: address(id),
        },
        promotion,
    }
}

fn voters(membership: &Membership) -> Vec<u64> {
    membership.voters.iter().map(|id| id.0).collect()
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await });
    ended.expect("the test hangs");
}

#[test]
fn a_leader_that_removes_itself_answers_and_another_one_leads() {
    run(async {
        let group = Group::start(3).await;
        let old = group.leader().await;
        let changed = group.change(&[MembershipChange::Remove(NodeId(old))]).await;
        let rest: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
        assert_eq!(voters(&changed.unwrap()), rest);
        let new = loop {
            let leader = group.leader().await;
            if leader != old {
                break leader;
            }
            tokio::task::yield_now().await;
        };
        let proposal = group.nodes[&new].propose(Bytes::from_static(b"later"));
        assert_eq!(proposal.await.unwrap().outcome().await.unwrap(), "later");
        group.stop().await;
    });
}

#[test]
fn what_cannot_be_done_is_refused_with_a_reason() {
    run(async {
        let group = Group::start(3).await;
        let leader = group.leader().await;
        let other = (leader % 3) + 1;
        let refused = |changes| {
            let group = &group;
            async move { group.change(changes).await.unwrap_err() }
        };
        let twice = [add(other, Promotion::Auto)];
        assert_eq!(
            refused(&twice).await,
            ChangeError::AlreadyAMember(NodeId(other))
        );
        let unknown = [MembershipChange::Remove(NodeId(9))];
        assert_eq!(refused(&unknown).await, ChangeError::NotAMember(NodeId(9)));
        let all = [1, 2, 3].map(|id| MembershipChange::Remove(NodeId(id)));
        assert_eq!(refused(&all).await, ChangeError::LastVoter);
        let MembershipChange::AddLearner { mut member, .. } = add(4, Promotion::Manual) else {
            unreachable!("it adds");
        };
        member.address = address(2);
        let taken = [MembershipChange::AddLearner {
            id: NodeId(4),
            member,
            promotion: Promotion::Manual,
        }];
        let in_use = ChangeError::AddressInUse {
            member: NodeId(2),
            address: address(2),
        };
        assert_eq!(refused(&taken).await, in_use);
        let changed = group.change(&[add(4, Promotion::Manual)]).await.unwrap();
        assert_eq!(changed.learners, [(NodeId(4), Promotion::Manual)].into());
        let absent = [MembershipChange::Promote(NodeId(4))];
        assert_eq!(refused(&absent).await, ChangeError::NotCounted(NodeId(4)));
        let follower = group.nodes[&other].change_membership(absent.into(), ChangeSafety::Force);
        let error = follower.await.unwrap_err();
        assert!(
            matches!(error, ChangeError::NotLeader { .. }),
            "only a leader changes the membership: {error}"
        );
        group.stop().await;
    });
}

#[test]
fn a_removal_that_would_stop_the_cluster_needs_force() {
    run(async {
        let mut group = Group::start(3).await;
        let leader = group.leader().await;
        let (down, third) = ((leader % 3) + 1, ((leader + 1) % 3) + 1);
        group.nodes.remove(&down).unwrap().shutdown().await.unwrap();
        // It counts as in contact until an election timeout has passed without a word of it.
        let removal = vec![MembershipChange::Remove(NodeId(third))];
        let silent = Duration::from_secs(1);
        loop {
            let status = group.nodes[&leader].status().await.unwrap();
            let peer = status.peers.iter().find(|peer| peer.id == NodeId(down));
            if peer.is_none_or(|peer| peer.silent_for > silent) {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(
            group.change(&removal).await,
            Err(ChangeError::WouldLoseQuorum {
                voters: 2,
                reached: 1,
                missing: vec![NodeId(down)],
            })
        );
        // The one that is down may go: both of the others are there.
        let dead = [MembershipChange::Remove(NodeId(down))];
        assert_eq!(voters(&group.change(&dead).await.unwrap()).len(), 2);
        group.stop().await;
    });
}
