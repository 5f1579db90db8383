//! Reads packages from HTTP origins: byte ranges for a lease, and whole files and small documents for feeds.
//!
//! A node reads here only under a lease (WAN-ONCE), so that every body byte that arrives is counted in [`WanBytes`],
//! whether it was wanted or not, and no byte is asked for a second time after it was delivered. Bytes are handed on
//! unverified: the caller compares them with the recipe (VERIFIED). Which ranges, how fast and from which mirror is the
//! coordinator's decision; here is one origin, asked politely.
//!
//! Every future of this module stops when it is dropped: it holds its connections itself and starts no tasks.

mod error;
mod reading;
mod request;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use shoal_proto::limits::{ORIGIN_RETRY_AFTER_MAX, ORIGIN_STALL};
use shoal_proto::origin::{HttpOrigin, Metadata, coalesce, disjoint, shown_url};
use tokio::sync::mpsc;

use crate::transfer::pacer::Pacer;
pub use error::OriginError;
use request::{Request, send};

/// Reads from HTTP origins. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct OriginReader {
    client: reqwest::Client,
    patience: Patience,
    /// What reads of packages keep to.
    pacers: Vec<Pacer>,
}

/// How long an origin is waited for.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// The longest silence.
    stall: Duration,
    /// The first wait before another try; it doubles with each.
    backoff: Duration,
    /// The longest `Retry-After` that is obeyed.
    retry_after_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let backoff = Duration::from_millis(500);
        Self { stall: ORIGIN_STALL, backoff, retry_after_max: ORIGIN_RETRY_AFTER_MAX }
    }
}

/// A run of wanted bytes as it came from the origin. Within each range, chunks come in order and without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where in the package it starts, in bytes.
    pub offset: u64,
    /// The bytes, never empty; not verified.
    pub bytes: Bytes,
}

/// How to read ranges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// By range requests; an origin that ignores them is an error.
    #[default]
    Ranges,
    /// In one stream from the package's first byte to the last wanted one, skipping what is not wanted: for an origin
    /// that ignores ranges. Broken off, it is an error, since a second try would read it all again.
    WholeRest,
}

/// Counts body bytes read from origins, wanted or not. Clones count together. Bytes that were still in a socket when a
/// transfer was dropped are not counted.
#[derive(Clone, Debug, Default)]
pub struct WanBytes {
    own: Arc<AtomicU64>,
    /// What it is a part of.
    whole: Option<Arc<AtomicU64>>,
}

impl WanBytes {
    /// Bytes so far.
    pub fn total(&self) -> u64 {
        self.own.load(Ordering::Relaxed)
    }

    /// A count from 0 of what is also counted here.
    pub fn part(&self) -> Self {
        Self { own: Arc::default(), whole: Some(Arc::clone(&self.own)) }
    }

    pub(crate) fn count(&self, bytes: usize) {
        for count in [Some(&self.own), self.whole.as_ref()].into_iter().flatten() {
            count.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }
}

impl OriginReader {
    /// A reader with connections of its own.
    ///
    /// # Errors
    /// [`OriginError::Client`] if TLS cannot be set up.
    pub fn new() -> Result<Self, OriginError> {
        let build = |builder: reqwest::ClientBuilder| builder.build().map_err(OriginError::client);
        let client = match build(client_builder()) {
            Ok(client) => client,
            Err(error) => {
                // A machine without CA certificates can still reach origins over plain HTTP; HTTPS then fails by name.
                tracing::warn!(%error, "https origins cannot be verified: install CA certificates");
                build(client_builder().tls_certs_only([]))?
            }
        };
        Ok(Self { client, patience: Patience::default(), pacers: Vec::new() })
    }

    /// The same reader, whose reads of packages keep to all of `pacers`.
    #[must_use]
    pub fn paced(self, pacers: Vec<Pacer>) -> Self {
        Self { pacers, ..self }
    }

