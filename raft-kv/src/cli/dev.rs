//! `dev`: a local cluster in the foreground. Every server is a process of its own, so that any of
//! them can be killed to see what happens.

use std::fs::{self, File};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use raft_net::TlsIdentity;
use raft_proto::NodeId;
use tokio::signal::unix::{SignalKind, signal};

use super::args::{CertInitArgs, DevArgs};
use super::error::CliError;
use super::output::{print_bytes, print_line};
use super::{block_on, cert};
use crate::client::call::CallPolicy;
use crate::client::{Client, ClientConfig};
use crate::server::TlsDir;

/// The cluster's name in certificates.
const CLUSTER: &str = "dev";
/// The name of the one client.
const CLIENT: &str = "dev";
/// How long the cluster may take to elect its first leader.
const FIRST_LEADER: Duration = Duration::from_secs(30);
/// How long servers may take to stop.
const STOP: Duration = Duration::from_secs(10);

pub(super) fn run(args: &DevArgs) -> Result<(), CliError> {
    let layout = Layout::prepare(args)?;
    let mut servers = Servers::start(&layout)?;
    let outcome = block_on(attend(&layout, &mut servers));
    servers.stop();
    outcome
}

/// Where everything is.
struct Layout {
    dir: PathBuf,
    ports: Vec<u16>,
}

impl Layout {
    /// Makes what is missing; what is there is used again.
    fn prepare(args: &DevArgs) -> Result<Self, CliError> {
        let dir = std::path::absolute(&args.data_dir)
            .map_err(|source| CliError::io("find the current directory", source))?;
        fs::create_dir_all(&dir)
            .map_err(|source| CliError::io(format!("create {}", dir.display()), source))?;
        let file = dir.join("ports");
        let ports = if file.exists() {
            read_ports(&file, args.nodes)?
        } else {
            let ports = choose_ports(args)?;
            let lines: Vec<String> = ports.iter().map(u16::to_string).collect();
            fs::write(&file, lines.join("\n"))
                .map_err(|source| CliError::io(format!("write {}", file.display()), source))?;
            ports
        };
        let layout = Self { dir, ports };
        if !TlsDir::new(&layout.tls()).authority().exists() {
            let node = (1..=args.nodes).map(|id| format!("{id}=127.0.0.1"));
            cert::init(&CertInitArgs {
                dir: layout.tls(),
                cluster: CLUSTER.to_owned(),
                node: node.collect(),
                clients: vec![CLIENT.to_owned()],
                days: 3650,
            })?;
        }
        Ok(layout)
    }

    fn tls(&self) -> PathBuf {
        self.dir.join("tls")
    }

    fn endpoints(&self) -> Vec<String> {
        let endpoint = |port: &u16| format!("127.0.0.1:{port}");
        self.ports.iter().map(endpoint).collect()
    }

    /// The arguments that start a server, after the program's name.
    fn server_arguments(&self, id: usize) -> Vec<String> {
        let mut arguments = vec!["server".to_owned(), format!("--id={id}")];
        arguments.push(format!(
            "--data-dir={}",
            self.dir.join(format!("n{id}")).display()
        ));
        arguments.push(format!("--tls-dir={}", self.tls().display()));
        for (index, endpoint) in self.endpoints().iter().enumerate() {
            if index + 1 == id {
                arguments.push(format!("--listen={endpoint}"));
            }
            arguments.push(format!("--peer={}={endpoint}", index + 1));
        }
        arguments
    }
}

fn read_ports(file: &Path, nodes: u64) -> Result<Vec<u16>, CliError> {
    let text = fs::read_to_string(file)
        .map_err(|source| CliError::io(format!("read {}", file.display()), source))?;
    let ports: Result<Vec<u16>, _> = text.lines().map(str::parse).collect();
    let ports = ports.map_err(|_| {
        CliError::Failed(format!("{} does not hold a port per line", file.display()))
    })?;
    if ports.len() as u64 != nodes {
        return Err(CliError::Failed(format!(
            "{} is the directory of a cluster of {} nodes; use --nodes {} or another --data-dir",
            file.parent().unwrap_or(file).display(),
            ports.len(),
            ports.len()
        )));
    }
    Ok(ports)
}

fn choose_ports(args: &DevArgs) -> Result<Vec<u16>, CliError> {
    let mut sockets = Vec::new();
    let mut ports = Vec::new();
    for index in 0..args.nodes {
        let port = match args.first_port {
            0 => 0,
            // At most nine nodes.
            first => first
                .checked_add(index as u16)
                .ok_or_else(|| CliError::Usage("the ports do not fit below 65536".to_owned()))?,
        };
        // Held until all are chosen, so that all differ; then free for the servers.
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).map_err(|source| {
            CliError::io(
                format!("use port {port} (choose others with --first-port)"),
                source,
            )
        })?;
        let address = socket
            .local_addr()
            .map_err(|source| CliError::io("read the port of a socket", source))?;
        ports.push(address.port());
        sockets.push(socket);
    }
    Ok(ports)
}

