//! A feed with its secrets at hand, for as long as it is asked: what every kind of feed asks with.
//!
//! Secrets are read when they are used. They go to the hosts that the feed's configuration names and nowhere else.

use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::join_all;
use serde::de::DeserializeOwned;
use shoal_node::origin::{Document, OriginError, OriginReader, Target};
use shoal_proto::id::Name;
use shoal_proto::limits::{CA_PEM_BYTES_MAX, FEED_DOCUMENT_BYTES_MAX, PASSWORD_BYTES_MAX};
use shoal_proto::origin::{HttpOrigin, Metadata, shown_url};

use super::error::Blame;
use super::machine::Machine;
use super::tokens::Tokens;
use super::{FeedError, SiteMirror, Wanted};
use crate::config::SitePattern;
use crate::config::access::{Access, Credentials, SecretAt};
use crate::config::feed::{FeedConfig, FeedPlace, Mirror, Remote};

/// How long a mirror is waited for. It may be out of the coordinator's reach and fine for its site.
const MIRROR_WAIT: Duration = Duration::from_secs(5);

/// How long a signed URL is good: far longer than a lease, and shorter than what stores allow to credentials of a role.
const SIGNED_FOR: Duration = Duration::from_secs(3600);

/// What proves who asks.
#[derive(Clone)]
pub(super) enum Secret {
    /// A user's name and password.
    Password { username: String, password: String },
    /// A token that stands for itself.
    Token(String),
    /// What the machine's cloud lends to its role; with the account that it is used on, if that is said.
    Role { account: Option<String> },
}

impl Secret {
    /// The value of the header `Authorization` (RFC 7617, RFC 6750), where it is proved by one.
    pub(super) fn authorization(&self) -> Option<String> {
        match self {
            Self::Password { username, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
            }
            Self::Token(token) => Some(format!("Bearer {token}")),
            Self::Role { .. } => None,
        }
    }
}

/// One of the places that the configuration names, with what is proved there and by what it is known.
pub(super) struct Known {
    pub(super) secret: Option<Secret>,
    ca_pem: Option<String>,
    pub(super) region: Option<String>,
}

impl Known {
    fn of(feed: &Name, access: &Access) -> Result<Self, FeedError> {
        Ok(Self {
            secret: access.credentials.as_ref().map(|credentials| secret(feed, credentials)).transpose()?,
            ca_pem: access.ca_file.as_ref().map(|path| ca_pem(feed, path)).transpose()?,
            region: access.region.clone(),
        })
    }
}

/// A feed that is asked.
pub(super) struct Asked<'a> {
    pub(super) name: &'a Name,
    pub(super) config: &'a FeedConfig,
    pub(super) reader: &'a OriginReader,
    pub(super) tokens: &'a Tokens,
    pub(super) machine: &'a Machine,
    /// The feed, then its mirrors. Of a mirror whose secret cannot be read there is the reason.
    known: Vec<(String, Result<Known, FeedError>)>,
    left_out: Mutex<Vec<LeftOut>>,
}

/// A mirror that is not used for a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// Where, as people may see it.
    pub(super) url: String,
    /// Which sites it is for.
    pub(super) sites: Vec<SitePattern>,
    /// Why not.
    pub(super) cause: String,
}

impl<'a> Asked<'a> {
    pub(super) fn new(
        name: &'a Name,
        config: &'a FeedConfig,
        reader: &'a OriginReader,
        tokens: &'a Tokens,
        machine: &'a Machine,
    ) -> Result<Self, FeedError> {
        let mut known = Vec::new();
        if let FeedPlace::Remote(remote) = &config.place {
            known.push((remote.url.clone(), Ok(Known::of(name, &remote.access)?)));
            let mirror = |mirror: &Mirror| (mirror.url.clone(), Known::of(name, &mirror.access));
            known.extend(remote.mirrors.iter().map(mirror));
        }
        Ok(Self { name, config, reader, tokens, machine, known, left_out: Mutex::default() })
    }

    /// How it is reached; for a folder, by no URL.
    pub(super) fn remote(&self) -> &Remote {
        static NOWHERE: Remote = Remote {
            url: String::new(),
            access: Access { credentials: None, ca_file: None, region: None },
            signed_for: None,
            mirrors: Vec::new(),
        };
        match &self.config.place {
            FeedPlace::Remote(remote) => remote,
            FeedPlace::Folder(_) => &NOWHERE,
        }
    }

