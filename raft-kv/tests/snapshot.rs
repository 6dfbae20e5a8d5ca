//! Snapshots as files: saved from a running cluster, checked, restored into new clusters that hold
//! the same.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use raft_kv::client::{Client, Consistency, Write};
use raft_kv::operation::{KeyRange, RangeQuery, Revision};
use raft_kv::reply::KeyValue;
use rustix::process::Signal;
use serde_json::Value;
use support::{Cluster, program, refused, run, succeed};

const KEYS: usize = 300;

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("it printed JSON")
}

/// Keys of many sizes, some written twice, some removed.
async fn fill(client: &Client) {
    for number in 0..KEYS {
        let value = vec![number as u8; number * 97 % 9_000];
        client
            .put(format!("key/{number:04}"), value)
            .await
            .expect("the cluster answers");
    }
    for number in (0..KEYS).step_by(3) {
        client
            .write(&Write::append(format!("key/{number:04}"), "more"))
            .await
            .expect("the cluster answers");
    }
    for number in (0..KEYS).step_by(7) {
        client
            .write(&Write::delete(format!("key/{number:04}")))
            .await
            .expect("the cluster answers");
    }
}

/// Everything that is there, at a revision.
async fn everything(client: &Client, revision: Revision) -> Vec<KeyValue> {
    let query = RangeQuery {
        revision,
        ..RangeQuery::new(KeyRange::Prefix(b""))
    };
    let mut pages = client.pages(&query, Consistency::Linearizable);
    let mut all = Vec::new();
    while let Some(page) = pages.next().await.expect("the cluster answers") {
        all.extend(page.pairs);
    }
    all
}

fn save(cluster: &Cluster, name: &str) -> PathBuf {
    let file = cluster.dir.path().join(name);
    let path = file.to_str().expect("the path is text");
    let said = json(&succeed(
        &mut cluster.command(&["snapshot", "save", path, "-w=json"]),
    ));
    assert_eq!(
        said["total_bytes"],
        fs::metadata(&file).expect("it is there").len()
    );
    assert!(!Path::new(&format!("{path}.part")).exists());
    file
}

fn verify(file: &Path) -> Value {
    json(&succeed(
        program().args(["snapshot", "verify", "-w=json"]).arg(file),
    ))
}

/// The command that restores one node of a cluster that was prepared.
fn restore(cluster: &Cluster, file: &Path, id: usize) -> Command {
    let mut command = program();
    command.args([
        "snapshot",
        "restore",
        "--new-cluster",
        &format!("--id={id}"),
    ]);
    for (index, address) in cluster.endpoints().iter().enumerate() {
        command.arg(format!("--peer={}={address}", index + 1));
    }
    command
        .arg("--data-dir")
        .arg(cluster.data_dir(id))
        .arg(file);
    command
}

#[tokio::test]
async fn a_snapshot_becomes_clusters_that_hold_the_same() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client();
    // A session outlives the snapshot: its write counts once, there too.
    let session = client.session().await.unwrap();
    session.put("session", "1").await.unwrap();
    fill(&client).await;
    let file = save(&cluster, "snapshot");
    let status = cluster.converged(&[1, 2, 3]).await;
    let found = verify(&file);
    assert_eq!(found["sound"], true);
    assert_eq!(found["keys"], status.keys);
    assert_eq!(found["revision"], status.revision.0);
    assert_eq!(found["hash"], format!("{:016x}", status.hash));
    assert_eq!(found["cluster"], status.cluster.as_str());
    assert_eq!(found["members"].as_array().unwrap().len(), 3);
    let now = everything(&client, Revision::ZERO).await;
    let earlier = Revision(KEYS as u64);
    let before = everything(&client, earlier).await;
    assert!(now.len() > KEYS / 2 && before.len() != now.len());
    for nodes in [1, 3] {
        let mut other = Cluster::prepare(nodes);
        for id in 1..=nodes {
            succeed(&mut restore(&other, &file, id));
        }
        for id in 1..=nodes {
            other.start_server(id);
        }
        let restored = other.client();
        assert!(
            everything(&restored, Revision::ZERO).await == now,
            "{nodes} nodes"
        );
        assert!(
            everything(&restored, earlier).await == before,
            "{nodes} nodes"
        );
        let all: Vec<usize> = (1..=nodes).collect();
        let there = other.converged(&all).await;
        assert_eq!(there.hash, status.hash, "{nodes} nodes");
        assert_ne!(there.cluster, status.cluster);
        // It goes on from there, also after a restart.
        let written = restored.put("new", "x").await.unwrap();
        assert_eq!(written.revision, Revision(status.revision.0 + 1));
        for id in 1..=nodes {
            other.kill(id);
            other.start_server(id);
        }
        let found = other.client().get(b"new").await.unwrap().unwrap();
        assert_eq!(&found.value[..], b"x");
    }
}

