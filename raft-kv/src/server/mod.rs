//! The server: composes data directory, log, transport, consensus and store. It decides nothing.

mod administration;
mod config;
mod http;
mod identity;
mod metrics;
mod observer;
mod responder;
mod service;
mod status;

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use raft_log::DataDir;
use raft_log::vfs::{RealVfs, Vfs};
use raft_net::{ClientHandler, NetError, NetLimits, NetTiming, TlsIdentity};
use raft_node::recover::{self, RecoverError};
use raft_node::{FatalError, NodeState, Parts, QuicBuilder, Raft, StartError};
use thiserror::Error;

pub use self::config::{
    ConfigError, PeerAddress, PeerAddressError, ServerConfig, StartMode, Timers, check_address,
};
use self::http::HttpServer;
pub use self::identity::{ClusterNameError, MissingFile, TlsDir};
use self::observer::Observer;
use self::service::Service;
use crate::limits::MAX_REQUEST_BYTES;
use crate::machine::KvMachine;

/// Why a server does not start, or has stopped.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The arguments cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A certificate or key is not there.
    #[error(transparent)]
    MissingFile(#[from] MissingFile),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] NetError),
    /// The certificate names no cluster.
    #[error(transparent)]
    ClusterName(#[from] ClusterNameError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; {}", listen_hint(.source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// The address for metrics cannot be listened on.
    #[error("cannot serve metrics on {address}: {source}; {}", listen_hint(.source))]
    ListenForScrapers {
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] RecoverError),
    /// The node does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The node has stopped by itself.
    #[error(transparent)]
    Stopped(#[from] FatalError),
    /// The operating system refused something else.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the operating system says.
        source: io::Error,
    },
}

fn listen_hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::AddrInUse {
        "stop the program that uses the port, or choose another one"
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "choose a port above 1023, or grant the permission"
    } else {
        "choose an address of this machine"
    }
}

/// A running server.
pub struct Server {
    raft: Raft,
    http: Option<HttpServer>,
}

impl Server {
    /// Starts a server. What can be checked without waiting is checked here, in an order that
    /// leaves everything as it was if something is wrong: arguments, certificates, port, data
    /// directory. Recovery and forming the cluster go on in the background.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn start(config: &ServerConfig) -> Result<Self, ServerError> {
        let raft_config = config.to_raft()?;
        let tls_dir = TlsDir::new(&config.tls_dir);
        tls_dir.check_node(config.id)?;
        let files = tls_dir.node_files(config.id);
        let tls = TlsIdentity::from_files(&files)?;
        let cluster_name = identity::cluster_name(&files.certificate, config.id)?;
        let socket = UdpSocket::bind(config.listen).map_err(|source| ServerError::Listen {
            address: config.listen,
            source,
        })?;
        let metrics_listener = config.metrics_listen.map(listen_for_scrapers).transpose()?;
        let directory = open_directory(&config.data_dir, config)?;
        let service = Arc::new(Service::new(config.id));
        let clients: Arc<dyn ClientHandler> = Arc::clone(&service) as Arc<dyn ClientHandler>;
        let stats = Arc::default();
        let transport = QuicBuilder {
            socket,
            cluster_name,
            tls,
            limits: NetLimits {
                // Far below 4 GiB.
                max_request_bytes: MAX_REQUEST_BYTES as u32,
                ..NetLimits::default()
            },
            timing: NetTiming {
                election_timeout_max: Duration::from_millis(config.timers.election_timeout_ms_max),
                ..NetTiming::default()
            },
            clients: Some(clients),
            stats: Arc::clone(&stats),
        };
        let parts = Parts {
            directory,
            machine: Box::new(KvMachine::default()),
            transport: Box::new(transport),
        };
        let raft = Raft::start(raft_config, parts)?;
        service.attach(raft.clone());
        let observer = Observer {
            node: config.id,
            raft: raft.clone(),
            net: stats,
        };
        let http = metrics_listener
            .map(|listener| HttpServer::start(listener, observer))
            .transpose()
            .map_err(|source| ServerError::Io {
                action: "start the metrics endpoint",
                source,
            })?;
        Ok(Self { raft, http })
    }

    /// The node.
    #[must_use]
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// Where metrics are served, if they are.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(HttpServer::address)
    }

    /// Waits until the node stops; only then does this return.
    ///
    /// # Errors
    /// [`ServerError::Stopped`] if nobody asked it to stop.
    pub async fn stopped(&self) -> Result<(), ServerError> {
        match self.raft.wait_for(|_| false).await {
            NodeState::Stopped(Some(error)) => Err(error.into()),
            NodeState::Stopped(None) | NodeState::Forming { .. } | NodeState::Running { .. } => {
                Ok(())
            }
        }
    }

    /// Stops the node and waits until it has.
    ///
    /// # Errors
    /// [`ServerError::Stopped`] if it had failed before.
    pub async fn shutdown(&self) -> Result<(), ServerError> {
        let stopped = self.raft.shutdown().await;
        // Served until the end, so that monitoring sees a long stop.
        if let Some(http) = &self.http {
            http.shutdown().await;
        }
        Ok(stopped?)
    }
}

fn listen_for_scrapers(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).map_err(|source| ServerError::ListenForScrapers { address, source })
}

fn open_directory(path: &Path, config: &ServerConfig) -> Result<DataDir, ServerError> {
    let vfs: Arc<dyn Vfs> = Arc::new(RealVfs);
    Ok(recover::open_directory(&vfs, path, config.id)?)
}
