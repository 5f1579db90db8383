//! Version 3: a service index that names resources. Packages and their versions are in the flat container
//! (`PackageBaseAddress/3.0.0`); which versions are listed, and a package's SHA-512, in the registrations.
//!
//! Protocol: <https://learn.microsoft.com/nuget/api/overview>. Several resources of one type are equivalents: where one
//! cannot be reached, the next is asked.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use shoal_node::origin::OriginError;
use shoal_proto::origin::HttpOrigin;

use super::super::asked::below;
use super::super::{Digest, FeedError, Found, Place, SiteMirror};
use super::Sought;
use super::version::{Range, Version};
use crate::config::check_url;
use crate::config::feed::Mirror;

/// Flat containers.
const PACKAGES: &[&str] = &["PackageBaseAddress/3.0.0"];
/// Registrations, those first that know of SemVer 2 versions.
const REGISTRATIONS: &[&str] = &[
    "RegistrationsBaseUrl/3.6.0",
    "RegistrationsBaseUrl/Versioned",
    "RegistrationsBaseUrl/3.4.0",
    "RegistrationsBaseUrl/3.0.0-rc",
    "RegistrationsBaseUrl/3.0.0-beta",
    "RegistrationsBaseUrl",
];

/// A feed's service index.
#[derive(Deserialize)]
struct ServiceIndex {
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(rename = "@id")]
    url: String,
    #[serde(rename = "@type")]
    kind: OneOrMore,
}

/// JSON-LD allows both.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Deserialize)]
struct Versions {
    versions: Vec<String>,
}

/// The registrations of a package: pages of versions in ascending order.
#[derive(Deserialize)]
struct Registrations {
    items: Vec<Page>,
}

#[derive(Deserialize)]
struct Page {
    #[serde(rename = "@id", default)]
    url: String,
    /// Absent where the page is a document of its own.
    items: Option<Vec<Registration>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registration {
    catalog_entry: Listing,
}

#[derive(Deserialize)]
struct Listing {
    version: String,
    /// A feed that does not say lists everything.
    listed: Option<bool>,
}

/// The registration of one version.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Leaf {
    catalog_entry: CatalogEntry,
}

/// Some feeds put it here, others its address.
#[derive(Deserialize)]
#[serde(untagged)]
enum CatalogEntry {
    Url(String),
    Here(PublishedHash),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PublishedHash {
    package_hash: Option<String>,
    package_hash_algorithm: Option<String>,
}

impl ServiceIndex {
    /// The URLs of the first of `kinds` that the feed has, ending with `/`.
    fn resources(&self, kinds: &[&str]) -> Vec<String> {
        let has = |resource: &&Resource, kind: &str| match &resource.kind {
            OneOrMore::One(one) => one == kind,
            OneOrMore::More(more) => more.iter().any(|one| one == kind),
        };
        let of = |kind: &&str| {
            let urls = self.resources.iter().filter(|resource| has(resource, kind)).map(|resource| &resource.url);
            let urls: Vec<_> = urls.filter(|url| check_url(url).is_ok()).collect();
            urls.into_iter().map(|url| below(url, "")).collect::<Vec<_>>()
        };
        kinds.iter().map(of).find(|urls| !urls.is_empty()).unwrap_or_default()
    }
}

impl Sought<'_> {
    pub(super) async fn resolve_v3(&self) -> Result<Found, FeedError> {
        let url = &self.asked.remote().url;
        let index = self.service_index(url).await?;
        let bases = self.packages(&index, url)?;
        let registrations = index.resources(REGISTRATIONS);
        let known = self.versions(&bases).await?;
        let version = match &self.range {
            Some(Range::Exactly(_)) | None => self.choose(&known)?.clone(),
            Some(range) => match self.highest_listed(&registrations, range, &known).await? {
                Some(version) => version,
                // Without registrations, nothing says what is unlisted.
                _ if registrations.is_empty() => self.choose(&known)?.clone(),
                _ => return Err(self.none_listed()),
            },
        };
        let path = format!("{0}/{version}/{0}.{version}.nupkg", self.lower);
        let (origin, equivalents) = self.first_that_answers(&bases, &path).await?;
        let mirrors = self.mirrors(&origin, &path).await;
        let digests = self.published_hash(&registrations, &version).await.into_iter().collect();
        Ok(self.found(&version, Place::Http { origin, mirrors, equivalents }, digests))
    }

    async fn service_index(&self, url: &str) -> Result<ServiceIndex, FeedError> {
        match self.asked.json(url, self.wanted).await {
            // The index is not the package: that it is missing says nothing about the id.
            Err(FeedError::NoPackage { .. }) => {
                Err(self.asked.bad(url, "there is no service index: check the feed's `url`"))
            }
            other => other,
        }
    }

    fn packages(&self, index: &ServiceIndex, url: &str) -> Result<Vec<String>, FeedError> {
        let bases = index.resources(PACKAGES);
        let problem = "it has no PackageBaseAddress/3.0.0, without which packages cannot be downloaded";
        if bases.is_empty() { Err(self.asked.bad(url, problem)) } else { Ok(bases) }
    }

