//! Nodes come and go: learners, promotion, removal, refusals; all nodes replaced under load.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use raft_kv::client::{Client, Session, Write};
use rustix::process::Signal;
use serde_json::Value;
use support::{Cluster, PATIENCE, refused, succeed};
use tokio::task::JoinSet;

/// Writers that each have one write under way.
const WRITERS: usize = 6;
/// Writes between two replacements.
const WRITES_BETWEEN: u64 = 100;

fn list(cluster: &Cluster) -> Value {
    let printed = succeed(&mut cluster.command(&["member", "list", "-w=json"]));
    serde_json::from_slice(&printed).expect("it printed JSON")
}

/// Waits until the list of members shows something.
fn wait_for_list(cluster: &Cluster, what: &str, mut shows: impl FnMut(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shown = list(cluster);
        if shows(&shown) {
            return shown;
        }
        assert!(Instant::now() < deadline, "no {what}: {shown}");
    }
}

fn member(list: &Value, id: usize) -> Option<&Value> {
    let members = list["members"].as_array().expect("a list");
    members.iter().find(|member| member["id"] == id)
}

fn is_voter(list: &Value, id: usize) -> bool {
    member(list, id).is_some_and(|member| member["role"] == "voter")
}

/// Adds a node, starts it, and waits until it votes.
fn grow(cluster: &mut Cluster) -> usize {
    let id = cluster.prepare_node();
    let node = format!("{id}={}", cluster.address(id));
    succeed(&mut cluster.command(&["member", "add", &node]));
    cluster.start_server(id);
    wait_for_list(cluster, "promotion", |list| is_voter(list, id));
    id
}

fn remove(cluster: &mut Cluster, id: usize) {
    succeed(&mut cluster.command(&["member", "remove", &id.to_string(), "--timeout=20s"]));
}

/// What the thread that makes the load shares with the test.
#[derive(Default)]
struct Load {
    is_over: AtomicBool,
    written: AtomicU64,
}

/// Appends numbers to a key of its own; none may fail.
async fn write(session: Session, key: String, load: Arc<Load>) -> u64 {
    let mut number = 0;
    while !load.is_over.load(Ordering::Relaxed) {
        let append = Write::append(key.clone(), format!("<{number}>"));
        let outcome = session.write(&append).await;
        outcome.unwrap_or_else(|error| panic!("write {number} of {key}: {error}"));
        number += 1;
        load.written.fetch_add(1, Ordering::Relaxed);
    }
    number
}

/// Reads linearizably; none may fail.
async fn read(client: Client, load: Arc<Load>) -> u64 {
    let mut number = 0;
    while !load.is_over.load(Ordering::Relaxed) {
        let outcome = client.get(b"load/0").await;
        outcome.unwrap_or_else(|error| panic!("read {number}: {error}"));
        number += 1;
    }
    number
}

/// Keeps one client busy until the load is over, then looks at what it has written.
async fn make_load(client: Client, load: Arc<Load>) -> Vec<String> {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let session = client.session().await.expect("the cluster answers");
        let writing = write(session, format!("load/{writer}"), Arc::clone(&load));
        writers.spawn(async move { (writer, writing.await) });
    }
    let reader = tokio::spawn(read(client.clone(), Arc::clone(&load)));
    while let Some(written) = writers.join_next().await {
        let (writer, count) = written.expect("no write failed");
        let key = format!("load/{writer}");
        let found = client
            .get(key.as_bytes())
            .await
            .expect("the cluster answers");
        let expected: String = (0..count).map(|number| format!("<{number}>")).collect();
        assert!(
            found.is_some_and(|found| found.value == expected),
            "{key} counts each once"
        );
    }
    assert!(reader.await.expect("no read failed") > 0);
    // As long as calls are made the client asks who is there, and forgets who is not.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let statuses = client.status().await;
        if statuses.iter().all(|(_, status)| status.is_ok()) {
            return statuses.into_iter().map(|(endpoint, _)| endpoint).collect();
        }
        assert!(Instant::now() < deadline, "{statuses:?}");
        client.get(b"load/0").await.expect("the cluster answers");
    }
}

