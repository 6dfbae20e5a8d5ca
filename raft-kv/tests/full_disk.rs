//! Servers on a small file system that gets full: writes are refused before anything tears, reads go
//! on, a leader hands over, and writes resume by themselves once there is room.
//!
//! Needs the right to mount; without it the tests say that they are skipped.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use raft_kv::client::ClientError;
use serde_json::Value;
use support::{Cluster, PATIENCE, program, refused, succeed};

/// Room for some segments of [`SEGMENT_FLAG`], and for the rest of a data directory.
const SIZE: &str = "size=96m";
/// The smallest that holds the largest commands.
const SEGMENT_FLAG: &str = "--segment-bytes=41943040";
const VALUE_BYTES: usize = 1_000_000;
/// More than what segments that were made before the disk was full have room for.
const WRITES: usize = 80;

/// A small file system in memory, unmounted when dropped.
struct Small(PathBuf);

impl Small {
    /// `None` if this machine does not let us mount.
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(at);
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self(at.to_owned())),
            other => {
                println!("SKIPPED: no file system can be mounted here: {other:?}");
                None
            }
        }
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut file = File::create(self.filler()).unwrap();
        for size in [1 << 20, 1 << 12, 1] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
    }

    fn is_full(&self) -> bool {
        let mut probe = File::options().append(true).open(self.filler()).unwrap();
        probe.write_all(&[7; 1 << 20]).is_err()
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // A server that is just being killed may still hold it.
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        drop(unmounted);
    }
}

/// Waits until a server has logged something.
fn wait_for_log(cluster: &Cluster, id: usize, words: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !cluster.log(id).contains(words) {
        assert!(Instant::now() < deadline, "node {id} never says {words:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_serves_reads_and_goes_on_when_there_is_room() {
    let mut cluster = Cluster::prepare(1);
    let Some(small) = Small::mount(&cluster.data_dir(1)) else {
        return;
    };
    cluster.flags.push(SEGMENT_FLAG.to_owned());
    cluster.start_server(1);
    let client = cluster.client();
    client.put("before", "v").await.unwrap();
    small.fill();
    // As much as the segments that are there have room for is taken, and then no more.
    let impatient = cluster.client_of(cluster.endpoints(), Duration::from_secs(2));
    let mut taken = Vec::new();
    let refusal: ClientError = loop {
        let key = format!("k{}", taken.len());
        match impatient.put(key.clone(), vec![7; VALUE_BYTES]).await {
            Ok(_) => taken.push(key),
            Err(error) => break error,
        }
        assert!(taken.len() < WRITES, "the disk is not full");
    };
    // The first that found no room waits for it; whether it will be done nobody knows.
    assert!(
        refusal.is_unknown() || refusal.to_string().contains("disk"),
        "{refusal}"
    );
    let told = refused(&mut cluster.command(&["put", "k", "v", "--timeout=5s"])).message;
    assert!(told.contains("disk is full"), "{told}");
    wait_for_log(&cluster, 1, "writes wait for room on the disk");
    for key in &taken {
        let found = client.get(key.as_bytes()).await.unwrap();
        assert_eq!(found.unwrap().value.len(), VALUE_BYTES, "{key}");
    }
    let status = succeed(&mut cluster.command(&["status", "-w=json"]));
    let status: Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status[0]["role"], "leader", "{status}");

    small.make_room();
    client.put("after", "v").await.unwrap();
    wait_for_log(&cluster, 1, "the disk has room again");
    assert!(
        !cluster.log(1).contains("ERROR raft_kv"),
        "nothing has failed"
    );
    cluster.kill(1);
    let path = cluster.data_dir(1);
    let verified = succeed(program().args(["log", "verify"]).arg(&path));
    let verified = String::from_utf8(verified).unwrap();
    assert!(verified.contains("sound"), "{verified}");
    cluster.start_server(1);
    for key in taken.iter().map(String::as_str).chain(["before", "after"]) {
        assert!(client.get(key.as_bytes()).await.unwrap().is_some(), "{key}");
    }
}

#[tokio::test]
async fn a_leader_with_a_full_disk_hands_over_and_catches_up_later() {
    let mut cluster = Cluster::prepare(3);
    let Some(small) = Small::mount(&cluster.data_dir(2)) else {
        return;
    };
    cluster.flags.push(SEGMENT_FLAG.to_owned());
    (1..=3).for_each(|id| cluster.start_server(id));
    let client = cluster.client();
    client.put("before", "v").await.unwrap();
    cluster.converged(&[1, 2, 3]).await;
    succeed(&mut cluster.command(&["transfer", "2"]));
    small.fill();
    let session = client.session().await.unwrap();
    for number in 0..WRITES {
        let write = raft_kv::client::Write::put(format!("k{number}"), vec![7; VALUE_BYTES]);
        session.write(&write).await.unwrap();
    }
    wait_for_log(&cluster, 2, "writes wait for room on the disk");
    let leader = cluster.leader().await;
    assert_ne!(leader, 2, "it cannot write");
    // Reads of what it has go on there.
    let mut stale = program();
    stale
        .args(["get", "before", "--stale"])
        .arg("--tls-dir")
        .arg(cluster.tls());
    let found = succeed(stale.args(["--endpoints", &cluster.address(2)]));
    assert_eq!(found, b"before\nv\n");

    small.make_room();
    cluster.converged(&[1, 2, 3]).await;
    // It is as good as the others: with one of them gone it is needed.
    cluster.kill(leader);
    let after = raft_kv::client::Write::put("after", "v");
    session.write(&after).await.unwrap();
    let other = (1..=3).find(|id| *id != leader && *id != 2).unwrap();
    cluster.converged(&[2, other]).await;
}

/// Every start begins a segment and counts a boot: the node has a reserve for both, and for what its
/// term begins with, so that it leads and serves reads. It may start as often as it likes.
#[tokio::test]
async fn a_node_starts_on_a_full_disk_and_serves_reads() {
    let mut cluster = Cluster::prepare(1);
    let Some(small) = Small::mount(&cluster.data_dir(1)) else {
        return;
    };
    cluster.flags.push(SEGMENT_FLAG.to_owned());
    cluster.start_server(1);
    let client = cluster.client();
    client.put("k", "v").await.unwrap();
    for start in 0..4 {
        cluster.kill(1);
        // As the start would: there must be no room that way.
        for file in fs::read_dir(cluster.data_dir(1).join("log-0")).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|suffix| suffix == "tmp") {
                fs::remove_file(path).unwrap();
            }
        }
        small.fill();
        cluster.start_server(1);
        let found = client.get(b"k").await.unwrap();
        assert_eq!(found.unwrap().value, "v", "start {start}");
    }
    let told = refused(&mut cluster.command(&["put", "k", "w", "--timeout=5s"])).message;
    assert!(told.contains("disk") || told.contains("unknown"), "{told}");
    assert!(cluster.log(1).contains("reserve"), "the disk was full");
    small.make_room();
    let session = client.session().await.unwrap();
    session.put("k", "w").await.unwrap();
    cluster.kill(1);
    let verified = succeed(program().args(["log", "verify"]).arg(cluster.data_dir(1)));
    let verified = String::from_utf8(verified).unwrap();
    assert!(verified.contains("sound"), "{verified}");
}

