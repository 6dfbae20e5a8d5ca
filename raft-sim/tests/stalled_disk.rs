//! A leader whose disk hangs does not hold up those who could go on without it.

use raft_node::Small;
use raft_proto::NodeId;
use raft_sim::{Cluster, ClusterOptions};

#[path = "support/echo.rs"]
mod echo;

use echo::Echo;

/// How soon somebody else must lead and commit, in milliseconds.
const SOON_MS: u64 = 10_000;

/// The leader's disk hangs, and then one of the others restarts: the leader cannot note the new boot,
/// so it does not let it in, never hears that it is ahead, and could not hand over to it. Its
/// heartbeats would hold the third node for ever.
#[test]
fn a_leader_with_a_hanging_disk_steps_down_if_a_quorum_without_it_does_not_reach_it() {
    for seed in 1..=20 {
        let options = ClusterOptions::new(3).seed(seed);
        let mut cluster = Cluster::new(options, |_| Small::boxed(Echo));
        assert!(cluster.run_until(SOON_MS, |c| c.leader().is_some()));
        cluster.run_for_ms(500);
        let leader = cluster.leader().expect("it was just seen");
        let mut others = [1, 2, 3].map(NodeId).into_iter().filter(|id| *id != leader);
        let restarted = others.next().expect("there are three");
        cluster.stall_disk(leader);
        cluster.crash(restarted);
        cluster.restart(restarted);
        // Something waits for its disk.
        assert!(cluster.propose(leader, "stuck".into()).is_ok());
        let by_another = |c: &Cluster| c.leader().is_some_and(|now| now != leader);
        assert!(cluster.run_until(SOON_MS, by_another), "seed {seed}");
        let next = cluster.leader().expect("it was just seen");
        let proposed = cluster.propose(next, "goes on".into());
        let ticket = proposed.expect("it leads").ticket;
        let is_committed = |c: &Cluster| matches!(c.outcome(ticket), Some(Ok(_)));
        assert!(cluster.run_until(SOON_MS, is_committed), "seed {seed}");
    }
}