#[tokio::test]
async fn a_flipped_byte_is_found_wherever_it_is() {
    let cluster = Cluster::start(1).await;
    fill(&cluster.client()).await;
    let file = save(&cluster, "snapshot");
    let sound = fs::read(&file).unwrap();
    let damaged = cluster.dir.path().join("damaged");
    let path = damaged.to_str().unwrap().to_owned();
    for place in [0, 100, sound.len() / 2, sound.len() - 4096, sound.len() - 1] {
        let mut bytes = sound.clone();
        bytes[place] ^= 1;
        fs::write(&damaged, bytes).unwrap();
        let mut command = program();
        command.args(["snapshot", "verify", "-w=json", &path]);
        let output = run(&mut command);
        assert_eq!(output.status.code(), Some(1), "{place}: {output:?}");
        let said = json(&output.stdout);
        assert_eq!(said["sound"], false, "{place}");
        assert!(said["damage"].as_str().unwrap().contains(&path), "{said}");
        // Nothing is made of it.
        let mut other = restore(&cluster, &damaged, 1);
        other
            .arg("--data-dir")
            .arg(cluster.dir.path().join("never"));
        assert!(!run(&mut other).status.success(), "{place}");
    }
    fs::write(&damaged, &sound[..sound.len() - 4096]).unwrap();
    refused(program().args(["snapshot", "verify", &path])).says(&[&path]);
    refused(program().args(["snapshot", "verify", "/nowhere"])).says(&["/nowhere", "no such file"]);
    for foreign in ["", "no snapshot"] {
        fs::write(&damaged, foreign).unwrap();
        refused(program().args(["snapshot", "verify", &path])).says(&[&path, "is no snapshot"]);
    }
    let mut into_a_file = program();
    into_a_file.args([
        "snapshot",
        "restore",
        "--new-cluster",
        "--id=1",
        "--peer=1=h:1",
    ]);
    into_a_file.arg("--data-dir").arg(&damaged).arg(&file);
    refused(&mut into_a_file).says(&[&path, "name a directory"]);
}

#[tokio::test]
async fn saving_and_restoring_overwrite_nothing() {
    let cluster = Cluster::start(1).await;
    cluster.client().put("k", "v").await.unwrap();
    let file = save(&cluster, "snapshot");
    let path = file.to_str().unwrap();
    let before = fs::read(&file).unwrap();
    refused(&mut cluster.command(&["snapshot", "save", path])).says(&[path, "exists already"]);
    assert_eq!(fs::read(&file).unwrap(), before);
    let directory = cluster.data_dir(1);
    let said = refused(&mut restore(&cluster, &file, 1));
    said.says(&[directory.to_str().unwrap()]);
    cluster.client().put("k", "w").await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_restored_is_refused_with_reasons() {
    let cluster = Cluster::start(1).await;
    cluster.client().put("k", "v").await.unwrap();
    let file = save(&cluster, "snapshot");
    let other = Cluster::prepare(2);
    let usage = |command: &mut Command, word: &str| {
        let output = run(command);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(word), "{said}");
    };
    let mut unconfirmed = program();
    unconfirmed.args(["snapshot", "restore", "--id=1", "--peer=1=127.0.0.1:1"]);
    unconfirmed
        .arg("--data-dir")
        .arg(other.data_dir(1))
        .arg(&file);
    usage(&mut unconfirmed, "--new-cluster");
    usage(
        &mut restore(&other, &file, 3),
        "node 3 is not among the peers",
    );
    let mut twice = restore(&other, &file, 1);
    refused(twice.arg("--peer=2=127.0.0.1:9")).says(&["n2"]);
    assert!(!other.data_dir(1).exists(), "nothing was touched");
}

