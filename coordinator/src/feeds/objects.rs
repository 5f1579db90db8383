//! What the feeds of object stores have in common: `url` is that of a bucket or container, `id` a key below it, in which
//! `{version}` stands for the version.
//!
//! Nodes get URLs that are signed when their lease is granted, and never the key to sign more; a URL that ends under way is
//! followed by another lease with another. Where a store keeps versions of an object, the one that was resolved is read
//! whatever comes after it. The ETag tells that an object is unchanged, and is never taken for a hash of its bytes: of what
//! was uploaded in parts it is none.

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use shoal_node::origin::Target;
use shoal_proto::origin::HttpOrigin;

use super::asked::{Asked, below};
use super::http::{escaped, escaped_path, lineage_of_url};
use super::kind::Kind;
use super::{FeedError, Found, Place, SiteMirror, Wanted};

/// What all kinds of object stores have in common.
pub(super) const STORE: Kind = Kind { signs: true, ..Kind::COMMON };

/// How a store speaks of versions of an object.
pub(super) struct Versions {
    /// The header of an answer that names the one that it holds.
    pub(super) header: &'static str,
    /// The parameter of a URL that asks for one.
    pub(super) query: &'static str,
}

/// A URL with a signature by the feed's key, if it has one, for as long as its configuration says. It waits only where a cloud has
/// to be asked for a key, or to sign.
pub(super) type Sign = for<'a> fn(&'a Asked<'a>, &'a str) -> BoxFuture<'a, Result<String, FeedError>>;

pub(super) async fn resolve(
    asked: &Asked<'_>,
    wanted: &Wanted<'_>,
    versions: &Versions,
    sign: Sign,
) -> Result<Found, FeedError> {
    let key = match wanted.version {
        Some(version) => wanted.id.replace("{version}", version),
        None => wanted.id.to_owned(),
    };
    let path = escaped_path(&key).map_err(|problem| asked.impossible(wanted, problem))?;
    let mut url = below(&asked.remote().url, &path);
    let signed = sign(asked, &url).await?;
    let target = Target { url: &signed, headers: &[], ca_pem: asked.ca_pem(&url) };
    let (said, headers) = asked.reader.probe_more(target).await.map_err(|error| asked.blamed(error, wanted))?;
    if let Some(version) = headers.find(versions.header).filter(|version| *version != "null") {
        url += &format!("?{}={}", versions.query, escaped(version));
    }
    let origin = asked.origin(url, said, wanted)?;
    // A mirror has versions of its own, under other names, and perhaps keys of its own.
    let bare = HttpOrigin { etag: None, last_modified: None, ..origin.clone() };
    let mirrors = asked.remote().mirrors.iter().map(|mirror| SiteMirror {
        sites: mirror.sites.clone(),
        origin: HttpOrigin { url: below(&mirror.url, &path), ..bare.clone() },
    });
    let mirrors = mirrors.collect();
    let place = Place::Http { origin, mirrors, equivalents: Vec::new() };
    Ok(Found { version: None, lineage: lineage_of_url(wanted.id), place, digests: Vec::new() })
}

pub(super) async fn authorize(asked: &Asked<'_>, origin: HttpOrigin, sign: Sign) -> Result<HttpOrigin, FeedError> {
    let url = sign(asked, &origin.url).await?;
    Ok(HttpOrigin { url, ..asked.with_ca(origin) })
}

/// The moment in `later_s` seconds, in a format of `strftime`.
pub(super) fn moment(format: &str, later_s: u64) -> String {
    let later = SignedDuration::from_secs(i64::try_from(later_s).unwrap_or(i64::MAX));
    Timestamp::now().saturating_add(later).unwrap_or(Timestamp::MAX).strftime(format).to_string()
}
