//! The commands around a cluster: `log`, `bench`, `dev`, settings from the environment.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use raft_kv::client::Write;
use serde_json::Value;
use support::{Cluster, program, refused, run, succeed};
use tempfile::TempDir;

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("it printed JSON")
}

#[tokio::test]
async fn a_log_can_be_dumped_and_verified_and_damage_is_found() {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client();
    for number in 0..20 {
        client
            .put(format!("k{number}"), vec![7; 5_000])
            .await
            .unwrap();
    }
    cluster.kill(1);
    let dir = cluster.data_dir(1);
    let path = dir.to_str().unwrap();
    let verified = json(&succeed(
        program().args(["log", "verify", path, "-w", "json"]),
    ));
    assert_eq!(verified["sound"], true, "{verified}");
    let dumped = json(&succeed(
        program().args(["log", "dump", path, "-w", "json"]),
    ));
    let batches = dumped["segments"][0]["batches"].as_array().unwrap();
    let records = batches
        .iter()
        .flat_map(|b| b["records"].as_array().unwrap());
    let commands = records.filter(|r| r["kind"] == "command").count();
    assert_eq!(commands, 20, "{dumped}");
    // One bit in the payload of a record in the middle of the log.
    let batch = &batches[batches.len() / 2];
    let offset = batch["records"][0]["offset"].as_u64().unwrap() + 1_000;
    let file = dumped["segments"][0]["path"].as_str().unwrap();
    let mut bytes = fs::read(file).unwrap();
    bytes[offset as usize] ^= 1;
    fs::write(file, bytes).unwrap();
    let damaged = run(program().args(["log", "verify", path, "-w", "json"]));
    assert_eq!(damaged.status.code(), Some(1), "{damaged:?}");
    assert_eq!(json(&damaged.stdout)["sound"], false);
    // The server does not start on it either, and says where the damage is.
    refused(&mut cluster.server_command(1)).says(&["damage"]);
}

#[test]
fn a_directory_without_a_log_is_refused() {
    let dir = TempDir::new().unwrap();
    for command in ["dump", "verify"] {
        refused(program().args(["log", command]).arg(dir.path())).says(&["there is no log in"]);
    }
}

#[tokio::test]
async fn the_load_generator_counts_what_it_did() {
    let cluster = Cluster::start(3).await;
    let flags = [
        "--clients=8",
        "--total=400",
        "--value-size=64",
        "--key-space=50",
        "-w=json",
    ];
    for load in [&["put"][..], &["put", "--one-shot"], &["get"]] {
        let arguments = [&["bench"], load, &flags].concat();
        let report = json(&succeed(&mut cluster.command(&arguments)));
        assert_eq!(report["ops"], 400, "{report}");
        assert_eq!(report["errors"], 0, "{report}");
        for field in [
            "seconds",
            "ops_per_s",
            "p50_us",
            "p99_us",
            "p999_us",
            "max_us",
        ] {
            assert!(report[field].as_f64().unwrap() > 0.0, "{field} in {report}");
        }
    }
    let status = cluster.converged(&[1, 2, 3]).await;
    assert!(status.keys <= 50, "{status:?}");
    assert_eq!(status.revision.0, 1 + 800);
}

#[tokio::test]
async fn a_node_alone_says_whom_it_waits_for_and_stops_when_asked() {
    let mut cluster = Cluster::prepare(3);
    cluster.start_server(1);
    let client = cluster.client();
    let status = client.status_of(&cluster.address(1)).await.unwrap();
    assert_eq!((&status.role[..], status.id.0), ("forming", 1));
    assert!(!status.waiting_for.is_empty(), "{status:?}");
    let mut put = cluster.command(&["put", "k", "v", "--timeout=300ms"]);
    let output = put
        .args(["--endpoints", &cluster.address(1)])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("waits for"), "{said}");
    cluster.signal(1, rustix::process::Signal::TERM);
    assert!(cluster.wait_for_end(1).success());
}

#[tokio::test]
async fn settings_come_from_the_environment_and_flags_win() {
    let cluster = Cluster::start(1).await;
    let mut put = program();
    put.args(["put", "k", "v"]);
    put.env("RAFT_KV_ENDPOINTS", cluster.address(1));
    put.env("RAFT_KV_TLS_DIR", cluster.tls());
    put.env("RAFT_KV_WRITE_OUT", "json");
    assert_eq!(json(&succeed(&mut put))["revision"], 2);
    put.args(["-w", "simple"]);
    assert_eq!(succeed(&mut put), b"OK\n");
}

#[tokio::test]
async fn sessions_of_one_client_do_not_mix() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    let [one, two] = [
        client.session().await.unwrap(),
        client.session().await.unwrap(),
    ];
    assert_ne!(one.id(), two.id());
    // Both number their writes from 1.
    one.write(&Write::append("k", "a")).await.unwrap();
    two.write(&Write::append("k", "b")).await.unwrap();
    let found = client.get(b"k").await.unwrap().unwrap();
    assert_eq!(&found.value[..], b"ab");
}