#[tokio::test]
async fn a_part_that_was_left_behind_is_gone_on_with_or_replaced() {
    let cluster = Cluster::start(1).await;
    fill(&cluster.client()).await;
    let whole = fs::read(save(&cluster, "whole")).unwrap();
    for (name, left) in [
        ("resumed", &whole[..8192]),
        ("foreign", &b"something else"[..]),
    ] {
        let part = cluster.dir.path().join(format!("{name}.part"));
        fs::write(&part, left).unwrap();
        // Nothing was written since, so it is the same snapshot.
        assert!(fs::read(save(&cluster, name)).unwrap() == whole, "{name}");
        assert!(!part.exists());
    }
    // One that has rotted is noticed at the end, and not gone on with the next time.
    let mut rotten = whole[..8192].to_vec();
    rotten[5000] ^= 1;
    let part = cluster.dir.path().join("rotten.part");
    fs::write(&part, rotten).unwrap();
    let file = cluster.dir.path().join("rotten");
    let mut command = cluster.command(&["snapshot", "save"]);
    command.arg(&file);
    refused(&mut command).says(&["not sound", "try again"]);
    assert!(!part.exists() && !file.exists());
    assert!(fs::read(save(&cluster, "rotten")).unwrap() == whole);
}

#[tokio::test]
async fn what_was_acknowledged_is_in_a_snapshot_saved_afterwards() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client();
    for round in 0..6 {
        // Followers learn a while later that it is committed.
        client.put("round", round.to_string()).await.unwrap();
        let written = client.get(b"round").await.unwrap().unwrap();
        let found = verify(&save(&cluster, &format!("snapshot-{round}")));
        let revision = found["revision"].as_u64().unwrap();
        assert!(revision >= written.mod_revision.0, "{found}, {written:?}");
    }
}

#[tokio::test]
async fn a_snapshot_is_saved_while_clients_write() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client();
    fill(&client).await;
    let revision = client.prefer_leader().await.unwrap().revision;
    let mut bench = cluster.command(&["bench", "put", "--total=3000", "--clients=8", "-w=json"]);
    let load = bench.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let found = verify(&save(&cluster, "snapshot"));
    assert!(found["revision"].as_u64().unwrap() >= revision.0, "{found}");
    let output = load.wait_with_output().unwrap();
    assert_eq!(json(&output.stdout)["errors"], 0, "{output:?}");
    cluster.converged(&[1, 2, 3]).await;
}

#[tokio::test]
async fn a_stream_that_breaks_is_gone_on_with() {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client();
    for number in 0..12u8 {
        client
            .put(format!("k{number}"), vec![number; 4 << 20])
            .await
            .unwrap();
    }
    let file = cluster.dir.path().join("snapshot");
    let part = cluster.dir.path().join("snapshot.part");
    let mut command = cluster.command(&["snapshot", "save", "--timeout=20s", "-w=json"]);
    let mut save = command
        .arg(&file)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_child(&save);
    let deadline = Instant::now() + support::PATIENCE;
    while fs::metadata(&part).map_or(0, |part| part.len()) == 0 {
        assert!(Instant::now() < deadline, "nothing comes");
        assert!(save.try_wait().unwrap().is_none(), "it has ended");
    }
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    let before = fs::metadata(&part).unwrap().len();
    cluster.kill(1);
    cluster.start_server(1);
    rustix::process::kill_process(pid, Signal::CONT).unwrap();
    let output = save.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let total = json(&output.stdout)["total_bytes"].as_u64().unwrap();
    assert!(
        0 < before && before < total,
        "{before} of {total} bytes came before the break"
    );
    assert_eq!(verify(&file)["keys"], 12);
}
