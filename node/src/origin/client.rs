//! HTTP clients, one for each set of certificates, and how many requests one host gets at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, Url};
use shoal_proto::limits::{CA_CLIENTS_MAX, ORIGIN_REQUESTS_PER_HOST_MAX};
use shoal_proto::origin::shown_url;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::cause;
use super::{OriginError, Target};

/// Hosts of which the places are kept while nobody reads from them.
const HOSTS_IDLE_MAX: usize = 64;

/// Clients by the certificates that they accept beside the machine's. Clones share them, and with them connections.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    plain: Client,
    by_ca: Arc<Mutex<BTreeMap<String, Client>>>,
}

impl Clients {
    pub(super) fn new() -> Result<Self, OriginError> {
        let build = |builder: ClientBuilder| builder.build().map_err(OriginError::client);
        let plain = match build(builder()) {
            Ok(client) => client,
            Err(error) => {
                // A machine without CA certificates can still reach origins over plain HTTP; HTTPS then fails by name.
                tracing::warn!(%error, "https origins cannot be verified: install CA certificates");
                build(builder().tls_certs_only([]))?
            }
        };
        Ok(Self::with(plain))
    }

    pub(super) fn with(plain: Client) -> Self {
        Self { plain, by_ca: Arc::default() }
    }

    /// The client for `target`.
    pub(super) fn of(&self, target: Target<'_>) -> Result<Client, OriginError> {
        let Some(pem) = target.ca_pem else { return Ok(self.plain.clone()) };
        let mut by_ca = self.by_ca.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = by_ca.get(pem) {
            return Ok(client.clone());
        }
        let wrong = |cause: String| OriginError::Certificates { url: shown_url(target.url), cause };
        let certificates =
            Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| wrong(error.without_url().to_string()))?;
        if certificates.is_empty() {
            return Err(wrong("there is none in it".to_owned()));
        }
        // The machine's own are needed too: an origin may redirect to a host of a public authority.
        let merged = builder().tls_certs_merge(certificates.iter().cloned()).build();
        let built = merged.or_else(|_| builder().tls_certs_only(certificates).build());
        let client = built.map_err(|error| wrong(cause(error)))?;
        if by_ca.len() >= CA_CLIENTS_MAX {
            by_ca.clear();
        }
        by_ca.insert(pem.to_owned(), client.clone());
        Ok(client)
    }
}

/// What all clients have in common. Proxies are those of the environment (`HTTPS_PROXY`, `NO_PROXY`). Redirects are
/// followed in [`super::request`], which drops the origin's headers (all of them, not only `Authorization`) when the host
/// changes.
pub(super) fn builder() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("shoal/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(Duration::from_secs(10))
        .pool_max_idle_per_host(ORIGIN_REQUESTS_PER_HOST_MAX)
}

/// Places for requests, by host. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<BTreeMap<String, Arc<Semaphore>>>>);

impl Places {
    /// Waits for a place among the requests to the host of `url`.
    pub(super) async fn of(&self, url: &Url) -> Result<OwnedSemaphorePermit, OriginError> {
        let host = url.origin().ascii_serialization();
        let places = {
            let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if hosts.len() > HOSTS_IDLE_MAX {
                // One that only this table holds has no request in flight.
                hosts.retain(|_, places| Arc::strong_count(places) > 1);
            }
            let new = || Arc::new(Semaphore::new(ORIGIN_REQUESTS_PER_HOST_MAX));
            Arc::clone(hosts.entry(host).or_insert_with(new))
        };
        // Semaphores are never closed.
        places.acquire_owned().await.map_err(|_| OriginError::Cancelled)
    }
}