/// The servers' processes.
struct Servers {
    /// Closing these asks the servers to stop; they also close should this process be killed.
    inputs: Vec<ChildStdin>,
    ends: mpsc::Receiver<(usize, std::io::Result<ExitStatus>)>,
    running: usize,
}

impl Servers {
    fn start(layout: &Layout) -> Result<Self, CliError> {
        let program = std::env::current_exe()
            .map_err(|source| CliError::io("find this program's file", source))?;
        let (report, ends) = mpsc::channel();
        let mut servers = Self {
            inputs: Vec::new(),
            ends,
            running: 0,
        };
        for id in 1..=layout.ports.len() {
            let path = layout.dir.join(format!("n{id}.log"));
            let log = File::options()
                .create(true)
                .append(true)
                .open(&path)
                .map_err(|source| CliError::io(format!("open {}", path.display()), source))?;
            let mut child = Command::new(&program)
                .args(layout.server_arguments(id))
                .arg("--until-stdin-closes")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .map_err(|source| CliError::io(format!("start node {id}"), source))?;
            println!("node {id}: process {}, log {}", child.id(), path.display());
            servers.inputs.extend(child.stdin.take());
            servers.running += 1;
            let report = report.clone();
            std::thread::spawn(move || report.send((id, child.wait())));
        }
        Ok(servers)
    }

    /// The servers that ended since the last call.
    fn ended(&mut self) -> Vec<(usize, String)> {
        let mut ended = Vec::new();
        while let Ok((id, status)) = self.ends.try_recv() {
            self.running -= 1;
            let how = match status {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            ended.push((id, how));
        }
        ended
    }

    fn stop(&mut self) {
        self.inputs.clear();
        let deadline = Instant::now() + STOP;
        while self.running > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.ends.recv_timeout(left) {
                Ok(_) => self.running -= 1,
                Err(_) => {
                    eprintln!("{} servers have not stopped within {STOP:?}", self.running);
                    return;
                }
            }
        }
    }
}

/// Tells how to use the cluster, then what happens to it, until interrupted.
async fn attend(layout: &Layout, servers: &mut Servers) -> Result<(), CliError> {
    let watch = |kind| signal(kind).map_err(|source| CliError::io("watch for signals", source));
    let (mut interrupt, mut terminate) = (
        watch(SignalKind::interrupt())?,
        watch(SignalKind::terminate())?,
    );
    let leader = first_leader(layout);
    tokio::pin!(leader);
    let mut is_led = false;
    let mut look = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            led = &mut leader, if !is_led => {
                is_led = true;
                print_bytes(usage(layout, led?).as_bytes())?;
            }
            _ = look.tick() => {
                for (id, how) in servers.ended() {
                    let arguments = layout.server_arguments(id).join(" ");
                    print_line(&format!(
                        "node {id} has ended ({how}); start it again with:\n  raft-kv {arguments}"
                    ))?;
                }
                if servers.running == 0 {
                    return Err(CliError::Failed(format!(
                        "all servers have ended; see the logs in {}",
                        layout.dir.display()
                    )));
                }
            }
        }
    }
}

async fn first_leader(layout: &Layout) -> Result<NodeId, CliError> {
    let files = TlsDir::new(&layout.tls()).client_files(CLIENT);
    let tls = TlsIdentity::from_files(&files).map_err(|error| CliError::Client(error.into()))?;
    let mut config = ClientConfig::new(layout.endpoints(), tls);
    config.policy = CallPolicy {
        deadline: FIRST_LEADER,
        ..CallPolicy::default()
    };
    let client = Client::new(config)?;
    let status = client.prefer_leader().await?;
    client.close(Duration::from_millis(100)).await;
    Ok(status.id)
}

fn usage(layout: &Layout, leader: NodeId) -> String {
    format!(
        "\nThe cluster is ready; node {} leads. In another terminal:\n\n  \
         export RAFT_KV_ENDPOINTS={}\n  \
         export RAFT_KV_TLS_DIR={}\n  \
         raft-kv put colour red\n  \
         raft-kv get colour\n  \
         raft-kv status\n\n\
         Kill a server (kill -9 and its process number above) and see that nothing is lost.\n\
         Ctrl-C stops the cluster; its data stay in {}.\n",
        leader.0,
        layout.endpoints().join(","),
        layout.tls().display(),
        layout.dir.display()
    )
}
