//! Whose directory is it: wiped, swapped, copied, foreign, newer, busy, and the last one left. Each is
//! refused with what to do, or safely handled.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use raft_kv::client::Write as Change;
use raft_kv::protocol::NodeStatus;
use raft_proto::NodeId;
use serde_json::Value;
use support::{Cluster, PATIENCE, program, refused, run, succeed};

/// Copies a directory with everything in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Starts a server that must end by itself, with these words in its log.
fn ends_with(cluster: &mut Cluster, id: usize, words: &[&str]) {
    let before = cluster.log(id).len();
    cluster.start_server(id);
    let status = cluster.wait_for_end(id);
    let log = cluster.log(id);
    let said = &log[before..];
    assert_eq!(status.code(), Some(1), "{said}");
    for word in words {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
}

/// Waits until a node's status shows something.
async fn wait_for_status(
    cluster: &Cluster,
    id: usize,
    mut shows: impl FnMut(&NodeStatus) -> bool,
) -> NodeStatus {
    let client = cluster.client();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = client.status_of(&cluster.address(id)).await.unwrap();
        if shows(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "{status:?}");
    }
}

/// Asks a server's `/ready`; the code and the body.
fn ready(cluster: &Cluster, id: usize) -> (String, Value) {
    let log = cluster.log(id);
    let (_, after) = log.rsplit_once("serving metrics").expect("it serves them");
    let (_, address) = after.split_once("address=").expect("it says where");
    let address = address.split_whitespace().next().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = "GET /ready HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let body = serde_json::from_str(body).unwrap();
    (head[..12].to_owned(), body)
}

#[tokio::test]
async fn a_wiped_node_is_refused_and_says_why_wherever_it_is_asked() {
    let mut cluster = Cluster::start(3).await;
    cluster.client().put("k", "v").await.unwrap();
    let wiped = cluster.leader().await % 3 + 1;
    cluster.kill(wiped);
    fs::remove_dir_all(cluster.data_dir(wiped)).unwrap();
    // Started as ever it ends; started to join it waits for an operator, and can be asked.
    let readmit = [
        format!("raft-kv member remove {wiped}"),
        format!("raft-kv member add {wiped}=ADDRESS"),
    ];
    ends_with(&mut cluster, wiped, &[&readmit[0], "raft-kv member add"]);
    fs::remove_dir_all(cluster.data_dir(wiped)).unwrap();
    cluster
        .flags
        .push("--metrics-listen=127.0.0.1:0".to_owned());
    cluster.start_joining(wiped);
    let tells = |text: &str| readmit.iter().all(|words| text.contains(words));
    wait_for_status(&cluster, wiped, |status| {
        tells(&status.waiting_for.join("; "))
    })
    .await;
    let (code, body) = ready(&cluster, wiped);
    assert_eq!(code, "HTTP/1.1 503");
    assert!(tells(body["reason"].as_str().unwrap()), "{body}");
}

#[tokio::test]
async fn swapped_directories_are_refused_and_can_be_swapped_back() {
    let mut cluster = Cluster::start(3).await;
    cluster.client().put("k", "v").await.unwrap();
    let aside = cluster.dir.path().join("aside");
    let swap = |cluster: &Cluster| {
        fs::rename(cluster.data_dir(1), &aside).unwrap();
        fs::rename(cluster.data_dir(2), cluster.data_dir(1)).unwrap();
        fs::rename(&aside, cluster.data_dir(2)).unwrap();
    };
    cluster.kill(1);
    cluster.kill(2);
    swap(&cluster);
    ends_with(
        &mut cluster,
        1,
        &["belongs to node n2, not to n1", "start node n2 on it"],
    );
    ends_with(&mut cluster, 2, &["belongs to node n1, not to n2"]);
    swap(&cluster);
    cluster.start_server(1);
    cluster.start_server(2);
    cluster.converged(&[1, 2, 3]).await;
}

#[tokio::test]
async fn a_second_process_on_a_directory_is_refused() {
    let cluster = Cluster::start(1).await;
    refused(&mut cluster.server_command(1)).says(&["cannot listen on"]);
    let mut elsewhere = program();
    elsewhere.args([
        "server",
        "--id=1",
        "--listen=127.0.0.1:0",
        "--peer=1=127.0.0.1:1",
    ]);
    elsewhere.arg("--data-dir").arg(cluster.data_dir(1));
    elsewhere.arg("--tls-dir").arg(cluster.tls());
    refused(&mut elsewhere).says(&["in use by another process", "stop that process"]);
}

