//! Certificates, keys and authorities, and the rustls configurations made of them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::error::{NetError, problem_in};

/// ALPN of control and append traffic between nodes.
pub const PEER_PROTOCOL: &[u8] = b"raft/1";
/// ALPN of bulk traffic between nodes.
pub const BULK_PROTOCOL: &[u8] = b"raft-bulk/1";
/// ALPN of clients.
pub const CLIENT_PROTOCOL: &[u8] = b"raft-kv/1";

/// Paths of the three PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our certificate, followed by intermediates if there are any.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// The authorities that sign the cluster's certificates.
    pub authorities: PathBuf,
}

/// Our certificate chain, its private key, and the authorities we trust.
pub struct TlsIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    authorities: Arc<RootCertStore>,
}

impl fmt::Debug for TlsIdentity {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity")
            .field("certificates", &self.chain.len())
            .field("authorities", &self.authorities.len())
            .finish_non_exhaustive()
    }
}

impl Clone for TlsIdentity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            authorities: Arc::clone(&self.authorities),
        }
    }
}

impl TlsIdentity {
    /// Reads the three PEM files.
    ///
    /// # Errors
    /// [`NetError::TlsFile`] names the file that is missing or holds something else.
    pub fn from_files(files: &TlsFiles) -> Result<Self, NetError> {
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|e| file_error(&files.key, &e.to_string()))?;
        Self::new(
            certificates_of_file(&files.certificate)?,
            key,
            certificates_of_file(&files.authorities)?,
        )
    }

    /// Reads three PEM texts.
    ///
    /// # Errors
    /// [`NetError::Pem`] names the text that holds something else.
    pub fn from_pem(certificate: &str, key: &str, authorities: &str) -> Result<Self, NetError> {
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|e| pem_error("private key", &e.to_string()))?;
        Self::new(
            certificates_of_text(certificate)?,
            key,
            certificates_of_text(authorities)?,
        )
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        authorities: Vec<CertificateDer<'static>>,
    ) -> Result<Self, NetError> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots
                .add(authority)
                .map_err(|e| NetError::Authorities(e.to_string()))?;
        }
        Ok(Self {
            chain,
            key,
            authorities: Arc::new(roots),
        })
    }

    /// Checks our own certificate the way every peer will, so that an expired or foreign one is
    /// an error at the start and not a silence later.
    ///
    /// # Errors
    /// [`NetError::OwnCertificate`], [`NetError::Authorities`].
    pub(crate) fn check_server_certificate(&self, name: &str) -> Result<(), NetError> {
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.authorities), provider())
                .build()
                .map_err(|e| NetError::Authorities(e.to_string()))?;
        let (leaf, intermediates) = self.split_chain(name)?;
        let server_name = ServerName::try_from(name.to_owned())
            .map_err(|_| NetError::ClusterName(name.to_owned()))?;
        verifier
            .verify_server_cert(leaf, intermediates, &server_name, &[], UnixTime::now())
            .map(drop)
            .map_err(|reason| own_certificate(name, &reason))
    }

    /// Checks that our own certificate is signed by the authorities and valid now, the way a server
    /// checks a client's; the name in it is not looked at.
    ///
    /// # Errors
    /// [`NetError::OwnCertificate`], [`NetError::Authorities`].
    pub fn check_client_certificate(&self) -> Result<(), NetError> {
        let (leaf, intermediates) = self.split_chain("a client")?;
        self.client_verifier()?
            .verify_client_cert(leaf, intermediates, UnixTime::now())
            .map(drop)
            .map_err(|reason| own_certificate("a client", &reason))
    }

    fn split_chain(
        &self,
        name: &str,
    ) -> Result<(&CertificateDer<'static>, &[CertificateDer<'static>]), NetError> {
        let none = || own_certificate(name, &rustls::Error::NoCertificatesPresented);
        self.chain.split_first().ok_or_else(none)
    }

    fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, NetError> {
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.authorities), provider())
            .build()
            .map_err(|e| NetError::Authorities(e.to_string()))
    }

    /// The accepting side: a certificate is demanded, sessions are never resumed.
    pub(crate) fn server(&self, protocols: &[&[u8]]) -> Result<QuicServerConfig, NetError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(NetError::Tls)?
            .with_client_cert_verifier(self.client_verifier()?)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(NetError::Tls)?;
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        QuicServerConfig::try_from(config).map_err(|e| NetError::Authorities(e.to_string()))
    }

    /// The dialling side: presents our certificate, resumes nothing, sends no early data.
    pub(crate) fn client(&self, protocol: &[u8]) -> Result<QuicClientConfig, NetError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(NetError::Tls)?
            .with_root_certificates(Arc::clone(&self.authorities))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(NetError::Tls)?;
        config.alpn_protocols = vec![protocol.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        QuicClientConfig::try_from(config).map_err(|e| NetError::Authorities(e.to_string()))
    }
}

/// The one crypto provider, given explicitly everywhere: a process-wide default could be another.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn own_certificate(name: &str, reason: &rustls::Error) -> NetError {
    NetError::OwnCertificate {
        name: name.to_owned(),
        problem: problem_in(reason),
        detail: reason.to_string(),
    }
}

fn certificates_of_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, NetError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| file_error(path, &e.to_string()))?;
    if certificates.is_empty() {
        return Err(file_error(path, "it holds no certificate"));
    }
    Ok(certificates)
}

fn certificates_of_text(text: &str) -> Result<Vec<CertificateDer<'static>>, NetError> {
    let certificates = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| pem_error("certificate", &e.to_string()))?;
    if certificates.is_empty() {
        return Err(pem_error("certificate", "there is none"));
    }
    Ok(certificates)
}

fn file_error(path: &Path, reason: &str) -> NetError {
    NetError::TlsFile {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

fn pem_error(what: &'static str, reason: &str) -> NetError {
    NetError::Pem {
        what,
        reason: reason.to_owned(),
    }
}
