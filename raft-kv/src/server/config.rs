//! What a server is started with, checked before anything is touched.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use raft_log::vfs::RealVfs;
use raft_log::{DataDir, DirError};
use raft_node::{ApplyOn, ComparisonPolicy, RaftConfig, SnapshotPolicy, StartKind};
use raft_proto::NodeId;
use thiserror::Error;

use crate::limits::MAX_REQUEST_BYTES;

/// Bytes of commands and queries that the store handles before the network has its turn: some
/// 10,000 of them, a few tens of milliseconds.
const APPLY_BYTES_PER_TURN: usize = 4 << 20;

/// A member of a new cluster: `ID=HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// The member.
    pub id: NodeId,
    /// Where peers and clients reach it, `host:port`.
    pub address: String,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.id.0, self.address)
    }
}

/// Why a text is not `ID=HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PeerAddressError {
    /// No `=`.
    #[error("{0:?} has no `=`; write ID=HOST:PORT, for example 1=127.0.0.1:7001")]
    NoEquals(String),
    /// The id is not a number from 1 on.
    #[error("{0:?} is not a node id; ids are numbers from 1 on")]
    Id(String),
    /// No host and port.
    #[error("{0:?} is not HOST:PORT")]
    Address(String),
}

impl FromStr for PeerAddress {
    type Err = PeerAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((id, address)) = text.split_once('=') else {
            return Err(PeerAddressError::NoEquals(text.to_owned()));
        };
        let id = match id.trim().parse() {
            Ok(number) if number > 0 => NodeId(number),
            Ok(_) | Err(_) => return Err(PeerAddressError::Id(id.to_owned())),
        };
        let address = check_address(address.trim())?;
        Ok(Self { id, address })
    }
}

/// Checks that a text is `host:port` with a port above 0.
///
/// # Errors
/// [`PeerAddressError::Address`].
pub fn check_address(text: &str) -> Result<String, PeerAddressError> {
    let refused = || PeerAddressError::Address(text.to_owned());
    let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
    let port: u16 = port.parse().map_err(|_| refused())?;
    if host.is_empty() || port == 0 {
        return Err(refused());
    }
    Ok(text.to_owned())
}

/// Timers of consensus, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// How often a leader sends heartbeats.
    pub heartbeat_interval_ms: u64,
    /// Shortest election timeout.
    pub election_timeout_ms_min: u64,
    /// Longest election timeout.
    pub election_timeout_ms_max: u64,
}

/// What a server does while its data directory belongs to no cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartMode {
    /// It forms a new cluster with the peers.
    #[default]
    Form,
    /// It waits for a cluster that has added it.
    Join,
}

/// Everything a server is started with.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// This node.
    pub id: NodeId,
    /// Where it keeps its log.
    pub data_dir: PathBuf,
    /// The UDP address it listens on, for peers and clients.
    pub listen: SocketAddr,
    /// The voters of a new cluster, this node included; the same on all of them. Of a node that
    /// joins: members to dial, if there is no other way; mostly none.
    pub peers: Vec<PeerAddress>,
    /// Whether it forms a cluster or joins one.
    pub start: StartMode,
    /// Where `ca.pem`, `n<ID>.pem` and `n<ID>-key.pem` are.
    pub tls_dir: PathBuf,
    /// Timers of consensus.
    pub timers: Timers,
    /// Size of new log segments, in bytes.
    pub segment_bytes: u64,
    /// When it takes snapshots, and how much of the log it keeps behind them.
    pub snapshots: SnapshotPolicy,
    /// When replicas are compared, and how fast.
    pub comparison: ComparisonPolicy,
    /// How fast sealed segments and snapshots are read in the background to find rot, in bytes per
    /// second; 0 for not at all.
    pub scrub_bytes_per_second: u64,
    /// The TCP address to serve metrics, health and readiness on, if at all.
    pub metrics_listen: Option<SocketAddr>,
}