    /// All versions, listed or not. What is no version is left out.
    async fn versions(&self, bases: &[String]) -> Result<Vec<Version>, FeedError> {
        let path = format!("{}/index.json", self.lower);
        let found: Versions = self.json_of_any(bases, &path).await?;
        Ok(found.versions.iter().filter_map(|text| Version::parse(text).ok()).collect())
    }

    /// A document of the first of `bases` that can be reached.
    async fn json_of_any<T: DeserializeOwned>(&self, bases: &[String], path: &str) -> Result<T, FeedError> {
        let mut failed = None;
        for base in bases {
            match self.asked.json(&format!("{base}{path}"), self.wanted).await {
                Err(error) if is_passing(&error) => failed = failed.or(Some(error)),
                other => return other,
            }
        }
        Err(failed.unwrap_or_else(|| self.asked.no_package(self.wanted, String::new())))
    }

    /// The package at the first of `bases` that can be reached, and at the others.
    async fn first_that_answers(
        &self,
        bases: &[String],
        path: &str,
    ) -> Result<(HttpOrigin, Vec<HttpOrigin>), FeedError> {
        let mut failed = None;
        for base in bases {
            match self.asked.probe(format!("{base}{path}"), self.wanted).await {
                Ok(origin) => {
                    let others = bases.iter().filter(|other| *other != base).map(|other| format!("{other}{path}"));
                    // Their validators are their own: bytes are known by their hashes.
                    let other = |url| HttpOrigin { url, etag: None, last_modified: None, ..origin.clone() };
                    let others = others.map(other).filter(|origin| origin.check().is_ok()).collect();
                    return Ok((origin, others));
                }
                Err(error) if is_passing(&error) => failed = failed.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or_else(|| self.asked.no_package(self.wanted, String::new())))
    }

    /// The highest of the `known` versions that is meant and listed; none without registrations. Pages are read from the last one.
    async fn highest_listed(
        &self,
        bases: &[String],
        range: &Range,
        known: &[Version],
    ) -> Result<Option<Version>, FeedError> {
        if bases.is_empty() {
            return Ok(None);
        }
        let index: Registrations = self.json_of_any(bases, &format!("{}/index.json", self.lower)).await?;
        for page in index.items.into_iter().rev() {
            let items = match page.items {
                Some(items) => items,
                None => self.asked.json::<Page>(&page.url, self.wanted).await?.items.unwrap_or_default(),
            };
            let listed = items.iter().filter(|item| item.catalog_entry.listed != Some(false));
            let versions = listed.filter_map(|item| Version::parse(&item.catalog_entry.version).ok());
            // What was published a moment ago is listed before it can be had.
            let versions: Vec<_> = versions.filter(|version| known.contains(version)).collect();
            if let Some(best) = range.best(&versions) {
                return Ok(Some(best.clone()));
            }
        }
        Ok(None)
    }

    fn none_listed(&self) -> FeedError {
        self.asked.no_version(self.wanted, "no version that is listed fits".to_owned())
    }

    /// Where mirrors have the package. One whose index cannot be read from here is left out: without it, nobody knows.
    async fn mirrors(&self, origin: &HttpOrigin, path: &str) -> Vec<SiteMirror> {
        let mut urls: Vec<(&Mirror, String)> = Vec::new();
        for mirror in &self.asked.remote().mirrors {
            let bases = self.service_index(&mirror.url).await.and_then(|index| self.packages(&index, &mirror.url));
            match bases {
                Ok(bases) => urls.extend(bases.into_iter().map(|base| (mirror, format!("{base}{path}")))),
                Err(error) => self.asked.leave_out(mirror, &mirror.url, error.to_string()),
            }
        }
        self.asked.mirrors(origin, urls).await
    }

    /// The package's SHA-512, if the feed publishes it; many do not.
    async fn published_hash(&self, registrations: &[String], version: &Version) -> Option<Digest> {
        let leaf: Result<Leaf, _> = self.json_of_any(registrations, &format!("{}/{version}.json", self.lower)).await;
        let leaf = self.optional(leaf)?;
        let entry = match leaf.catalog_entry {
            CatalogEntry::Here(entry) => entry,
            CatalogEntry::Url(url) => self.optional(self.asked.json(&url, self.wanted).await)?,
        };
        Digest::of_base64(&entry.package_hash_algorithm?, &entry.package_hash?)
    }

    fn optional<T>(&self, document: Result<T, FeedError>) -> Option<T> {
        document.inspect_err(|error| tracing::debug!(feed = %self.asked.name, %error, "no published hash")).ok()
    }
}

/// Whether an equivalent of what failed may answer.
fn is_passing(error: &FeedError) -> bool {
    match error {
        FeedError::Origin { source, .. } => source.is_passing() || matches!(**source, OriginError::BadAnswer { .. }),
        _ => false,
    }
}
