//! The servers of a campaign: their hosts, directories, certificates and processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use raft_kv::server::TlsDir;
use raft_net::TlsIdentity;

use crate::access::Access;
use crate::commands::{program, succeed};
use crate::host::Room;
use crate::lan::{HostId, Lan, Plug, check_namespaces};
use crate::problem::Problem;
use crate::process::Process;

/// The port of every server that has a host of its own.
const PORT: u16 = 7001;
/// Where the clients are.
const CLIENTS: HostId = HostId(250);
/// The client's name in its certificate.
const CLIENT: &str = "chaos";
/// The first node's disk, where it has a small one: with room for what the node keeps, snapshots that
/// hold all of the ballast too, or it would be full when nothing fills it.
const SMALL_DISK_BYTES: u64 = 16 * SEGMENT_BYTES;
/// Near the least that holds the largest batch, so that segments are made and removed soon.
pub(crate) const SEGMENT_BYTES: u64 = 34 << 20;
/// A node that was away for a few seconds needs a snapshot.
const SNAPSHOT_ENTRIES: u64 = 1_000;
const SNAPSHOT_KEEP_ENTRIES: u64 = 200;
/// Lines of a server's log that are shown when it has ended.
const LOG_LINES_SHOWN: usize = 30;

/// How servers and clients reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Each server is a host of its own in a network namespace; clients are on another host.
    Namespaces,
    /// All are on loopback, with ports that the system has chosen: no partitions.
    Loopback,
}

impl Network {
    /// Namespaces where they can be had.
    #[must_use]
    pub fn best() -> Self {
        check_namespaces().map_or(Self::Loopback, |()| Self::Namespaces)
    }
}

/// How a server is told who belongs to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Form,
    Join,
}

struct Node {
    address: SocketAddr,
    start: Start,
    process: Option<Process>,
}

/// All servers.
pub(crate) struct Cluster {
    binary: PathBuf,
    directory: PathBuf,
    lan: Option<Lan>,
    nodes: BTreeMap<u64, Node>,
    /// What the voters of the beginning are told of each other.
    peers: Vec<String>,
    next_id: u64,
    paused: BTreeSet<u64>,
    unplugged: BTreeSet<u64>,
    /// The node whose disk is small.
    small_disk: Option<u64>,
    access: Arc<Access>,
}

impl Cluster {
    /// Makes hosts and certificates, and starts nothing. The calling thread moves to the clients'
    /// host, for good.
    pub(crate) fn prepare(
        binary: &Path,
        directory: &Path,
        nodes: u64,
        network: Network,
    ) -> Result<Self, Problem> {
        let mut lan = match network {
            Network::Namespaces => Some(Lan::create()?),
            Network::Loopback => None,
        };
        let ids: Vec<u64> = (1..=nodes).collect();
        let mut addresses = Vec::new();
        match &mut lan {
            Some(lan) => {
                lan.add(CLIENTS)?;
                lan.host(CLIENTS).enter()?;
                for id in &ids {
                    lan.add(host_of(*id))?;
                    addresses.push(address_of(*id));
                }
            }
            None => addresses = free_addresses(ids.len())?,
        }
        let tls = directory.join("tls");
        let mut command = program(binary);
        command.args(["cert", "init", "--cluster=chaos", "--client", CLIENT]);
        command.arg("--dir").arg(&tls);
        let with_address = |id: &u64| (*id, addresses[*id as usize - 1]);
        for (id, address) in ids.iter().map(with_address) {
            command.arg(format!("--node={id}={}", address.ip()));
        }
        succeed(command)?;
        let identity = TlsIdentity::from_files(&TlsDir::new(&tls).client_files(CLIENT))?;
        let node = |address| Node {
            address,
            start: Start::Form,
            process: None,
        };
        let named = ids.iter().map(with_address);
        let cluster = Self {
            binary: binary.to_owned(),
            directory: directory.to_owned(),
            small_disk: lan.as_ref().map(|_| ids[0]),
            lan,
            peers: named
                .clone()
                .map(|(id, at)| format!("--peer={id}={at}"))
                .collect(),
            nodes: named.map(|(id, address)| (id, node(address))).collect(),
            next_id: nodes + 1,
            paused: BTreeSet::new(),
            unplugged: BTreeSet::new(),
            access: Arc::new(Access::new(identity)),
        };
        cluster.mount_small_disk()?;
        cluster.publish();
        Ok(cluster)
    }

    pub(crate) fn access(&self) -> &Arc<Access> {
        &self.access
    }

    /// The members, dead ones too.
    pub(crate) fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn address(&self, id: u64) -> String {
        self.nodes[&id].address.to_string()
    }

    pub(crate) fn runs(&self, id: u64) -> bool {
        self.nodes
            .get(&id)
            .is_some_and(|node| node.process.is_some())
    }

