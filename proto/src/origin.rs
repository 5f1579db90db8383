//! What a node needs to know to read a package from an HTTP origin, and the pure part of reading: which ranges to ask
//! for, and what the origin's headers mean.
//!
//! An [`HttpOrigin`] is made by the coordinator, which alone knows about feeds, and travels with leases. Decoding one
//! checks its bounds. Its headers may hold secrets, and so may its URL (pre-signed ones): neither its `Debug` form nor
//! [`shown_url`] tells them. Requests, retries and time are left to the node's `origin` module.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::{
    CA_PEM_BYTES_MAX, GAP_BYTES_MAX, GAP_PERCENT_MAX, ORIGIN_HEADERS_BYTES_MAX, ORIGIN_HEADERS_MAX, URL_BYTES_MAX,
};

/// Where a package is read from, and by what it is known to be unchanged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct HttpOrigin {
    /// The whole URL, pre-signed if need be.
    pub url: String,
    /// Request headers, such as `Authorization`. They are for this URL's host alone.
    pub headers: Vec<(String, String)>,
    /// Size of the package in bytes.
    pub size: u64,
    /// Its strong ETag with the quotes, if the origin gave one (see [`strong_etag`]).
    pub etag: Option<String>,
    /// Its `Last-Modified`, as the origin wrote it.
    pub last_modified: Option<String>,
    /// Certificates in PEM of private authorities that vouch for this origin, beside those that the machine trusts.
    pub ca_pem: Option<String>,
}

/// [`HttpOrigin`] as it comes off the wire.
#[derive(Deserialize)]
struct Unchecked {
    url: String,
    headers: Vec<(String, String)>,
    size: u64,
    etag: Option<String>,
    last_modified: Option<String>,
    ca_pem: Option<String>,
}

/// Why an origin is refused before anything is asked of it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HttpOriginError {
    /// Neither `http://` nor `https://`.
    #[error("an origin's URL starts with http:// or https://, not `{0}`")]
    Scheme(String),
    /// The URL is over [`URL_BYTES_MAX`].
    #[error("an origin's URL has {0} bytes, {URL_BYTES_MAX} are allowed")]
    LongUrl(usize),
    /// More than [`ORIGIN_HEADERS_MAX`] headers, or over [`ORIGIN_HEADERS_BYTES_MAX`].
    #[error(
        "an origin's headers are too many or too long: {ORIGIN_HEADERS_MAX} and {ORIGIN_HEADERS_BYTES_MAX} bytes are allowed"
    )]
    Headers,
    /// The ETag is weak, so that it does not say whether bytes are the same.
    #[error("`{0}` is not a strong ETag")]
    WeakEtag(String),
    /// The certificates are over [`CA_PEM_BYTES_MAX`].
    #[error("an origin's certificates have {0} bytes, {CA_PEM_BYTES_MAX} are allowed")]
    LongCa(usize),
}

impl TryFrom<Unchecked> for HttpOrigin {
    type Error = HttpOriginError;

    fn try_from(raw: Unchecked) -> Result<Self, HttpOriginError> {
        let Unchecked { url, headers, size, etag, last_modified, ca_pem } = raw;
        let origin = Self { url, headers, size, etag, last_modified, ca_pem };
        origin.check()?;
        Ok(origin)
    }
}

impl HttpOrigin {
    /// Checks what decoding checks, for origins that were made here.
    ///
    /// # Errors
    /// The first bound that it breaks.
    pub fn check(&self) -> Result<(), HttpOriginError> {
        if !self.url.starts_with("http://") && !self.url.starts_with("https://") {
            return Err(HttpOriginError::Scheme(self.url.chars().take(16).collect()));
        }
        if self.url.len() > URL_BYTES_MAX {
            return Err(HttpOriginError::LongUrl(self.url.len()));
        }
        let header_bytes: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let validator_bytes = [&self.etag, &self.last_modified].into_iter().flatten().map(String::len).sum::<usize>();
        if self.headers.len() > ORIGIN_HEADERS_MAX || header_bytes + validator_bytes > ORIGIN_HEADERS_BYTES_MAX {
            return Err(HttpOriginError::Headers);
        }
        if let Some(pem) = self.ca_pem.as_ref().filter(|pem| pem.len() > CA_PEM_BYTES_MAX) {
            return Err(HttpOriginError::LongCa(pem.len()));
        }
        match &self.etag {
            Some(etag) if strong_etag(etag).is_none() => Err(HttpOriginError::WeakEtag(etag.clone())),
            _ => Ok(()),
        }
    }

