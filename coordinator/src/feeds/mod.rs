//! Feeds: from what a deployment file calls a package to where its bytes are. Only the coordinator knows about feeds.
//!
//! A reference is resolved once, to a [`Resolved`]: plain data without secrets, which may be recorded. What a lease holder
//! is given is made from it when it is needed ([`Feeds::authorize`]); only then is a secret read, a token asked for or a URL
//! signed. Reading the package, and checking the hashes that its feed publishes, is left to [`crate::catalog`].
//!
//! Each kind of feed is a file with a [`Kind`]; it asks by way of `Asked`, which keeps secrets where they belong.

mod asked;
mod azure;
pub(crate) mod digest;
mod error;
mod folder;
mod gcs;
mod github;
mod http;
mod kind;
mod machine;
mod maven;
mod npm;
mod nuget;
mod objects;
mod oci;
mod pypi;
mod s3;
#[cfg(test)]
pub(crate) mod tests;
mod tokens;
mod trial;
mod v4;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoal_node::origin::OriginReader;
use shoal_proto::id::Name;
use shoal_proto::limits::{REFERENCE_BYTES_MAX, URL_BYTES_MAX};
use shoal_proto::origin::{HttpOrigin, shown_url};
use shoal_proto::rollout::nearest::nearest;
use shoal_proto::rollout::spec::PackageSpec;

use crate::config::SitePattern;
use crate::config::feed::FeedConfig;
use asked::{Asked, LeftOut};
pub use digest::Digest;
pub use error::FeedError;
pub use folder::FolderFile;
pub use kind::Kind;
use machine::Machine;
use tokens::Tokens;
pub use trial::{PlaceTrial, Trial};

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
        /// Which of its files.
        file: Option<String>,
        /// Which of its variants.
        platform: Option<String>,
    },
    /// By a URL.
    Url(String),
}

/// Where a package is, as found when it was resolved. Holds no secret but what a URL of the deployment file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// What was asked for.
    pub reference: Reference,
    /// For people: `nuget-main Acme.Web 4.2.1`, with the version that was found where another was asked for.
    pub description: String,
    /// The same for every version of one package: recipes of one lineage are likely to be alike.
    pub lineage: String,
    /// Where its bytes are.
    pub place: Place,
    /// Its hashes, as far as the feed says.
    pub digests: Vec<Digest>,
}

/// What a feed is asked for.
#[derive(Clone, Copy, Debug)]
struct Wanted<'a> {
    id: &'a str,
    version: Option<&'a str>,
    file: Option<&'a str>,
    platform: Option<&'a str>,
}

/// What a feed has: the part of a [`Resolved`] that its kind finds out.
struct Found {
    /// The version that it is, where the reference said less or more.
    version: Option<String>,
    /// The same for every version of one package, within the feed.
    lineage: String,
    place: Place,
    digests: Vec<Digest>,
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
        /// Where the feed itself says that it is as well; without credentials.
        equivalents: Vec<HttpOrigin>,
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
    tokens: Tokens,
    machine: Machine,
}

impl Reference {
    /// The reference that an entry of a deployment file's `packages` makes.
    ///
    /// # Errors
    /// [`FeedError::Reference`] if it names neither or both of a feed and a URL, or too long.
    pub fn of_spec(package: &Name, spec: &PackageSpec) -> Result<Self, FeedError> {
        let wrong = |problem: &str| FeedError::Reference { package: package.to_string(), problem: problem.to_owned() };
        check_texts(package, [&spec.id, &spec.version, &spec.file, &spec.platform].map(Option::as_ref))?;
        match spec.clone() {
            PackageSpec { feed: Some(feed), id: Some(id), url: None, version, file, platform, .. } => {
                Ok(Self::Feed { feed, id, version, file, platform })
            }
            PackageSpec { feed: Some(_), url: None, .. } => Err(wrong("it has a `feed` but no `id`")),
            PackageSpec { feed: Some(_), url: Some(_), .. } => Err(wrong("it has both a `feed` and a `url`")),
            PackageSpec { feed: None, url: None, .. } => Err(wrong("it has neither a `feed` with an `id` nor a `url`")),
            PackageSpec { id: None, version: None, file: None, platform: None, url: Some(url), .. } => {
                if url.len() > URL_BYTES_MAX { Err(wrong("its `url` is too long")) } else { Ok(Self::Url(url)) }
            }
            PackageSpec { .. } => {
                Err(wrong("it has a `url`, with which `id`, `version`, `file` and `platform` have no effect"))
            }
        }
    }

    /// The reference to a package of `feed`.
    ///
    /// # Errors
    /// [`FeedError::Reference`] if one of its parts is empty or too long.
    pub fn of_feed(
        feed: &Name,
        id: String,
        version: Option<String>,
        file: Option<String>,
        platform: Option<String>,
    ) -> Result<Self, FeedError> {
        check_texts(feed, [Some(&id), version.as_ref(), file.as_ref(), platform.as_ref()])?;
        Ok(Self::Feed { feed: feed.clone(), id, version, file, platform })
    }

    /// For people; a URL without what may be secret in it.
    pub fn description(&self) -> String {
        match self {
            Self::Feed { feed, id, version, file, platform } => {
                format!("{feed} {}", Wanted::new(id, version, file, platform).what())
            }
            Self::Url(url) => shown_url(url),
        }
    }
}

