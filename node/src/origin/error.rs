//! Why an origin did not give what was asked. Messages name the URL as a person may see it, the cause, and what to do.

use std::error::Error as _;
use std::fmt::Write as _;
use std::time::Duration;

use shoal_proto::origin::Change;

/// Why reading from an origin failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// 401: it wants other credentials.
    #[error("{url} answered 401: check the feed's user name and password file")]
    Unauthorized {
        /// What was asked for.
        url: String,
        /// Its `WWW-Authenticate` headers: what it wants instead.
        challenges: Vec<String>,
    },
    /// 403: the credentials do not suffice, or a signed URL has expired.
    #[error("{url} answered 403: the feed's user may not read it, or the signed URL has expired")]
    Forbidden {
        /// What was asked for.
        url: String,
    },
    /// 404 or 410: it has no such file.
    #[error("{url} answered {status}: no such file; check the id and version, and whether the feed still has it")]
    NotFound {
        /// What was asked for.
        url: String,
        /// 404 or 410.
        status: u16,
    },
    /// 429 or 5xx, more often than it is tried again.
    #[error("{url} answered {status}: it is overloaded or broken")]
    Busy {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// Any other status that is no success.
    #[error("{url} answered {status}, which says nothing about the file")]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
    },
    /// It answered a range request with the whole file.
    #[error("{url} ignores range requests: read the rest of the package in one go")]
    IgnoresRanges {
        /// What was asked for.
        url: String,
    },
    /// It has another package than the one that the deployment was planned with.
    #[error("the package at {url} has changed since it was resolved: {change}")]
    Changed {
        /// What was asked for.
        url: String,
        /// What differs.
        change: Change,
    },
    /// An answer that breaks the rules of HTTP ranges.
    #[error("{url} sent an answer that cannot be used: {cause}")]
    BadAnswer {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Redirects that lead nowhere, in a circle or from https to http.
    #[error("{url} redirects in a way that is not followed: {cause}")]
    Redirect {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        cause: String,
    },
    /// No connection.
    #[error("cannot reach {url}: {cause}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why not.
        cause: String,
    },
    /// It shows a certificate that nobody vouches for who is trusted here.
    #[error("{url} shows a certificate that is not trusted ({cause}): name its authority's in the feed's `ca_file`")]
    Untrusted {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The connection broke, or the body ended early.
    #[error("the transfer from {url} broke: {cause}")]
    Broken {
        /// What was asked for.
        url: String,
        /// How.
        cause: String,
    },
    /// Neither an answer nor a byte of one for too long.
    #[error("{url} sent nothing for {} s", silence.as_secs_f32())]
    Stalled {
        /// What was asked for.
        url: String,
        /// For how long.
        silence: Duration,
    },
    /// A document over the bound that the caller set.
    #[error("{url} is over {bytes_max} bytes, which a document of a feed never is")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// The bound.
        bytes_max: usize,
    },
    /// Bytes were wanted that the package does not have: a mistake of the caller.
    #[error("bytes up to {end} are wanted of a package of {size}")]
    PastEnd {
        /// End of the wanted range.
        end: u64,
        /// Size of the package.
        size: u64,
    },
    /// The URL or a header cannot be sent.
    #[error("cannot ask {url}: {cause}")]
    BadRequest {
        /// What was to be asked for.
        url: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Nobody takes the bytes any more.
    #[error("the transfer was cancelled")]
    Cancelled,
    /// The certificates that came with the origin cannot be used.
    #[error("the certificates for {url} cannot be used: {cause}; check the feed's `ca_file`")]
    Certificates {
        /// What was to be asked for.
        url: String,
        /// What is wrong with them.
        cause: String,
    },
    /// The HTTP client cannot be set up.
    #[error("cannot set up the HTTP client: {0}")]
    Client(String),
}

impl OriginError {
    /// Whether the same request may succeed a little later.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Unreachable { .. } | Self::Broken { .. } | Self::Stalled { .. })
    }

    /// Whether another signature or token may help.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Unauthorized { .. } | Self::Forbidden { .. })
    }

    pub(super) fn client(error: reqwest::Error) -> Self {
        Self::Client(cause(error))
    }
}

/// The whole chain of causes in one line, without the URL, which may hold secrets. Repetitions are left out.
pub(super) fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            let _ = write!(text, ": {more}");
        }
        next = source.source();
    }
    text
}