    /// The URL of the feed, ending with `/`.
    pub(super) fn base(&self) -> String {
        below(&self.remote().url, "")
    }

    /// What the configuration says of the place that `url` is at; nothing of hosts that it does not name, which are told no
    /// secret. Of places of one host it is the one with the longest path that the URL's begins with, or else the first.
    ///
    /// # Errors
    /// Those of reading a mirror's secret.
    pub(super) fn known(&self, url: &str) -> Result<Option<&Known>, FeedError> {
        let of_host = self.known.iter().filter(|(place, _)| same_origin(place, url));
        // Of equals `max_by_key` takes the last.
        let nearest = of_host.rev().max_by_key(|(place, _)| common_len(url, place));
        nearest.map(|(_, known)| known.as_ref().map_err(FeedError::clone)).transpose()
    }

    /// What is proved at `url`.
    pub(super) fn secret(&self, url: &str) -> Option<&Secret> {
        self.known(url).ok().flatten()?.secret.as_ref()
    }

    /// By what `url` is known when it is asked here: hosts that the feed leads to, such as one that lends tokens, are of the feed's
    /// authority.
    pub(super) fn ca_pem(&self, url: &str) -> Option<&str> {
        let feed = || self.known.first()?.1.as_ref().ok();
        self.known(url).ok().flatten().or_else(feed)?.ca_pem.as_deref()
    }

    /// What to send to `url`. What signs is sent nowhere.
    pub(super) fn headers(&self, url: &str) -> Vec<(String, String)> {
        let secret = self.secret(url).filter(|_| !self.config.kind.signs);
        let value = secret.and_then(Secret::authorization);
        value.map(|value| ("authorization".to_owned(), value)).into_iter().collect()
    }

    /// `origin` with all that a request for it needs.
    pub(super) fn with_headers(&self, mut origin: HttpOrigin) -> HttpOrigin {
        let own = self.headers(&origin.url);
        origin.headers.extend(own);
        self.with_ca(origin)
    }

    /// `origin` with the feed's own certificates, which vouch for the hosts that the configuration names.
    pub(super) fn with_ca(&self, mut origin: HttpOrigin) -> HttpOrigin {
        origin.ca_pem = self.known(&origin.url).ok().flatten().and_then(|known| known.ca_pem.clone());
        origin
    }

    /// Asks for the file at `url`, which holds the package.
    pub(super) async fn probe(&self, url: String, wanted: &Wanted<'_>) -> Result<HttpOrigin, FeedError> {
        let said = self.probe_with(&url, &self.headers(&url), wanted).await?;
        self.origin(url, said, wanted)
    }

    pub(super) async fn probe_with(
        &self,
        url: &str,
        headers: &[(String, String)],
        wanted: &Wanted<'_>,
    ) -> Result<Metadata, FeedError> {
        let said = self.reader.probe(Target { url, headers, ca_pem: self.ca_pem(url) }).await;
        said.map_err(|error| self.blamed(error, wanted))
    }

    /// The origin that a server's answer makes.
    pub(super) fn origin(&self, url: String, said: Metadata, wanted: &Wanted<'_>) -> Result<HttpOrigin, FeedError> {
        let (label, what) = (self.label(), wanted.what());
        self.blame(&label, &what).origin(url, said)
    }

    /// Reads a small document of the feed.
    pub(super) async fn document(
        &self,
        url: &str,
        accept: Option<&str>,
        wanted: &Wanted<'_>,
    ) -> Result<Document, FeedError> {
        let mut headers = self.headers(url);
        headers.extend(accept.map(|accept| ("accept".to_owned(), accept.to_owned())));
        let document = self.document_with(url, &headers).await;
        document.map_err(|error| self.blamed(error, wanted))
    }

    pub(super) async fn document_with(&self, url: &str, headers: &[(String, String)]) -> Result<Document, OriginError> {
        let target = Target { url, headers, ca_pem: self.ca_pem(url) };
        self.reader.document(target, FEED_DOCUMENT_BYTES_MAX).await
    }

