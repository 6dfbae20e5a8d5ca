//! Members are replaced one by one, by new nodes and by wiped ones, under load and random trouble.
//!
//! `RAFT_SIM_SEED=7 cargo test -p raft-sim --test membership` runs one seed, `RAFT_SIM_SEEDS=1000`
//! many.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::Role;
use raft_node::{ChangeSafety, MembershipChange, Small, SnapshotPolicy};
use raft_proto::{LogIndex, Membership, NodeId, Promotion};
use raft_sim::{Cluster, ClusterOptions, LinkOptions, Random, SimClient, Stream, Time};

#[path = "support/echo.rs"]
mod echo;

use echo::Echo;

/// Seeds in an ordinary run.
const SEEDS: u64 = 30;
/// Initial voters; all of them are replaced.
const VOTERS: u64 = 3;
/// Replacements of a run: every member once, then one of them again.
const REPLACEMENTS: u64 = 4;
/// How long the trouble may last, in milliseconds; then the operator finishes in peace.
const TROUBLE_MS: u64 = 40_000;
/// How soon a replacement must be over in peace, in milliseconds.
const PEACE_MS: u64 = 20_000;

/// Proposes numbered commands for ever, each until somebody confirms it.
async fn play(client: SimClient, nodes: Vec<NodeId>, confirmed: Rc<RefCell<Vec<Bytes>>>) {
    for serial in 0..u64::MAX {
        let command = Bytes::from(format!("{}.{serial}", client.id()));
        loop {
            let node = client.draw(|random| *random.pick(&nodes));
            if client.write(node, command.clone(), 400).await.is_ok() {
                break confirmed.borrow_mut().push(command);
            }
            client.sleep_ms(10).await;
        }
    }
}

/// One random thing happens to a node that may fail.
fn trouble(cluster: &mut Cluster) {
    let nodes: Vec<NodeId> = cluster.node_ids();
    let dice = cluster.random().below(10);
    let [node, other] = [(); 2].map(|()| *cluster.random().pick(&nodes));
    match dice {
        0 => cluster.crash(node),
        1 => {
            if let Some(leader) = cluster.leader() {
                cluster.crash(leader);
            }
        }
        2 => cluster.disconnect(node),
        3 => cluster.cut(node, other),
        4 => {
            if let Some(leader) = cluster.leader() {
                // Whatever comes of it.
                let _ = cluster.transfer_leadership(leader, other);
            }
        }
        5 => cluster.heal(),
        6 => divide(cluster),
        _ => restart_dead(cluster),
    }
}

/// Two parts that do not hear each other.
fn divide(cluster: &mut Cluster) {
    let nodes = cluster.node_ids();
    let (left, right): (Vec<_>, Vec<_>) =
        (nodes.iter()).partition(|_| cluster.random().per_mille(500));
    cluster.partition(&[&left, &right]);
}

fn restart_dead(cluster: &mut Cluster) {
    for node in cluster.node_ids() {
        if cluster.is_formed(node) && !cluster.is_running(node) {
            cluster.restart(node);
        }
    }
}

/// The membership that is committed, by the log of the present leader.
fn committed_membership(cluster: &Cluster) -> Option<Membership> {
    let (membership, is_committed) = cluster.membership(cluster.latest_leader()?)?;
    (is_committed && !membership.is_joint()).then(|| membership.clone())
}