/// Whether the parts of a reference, of which some may be missing, are neither empty nor too long.
fn check_texts(package: &Name, texts: [Option<&String>; 4]) -> Result<(), FeedError> {
    if texts.into_iter().flatten().any(|text| text.is_empty() || text.len() > REFERENCE_BYTES_MAX) {
        let problem = "its `id`, `version`, `file` or `platform` is empty or too long".to_owned();
        return Err(FeedError::Reference { package: package.to_string(), problem });
    }
    Ok(())
}

impl<'a> Wanted<'a> {
    fn new(id: &'a str, version: &'a Option<String>, file: &'a Option<String>, platform: &'a Option<String>) -> Self {
        Self { id, version: version.as_deref(), file: file.as_deref(), platform: platform.as_deref() }
    }

    /// As messages call it.
    fn what(&self) -> String {
        let parts = [Some(self.id), self.version, self.file, self.platform];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
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

    /// Where nodes of `site` (or the coordinator itself, without one) read it over HTTP, the nearest first: the site's own
    /// mirrors, the feed, and what the feed calls its equals. Empty if the coordinator is the origin.
    pub fn places(&self, site: Option<&Name>) -> Vec<&HttpOrigin> {
        let Place::Http { origin, mirrors, equivalents } = &self.place else { return Vec::new() };
        let matches = |mirror: &&SiteMirror| site.is_some_and(|site| mirror.sites.iter().any(|p| p.matches(site)));
        let own = mirrors.iter().filter(matches).map(|mirror| &mirror.origin);
        own.chain([origin]).chain(equivalents).collect()
    }

    /// What is the same as long as the feed has the same bytes under this reference, as far as the feed tells; `None` if
    /// it tells too little to be believed.
    pub fn validator(&self) -> Option<String> {
        if let Some(digest) = self.digests.iter().filter(|digest| digest.identifies()).max() {
            return Some(format!("{digest} {}", self.size()));
        }
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
        Self { feeds, reader, tokens: Tokens::default(), machine: Machine::this() }
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
        self.resolve_more(reference).await.map(|(resolved, _)| resolved)
    }

    /// [`Self::resolve`], with the mirrors that are not used.
    async fn resolve_more(&self, reference: &Reference) -> Result<(Resolved, Vec<LeftOut>), FeedError> {
        let (feed, id, version, file, platform) = match reference {
            Reference::Url(url) => return Ok((http::resolve_url(&self.reader, url).await?, Vec::new())),
            Reference::Feed { feed, id, version, file, platform } => (feed, id, version, file, platform),
        };
        let asked = self.ask(feed)?;
        let wanted = Wanted::new(id, version, file, platform);
        let kind = asked.config.kind;
        for (key, said, used) in [("file", file, kind.files), ("platform", platform, kind.platforms)] {
            if said.is_some() && !used {
                let problem = format!("`{key}` has no effect in a feed of kind `{}`", kind.name);
                return Err(asked.impossible(&wanted, problem));
            }
        }
        let found = (kind.resolve)(&asked, &wanted).await?;
        let pinned = Wanted { version: found.version.as_deref().or(wanted.version), ..wanted };
        let description = match version {
            Some(version) if pinned.version != Some(version) => format!("{feed} {} (for {version})", pinned.what()),
            _ => format!("{feed} {}", pinned.what()),
        };
        let resolved = Resolved {
            reference: reference.clone(),
            description,
            lineage: format!("{feed} {}", found.lineage),
            place: found.place,
            digests: found.digests,
        };
        Ok((resolved, asked.left_out()))
    }

    /// The HTTP request that a package is read with at one of its [places](Resolved::places), credentials included. It waits
    /// only where a feed has to be asked for a token.
    ///
    /// # Errors
    /// [`FeedError::UnknownFeed`] if the configuration no longer has the feed, those of its secrets and of asking for a token.
    pub async fn authorize(&self, resolved: &Resolved, place: HttpOrigin) -> Result<HttpOrigin, FeedError> {
        match &resolved.reference {
            Reference::Url(_) => Ok(place),
            Reference::Feed { feed, .. } => {
                let asked = self.ask(feed)?;
                (asked.config.kind.authorize)(&asked, place).await
            }
        }
    }

    /// A feed refused somebody who came with what [`Self::authorize`] gave: what was lent is not given out again.
    pub fn denied(&self, resolved: &Resolved) {
        if let Reference::Feed { feed, .. } = &resolved.reference {
            self.tokens.forget(feed);
            self.machine.forget();
        }
    }

    /// For how long the URLs of a package are signed, if they are.
    pub fn signed_for(&self, resolved: &Resolved) -> Option<Duration> {
        let Reference::Feed { feed, .. } = &resolved.reference else { return None };
        let asked = self.ask(feed).ok().filter(|asked| asked.config.kind.signs)?;
        Some(asked.signed_for())
    }

    fn feed(&self, name: &Name) -> Result<&FeedConfig, FeedError> {
        self.feeds.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.feeds.keys().map(Name::as_str).collect();
            let meant = nearest(name.as_str(), &known).map(str::to_owned);
            FeedError::UnknownFeed { feed: name.to_string(), meant, known: known.join(", ") }
        })
    }

    fn ask<'a>(&'a self, name: &'a Name) -> Result<Asked<'a>, FeedError> {
        Asked::new(name, self.feed(name)?, &self.reader, &self.tokens, &self.machine)
    }
}
