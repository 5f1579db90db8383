//! The ranges of one read: several in flight, each resumed where it broke.
//!
//! Invariant: a wanted byte is sent to the sink at most once, and a range's bytes in order. What a range has got is kept
//! across tries, so that only the rest is asked for again (WAN-ONCE).

use std::ops::Range;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt, TryStreamExt};
use reqwest::{Response, StatusCode};
use shoal_proto::limits::{ORIGIN_PROGRESS_BYTES, ORIGIN_REQUESTS_IN_FLIGHT_MAX};
use shoal_proto::origin::{HttpOrigin, shown_url};
use tokio::sync::mpsc;

use super::request::{self, Request, Tries, send};
use super::{Chunk, OriginError, OriginReader, Renewals, Target, WanBytes};
use crate::transfer::credit::LeaseCredit;
use crate::transfer::pacer::{Pacer, piece_of_all, take_all};

/// One read of one package.
#[derive(Clone, Copy)]
pub(super) struct Transfer<'a> {
    pub(super) reader: &'a OriginReader,
    /// What is read there, whatever is proved with.
    pub(super) origin: &'a HttpOrigin,
    pub(super) renewals: &'a Renewals,
    pub(super) credit: &'a LeaseCredit,
    pub(super) wan: &'a WanBytes,
    pub(super) sink: &'a mpsc::Sender<Chunk>,
}

