//! Nodes come and go: real threads and files, a network inside the process or QUIC on loopback.
#![cfg(feature = "quic")]
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use raft_core::Role;
use raft_log::{DataDir, LogOptions, vfs::RealVfs};
use raft_net::{NetLimits, NetTiming, TlsIdentity};
use raft_node::{
    Applied, ChangeError, ChangeSafety, MembershipChange, MemoryNetwork, NodeState, Parts,
    QuicBuilder, Raft, RaftConfig, ReadConsistency, Small, SmallState, Status, TransportBuilder,
};
use raft_proto::{Member, Membership, NodeId, Promotion};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

#[path = "support/leader.rs"]
mod leader;
#[path = "support/patience.rs"]
mod patience;

use leader::leader;
use patience::run;

/// Between two looks at something that takes a while.
const POLL: Duration = Duration::from_millis(2);

/// Takes each command once, however often it is proposed, and remembers them in order.
#[derive(Default)]
struct Journal {
    text: Vec<u8>,
    seen: BTreeSet<Bytes>,
}

impl SmallState for Journal {
    fn apply(&mut self, applied: Applied<'_>) -> Bytes {
        if self.seen.insert(applied.command.clone()) {
            self.text.extend_from_slice(applied.command);
            self.text.push(b' ');
        }
        applied.command.clone()
    }

    fn query(&mut self, _query: &Bytes) -> Bytes {
        Bytes::copy_from_slice(&self.text)
    }

    fn save(&self) -> Bytes {
        Bytes::copy_from_slice(&self.text)
    }

    fn load(&mut self, saved: &[u8]) -> std::io::Result<()> {
        self.text = saved.to_vec();
        let commands = saved.split(|byte| *byte == b' ').filter(|c| !c.is_empty());
        self.seen = commands.map(Bytes::copy_from_slice).collect();
        Ok(())
    }
}

/// What carries the messages of a group.
#[derive(Clone, Copy, Debug)]
enum Carrier {
    Memory,
    Quic,
}

struct Group {
    carrier: Carrier,
    network: MemoryNetwork,
    authority: Authority,
    /// Where each node listens, with QUIC.
    addresses: BTreeMap<u64, SocketAddr>,
    home: TempDir,
    nodes: BTreeMap<u64, Raft>,
}

/// A certificate authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    fn node(&self, id: u64) -> TlsIdentity {
        let names = vec![format!("n{id}.test"), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        TlsIdentity::from_pem(&certificate, &key.serialize_pem(), &self.pem).unwrap()
    }
}

