//! What a real server shows to scrapers, load balancers and whoever reads its logs.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

mod exposition;
mod http;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use exposition::Scrape;
use rustix::process::Signal;
use serde_json::Value;
use support::{Cluster, PATIENCE, program, refused, run};

/// A cluster whose servers serve metrics and log JSON; none is started yet.
fn prepare(nodes: usize) -> Cluster {
    let mut cluster = Cluster::prepare(nodes);
    let flags = ["--metrics-listen=127.0.0.1:0", "--log-format=json"];
    cluster.flags = flags.map(str::to_owned).to_vec();
    cluster
}

/// Every line that a node has logged.
fn log_lines(cluster: &Cluster, id: usize) -> Vec<Value> {
    let log = cluster.log(id);
    // The last line may be half written.
    let lines = log
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    let parse = |line: &str| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in node {id}: {line}"))
    };
    lines.map(parse).collect()
}

/// Tries until something is there.
fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(found) = attempt() {
            return found;
        }
        std::thread::yield_now();
    }
    panic!("no {what} within {PATIENCE:?}");
}

/// Where a node serves metrics in its first life, once it does.
fn address(cluster: &Cluster, id: usize) -> SocketAddr {
    address_in_life(cluster, id, 1)
}

/// The same in a later life; all of them log to one file.
fn address_in_life(cluster: &Cluster, id: usize, life: usize) -> SocketAddr {
    eventually("metrics address", || {
        let lines = log_lines(cluster, id);
        let is_served = |line: &&Value| line["message"].as_str().unwrap().starts_with("serving");
        let served = lines.iter().filter(is_served).nth(life - 1)?;
        served["address"].as_str().unwrap().parse().ok()
    })
}

fn scrape(address: SocketAddr) -> Scrape {
    let response = http::get(address, "/metrics");
    assert_eq!(response.status, 200);
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(response.headers.contains(kind), "{}", response.headers);
    Scrape::parse(&response.body)
}

/// Status and body of `/health` or `/ready`.
fn verdict(address: SocketAddr, path: &str) -> (u16, Value) {
    let response = http::get(address, path);
    assert!(response.headers.contains("content-type: application/json"));
    let body = serde_json::from_str(&response.body).unwrap();
    (response.status, body)
}

fn wait_until_ready(address: SocketAddr) -> Value {
    eventually("ready node", || {
        let (status, body) = verdict(address, "/ready");
        assert_eq!(status == 200, body["ready"] == true, "{body}");
        (status == 200).then_some(body)
    })
}

#[tokio::test]
async fn scrapes_show_what_puts_do() {
    let mut cluster = prepare(3);
    for id in 1..=3 {
        cluster.start_server(id);
    }
    let addresses: Vec<_> = (1..=3).map(|id| address(&cluster, id)).collect();
    let ready = wait_until_ready(addresses[0]);
    let leader = ready["leader"].as_u64().unwrap() as usize;
    let follower = leader % 3 + 1;
    let of = |id: usize| scrape(addresses[id - 1]);
    wait_until_ready(addresses[follower - 1]);
    let (leader_before, follower_before) = (of(leader), of(follower));

    let client = cluster.client();
    for number in 0..50 {
        let key = format!("key-{number}");
        client.put(key, vec![7; 100]).await.unwrap();
    }
    assert_eq!(
        cluster.leader().await,
        leader,
        "nothing disturbed the leader"
    );
    cluster.converged(&[1, 2, 3]).await;
    let (leader_after, follower_after) = (of(leader), of(follower));
    leader_after.follows(&leader_before);
    follower_after.follows(&follower_before);

    let grew = |series: &str, by: f64| {
        let (before, after) = (leader_before.value(series), leader_after.value(series));
        assert!(
            after - before >= by,
            "{series} went from {before} to {after}"
        );
    };
    grew("raft_proposals_total", 50.0);
    grew("raft_proposal_duration_seconds_count", 50.0);
    grew("raft_commit_index", 50.0);
    grew("raft_applied_index", 50.0);
    grew("raft_last_index", 50.0);
    grew("raft_kv_store_revision", 50.0);
    grew("raft_kv_store_keys", 50.0);
    grew("raft_kv_store_bytes", 5_000.0);
    grew("raft_kv_client_requests_total", 50.0);
    grew("raft_kv_client_responses_total", 50.0);
    grew("raft_kv_client_received_bytes_total", 5_000.0);
    grew("raft_log_sync_duration_seconds_count", 1.0);
    grew("raft_log_sync_entries_sum", 50.0);
    grew("raft_log_sync_bytes_sum", 5_000.0);
    for peer in (1..=3).filter(|peer| *peer != leader) {
        let append = format!("{{peer=\"{peer}\",class=\"append\"}}");
        grew(&format!("raft_network_sent_bytes_total{append}"), 5_000.0);
        grew(
            &format!("raft_network_received_messages_total{append}"),
            1.0,
        );
        grew(&format!("raft_peer_match_index{{peer=\"{peer}\"}}"), 50.0);
        let connected = format!("raft_network_peer_connected{{peer=\"{peer}\"}}");
        assert_eq!(leader_after.value(&connected), 1.0);
    }
    let from_leader = format!("{{peer=\"{leader}\",class=\"append\"}}");
    let received = format!("raft_network_received_bytes_total{from_leader}");
    assert!(follower_after.value(&received) - follower_before.value(&received) >= 5_000.0);

    for (scrape, role) in [(&leader_after, "leader"), (&follower_after, "follower")] {
        for name in ["leader", "follower", "candidate", "pre-candidate"] {
            let is_it = scrape.value(&format!("raft_role{{role=\"{name}\"}}"));
            assert_eq!(is_it, f64::from(u8::from(name == role)), "{name}");
        }
        assert_eq!(scrape.value("raft_leader_id"), leader as f64);
        assert!(scrape.value("raft_leader_changes_total") >= 1.0);
        assert_eq!(scrape.value("raft_members{kind=\"voter\"}"), 3.0);
        assert!(scrape.value("process_resident_memory_bytes") > 1e6);
    }
    for what in ["taken", "failed", "installed"] {
        let series = format!("raft_snapshots_{what}_total");
        assert_eq!(leader_after.value(&series), 0.0, "{what}");
    }
    let term = |scrape: &Scrape| scrape.value("raft_term");
    assert_eq!(term(&leader_after), term(&follower_after));
}

