//! NuGet v3 feeds: service index, `PackageBaseAddress/3.0.0` (the "flat container"), and the published SHA-512.
//!
//! Protocol: <https://learn.microsoft.com/nuget/api/overview>, resources "Package Content" and "Package metadata". Ids are
//! case-insensitive; versions are normalised as NuGet does, so that `4.2`, `4.2.0` and `4.2.0.0+build` are one.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use shoal_proto::limits::{FEED_DOCUMENT_BYTES_MAX, SUGGESTIONS_MAX};
use shoal_proto::origin::shown_url;
use shoal_proto::rollout::nearest::nearest;

use super::error::Blame;
use super::http::{escaped_path, what};
use super::{Asked, FeedError, Place, Reference, Resolved};

const PACKAGES: &[&str] = &["PackageBaseAddress/3.0.0"];
/// The registrations that are not gzip whatever was asked for, which the origin reader refuses.
const REGISTRATIONS: &[&str] =
    &["RegistrationsBaseUrl/3.0.0-rc", "RegistrationsBaseUrl/3.0.0-beta", "RegistrationsBaseUrl"];
const ID_LEN_MAX: usize = 100;

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
    /// The URL of the first of `kinds` that the feed has, ending with `/`.
    fn resource(&self, kinds: &[&str]) -> Option<String> {
        let has = |resource: &&Resource, kind: &str| match &resource.kind {
            OneOrMore::One(one) => one == kind,
            OneOrMore::More(more) => more.iter().any(|one| one == kind),
        };
        let found = kinds.iter().find_map(|kind| self.resources.iter().find(|resource| has(resource, kind)));
        found.map(|resource| format!("{}/", resource.url.trim_end_matches('/')))
    }
}

impl Asked<'_> {
    /// Resolves a package.
    pub(super) async fn package(
        &self,
        reference: &Reference,
        id: &str,
        version: Option<&str>,
    ) -> Result<Resolved, FeedError> {
        let impossible =
            |problem| FeedError::Impossible { feed: self.name.to_string(), what: what(id, version), problem };
        let lower = lower_id(id).map_err(impossible)?;
        let normal = version.map(normal_version).transpose().map_err(impossible)?;
        let (label, what) = (self.label(), what(id, version));
        let blame = self.blame(&label, &what);

        let index = self.service_index(&self.remote.url, blame).await?;
        let base = self.package_base(&index, &self.remote.url)?;
        let versions: Versions = self.document(&format!("{base}{lower}/index.json"), blame).await?;
        let normal = match normal {
            Some(normal) if versions.versions.iter().any(|known| known.eq_ignore_ascii_case(&normal)) => normal,
            Some(_) => return Err(self.no_version(id, version.unwrap_or_default(), &versions.versions)),
            None => return Err(impossible(format!("a `version` is needed; {}", last_ones(&versions.versions)))),
        };
        let path = format!("{lower}/{normal}/{lower}.{normal}.nupkg");
        let origin = self.probe(format!("{base}{path}"), id, version).await?;
        let mirrors = self.mirrors(&origin, self.mirror_urls(&path, blame).await).await;
        let sha512 = self.published_hash(&index, &lower, &normal, blame).await;
        Ok(Resolved {
            reference: reference.clone(),
            description: reference.description(),
            lineage: format!("{} {lower}", self.name),
            place: Place::Http { origin, mirrors },
            sha512,
        })
    }

    async fn service_index(&self, url: &str, blame: Blame<'_>) -> Result<ServiceIndex, FeedError> {
        match self.document(url, blame).await {
            // The index is not the package: that it is missing says nothing about the id.
            Err(FeedError::NoPackage { .. }) => Err(self.bad(url, "there is no service index: check the feed's `url`")),
            other => other,
        }
    }

    fn package_base(&self, index: &ServiceIndex, url: &str) -> Result<String, FeedError> {
        let base = index.resource(PACKAGES).filter(|base| super::check_url(base).is_ok());
        base.ok_or_else(|| {
            self.bad(url, "it has no PackageBaseAddress/3.0.0, without which packages cannot be downloaded")
        })
    }

    /// Where each mirror has the package. One whose index cannot be read from here is left out: without it, nobody knows.
    async fn mirror_urls(&self, path: &str, blame: Blame<'_>) -> Vec<(&crate::config::Mirror, String)> {
        let mut urls = Vec::new();
        for mirror in &self.remote.mirrors {
            let base =
                self.service_index(&mirror.url, blame).await.and_then(|index| self.package_base(&index, &mirror.url));
            match base {
                Ok(base) => urls.push((mirror, format!("{base}{path}"))),
                Err(error) => {
                    tracing::warn!(feed = %self.name, mirror = shown_url(&mirror.url), %error, "mirror not used")
                }
            }
        }
        urls
    }

    /// The package's SHA-512 in base64, if the feed publishes it; many do not.
    async fn published_hash(&self, index: &ServiceIndex, id: &str, version: &str, blame: Blame<'_>) -> Option<String> {
        let base = index.resource(REGISTRATIONS)?;
        let leaf: Leaf = self.optional(&format!("{base}{id}/{version}.json"), blame).await?;
        let entry = match leaf.catalog_entry {
            CatalogEntry::Here(entry) => entry,
            CatalogEntry::Url(url) => self.optional(&url, blame).await?,
        };
        entry
            .package_hash
            .filter(|_| entry.package_hash_algorithm.is_some_and(|name| name.eq_ignore_ascii_case("SHA512")))
    }

    async fn optional<T: DeserializeOwned>(&self, url: &str, blame: Blame<'_>) -> Option<T> {
        let document = self.document(url, blame).await;
        document.inspect_err(|error| tracing::debug!(feed = %self.name, %error, "no published hash")).ok()
    }

    async fn document<T: DeserializeOwned>(&self, url: &str, blame: Blame<'_>) -> Result<T, FeedError> {
        let document = self.reader.document(url, &self.headers(url), FEED_DOCUMENT_BYTES_MAX).await;
        let document = document.map_err(|error| blame.error(error))?;
        serde_json::from_slice(&document).map_err(|error| self.bad(url, &error.to_string()))
    }

    fn bad(&self, url: &str, problem: &str) -> FeedError {
        FeedError::Document { feed: self.name.to_string(), url: shown_url(url), problem: problem.to_owned() }
    }

    fn no_version(&self, id: &str, version: &str, known: &[String]) -> FeedError {
        let words: Vec<&str> = known.iter().map(String::as_str).collect();
        let hint = match nearest(version, &words) {
            Some(meant) => format!("did you mean {meant}? {}", last_ones(known)),
            None => last_ones(known),
        };
        FeedError::NoVersion { feed: self.name.to_string(), id: id.to_owned(), version: version.to_owned(), hint }
    }
}