impl Transfer<'_> {
    /// Reads `asked`, of which `wanted` is delivered. The first error ends all.
    pub(super) async fn ranges(self, asked: Vec<Range<u64>>, wanted: &[Range<u64>]) -> Result<(), OriginError> {
        // Not `buffer_unordered`: the closure that it would take keeps this future from being sent to another thread.
        let mut reads = FuturesUnordered::new();
        for range in asked {
            let mut at = range.start;
            while at < range.end {
                if reads.len() == ORIGIN_REQUESTS_IN_FLIGHT_MAX {
                    reads.next().await.transpose()?;
                }
                // Under a limit a little is asked for at a time, and several in flight, or round trips would idle.
                let piece = piece_of_all(&self.reader.pacers, range.end - at);
                reads.push(self.range(at..at + piece, wanted));
                at += piece;
            }
        }
        reads.try_collect().await
    }

    /// Reads one range, in as many tries as it takes while they bring progress.
    async fn range(self, range: Range<u64>, wanted: &[Range<u64>]) -> Result<(), OriginError> {
        let mut tries = Tries::new(self.reader.patience);
        let (mut at, mut counted, mut refused_at) = (range.start, range.start, None);
        while at < range.end {
            // Paid for before it is asked for: what crosses the WAN is then as smooth as what is asked for, however much
            // a connection has room for. The limit may be a lower one than when the range was chosen.
            let piece = piece_of_all(&self.reader.pacers, range.end - at);
            let unpaid = take_all(&self.reader.pacers, piece).await;
            self.credit.ready().await;
            let end = at + piece;
            let proof = self.renewals.current();
            let Err(error) = self.range_once(&proof, &mut at, end, wanted, &unpaid).await else { continue };
            // A second refusal at the same byte is no matter of time.
            if error.is_refusal() && refused_at != Some(at) && self.renewed_after(&proof).await {
                refused_at = Some(at);
                continue;
            }
            if at - counted >= ORIGIN_PROGRESS_BYTES {
                tries.reset();
                counted = at;
            }
            tries.wait_after(error).await?;
        }
        Ok(())
    }

    /// Asks once for `*at..end` and moves `at` past what was delivered.
    async fn range_once(
        self,
        proof: &HttpOrigin,
        at: &mut u64,
        end: u64,
        wanted: &[Range<u64>],
        unpaid: &[Pacer],
    ) -> Result<(), OriginError> {
        let if_range = self.origin.etag.as_deref();
        let request = Request { range: Some(*at..end), if_range, ..Request::whole(Target::of(proof)) };
        let mut answer = send(self.reader, &request).await?;
        self.check_range(&answer.response, *at..end)?;
        while *at < end {
            let Some(bytes) = request::chunk(&mut answer, self.reader.patience, self.wan).await? else {
                return Err(self.broken(format!("it ended at byte {at} of {end}")));
            };
            let next = *at + bytes.len() as u64;
            if next > end {
                return Err(self.bad_answer(format!("it holds more than bytes {at} to {end}")));
            }
            take_all(unpaid, bytes.len() as u64).await;
            self.deliver_wanted(*at, &bytes, wanted).await?;
            *at = next;
            self.credit.take(bytes.len() as u64).await;
        }
        // Reading the end itself lets the connection be used again where the length was not said beforehand.
        request::chunk(&mut answer, self.reader.patience, self.wan).await.map(drop).or(Ok(()))
    }

    /// Reads the package from its first byte to the last wanted one.
    pub(super) async fn whole(self, wanted: &[Range<u64>]) -> Result<(), OriginError> {
        let Some(last) = wanted.last() else { return Ok(()) };
        let reader = self.reader;
        let proof = self.renewals.current();
        let mut answer = match reader.ask(&Request::whole(Target::of(&proof))).await {
            Err(error) if error.is_refusal() && self.renewed_after(&proof).await => {
                reader.ask(&Request::whole(Target::of(&self.renewals.current()))).await?
            }
            answer => answer?,
        };
        if answer.response.status() != StatusCode::OK {
            return Err(self.bad_answer(format!("{} to a request without a range", answer.response.status())));
        }
        self.check_unchanged(&answer.response)?;
        let mut at = 0;
        while at < last.end {
            let Some(bytes) = request::chunk(&mut answer, reader.patience, self.wan).await? else {
                return Err(self.broken(format!("it ended at byte {at} of {}", self.origin.size)));
            };
            take_all(&reader.pacers, bytes.len() as u64).await;
            self.deliver_wanted(at, &bytes, wanted).await?;
            at += bytes.len() as u64;
        }
        Ok(())
    }

    /// Whether there is something else to prove with than what was refused.
    async fn renewed_after(&self, refused: &HttpOrigin) -> bool {
        self.renewals.after(refused, self.reader.patience.renewal).await
    }

    /// Whether an answer holds exactly `asked` of the package that is wanted.
    fn check_range(&self, response: &Response, asked: Range<u64>) -> Result<(), OriginError> {
        self.check_unchanged(response)?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {}
            // Everything was asked for and everything comes: as good as a range.
            StatusCode::OK if asked == (0..self.origin.size) => return Ok(()),
            StatusCode::OK => return Err(OriginError::IgnoresRanges { url: shown_url(&self.origin.url) }),
            status => return Err(self.bad_answer(format!("{status} to bytes {} to {}", asked.start, asked.end))),
        }
        let Some(content) = request::content_range(response) else {
            return Err(self.bad_answer("206 without a Content-Range that can be read".into()));
        };
        if content.range.as_ref() != Some(&asked) {
            let cause = format!("bytes {asked:?} were asked for, {:?} came", content.range.unwrap_or_default());
            return Err(self.bad_answer(cause));
        }
        match request::content_length(response) {
            Some(len) if len != asked.end - asked.start => {
                Err(self.bad_answer(format!("{len} bytes for bytes {} to {}", asked.start, asked.end)))
            }
            _ => Ok(()),
        }
    }

    /// Whether an answer comes from the package that the deployment was planned with, as far as headers tell.
    fn check_unchanged(&self, response: &Response) -> Result<(), OriginError> {
        let metadata = request::metadata(response);
        match self.origin.strict_change(metadata.size, metadata.etag.as_deref()) {
            Some(change) => Err(OriginError::Changed { url: shown_url(&self.origin.url), change }),
            None => Ok(()),
        }
    }

    /// Sends those parts of `bytes`, which start at `offset`, that are in `wanted` (sorted and disjoint).
    async fn deliver_wanted(&self, offset: u64, bytes: &Bytes, wanted: &[Range<u64>]) -> Result<(), OriginError> {
        let end = offset + bytes.len() as u64;
        let first = wanted.partition_point(|range| range.end <= offset);
        for range in wanted[first..].iter().take_while(|range| range.start < end) {
            let (from, to) = (range.start.max(offset), range.end.min(end));
            let part = bytes.slice((from - offset) as usize..(to - offset) as usize);
            deliver(self.sink, from, part).await?;
        }
        Ok(())
    }

    fn bad_answer(&self, cause: String) -> OriginError {
        OriginError::BadAnswer { url: shown_url(&self.origin.url), cause }
    }

    fn broken(&self, cause: String) -> OriginError {
        OriginError::Broken { url: shown_url(&self.origin.url), cause }
    }
}

/// Sends a chunk; an empty one is left out.
pub(super) async fn deliver(sink: &mpsc::Sender<Chunk>, offset: u64, bytes: Bytes) -> Result<(), OriginError> {
    if bytes.is_empty() {
        return Ok(());
    }
    sink.send(Chunk { offset, bytes }).await.map_err(|_| OriginError::Cancelled)
}