#[tokio::test]
async fn scrapes_show_snapshots() {
    let mut cluster = prepare(1);
    cluster.flags.push("--snapshot-entries=20".to_owned());
    cluster.start_server(1);
    let address = address(&cluster, 1);
    wait_until_ready(address);
    let client = cluster.client();
    for number in 0..60 {
        client.put(format!("key-{number}"), "value").await.unwrap();
    }
    let taken = eventually("snapshot", || {
        let scrape = scrape(address);
        let taken = scrape.value("raft_snapshots_taken_total") >= 1.0;
        taken.then_some(scrape)
    });
    assert!(taken.value("raft_snapshot_index") >= 20.0);
    assert_eq!(taken.value("raft_snapshots_failed_total"), 0.0);
    assert_eq!(taken.value("raft_snapshot_restoring"), 0.0);
}

#[tokio::test]
async fn health_and_readiness_follow_the_cluster() {
    let mut cluster = prepare(3);
    cluster.start_server(1);
    let first = address(&cluster, 1);
    // Alone it lives, and waits for the others by name.
    let (status, body) = verdict(first, "/health");
    assert_eq!(
        (status, &body["healthy"]),
        (200, &Value::from(true)),
        "{body}"
    );
    let waiting = eventually("waiting node", || {
        let (status, body) = verdict(first, "/ready");
        assert_eq!(status, 503, "{body}");
        let reason = body["reason"].as_str().unwrap().to_owned();
        reason.contains(&cluster.address(2)).then_some(reason)
    });
    assert!(waiting.contains(&cluster.address(3)), "{waiting}");
    let forming = scrape(first);
    assert_eq!(forming.value("raft_role{role=\"leader\"}"), 0.0);
    assert!(
        !forming
            .names()
            .contains(&"raft_kv_store_revision".to_owned())
    );

    for id in [2, 3] {
        cluster.start_server(id);
    }
    let addresses: Vec<_> = (1..=3).map(|id| address(&cluster, id)).collect();
    for address in &addresses {
        let body = wait_until_ready(*address);
        assert!(
            body["leader"].is_u64() && body["reason"].is_null(),
            "{body}"
        );
    }

    // Without the leader the others elect one and serve again.
    let leader = cluster.leader().await;
    cluster.kill(leader);
    let survivors: Vec<_> = (1..=3).filter(|id| *id != leader).collect();
    for id in &survivors {
        eventually("ready survivor", || {
            let (status, body) = verdict(addresses[id - 1], "/ready");
            (status == 200 && body["leader"] != leader as u64).then_some(())
        });
    }

    // Without a majority a node lives, and is of no use to anybody.
    let [stays, goes] = survivors[..] else {
        unreachable!("two of three survive");
    };
    cluster.kill(goes);
    let alone = addresses[stays - 1];
    let body = eventually("unready node", || {
        let (status, body) = verdict(alone, "/ready");
        (status == 503).then_some(body)
    });
    assert!(!body["reason"].as_str().unwrap().is_empty(), "{body}");
    assert_eq!(verdict(alone, "/health").0, 200);
    assert!(scrape(alone).value("raft_term") >= 1.0);

    cluster.start_server(goes);
    wait_until_ready(alone);
    wait_until_ready(address_in_life(&cluster, goes, 2));

    cluster.signal(stays, Signal::TERM);
    assert!(cluster.wait_for_end(stays).success());
    assert!(http::request(alone, "GET /health").is_err(), "it has ended");
}

