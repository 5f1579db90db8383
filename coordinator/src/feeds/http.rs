//! Files on an HTTP server: a feed's URL with `{id}` and `{version}` in it, a folder's URL that ends with `/`, the URL of
//! one file, or a URL that a deployment file names itself.
//!
//! Ids and versions become parts of a path and nothing else: whatever is in them is escaped, and `..` is refused.

use std::time::Duration;

use futures::future::join_all;
use shoal_node::origin::{OriginError, OriginReader};
use shoal_proto::origin::{HttpOrigin, Metadata, shown_url};

use super::error::Blame;
use super::{Asked, FeedError, Place, Reference, Resolved, SiteMirror, check_url};
use crate::config::Mirror;

/// How long a mirror is waited for. It may be out of the coordinator's reach and fine for its site.
const MIRROR_WAIT: Duration = Duration::from_secs(5);

/// Resolves a URL of a deployment file.
pub(super) async fn resolve_url(reader: &OriginReader, url: &str) -> Result<Resolved, FeedError> {
    let reference = Reference::Url(url.to_owned());
    let what = reference.description();
    let url = check_url(url).map_err(|problem| FeedError::Reference { package: what.clone(), problem })?;
    let host = reqwest::Url::parse(&url).ok().and_then(|url| url.host_str().map(str::to_owned));
    let server = format!("server `{}`", host.unwrap_or_default());
    let unauthorized = "a package behind a password must come from a feed with `username` and `password_file`";
    let blame = Blame { feed: &server, what: &what, unauthorized };
    let said = reader.probe(&url, &[]).await.map_err(|error| blame.error(error))?;
    let origin = origin(blame, url, said)?;
    Ok(Resolved {
        lineage: lineage_of_url(&what),
        description: what,
        reference,
        place: Place::Http { origin, mirrors: Vec::new() },
        sha512: None,
    })
}

/// The URL without the digits that tell versions apart, so that versions of a file are of one lineage.
fn lineage_of_url(shown: &str) -> String {
    let mut lineage = String::with_capacity(shown.len());
    for letter in shown.chars().map(|letter| if letter.is_ascii_digit() { '0' } else { letter }) {
        if letter != '0' || !lineage.ends_with('0') {
            lineage.push(letter);
        }
    }
    lineage
}

/// The origin that a server's answer makes.
fn origin(blame: Blame<'_>, url: String, said: Metadata) -> Result<HttpOrigin, FeedError> {
    let (feed, what) = (blame.feed.to_owned(), blame.what.to_owned());
    let Some(size) = said.size else { return Err(FeedError::NoSize { feed, what }) };
    let origin = HttpOrigin { url, headers: Vec::new(), size, etag: said.etag, last_modified: said.last_modified };
    match origin.check() {
        Ok(()) => Ok(origin),
        Err(source) => Err(FeedError::NoOrigin { feed, what, source }),
    }
}

impl Asked<'_> {
    /// Resolves a file.
    pub(super) async fn file(
        &self,
        reference: &Reference,
        id: &str,
        version: Option<&str>,
    ) -> Result<Resolved, FeedError> {
        let url = |base: &str| {
            file_url(base, id, version).map_err(|problem| FeedError::Impossible {
                feed: self.name.to_string(),
                what: what(id, version),
                problem,
            })
        };
        let origin = self.probe(url(&self.remote.url)?, id, version).await?;
        let mirrors = self.remote.mirrors.iter().map(|mirror| Ok((mirror, url(&mirror.url)?)));
        let mirrors = self.mirrors(&origin, mirrors.collect::<Result<_, FeedError>>()?).await;
        Ok(Resolved {
            reference: reference.clone(),
            description: reference.description(),
            lineage: format!("{} {}", self.name, lineage_of_url(id)),
            place: Place::Http { origin, mirrors },
            sha512: None,
        })
    }

    /// Asks for the file at `url`, which holds the package `id`.
    pub(super) async fn probe(&self, url: String, id: &str, version: Option<&str>) -> Result<HttpOrigin, FeedError> {
        let (feed, what) = (self.label(), what(id, version));
        let said = self.reader.probe(&url, &self.headers(&url)).await;
        let blame = self.blame(&feed, &what);
        let said = said.map_err(|error| blame.error(error))?;
        origin(blame, url, said)
    }

    pub(super) fn label(&self) -> String {
        format!("feed `{}`", self.name)
    }

    pub(super) fn blame<'a>(&self, feed: &'a str, what: &'a str) -> Blame<'a> {
        let unauthorized = match self.authorization {
            Some(_) => "check `username` and `password_file`",
            None => "it wants a `username` and a `password_file`",
        };
        Blame { feed, what, unauthorized }
    }

    /// The mirrors that have the package. One that cannot be asked from here is believed to, since its site may reach it
    /// and every byte is verified; one that has other bytes is left out.
    pub(super) async fn mirrors(&self, origin: &HttpOrigin, mirrors: Vec<(&Mirror, String)>) -> Vec<SiteMirror> {
        let asked = mirrors.into_iter().map(|(mirror, url)| self.mirror(origin, mirror, url));
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn mirror(&self, origin: &HttpOrigin, mirror: &Mirror, url: String) -> Option<SiteMirror> {
        let headers = self.headers(&url);
        let said = match tokio::time::timeout(MIRROR_WAIT, self.reader.probe(&url, &headers)).await {
            Ok(Ok(said)) => said,
            Ok(Err(error @ (OriginError::NotFound { .. } | OriginError::Unauthorized { .. }))) => {
                tracing::warn!(feed = %self.name, %error, "a mirror lacks a package: not used for it");
                return None;
            }
            Ok(Err(_)) | Err(_) => {
                tracing::info!(feed = %self.name, mirror = shown_url(&url), "a mirror cannot be asked from here");
                Metadata::default()
            }
        };
        if let Some(there) = said.size.filter(|size| *size != origin.size) {
            let (size, url) = (origin.size, shown_url(&url));
            tracing::warn!(feed = %self.name, mirror = url, size, there, "a mirror has other bytes: not used");
            return None;
        }
        let Metadata { etag, last_modified, .. } = said;
        let origin = HttpOrigin { url, headers: Vec::new(), size: origin.size, etag, last_modified };
        origin.check().ok().map(|()| SiteMirror { sites: mirror.sites.clone(), origin })
    }
}

