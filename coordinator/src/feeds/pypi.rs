//! Python package indexes: one file of a version, or of the newest that fits specifiers such as `~=1.4` or `>=1,<2`, by the
//! simple index in JSON or HTML, whichever the server sends.
//!
//! Protocol: <https://packaging.python.org/specifications/simple-repository-api/>. `url` is that of the index (`…/simple/`),
//! `id` a project, `file` the file's name where a version has several, in which `{version}` stands for the version.

use std::collections::BTreeMap;
use std::str::FromStr;

use pep440_rs::{Operator, Version, VersionSpecifiers};
use serde::{Deserialize, Deserializer};
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
    /// Taken back by its author: only for who names its version.
    #[serde(default, deserialize_with = "yanked")]
    yanked: bool,
}

/// `false`, `true` or why (PEP 691).
fn yanked<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(!matches!(value, serde_json::Value::Null | serde_json::Value::Bool(false)))
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
    let fitting = of_version(wanted.version, files);
    let named = |list: &[&File]| {
        let names: Vec<&str> = list.iter().rev().take(SUGGESTIONS_MAX).map(|file| file.filename.as_str()).collect();
        format!("`{}`", names.join("`, `"))
    };
    if let Some(name) = wanted.file {
        let is_named = |file: &&&File| file.filename == name.replace("{version}", file.version().unwrap_or_default());
        let found = fitting.iter().find(is_named);
        return found.copied().ok_or_else(|| asked.no_package(wanted, format!("there are {}", named(&fitting))));
    }
    match fitting.as_slice() {
        [only] => Ok(only),
        [] => Err(asked.no_version(wanted, format!("its last files are {}", named(&files.iter().collect::<Vec<_>>())))),
        several => Err(asked.impossible(wanted, format!("`file` has to name one of {}", named(several)))),
    }
}

/// The files of the version that is meant: by name, or the highest that fits specifiers, where one before its release counts only
/// if there is no other or the specifiers name such. All files, if none is.
fn of_version<'f>(wanted: Option<&str>, files: &'f [File]) -> Vec<&'f File> {
    let Some(text) = wanted else { return files.iter().collect() };
    let parsed = |file: &'f File| Some((Version::from_str(file.version()?).ok()?, file));
    let Some(specifiers) = VersionSpecifiers::from_str(text).ok().filter(|all| !all.is_empty()) else {
        let number = Version::from_str(text).ok();
        let same = |file: &&'f File| match parsed(file) {
            Some((version, _)) if number.is_some() => number.as_ref() == Some(&version),
            _ => file.version() == Some(text),
        };
        return files.iter().filter(same).collect();
    };
    let mut fitting: Vec<_> = files
        .iter()
        .filter(|file| !file.yanked || names_one(&specifiers))
        .filter_map(parsed)
        .filter(|(version, _)| have(&specifiers, version))
        .collect();
    if !names_pre(&specifiers) && fitting.iter().any(|(version, _)| version.is_stable()) {
        fitting.retain(|(version, _)| version.is_stable());
    }
    let highest = fitting.iter().map(|(version, _)| version).max().cloned();
    fitting.into_iter().filter(|(version, _)| Some(version) == highest.as_ref()).map(|(_, file)| file).collect()
}

/// Whether specifiers hold for a version. `1` is `1.0`, which the crate does not see where `==1.1.*` is asked for: it compares as
/// many numbers as both have.
fn have(specifiers: &VersionSpecifiers, version: &Version) -> bool {
    let named = specifiers.iter().map(|one| one.version().release().len()).max().unwrap_or(0);
    let numbers = version.release().len().max(named);
    let release = version.release().iter().copied().chain(std::iter::repeat(0)).take(numbers);
    specifiers.contains(&version.clone().with_release(release))
}

/// Whether specifiers name one version: `==1.4`.
fn names_one(specifiers: &VersionSpecifiers) -> bool {
    matches!(&specifiers[..], [one] if matches!(one.operator(), Operator::Equal | Operator::ExactEqual))
}