#[tokio::test]
async fn every_line_of_a_log_is_json_with_its_node() {
    let mut cluster = prepare(3);
    for id in 1..=3 {
        cluster.start_server(id);
    }
    for id in 1..=3 {
        wait_until_ready(address(&cluster, id));
    }
    let leader = cluster.leader().await;
    cluster.client().put("key", "value").await.unwrap();
    cluster.kill(leader);
    cluster.leader().await;
    cluster.start_server(leader);
    wait_until_ready(address_in_life(&cluster, leader, 2));
    for id in 1..=3 {
        cluster.signal(id, Signal::TERM);
        assert!(cluster.wait_for_end(id).success());
    }
    let mut messages = BTreeSet::new();
    for id in 1..=3 {
        for line in log_lines(&cluster, id) {
            let text = |name: &str| line[name].as_str().unwrap_or_else(|| panic!("{line}"));
            assert!(["ERROR", "WARN", "INFO"].contains(&text("level")), "{line}");
            assert!(text("timestamp").ends_with('Z'), "{line}");
            let message = text("message").to_owned();
            if text("target").starts_with("raft_") {
                assert_eq!(line["node"], id as u64, "{line}");
            }
            let of_consensus = [
                "role changed",
                "leader changed",
                "the log is open; the node takes part",
            ];
            if of_consensus.contains(&message.as_str()) {
                assert!(line["term"].is_u64(), "{line}");
            }
            if message == of_consensus[2] {
                assert!(line["index"].is_u64(), "{line}");
            }
            messages.insert(message);
        }
    }
    for expected in [
        "started",
        "role changed",
        "leader changed",
        "peer connected",
        "stopped",
        "the log is open; the node takes part",
    ] {
        assert!(
            messages.contains(expected),
            "no {expected:?} in {messages:#?}"
        );
    }
}

#[test]
fn what_ends_a_server_is_json_too() {
    let cluster = prepare(1);
    std::fs::write(cluster.data_dir(1), b"no directory").unwrap();
    let output = run(&mut cluster.server_command(1));
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<Value> = log
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["level"], &last["node"]),
        (&Value::from("ERROR"), &Value::from(1))
    );
    assert!(last["error"].as_str().unwrap().contains("n1"), "{last}");
}

#[test]
fn a_taken_metrics_port_is_refused_before_anything_is_touched() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let mut cluster = Cluster::prepare(1);
    cluster.flags = vec![format!("--metrics-listen={address}")];
    let refusal = refused(&mut cluster.server_command(1));
    refusal.says(&["cannot serve metrics on", &address.to_string()]);
    assert!(!cluster.data_dir(1).exists());
}

#[tokio::test]
async fn odd_requests_are_refused() {
    let mut cluster = prepare(1);
    cluster.start_server(1);
    let address = address(&cluster, 1);
    let status = |line: &str| http::request(address, line).unwrap().status;
    assert_eq!(status("GET /metrics?x=1"), 200);
    assert_eq!(status("GET /"), 404);
    assert_eq!(status("GET /metrics/"), 404);
    assert_eq!(status("POST /metrics"), 405);
    assert_eq!(status("DELETE /health"), 405);
    let head = http::request(address, "HEAD /metrics").unwrap();
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let long = format!("GET /{}", "x".repeat(100_000));
    if let Ok(response) = http::request(address, &long) {
        assert!((400..500).contains(&response.status), "{response:?}");
    }
    // After all that it still serves.
    wait_until_ready(address);
}

#[tokio::test]
async fn connections_that_say_nothing_are_closed_and_keep_nobody_out() {
    let mut cluster = prepare(1);
    cluster.start_server(1);
    let address = address(&cluster, 1);
    // More than are served at a time: the first ones have to go before a scrape gets through.
    let connect = |_| TcpStream::connect(address).unwrap();
    let mut silent: Vec<_> = (0..150).map(connect).collect();
    wait_until_ready(address);
    for stream in &mut silent {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        // Closed, in whatever way, and without an answer to a question that was never asked.
        let _ = stream.read_to_end(&mut rest);
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
    }
}

#[test]
fn filters_that_make_no_sense_are_refused() {
    let mut command = program();
    let output = run(command.args(["server", "--log-level=raft_net=loud"]));
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("for example"), "{message}");
}
