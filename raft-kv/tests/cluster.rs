//! Three real server processes over QUIC: they agree, survive kill -9, and count writes once.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use raft_kv::client::{Client, ClientError, Consistency, Write};
use raft_kv::operation::{KeyRange, RangeQuery};
use rustix::process::Signal;
use support::{Cluster, succeed, with_stdin};
use tokio::task::JoinSet;

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("we wrote text")
}

#[tokio::test]
async fn the_command_line_does_what_it_says() {
    let cluster = Cluster::start(3).await;
    let ok = |arguments: &[&str]| succeed(&mut cluster.command(arguments));
    assert_eq!(text(&ok(&["put", "colour", "red"])), "OK\n");
    assert_eq!(text(&ok(&["get", "colour"])), "colour\nred\n");
    assert_eq!(
        text(&ok(&["append", "colour", "dish", "-w", "json"])),
        "{\"revision\":3}\n"
    );
    assert_eq!(
        text(&ok(&["cas", "colour", "--expect", "reddish", "blue"])),
        "OK\n"
    );
    let got: serde_json::Value =
        serde_json::from_slice(&ok(&["get", "colour", "-w", "json"])).unwrap();
    assert_eq!(
        got,
        serde_json::json!({
            "revision": 4, "count": 1, "more": false,
            "kvs": [{"key": "colour", "value": "blue",
                     "create_revision": 2, "mod_revision": 4, "version": 3}],
        })
    );
    let refused = cluster
        .command(&["cas", "colour", "--absent", "x"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(text(&ok(&["del", "colour"])), "1\n");
    assert_eq!(text(&ok(&["get", "colour"])), "");
    let large: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let put = with_stdin(&mut cluster.command(&["put", "large", "-"]), &large);
    assert!(put.status.success(), "{put:?}");
    let got = ok(&["get", "large"]);
    assert_eq!(got[6..got.len() - 1], large);
}

#[tokio::test]
async fn status_shows_every_endpoint_and_transfer_moves_the_leader() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let next = leader % 3 + 1;
    succeed(&mut cluster.command(&["transfer", &next.to_string()]));
    assert_eq!(cluster.leader().await, next);
    let json = succeed(&mut cluster.command(&["status", "-w", "json"]));
    let all: Vec<serde_json::Map<String, serde_json::Value>> =
        serde_json::from_slice(&json).unwrap();
    assert_eq!(all.len(), 3);
    for (index, one) in all.iter().enumerate() {
        assert_eq!(one["endpoint"], cluster.address(index + 1));
        assert_eq!(one["id"], index + 1);
        for field in [
            "role",
            "term",
            "leader",
            "commit_index",
            "applied_index",
            "last_index",
            "snapshot_index",
            "log_bytes",
            "revision",
            "hash",
            "peers",
        ] {
            assert!(one.contains_key(field), "no {field} in {one:?}");
        }
        let is_leader = one["role"] == "leader";
        assert_eq!(is_leader, index + 1 == next);
    }
}

/// Writes numbered keys one after the other until told to stop; returns those acknowledged.
async fn write_until(
    client: Client,
    prefix: String,
    is_over: Arc<AtomicBool>,
) -> BTreeMap<String, String> {
    let mut acknowledged = BTreeMap::new();
    let mut number = 0;
    while !is_over.load(Ordering::Relaxed) {
        let (key, value) = (format!("{prefix}/{number}"), format!("value {number}"));
        match client.put(key.clone(), value.clone()).await {
            Ok(_) => {
                acknowledged.insert(key, value);
            }
            Err(error) => assert!(error.is_unknown(), "{error}"),
        }
        number += 1;
    }
    acknowledged
}

/// Asserts that every acknowledged write is there.
async fn assert_holds(client: &Client, acknowledged: &BTreeMap<String, String>) {
    assert!(!acknowledged.is_empty());
    for (key, value) in acknowledged {
        let found = client
            .get(key.as_bytes())
            .await
            .expect("the cluster answers");
        let found = found.unwrap_or_else(|| panic!("{key} is lost"));
        assert_eq!(text(&found.value), value, "{key}");
    }
}

#[tokio::test]
async fn killing_the_leader_under_load_loses_nothing() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client();
    let is_over = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let (client, is_over) = (client.clone(), Arc::clone(&is_over));
        writers.spawn(write_until(client, format!("w{writer}"), is_over));
    }
    wait_for_revision(&client, 200).await;
    let killed = cluster.leader().await;
    cluster.kill(killed);
    // The others elect a leader and go on while the writers still write.
    let revision = client.prefer_leader().await.unwrap().revision;
    wait_for_revision(&client, revision.0 + 200).await;
    is_over.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeMap::new();
    while let Some(written) = writers.join_next().await {
        acknowledged.extend(written.unwrap());
    }
    assert_holds(&client, &acknowledged).await;
    // The killed node comes back and catches up.
    cluster.start_server(killed);
    let status = cluster.converged(&[1, 2, 3]).await;
    assert!(status.keys >= acknowledged.len() as u64);
}