/// A copy from before a restart has forgotten promises. It is known by the number of its starts, and
/// in the same number by what it drew at random.
#[tokio::test]
async fn an_old_copy_of_a_directory_ends_with_what_to_do() {
    let mut cluster = Cluster::start(3).await;
    cluster.client().put("k", "v").await.unwrap();
    let copied = cluster.leader().await % 3 + 1;
    let (home, old) = (cluster.data_dir(copied), cluster.dir.path().join("old"));
    let latest = cluster.dir.path().join("latest");
    cluster.kill(copied);
    copy(&home, &old);
    for restarts in 1..=2 {
        cluster.start_server(copied);
        cluster
            .client()
            .put("k", restarts.to_string())
            .await
            .unwrap();
        cluster.converged(&[1, 2, 3]).await;
        cluster.kill(copied);
        fs::rename(&home, &latest).unwrap();
        copy(&old, &home);
        let id = copied.to_string();
        let words = [
            "an old copy of its data directory",
            "Put the latest directory back",
            &format!("raft-kv member remove {id}"),
        ];
        ends_with(&mut cluster, copied, &words);
        fs::remove_dir_all(&home).unwrap();
        fs::rename(&latest, &home).unwrap();
    }
    // The latest one is as welcome as ever.
    cluster.start_server(copied);
    cluster.converged(&[1, 2, 3]).await;
}

#[tokio::test]
async fn the_directory_of_another_cluster_ends_with_what_to_do() {
    let mut cluster = Cluster::start(3).await;
    cluster.client().put("k", "of the first").await.unwrap();
    (1..=3).for_each(|id| cluster.kill(id));
    let first = cluster.dir.path().join("first");
    fs::rename(cluster.data_dir(1), &first).unwrap();
    for id in [2, 3] {
        fs::remove_dir_all(cluster.data_dir(id)).unwrap();
    }
    // The same machines and certificates, another cluster.
    (1..=3).for_each(|id| cluster.start_server(id));
    cluster.client().put("k", "of the second").await.unwrap();
    cluster.kill(1);
    let second = cluster.dir.path().join("second");
    fs::rename(cluster.data_dir(1), &second).unwrap();
    fs::rename(&first, cluster.data_dir(1)).unwrap();
    let words = [
        "refused for good by n2, n3",
        "belongs to cluster",
        "data directory that belongs to",
    ];
    ends_with(&mut cluster, 1, &words);
    fs::remove_dir_all(cluster.data_dir(1)).unwrap();
    fs::rename(&second, cluster.data_dir(1)).unwrap();
    cluster.start_server(1);
    cluster.converged(&[1, 2, 3]).await;
}

/// CRC-32 as in zip files, one bit at a time.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            }
        })
    };
    !bytes.iter().fold(!0, step)
}

/// Makes a file say that a newer program wrote it: its first 16 bytes are magic, version and a
/// checksum of these, in every version.
fn make_newer(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let sum = |bytes: &[u8]| crc32(&bytes[..12]).to_le_bytes();
    assert_eq!(bytes[12..16], sum(&bytes), "{}", path.display());
    bytes[8] += 1;
    let newer = sum(&bytes);
    bytes[12..16].copy_from_slice(&newer);
    fs::write(path, bytes).unwrap();
}

/// The files of a directory with this ending, in order.
fn files(directory: PathBuf, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|found| found == ending))
        .collect();
    found.sort();
    found
}

#[tokio::test]
async fn an_older_program_leaves_newer_data_alone() {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.put("k", "v").await.unwrap();
    client.take_snapshot(&cluster.address(1)).await.unwrap();
    cluster.kill(1);
    let home = cluster.data_dir(1);
    let segments = files(home.join("log-0"), "wal");
    let snapshots = files(home.join("snapshots-0"), "snap");
    let records = ["IDENTITY.rec", "formation.rec"].map(|name| home.join(name));
    let kept = cluster.dir.path().join("kept");
    for file in records
        .iter()
        .chain(segments.last())
        .chain(snapshots.last())
    {
        copy(&home, &kept);
        make_newer(file);
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        ends_with(
            &mut cluster,
            1,
            &["has format version", "use a newer program", &name],
        );
        fs::remove_dir_all(&home).unwrap();
        fs::rename(&kept, &home).unwrap();
    }
    cluster.start_server(1);
    cluster.client().put("k", "w").await.unwrap();
}

fn recover(cluster: &Cluster, id: usize, confirmations: &[&str]) -> Command {
    let mut command = program();
    command
        .arg("recover")
        .arg("--data-dir")
        .arg(cluster.data_dir(id));
    command.args(confirmations);
    command
}

const CONFIRMED: [&str; 2] = ["--new-cluster", "--yes-i-lose-unreplicated-writes"];