fn wait_for_writes(load: &Load, maker: &std::thread::JoinHandle<Vec<String>>) {
    let target = load.written.load(Ordering::Relaxed) + WRITES_BETWEEN;
    let deadline = Instant::now() + PATIENCE;
    while load.written.load(Ordering::Relaxed) < target {
        assert!(!maker.is_finished(), "the load has failed");
        assert!(Instant::now() < deadline, "the writers make no progress");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn all_nodes_are_replaced_under_load_without_a_failed_call() {
    let mut cluster = Cluster::start(3).await;
    let load = Arc::new(Load::default());
    let maker = std::thread::spawn({
        let load = Arc::clone(&load);
        // It is told of the first three nodes, and of no other one ever.
        let config = cluster.client_config(cluster.endpoints(), PATIENCE);
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.expect("the system has threads");
            runtime.block_on(async {
                let client = Client::new(config).expect("the client can be set up");
                make_load(client, load).await
            })
        }
    });
    wait_for_writes(&load, &maker);
    for old in 1..=3 {
        let new = grow(&mut cluster);
        wait_for_writes(&load, &maker);
        remove(&mut cluster, old);
        // It is gone at once, whatever it would still have to say.
        cluster.kill(old);
        wait_for_writes(&load, &maker);
        let list = list(&cluster);
        assert!(member(&list, old).is_none(), "{list}");
        assert!(is_voter(&list, new), "{list}");
    }
    load.is_over.store(true, Ordering::Relaxed);
    let mut endpoints = maker.join().expect("no call failed");
    let mut expected: Vec<String> = (4..=6).map(|id| cluster.address(id)).collect();
    endpoints.sort();
    expected.sort();
    assert_eq!(endpoints, expected);
    cluster.converged(&[4, 5, 6]).await;
}

#[tokio::test]
async fn a_learner_waits_for_its_promotion_if_it_is_told_to() {
    let mut cluster = Cluster::start(1).await;
    cluster.client().put("k", "v").await.unwrap();
    let id = cluster.prepare_node();
    let node = format!("{id}={}", cluster.address(id));
    let said = succeed(&mut cluster.command(&["member", "add", &node, "--promote=manual"]));
    let said = String::from_utf8(said).unwrap();
    for word in [
        "raft-kv server --id 2 --join".to_owned(),
        format!("--listen {}", cluster.address(id)),
        "raft-kv cert add".to_owned(),
        "raft-kv member promote 2".to_owned(),
    ] {
        assert!(said.contains(&word), "no {word:?} in: {said}");
    }
    // A node that was never there cannot vote.
    refused(&mut cluster.command(&["member", "promote", "2"]))
        .says(&["node n2", "never in contact"]);
    cluster.start_server(id);
    wait_for_list(&cluster, "contact", |list| {
        member(list, id).is_some_and(|one| one["joined"] == true && one["behind"] == 0)
    });
    let shown = list(&cluster);
    let learner = member(&shown, id).unwrap();
    assert_eq!(
        (&learner["role"], &learner["promote"]),
        (&"learner".into(), &"manual".into())
    );
    // Nor can one that is silent: the cluster would wait for its vote.
    cluster.signal(id, Signal::STOP);
    let client = cluster.client();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = client.status_of(&cluster.address(1)).await.unwrap();
        if status.peers[0]
            .silent_ms
            .is_some_and(|silent| silent > 2_000)
        {
            break;
        }
        assert!(Instant::now() < deadline, "{status:?}");
    }
    let lagging = refused(&mut cluster.command(&["member", "promote", "2"]));
    lagging.says(&["node n2 has not caught up"]);
    client.put("k2", "v").await.unwrap();
    cluster.signal(id, Signal::CONT);
    wait_for_list(&cluster, "contact", |list| {
        member(list, id).is_some_and(|one| one["behind"] == 0)
    });
    let promoted = succeed(&mut cluster.command(&["member", "promote", "2"]));
    assert_eq!(promoted, b"node 2 is a voter now\n");
    assert!(is_voter(&list(&cluster), id));
    cluster.converged(&[1, 2]).await;
    // It has the data, and tells them by itself.
    let mut get = cluster.command(&["get", "k", "--stale"]);
    get.args(["--endpoints", &cluster.address(id)]);
    assert_eq!(succeed(&mut get), b"k\nv\n");
    let table = String::from_utf8(succeed(&mut cluster.command(&["member", "list"]))).unwrap();
    assert_eq!(table.lines().count(), 3, "{table}");
    // Once it leads, it is found by those who were told of the first node only.
    succeed(&mut cluster.command(&["transfer", "2"]));
    for arguments in [
        &["member", "list"][..],
        &["put", "k", "w"],
        &["bench", "put", "--total=10"],
    ] {
        let mut command = support::program();
        command.args(arguments).arg("--tls-dir").arg(cluster.tls());
        succeed(command.args(["--endpoints", &cluster.address(1)]));
    }
}

