//! Real servers as child processes on loopback, for the tests beside this directory.
#![allow(
    dead_code,
    reason = "every test file compiles this module and uses a part of it"
)]

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use raft_kv::client::call::CallPolicy;
use raft_kv::client::{Client, ClientConfig};
use raft_kv::protocol::NodeStatus;
use raft_kv::server::TlsDir;
use raft_net::TlsIdentity;
use tempfile::TempDir;

/// Longest wait for anything to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Attempts to find ports that nobody takes between our choosing and using them.
const PORT_ATTEMPTS: usize = 10;

/// The program under test.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raft-kv"));
    // Settings of whoever runs the tests must not leak in.
    for (name, _) in std::env::vars() {
        if name.starts_with("RAFT_KV_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Output {
    command.output().expect("the program starts")
}

/// Runs a command that must succeed; its standard output.
pub(crate) fn succeed(command: &mut Command) -> Vec<u8> {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {output:?}");
    output.stdout
}

/// A command that ended, how, and after how long.
pub(crate) struct Refused {
    pub(crate) code: Option<i32>,
    pub(crate) message: String,
    pub(crate) after: Duration,
}

impl Refused {
    /// Asserts a clear and quick refusal: exit code 1, within a second, with these words.
    #[track_caller]
    pub(crate) fn says(&self, words: &[&str]) {
        let Self {
            code,
            message,
            after,
        } = self;
        assert_eq!(*code, Some(1), "{message}");
        assert!(*after < Duration::from_secs(1), "took {after:?}: {message}");
        for word in words {
            assert!(message.contains(word), "no {word:?} in: {message}");
        }
    }
}

/// Runs a command to its end, or for at most [`PATIENCE`].
pub(crate) fn refused(command: &mut Command) -> Refused {
    let began = Instant::now();
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let status = wait_for_end(&mut child, PATIENCE);
    let after = began.elapsed();
    if status.is_none() {
        child.kill().expect("our child can be killed");
    }
    let output = child.wait_with_output().expect("our child has ended");
    Refused {
        code: status.and_then(|status| status.code()),
        message: String::from_utf8_lossy(&output.stderr).into_owned(),
        after,
    }
}

fn wait_for_end(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("our child can be asked") {
            return Some(status);
        }
        std::thread::yield_now();
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}

/// Ports that were free a moment ago.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    let bind = |_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let sockets: Vec<UdpSocket> = (0..count).map(bind).collect();
    let port = |socket: &UdpSocket| socket.local_addr().expect("it is bound").port();
    sockets.iter().map(port).collect()
}

/// Makes certificates of a cluster for nodes `1..=nodes` and the client `test`.
pub(crate) fn make_certificates(dir: &Path, cluster: &str, nodes: usize) {
    let mut command = program();
    command.args(["cert", "init", "--cluster", cluster, "--client", "test"]);
    command.arg("--dir").arg(dir);
    for id in 1..=nodes {
        command.arg(format!("--node={id}=127.0.0.1"));
    }
    succeed(&mut command);
}

/// A cluster of server processes, killed when dropped.
pub(crate) struct Cluster {
    pub(crate) dir: TempDir,
    pub(crate) ports: Vec<u16>,
    /// More flags for every server.
    pub(crate) flags: Vec<String>,
    servers: Vec<Option<Child>>,
    /// How many nodes the cluster began with; those behind them join.
    initial: usize,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.servers.iter_mut().flatten() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            self.print_logs();
        }
    }
}

impl Cluster {
    /// Starts a cluster and waits until it has a leader.
    pub(crate) async fn start(nodes: usize) -> Self {
        for _ in 0..PORT_ATTEMPTS {
            let mut cluster = Self::prepare(nodes);
            for id in 1..=nodes {
                cluster.start_server(id);
            }
            if cluster.leader_or_port_in_use().await {
                return cluster;
            }
        }
        panic!("no free ports in {PORT_ATTEMPTS} attempts");
    }