    /// Reads a document of JSON.
    pub(super) async fn json<T: DeserializeOwned>(&self, url: &str, wanted: &Wanted<'_>) -> Result<T, FeedError> {
        let document = self.document(url, None, wanted).await?;
        serde_json::from_slice(&document.bytes).map_err(|error| self.bad(url, &error.to_string()))
    }

    /// The mirrors that have the package. One that cannot be asked from here is believed to, since its site may reach it
    /// and every byte is verified; one that has other bytes is left out.
    pub(super) async fn mirrors(&self, origin: &HttpOrigin, mirrors: Vec<(&Mirror, String)>) -> Vec<SiteMirror> {
        let asked = mirrors.into_iter().map(|(mirror, url)| self.mirror(origin, mirror, url));
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// [`Self::mirrors`] where each has the package at the same path below its URL as the feed.
    pub(super) async fn mirrors_below(&self, origin: &HttpOrigin, path: &str) -> Vec<SiteMirror> {
        let url = |mirror: &Mirror| below(&mirror.url, path);
        self.mirrors(origin, self.remote().mirrors.iter().map(|mirror| (mirror, url(mirror))).collect()).await
    }

    async fn mirror(&self, origin: &HttpOrigin, mirror: &Mirror, url: String) -> Option<SiteMirror> {
        if let Err(error) = self.known(&url) {
            self.leave_out(mirror, &url, error.to_string());
            return None;
        }
        let headers = self.headers(&url);
        let target = Target { url: &url, headers: &headers, ca_pem: self.ca_pem(&url) };
        let said = match tokio::time::timeout(MIRROR_WAIT, self.reader.probe(target)).await {
            Ok(Ok(said)) => said,
            Ok(Err(error @ (OriginError::NotFound { .. } | OriginError::Unauthorized { .. }))) => {
                self.leave_out(mirror, &url, error.to_string());
                return None;
            }
            Ok(Err(_)) | Err(_) => {
                tracing::info!(feed = %self.name, mirror = shown_url(&url), "a mirror cannot be asked from here");
                Metadata::default()
            }
        };
        if let Some(there) = said.size.filter(|size| *size != origin.size) {
            self.leave_out(mirror, &url, format!("it has other bytes: {there} of them, and the feed {}", origin.size));
            return None;
        }
        let Metadata { etag, last_modified, .. } = said;
        let origin = HttpOrigin { url, etag, last_modified, ..origin.clone() };
        origin.check().ok().map(|()| SiteMirror { sites: mirror.sites.clone(), origin })
    }

    /// Notes that a mirror is not used for what is asked for.
    pub(super) fn leave_out(&self, mirror: &Mirror, url: &str, cause: String) {
        let url = shown_url(url);
        tracing::warn!(feed = %self.name, mirror = url, cause, "a mirror is not used for a package");
        let left_out = LeftOut { url, sites: mirror.sites.clone(), cause };
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner).push(left_out);
    }

    /// The mirrors that were found not to be used.
    pub(super) fn left_out(self) -> Vec<LeftOut> {
        self.left_out.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is proved to the feed, for people.
    pub(super) fn shown_auth(&self) -> &'static str {
        match self.secret(&self.remote().url) {
            Some(Secret::Role { .. }) => "signed URL, by the machine's role",
            Some(_) if self.config.kind.signs => "signed URL",
            Some(Secret::Password { .. }) => "password",
            Some(Secret::Token(_)) => "token",
            None => "none",
        }
    }

    /// For how long URLs are signed.
    pub(super) fn signed_for(&self) -> Duration {
        self.remote().signed_for.unwrap_or(SIGNED_FOR)
    }

    pub(super) fn cannot_sign(&self, cause: String) -> FeedError {
        FeedError::Sign { feed: self.name.to_string(), cause }
    }

