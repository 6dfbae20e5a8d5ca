//! The bare floor's three processes (`benches/src/floor`).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::NODES;
use super::system::System;
use crate::demo::cluster::free_ports;
use crate::demo::load::{BenchResult, BenchRun, Shape};
use crate::demo::process::{self, Process};

/// When making certificates counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running leader and its followers.
pub(super) struct Floor {
    processes: Vec<Process>,
    binary: PathBuf,
    tls: PathBuf,
    leader: String,
}

impl Floor {
    /// Starts the followers and the leader, which serves as soon as it is connected to them.
    pub(super) fn start(directory: &Path, binary: &Path) -> Result<Self, String> {
        let tls = directory.join("floor-tls");
        let mut certificates = Command::new(binary);
        certificates.arg("certificates").arg("--tls").arg(&tls);
        let made = process::call("quic-floor", &mut certificates, Vec::new(), PATIENCE)?;
        if !made.status.success() {
            let said = String::from_utf8_lossy(&made.stderr);
            return Err(format!("quic-floor makes no certificates: {said}"));
        }
        let ports = free_ports(NODES)?;
        let [leader, followers @ ..] = &ports[..] else {
            return Err("there are no ports".to_string());
        };
        let mut processes = Vec::new();
        let mut start = |part: &str, port: &u16, more: &[String]| {
            let mut command = Command::new(binary);
            command
                .args([part, "--port", &port.to_string(), "--tls"])
                .arg(&tls);
            command
                .arg("--file")
                .arg(directory.join(format!("floor-{port}")));
            command.args(more);
            let log = directory.join(format!("floor-{port}.log"));
            let log = File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log);
            processes.push(Process::start(&format!("floor {part}"), &mut command)?);
            Ok::<_, String>(())
        };
        let mut to_followers = Vec::new();
        for port in followers {
            start("follower", port, &[])?;
            to_followers.extend(["--follower".to_string(), format!("127.0.0.1:{port}")]);
        }
        start("leader", leader, &to_followers)?;
        Ok(Self {
            processes,
            binary: binary.to_path_buf(),
            tls,
            leader: format!("127.0.0.1:{leader}"),
        })
    }
}

impl System for Floor {
    fn name(&self) -> &'static str {
        "bare floor"
    }

    fn load(&self, shape: &Shape, total: u64) -> Result<BenchResult, String> {
        let mut command = Command::new(&self.binary);
        command.args([
            "load",
            "--leader",
            &self.leader,
            "--kind",
            shape.kind,
            "--tls",
        ]);
        command.arg(&self.tls);
        BenchRun::start_as("quic-floor load", &mut command, shape, total)?.finish()
    }

    fn process_ids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::id).collect()
    }
}