    /// What tells `metadata`, which the origin answered later, from the package that this was made for.
    ///
    /// `Last-Modified` counts only where there is no ETag on both sides: servers behind one name often disagree on it.
    pub fn change(&self, metadata: &Metadata) -> Option<Change> {
        if let Some(change) = self.strict_change(metadata.size, metadata.etag.as_deref()) {
            return Some(change);
        }
        if self.etag.is_some() && metadata.etag.is_some() {
            return None;
        }
        match (&self.last_modified, &metadata.last_modified) {
            (Some(was), Some(is)) if was != is => Some(Change::LastModified { was: was.clone(), is: is.clone() }),
            _ => None,
        }
    }

    /// [`HttpOrigin::change`] by size and ETag alone: what no unchanged origin ever shows.
    pub fn strict_change(&self, size: Option<u64>, etag: Option<&str>) -> Option<Change> {
        match (self.etag.as_deref(), etag.and_then(strong_etag)) {
            (Some(was), Some(is)) if was != is => return Some(Change::Etag { was: was.to_owned(), is: is.to_owned() }),
            _ => {}
        }
        size.filter(|size| *size != self.size).map(|is| Change::Size { was: self.size, is })
    }
}

impl fmt::Debug for HttpOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.headers.iter().map(|(name, _)| format!("{name}: …")).collect();
        f.debug_struct("HttpOrigin")
            .field("url", &shown_url(&self.url))
            .field("headers", &headers)
            .field("size", &self.size)
            .field("etag", &self.etag)
            .field("last_modified", &self.last_modified)
            .field("ca_pem", &self.ca_pem.is_some())
            .finish()
    }
}

/// What an origin says about a package without sending it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Size in bytes, if it says.
    pub size: Option<u64>,
    /// Strong ETag, if it has one.
    pub etag: Option<String>,
    /// `Last-Modified`, if it says.
    pub last_modified: Option<String>,
    /// Whether it answered a range request with a range.
    pub ranges: bool,
}

/// How a package at an origin differs from what it was when the deployment was planned.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Change {
    /// Its ETag.
    #[error("its ETag was {was} and is {is}")]
    Etag {
        /// When it was resolved.
        was: String,
        /// What the origin answers.
        is: String,
    },
    /// Its size.
    #[error("it had {was} bytes and has {is}")]
    Size {
        /// When it was resolved, in bytes.
        was: u64,
        /// What the origin answers, in bytes.
        is: u64,
    },
    /// Its `Last-Modified`.
    #[error("it was last modified {was} and is last modified {is}")]
    LastModified {
        /// When it was resolved.
        was: String,
        /// What the origin answers.
        is: String,
    },
}

/// `url` as a person may see it: without user, password, query and fragment, where secrets are.
pub fn shown_url(url: &str) -> String {
    let bare = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = bare.split_once("://") else { return bare.to_owned() };
    let authority_len = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_len);
    let host = authority.rsplit('@').next().unwrap_or_default();
    let tail = if bare.len() < url.len() { "?…" } else { "" };
    format!("{scheme}://{host}{path}{tail}")
}

/// `etag` if it is a strong one in quotes; a weak one does not promise the same bytes (RFC 9110, 8.8.1).
pub fn strong_etag(etag: &str) -> Option<&str> {
    let inner = etag.strip_prefix('"')?.strip_suffix('"')?;
    inner.bytes().all(|byte| byte == 0x21 || (0x23..=0x7e).contains(&byte) || byte >= 0x80).then_some(etag)
}

