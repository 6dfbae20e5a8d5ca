//! The files of a TLS directory, and the cluster that a node's certificate names.

use std::fs;
use std::path::{Path, PathBuf};

use raft_net::{CertifiedName, TlsFiles, certified_name};
use raft_proto::NodeId;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;

/// A directory of certificates as `raft-kv cert init` makes it: `ca.pem`, and for each node
/// `n<ID>.pem` and for each client `client-<NAME>.pem`, with their keys in `…-key.pem`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsDir {
    path: PathBuf,
}

impl TlsDir {
    /// The directory at `path`, which need not exist.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// The authority's certificate.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.path.join("ca.pem")
    }

    /// The authority's private key; only needed to issue certificates.
    #[must_use]
    pub fn authority_key(&self) -> PathBuf {
        self.path.join("ca-key.pem")
    }

    /// The files of a node.
    #[must_use]
    pub fn node_files(&self, id: NodeId) -> TlsFiles {
        self.files(&format!("n{}", id.0))
    }

    /// Says which file of a node's is missing, and how it is made.
    ///
    /// # Errors
    /// [`MissingFile`].
    pub fn check_node(&self, id: NodeId) -> Result<(), MissingFile> {
        let files = self.node_files(id);
        for missing in [files.certificate, files.key, files.authorities] {
            if !missing.exists() {
                return Err(MissingFile {
                    id: id.0,
                    missing,
                    directory: self.path.clone(),
                });
            }
        }
        Ok(())
    }

    /// The files of a client.
    #[must_use]
    pub fn client_files(&self, name: &str) -> TlsFiles {
        self.files(&format!("client-{name}"))
    }

    /// The names of all clients that have a certificate here, in order.
    #[must_use]
    pub fn clients(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.path) else {
            return Vec::new();
        };
        let names = entries.filter_map(|entry| {
            let file = entry.ok()?.file_name().into_string().ok()?;
            let name = file.strip_prefix("client-")?.strip_suffix(".pem")?;
            (!name.ends_with("-key")).then(|| name.to_owned())
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// The cluster that the certificate of any node here names.
    #[must_use]
    pub fn cluster_name(&self) -> Option<String> {
        let entries = fs::read_dir(&self.path).ok()?;
        entries.filter_map(Result::ok).find_map(|entry| {
            let file = entry.file_name().into_string().ok()?;
            let id = file.strip_prefix('n')?.strip_suffix(".pem")?.parse().ok()?;
            cluster_name(&entry.path(), NodeId(id)).ok()
        })
    }

    fn files(&self, stem: &str) -> TlsFiles {
        TlsFiles {
            certificate: self.path.join(format!("{stem}.pem")),
            key: self.path.join(format!("{stem}-key.pem")),
            authorities: self.authority(),
        }
    }
}

/// A file that a node needs is not there.
#[derive(Debug, Error)]
#[error(
    "there is no {missing}, which node {id} needs; where ca-key.pem is, `raft-kv cert add --dir DIR \
     --node {id}=HOST` makes the node's files: bring them and ca.pem to {directory}, or correct \
     --id or --tls-dir"
)]
pub struct MissingFile {
    id: u64,
    missing: PathBuf,
    directory: PathBuf,
}

/// Why a certificate does not tell which cluster its node belongs to.
#[derive(Debug, Error)]
pub enum ClusterNameError {
    /// The file cannot be read.
    #[error("cannot read {path}: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The certificate is not this node's.
    #[error(
        "the certificate {path} is not for node {id}: it names {names}; it must name n{id}.CLUSTER"
    )]
    NotThisNode {
        /// The file.
        path: PathBuf,
        /// This node.
        id: u64,
        /// What it names.
        names: String,
    },
}

/// The cluster named by `n<ID>.<cluster>` in a node's certificate.
///
/// # Errors
/// [`ClusterNameError`].
pub(super) fn cluster_name(path: &Path, id: NodeId) -> Result<String, ClusterNameError> {
    let unreadable = |reason: String| ClusterNameError::Unreadable {
        path: path.to_owned(),
        reason,
    };
    let certificate =
        CertificateDer::from_pem_file(path).map_err(|error| unreadable(error.to_string()))?;
    let parsed = webpki::EndEntityCert::try_from(&certificate)
        .map_err(|error| unreadable(error.to_string()))?;
    let names: Vec<&str> = parsed.valid_dns_names().collect();
    let prefix = format!("n{}.", id.0);
    for name in &names {
        // The transport reads identities; it also decides whether this is one.
        if let Some(cluster) = name.strip_prefix(&prefix)
            && certified_name(&certificate, cluster) == Ok(CertifiedName::Node(id))
        {
            return Ok(cluster.to_owned());
        }
    }
    Err(ClusterNameError::NotThisNode {
        path: path.to_owned(),
        id: id.0,
        names: match names.is_empty() {
            true => "nobody".to_owned(),
            false => names.join(", "),
        },
    })
}
