//! npm registries: the tarball of a version, of the newest in a range such as `^1.2`, or of a tag such as `latest`; ranges and
//! tags are pinned to the version that they mean. What the registry says as `integrity` is checked, or the older `shasum`.
//!
//! Protocol: <https://github.com/npm/registry/blob/main/docs/REGISTRY-API.md>, "package version".

mod version;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::from_slice;
use shoal_proto::limits::SUGGESTIONS_MAX;

use super::asked::Asked;
use super::kind::Kind;
use super::{Digest, FeedError, Found, Place, Wanted};
use version::Range;

pub(super) const KIND: Kind =
    Kind { name: "npm", resolve: |asked, wanted| Box::pin(resolve(asked, wanted)), ..Kind::COMMON };

/// A document about all versions, in the short form that is made for installing.
const ALL_VERSIONS: &str = "application/vnd.npm.install-v1+json, application/json;q=0.5";

/// All versions of a package.
#[derive(Deserialize)]
struct Package {
    #[serde(default, rename = "dist-tags")]
    tags: BTreeMap<String, String>,
    versions: BTreeMap<String, Version>,
}

#[derive(Clone, Deserialize)]
struct Version {
    version: String,
    dist: Dist,
    /// Why it should not be used: mostly a text.
    #[serde(default)]
    deprecated: serde_json::Value,
}

impl Version {
    fn is_deprecated(&self) -> bool {
        !matches!(&self.deprecated, serde_json::Value::Null | serde_json::Value::Bool(false))
            && self.deprecated.as_str() != Some("")
    }
}

#[derive(Clone, Deserialize)]
struct Dist {
    tarball: String,
    integrity: Option<String>,
    shasum: Option<String>,
}

async fn resolve(asked: &Asked<'_>, wanted: &Wanted<'_>) -> Result<Found, FeedError> {
    let name = escaped_name(wanted.id).map_err(|problem| asked.impossible(wanted, problem))?;
    let Some(version) = wanted.version else {
        let problem = "a version, a range or a tag is needed as `version`, such as `^1.2` or `latest`";
        return Err(asked.impossible(wanted, problem.to_owned()));
    };
    let exact = version::Version::parse(version).is_some();
    let found = match Range::parse(version).filter(|_| !exact) {
        Some(range) => newest_of(asked, wanted, &name, &range).await?,
        None if version.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-+_".contains(&byte)) => {
            let url = format!("{}{name}/{version}", asked.base());
            let document = asked.document(&url, Some("application/json"), wanted).await?;
            from_slice(&document.bytes).map_err(|error| asked.bad(&url, &error.to_string()))?
        }
        None => {
            let problem = format!("`{version}` is neither a version nor a range nor a tag of npm");
            return Err(asked.impossible(wanted, problem));
        }
    };
    let Dist { tarball, integrity, shasum } = found.dist;
    let digest = integrity.as_deref().and_then(Digest::of_sri);
    let digest = digest.or_else(|| Digest::of_hex("sha1", shasum.as_deref()?));
    let origin = asked.probe(tarball, wanted).await?;
    let mirrors = match origin.url.clone().strip_prefix(&asked.base()) {
        Some(path) => asked.mirrors_below(&origin, path).await,
        None => Vec::new(),
    };
    let place = Place::Http { origin, mirrors, equivalents: Vec::new() };
    let digests = digest.into_iter().collect();
    Ok(Found { version: Some(found.version), lineage: wanted.id.to_owned(), place, digests })
}

