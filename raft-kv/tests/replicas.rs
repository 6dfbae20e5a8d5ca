//! Real servers whose copies are no longer equal although every checksum is right: the one that differs
//! is named by all of them, and what can be healed is.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod support;

use std::time::Instant;

use raft_log::vfs::RealVfs;
use raft_log::{DataDir, Log, LogIdentity, LogOptions, LogWrite};
use raft_proto::{EntryKind, GroupId, LogIndex, NodeId};
use serde_json::Value;
use support::{Cluster, PATIENCE, run, succeed};

/// Changes the value of a put in the log of a node that is stopped, as a fault in memory before the
/// checksum was made would have: everything about the log stays sound. Returns the entry.
fn alter(cluster: &Cluster, id: usize, value: &[u8], by: &[u8]) -> LogIndex {
    let path = cluster.data_dir(id);
    let dir = DataDir::open(RealVfs::shared(), &path, NodeId(id as u64)).unwrap();
    let identity = LogIdentity {
        cluster: dir.cluster().unwrap(),
        node: dir.node(),
        incarnation: dir.incarnation(),
        group: GroupId(0),
    };
    let (mut log, found) = Log::open(&dir, identity, LogOptions::default()).unwrap();
    let entries = log
        .reader()
        .read(found.first_index, found.last.index, u64::MAX)
        .unwrap();
    let at = |payload: &[u8]| payload.windows(value.len()).position(|w| w == value);
    let put = entries
        .into_iter()
        .find(|entry| at(&entry.payload).is_some());
    let mut put = put.unwrap();
    assert_eq!(put.kind, EntryKind::Command);
    let mut payload = put.payload.to_vec();
    let start = at(&payload).unwrap();
    payload[start..start + by.len()].copy_from_slice(by);
    put.payload = payload.into();
    let index = put.index;
    log.report_rot(index, index);
    log.stage(LogWrite {
        refill: vec![put],
        ..LogWrite::default()
    })
    .unwrap();
    log.sync().unwrap();
    index
}

/// Waits until the status of each node says all of this.
async fn all_note(cluster: &Cluster, words: &[&str]) {
    let client = cluster.client();
    let deadline = Instant::now() + 3 * PATIENCE;
    for id in 1..=3 {
        loop {
            let status = client.status_of(&cluster.address(id)).await.unwrap();
            let has = |word: &&&str| status.notes.iter().any(|note| note.contains(**word));
            let missing: Vec<_> = words.iter().filter(|word| !has(word)).collect();
            if missing.is_empty() {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "node {id} does not say {missing:?}: {:?}",
                status.notes
            );
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_node_whose_log_was_altered_with_valid_checksums_is_named_and_its_log_healed() {
    let mut cluster = Cluster::prepare(3);
    cluster.flags = vec!["--compare-interval-seconds=1".to_owned()];
    (1..=3).for_each(|id| cluster.start_server(id));
    let client = cluster.client();
    for number in 0..20 {
        let value = format!("value-{number:04}");
        client.put(format!("k{number}"), value).await.unwrap();
    }
    cluster.converged(&[1, 2, 3]).await;
    let verify = ["verify-replicas", "--all", "-w", "json"];
    let sound = String::from_utf8(succeed(&mut cluster.command(&verify))).unwrap();
    // One JSON value for each comparison.
    let mut compared = serde_json::Deserializer::from_str(&sound).into_iter::<Value>();
    let compared = compared.next().unwrap().unwrap();
    assert_eq!(
        compared["reported"],
        serde_json::json!([1, 2, 3]),
        "{sound}"
    );
    assert_eq!(compared["differences"], serde_json::json!([]), "{sound}");
    // Whoever leads now.
    let odd = cluster.leader().await;
    cluster.kill(odd);
    let index = alter(&cluster, odd, b"value-0007", b"value-9999");
    cluster.start_server(odd);
    // It has read the altered entry again at its start, so its store differs, too.
    let state = format!("the state of n{odd} differs from that of most members");
    all_note(&cluster, &[&state]).await;
    let deadline = Instant::now() + 3 * PATIENCE;
    let named =
        format!("entries {index} to {index} in the log of n{odd} differ from those of most");
    for id in 1..=3 {
        while !cluster.log(id).contains(&named) {
            assert!(Instant::now() < deadline, "node {id} names no entries");
            tokio::task::yield_now().await;
        }
    }
    // Asked for, the same is found, and it is a failure; the log is healed by now, or is not.
    let found = run(&mut cluster.command(&["verify-replicas"]));
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    let said = String::from_utf8(found.stdout).unwrap();
    assert!(said.contains(&state), "{said}");
    while !cluster.log(odd).contains("entries are healed from a peer") {
        assert!(Instant::now() < deadline, "nothing is healed");
        tokio::task::yield_now().await;
    }
    // The store is as the log was at the start; with the healed log the next start is sound.
    cluster.kill(odd);
    cluster.start_server(odd);
    cluster.converged(&[1, 2, 3]).await;
}
