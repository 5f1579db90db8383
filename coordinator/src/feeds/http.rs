//! Files on an HTTP server: a feed's URL with `{id}` and `{version}` in it, a folder's URL that ends with `/`, the URL of
//! one file, or a URL that a deployment file names itself.
//!
//! Ids and versions become parts of a path and nothing else: whatever is in them is escaped, and `..` is refused.

use shoal_node::origin::{OriginReader, Target};
use shoal_proto::origin::{HttpOrigin, Metadata};

use super::asked::Asked;
use super::error::Blame;
use super::kind::Kind;
use super::{FeedError, Found, Place, Reference, Resolved, Wanted};
use crate::config::check_url;

pub(super) const KIND: Kind = Kind {
    name: "http",
    check_url: |_| Ok(()),
    // A folder of files often has no page of its own, and a URL with `{id}` in it is none.
    door: |url| {
        reqwest::Url::parse(url).map_or_else(|_| url.to_owned(), |url| url.origin().ascii_serialization() + "/")
    },
    resolve: |asked, wanted| Box::pin(resolve(asked, wanted)),
    ..Kind::COMMON
};

/// Resolves a URL of a deployment file.
pub(super) async fn resolve_url(reader: &OriginReader, url: &str) -> Result<Resolved, FeedError> {
    let reference = Reference::Url(url.to_owned());
    let what = reference.description();
    let url = check_url(url).map_err(|problem| FeedError::Reference { package: what.clone(), problem })?;
    let host = reqwest::Url::parse(&url).ok().and_then(|url| url.host_str().map(str::to_owned));
    let server = format!("server `{}`", host.unwrap_or_default());
    let unauthorized = "a package behind a password must come from a feed with `username` and `password_file`";
    let blame = Blame { feed: &server, what: &what, unauthorized };
    let said = reader.probe(Target { url: &url, headers: &[], ca_pem: None }).await;
    let origin = blame.origin(url.clone(), said.map_err(|error| blame.error(error))?)?;
    Ok(Resolved {
        lineage: lineage_of_url(&what),
        description: what,
        reference,
        place: Place::Http { origin, mirrors: Vec::new(), equivalents: Vec::new() },
        digests: Vec::new(),
    })
}

/// The URL without the digits that tell versions apart, so that versions of a file are of one lineage.
pub(super) fn lineage_of_url(shown: &str) -> String {
    let mut lineage = String::with_capacity(shown.len());
    for letter in shown.chars().map(|letter| if letter.is_ascii_digit() { '0' } else { letter }) {
        if letter != '0' || !lineage.ends_with('0') {
            lineage.push(letter);
        }
    }
    lineage
}

impl Blame<'_> {
    /// The origin that a server's answer makes.
    pub(super) fn origin(self, url: String, said: Metadata) -> Result<HttpOrigin, FeedError> {
        let (feed, what) = (self.feed.to_owned(), self.what.to_owned());
        let Some(size) = said.size else { return Err(FeedError::NoSize { feed, what }) };
        let Metadata { etag, last_modified, .. } = said;
        let origin = HttpOrigin { url, headers: Vec::new(), size, etag, last_modified, ca_pem: None };
        match origin.check() {
            Ok(()) => Ok(origin),
            Err(source) => Err(FeedError::NoOrigin { feed, what, source }),
        }
    }
}

async fn resolve(asked: &Asked<'_>, wanted: &Wanted<'_>) -> Result<Found, FeedError> {
    let url =
        |base: &str| file_url(base, wanted.id, wanted.version).map_err(|problem| asked.impossible(wanted, problem));
    let remote = asked.remote();
    let origin = asked.probe(url(&remote.url)?, wanted).await?;
    let mirrors = remote.mirrors.iter().map(|mirror| Ok((mirror, url(&mirror.url)?)));
    let mirrors = asked.mirrors(&origin, mirrors.collect::<Result<_, FeedError>>()?).await;
    let place = Place::Http { origin, mirrors, equivalents: Vec::new() };
    Ok(Found { version: None, lineage: lineage_of_url(wanted.id), place, digests: Vec::new() })
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

/// `text` as a path, each of its parts escaped.
pub(super) fn escaped_path(text: &str) -> Result<String, String> {
    if text.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(format!("`{text}` is no path below it"));
    }
    Ok(text.split('/').map(escaped).collect::<Vec<_>>().join("/"))
}

/// `text` as a part of a path or a query: everything but letters that never mean anything is escaped (RFC 3986, 2.3).
pub(super) fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
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