/// The version that npm would install.
async fn newest_of(asked: &Asked<'_>, wanted: &Wanted<'_>, name: &str, range: &Range) -> Result<Version, FeedError> {
    let url = format!("{}{name}", asked.base());
    let document = asked.document(&url, Some(ALL_VERSIONS), wanted).await?;
    let package: Package = from_slice(&document.bytes).map_err(|error| asked.bad(&url, &error.to_string()))?;
    let chosen = choose(&package, range).cloned();
    chosen.ok_or_else(|| {
        let mut known: Vec<_> =
            package.versions.keys().filter_map(|text| Some((version::Version::parse(text)?, text))).collect();
        known.sort_unstable_by(|one, other| other.0.cmp(&one.0));
        let names: Vec<&str> = known.iter().take(SUGGESTIONS_MAX).map(|(_, text)| text.as_str()).collect();
        asked.no_version(wanted, format!("its newest versions are `{}`", names.join("`, `")))
    })
}

/// The tag `latest`, if it is in the range and not deprecated; else the highest version, one that is not deprecated first.
fn choose<'p>(package: &'p Package, range: &Range) -> Option<&'p Version> {
    let fits = |text: &str| version::Version::parse(text).filter(|version| range.has(version));
    let latest = package.tags.get("latest").filter(|text| fits(text).is_some());
    let latest = latest.and_then(|text| package.versions.get(text)).filter(|version| !version.is_deprecated());
    let fitting = package.versions.iter().filter_map(|(text, version)| Some((fits(text)?, version)));
    let highest = || fitting.max_by_key(|(number, version)| (!version.is_deprecated(), number.clone()));
    latest.or_else(|| highest().map(|(_, version)| version))
}

/// A package's name as one part of a path: the `/` behind a scope is escaped.
fn escaped_name(name: &str) -> Result<String, String> {
    let good = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
    };
    let scoped = name.strip_prefix('@').and_then(|scoped| scoped.split_once('/'));
    match scoped {
        Some((scope, name)) if good(scope) && good(name) => Ok(format!("@{scope}%2f{name}")),
        None if good(name) => Ok(name.to_owned()),
        _ => Err(format!("`{name}` is no name of npm: write for instance `left-pad` or `@acme/web`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_range_is_taken_what_npm_would_install() {
        let package = |latest: &str, deprecated: &[&str]| -> Package {
            let version = |version: &str| {
                let deprecated = if deprecated.contains(&version) { "too old" } else { "" };
                let dist = serde_json::json!({ "tarball": "http://h/x.tgz" });
                (version.to_owned(), serde_json::json!({ "version": version, "dist": dist, "deprecated": deprecated }))
            };
            let versions: serde_json::Map<_, _> =
                ["1.2.0", "1.10.0", "1.3.0", "2.0.0-rc.1"].map(version).into_iter().collect();
            let document = serde_json::json!({ "dist-tags": { "latest": latest }, "versions": versions });
            serde_json::from_value(document).unwrap()
        };
        let chosen = |range: &str, latest: &str, deprecated: &[&str]| {
            let package = package(latest, deprecated);
            choose(&package, &Range::parse(range).unwrap()).map(|version| version.version.clone())
        };
        let table: [(&str, &str, &[&str], Option<&str>); 6] = [
            ("^1.2", "1.10.0", &[], Some("1.10.0")),
            ("^1.2", "1.3.0", &[], Some("1.3.0")),
            ("^1.2", "2.0.0-rc.1", &[], Some("1.10.0")),
            ("^1.2", "1.10.0", &["1.10.0"], Some("1.3.0")),
            ("1.10", "1.10.0", &["1.10.0"], Some("1.10.0")),
            (">=3", "1.10.0", &[], None),
        ];
        for (range, latest, deprecated, wanted) in table {
            assert_eq!(chosen(range, latest, deprecated).as_deref(), wanted, "{range} {latest} {deprecated:?}");
        }
    }

    #[test]
    fn names_are_one_part_of_a_path() {
        assert_eq!(escaped_name("left-pad").as_deref(), Ok("left-pad"));
        assert_eq!(escaped_name("@acme/web").as_deref(), Ok("@acme%2fweb"));
        for bad in ["", "a/b", "@acme", "@/a", "@a/b/c", "..", "a?b", "@../x", "a b"] {
            assert!(escaped_name(bad).is_err(), "{bad}");
        }
    }
}