/// A package as messages call it.
pub(super) fn what(id: &str, version: Option<&str>) -> String {
    version.map_or_else(|| id.to_owned(), |version| format!("{id} {version}"))
}

/// The URL of a file below a feed's.
fn file_url(base: &str, id: &str, version: Option<&str>) -> Result<String, String> {
    let path = escaped_path(id)?;
    if base.contains("{version}") && version.is_none() {
        return Err("the feed's URL has `{version}` in it, so that a `version` is needed".to_owned());
    }
    if base.contains("{id}") || base.contains("{version}") {
        let version = version.map(escaped_path).transpose()?.unwrap_or_default();
        return Ok(base.replace("{id}", &path).replace("{version}", &version));
    }
    if base.ends_with('/') {
        return Ok(format!("{base}{path}"));
    }
    let file = base.split(['?', '#']).next().and_then(|bare| bare.rsplit('/').next()).unwrap_or_default();
    if file == path {
        return Ok(base.to_owned());
    }
    Err(format!("its URL is that of one file, `{file}`; end it with `/` or put `{{id}}` in it for more"))
}

/// `text` as a path: letters that mean something in a URL are escaped (RFC 3986, 2.3), but `/` stays.
pub(super) fn escaped_path(text: &str) -> Result<String, String> {
    if text.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(format!("`{text}` is no path below it"));
    }
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    Ok(text.bytes().map(escape).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_files() {
        let table = [
            ("http://h/{id}-{version}.zip", "web", Some("1.2"), Ok("http://h/web-1.2.zip")),
            ("http://h/{id}/{version}/{id}.zip", "web", Some("1"), Ok("http://h/web/1/web.zip")),
            ("http://h/{version}/x.zip", "x", None, Err("`version` is needed")),
            ("http://h/files/", "a/b c?#%.zip", None, Ok("http://h/files/a/b%20c%3F%23%25.zip")),
            ("http://h/files/", "../secret", None, Err("no path below")),
            ("http://h/{id}", "a/../../b", None, Err("no path below")),
            ("http://h/{id}-{version}", "a", Some(".."), Err("no path below")),
            ("http://h/one.zip", "one.zip", None, Ok("http://h/one.zip")),
            ("http://h/one.zip?token=x", "one.zip", Some("7"), Ok("http://h/one.zip?token=x")),
            ("http://h/one.zip", "two.zip", None, Err("one file, `one.zip`")),
        ];
        for (base, id, version, wanted) in table {
            match (file_url(base, id, version), wanted) {
                (Ok(url), Ok(wanted)) => assert_eq!(url, wanted),
                (Err(error), Err(wanted)) => assert!(error.contains(wanted), "{error}"),
                (found, _) => panic!("{base} {id}: {found:?}"),
            }
        }
    }

    #[test]
    fn versions_of_a_url_are_of_one_lineage() {
        let lineage = |url| lineage_of_url(url);
        assert_eq!(lineage("https://h/web-1.9.12.zip"), lineage("https://h/web-2.10.0.zip"));
        assert_ne!(lineage("https://h/web-1.zip"), lineage("https://h/api-1.zip"));
    }
}
