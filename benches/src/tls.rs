//! Certificates of a benchmark's own, and mutual TLS 1.3 made of them, as the service has it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::Failure;

/// The name in the certificate.
pub const NAME: &str = "localhost";

/// A certificate that everybody in a benchmark has, its key, and the authority that signed it.
pub struct Identity {
    authority: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// A new authority and a certificate of it.
    ///
    /// # Errors
    /// The key generator's.
    pub fn generate() -> Result<Self, Failure> {
        let mut params = rcgen::CertificateParams::new(Vec::new())?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate()?;
        let authority = params.self_signed(&key)?.der().clone();
        let issuer = rcgen::Issuer::new(params, key);
        let key = rcgen::KeyPair::generate()?;
        let names = vec![NAME.to_string(), "127.0.0.1".to_string()];
        let certificate = rcgen::CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        Ok(Self {
            authority,
            certificate: certificate.der().clone(),
            key: PrivateKeyDer::try_from(key.serialize_der())?,
        })
    }

    /// Writes it for other processes.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, directory: &Path) -> Result<(), Failure> {
        fs::create_dir_all(directory)?;
        fs::write(directory.join("authority.der"), &self.authority)?;
        fs::write(directory.join("certificate.der"), &self.certificate)?;
        fs::write(directory.join("key.der"), self.key.secret_der())?;
        Ok(())
    }

    /// Reads what another process wrote.
    ///
    /// # Errors
    /// The file system's, or that the key is none.
    pub fn read(directory: &Path) -> Result<Self, Failure> {
        let file = |name: &str| fs::read(directory.join(name));
        Ok(Self {
            authority: CertificateDer::from(file("authority.der")?),
            certificate: CertificateDer::from(file("certificate.der")?),
            key: PrivateKeyDer::try_from(file("key.der")?)?,
        })
    }

    /// The side that is connected to.
    ///
    /// # Errors
    /// TLS's.
    pub fn server(&self) -> Result<ServerConfig, Failure> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(self.roots()?);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        Ok(config)
    }

    /// The side that connects.
    ///
    /// # Errors
    /// TLS's.
    pub fn client(&self) -> Result<ClientConfig, Failure> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        Ok(config)
    }

    fn roots(&self) -> Result<RootCertStore, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone())?;
        Ok(roots)
    }
}
