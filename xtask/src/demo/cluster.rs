//! The server processes of the demonstration.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::process::Process;
use super::tool::Tool;

/// How long a server may take to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// How much of a server's log is shown when it fails.
const SHOWN_LOG_LINES: usize = 20;

/// Servers; those that run are killed when dropped.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    /// Flags of every server, besides the necessary ones.
    flags: Vec<&'static str>,
}

/// How a server gets into its cluster.
#[derive(Clone, Copy)]
enum Way<'a> {
    /// As one of these first members, each `ID=HOST:PORT`.
    Among(&'a [String]),
    /// As one that joins.
    Joins,
}

struct Node {
    id: u64,
    endpoint: String,
    /// The command that starts it, and starts it again.
    command: Command,
    log: PathBuf,
    /// `None` while it is meant to be dead.
    process: Option<Process>,
}

/// Ports on loopback that nobody uses, chosen by the operating system.
pub(crate) fn free_ports(count: u64) -> Result<Vec<u16>, String> {
    // All are held until the last is found, so that they differ.
    let bind = |_| UdpSocket::bind("127.0.0.1:0");
    let sockets: Result<Vec<_>, _> = (0..count).map(bind).collect();
    let ports = sockets.and_then(|sockets| {
        let port = |socket: &UdpSocket| Ok(socket.local_addr()?.port());
        sockets.iter().map(port).collect()
    });
    ports.map_err(|error| format!("no free port on loopback: {error}"))
}

/// Where a node keeps its data.
pub(crate) fn data_directory(directory: &Path, id: u64) -> PathBuf {
    directory.join(format!("n{id}"))
}

impl Cluster {
    pub(crate) fn start(tool: &Tool, directory: &Path, ports: &[u16]) -> Result<Self, String> {
        Self::start_with(tool, directory, ports, &[])
    }

    /// Starts servers with more flags than the necessary ones.
    pub(crate) fn start_with(
        tool: &Tool,
        directory: &Path,
        ports: &[u16],
        flags: &[&'static str],
    ) -> Result<Self, String> {
        let peers: Vec<String> = (1u64..)
            .zip(ports)
            .map(|(id, port)| format!("{id}=127.0.0.1:{port}"))
            .collect();
        let mut cluster = Self {
            nodes: Vec::new(),
            flags: flags.to_vec(),
        };
        for (id, port) in (1u64..).zip(ports) {
            cluster.start_node(tool, directory, (id, *port), Way::Among(&peers))?;
        }
        Ok(cluster)
    }

    /// Starts one more server, which has been added to the members and has a certificate.
    pub(crate) fn join(
        &mut self,
        tool: &Tool,
        directory: &Path,
        id: u64,
        port: u16,
    ) -> Result<(), String> {
        self.start_node(tool, directory, (id, port), Way::Joins)
    }

    fn start_node(
        &mut self,
        tool: &Tool,
        directory: &Path,
        (id, port): (u64, u16),
        way: Way<'_>,
    ) -> Result<(), String> {
        let endpoint = format!("127.0.0.1:{port}");
        let mut command = tool.bare();
        command.args(["server", "--id", &id.to_string(), "--listen", &endpoint]);
        match way {
            Way::Among(peers) => {
                for peer in peers {
                    command.args(["--peer", peer]);
                }
            }
            Way::Joins => {
                command.arg("--join");
            }
        }
        command.arg("--data-dir").arg(data_directory(directory, id));
        command.arg("--tls-dir").arg(tool.tls_directory());
        command.args(&self.flags);
        let mut node = Node {
            id,
            endpoint,
            command,
            log: directory.join(format!("n{id}.log")),
            process: None,
        };
        node.start()?;
        self.nodes.push(node);
        Ok(())
    }

    /// The endpoints of the nodes that run.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        let running = self.nodes.iter().filter(|node| node.process.is_some());
        running.map(|node| node.endpoint.clone()).collect()
    }

