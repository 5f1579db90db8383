//! Python package indexes: one file of a version, by the simple index in JSON or HTML, whichever the server sends.
//!
//! Protocol: <https://packaging.python.org/specifications/simple-repository-api/>. `url` is that of the index (`…/simple/`),
//! `id` a project, `file` the file's name where a version has several.

use std::collections::BTreeMap;

use serde::Deserialize;
use shoal_proto::limits::SUGGESTIONS_MAX;

use super::asked::Asked;
use super::http::lineage_of_url;
use super::kind::Kind;
use super::{Digest, FeedError, Found, Place, Wanted};

pub(super) const KIND: Kind =
    Kind { name: "pypi", files: true, resolve: |asked, wanted| Box::pin(resolve(asked, wanted)), ..Kind::COMMON };

const SIMPLE: &str = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.5, text/html;q=0.2";

#[derive(Deserialize)]
struct Project {
    files: Vec<File>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct File {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
}

impl File {
    /// The strongest hash that is told.
    fn digest(&self) -> Option<Digest> {
        self.hashes.iter().filter_map(|(name, digits)| Digest::of_hex(name, digits)).max()
    }

    /// The version in the file's name, as the formats of files have it.
    fn version(&self) -> Option<&str> {
        if let Some(wheel) = self.filename.strip_suffix(".whl") {
            return wheel.split('-').nth(1);
        }
        let name = [".tar.gz", ".zip", ".tar.bz2"].iter().find_map(|end| self.filename.strip_suffix(end))?;
        name.rsplit_once('-').map(|(_, version)| version)
    }
}

async fn resolve(asked: &Asked<'_>, wanted: &Wanted<'_>) -> Result<Found, FeedError> {
    let project = normal_name(wanted.id).map_err(|problem| asked.impossible(wanted, problem))?;
    let url = format!("{}{project}/", asked.base());
    let document = asked.document(&url, Some(SIMPLE), wanted).await?;
    let json = document.headers.find("content-type").is_some_and(|kind| kind.contains("json"));
    let files = match json {
        true => {
            serde_json::from_slice::<Project>(&document.bytes)
                .map_err(|error| asked.bad(&url, &error.to_string()))?
                .files
        }
        false => links(&String::from_utf8_lossy(&document.bytes)),
    };
    let file = choose(asked, wanted, &files)?;
    let base = reqwest::Url::parse(&url).map_err(|error| asked.bad(&url, &error.to_string()))?;
    let mut place = base.join(&file.url).map_err(|error| asked.bad(&url, &error.to_string()))?;
    place.set_fragment(None);
    let origin = asked.probe(place.to_string(), wanted).await?;
    let mirrors = match origin.url.clone().strip_prefix(&asked.base()) {
        Some(path) => asked.mirrors_below(&origin, path).await,
        None => Vec::new(),
    };
    let place = Place::Http { origin, mirrors, equivalents: Vec::new() };
    let version = file.version().map(str::to_owned);
    Ok(Found { version, lineage: lineage_of_url(&file.filename), place, digests: file.digest().into_iter().collect() })
}

/// The one file that is meant.
fn choose<'f>(asked: &Asked<'_>, wanted: &Wanted<'_>, files: &'f [File]) -> Result<&'f File, FeedError> {
    let of_version = |file: &&File| wanted.version.is_none_or(|version| file.version() == Some(version));
    let fitting: Vec<&File> = files.iter().filter(of_version).collect();
    let named = |list: &[&File]| {
        let names: Vec<&str> = list.iter().rev().take(SUGGESTIONS_MAX).map(|file| file.filename.as_str()).collect();
        format!("`{}`", names.join("`, `"))
    };
    if let Some(name) = wanted.file {
        let found = fitting.iter().find(|file| file.filename == name);
        return found.copied().ok_or_else(|| asked.no_package(wanted, format!("there are {}", named(&fitting))));
    }
    match fitting.as_slice() {
        [only] => Ok(only),
        [] => Err(asked.no_version(wanted, format!("its last files are {}", named(&files.iter().collect::<Vec<_>>())))),
        several => Err(asked.impossible(wanted, format!("`file` has to name one of {}", named(several)))),
    }
}

/// A project's name as indexes spell it (PEP 503).
fn normal_name(name: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(good) {
        return Err(format!("`{name}` is no name of a Python project"));
    }
    let parts = name.split(['-', '_', '.']).filter(|part| !part.is_empty());
    Ok(parts.collect::<Vec<_>>().join("-").to_ascii_lowercase())
}

/// The files that a page of HTML links to. Only anchors matter: indexes are lists of them.
fn links(html: &str) -> Vec<File> {
    let mut files = Vec::new();
    let mut rest = html;
    while let Some(start) = rest.find("<a ") {
        rest = &rest[start + 3..];
        let (Some(close), Some(end)) = (rest.find('>'), rest.find("</a")) else { break };
        if end < close {
            continue;
        }
        let (attributes, text) = (&rest[..close], rest[close + 1..end].trim());
        if let Some(href) = attribute(attributes, "href") {
            let (url, fragment) = href.split_once('#').unwrap_or((href, ""));
            let hash = fragment.split_once('=').map(|(name, digits)| (name.to_owned(), digits.to_owned()));
            let hashes = hash.into_iter().collect();
            files.push(File { filename: unescaped(text), url: unescaped(url), hashes });
        }
        rest = &rest[end..];
    }
    files
}

/// The value of an attribute in quotes.
fn attribute<'t>(attributes: &'t str, name: &str) -> Option<&'t str> {
    let (_, after) = attributes.split_once(&format!("{name}="))?;
    let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    after[1..].split_once(quote).map(|(value, _)| value)
}

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#x27;", "'").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_a_page_are_files_with_their_hashes() {
        let file = |filename: &str, url: &str, hash: Option<(&str, &str)>| File {
            filename: filename.into(),
            url: url.into(),
            hashes: hash.into_iter().map(|(name, digits)| (name.into(), digits.into())).collect(),
        };
        let html =
            "<!DOCTYPE html><html><head><a></head><body>\n<a href=\"../../w-1.whl#sha256=ab\" data-x='>'>w-1.whl</a>
            <br/><a class='x' href='w-2.whl?a=1&amp;b=2'> w-2.whl </a><a name=here>x</a><a href=\"w-3.whl\">w-3.whl";
        let wanted = [file("w-2.whl", "w-2.whl?a=1&b=2", None)];
        assert_eq!(links(html)[1..], wanted);
        assert_eq!(
            links("<a href=\"w-1.whl#sha256=ab\">w-1.whl</a>"),
            [file("w-1.whl", "w-1.whl", Some(("sha256", "ab")))]
        );
        assert_eq!(links("<a href=x>"), []);
    }

    #[test]
    fn versions_are_in_the_names_of_files() {
        let version = |name: &str| {
            File { filename: name.into(), url: String::new(), hashes: BTreeMap::new() }.version().map(str::to_owned)
        };
        let table = [
            ("acme_web-1.2-py3-none-any.whl", Some("1.2")),
            ("acme-web-1.2.tar.gz", Some("1.2")),
            ("acme_web-1.2rc1.zip", Some("1.2rc1")),
            ("acme.exe", None),
        ];
        for (name, wanted) in table {
            assert_eq!(version(name).as_deref(), wanted, "{name}");
        }
    }

    #[test]
    fn names_of_projects_are_normalised() {
        assert_eq!(normal_name("Acme__Web.Core").as_deref(), Ok("acme-web-core"));
        assert!(normal_name("../x").is_err() && normal_name("").is_err());
    }
}