/// Lets time pass, with trouble while it lasts, until the committed membership is as wanted;
/// meanwhile asks the leader for it again and again.
fn change_until(
    cluster: &mut Cluster,
    changes: &[MembershipChange],
    is_done: impl Fn(&Membership) -> bool,
) {
    let mut deadline = None;
    let mut pending = None;
    loop {
        if committed_membership(cluster).is_some_and(|membership| is_done(&membership)) {
            return;
        }
        if cluster.now() < Time::from_ms(TROUBLE_MS) {
            let pause = cluster.random().below(300);
            cluster.run_for_ms(pause);
            trouble(cluster);
        } else {
            let now = cluster.now();
            let deadline = *deadline.get_or_insert_with(|| {
                make_peace(cluster);
                now.plus_ms(PEACE_MS)
            });
            cluster.run_for_ms(100);
            assert!(now < deadline, "{changes:?} is not done: {:?}", pending);
        }
        let is_answered = (pending.as_ref())
            .is_none_or(|pending: &raft_sim::PendingChange| pending.outcome().is_some());
        if let Some(leader) = cluster.leader().filter(|_| is_answered) {
            let changes = changes.to_vec();
            let asked = cluster.change_membership(leader, changes, ChangeSafety::KeepQuorum);
            pending = Some(asked);
            if cluster.now() < Time::from_ms(TROUBLE_MS) && cluster.random().per_mille(400) {
                // The worst moment: some have the new configuration, some have not.
                let pause_ms = cluster.random().below(3);
                cluster.run_for_ms(pause_ms);
                divide(cluster);
            }
        } else if cluster.random().per_mille(100) {
            // The node that was asked may be dead.
            pending = None;
        }
    }
}

fn make_peace(cluster: &mut Cluster) {
    cluster.heal();
    cluster.set_links(LinkOptions::reliable());
    restart_dead(cluster);
}

/// Replaces `old` by `new`, which waits with an empty disk: in two changes of one voter each, or in
/// one, whose two majorities need not meet.
fn replace(cluster: &mut Cluster, old: NodeId, new: NodeId) {
    cluster.join(new);
    let at_once = cluster.random().per_mille(500);
    let add = MembershipChange::AddLearner {
        id: new,
        member: cluster.open_member(new),
        promotion: if at_once {
            Promotion::Manual
        } else {
            Promotion::Auto
        },
    };
    let remove = MembershipChange::Remove(old);
    if at_once {
        change_until(cluster, &[add], |membership| membership.contains(new));
        let exchange = [MembershipChange::Promote(new), remove];
        change_until(cluster, &exchange, |membership| !membership.contains(old));
    } else {
        change_until(cluster, &[add], |membership| {
            membership.voters.contains(&new)
        });
        change_until(cluster, &[remove], |membership| !membership.contains(old));
    }
}

fn run(seed: u64) {
    let mut random = Random::stream(seed, Stream::Nemesis(1));
    let mut options = ClusterOptions::new(VOTERS).seed(seed);
    options.spares = 2;
    if random.per_mille(400) {
        options = options.links(LinkOptions::unreliable());
    }
    if random.per_mille(500) {
        options.limits.entry_buffer_bytes = 1;
    }
    if random.per_mille(500) {
        // New members get a snapshot instead of the whole log.
        options.limits.snapshots = SnapshotPolicy {
            max_log_entries: 100,
            min_pause: Duration::ZERO,
            keep_entries: 10,
            ..SnapshotPolicy::default()
        };
    }
    let mut cluster = Cluster::new(options, |_| Small::boxed(Echo));
    let nodes = cluster.node_ids();
    let confirmed = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..2 {
        let (nodes, confirmed) = (nodes.clone(), Rc::clone(&confirmed));
        cluster.spawn(|client| play(client, nodes, confirmed));
    }
    let mut members: Vec<NodeId> = nodes[..VOTERS as usize].to_vec();
    let mut free: Vec<NodeId> = nodes[VOTERS as usize..].to_vec();
    for round in 0..REPLACEMENTS {
        let old = members.remove(0);
        let new = free.remove(0);
        replace(&mut cluster, old, new);
        members.push(new);
        // It is left running until its disk is needed for another life.
        free.push(old);
        if round >= 1 {
            let next = free[0];
            if cluster.is_formed(next) {
                cluster.crash(next);
                cluster.wipe(next);
            }
        }
    }
    make_peace(&mut cluster);
    let is_settled = |cluster: &Cluster| {
        let membership = committed_membership(cluster);
        membership.is_some_and(|membership| membership.voters.iter().eq(sorted(&members).iter()))
    };
    assert!(
        cluster.run_until(PEACE_MS, is_settled),
        "the members are others"
    );
    check_peace(&mut cluster, &members);
    check_commands(&cluster, &confirmed.borrow());
}