    /// The port of a node.
    pub(crate) fn port(&self, id: u64) -> Result<u16, String> {
        let node = self.nodes.iter().find(|node| node.id == id);
        let port = node.and_then(|node| node.endpoint.rsplit(':').next()?.parse().ok());
        port.ok_or_else(|| format!("there is no node {id}"))
    }

    /// The process ids of the nodes that run.
    pub(crate) fn process_ids(&self) -> Vec<u32> {
        let running = self.nodes.iter().filter_map(|node| node.process.as_ref());
        running.map(Process::id).collect()
    }

    /// # Errors
    /// A node that should run does not.
    pub(crate) fn must_be_alive(&mut self) -> Result<(), String> {
        for node in &mut self.nodes {
            let ended = node
                .process
                .as_mut()
                .map(Process::ended)
                .transpose()?
                .flatten();
            if let Some(status) = ended {
                return Err(format!(
                    "n{} ended with {status}; its log ends:\n{}",
                    node.id,
                    node.log_end()
                ));
            }
        }
        Ok(())
    }

    /// Ends a node by SIGKILL.
    pub(crate) fn kill(&mut self, id: u64) -> Result<(), String> {
        match self.node(id)?.process.take() {
            Some(mut process) => process.kill(),
            None => Err(format!("n{id} is dead already")),
        }
    }

    /// Ends a node that is no member any more by SIGTERM.
    pub(crate) fn retire(&mut self, id: u64) -> Result<(), String> {
        let node = self.node(id)?;
        match node.process.take() {
            Some(mut process) => process.stop(STOP_PATIENCE),
            None => Ok(()),
        }
    }

    /// The nodes that run.
    pub(crate) fn running(&self) -> Vec<u64> {
        let running = self.nodes.iter().filter(|node| node.process.is_some());
        running.map(|node| node.id).collect()
    }

    /// Starts a dead node with the command it was started with first.
    pub(crate) fn restart(&mut self, id: u64) -> Result<(), String> {
        self.node(id)?.start()
    }

    /// Starts a dead node under another program, a tracer.
    pub(crate) fn restart_under(&mut self, id: u64, tracer: &[&str]) -> Result<(), String> {
        let node = self.node(id)?;
        let mut command = Command::new(tracer[0]);
        command
            .args(&tracer[1..])
            .arg(node.command.get_program())
            .args(node.command.get_args());
        node.start_by(Some(command))
    }

    /// Ends a node that runs under a tracer by SIGKILL, and waits for the tracer.
    pub(crate) fn kill_traced(&mut self, id: u64) -> Result<(), String> {
        match self.node(id)?.process.take() {
            Some(process) => process.kill_child(STOP_PATIENCE),
            None => Err(format!("n{id} is dead already")),
        }
    }

    /// Stops every node by SIGTERM.
    pub(crate) fn stop(&mut self) -> Result<(), String> {
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                let outcome = process.stop(STOP_PATIENCE);
                outcome.map_err(|reason| format!("{reason}; its log ends:\n{}", node.log_end()))?;
            }
        }
        Ok(())
    }

    fn node(&mut self, id: u64) -> Result<&mut Node, String> {
        let found = self.nodes.iter_mut().find(|node| node.id == id);
        found.ok_or_else(|| format!("there is no node {id}"))
    }
}

impl Node {
    fn start(&mut self) -> Result<(), String> {
        self.start_by(None)
    }

    /// Starts it by its own command, or by another one.
    fn start_by(&mut self, other: Option<Command>) -> Result<(), String> {
        let log = File::options().create(true).append(true).open(&self.log);
        let logs = log.and_then(|log| Ok((log.try_clone()?, log)));
        let (out, err) = logs.map_err(|error| format!("{}: {error}", self.log.display()))?;
        let mut other = other;
        let command = other.as_mut().unwrap_or(&mut self.command);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let name = format!("server n{}", self.id);
        self.process = Some(Process::start(&name, command)?);
        Ok(())
    }

    fn log_end(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LOG_LINES)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ() {
        let mut ports = free_ports(5).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 5);
    }
}