/// Why a configuration cannot work. Nothing was touched.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// No member at all.
    #[error(
        "no peers were given; name every initial voter, this node included, with --peer, or join a \
         cluster with --join"
    )]
    NoPeers,
    /// Two members with one id.
    #[error("node {id} is named twice, at {first} and at {second}; every member has its own id")]
    DuplicateId {
        /// The id.
        id: u64,
        /// One address.
        first: String,
        /// The other.
        second: String,
    },
    /// Two members at one address.
    #[error("nodes {first} and {second} share the address {address}; every member has its own")]
    DuplicateAddress {
        /// One member.
        first: u64,
        /// The other.
        second: u64,
        /// The address.
        address: String,
    },
    /// This node is no member.
    #[error("node {id} is not among the peers ({peers}); name it too, with its own address")]
    OwnIdMissing {
        /// This node.
        id: u64,
        /// Those given.
        peers: String,
    },
    /// Whether the data directory belongs to a cluster cannot be seen.
    #[error(transparent)]
    Directory(#[from] DirError),
    /// Timers, limits or log options that cannot work.
    #[error(transparent)]
    Node(#[from] raft_node::StartError),
}

impl ServerConfig {
    /// Checks the members, and returns the configuration of the node. Looks into the data
    /// directory if neither peers nor [`StartMode::Join`] say how to begin; changes nothing.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn to_raft(&self) -> Result<RaftConfig, ConfigError> {
        let start = self.start_mode()?;
        self.check_peers(start)?;
        let peers = self.peers.iter().map(|p| (p.id, p.address.clone()));
        let mut raft = match start {
            StartMode::Form => RaftConfig::new(self.id, peers.collect()),
            StartMode::Join => RaftConfig {
                start: StartKind::Join {
                    peers: peers.filter(|(id, _)| *id != self.id).collect(),
                },
                ..RaftConfig::joining(self.id)
            },
        };
        raft.core.heartbeat_interval_ms = self.timers.heartbeat_interval_ms;
        raft.core.election_timeout_ms_min = self.timers.election_timeout_ms_min;
        raft.core.election_timeout_ms_max = self.timers.election_timeout_ms_max;
        raft.log.segment_bytes = self.segment_bytes;
        raft.scrub_bytes_per_second = self.scrub_bytes_per_second;
        raft.limits.max_command_bytes = MAX_REQUEST_BYTES;
        // A command or query of the store takes microseconds, less than a hop between threads.
        raft.apply_on = ApplyOn::NodeThread;
        raft.limits.max_apply_bytes = APPLY_BYTES_PER_TURN;
        raft.limits.snapshots = self.snapshots.clone();
        raft.limits.comparison = self.comparison.clone();
        raft.validate()?;
        Ok(raft)
    }

    /// A node that belongs to a cluster goes on there. It needs neither the voters of a new one nor
    /// to be told that it joins.
    fn start_mode(&self) -> Result<StartMode, ConfigError> {
        if self.start == StartMode::Join || !self.peers.is_empty() {
            return Ok(self.start);
        }
        match DataDir::peek(&RealVfs, &self.data_dir)? {
            Some((_, Some(_))) => Ok(StartMode::Join),
            Some((_, None)) | None => Ok(StartMode::Form),
        }
    }

    /// What is odd about an address that the cluster has for this node, if it does not listen
    /// there. It may be right: a name, or an address that something forwards from.
    #[must_use]
    pub fn doubt_about(&self, address: &str) -> Option<String> {
        let (host, port) = address.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let other_host = host
            .parse::<IpAddr>()
            .is_ok_and(|ip| !self.listen.ip().is_unspecified() && ip != self.listen.ip());
        let other_port = port.parse() != Ok(self.listen.port());
        (other_host || other_port).then(|| {
            format!(
                "this node listens on {}, but the cluster reaches it at {address}: unless something \
                 forwards from there, peers and clients cannot connect to it, and only the \
                 connections that it opens itself work; correct --listen, or remove the member and \
                 add it with the right address",
                self.listen
            )
        })
    }

    fn check_peers(&self, start: StartMode) -> Result<(), ConfigError> {
        if self.peers.is_empty() && start == StartMode::Form {
            return Err(ConfigError::NoPeers);
        }
        let mut ids: BTreeMap<NodeId, &str> = BTreeMap::new();
        let mut addresses: BTreeMap<&str, NodeId> = BTreeMap::new();
        for PeerAddress { id, address } in &self.peers {
            if let Some(first) = ids.insert(*id, address) {
                return Err(ConfigError::DuplicateId {
                    id: id.0,
                    first: first.to_owned(),
                    second: address.clone(),
                });
            }
            if let Some(first) = addresses.insert(address, *id) {
                return Err(ConfigError::DuplicateAddress {
                    first: first.0,
                    second: id.0,
                    address: address.clone(),
                });
            }
        }
        if !ids.contains_key(&self.id) && start == StartMode::Form {
            let peers: Vec<String> = self.peers.iter().map(PeerAddress::to_string).collect();
            return Err(ConfigError::OwnIdMissing {
                id: self.id.0,
                peers: peers.join(", "),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(peers: &[&str]) -> ServerConfig {
        ServerConfig {
            id: NodeId(1),
            data_dir: "data".into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7001)),
            peers: peers.iter().map(|p| p.parse().unwrap()).collect(),
            start: StartMode::Form,
            tls_dir: "tls".into(),
            timers: Timers {
                heartbeat_interval_ms: 100,
                election_timeout_ms_min: 210,
                election_timeout_ms_max: 710,
            },
            segment_bytes: 64 << 20,
            snapshots: SnapshotPolicy::default(),
            comparison: ComparisonPolicy::default(),
            scrub_bytes_per_second: 2 << 20,
            metrics_listen: None,
        }
    }

    fn refusal(config: &ServerConfig) -> String {
        config.to_raft().map(drop).unwrap_err().to_string()
    }

    #[test]
    fn impossible_clusters_are_named() {
        assert!(config(&["1=a:1", "2=b:2", "3=c:3"]).to_raft().is_ok());
        assert!(refusal(&config(&[])).contains("--peer"));
        let twice = refusal(&config(&["1=a:1", "1=b:2"]));
        assert!(twice.contains("node 1 is named twice"), "{twice}");
        let shared = refusal(&config(&["1=a:1", "2=a:1"]));
        assert!(shared.contains("nodes 1 and 2 share"), "{shared}");
        let missing = refusal(&config(&["2=b:2", "3=c:3"]));
        assert!(missing.contains("node 1 is not among"), "{missing}");
        for peers in [&[][..], &["2=b:2"]] {
            let mut joining = config(peers);
            joining.start = StartMode::Join;
            assert!(joining.to_raft().is_ok());
        }
    }

    #[test]
    fn an_address_that_leads_elsewhere_is_doubted() {
        let mut config = config(&["1=a:1"]);
        for right in ["127.0.0.1:7001", "somewhere.example:7001"] {
            assert_eq!(config.doubt_about(right), None);
        }
        for wrong in ["127.0.0.1:7002", "10.0.0.1:7001", "name:7002", "[::1]:7001"] {
            let doubt = config.doubt_about(wrong).expect(wrong);
            assert!(doubt.contains(wrong) && doubt.contains("127.0.0.1:7001"));
        }
        config.listen = SocketAddr::from(([0, 0, 0, 0], 7001));
        assert_eq!(config.doubt_about("10.0.0.1:7001"), None);
        assert!(config.doubt_about("10.0.0.1:7002").is_some());
    }

    #[test]
    fn timers_that_cannot_elect_are_refused() {
        let mut slow = config(&["1=a:1"]);
        slow.timers.heartbeat_interval_ms = 300;
        assert!(refusal(&slow).contains("heartbeat"));
    }

    #[test]
    fn addresses_are_read_as_they_are_meant() {
        let peer: PeerAddress = "12=[::1]:7001".parse().unwrap();
        assert_eq!((peer.id, &peer.address[..]), (NodeId(12), "[::1]:7001"));
        for bad in ["1", "x=a:1", "0=a:1", "1=a", "1=a:0", "1=:7", "1=a:70000"] {
            assert!(bad.parse::<PeerAddress>().is_err(), "{bad}");
        }
    }
}
