//! Feeds: from what a deployment file calls a package to where its bytes are. Only the coordinator knows about feeds.
//!
//! A reference is resolved once, to a [`Resolved`]: plain data without secrets, which may be recorded. What a lease holder
//! is given is made from it when it is needed ([`Feeds::origin`]); only then is a password read, and it goes to the hosts
//! that its feed's configuration names and nowhere else. Reading the package is left to [`crate::catalog`].

mod error;
mod folder;
mod http;
mod nuget;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use shoal_node::origin::OriginReader;
use shoal_proto::id::Name;
use shoal_proto::limits::{PASSWORD_BYTES_MAX, REFERENCE_BYTES_MAX, URL_BYTES_MAX};
use shoal_proto::origin::{HttpOrigin, shown_url};
use shoal_proto::rollout::nearest::nearest;
use shoal_proto::rollout::spec::PackageSpec;

use crate::config::{Credentials, FeedConfig, Remote, SitePattern, check_url};
pub use error::FeedError;
pub use folder::FolderFile;

/// How a deployment file names a package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reference {
    /// By a feed.
    Feed {
        /// The feed.
        feed: Name,
        /// What the feed calls it; for a folder, a path.
        id: String,
        /// Which version of it.
        version: Option<String>,
    },
    /// By a URL.
    Url(String),
}

/// Where a package is, as found when it was resolved. Holds no secret but what a URL of the deployment file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// What was asked for.
    pub reference: Reference,
    /// For people: `nuget-main Acme.Web 4.2.1`.
    pub description: String,
    /// The same for every version of one package: recipes of one lineage are likely to be alike.
    pub lineage: String,
    /// Where its bytes are.
    pub place: Place,
    /// Its SHA-512 in base64, if the feed says.
    pub sha512: Option<String>,
}

/// Where a package's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// On an HTTP server, and on mirrors.
    Http {
        /// As all sites without a mirror read it; without credentials.
        origin: HttpOrigin,
        /// As sites with a mirror read it, in the order of the configuration; without credentials.
        mirrors: Vec<SiteMirror>,
    },
    /// In a folder of the coordinator, which is then the origin.
    Folder(FolderFile),
}

/// Where some sites read a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteMirror {
    /// Which sites.
    pub sites: Vec<SitePattern>,
    /// Where.
    pub origin: HttpOrigin,
}

/// The configured feeds.
#[derive(Debug)]
pub struct Feeds {
    feeds: BTreeMap<Name, FeedConfig>,
    reader: OriginReader,
}

impl Reference {
    /// The reference that an entry of a deployment file's `packages` makes.
    ///
    /// # Errors
    /// [`FeedError::Reference`] if it names neither or both of a feed and a URL, or too long.
    pub fn of_spec(package: &Name, spec: &PackageSpec) -> Result<Self, FeedError> {
        let wrong = |problem: &str| FeedError::Reference { package: package.to_string(), problem: problem.to_owned() };
        let texts = [&spec.id, &spec.version];
        if texts.into_iter().flatten().any(|text| text.is_empty() || text.len() > REFERENCE_BYTES_MAX) {
            return Err(wrong("its `id` or `version` is empty or too long"));
        }
        match spec {
            PackageSpec { feed: Some(feed), id: Some(id), version, url: None, .. } => {
                Ok(Self::Feed { feed: feed.clone(), id: id.clone(), version: version.clone() })
            }
            PackageSpec { feed: Some(_), url: None, .. } => Err(wrong("it has a `feed` but no `id`")),
            PackageSpec { feed: Some(_), url: Some(_), .. } => Err(wrong("it has both a `feed` and a `url`")),
            PackageSpec { feed: None, url: None, .. } => Err(wrong("it has neither a `feed` with an `id` nor a `url`")),
            PackageSpec { id: Some(_), .. } | PackageSpec { version: Some(_), .. } => {
                Err(wrong("it has a `url`, with which `id` and `version` have no effect"))
            }
            PackageSpec { url: Some(url), .. } if url.len() > URL_BYTES_MAX => Err(wrong("its `url` is too long")),
            PackageSpec { url: Some(url), .. } => Ok(Self::Url(url.clone())),
        }
    }

    /// For people; a URL without what may be secret in it.
    pub fn description(&self) -> String {
        match self {
            Self::Feed { feed, id, version: Some(version) } => format!("{feed} {id} {version}"),
            Self::Feed { feed, id, version: None } => format!("{feed} {id}"),
            Self::Url(url) => shown_url(url),
        }
    }
}

impl Resolved {
    /// The package's size in bytes.
    pub fn size(&self) -> u64 {
        match &self.place {
            Place::Http { origin, .. } => origin.size,
            Place::Folder(file) => file.size,
        }
    }

    /// What is the same as long as the feed has the same bytes under this reference, as far as the feed tells; `None` if
    /// it tells too little to be believed.
    pub fn validator(&self) -> Option<String> {
        match &self.place {
            Place::Http { origin, .. } => {
                let HttpOrigin { url, size, etag, last_modified, .. } = origin;
                let told = etag.as_ref().or(last_modified.as_ref())?;
                Some(format!("{url} {size} {told}"))
            }
            Place::Folder(file) => Some(file.validator()),
        }
    }
}