impl Group {
    async fn start(carrier: Carrier, size: u64) -> Self {
        // Every node that any test needs; the system chooses the ports.
        let sockets = (1..=6).map(|id| (id, UdpSocket::bind("127.0.0.1:0").unwrap()));
        let sockets: BTreeMap<u64, UdpSocket> = sockets.collect();
        let address = |socket: &UdpSocket| socket.local_addr().unwrap();
        let mut group = Self {
            carrier,
            network: MemoryNetwork::new(),
            authority: Authority::new(),
            addresses: sockets.iter().map(|(id, s)| (*id, address(s))).collect(),
            home: tempfile::tempdir().unwrap(),
            nodes: BTreeMap::new(),
        };
        drop(sockets);
        let voters = (1..=size).map(|id| (NodeId(id), group.address(id)));
        let voters: Vec<_> = voters.collect();
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
            machine: Small::boxed(Journal::default()),
            transport: self.transport(id),
        };
        self.nodes.insert(id, Raft::start(config, parts).unwrap());
    }

    fn transport(&self, id: u64) -> Box<dyn TransportBuilder> {
        match self.carrier {
            Carrier::Memory => self.network.transport(NodeId(id)),
            Carrier::Quic => Box::new(QuicBuilder {
                socket: UdpSocket::bind(self.addresses[&id]).unwrap(),
                cluster_name: "test".to_owned(),
                tls: self.authority.node(id),
                limits: NetLimits::default(),
                timing: NetTiming::default(),
                clients: None,
                stats: Arc::default(),
            }),
        }
    }

    fn address(&self, id: u64) -> String {
        match self.carrier {
            Carrier::Memory => format!("n{id}:1"),
            Carrier::Quic => self.addresses[&id].to_string(),
        }
    }

    fn add(&self, id: u64, promotion: Promotion) -> MembershipChange {
        MembershipChange::AddLearner {
            id: NodeId(id),
            member: Member {
                incarnation: None,
                address: self.address(id),
            },
            promotion,
        }
    }

    async fn leader(&self) -> u64 {
        leader(&self.nodes).await
    }

    /// Starts a node that waits to be added.
    fn join(&mut self, id: u64) {
        self.boot(id, RaftConfig::joining(NodeId(id)));
    }

    async fn shut_down(&mut self, id: u64) {
        self.nodes.remove(&id).unwrap().shutdown().await.unwrap();
    }

    fn wipe(&self, id: u64) {
        std::fs::remove_dir_all(self.home.path().join(id.to_string())).unwrap();
    }

    async fn status(&self, id: u64) -> Status {
        loop {
            match self.nodes[&id].status().await {
                Some(status) => return status,
                None => tokio::task::yield_now().await,
            }
        }
    }

    /// Waits until the node's status is as wanted.
    async fn reaches(&self, id: u64, wanted: impl Fn(&Status) -> bool) -> Status {
        loop {
            let status = self.status(id).await;
            if wanted(&status) {
                return status;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Proposes at whoever leads, again until it is applied.
    async fn write(&self, command: &str) {
        loop {
            let leader = &self.nodes[&self.leader().await];
            let command = Bytes::copy_from_slice(command.as_bytes());
            if let Ok(proposal) = leader.propose(command.clone()).await
                && let Ok(reply) = proposal.outcome().await
            {
                return assert_eq!(reply, command);
            }
        }
    }

    /// What a node's own state holds, once it holds what is committed now.
    async fn journal(&self, id: u64) -> String {
        loop {
            let read = self.nodes[&id].read(Bytes::new(), ReadConsistency::Linearizable);
            if let Ok(answer) = read.await {
                return String::from_utf8(answer.to_vec()).unwrap();
            }
        }
    }

    /// Adds a node and waits until it votes.
    async fn admit(&self, id: u64) {
        self.change(&[self.add(id, Promotion::Auto)]).await.unwrap();
        let is_voter = |status: &Status| status.membership.voters.contains(&NodeId(id));
        let leader = self.leader().await;
        self.reaches(leader, is_voter).await;
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

fn voters(membership: &Membership) -> Vec<u64> {
    membership.voters.iter().map(|id| id.0).collect()
}

/// On both kinds of networks.
fn on_both<T: Future<Output = ()>>(test: impl Fn(Carrier) -> T) {
    for carrier in [Carrier::Memory, Carrier::Quic] {
        run(test(carrier));
    }
}

#[test]
fn a_leader_that_removes_itself_answers_and_another_one_leads() {
    on_both(|carrier| async move {
        let group = Group::start(carrier, 3).await;
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
        let group = Group::start(Carrier::Memory, 3).await;
        let leader = group.leader().await;
        let other = (leader % 3) + 1;
        let refused = |changes| {
            let group = &group;
            async move { group.change(changes).await.unwrap_err() }
        };
        let twice = [group.add(other, Promotion::Auto)];
        assert_eq!(
            refused(&twice).await,
            ChangeError::AlreadyAMember(NodeId(other))
        );
        let unknown = [MembershipChange::Remove(NodeId(9))];
        assert_eq!(refused(&unknown).await, ChangeError::NotAMember(NodeId(9)));
        let all = [1, 2, 3].map(|id| MembershipChange::Remove(NodeId(id)));
        assert_eq!(refused(&all).await, ChangeError::LastVoter);
        let MembershipChange::AddLearner { mut member, .. } = group.add(4, Promotion::Manual)
        else {
            unreachable!("it adds");
        };
        member.address = group.address(2);
        let taken = [MembershipChange::AddLearner {
            id: NodeId(4),
            member,
            promotion: Promotion::Manual,
        }];
        let in_use = ChangeError::AddressInUse {
            member: NodeId(2),
            address: group.address(2),
        };
        assert_eq!(refused(&taken).await, in_use);
        let changed = group
            .change(&[group.add(4, Promotion::Manual)])
            .await
            .unwrap();
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
        let mut group = Group::start(Carrier::Memory, 3).await;
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

#[test]
fn a_new_leader_counts_on_nobody_that_has_not_answered_it() {
    run(async {
        let mut group = Group::start(Carrier::Memory, 3).await;
        let gone = group.leader().await;
        group.nodes.remove(&gone).unwrap().shutdown().await.unwrap();
        // Asked as soon as it leads: its predecessor might be alive for all it knows.
        let leader = group.leader().await;
        let third = 6 - gone - leader;
        let removal = [MembershipChange::Remove(NodeId(third))];
        assert_eq!(
            group.change(&removal).await,
            Err(ChangeError::WouldLoseQuorum {
                voters: 2,
                reached: 1,
                missing: vec![NodeId(gone)],
            })
        );
        group.stop().await;
    });
}

#[test]
fn a_node_that_joins_waits_by_name_then_has_everything_and_votes() {
    on_both(|carrier| async move {
        let mut group = Group::start(carrier, 1).await;
        group.write("early").await;
        group.join(2);
        let waiting = group.nodes[&2]
            .wait_for(|state| match state {
                NodeState::Forming { waiting_for } => waiting_for
                    .iter()
                    .any(|what| what.contains("member add 2=")),
                NodeState::Running { .. } | NodeState::Stopped(_) => true,
            })
            .await;
        assert!(matches!(waiting, NodeState::Forming { .. }), "{waiting:?}");
        group.admit(2).await;
        group.write("late").await;
        assert_eq!(group.journal(2).await, "early late ");
        let member = group.status(1).await.membership.members[&NodeId(2)].clone();
        assert!(member.incarnation.is_some(), "a voter is bound");
        // It needs nobody's address after a restart.
        group.shut_down(2).await;
        group.join(2);
        group.write("again").await;
        assert_eq!(group.journal(2).await, "early late again ");
        group.stop().await;
    });
}

#[test]
fn a_learner_stays_one_until_it_is_promoted() {
    run(async {
        let mut group = Group::start(Carrier::Memory, 1).await;
        group.join(2);
        group
            .change(&[group.add(2, Promotion::Manual)])
            .await
            .unwrap();
        group.write("a").await;
        assert_eq!(group.journal(2).await, "a ");
        group.shut_down(2).await;
        // A learner that is down holds up nothing.
        group.write("b").await;
        group.join(2);
        assert_eq!(group.journal(2).await, "a b ");
        let promotion = [MembershipChange::Promote(NodeId(2))];
        let learner = group.status(2).await;
        assert_eq!(learner.role, Role::Follower);
        assert!(learner.membership.learners.contains_key(&NodeId(2)));
        let promoted = loop {
            match group.change(&promotion).await {
                Err(ChangeError::Lagging(_)) => tokio::time::sleep(POLL).await,
                outcome => break outcome.unwrap(),
            }
        };
        assert_eq!(voters(&promoted), [1, 2]);
        group.stop().await;
    });
}

#[test]
fn a_removed_node_says_so_and_disturbs_nobody() {
    on_both(|carrier| async move {
        let mut group = Group::start(carrier, 3).await;
        let leader = group.leader().await;
        let removed = (leader % 3) + 1;
        let term = group.status(leader).await.term;
        let removal = [MembershipChange::Remove(NodeId(removed))];
        group.change(&removal).await.unwrap();
        group.reaches(removed, |status| status.is_removed).await;
        // Also when it is started again, and knows nothing but its old log.
        group.shut_down(removed).await;
        group.boot(removed, RaftConfig::new(NodeId(removed), Vec::new()));
        group.reaches(removed, |status| status.is_removed).await;
        group.write("x").await;
        let now = group.status(leader).await;
        assert_eq!((now.role, now.term), (Role::Leader, term));
        group.stop().await;
    });
}

#[test]
fn a_wiped_node_comes_back_under_its_id_once_it_is_added_again() {
    on_both(|carrier| async move {
        let mut group = Group::start(carrier, 3).await;
        group.write("a").await;
        let leader = group.leader().await;
        let wiped = (leader % 3) + 1;
        group.shut_down(wiped).await;
        group.wipe(wiped);
        let removal = [MembershipChange::Remove(NodeId(wiped))];
        group.change(&removal).await.unwrap();
        group.join(wiped);
        group.admit(wiped).await;
        assert_eq!(group.journal(wiped).await, "a ");
        group.stop().await;
    });
}

#[test]
fn all_nodes_are_replaced_one_by_one_under_load() {
    on_both(|carrier| async move {
        let mut group = Group::start(carrier, 3).await;
        let written = Arc::new(AtomicU64::new(0));
        let known: Arc<Mutex<Vec<Raft>>> = Arc::default();
        let share = |group: &Group| group.nodes.values().cloned().collect();
        *known.lock().unwrap() = share(&group);
        let is_over = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..3)
            .map(|client| {
                let (known, written) = (Arc::clone(&known), Arc::clone(&written));
                let is_over = Arc::clone(&is_over);
                tokio::spawn(async move {
                    let mut count = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        write_anywhere(&known, &format!("{client}.{count}")).await;
                        count += 1;
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                    count
                })
            })
            .collect();
        for (old, new) in [(1, 4), (2, 5), (3, 6)] {
            let before = written.load(Ordering::Relaxed);
            group.join(new);
            *known.lock().unwrap() = share(&group);
            group.admit(new).await;
            group
                .change(&[MembershipChange::Remove(NodeId(old))])
                .await
                .unwrap();
            group.shut_down(old).await;
            *known.lock().unwrap() = share(&group);
            while written.load(Ordering::Relaxed) == before {
                tokio::task::yield_now().await;
            }
        }
        is_over.store(true, Ordering::Relaxed);
        let mut expected = BTreeSet::new();
        for (client, task) in clients.into_iter().enumerate() {
            let count: u64 = task.await.unwrap();
            expected.extend((0..count).map(|n| format!("{client}.{n}")));
        }
        for id in 4..=6 {
            let journal = group.journal(id).await;
            let lines: Vec<&str> = journal.split_whitespace().collect();
            let found: BTreeSet<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            assert_eq!(found.len(), lines.len(), "nothing is there twice");
            assert_eq!(found, expected);
        }
        let status = group.status(4).await;
        assert_eq!(voters(&status.membership), [4, 5, 6]);
        group.stop().await;
    });
}

/// Proposes at one node after the other until one of them has applied it.
async fn write_anywhere(known: &Mutex<Vec<Raft>>, command: &str) {
    loop {
        let nodes = known.lock().unwrap().clone();
        for node in nodes {
            let command = Bytes::copy_from_slice(command.as_bytes());
            if let Ok(proposal) = node.propose(command).await
                && proposal.outcome().await.is_ok()
            {
                return;
            }
        }
        tokio::task::yield_now().await;
    }
}