    /// Whether the secret itself goes to `url` unencrypted, and over a network.
    pub(super) fn bares_secret(&self, url: &str) -> bool {
        let plain = reqwest::Url::parse(url).ok().filter(|url| url.scheme() == "http");
        let local =
            plain.as_ref().is_some_and(|url| matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost")));
        plain.is_some() && !local && !self.headers(url).is_empty()
    }

    pub(super) fn label(&self) -> String {
        format!("feed `{}`", self.name)
    }

    pub(super) fn blame<'b>(&self, feed: &'b str, what: &'b str) -> Blame<'b> {
        let unauthorized = match self.secret(&self.remote().url) {
            Some(Secret::Password { .. }) => "check `username` and `password_file`",
            Some(Secret::Token(_)) => "check `token_file`",
            Some(Secret::Role { .. }) => "check what the machine's role may do",
            None => "it wants a `username` and a `password_file`",
        };
        Blame { feed, what, unauthorized }
    }

    pub(super) fn blamed(&self, error: OriginError, wanted: &Wanted<'_>) -> FeedError {
        let (label, what) = (self.label(), wanted.what());
        self.blame(&label, &what).error(error)
    }

    pub(super) fn impossible(&self, wanted: &Wanted<'_>, problem: String) -> FeedError {
        FeedError::Impossible { feed: self.name.to_string(), what: wanted.what(), problem }
    }

    pub(super) fn no_package(&self, wanted: &Wanted<'_>, hint: String) -> FeedError {
        FeedError::NoPackage { feed: self.label(), what: wanted.what(), hint }
    }

    pub(super) fn no_version(&self, wanted: &Wanted<'_>, hint: String) -> FeedError {
        let version = wanted.version.unwrap_or_default().to_owned();
        FeedError::NoVersion { feed: self.name.to_string(), id: wanted.id.to_owned(), version, hint }
    }

    /// What to say of a document that cannot be used.
    pub(super) fn bad(&self, url: &str, problem: &str) -> FeedError {
        FeedError::Document { feed: self.name.to_string(), url: shown_url(url), problem: problem.to_owned() }
    }
}

/// The URL of `path` below `url`.
pub(super) fn below(url: &str, path: &str) -> String {
    format!("{}/{path}", url.trim_end_matches('/'))
}

/// How much of `place` the URL of something below it, or beside it, begins with.
fn common_len(url: &str, place: &str) -> usize {
    let own = place.split(['?', '#', '{']).next().unwrap_or_default();
    let folder = own.rfind('/').map_or(own, |end| &own[..=end]);
    let starts = [below(own, ""), folder.to_owned()];
    let longest = starts.iter().filter(|start| url.starts_with(start.as_str())).map(String::len).max();
    if url == own { own.len() + 1 } else { longest.unwrap_or(0) }
}

/// Whether two URLs are of the same scheme, host and port.
pub(super) fn same_origin(one: &str, other: &str) -> bool {
    let origin = |url: &str| reqwest::Url::parse(url).map(|url| url.origin());
    matches!((origin(one), origin(other)), (Ok(one), Ok(other)) if one == other)
}

fn secret(feed: &Name, credentials: &Credentials) -> Result<Secret, FeedError> {
    let text = match &credentials.secret {
        SecretAt::Role => return Ok(Secret::Role { account: credentials.username.clone() }),
        SecretAt::File(path) => {
            let wrong = |cause: String| FeedError::Password { feed: feed.to_string(), path: path.clone(), cause };
            let text = read_bounded(path, PASSWORD_BYTES_MAX).map_err(wrong)?;
            match one_line(&text) {
                "" => return Err(wrong("it is empty".to_owned())),
                line => line.to_owned(),
            }
        }
        SecretAt::Env(name) => {
            let missing = || FeedError::NoVariable { feed: feed.to_string(), name: name.clone() };
            std::env::var(name).ok().filter(|text| !text.is_empty()).ok_or_else(missing)?
        }
    };
    Ok(match &credentials.username {
        Some(username) => Secret::Password { username: username.clone(), password: text },
        None => Secret::Token(text),
    })
}

/// `text` without the line end behind it.
fn one_line(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

fn ca_pem(feed: &Name, path: &Path) -> Result<String, FeedError> {
    let wrong = |cause: String| FeedError::CaFile { feed: feed.to_string(), path: path.to_owned(), cause };
    let pem = read_bounded(path, CA_PEM_BYTES_MAX as u64).map_err(wrong)?;
    match pem.contains("-----BEGIN CERTIFICATE-----") {
        true => Ok(pem),
        false => Err(wrong("there is no certificate in PEM in it".to_owned())),
    }
}

pub(super) fn read_bounded(path: &Path, bytes_max: u64) -> Result<String, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(bytes_max + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    match text.len() as u64 > bytes_max {
        true => Err(format!("it is over {bytes_max} bytes")),
        false => Ok(text),
    }
}