impl Feeds {
    /// The feeds of a configuration, asked through `reader`.
    pub fn new(feeds: BTreeMap<Name, FeedConfig>, reader: OriginReader) -> Self {
        Self { feeds, reader }
    }

    /// The configured feeds.
    pub fn all(&self) -> &BTreeMap<Name, FeedConfig> {
        &self.feeds
    }

    /// What the feeds are asked with.
    pub fn reader(&self) -> &OriginReader {
        &self.reader
    }

    /// Finds out where a package is.
    ///
    /// # Errors
    /// Every [`FeedError`].
    pub async fn resolve(&self, reference: &Reference) -> Result<Resolved, FeedError> {
        let (feed, id, version) = match reference {
            Reference::Url(url) => return http::resolve_url(&self.reader, url).await,
            Reference::Feed { feed, id, version } => (feed, id.as_str(), version.as_deref()),
        };
        match self.feed(feed)? {
            FeedConfig::Http(remote) => self.ask(feed, remote)?.file(reference, id, version).await,
            FeedConfig::Nuget(remote) => self.ask(feed, remote)?.package(reference, id, version).await,
            FeedConfig::Folder { path } => folder::resolve(feed, path.clone(), reference, id, version).await,
        }
    }

    /// The HTTP request that a node of `site` (or the coordinator itself, without one) reads the package with, credentials
    /// included; `None` if the coordinator is the origin.
    ///
    /// # Errors
    /// [`FeedError::UnknownFeed`] if the configuration no longer has the feed, [`FeedError::Password`].
    pub fn origin(&self, resolved: &Resolved, site: Option<&Name>) -> Result<Option<HttpOrigin>, FeedError> {
        let Place::Http { origin, mirrors } = &resolved.place else { return Ok(None) };
        let matches = |mirror: &&SiteMirror| site.is_some_and(|site| mirror.sites.iter().any(|p| p.matches(site)));
        let mut origin = mirrors.iter().find(matches).map_or(origin, |mirror| &mirror.origin).clone();
        if let Reference::Feed { feed, .. } = &resolved.reference
            && let FeedConfig::Http(remote) | FeedConfig::Nuget(remote) = self.feed(feed)?
        {
            origin.headers = self.ask(feed, remote)?.headers(&origin.url);
        }
        Ok(Some(origin))
    }

    fn feed(&self, name: &Name) -> Result<&FeedConfig, FeedError> {
        self.feeds.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.feeds.keys().map(Name::as_str).collect();
            let meant = nearest(name.as_str(), &known).map(str::to_owned);
            FeedError::UnknownFeed { feed: name.to_string(), meant, known: known.join(", ") }
        })
    }

    fn ask<'a>(&'a self, name: &'a Name, remote: &'a Remote) -> Result<Asked<'a>, FeedError> {
        let authorization =
            remote.credentials.as_ref().map(|credentials| authorization(name, credentials)).transpose()?;
        Ok(Asked { name, remote, reader: &self.reader, authorization })
    }
}

/// A feed with its password at hand, for as long as it is asked.
struct Asked<'a> {
    name: &'a Name,
    remote: &'a Remote,
    reader: &'a OriginReader,
    authorization: Option<String>,
}

impl Asked<'_> {
    /// What to send to `url`: the credentials only if its host is one that the feed's configuration names.
    fn headers(&self, url: &str) -> Vec<(String, String)> {
        let mut named = [&self.remote.url].into_iter().chain(self.remote.mirrors.iter().map(|mirror| &mirror.url));
        match &self.authorization {
            Some(value) if named.any(|named| same_origin(named, url)) => {
                vec![("authorization".to_owned(), value.clone())]
            }
            _ => Vec::new(),
        }
    }
}

/// Whether two URLs are of the same scheme, host and port.
fn same_origin(one: &str, other: &str) -> bool {
    let origin = |url: &str| reqwest::Url::parse(url).map(|url| url.origin());
    matches!((origin(one), origin(other)), (Ok(one), Ok(other)) if one == other)
}

/// The value of the header of Basic authentication (RFC 7617).
fn authorization(feed: &Name, credentials: &Credentials) -> Result<String, FeedError> {
    let path: &PathBuf = &credentials.password_file;
    let wrong = |cause: String| FeedError::Password { feed: feed.to_string(), path: path.clone(), cause };
    let mut password = String::new();
    let file = std::fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
    file.take(PASSWORD_BYTES_MAX + 1).read_to_string(&mut password).map_err(|error| wrong(error.to_string()))?;
    if password.len() as u64 > PASSWORD_BYTES_MAX {
        return Err(wrong(format!("it is over {PASSWORD_BYTES_MAX} bytes")));
    }
    let password = password.strip_suffix('\n').unwrap_or(&password);
    let password = password.strip_suffix('\r').unwrap_or(password);
    match password {
        "" => Err(wrong("it is empty".to_owned())),
        password => Ok(format!("Basic {}", STANDARD.encode(format!("{}:{password}", credentials.username)))),
    }
}
