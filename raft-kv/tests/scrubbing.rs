//! Rot in files of servers that run: the background scrub finds what nobody reads, the node gets it back
//! from its peers, and the log is sound again.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::Value;
use support::{Cluster, PATIENCE, program, run, succeed};

const FLAGS: [&str; 3] = [
    // The smallest that holds the largest commands.
    "--segment-bytes=41943040",
    "--scrub-bytes-per-second=200000000",
    // No snapshot by itself.
    "--snapshot-log-bytes=4294967296",
];

/// Waits until a server has logged something so many times.
fn wait_for_log(cluster: &Cluster, id: usize, words: &str, times: usize) {
    let deadline = Instant::now() + PATIENCE;
    while cluster.log(id).matches(words).count() < times {
        assert!(Instant::now() < deadline, "node {id} never says {words:?}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// Changes a byte of a file behind the server's back.
fn flip(path: &str, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[!byte[0]], offset).unwrap();
    file.sync_all().unwrap();
}

#[tokio::test]
async fn rot_in_a_sealed_segment_of_a_running_node_is_found_and_healed() {
    let mut cluster = Cluster::prepare(3);
    cluster.flags.extend(FLAGS.map(String::from));
    (1..=3).for_each(|id| cluster.start_server(id));
    let client = cluster.client();
    let session = client.session().await.unwrap();
    // More than the first segment holds, so that it is sealed.
    for number in 0..8 {
        let put = session.put(format!("k{number}"), vec![number; 1_000_000]);
        put.await.unwrap();
    }
    cluster.converged(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let id = (1..=3).find(|id| *id != leader).unwrap();
    let dir = cluster.data_dir(id);
    let path = dir.to_str().unwrap();
    let dump = ["log", "dump", path, "-w=json", "--kind=command"];
    let dumped = json(&succeed(program().args(dump)));
    let (_written, sealed) = dumped["segments"].as_array().unwrap().split_last().unwrap();
    let records = |segment: &Value| -> Vec<u64> {
        let batches = segment["batches"].as_array().unwrap().iter();
        let records = batches.flat_map(|b| b["records"].as_array().unwrap());
        let large = records.filter(|r| r["payload_bytes"].as_u64().unwrap() > 900_000);
        large.map(|r| r["offset"].as_u64().unwrap()).collect()
    };
    let found = sealed.iter().map(|segment| (segment, records(segment)));
    let mut found = found.filter(|(_, large)| large.len() > 2);
    let (segment, large) = found.next().expect("a sealed segment with commands");
    // Two entries that are not next to each other, in a file that nobody reads any more.
    let file = segment["path"].as_str().unwrap();
    for offset in [large[0], large[2]] {
        flip(file, offset + 500_000);
    }
    wait_for_log(&cluster, id, "entries are damaged; peers are asked", 2);
    wait_for_log(&cluster, id, "entries are healed from a peer", 2);
    assert!(
        cluster
            .log(id)
            .contains("the disk has lost what was written")
    );
    // It is as good as the others: with one of them gone it is needed.
    cluster.kill(leader);
    session.put("after", "v").await.unwrap();
    let other = (1..=3).find(|n| *n != id && *n != leader).unwrap();
    cluster.converged(&[id, other]).await;
    cluster.kill(id);
    let verified = json(&succeed(program().args(["log", "verify", path, "-w=json"])));
    assert_eq!(verified["sound"], true, "{verified}");
    let healed = verified["findings"].to_string();
    assert!(healed.contains("healed"), "{verified}");
    // And so it is for a start.
    cluster.start_server(id);
    cluster.converged(&[id, other]).await;
}

fn snapshots(cluster: &Cluster, id: usize) -> Vec<PathBuf> {
    let files = fs::read_dir(cluster.data_dir(id).join("snapshots-0")).unwrap();
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|suffix| suffix == "snap"));
    paths.sort();
    paths
}

#[tokio::test]
async fn a_snapshot_that_rots_in_a_running_node_is_followed_by_another() {
    let mut cluster = Cluster::prepare(3);
    cluster.flags.extend(FLAGS.map(String::from));
    (1..=3).for_each(|id| cluster.start_server(id));
    let client = cluster.client();
    let session = client.session().await.unwrap();
    for number in 0..20 {
        let put = session.put(format!("k{number}"), vec![number; 100_000]);
        put.await.unwrap();
    }
    let saved = cluster.dir.path().join("backup");
    succeed(&mut cluster.command(&["snapshot", "save", saved.to_str().unwrap()]));
    let deadline = Instant::now() + PATIENCE;
    let (id, before) = loop {
        let found = (1..=3).find_map(|id| Some((id, snapshots(&cluster, id).pop()?)));
        if let Some(found) = found {
            break found;
        }
        assert!(Instant::now() < deadline, "nobody has a snapshot");
    };
    flip(
        before.to_str().unwrap(),
        fs::metadata(&before).unwrap().len() / 2,
    );
    wait_for_log(&cluster, id, "the disk has lost what was written", 1);
    let mut number = 0;
    // The next one is taken once there is something new for it.
    while snapshots(&cluster, id).pop().as_ref() == Some(&before) {
        session.put(format!("more{number}"), "v").await.unwrap();
        number += 1;
        assert!(Instant::now() < deadline, "no other snapshot");
    }
    let newest = snapshots(&cluster, id).pop().unwrap();
    let verified = run(program().args(["snapshot", "verify"]).arg(newest));
    assert!(verified.status.success(), "{verified:?}");
}
