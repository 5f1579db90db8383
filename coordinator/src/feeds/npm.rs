//! npm registries: the tarball of a version, or of a tag such as `latest`, which is pinned to the version that it means.
//! What the registry says as `integrity` is checked, or the older `shasum`.
//!
//! Protocol: <https://github.com/npm/registry/blob/main/docs/REGISTRY-API.md>, "package version".

use serde::Deserialize;
use serde_json::from_slice;

use super::asked::Asked;
use super::kind::Kind;
use super::{Digest, FeedError, Found, Place, Wanted};

pub(super) const KIND: Kind =
    Kind { name: "npm", resolve: |asked, wanted| Box::pin(resolve(asked, wanted)), ..Kind::COMMON };

#[derive(Deserialize)]
struct Version {
    version: String,
    dist: Dist,
}

#[derive(Deserialize)]
struct Dist {
    tarball: String,
    integrity: Option<String>,
    shasum: Option<String>,
}

async fn resolve(asked: &Asked<'_>, wanted: &Wanted<'_>) -> Result<Found, FeedError> {
    let name = escaped_name(wanted.id).map_err(|problem| asked.impossible(wanted, problem))?;
    let Some(version) = wanted.version else {
        return Err(asked.impossible(wanted, "a version or a tag is needed as `version`, such as `latest`".to_owned()));
    };
    if !version.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-+_".contains(&byte)) {
        return Err(asked.impossible(wanted, format!("`{version}` is neither a version nor a tag of npm")));
    }
    let url = format!("{}{name}/{version}", asked.base());
    let document = asked.document(&url, Some("application/json"), wanted).await?;
    let found: Version = from_slice(&document.bytes).map_err(|error| asked.bad(&url, &error.to_string()))?;
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
    fn names_are_one_part_of_a_path() {
        assert_eq!(escaped_name("left-pad").as_deref(), Ok("left-pad"));
        assert_eq!(escaped_name("@acme/web").as_deref(), Ok("@acme%2fweb"));
        for bad in ["", "a/b", "@acme", "@/a", "@a/b/c", "..", "a?b", "@../x", "a b"] {
            assert!(escaped_name(bad).is_err(), "{bad}");
        }
    }
}