    pub(crate) fn is_paused(&self, id: u64) -> bool {
        self.paused.contains(&id)
    }

    /// Starts a server that does not run.
    pub(crate) fn start(&mut self, id: u64) -> Result<(), Problem> {
        assert!(!self.runs(id), "n{id} runs already");
        let mut command = self.server_command(id)?;
        let started = match &self.lan {
            Some(lan) => lan
                .host(host_of(id))
                .run(move |_| Process::start(&mut command)),
            None => Process::start(&mut command),
        };
        let process = started.map_err(Problem::io(format!("start n{id}")))?;
        self.node(id).process = Some(process);
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, id: u64) -> Result<(), Problem> {
        self.paused.remove(&id);
        match self.node(id).process.take() {
            Some(process) => process.kill().map_err(Problem::io(format!("kill n{id}"))),
            None => Ok(()),
        }
    }

    /// SIGSTOP.
    pub(crate) fn pause(&mut self, id: u64) -> Result<(), Problem> {
        if let Some(process) = &self.node(id).process {
            process
                .pause()
                .map_err(Problem::io(format!("pause n{id}")))?;
            self.paused.insert(id);
        }
        Ok(())
    }

    /// Cuts these ways, and no others.
    pub(crate) fn cut(&mut self, ways: impl Iterator<Item = (u64, u64)>) -> Result<(), Problem> {
        let ways = ways.map(|(from, to)| (host_of(from), host_of(to)));
        let lan = self.lan.as_mut().expect("partitions are for namespaces");
        Ok(lan.set_cut(ways.collect())?)
    }

    /// Takes a server's interface down.
    pub(crate) fn unplug(&mut self, id: u64) -> Result<(), Problem> {
        let lan = self.lan.as_mut().expect("interfaces are for namespaces");
        lan.plug(host_of(id), Plug::Out)?;
        self.unplugged.insert(id);
        Ok(())
    }

    /// Leaves no room on the small disk, if its node is still there; returns which one it is.
    pub(crate) fn fill_disk(&mut self) -> Result<Option<u64>, Problem> {
        self.set_room(Room::None)?;
        Ok(self.small_disk)
    }

    /// Mends everything and starts whoever does not run.
    pub(crate) fn heal(&mut self) -> Result<(), Problem> {
        if let Some(lan) = &mut self.lan {
            lan.set_cut(BTreeSet::new())?;
            for id in std::mem::take(&mut self.unplugged) {
                lan.plug(host_of(id), Plug::In)?;
            }
        }
        self.set_room(Room::Of {
            bytes: SMALL_DISK_BYTES,
        })?;
        for id in std::mem::take(&mut self.paused) {
            if let Some(process) = &self.node(id).process {
                process
                    .resume()
                    .map_err(Problem::io(format!("resume n{id}")))?;
            }
        }
        for id in self.ids() {
            if !self.runs(id) {
                self.start(id)?;
            }
        }
        Ok(())
    }

    /// Makes a host and a certificate for a node that joins, and starts it.
    pub(crate) fn start_joining(&mut self, id: u64, address: SocketAddr) -> Result<(), Problem> {
        let mut command = program(&self.binary);
        command.args(["cert", "add", &format!("--node={id}={}", address.ip())]);
        command.arg("--dir").arg(self.directory.join("tls"));
        succeed(command)?;
        let (start, process) = (Start::Join, None);
        self.nodes.insert(
            id,
            Node {
                address,
                start,
                process,
            },
        );
        self.publish();
        self.start(id)
    }

    /// The id of a node that is to join, and where it will be.
    pub(crate) fn next_node(&mut self) -> Result<(u64, SocketAddr), Problem> {
        let id = self.next_id;
        self.next_id += 1;
        let address = match &mut self.lan {
            Some(lan) => {
                lan.add(host_of(id))?;
                address_of(id)
            }
            None => free_addresses(1)?[0],
        };
        Ok((id, address))
    }

    /// A dead node that is no member any more.
    pub(crate) fn forget(&mut self, id: u64) {
        self.nodes.remove(&id);
        if self.small_disk == Some(id) {
            self.small_disk = None;
        }
        if let Some(lan) = &mut self.lan {
            lan.remove(host_of(id));
        }
        self.publish();
    }

    /// Every server that should run does.
    pub(crate) fn check(&mut self) -> Result<(), Problem> {
        for (id, node) in &mut self.nodes {
            let Some(process) = &mut node.process else {
                continue;
            };
            let ended = process.ended().map_err(Problem::io("look at a server"))?;
            if let Some(status) = ended {
                return Err(Problem::Died {
                    node: *id,
                    status,
                    log: end_of_log(&log_path(&self.directory, *id)),
                });
            }
        }
        Ok(())
    }

    /// Asks every server to end.
    pub(crate) fn ask_to_end(&self) -> Result<(), Problem> {
        let processes = self.nodes.values().filter_map(|node| node.process.as_ref());
        for process in processes {
            process.ask_to_end().map_err(Problem::io("stop a server"))?;
        }
        Ok(())
    }

