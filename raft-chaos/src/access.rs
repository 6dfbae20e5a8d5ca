//! How clients get to the cluster: where its nodes are at the moment, and with what certificate.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raft_kv::client::call::CallPolicy;
use raft_kv::client::{Client, ClientConfig, ClientError, Discovery};
use raft_net::TlsIdentity;

/// Endpoints and certificate.
pub(crate) struct Access {
    endpoints: Mutex<Vec<String>>,
    tls: TlsIdentity,
}

impl Access {
    pub(crate) fn new(tls: TlsIdentity) -> Self {
        let endpoints = Mutex::default();
        Self { endpoints, tls }
    }

    pub(crate) fn set_endpoints(&self, endpoints: Vec<String>) {
        *self.locked() = endpoints;
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.locked().clone()
    }

    /// A client of all nodes, with connections of its own.
    pub(crate) fn client(&self, deadline: Duration) -> Result<Client, ClientError> {
        self.client_of(self.endpoints(), Discovery::Learned, deadline)
    }

    /// A client that knows one node only, and sees what this one sees.
    pub(crate) fn client_of_one(
        &self,
        number: usize,
        deadline: Duration,
    ) -> Result<Client, ClientError> {
        let mut endpoints = self.endpoints();
        let one = endpoints.swap_remove(number % endpoints.len());
        self.client_of(vec![one], Discovery::Given, deadline)
    }

    fn client_of(
        &self,
        endpoints: Vec<String>,
        discovery: Discovery,
        deadline: Duration,
    ) -> Result<Client, ClientError> {
        let mut config = ClientConfig::new(endpoints, self.tls.clone());
        config.discovery = discovery;
        config.policy = CallPolicy {
            deadline,
            ..CallPolicy::default()
        };
        Client::new(config)
    }

    fn locked(&self) -> MutexGuard<'_, Vec<String>> {
        self.endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
