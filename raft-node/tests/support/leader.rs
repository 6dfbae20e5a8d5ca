//! Waits until one of some nodes leads.

use std::collections::BTreeMap;

use raft_core::Role;
use raft_node::Raft;

pub(crate) async fn leader(nodes: &BTreeMap<u64, Raft>) -> u64 {
    loop {
        for (id, node) in nodes {
            let status = node.status().await;
            if status.is_some_and(|status| status.role == Role::Leader) {
                return *id;
            }
        }
        tokio::task::yield_now().await;
    }
}