    /// Certificates and ports, and nothing started.
    pub(crate) fn prepare(nodes: usize) -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        make_certificates(&dir.path().join("tls"), "test", nodes);
        Self {
            dir,
            ports: free_ports(nodes),
            flags: Vec::new(),
            servers: (0..nodes).map(|_| None).collect(),
            initial: nodes,
        }
    }

    /// Makes a port and a certificate for one more node, which is not started; returns its id.
    pub(crate) fn prepare_node(&mut self) -> usize {
        // A port that a running node has is not free.
        self.ports.extend(free_ports(1));
        self.servers.push(None);
        let id = self.ports.len();
        let mut command = program();
        command.args(["cert", "add", &format!("--node={id}=127.0.0.1")]);
        succeed(command.arg("--dir").arg(self.tls()));
        id
    }

    /// Whether a leader was elected; otherwise somebody else took one of our ports.
    async fn leader_or_port_in_use(&mut self) -> bool {
        let client = self.client_of(self.endpoints(), Duration::from_secs(3));
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            for id in 1..=self.servers.len() {
                if self.has_ended(id) {
                    let log = self.log(id);
                    assert!(log.contains("cannot listen"), "node {id} ended: {log}");
                    return false;
                }
            }
            if client.prefer_leader().await.is_ok() {
                return true;
            }
        }
        self.print_logs();
        panic!("no leader within {PATIENCE:?}");
    }

    pub(crate) fn tls(&self) -> PathBuf {
        self.dir.path().join("tls")
    }

    pub(crate) fn data_dir(&self, id: usize) -> PathBuf {
        self.dir.path().join(format!("n{id}"))
    }

    pub(crate) fn address(&self, id: usize) -> String {
        format!("127.0.0.1:{}", self.ports[id - 1])
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        (1..=self.ports.len()).map(|id| self.address(id)).collect()
    }

    /// The command that runs a server as a member of this cluster.
    pub(crate) fn server_command(&self, id: usize) -> Command {
        let mut command = self.bare_server_command(id);
        if id > self.initial {
            command.arg("--join");
            return command;
        }
        for (index, address) in self.endpoints()[..self.initial].iter().enumerate() {
            command.arg(format!("--peer={}={address}", index + 1));
        }
        command
    }

    fn bare_server_command(&self, id: usize) -> Command {
        let mut command = program();
        command.args(["server", &format!("--id={id}")]);
        command.arg("--data-dir").arg(self.data_dir(id));
        command.arg("--tls-dir").arg(self.tls());
        command.arg(format!("--listen={}", self.address(id)));
        command.args(&self.flags);
        command
    }

    /// A client's command, with the flags that lead to this cluster.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.args(arguments);
        command.arg("--tls-dir").arg(self.tls());
        command.arg("--endpoints").arg(self.endpoints().join(","));
        command
    }

    pub(crate) fn start_server(&mut self, id: usize) {
        let command = self.server_command(id);
        self.start_as(id, command);
    }

    /// Starts one of the first nodes, with an empty directory, as one that joins.
    pub(crate) fn start_joining(&mut self, id: usize) {
        let mut command = self.bare_server_command(id);
        command.arg("--join");
        self.start_as(id, command);
    }

    /// Starts a node that is told neither the voters nor to join.
    pub(crate) fn start_untold(&mut self, id: usize) {
        let command = self.bare_server_command(id);
        self.start_as(id, command);
    }

    pub(crate) fn start_as(&mut self, id: usize, mut command: Command) {
        assert!(self.servers[id - 1].is_none(), "node {id} runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path(id))
            .expect("the log file can be opened");
        let child = command
            .env("RUST_BACKTRACE", "1")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the server starts");
        self.servers[id - 1] = Some(child);
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, id: usize) {
        let mut child = self.servers[id - 1].take().expect("the node runs");
        child.kill().expect("our child can be killed");
        child.wait().expect("our child has ended");
    }

    /// Sends a signal to a server.
    pub(crate) fn signal(&self, id: usize, signal: rustix::process::Signal) {
        let child = self.servers[id - 1].as_ref().expect("the node runs");
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, signal).expect("our child can be signalled");
        if signal == rustix::process::Signal::STOP {
            // Its threads run on until one of them has had the time to stop the others.
            let options = rustix::process::WaitOptions::UNTRACED;
            let waited = rustix::process::waitpid(Some(pid), options);
            let stopped = waited.expect("our child can be waited for");
            assert!(
                stopped.is_some_and(|(_, how)| how.stopped()),
                "node {id} has ended"
            );
        }
    }

    /// Waits until a server has ended by itself.
    pub(crate) fn wait_for_end(&mut self, id: usize) -> ExitStatus {
        let mut child = self.servers[id - 1].take().expect("the node runs");
        let status = wait_for_end(&mut child, PATIENCE);
        status.unwrap_or_else(|| panic!("node {id} has not ended"))
    }

    fn has_ended(&mut self, id: usize) -> bool {
        let child = self.servers[id - 1].as_mut();
        child.is_some_and(|child| child.try_wait().expect("our child can be asked").is_some())
    }

    fn log_path(&self, id: usize) -> PathBuf {
        self.dir.path().join(format!("n{id}.log"))
    }

    /// What a server has logged.
    pub(crate) fn log(&self, id: usize) -> String {
        std::fs::read_to_string(self.log_path(id)).unwrap_or_default()
    }

    fn print_logs(&self) {
        for id in 1..=self.ports.len() {
            let log = self.log(id);
            let from = log.len().saturating_sub(4000);
            eprintln!("--- log of node {id}\n{}", log.get(from..).unwrap_or(&log));
        }
    }

    /// A client of the whole cluster that tries for a long time.
    pub(crate) fn client(&self) -> Client {
        self.client_of(self.endpoints(), PATIENCE)
    }

    pub(crate) fn client_of(&self, endpoints: Vec<String>, deadline: Duration) -> Client {
        Client::new(self.client_config(endpoints, deadline)).expect("the client can be set up")
    }

    pub(crate) fn client_config(&self, endpoints: Vec<String>, deadline: Duration) -> ClientConfig {
        let files = TlsDir::new(&self.tls()).client_files("test");
        let tls = TlsIdentity::from_files(&files).expect("we made these certificates");
        let mut config = ClientConfig::new(endpoints, tls);
        config.policy = CallPolicy {
            deadline,
            ..CallPolicy::default()
        };
        config
    }

    /// The leader's id, once there is one among the servers that run.
    pub(crate) async fn leader(&self) -> usize {
        let status = self
            .client()
            .prefer_leader()
            .await
            .expect("there is a leader");
        status.id.0 as usize
    }

    /// Waits until these nodes have the same state, and returns one of their statuses.
    pub(crate) async fn converged(&self, nodes: &[usize]) -> NodeStatus {
        let client = self.client();
        let deadline = Instant::now() + PATIENCE;
        let mut last = Vec::new();
        while Instant::now() < deadline {
            last.clear();
            for id in nodes {
                if let Ok(status) = client.status_of(&self.address(*id)).await {
                    last.push(status);
                }
            }
            let is_same =
                |s: &NodeStatus| s.hash == last[0].hash && s.applied_index == last[0].applied_index;
            if last.len() == nodes.len() && last[0].hash != 0 && last.iter().all(is_same) {
                return last.swap_remove(0);
            }
        }
        panic!("states differ after {PATIENCE:?}: {last:#?}");
    }
}

/// Feeds bytes to a command's standard input.
pub(crate) fn with_stdin(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    // A program that refuses early does not read to the end.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("our child has ended")
}