#[tokio::test]
async fn the_last_node_becomes_a_cluster_of_its_own() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client();
    let session = client.session().await.unwrap();
    session.write(&Change::append("log", "<1>")).await.unwrap();
    let before = cluster.converged(&[1, 2, 3]).await;
    refused(&mut recover(&cluster, 2, &CONFIRMED)).says(&["in use by another process"]);
    (1..=3).for_each(|id| cluster.kill(id));
    fs::remove_dir_all(cluster.data_dir(3)).unwrap();

    // Nothing happens by a slip of the hand.
    for too_little in [&[][..], &CONFIRMED[..1], &CONFIRMED[1..]] {
        let output = run(&mut recover(&cluster, 2, too_little));
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        for words in [
            "nothing was changed",
            "LOST",
            &before.cluster,
            &cluster.address(3),
        ] {
            assert!(said.contains(words), "no {words:?} in {said}");
        }
    }
    let mut recovering = recover(&cluster, 2, &CONFIRMED);
    let made: Value = serde_json::from_slice(&succeed(recovering.arg("-w=json"))).unwrap();
    assert_eq!(made["old_cluster"], before.cluster);
    assert_ne!(made["cluster"], before.cluster);
    assert_eq!(made["address"], cluster.address(2));
    assert!(
        Path::new(made["replaced"].as_str().unwrap())
            .join("IDENTITY.rec")
            .exists()
    );

    // With the voters of the old cluster it says what is wrong.
    ends_with(
        &mut cluster,
        2,
        &["was formed by", "2=", "use another directory"],
    );
    cluster.start_untold(2);
    let alone = wait_for_status(&cluster, 2, |status| status.leader == Some(NodeId(2))).await;
    assert_eq!(alone.cluster, made["cluster"]);
    assert!(alone.peers.is_empty(), "{alone:?}");
    // The session is there, and its writes still count once.
    session.write(&Change::append("log", "<2>")).await.unwrap();
    let found = client.get(b"log").await.unwrap().unwrap();
    assert_eq!(found.value, "<1><2>");

    // A member of the old cluster that turns up after all is told where it belongs, and does no harm.
    cluster
        .flags
        .push("--metrics-listen=127.0.0.1:0".to_owned());
    cluster.start_server(1);
    let stray = wait_for_status(&cluster, 1, |status| !status.notes.is_empty()).await;
    let note = stray.notes.join("; ");
    assert!(note.contains(&alone.cluster), "{note}");
    // The new cluster wants nothing of it.
    let untouched = client.status_of(&cluster.address(2)).await.unwrap();
    assert_eq!(untouched.notes, [""; 0]);
    let (code, body) = ready(&cluster, 1);
    assert_eq!(code, "HTTP/1.1 503");
    assert!(
        body["reason"].as_str().unwrap().contains(&alone.cluster),
        "{body}"
    );
    let mut status = cluster.command(&["status"]);
    status.args(["--endpoints", &cluster.address(1)]);
    let said = String::from_utf8(succeed(&mut status)).unwrap();
    assert!(said.contains(&alone.cluster), "{said}");
    cluster.kill(1);

    // The cluster grows again.
    let id = cluster.prepare_node();
    let node = format!("{id}={}", cluster.address(id));
    let mut add = program();
    add.args(["member", "add", &node])
        .arg("--tls-dir")
        .arg(cluster.tls());
    succeed(add.args(["--endpoints", &cluster.address(2)]));
    cluster.start_server(id);
    wait_for_status(&cluster, id, |status| status.leader == Some(NodeId(2))).await;
    cluster.converged(&[2, id]).await;
}

#[tokio::test]
async fn what_is_no_survivor_is_not_recovered() {
    let cluster = Cluster::prepare(1);
    let missing = refused(&mut recover(&cluster, 1, &CONFIRMED));
    missing.says(&["is no data directory of a node that belongs to a cluster"]);
    assert!(!cluster.data_dir(1).exists(), "nothing is made");
    let mut odd = recover(&cluster, 1, &CONFIRMED);
    let output = run(odd.arg("--address=nowhere"));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

/// Without a leader the members that a node knows can still be told.
#[tokio::test]
async fn members_are_told_without_a_leader() {
    let mut cluster = Cluster::start(3).await;
    cluster.client().put("k", "v").await.unwrap();
    cluster.converged(&[1, 2, 3]).await;
    cluster.kill(1);
    cluster.kill(2);
    let stale = |arguments: &[&str]| {
        let mut command = cluster.command(&[&["member", "list", "--stale"], arguments].concat());
        String::from_utf8(succeed(&mut command)).unwrap()
    };
    let table = stale(&[]);
    assert!(table.contains("as node 3 knows it"), "{table}");
    assert!(table.contains("it may be old"), "{table}");
    for id in 1..=3 {
        assert!(table.contains(&cluster.address(id)), "{table}");
    }
    let json: Value = serde_json::from_str(&stale(&["-w=json"])).unwrap();
    assert_eq!(json["members"].as_array().unwrap().len(), 3, "{json}");
    assert_eq!(json["from"], 3);
    let mut led = cluster.command(&["member", "list", "--timeout=500ms"]);
    assert_eq!(run(&mut led).status.code(), Some(1), "it needs a leader");
}

/// A server that listens elsewhere than the cluster expects it says so.
#[tokio::test]
async fn an_address_that_leads_elsewhere_is_warned_of() {
    let mut cluster = Cluster::start(1).await;
    cluster.kill(1);
    assert!(!cluster.log(1).contains("but the cluster reaches it at"));
    let elsewhere = support::free_ports(1)[0];
    let expected = cluster.address(1);
    cluster.ports[0] = elsewhere;
    // It belongs to a cluster, so its own log says where it is expected.
    cluster.start_untold(1);
    let deadline = Instant::now() + PATIENCE;
    let warning = format!("but the cluster reaches it at {expected}");
    while !cluster.log(1).contains(&warning) {
        assert!(Instant::now() < deadline, "{}", cluster.log(1));
        std::thread::sleep(Duration::from_millis(5));
    }
}
