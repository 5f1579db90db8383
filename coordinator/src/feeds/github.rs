//! Releases of GitHub repositories: the asset `file` (or the only one) of the release with the tag `version`. `url` is that
//! of the API, `id` is `owner/repository`; assets are read by the API too, so that private ones work with a token.
//!
//! Protocol: <https://docs.github.com/rest/releases>. The `digest` of an asset is checked where there is one.

use serde::Deserialize;
use shoal_proto::limits::SUGGESTIONS_MAX;

use super::asked::Asked;
use super::http::{escaped_path, lineage_of_url};
use super::kind::Kind;
use super::{Digest, FeedError, Found, Place, Wanted};

pub(super) const KIND: Kind = Kind {
    name: "github",
    files: true,
    mirrors: false,
    resolve: |asked, wanted| Box::pin(resolve(asked, wanted)),
    ..Kind::COMMON
};

#[derive(Deserialize)]
struct Release {
    tag_name: String,
    assets: Vec<Asset>,
}

#[derive(Deserialize)]
struct Asset {
    name: String,
    url: String,
    size: u64,
    digest: Option<String>,
}

async fn resolve(asked: &Asked<'_>, wanted: &Wanted<'_>) -> Result<Found, FeedError> {
    let impossible = |problem: String| asked.impossible(wanted, problem);
    let repository = escaped_path(wanted.id).map_err(impossible)?;
    if repository.split('/').count() != 2 {
        return Err(impossible(format!("`{}` is no repository: write for instance `acme/web`", wanted.id)));
    }
    let tag = wanted.version.ok_or_else(|| impossible("the release's tag is needed as `version`".to_owned()))?;
    let tag = escaped_path(tag).map_err(impossible)?;
    let url = format!("{}repos/{repository}/releases/tags/{tag}", asked.base());
    let document = asked.document(&url, Some("application/vnd.github+json"), wanted).await?;
    let release: Release =
        serde_json::from_slice(&document.bytes).map_err(|error| asked.bad(&url, &error.to_string()))?;
    let asset = match (wanted.file, release.assets.as_slice()) {
        (None, [only]) => Some(only),
        (None, _) => None,
        (Some(file), assets) => assets.iter().find(|asset| asset.name == file),
    };
    let asset = asset.ok_or_else(|| {
        let names: Vec<&str> = release.assets.iter().take(SUGGESTIONS_MAX).map(|asset| asset.name.as_str()).collect();
        impossible(format!("`file` has to name one of the release's assets: `{}`", names.join("`, `")))
    })?;
    // Without this header the API tells of the asset instead of sending it.
    let raw = ("accept".to_owned(), "application/octet-stream".to_owned());
    let mut headers = asked.headers(&asset.url);
    headers.push(raw.clone());
    let said = asked.probe_with(&asset.url, &headers, wanted).await?;
    let mut origin = asked.origin(asset.url.clone(), said, wanted)?;
    if origin.size != asset.size {
        return Err(
            asked.bad(&url, &format!("{} has {} bytes there and {} where it is", asset.name, asset.size, origin.size))
        );
    }
    origin.headers = vec![raw];
    let digests = asset.digest.as_deref().and_then(Digest::of_oci).into_iter().collect();
    let place = Place::Http { origin, mirrors: Vec::new(), equivalents: Vec::new() };
    let lineage = format!("{} {}", wanted.id, lineage_of_url(&asset.name));
    Ok(Found { version: Some(release.tag_name), lineage, place, digests })
}
