//! One request to an origin: its headers, its redirects, what its status means, the next chunk of its body, and how long
//! to wait before it is sent again. It holds a place among the requests of its host until its answer is dropped.
//!
//! Headers of an origin go to the URL's own scheme, host and port and nowhere else: a redirect to another host, as from a
//! feed to its object store, is followed without them, and never from https to http.

use std::error::Error as _;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_RANGE, LAST_MODIFIED, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Response, StatusCode, Url};
use shoal_proto::limits::{ORIGIN_REDIRECTS_MAX, ORIGIN_TRIES_MAX};
use shoal_proto::origin::{ContentRange, Metadata, backoff, retry_after, shown_url, strong_etag};
use tokio::sync::OwnedSemaphorePermit;

use super::error::cause;
use super::{OriginError, OriginReader, Patience, Target, WanBytes};

/// What is asked of an origin.
pub(super) struct Request<'a> {
    pub(super) target: Target<'a>,
    /// Not empty.
    pub(super) range: Option<Range<u64>>,
    pub(super) if_range: Option<&'a str>,
    /// Whether the body may be encoded: its reader decodes it.
    pub(super) encoded: bool,
}

impl<'a> Request<'a> {
    /// A request for all of a file.
    pub(super) fn whole(target: Target<'a>) -> Self {
        Self { target, range: None, if_range: None, encoded: false }
    }

    fn shown(&self) -> String {
        shown_url(self.target.url)
    }
}

/// An answer whose body may be read.
pub(super) struct Answer {
    pub(super) response: Response,
    _place: OwnedSemaphorePermit,
}

/// Sends `request`, follows redirects, and answers once status and headers are there: 200, 206 or 416 (with its size).
pub(super) async fn send(reader: &OriginReader, request: &Request<'_>) -> Result<Answer, OriginError> {
    let bad_request = |cause: String| OriginError::BadRequest { url: request.shown(), cause };
    let mut url = Url::parse(request.target.url).map_err(|error| bad_request(error.to_string()))?;
    let mut headers = origin_headers(request.target.headers).map_err(bad_request)?;
    let client = reader.client(request.target)?;
    let place = reader.places.of(&url).await?;
    for _ in 0..=ORIGIN_REDIRECTS_MAX {
        let mut all = headers.clone();
        all.extend(range_headers(request).map_err(bad_request)?);
        let answer = tokio::time::timeout(reader.patience.stall, client.get(url.clone()).headers(all).send()).await;
        let response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(not_sent(request.target.url, error)),
            Err(_) => return Err(OriginError::Stalled { url: request.shown(), silence: reader.patience.stall }),
        };
        let Some(next) = redirect(request.target.url, &url, &response)? else {
            return accept(request, response).map(|response| Answer { response, _place: place });
        };
        if next.origin() != url.origin() {
            headers.clear();
        }
        url = next;
    }
    Err(OriginError::Redirect { url: request.shown(), cause: format!("more than {ORIGIN_REDIRECTS_MAX} times") })
}

fn not_sent(url: &str, error: reqwest::Error) -> OriginError {
    let url = shown_url(url);
    if error.is_builder() {
        OriginError::BadRequest { url, cause: cause(error) }
    } else if let Some(cause) = certificate_error(&error) {
        OriginError::Untrusted { url, cause }
    } else if error.is_connect() {
        OriginError::Unreachable { url, cause: cause(error) }
    } else {
        OriginError::Broken { url, cause: cause(error) }
    }
}

/// What is wrong with a server's certificate, if that is why it was not asked.
fn certificate_error(error: &reqwest::Error) -> Option<String> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref() {
            return Some(why.to_string());
        }
        // An I/O error shows what it was made of as its own text, and not as its source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = inner.map_or_else(|| error.source(), |inner| Some(inner));
    }
    None
}

fn origin_headers(headers: &[(String, String)]) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let key: HeaderName = name.parse().map_err(|_| format!("`{name}` is not a header's name"))?;
        let mut value: HeaderValue =
            value.parse().map_err(|_| format!("the value of header `{name}` cannot be sent"))?;
        value.set_sensitive(true);
        map.append(key, value);
    }
    Ok(map)
}

/// The headers that are Shoal's own, and win over an origin's. Bytes are hashed as they are in the file, so that no
/// encoding is accepted.
fn range_headers(request: &Request<'_>) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    map.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(range) = &request.range {
        let value = format!("bytes={}-{}", range.start, range.end - 1);
        map.insert(RANGE, value.parse().map_err(|_| "its range cannot be sent".to_owned())?);
        if let Some(etag) = request.if_range {
            map.insert(IF_RANGE, etag.parse().map_err(|_| "its ETag cannot be sent".to_owned())?);
        }
    }
    Ok(map)
}

/// Where `response` redirects to, if it does.
fn redirect(asked: &str, from: &Url, response: &Response) -> Result<Option<Url>, OriginError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let refuse = |cause: String| OriginError::Redirect { url: shown_url(asked), cause };
    let location = text(response, LOCATION).ok_or_else(|| refuse("without saying where to".into()))?;
    let next = from.join(&location).map_err(|error| refuse(format!("to a bad URL: {error}")))?;
    match (from.scheme(), next.scheme()) {
        (_, "https") | ("http", "http") => Ok(Some(next)),
        (from, to) => Err(refuse(format!("from {from} to {to}"))),
    }
}