async fn wait_for_revision(client: &Client, revision: u64) {
    let query = RangeQuery::new(KeyRange::One(b"-"));
    while client
        .range(&query, Consistency::Linearizable)
        .await
        .expect("the cluster answers")
        .revision
        .0
        < revision
    {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn killing_all_nodes_at_once_loses_nothing() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client();
    let is_over = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn(write_until(
        client.clone(),
        "w".to_owned(),
        Arc::clone(&is_over),
    ));
    wait_for_revision(&client, 100).await;
    for id in 1..=3 {
        cluster.kill(id);
    }
    is_over.store(true, Ordering::Relaxed);
    for id in 1..=3 {
        cluster.start_server(id);
    }
    let acknowledged = writing.await.unwrap();
    assert_holds(&client, &acknowledged).await;
    cluster.converged(&[1, 2, 3]).await;
}

#[tokio::test]
async fn writes_of_a_session_count_once_across_a_failover() {
    const WRITES: usize = 400;
    let mut cluster = Cluster::start(3).await;
    let session = cluster.client().session().await.unwrap();
    let mut writes = JoinSet::new();
    for number in 0..WRITES {
        let session = session.clone();
        writes.spawn(async move {
            let append = Write::append("list", format!("<{number}>"));
            session.write(&append).await.map(|_| number)
        });
    }
    let mut killed = None;
    let mut done = 0;
    while let Some(written) = writes.join_next().await {
        written.unwrap().unwrap();
        done += 1;
        if done == WRITES / 8 {
            let leader = cluster.leader().await;
            cluster.kill(leader);
            killed = Some(leader);
        }
    }
    cluster.start_server(killed.expect("the leader was killed in the middle"));
    let found = cluster.client().get(b"list").await.unwrap().unwrap();
    let list = text(&found.value);
    for number in 0..WRITES {
        let times = list.matches(&format!("<{number}>")).count();
        assert_eq!(times, 1, "write {number} counted {times} times");
    }
    assert_eq!(found.version, WRITES as u64);
    cluster.converged(&[1, 2, 3]).await;
}

#[tokio::test]
async fn a_stopped_leader_is_replaced_and_follows_when_it_goes_on() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client();
    client.put("before", "1").await.unwrap();
    let stopped = cluster.leader().await;
    cluster.signal(stopped, Signal::STOP);
    let session = client.session().await.unwrap();
    session.put("meanwhile", "2").await.unwrap();
    cluster.signal(stopped, Signal::CONT);
    // The old leader must not answer from the state it had.
    let alone = cluster.client_of(vec![cluster.address(stopped)], support::PATIENCE);
    let found = alone.get(b"meanwhile").await.unwrap().unwrap();
    assert_eq!(text(&found.value), "2");
    cluster.converged(&[1, 2, 3]).await;
}

#[tokio::test]
async fn a_minority_neither_writes_nor_reads_but_answers_stale_reads() {
    let mut cluster = Cluster::start(3).await;
    cluster.client().put("k", "v").await.unwrap();
    cluster.converged(&[1, 2, 3]).await;
    cluster.kill(1);
    cluster.kill(2);
    let alone = cluster.client_of(vec![cluster.address(3)], Duration::from_secs(2));
    let write = alone.put("k", "w").await;
    assert!(write.is_err());
    assert!(matches!(alone.get(b"k").await, Err(ClientError::Call(_))));
    let query = RangeQuery::new(KeyRange::One(b"k"));
    let stale = alone.range(&query, Consistency::Stale).await.unwrap();
    assert_eq!(text(&stale.pairs[0].value), "v");
    // With a second node there is a majority again, and nothing is lost.
    cluster.start_server(1);
    let client = cluster.client();
    let found = client.get(b"k").await.unwrap().unwrap();
    assert!(found.value == "v" || found.value == "w");
    client.put("k", "x").await.unwrap();
}

#[tokio::test]
async fn a_write_whose_outcome_nobody_knows_has_its_own_exit_code() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let others: Vec<usize> = (1..=3).filter(|id| *id != leader).collect();
    others
        .iter()
        .for_each(|id| cluster.signal(*id, Signal::STOP));
    // The leader takes the write before it notices that nobody follows.
    let mut put = cluster.command(&["put", "k", "v", "--timeout=1s"]);
    let output = put.output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(
        text(&output.stderr).contains("may or may not"),
        "{output:?}"
    );
    others
        .iter()
        .for_each(|id| cluster.signal(*id, Signal::CONT));
    let found = cluster.client().get(b"k").await.unwrap();
    assert!(found.is_none_or(|pair| pair.value == "v"));
    // Nor is anybody left who waits.
    cluster.kill(leader);
    cluster.client().put("k", "w").await.unwrap();
}

#[tokio::test]
async fn an_orderly_shutdown_hands_over_and_keeps_everything() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client();
    let session = client.session().await.unwrap();
    session.put("k", "v").await.unwrap();
    let leader = cluster.leader().await;
    cluster.signal(leader, Signal::TERM);
    assert!(cluster.wait_for_end(leader).success());
    let written = session.put("k", "w").await.unwrap();
    assert_eq!(written.revision.0, 3);
    cluster.start_server(leader);
    cluster.converged(&[1, 2, 3]).await;
}