/// What a `Content-Range: bytes …` header says (RFC 9110, 14.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// The bytes that follow; `None` in the answer to a range that cannot be had.
    pub range: Option<Range<u64>>,
    /// The whole size, if the server knows it.
    pub total: Option<u64>,
}

impl ContentRange {
    /// Reads a header's value; `None` if it is anything but a well-formed range of bytes.
    pub fn parse(value: &str) -> Option<Self> {
        let (unit, rest) = value.trim().split_once(' ')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (range, total) = rest.trim().split_once('/')?;
        let total = if total == "*" { None } else { Some(digits(total)?) };
        if range == "*" {
            return total.is_some().then_some(Self { range: None, total });
        }
        let (first, last) = range.split_once('-')?;
        let range = digits(first)?..digits(last)?.checked_add(1)?;
        let fits = range.start < range.end && total.is_none_or(|total| range.end <= total);
        fits.then_some(Self { range: Some(range), total })
    }
}

/// A number of decimal digits alone; `u64::from_str` would take a sign.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// How long to wait after `failed` failures in a row: anything up to a bound that starts at `base` and doubles, wherever
/// `random` falls (full jitter, as in AWS's "Exponential Backoff and Jitter"), so that a fleet that failed together comes
/// back spread over the whole time.
pub fn backoff(base: Duration, failed: u32, random: u64) -> Duration {
    let most = base * 2_u32.pow(failed.saturating_sub(1).min(10));
    let nanos = (u128::from(random) * most.as_nanos()) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// When who reads with a signature that is good for `life` is told of another one: early enough that none ends while it is
/// under way. One that is lent to several has half of its life left at least.
pub fn renew_after(life: Duration) -> Duration {
    life / 4
}

/// How long a `Retry-After` header asks to wait: seconds, or an HTTP date seen from `unix_now` (seconds since 1970).
/// `None` if it is neither.
pub fn retry_after(value: &str, unix_now: u64) -> Option<Duration> {
    let value = value.trim();
    let seconds = match digits(value) {
        Some(seconds) if !value.is_empty() => seconds,
        _ => http_date(value)?.saturating_sub(unix_now),
    };
    Some(Duration::from_secs(seconds))
}

/// Seconds since 1970 of an HTTP date in the one form that servers may send, `Sun, 06 Nov 1994 08:49:37 GMT`
/// (RFC 9110, 5.6.7).
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_weekday, rest) = text.split_once(", ")?;
    let fields: Vec<&str> = rest.split([' ', ':']).collect();
    let &[day, month, year, hour, minute, second, "GMT"] = fields.as_slice() else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let (day, year) = (digits(day)?, digits(year)?);
    let (hour, minute, second) = (digits(hour)?, digits(minute)?, digits(second)?);
    let sane = (1..=31).contains(&day) && (1970..=9999).contains(&year) && hour < 24 && minute < 60 && second <= 60;
    sane.then(|| days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar, by Hinnant's `days_from_civil`: years start in March, so
/// that the leap day is the last.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let months_since_march = (month + 9) % 12;
    let day_of_year = (153 * months_since_march + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

/// The ranges to ask for, so that all of `missing` is read: sorted, disjoint, and joined across gaps of up to
/// [`GAP_BYTES_MAX`] as long as all gaps together stay within [`GAP_PERCENT_MAX`] of the missing bytes. The smallest gaps
/// are read through first. `missing` may be in any order and may overlap.
pub fn coalesce(missing: &[Range<u64>]) -> Vec<Range<u64>> {
    let runs = disjoint(missing);
    let missing_bytes: u64 = runs.iter().map(|run| run.end - run.start).sum();
    let mut budget = u64::try_from(u128::from(missing_bytes) * u128::from(GAP_PERCENT_MAX) / 100).unwrap_or(u64::MAX);

    let mut gaps: Vec<(u64, usize)> =
        runs.windows(2).enumerate().map(|(at, pair)| (pair[1].start - pair[0].end, at)).collect();
    gaps.retain(|(gap, _)| *gap <= GAP_BYTES_MAX);
    gaps.sort_unstable();
    let mut joined = vec![false; runs.len()];
    for (gap, at) in gaps {
        if gap > budget {
            break;
        }
        budget -= gap;
        joined[at] = true;
    }

    let mut asked: Vec<Range<u64>> = Vec::with_capacity(runs.len());
    for (at, run) in runs.into_iter().enumerate() {
        match asked.last_mut() {
            Some(last) if joined[at - 1] => last.end = run.end,
            _ => asked.push(run),
        }
    }
    asked
}

/// `ranges` sorted, without empty ones, with those that touch or overlap joined.
pub fn disjoint(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<_> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
    sorted.sort_unstable_by_key(|range| (range.start, range.end));
    let mut runs: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match runs.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => runs.push(range),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::codec;

    fn origin() -> HttpOrigin {
        HttpOrigin {
            url: "https://ci:pa55@dl.example.com/web.zip?X-Signature=s3cret".into(),
            headers: vec![("Authorization".into(), "Bearer t0ken".into())],
            size: 10,
            etag: Some("\"a\"".into()),
            last_modified: None,
            ca_pem: None,
        }
    }

    #[test]
    fn debug_tells_no_secret() {
        let shown = format!("{:?}", origin());
        for secret in ["t0ken", "s3cret", "pa55"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(shown.contains("https://dl.example.com/web.zip?…") && shown.contains("Authorization"), "{shown}");
    }

    #[test]
    fn decoding_refuses_what_is_out_of_bounds() {
        let round_trip = |origin: &HttpOrigin| {
            let bytes = codec::encode(origin, 1 << 20).unwrap();
            codec::decode::<HttpOrigin>(&bytes, 1 << 20)
        };
        assert_eq!(round_trip(&origin()).unwrap(), origin());
        let bad = [
            HttpOrigin { url: "file:///etc/passwd".into(), ..origin() },
            HttpOrigin { url: format!("http://h/{}", "x".repeat(URL_BYTES_MAX)), ..origin() },
            HttpOrigin { headers: vec![("a".into(), "b".into()); ORIGIN_HEADERS_MAX + 1], ..origin() },
            HttpOrigin { headers: vec![("a".into(), "b".repeat(ORIGIN_HEADERS_BYTES_MAX))], ..origin() },
            HttpOrigin { etag: Some("W/\"a\"".into()), ..origin() },
            HttpOrigin { ca_pem: Some("x".repeat(CA_PEM_BYTES_MAX + 1)), ..origin() },
        ];
        for origin in bad {
            assert!(round_trip(&origin).is_err(), "{origin:?}");
        }
    }

    #[test]
    fn a_change_is_told_by_etag_then_size_then_date() {
        let (was, is) = (String::from("\"a\""), String::from("\"b\""));
        let same = Metadata { size: Some(10), etag: Some(was.clone()), ..Metadata::default() };
        assert_eq!(origin().change(&same), None);
        assert_eq!(origin().change(&Metadata::default()), None, "an origin that says nothing has not changed");
        let etag = Metadata { size: Some(11), etag: Some(is.clone()), ..Metadata::default() };
        assert_eq!(origin().change(&etag), Some(Change::Etag { was, is }));
        let size = Metadata { size: Some(11), ..Metadata::default() };
        assert_eq!(origin().change(&size), Some(Change::Size { was: 10, is: 11 }));

        let dated = HttpOrigin { etag: None, last_modified: Some("Mon".into()), ..origin() };
        let later = Metadata { last_modified: Some("Tue".into()), ..Metadata::default() };
        assert!(matches!(dated.change(&later), Some(Change::LastModified { .. })));
        assert_eq!(dated.strict_change(None, None), None);
    }

    #[test]
    fn etags_are_strong_only_in_plain_quotes() {
        assert_eq!(strong_etag("\"5e-1\""), Some("\"5e-1\""));
        for weak in ["W/\"5e\"", "5e", "\"", "", "\"a\"b\"", "\"a b\"", "\"a\n\""] {
            assert_eq!(strong_etag(weak), None, "{weak:?}");
        }
    }

    #[test]
    fn content_ranges_are_read_exactly() {
        let read = |range, total| Some(ContentRange { range, total });
        assert_eq!(ContentRange::parse("bytes 0-0/1"), read(Some(0..1), Some(1)));
        assert_eq!(ContentRange::parse("bytes 5-9/*"), read(Some(5..10), None));
        assert_eq!(ContentRange::parse("bytes */7"), read(None, Some(7)));
        let bad = [
            "",
            "bytes",
            "bytes 1-0/5",
            "bytes 0-5/5",
            "bytes -1/5",
            "bytes +1-2/5",
            "items 0-1/5",
            "bytes */*",
            "bytes 0-18446744073709551615/*",
            "bytes 0-1/x",
            "bytes 0-1",
            "bytes /5",
        ];
        for value in bad {
            assert_eq!(ContentRange::parse(value), None, "{value:?}");
        }
    }

    #[test]
    fn waits_are_spread_over_all_of_a_time_that_doubles() {
        let second = Duration::from_secs(1);
        let table = [(1, 1), (2, 2), (3, 4), (5, 16), (100, 1024)];
        for (failed, most) in table {
            assert_eq!(backoff(second, failed, 0), Duration::ZERO);
            assert_eq!(backoff(second, failed, 1 << 63), second * most / 2);
            let longest = backoff(second, failed, u64::MAX);
            assert!(longest <= second * most && longest > second * most * 999 / 1000, "{longest:?}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(retry_after("120", 0), Some(Duration::from_secs(120)));
        assert_eq!(retry_after(date, 784_111_770), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(date, 784_111_778), Some(Duration::ZERO), "a date that is past");
        assert_eq!(retry_after("Thu, 29 Feb 2024 00:00:00 GMT", 1_709_164_790), Some(Duration::from_secs(10)));
        for bad in
            ["", "-5", "soon", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Foo 1994 08:49:37 GMT", "99999999999999999999"]
        {
            assert_eq!(retry_after(bad, 0), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn coalescing_covers_all_and_keeps_the_gap_bounds(
            pieces in proptest::collection::vec((0_u64..400_000, 0_u64..20_000), 0..60),
        ) {
            let missing: Vec<_> = pieces.into_iter().map(|(start, len)| start..start + len).collect();
            let asked = coalesce(&missing);
            prop_assert!(asked.windows(2).all(|pair| pair[0].end < pair[1].start), "sorted, apart: {asked:?}");
            for range in missing.iter().filter(|range| !range.is_empty()) {
                prop_assert!(asked.iter().any(|run| run.start <= range.start && range.end <= run.end));
            }
            let bytes = |runs: &[Range<u64>]| runs.iter().map(|run| run.end - run.start).sum::<u64>();
            let runs = disjoint(&missing);
            prop_assert!((bytes(&asked) - bytes(&runs)) * 100 <= bytes(&runs) * GAP_PERCENT_MAX);
            let gap_too_wide = |pair: &[Range<u64>]| {
                pair[1].start - pair[0].end > GAP_BYTES_MAX && asked.iter().any(|run| run.contains(&pair[0].end))
            };
            prop_assert!(!runs.windows(2).any(gap_too_wide));
        }

        #[test]
        fn disjoint_keeps_exactly_the_bytes(pieces in proptest::collection::vec((0_u64..300, 0_u64..30), 0..30)) {
            let ranges: Vec<_> = pieces.into_iter().map(|(start, len)| start..start + len).collect();
            let bytes = |ranges: &[Range<u64>]| ranges.iter().cloned().flatten().collect::<BTreeSet<u64>>();
            prop_assert_eq!(bytes(&disjoint(&ranges)), bytes(&ranges));
        }

        #[test]
        fn header_parsers_take_any_text(value in ".{0,60}") {
            let _: (Option<ContentRange>, Option<Duration>) = (ContentRange::parse(&value), retry_after(&value, 0));
        }
    }
}
