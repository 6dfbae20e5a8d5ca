//! The paper's rules, one test each.

mod support;

use raft_core::Role;
use support::Cluster;

/// §5.2: a cluster elects a leader by itself, and keeps it.
#[test]
fn a_cluster_elects_one_leader_and_keeps_it() {
    for size in [1, 2, 3, 5] {
        let mut cluster = Cluster::new(size, |_| {});
        cluster.run_for(2_000);
        let leader = cluster.leader().expect("a leader within two seconds");
        let term = cluster.nodes[&leader].core.term();
        cluster.run_for(5_000);
        assert_eq!(cluster.leader(), Some(leader));
        assert_eq!(cluster.nodes[&leader].core.term(), term);
        let followers = cluster
            .nodes
            .values()
            .filter(|n| n.core.role() == Role::Follower);
        assert_eq!(followers.count() as u64, size - 1);
        cluster.propose(leader.0, "x");
        cluster.run_for(500);
        for node in cluster.nodes.values() {
            assert_eq!(node.core.commit_index(), node.last().index);
        }
    }
}