/// Sorts an answer by its status: what may be read is let through.
fn accept(request: &Request<'_>, response: Response) -> Result<Response, OriginError> {
    let url = request.shown();
    let status = response.status().as_u16();
    match response.status() {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => match text(&response, CONTENT_ENCODING) {
            Some(encoding) if !encoding.eq_ignore_ascii_case("identity") && !request.encoded => {
                Err(OriginError::BadAnswer {
                    url,
                    cause: format!("it is encoded ({encoding}), which was not asked for"),
                })
            }
            _ => Ok(response),
        },
        StatusCode::RANGE_NOT_SATISFIABLE if request.range.is_some() => Ok(response),
        StatusCode::UNAUTHORIZED => {
            let challenges = response.headers().get_all(WWW_AUTHENTICATE).into_iter();
            let challenges = challenges.filter_map(|value| Some(value.to_str().ok()?.to_owned())).collect();
            Err(OriginError::Unauthorized { url, challenges })
        }
        StatusCode::FORBIDDEN => Err(OriginError::Forbidden { url }),
        StatusCode::NOT_FOUND | StatusCode::GONE => Err(OriginError::NotFound { url, status }),
        code if code == StatusCode::TOO_MANY_REQUESTS || code.is_server_error() => {
            let wait = text(&response, RETRY_AFTER).and_then(|value| retry_after(&value, unix_now()));
            Err(OriginError::Busy { url, status, retry_after: wait })
        }
        _ => Err(OriginError::Status { url, status }),
    }
}

/// What an accepted answer says about the whole file.
pub(super) fn metadata(response: &Response) -> Metadata {
    let range = content_range(response);
    let ranges = response.status() == StatusCode::PARTIAL_CONTENT && range.is_some();
    let size = if response.status() == StatusCode::OK {
        content_length(response)
    } else {
        range.and_then(|range| range.total)
    };
    let etag = text(response, ETAG).filter(|etag| strong_etag(etag).is_some());
    // An empty file has no first byte: 416 with `bytes */0` is how a server that knows ranges says so.
    let ranges = ranges || response.status() == StatusCode::RANGE_NOT_SATISFIABLE && size.is_some();
    Metadata { size, etag, last_modified: text(response, LAST_MODIFIED), ranges }
}

/// The range that an answer says it holds.
pub(super) fn content_range(response: &Response) -> Option<ContentRange> {
    ContentRange::parse(&text(response, CONTENT_RANGE)?)
}

/// The length of the body, if the answer says.
pub(super) fn content_length(response: &Response) -> Option<u64> {
    text(response, CONTENT_LENGTH)?.parse().ok()
}

fn text(response: &Response, name: HeaderName) -> Option<String> {
    Some(response.headers().get(name)?.to_str().ok()?.to_owned())
}

/// The next bytes of a body, counted; `None` at its end.
pub(super) async fn chunk(
    answer: &mut Answer,
    patience: Patience,
    wan: &WanBytes,
) -> Result<Option<Bytes>, OriginError> {
    let response = &mut answer.response;
    match tokio::time::timeout(patience.stall, response.chunk()).await {
        Ok(Ok(chunk)) => {
            wan.count(chunk.as_ref().map_or(0, Bytes::len));
            Ok(chunk)
        }
        Ok(Err(error)) => Err(OriginError::Broken { url: shown_url(response.url().as_str()), cause: cause(error) }),
        Err(_) => Err(OriginError::Stalled { url: shown_url(response.url().as_str()), silence: patience.stall }),
    }
}

/// Compares the length that an answer promised, if it did, with the length that came.
pub(super) fn check_length(url: &str, promised: Option<u64>, came: u64) -> Result<(), OriginError> {
    match promised {
        Some(promised) if promised != came => {
            let cause = format!("it ended after {came} of {promised} bytes");
            Err(OriginError::Broken { url: shown_url(url), cause })
        }
        _ => Ok(()),
    }
}

/// Counts failures in a row and waits between them.
pub(super) struct Tries {
    patience: Patience,
    failed: u32,
}

impl Tries {
    pub(super) fn new(patience: Patience) -> Self {
        Self { patience, failed: 0 }
    }

    /// Starts to count again, after progress.
    pub(super) fn reset(&mut self) {
        self.failed = 0;
    }

    /// Waits until the request may be sent again, or gives `error` back if it may not.
    pub(super) async fn wait_after(&mut self, error: OriginError) -> Result<(), OriginError> {
        self.failed += 1;
        if !error.is_passing() || self.failed >= ORIGIN_TRIES_MAX {
            return Err(error);
        }
        let asked = match &error {
            OriginError::Busy { retry_after, .. } => *retry_after,
            _ => None,
        };
        if asked.is_some_and(|wait| wait > self.patience.retry_after_max) {
            return Err(error);
        }
        let backoff = backoff(self.patience.backoff, self.failed, random());
        tracing::debug!(%error, failed = self.failed, ?asked, ?backoff, "asking the origin again");
        // Many nodes may be told the same second: the jitter comes on top of it.
        tokio::time::sleep(asked.unwrap_or_default() + backoff).await;
        Ok(())
    }
}

/// From the standard library's one source of randomness: good enough to spread nodes, and no dependency.
fn random() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