/// The last versions; a feed lists them in ascending order.
fn last_ones(known: &[String]) -> String {
    match known {
        [] => "it has none".to_owned(),
        known => format!("its last versions are {}", known[known.len().saturating_sub(SUGGESTIONS_MAX)..].join(", ")),
    }
}

/// A package's id as the flat container spells it.
fn lower_id(id: &str) -> Result<String, String> {
    let well_formed = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_');
    if id.chars().count() > ID_LEN_MAX || !id.split(['.', '-']).all(well_formed) {
        return Err(format!("`{id}` is no NuGet id: letters and digits are wanted, with single `.` or `-` between"));
    }
    escaped_path(&id.to_lowercase())
}

/// A version as NuGet normalises it: three numbers or four, no leading zeros, no fourth part of 0, no build metadata; in
/// lower case, as the flat container spells it.
fn normal_version(version: &str) -> Result<String, String> {
    let wrong = || format!("`{version}` is no NuGet version: write for instance `4.2.1` or `4.2.1-beta.2`");
    let plain = version.trim().split('+').next().unwrap_or_default();
    let (numbers, label) = plain.split_once('-').map_or((plain, None), |(numbers, label)| (numbers, Some(label)));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parse = |part: &str| part.parse::<u32>().ok().filter(|_| digits(part)).ok_or_else(wrong);
    let mut parts = numbers.split('.').map(parse).collect::<Result<Vec<_>, _>>()?;
    if parts.len() > 4 {
        return Err(wrong());
    }
    if parts.len() == 4 && parts[3] == 0 {
        parts.pop();
    }
    parts.resize(parts.len().max(3), 0);
    let mut normal = parts.iter().map(u32::to_string).collect::<Vec<_>>().join(".");
    if let Some(label) = label {
        let well_formed =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !label.split('.').all(well_formed) {
            return Err(wrong());
        }
        normal += &format!("-{}", label.to_ascii_lowercase());
    }
    Ok(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_normalised_as_nuget_does() {
        let table = [
            ("4.2.1", "4.2.1"),
            ("4.2", "4.2.0"),
            ("4", "4.0.0"),
            ("4.2.1.0", "4.2.1"),
            ("4.2.1.5", "4.2.1.5"),
            ("04.002.1", "4.2.1"),
            ("1.0.0-Beta.2", "1.0.0-beta.2"),
            ("1.0.0-RC1-x+sha.5114f85", "1.0.0-rc1-x"),
            ("1.0+build", "1.0.0"),
            ("1.0.0.0-a", "1.0.0-a"),
        ];
        for (version, wanted) in table {
            assert_eq!(normal_version(version).as_deref(), Ok(wanted), "{version}");
        }
        for bad in
            ["", "v1", "1.", "1..2", "1.2.3.4.5", "1.0-", "1.0-a..b", "1.0-a/b", "../1", "+1", "4294967296", "1.0-é"]
        {
            assert!(normal_version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_are_lower_case_and_no_paths() {
        assert_eq!(lower_id("Acme.Web-Core_2").as_deref(), Ok("acme.web-core_2"));
        for bad in ["", "..", "a..b", "a/b", ".a", "a.", "a b", "a?b", &"x".repeat(101)] {
            assert!(lower_id(bad).is_err(), "{bad}");
        }
    }
}
