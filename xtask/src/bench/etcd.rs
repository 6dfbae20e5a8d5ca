//! Three members of etcd on loopback, from the system's package, with its defaults and without TLS.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::NODES;
use super::system::System;
use crate::demo::load::{BenchResult, BenchRun, Shape};
use crate::demo::process::{self, Process};
use crate::steps;

/// How long a cluster may take until it has a leader.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// The largest that etcd recommends; its default of 2 GiB is used up by what is measured here.
const QUOTA_BYTES: &str = "8589934592";

/// A running cluster.
pub(super) struct Etcd {
    members: Vec<Process>,
    load: PathBuf,
    /// `host:port` of the leader.
    leader: String,
}

/// The first line of `etcd --version`.
///
/// # Errors
/// It is not installed; says how to.
pub(super) fn version() -> Result<String, String> {
    let printed = steps::output(Command::new("etcd").arg("--version"));
    let printed = printed.map_err(|reason| {
        format!("{reason}; install etcd, on Debian by `apt-get install etcd-server etcd-client`")
    })?;
    Ok(printed.lines().next().unwrap_or_default().to_string())
}

impl Etcd {
    /// Starts three members and waits for their leader. `load` is the load generator.
    pub(super) fn start(directory: &Path, load: &Path) -> Result<Self, String> {
        let ports = free_ports(2 * NODES)?;
        let (clients, peers) = ports.split_at(NODES as usize);
        let initial: Vec<String> = (1..)
            .zip(peers)
            .map(|(id, port)| format!("n{id}=http://127.0.0.1:{port}"))
            .collect();
        let mut members = Vec::new();
        for (id, (client, peer)) in (1..).zip(clients.iter().zip(peers)) {
            let (client, peer) = (
                format!("http://127.0.0.1:{client}"),
                format!("http://127.0.0.1:{peer}"),
            );
            let mut command = Command::new("etcd");
            command.args(["--name", &format!("n{id}"), "--log-level", "error"]);
            command.args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ]);
            command.args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ]);
            command.args([
                "--initial-cluster",
                &initial.join(","),
                "--initial-cluster-state",
                "new",
            ]);
            command.args(["--quota-backend-bytes", QUOTA_BYTES, "--data-dir"]);
            command.arg(directory.join(format!("etcd-n{id}")));
            let log = directory.join(format!("etcd-n{id}.log"));
            let log = File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log);
            members.push(Process::start(&format!("etcd n{id}"), &mut command)?);
        }
        let endpoints: Vec<_> = clients.iter().map(|p| format!("127.0.0.1:{p}")).collect();
        Ok(Self {
            members,
            load: load.to_path_buf(),
            leader: await_leader(&endpoints, directory)?,
        })
    }
}

impl System for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn load(&self, shape: &Shape, total: u64) -> Result<BenchResult, String> {
        let mut command = Command::new(&self.load);
        command.args(["--endpoint", &self.leader, "--kind", shape.kind]);
        BenchRun::start_as("etcd-load", &mut command, shape, total)?.finish()
    }

    fn process_ids(&self) -> Vec<u32> {
        self.members.iter().map(Process::id).collect()
    }
}

fn await_leader(endpoints: &[String], directory: &Path) -> Result<String, String> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3");
        command.args([
            "endpoint",
            "status",
            "-w",
            "json",
            "--endpoints",
            &endpoints.join(","),
        ]);
        let output = process::call(
            "etcdctl endpoint status",
            &mut command,
            Vec::new(),
            PATIENCE,
        )?;
        let states = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if let Some(leader) = leader_in(&states, endpoints.len()) {
            return Ok(leader);
        }
        thread::sleep(LOOK_AGAIN);
    }
    let log = fs::read_to_string(directory.join("etcd-n1.log")).unwrap_or_default();
    Err(format!(
        "etcd elected no leader; its first member says: {log}"
    ))
}

/// The endpoint of the member that all of them call their leader.
fn leader_in(states: &Value, count: usize) -> Option<String> {
    let states = states.as_array().filter(|states| states.len() == count)?;
    let leader = states[0]["Status"]["leader"]
        .as_u64()
        .filter(|id| *id != 0)?;
    let agreed = states
        .iter()
        .all(|state| state["Status"]["leader"].as_u64() == Some(leader));
    let is_leader =
        |state: &&Value| state["Status"]["header"]["member_id"].as_u64() == Some(leader);
    let state = states.iter().find(is_leader).filter(|_| agreed)?;
    state["Endpoint"].as_str().map(str::to_string)
}

/// TCP ports on loopback that nobody uses, chosen by the operating system.
fn free_ports(count: u64) -> Result<Vec<u16>, String> {
    let bind = |_| TcpListener::bind("127.0.0.1:0");
    let listeners: Result<Vec<_>, _> = (0..count).map(bind).collect();
    let ports = listeners.and_then(|listeners| {
        let port = |listener: &TcpListener| Ok(listener.local_addr()?.port());
        listeners.iter().map(port).collect()
    });
    ports.map_err(|error| format!("no free port on loopback: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_is_whom_all_members_name() {
        let state = |endpoint: &str, member: u64, leader: u64| {
            serde_json::json!({
                "Endpoint": endpoint,
                "Status": {"header": {"member_id": member}, "leader": leader},
            })
        };
        let agreed = serde_json::json!([state("a", 1, 2), state("b", 2, 2)]);
        assert_eq!(leader_in(&agreed, 2), Some("b".to_string()));
        assert_eq!(leader_in(&agreed, 3), None);
        let split = serde_json::json!([state("a", 1, 1), state("b", 2, 2)]);
        assert_eq!(leader_in(&split, 2), None);
        let none = serde_json::json!([state("a", 1, 0), state("b", 2, 0)]);
        assert_eq!(leader_in(&none, 2), None);
    }
}