    /// Reads `ranges` of a package and sends what was wanted to `sink`, up to
    /// [`ORIGIN_REQUESTS_IN_FLIGHT_MAX`](shoal_proto::limits::ORIGIN_REQUESTS_IN_FLIGHT_MAX) ranges at a time. Small gaps
    /// between ranges are read through ([`coalesce`]) and dropped. A transfer that breaks goes on where it stopped.
    /// A full `sink` slows the transfer; dropping the future, or the receiver, ends it.
    ///
    /// # Errors
    /// Any [`OriginError`]; chunks that were sent before it are good.
    pub async fn read(
        &self,
        origin: &HttpOrigin,
        ranges: &[Range<u64>],
        mode: Mode,
        wan: &WanBytes,
        sink: &mpsc::Sender<Chunk>,
    ) -> Result<(), OriginError> {
        let wanted = disjoint(ranges);
        if let Some(last) = wanted.last()
            && last.end > origin.size
        {
            return Err(OriginError::PastEnd { end: last.end, size: origin.size });
        }
        let transfer = reading::Transfer { reader: self, origin, wan, sink };
        match mode {
            Mode::Ranges => transfer.ranges(coalesce(&wanted), &wanted).await,
            Mode::WholeRest => transfer.whole(&wanted).await,
        }
    }

    /// What the origin says about the file at `url`, by asking for its first byte: the only question that also tells
    /// whether it answers ranges, and that URLs signed for GET allow.
    ///
    /// # Errors
    /// Any [`OriginError`] but those about ranges and changes.
    pub async fn probe(&self, url: &str, headers: &[(String, String)]) -> Result<Metadata, OriginError> {
        let request = Request { url, headers, range: Some(0..1), if_range: None };
        let response = self.ask(&request).await?;
        Ok(request::metadata(&response))
    }

    /// Reads all of a file of unknown size, or from an origin without ranges, and sends it to `sink` in order; answers
    /// what the origin said about it, and its true size. For a package of known size, [`OriginReader::read`] resumes.
    ///
    /// # Errors
    /// Any [`OriginError`] but those about ranges and changes.
    pub async fn stream(
        &self,
        url: &str,
        headers: &[(String, String)],
        wan: &WanBytes,
        sink: &mpsc::Sender<Chunk>,
    ) -> Result<Metadata, OriginError> {
        let request = Request { url, headers, range: None, if_range: None };
        let mut response = self.ask(&request).await?;
        let metadata = request::metadata(&response);
        let mut offset = 0;
        while let Some(bytes) = request::chunk(&mut response, self.patience, wan).await? {
            let len = bytes.len() as u64;
            reading::deliver(sink, offset, bytes).await?;
            offset += len;
        }
        request::check_length(url, metadata.size, offset)?;
        Ok(Metadata { size: Some(offset), ..metadata })
    }

    /// Reads a small document, such as a feed's index, of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`OriginError::TooLarge`], or any other but those about ranges and changes.
    pub async fn document(
        &self,
        url: &str,
        headers: &[(String, String)],
        bytes_max: usize,
    ) -> Result<Bytes, OriginError> {
        let request = Request { url, headers, range: None, if_range: None };
        let mut tries = request::Tries::new(self.patience);
        loop {
            match self.document_once(&request, bytes_max).await {
                Ok(document) => return Ok(document),
                Err(error) => tries.wait_after(error).await?,
            }
        }
    }

    async fn document_once(&self, request: &Request<'_>, bytes_max: usize) -> Result<Bytes, OriginError> {
        let mut response = send(&self.client, self.patience, request).await?;
        let said = request::metadata(&response).size;
        let mut document = Vec::new();
        while let Some(bytes) = request::chunk(&mut response, self.patience, &WanBytes::default()).await? {
            if document.len() + bytes.len() > bytes_max {
                return Err(OriginError::TooLarge { url: shown_url(request.url), bytes_max });
            }
            document.extend_from_slice(&bytes);
        }
        request::check_length(request.url, said, document.len() as u64)?;
        Ok(Bytes::from(document))
    }

    /// Sends a request until it is answered, fails for good, or has failed too often in a row.
    async fn ask(&self, request: &Request<'_>) -> Result<reqwest::Response, OriginError> {
        let mut tries = request::Tries::new(self.patience);
        loop {
            match send(&self.client, self.patience, request).await {
                Ok(response) => return Ok(response),
                Err(error) => tries.wait_after(error).await?,
            }
        }
    }
}

/// What all clients have in common. Redirects are followed in [`request`], which drops the origin's headers (all of
/// them, not only `Authorization`) when the host changes.
fn client_builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("shoal/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(Duration::from_secs(10))
        .pool_max_idle_per_host(shoal_proto::limits::ORIGIN_REQUESTS_IN_FLIGHT_MAX)
}