#[test]
fn dev_runs_a_cluster_that_keeps_its_data() {
    let dir = TempDir::new().unwrap();
    for round in 1..=2 {
        let mut dev = program()
            .args(["dev", "--nodes=3", "--first-port=0", "--data-dir"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(dev.stdout.take().unwrap()).lines();
        let mut settings = Vec::new();
        for line in lines {
            let line = line.unwrap();
            if let Some(setting) = line.trim().strip_prefix("export ") {
                let (name, value) = setting.split_once('=').unwrap();
                settings.push((name.to_owned(), value.to_owned()));
            }
            if line.contains("Ctrl-C") {
                break;
            }
        }
        let raft_kv = |arguments: &[&str]| {
            let settings = settings.iter().map(|(name, value)| (name, value));
            succeed(program().args(arguments).envs(settings))
        };
        raft_kv(&["append", "rounds", "x"]);
        let value = raft_kv(&["get", "rounds"]);
        assert_eq!(value, format!("rounds\n{}\n", "x".repeat(round)).as_bytes());
        let pid = rustix::process::Pid::from_child(&dev);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        assert!(dev.wait().unwrap().success());
    }
}

#[tokio::test]
async fn a_log_is_dumped_by_filter_and_repaired_only_where_nothing_is_guessed() {
    let mut cluster = Cluster::start(1).await;
    for number in 0..6 {
        succeed(&mut cluster.command(&["put", "k", &number.to_string()]));
    }
    let dir = cluster.data_dir(1);
    let log = |arguments: &[&str]| {
        let mut command = program();
        command.arg("log").args(arguments).arg(&dir);
        command
    };
    let lines = |arguments: &[&str]| {
        let printed = String::from_utf8(succeed(&mut log(arguments))).unwrap();
        let records = printed
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        records.collect::<Vec<serde_json::Value>>()
    };
    cluster.signal(1, rustix::process::Signal::TERM);
    assert!(cluster.wait_for_end(1).success());
    let all = lines(&["dump", "--lines", "-w=json"]);
    assert!(all.len() > 6, "{all:?}");
    let members = lines(&["dump", "--lines", "-w=json", "--kind=membership"]);
    assert!(!members.is_empty() && members.iter().all(|line| line["kind"] == "membership"));
    let some = lines(&["dump", "--lines", "-w=json", "--from=2", "--to=3"]);
    assert!(
        some.iter()
            .all(|line| (2..=3).contains(&line["index"].as_u64().unwrap()))
    );
    assert!(some.len() >= 2);
    assert_eq!(succeed(&mut log(&["repair"])), b"nothing to repair\n");

    // One copy of a batch's identity rots: told, and written again only when that is asked for.
    let report = json(&succeed(&mut log(&["dump", "-w=json"])));
    let segment = &report["segments"][0];
    let path = segment["path"].as_str().unwrap().to_owned();
    let offset = segment["batches"][0]["offset"].as_u64().unwrap();
    let flip = |at: u64| {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at as usize] ^= 0x10;
        std::fs::write(&path, bytes).unwrap();
    };
    flip(offset + 20);
    refused(&mut log(&["verify"])).says(&["is damaged"]);
    let told = String::from_utf8(succeed(&mut log(&["repair"]))).unwrap();
    assert!(
        told.contains("write the entries") && told.contains("--yes"),
        "{told}"
    );
    let kept = dir.join("log-before-repair-1");
    assert!(!kept.exists(), "a dry run changes nothing");
    let done = String::from_utf8(succeed(&mut log(&["repair", "--yes"]))).unwrap();
    assert!(
        done.contains("log-before-repair-1") && kept.is_dir(),
        "{done}"
    );

    // Lost content is not made up. The repair has left two copies of it, and both are needed for that.
    let records = lines(&["dump", "--lines", "-w=json", "--kind=command"]);
    let index = records.last().unwrap()["index"].as_u64().unwrap();
    let report = json(&succeed(&mut log(&["dump", "-w=json"])));
    for segment in report["segments"].as_array().unwrap() {
        let path = segment["path"].as_str().unwrap();
        let mut bytes = std::fs::read(path).unwrap();
        let batches = segment["batches"].as_array().unwrap().iter();
        let records = batches.flat_map(|batch| batch["records"].as_array().unwrap());
        for record in records.filter(|record| record["index"].as_u64() == Some(index)) {
            bytes[record["offset"].as_u64().unwrap() as usize + 8] ^= 0xff;
        }
        std::fs::write(path, bytes).unwrap();
    }
    refused(&mut log(&["repair", "--yes"])).says(&["nothing was changed"]);
}

#[tokio::test]
async fn the_log_of_a_running_server_is_not_repaired() {
    let cluster = Cluster::start(1).await;
    succeed(&mut cluster.command(&["put", "k", "v"]));
    let mut repair = program();
    repair
        .args(["log", "repair", "--yes"])
        .arg(cluster.data_dir(1));
    let output = repair.output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    // What is being written may look torn, or all is in order at this moment.
    assert!(
        said.contains("nothing to repair") || said.contains("is in use by another process"),
        "{said}"
    );
}