/// Whether they ask for versions before a release, by naming one.
fn names_pre(specifiers: &VersionSpecifiers) -> bool {
    let excludes = |operator| matches!(operator, &Operator::NotEqual | &Operator::NotEqualStar);
    specifiers.iter().any(|one| one.any_prerelease() && !excludes(one.operator()))
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
    while let Some(start) = find_plain(rest, "<a ") {
        rest = &rest[start + 3..];
        let Some(close) = end_of_tag(rest) else { break };
        let (attributes, after) = (&rest[..close], &rest[close + 1..]);
        let Some(end) = find_plain(after, "</a") else { break };
        if let Some(href) = attribute(attributes, "href") {
            let (url, fragment) = href.split_once('#').unwrap_or((href, ""));
            let hash = fragment.split_once('=').map(|(name, digits)| (name.to_owned(), digits.to_owned()));
            let yanked = find_plain(attributes, "data-yanked").is_some();
            let filename = unescaped(after[..end].trim());
            files.push(File { filename, url: unescaped(url), hashes: hash.into_iter().collect(), yanked });
        }
        rest = &after[end..];
    }
    files
}

/// Where `wanted`, which is in lower case, is in `text`, whose case says nothing.
fn find_plain(text: &str, wanted: &str) -> Option<usize> {
    let starts = text.as_bytes().windows(wanted.len());
    starts.into_iter().position(|start| start.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// Where the tag ends that `text` is in. What is in quotes may hold its sign: `data-requires-python=">=3.9"`.
fn end_of_tag(text: &str) -> Option<usize> {
    let mut quote = None;
    text.bytes().position(|byte| match (quote, byte) {
        (None, b'>') => true,
        (None, b'"' | b'\'') => {
            quote = Some(byte);
            false
        }
        (Some(open), close) if open == close => {
            quote = None;
            false
        }
        _ => false,
    })
}

/// The value of an attribute in quotes.
fn attribute<'t>(attributes: &'t str, name: &str) -> Option<&'t str> {
    let after = &attributes[find_plain(attributes, &format!("{name}="))? + name.len() + 1..];
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
            yanked: false,
        };
        let html =
            "<!DOCTYPE html><html><head></head><body>\n<a href=\"../../w-1.whl#sha256=ab\" data-x='>'>w-1.whl</a>
            <br/><A class='x' HREF='w-2.whl?a=1&amp;b=2'> w-2.whl </A><a name=here>x</a><a href=\"w-3.whl\">w-3.whl";
        let wanted =
            [file("w-1.whl", "../../w-1.whl", Some(("sha256", "ab"))), file("w-2.whl", "w-2.whl?a=1&b=2", None)];
        assert_eq!(links(html), wanted);
        assert_eq!(
            links("<a href=\"w-1.whl#sha256=ab\">w-1.whl</a>"),
            [file("w-1.whl", "w-1.whl", Some(("sha256", "ab")))]
        );
        assert_eq!(links("<a href=x>"), []);
    }

    #[test]
    fn versions_are_in_the_names_of_files() {
        let version = |name: &str| {
            let file = File { filename: name.into(), url: String::new(), hashes: BTreeMap::new(), yanked: false };
            file.version().map(str::to_owned)
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
    fn of_specifiers_the_newest_version_is_taken_that_was_released_and_not_taken_back() {
        let file = |version: &str| {
            let why = if version == "1.10.1" { serde_json::json!("broken") } else { serde_json::json!(false) };
            serde_json::json!({ "filename": format!("acme_web-{version}-py3-none-any.whl"), "url": "x", "yanked": why })
        };
        let all = ["1.9", "1.10", "1.10.1", "2.0rc1", "1.0.0"].map(file);
        let files = serde_json::from_value::<Project>(serde_json::json!({ "files": all })).unwrap().files;
        let chosen = |wanted: &str| {
            let chosen = of_version(Some(wanted), &files);
            chosen.iter().filter_map(|file| file.version()).collect::<Vec<_>>().join(" ")
        };
        let table = [
            (">=1", "1.10"),
            ("~=1.9", "1.10"),
            ("==1.10.1", "1.10.1"),
            ("1.10.1", "1.10.1"),
            ("1", "1.0.0"),
            (">=1.11", "2.0rc1"),
            (">=1.0rc1", "2.0rc1"),
            ("<1.10,!=1.9", "1.0.0"),
            (">3", ""),
        ];
        for (wanted, found) in table {
            assert_eq!(chosen(wanted), found, "{wanted}");
        }
    }

    #[test]
    fn names_of_projects_are_normalised() {
        assert_eq!(normal_name("Acme__Web.Core").as_deref(), Ok("acme-web-core"));
        assert!(normal_name("../x").is_err() && normal_name("").is_err());
    }

    fn version(text: &str) -> Version {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn versions_are_ordered_as_pep_440_has_it() {
        // Its own examples of an order.
        let order = [
            "1.0.dev456",
            "1.0a1",
            "1.0a2.dev456",
            "1.0a12.dev456",
            "1.0a12",
            "1.0b1.dev456",
            "1.0b2",
            "1.0b2.post345.dev456",
            "1.0b2.post345",
            "1.0rc1.dev456",
            "1.0rc1",
            "1.0",
            "1.0+abc.5",
            "1.0+abc.7",
            "1.0+5",
            "1.0.post456.dev34",
            "1.0.post456",
            "1.0.15",
            "1.1.dev1",
            "1.10",
            "2013.10",
            "1!1.0",
        ];
        let versions = order.map(version);
        for pair in versions.windows(2) {
            assert!(pair[0] < pair[1], "{pair:?}");
        }
        for (one, other) in [
            ("1.0", "1"),
            ("1.1RC1", "1.1-rc.1"),
            ("1.0-alpha", "1.0a0"),
            ("1.0-1", "1.0.post1"),
            ("v1.0rev4", "1.0.post4"),
            ("1.0.0+Ubuntu_1", "1.0+ubuntu.1"),
            ("1.0c3", "1.0rc3"),
            ("1.00.dev", "1.0dev0"),
        ] {
            assert_eq!(version(one), version(other), "{one} {other}");
        }
        for bad in ["", "a", "1.", "1..2", "1.0rc1x", "1.0+", "1.0-", "1!", "latest", "1.0.*"] {
            assert!(Version::from_str(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn specifiers_mean_what_pep_440_documents() {
        let table: [(&str, &[&str], &[&str]); 12] = [
            ("~=2.2", &["2.2", "2.9.1", "2.2.post3"], &["3.0", "2.1", "2.2rc1"]),
            ("~=1.4.5", &["1.4.5", "1.4.9"], &["1.5", "1.4.4"]),
            ("~=2.2.post3", &["2.2.post3", "2.3"], &["2.2", "3"]),
            ("==1.1", &["1.1", "1.1.0", "1.1+local"], &["1.1.post1", "1.1a1", "1.1.1"]),
            ("==1.1.*", &["1.1", "1.1.post1", "1.1a1", "1.1.9"], &["1.2", "1"]),
            ("==1.1+one", &["1.1+one"], &["1.1", "1.1+two"]),
            ("!=1.1.*", &["1.2"], &["1.1.5"]),
            (">=1, <2", &["1", "1.9.9"], &["2", "0.9", "2.0rc1", "1!1.5"]),
            (">1.7", &["1.7.1", "1.8"], &["1.7", "1.7.0.post1", "1.7+x"]),
            (">1.7.post2", &["1.7.1", "1.7.post3"], &["1.7", "1.7.post2"]),
            ("<=1.7,!=1.5", &["1.7", "1.4", "1.7+x"], &["1.5", "1.7.1"]),
            ("===1.0", &["1.0"], &["1.1"]),
        ];
        for (text, within, without) in table {
            let specifiers = VersionSpecifiers::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            for one in within {
                assert!(have(&specifiers, &version(one)), "{one} is in {text}");
            }
            for one in without {
                assert!(!have(&specifiers, &version(one)), "{one} is not in {text}");
            }
        }
        for bad in ["1.0", "~=1", ">=1.*", "latest", "==", ">=1,", "~=1.*"] {
            assert!(VersionSpecifiers::from_str(bad).is_err(), "{bad}");
        }
        let pre = |text: &str| names_pre(&VersionSpecifiers::from_str(text).unwrap());
        assert!(pre(">=1.0rc1") && pre(">=1.0.dev1") && !pre(">=1") && !pre(">=1,!=1.5rc1"));
    }
}