#[tokio::test]
async fn a_node_that_belongs_to_a_cluster_need_not_be_told_how_to_begin() {
    let mut cluster = Cluster::start(2).await;
    let joined = grow(&mut cluster);
    for id in [1, joined] {
        cluster.kill(id);
        cluster.start_untold(id);
        cluster.client().put("k", id.to_string()).await.unwrap();
        cluster.converged(&[1, 2, joined]).await;
    }
}

#[tokio::test]
async fn changes_that_cannot_be_are_refused_with_reasons() {
    let mut cluster = Cluster::start(1).await;
    cluster.client().put("k", "v").await.unwrap();
    let refuse = |arguments: &[&str]| {
        let arguments = [&["member"], arguments].concat();
        refused(&mut cluster.command(&arguments))
    };
    refuse(&["remove", "1"]).says(&["last voter"]);
    refuse(&["remove", "7"]).says(&["node n7 is not a member"]);
    refuse(&["promote", "1"]).says(&["node n1 is a voter already"]);
    refuse(&["promote", "7"]).says(&["node n7 is not a member"]);
    refuse(&["add", "1=127.0.0.1:1"]).says(&["node n1 is a member already"]);
    let taken = format!("9={}", cluster.address(1));
    refuse(&["add", &taken]).says(&[&cluster.address(1), "node n1"]);
    assert_eq!(list(&cluster)["members"].as_array().unwrap().len(), 1);
    let second = grow(&mut cluster);
    let third = grow(&mut cluster);
    cluster.kill(third);
    // Two of three are left to write; without another one only one of two would be, as soon as the
    // leader has noticed.
    let leader = cluster.leader().await;
    let client = cluster.client();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = client.status_of(&cluster.address(leader)).await.unwrap();
        let gone = status.peers.iter().find(|peer| peer.id.0 as usize == third);
        if gone
            .and_then(|peer| peer.silent_ms)
            .is_some_and(|silent| silent > 2_000)
        {
            break;
        }
        assert!(Instant::now() < deadline, "{status:?}");
    }
    let other = if leader == 1 { second } else { 1 };
    let said = refused(&mut cluster.command(&["member", "remove", &other.to_string()]));
    said.says(&["no majority", "--force", &format!("n{third}")]);
    // The dead one may go.
    remove(&mut cluster, third);
    let left = list(&cluster);
    assert!(member(&left, third).is_none(), "{left}");
    cluster.client().put("k", "w").await.unwrap();
    cluster.converged(&[1, second]).await;
}

#[tokio::test]
async fn a_wiped_node_comes_back_by_the_commands_it_is_told() {
    let mut cluster = Cluster::start(3).await;
    cluster.client().put("k", "v").await.unwrap();
    let wiped = cluster.leader().await % 3 + 1;
    cluster.kill(wiped);
    std::fs::remove_dir_all(cluster.data_dir(wiped)).unwrap();
    let again = refused(&mut cluster.server_command(wiped));
    let id = wiped.to_string();
    again.says(&[&format!("raft-kv member remove {id}")]);
    remove(&mut cluster, wiped);
    let node = format!("{id}={}", cluster.address(wiped));
    succeed(&mut cluster.command(&["member", "add", &node]));
    cluster.start_joining(wiped);
    wait_for_list(&cluster, "promotion", |list| is_voter(list, wiped));
    cluster.converged(&[1, 2, 3]).await;
}
