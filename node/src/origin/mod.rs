//! Reads packages from HTTP origins: byte ranges for a lease, and whole files and small documents for feeds.
//!
//! A node reads here only under a lease (WAN-ONCE), so that every body byte that arrives is counted in [`WanBytes`],
//! whether it was wanted or not, and no byte is asked for a second time after it was delivered. Bytes are handed on
//! unverified: the caller compares them with the recipe (VERIFIED). Which ranges, how fast and from which mirror is the
//! coordinator's decision; here is one origin, asked politely.
//!
//! Every future of this module stops when it is dropped: it holds its connections itself and starts no tasks.

mod client;
mod document;
mod error;
mod reading;
mod renewals;
mod request;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use shoal_proto::limits::{ORIGIN_RENEWAL_WAIT, ORIGIN_RETRY_AFTER_MAX, ORIGIN_STALL};
use shoal_proto::origin::{HttpOrigin, Metadata, coalesce, disjoint};
use tokio::sync::mpsc;

use crate::transfer::credit::LeaseCredit;
use crate::transfer::pacer::Pacer;
use client::{Clients, Places};
pub use document::{Document, Headers};
pub use error::OriginError;
pub use renewals::Renewals;
use request::{Answer, Request, send};

/// Reads from HTTP origins. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct OriginReader {
    clients: Clients,
    places: Places,
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
    /// How long another proof is waited for in place of one that was refused.
    renewal: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let backoff = Duration::from_millis(500);
        let renewal = ORIGIN_RENEWAL_WAIT;
        Self { stall: ORIGIN_STALL, backoff, retry_after_max: ORIGIN_RETRY_AFTER_MAX, renewal }
    }
}

/// A file at an origin, and how it is asked for.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The whole URL.
    pub url: &'a str,
    /// Headers for this URL's host alone.
    pub headers: &'a [(String, String)],
    /// Certificates in PEM of private authorities that vouch for the host.
    pub ca_pem: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Where `origin` is.
    pub fn of(origin: &'a HttpOrigin) -> Self {
        Self { url: &origin.url, headers: &origin.headers, ca_pem: origin.ca_pem.as_deref() }
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
        let (clients, places) = (Clients::new()?, Places::default());
        Ok(Self { clients, places, patience: Patience::default(), pacers: Vec::new() })
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
        let credit = LeaseCredit::unlimited();
        self.read_leased(&Renewals::never(origin), &credit, ranges, mode, wan, sink).await
    }

    /// [`OriginReader::read`] under a lease, as far as its credit goes, at an origin whose signature or token may end
    /// meanwhile.
    ///
    /// # Errors
    /// Those of [`OriginReader::read`].
    pub async fn read_leased(
        &self,
        renewals: &Renewals,
        credit: &LeaseCredit,
        ranges: &[Range<u64>],
        mode: Mode,
        wan: &WanBytes,
        sink: &mpsc::Sender<Chunk>,
    ) -> Result<(), OriginError> {
        let origin = &*renewals.current();
        let wanted = disjoint(ranges);
        if let Some(last) = wanted.last()
            && last.end > origin.size
        {
            return Err(OriginError::PastEnd { end: last.end, size: origin.size });
        }
        let transfer = reading::Transfer { reader: self, origin, renewals, credit, wan, sink };
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
    pub async fn probe(&self, target: Target<'_>) -> Result<Metadata, OriginError> {
        self.probe_more(target).await.map(|(said, _)| said)
    }

    /// [`OriginReader::probe`], with all headers of the answer.
    ///
    /// # Errors
    /// Those of [`OriginReader::probe`].
    pub async fn probe_more(&self, target: Target<'_>) -> Result<(Metadata, Headers), OriginError> {
        let answer = self.ask(&Request { range: Some(0..1), ..Request::whole(target) }).await?;
        Ok((request::metadata(&answer.response), Headers(answer.response.headers().clone())))
    }

    /// Sends a request until it is answered, fails for good, or has failed too often in a row.
    async fn ask(&self, request: &Request<'_>) -> Result<Answer, OriginError> {
        let mut tries = request::Tries::new(self.patience);
        loop {
            match send(self, request).await {
                Ok(answer) => return Ok(answer),
                Err(error) => tries.wait_after(error).await?,
            }
        }
    }

    fn client(&self, target: Target<'_>) -> Result<reqwest::Client, OriginError> {
        self.clients.of(target)
    }
}
