//! Leaders that commit nothing make way for one that can (seed 23,035,811 of the simulator).

mod support;

use raft_core::Config;
use raft_proto::{Message, NodeId};
use support::{Cluster, Envelope};

/// A lasting ring of five: each node hears two others, so each leader needs both.
const RING: [(u64, u64); 5] = [(1, 3), (3, 5), (5, 2), (2, 4), (4, 1)];
/// Takes no entries, as if its disk were full, but answers and votes: n1 and n5 can be elected and
/// commit nothing, n4 could with n1 and n2.
const DEAF: NodeId = NodeId(3);
/// What the simulator allows, in longest election timeouts.
const PATIENCE_TIMEOUTS: u64 = 50;

fn passes(envelope: &Envelope) -> bool {
    let (from, to) = (envelope.from, envelope.to);
    let is_linked = |(a, b): &(u64, u64)| {
        let ends = (NodeId(*a), NodeId(*b));
        ends == (from, to) || ends == (to, from)
    };
    let is_entries = matches!(envelope.message, Message::AppendRequest(_));
    RING.iter().any(is_linked) && !(is_entries && to == DEAF)
}

/// Two nodes that repeat their pre-votes while the other leads come before the third, which heard
/// that leader and has just begun to wait: they would lead in turn for ever.
#[test]
fn two_that_lead_in_vain_let_the_third_come_first() {
    for seed in 0..100 {
        let mut cluster = Cluster::new(5, |config: &mut Config| config.seed = seed);
        cluster.elect(5);
        cluster.propose(5, "a");
        let before = cluster.node(5).core.commit_index();
        let timeout_ms = cluster.node(5).core.config().election_timeout_ms_max;
        cluster.settle_if(passes);
        cluster.run_for_if(PATIENCE_TIMEOUTS * timeout_ms, passes);
        let committed = cluster.node(4).core.commit_index();
        assert!(committed > before, "nothing is committed with seed {seed}");
    }
}