    /// Whether all servers have ended; each must have done so in good order.
    pub(crate) fn have_ended(&mut self) -> Result<bool, Problem> {
        for (id, node) in &mut self.nodes {
            let Some(process) = &mut node.process else {
                continue;
            };
            match process.ended().map_err(Problem::io("look at a server"))? {
                Some(status) if status.success() => node.process = None,
                Some(status) => {
                    return Err(Problem::Died {
                        node: *id,
                        status,
                        log: end_of_log(&log_path(&self.directory, *id)),
                    });
                }
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Has the program check every log.
    pub(crate) fn verify_logs(&self) -> Result<(), Problem> {
        for id in self.ids() {
            let mut command = program(&self.binary);
            command.args(["log", "verify"]).arg(self.data_directory(id));
            self.in_host(id, move || succeed(command))?;
        }
        Ok(())
    }

    /// How many lines of a server's log hold one of these texts.
    pub(crate) fn count_in_log(&self, id: u64, texts: [&str; 2]) -> usize {
        let log = fs::read_to_string(log_path(&self.directory, id)).unwrap_or_default();
        let holds = |line: &&str| texts.iter().any(|text| line.contains(text));
        log.lines().filter(holds).count()
    }

    fn server_command(&self, id: u64) -> Result<Command, Problem> {
        let path = log_path(&self.directory, id);
        let log = File::options().create(true).append(true).open(&path);
        let log = log.map_err(Problem::io(format!("write {}", path.display())))?;
        let node = &self.nodes[&id];
        let mut command = program(&self.binary);
        command.args(["server", "--until-stdin-closes"]);
        command.arg(format!("--id={id}"));
        command.arg(format!("--listen={}", node.address));
        command.arg("--data-dir").arg(self.data_directory(id));
        command.arg("--tls-dir").arg(self.directory.join("tls"));
        command.arg(format!("--segment-bytes={SEGMENT_BYTES}"));
        command.arg(format!("--snapshot-entries={SNAPSHOT_ENTRIES}"));
        command.arg(format!("--snapshot-keep-entries={SNAPSHOT_KEEP_ENTRIES}"));
        match node.start {
            Start::Form => command.args(&self.peers),
            Start::Join => command.arg("--join"),
        };
        command.env("RUST_BACKTRACE", "1").stderr(log);
        Ok(command)
    }

    fn data_directory(&self, id: u64) -> PathBuf {
        let own = self.directory.join(format!("n{id}"));
        match self.small_disk {
            Some(small) if small == id => own.join("data"),
            Some(_) | None => own,
        }
    }

    fn mount_small_disk(&self) -> Result<(), Problem> {
        let (Some(lan), Some(id)) = (&self.lan, self.small_disk) else {
            return Ok(());
        };
        let at = self.directory.join(format!("n{id}"));
        fs::create_dir_all(&at).map_err(Problem::io("make a directory"))?;
        Ok(lan.host(host_of(id)).mount_disk(at, SMALL_DISK_BYTES)?)
    }

    fn set_room(&self, room: Room) -> Result<(), Problem> {
        let (Some(lan), Some(id)) = (&self.lan, self.small_disk) else {
            return Ok(());
        };
        let at = self.directory.join(format!("n{id}"));
        Ok(lan.host(host_of(id)).set_room(at, room)?)
    }

    /// Does something where the node's disk is seen.
    fn in_host<T: Send + 'static>(&self, id: u64, job: impl FnOnce() -> T + Send + 'static) -> T {
        match &self.lan {
            Some(lan) => lan.host(host_of(id)).run(move |_| job()),
            None => job(),
        }
    }

    fn publish(&self) {
        let endpoints = self.nodes.values().map(|node| node.address.to_string());
        self.access.set_endpoints(endpoints.collect());
    }

    fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("it is a member")
    }
}

fn host_of(id: u64) -> HostId {
    let number = u8::try_from(id).ok().filter(|number| *number < CLIENTS.0);
    HostId(number.expect("a campaign has fewer nodes than addresses"))
}

fn address_of(id: u64) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(host_of(id).address()), PORT)
}

/// Addresses of loopback that were free a moment ago.
fn free_addresses(count: usize) -> Result<Vec<SocketAddr>, Problem> {
    let bind = |_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
    let sockets: io::Result<Vec<_>> = (0..count).map(bind).collect();
    let sockets = sockets.map_err(Problem::io("find free ports"))?;
    let addresses: io::Result<_> = sockets.iter().map(UdpSocket::local_addr).collect();
    addresses.map_err(Problem::io("find free ports"))
}

fn log_path(directory: &Path, id: u64) -> PathBuf {
    directory.join(format!("n{id}.log"))
}

fn end_of_log(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}