fn sorted(members: &[NodeId]) -> Vec<NodeId> {
    let mut sorted = members.to_vec();
    sorted.sort();
    sorted
}

/// Nodes that were removed are still running. They know what they are, and no term begins because
/// of them.
fn check_peace(cluster: &mut Cluster, members: &[NodeId]) {
    let removed: Vec<NodeId> = (cluster.node_ids().into_iter())
        .filter(|node| !members.contains(node) && cluster.is_running(*node))
        .collect();
    assert!(!removed.is_empty(), "a removed node was left running");
    let all_know = |cluster: &Cluster| {
        let knows = |node: &NodeId| cluster.core(*node).is_some_and(|core| core.is_removed());
        cluster.leader().is_some() && removed.iter().all(knows)
    };
    // Elections that the trouble has begun come to their end.
    cluster.run_for_ms(3_000);
    assert!(
        cluster.run_until(PEACE_MS, all_know),
        "{removed:?} do not know"
    );
    let leader = cluster.leader().expect("it was just seen");
    let before = cluster.state(leader);
    for node in &removed {
        // Also if it has to find out anew.
        cluster.crash(*node);
        cluster.restart(*node);
    }
    cluster.run_for_ms(5_000);
    assert_eq!(cluster.state(leader), before, "the leader was disturbed");
    assert!(all_know(cluster), "{removed:?} do not know any more");
}

/// What was confirmed is in the one chain that all nodes apply.
fn check_commands(cluster: &Cluster, confirmed: &[Bytes]) {
    assert!(confirmed.len() > 20, "only {} commands", confirmed.len());
    let mut applied: BTreeMap<&Bytes, u64> = BTreeMap::new();
    for command in cluster.applied_commands() {
        *applied.entry(&command.command).or_default() += 1;
    }
    for command in confirmed {
        assert!(
            applied.contains_key(command),
            "{command:?} was confirmed and is lost"
        );
    }
}

#[test]
fn members_are_replaced_one_by_one_under_trouble() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse().ok())
    };
    match number("RAFT_SIM_SEED") {
        Some(seed) => run(seed),
        None => (1..=number("RAFT_SIM_SEEDS").unwrap_or(SEEDS)).for_each(run),
    }
}

/// Five voters, of which one has been down since the birth of the cluster and two were lost, and come
/// back with empty disks. These three are a majority of the first membership, which is all that
/// they know, and none of them has what was committed since.
#[test]
fn those_who_know_only_the_birth_of_the_cluster_elect_nobody() {
    for seed in 1..=10 {
        let options = ClusterOptions::new(5).seed(seed);
        let mut cluster = Cluster::new(options, |_| Small::boxed(Echo));
        let [late, rest @ ..] = [1, 2, 3, 4, 5].map(NodeId);
        let [lost @ .., _, _] = [4, 5, 2, 3].map(NodeId);
        cluster.crash(late);
        let by_leader = |cluster: &mut Cluster,
                         change: MembershipChange,
                         done: &dyn Fn(&Membership) -> bool| {
            for _ in 0..200 {
                if committed_membership(cluster).is_some_and(|membership| done(&membership)) {
                    return;
                }
                if let Some(leader) = cluster.leader() {
                    let changes = vec![change.clone()];
                    cluster.change_membership(leader, changes, ChangeSafety::KeepQuorum);
                }
                cluster.run_for_ms(50);
            }
            panic!("{change:?} is not done");
        };
        for node in lost {
            by_leader(&mut cluster, MembershipChange::Remove(node), &|m| {
                !m.contains(node)
            });
            cluster.crash(node);
            cluster.wipe(node);
        }
        assert!(cluster.run_until(PEACE_MS, |c| c.leader().is_some()));
        let committed = cluster.committed();
        for node in lost {
            let member = cluster.open_member(node);
            let add = MembershipChange::AddLearner {
                id: node,
                member,
                promotion: Promotion::Manual,
            };
            by_leader(&mut cluster, add, &|m| m.contains(node));
            // It is handed the first entry, and nothing else reaches it.
            cluster.join(node);
            assert!(cluster.run_until(PEACE_MS, |c| c.is_formed(node)));
            cluster.crash(node);
        }
        let forgetful = [late, lost[0], lost[1]];
        cluster.partition(&[&forgetful, &[NodeId(2), NodeId(3)]]);
        for node in forgetful {
            cluster.restart(node);
            let core = cluster.core(node).expect("it was started");
            assert_eq!(core.last_position().index, LogIndex::FIRST);
        }
        cluster.run_for_ms(10_000);
        for node in forgetful {
            let (_, role) = cluster.state(node).expect("it runs");
            assert_ne!(role, Role::Leader, "{node} leads with seed {seed}");
        }
        cluster.heal();
        let has_all = |c: &Cluster| rest.iter().all(|node| c.applied_index(*node) > committed);
        assert!(
            cluster.run_until(PEACE_MS, has_all),
            "somebody is left behind"
        );
    }
}

