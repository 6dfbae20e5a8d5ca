//! An authority that signs certificates as the service's nodes have them.

use raft_net::TlsIdentity;

use crate::Failure;

/// The name of the cluster in every certificate.
pub const CLUSTER: &str = "benches";

/// Signs certificates.
pub struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// The key generator's.
    pub fn new() -> Result<Self, Failure> {
        let mut params = rcgen::CertificateParams::new(Vec::new())?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        let issuer = rcgen::Issuer::new(params, key);
        Ok(Self { issuer, pem })
    }

    /// What a node of this id needs.
    ///
    /// # Errors
    /// The key generator's.
    pub fn node(&self, id: u64) -> Result<TlsIdentity, Failure> {
        let names = vec![format!("n{id}.{CLUSTER}"), "127.0.0.1".to_string()];
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(names)?.signed_by(&key, &self.issuer)?;
        let (certificate, key) = (certificate.pem(), key.serialize_pem());
        Ok(TlsIdentity::from_pem(&certificate, &key, &self.pem)?)
    }
}