/// A voter whose disk is full has commands that wait for room. Its vote does not: without it nobody
/// could lead.
#[tokio::test]
async fn elections_go_on_with_the_vote_of_a_node_whose_disk_is_full() {
    let mut cluster = Cluster::prepare(3);
    let Some(small) = Small::mount(&cluster.data_dir(2)) else {
        return;
    };
    cluster.flags.push(SEGMENT_FLAG.to_owned());
    (1..=3).for_each(|id| cluster.start_server(id));
    let client = cluster.client();
    client.put("before", "v").await.unwrap();
    cluster.converged(&[1, 2, 3]).await;
    succeed(&mut cluster.command(&["transfer", "1"]));
    small.fill();
    let session = client.session().await.unwrap();
    for number in 0..WRITES {
        let write = raft_kv::client::Write::put(format!("k{number}"), vec![7; VALUE_BYTES]);
        session.write(&write).await.unwrap();
    }
    wait_for_log(&cluster, 2, "writes wait for room on the disk");
    // Whoever leads goes; the one that is left needs the vote of node 2.
    let leader = cluster.leader().await;
    assert_ne!(leader, 2, "it cannot write");
    let other = (1..=3).find(|id| *id != leader && *id != 2).unwrap();
    let term = client
        .status_of(&cluster.address(leader))
        .await
        .unwrap()
        .term;
    cluster.kill(leader);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = client.status_of(&cluster.address(other)).await.unwrap();
        if status.role == "leader" && status.term > term {
            break;
        }
        assert!(Instant::now() < deadline, "nobody leads: {status:?}");
    }
    assert!(small.is_full(), "the vote took no room");
    // Nothing new is committed before there is room.
    small.make_room();
    let after = raft_kv::client::Write::put("after", "v");
    session.write(&after).await.unwrap();
    cluster.converged(&[2, other]).await;
}