/// A voter that was cut off knows a member by a life that has ended meanwhile; that member leads in
/// its second life, and is the only one that could tell.
#[test]
fn a_voter_that_was_away_hears_a_leader_in_its_second_life() {
    let mut cluster = Cluster::new(ClusterOptions::new(5).seed(71), |_| Small::boxed(Echo));
    assert!(cluster.run_until(PEACE_MS, |c| c.leader().is_some()));
    let [away, again] = [NodeId(1), NodeId(5)];
    cluster.disconnect(away);
    cluster.run_for_ms(3_000);
    let ask_until = |cluster: &mut Cluster, change, done: &dyn Fn(&Membership) -> bool| {
        for _ in 0..200 {
            if committed_membership(cluster).is_some_and(|membership| done(&membership)) {
                return;
            }
            if let Some(leader) = cluster.leader() {
                let safety = ChangeSafety::KeepQuorum;
                cluster.change_membership(leader, vec![Clone::clone(&change)], safety);
            }
            cluster.run_for_ms(50);
        }
        panic!("{change:?} is not done");
    };
    ask_until(&mut cluster, MembershipChange::Remove(again), &|m| {
        !m.contains(again)
    });
    cluster.crash(again);
    cluster.wipe(again);
    cluster.join(again);
    let add = MembershipChange::AddLearner {
        id: again,
        member: cluster.open_member(again),
        promotion: Promotion::Auto,
    };
    ask_until(&mut cluster, add, &|m| m.is_voter(again));
    for _ in 0..50 {
        let Some(leader) = cluster.leader().filter(|leader| *leader != again) else {
            break;
        };
        // Whatever comes of it.
        let _ = cluster.transfer_leadership(leader, again);
        cluster.run_for_ms(200);
    }
    assert_eq!(cluster.leader(), Some(again));
    cluster.connect(away);
    let has_caught_up = |c: &Cluster| c.applied_index(away) >= c.committed();
    assert!(cluster.run_until(PEACE_MS, has_caught_up));
    assert_eq!(cluster.leader(), Some(again), "nobody was disturbed");
}

/// A node that loses its disk and is started as if nothing had happened is refused, whoever it was;
/// two of five cannot found a cluster of their own either.
#[test]
fn wiped_nodes_that_are_started_again_are_refused() {
    for wiped in [[1, 2], [4, 5]].map(|ids| ids.map(NodeId)) {
        let mut cluster = Cluster::new(ClusterOptions::new(5).seed(5), |_| Small::boxed(Echo));
        assert!(cluster.run_until(PEACE_MS, |c| c.leader().is_some()));
        for node in wiped {
            cluster.crash(node);
            cluster.wipe(node);
            cluster.start_wiped(node);
        }
        let all_refused = |c: &Cluster| wiped.iter().all(|node| c.was_refused(*node));
        assert!(cluster.run_until(PEACE_MS, all_refused), "{wiped:?}");
        assert!(wiped.iter().all(|node| !cluster.is_formed(*node)));
    }
}
