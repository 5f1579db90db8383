//! `coordinator.toml`: what the coordinator is told at its start.
//!
//! A [`Config`] holds only what was checked: names are unique, URLs are complete, each key has an effect. Relative paths
//! are taken from the folder of the file. Passwords are not here but in the files that it names, and are read when they
//! are used. Whether an address can be listened on is found out by whoever listens.

pub mod access;
pub mod feed;
pub mod freeze;
pub mod site;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use shoal_proto::id::Name;
use shoal_proto::limits::{FEEDS_MAX, FREEZES_MAX};
use toml::Spanned;

use feed::{FeedConfig, RawFeed};
use freeze::{FreezeConfig, RawFreeze};
use site::{RawSite, SiteConfig};

use crate::input_file::{FileError, Problem, problem_of, read_text};

/// Checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where the control mesh listens, as multiaddresses.
    pub mesh_listen: Vec<String>,
    /// Where nodes reach the control mesh, if not where it listens.
    pub mesh_advertise: Vec<String>,
    /// Where the bulk mesh listens, as multiaddresses.
    pub bulk_listen: Vec<String>,
    /// Where nodes reach the bulk mesh, if not where it listens.
    pub bulk_advertise: Vec<String>,
    /// Where the API listens.
    pub api_listen: SocketAddr,
    /// The feeds, by name.
    pub feeds: BTreeMap<Name, FeedConfig>,
    /// The sites of which something is known beforehand.
    pub sites: BTreeMap<Name, SiteConfig>,
    /// Days on which no step starts.
    pub freezes: Vec<FreezeConfig>,
    /// The zone of times that operators give without one.
    pub timezone: TimeZone,
}

/// A site's name, in which `*` stands for any letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SitePattern(String);

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// Every [`FileError`].
    pub fn load(path: &Path) -> Result<Self, FileError> {
        Self::parse(&read_text(path)?, path)
    }

    /// Checks `text`, which came from the file at `path`.
    ///
    /// # Errors
    /// [`FileError::Line`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, FileError> {
        let wrong = |span: Option<Range<usize>>, problem| {
            let line = span.map(|span| line_at(text, span.start));
            FileError::Line { path: path.to_owned(), line, problem }
        };
        let raw: Raw = toml::from_str(text).map_err(|error| {
            let part = error.span().map(|span| table_at(text, span.start)).unwrap_or_default();
            wrong(error.span(), problem_of(error.message(), part))
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        raw.check(folder).map_err(|(span, problem)| wrong(span, Problem::Other(problem)))
    }
}

impl fmt::Display for SitePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl SitePattern {
    /// Checks `text`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        // Without its stars it must be part of a name, or no site could ever match.
        let letters: String = text.chars().filter(|c| *c != '*').collect();
        match Name::new(format!("x{letters}")) {
            Ok(_) if !text.is_empty() => Ok(Self(text.to_owned())),
            _ => Err(format!("`{text}` is not the name of a site, nor a pattern such as `syd*`")),
        }
    }

    /// Whether the site `name` is meant.
    pub fn matches(&self, name: &Name) -> bool {
        let name = name.as_str();
        let Some((start, rest)) = self.0.split_once('*') else { return self.0 == name };
        let Some(mut left) = name.strip_prefix(start) else { return false };
        let mut parts: Vec<&str> = rest.split('*').collect();
        // The last part must stand at the end; each of the others as early as it can.
        let Some(end) = parts.pop() else { return true };
        for part in parts {
            let Some((_, after)) = left.split_once(part) else { return false };
            left = after;
        }
        left.ends_with(end)
    }
}

/// Where in the file, if that is known, and what.
type Wrong = (Option<Range<usize>>, String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    data_dir: PathBuf,
    #[serde(default = "default_mesh_listen")]
    mesh_listen: Vec<Spanned<String>>,
    #[serde(default)]
    mesh_advertise: Vec<Spanned<String>>,
    #[serde(default = "default_bulk_listen")]
    bulk_listen: Vec<Spanned<String>>,
    #[serde(default)]
    bulk_advertise: Vec<Spanned<String>>,
    #[serde(default = "default_api_listen")]
    api_listen: Spanned<String>,
    #[serde(default)]
    feed: Vec<RawFeed>,
    #[serde(default)]
    site: Vec<RawSite>,
    #[serde(default)]
    freeze: Vec<RawFreeze>,
    timezone: Option<Spanned<String>>,
}

fn spanned(text: &str) -> Spanned<String> {
    Spanned::new(0..0, text.to_owned())
}

fn default_mesh_listen() -> Vec<Spanned<String>> {
    ["/ip4/0.0.0.0/tcp/7440", "/ip4/0.0.0.0/udp/7440/quic-v1"].map(spanned).to_vec()
}

fn default_bulk_listen() -> Vec<Spanned<String>> {
    vec![spanned("/ip4/0.0.0.0/tcp/7443")]
}

fn default_api_listen() -> Spanned<String> {
    spanned("127.0.0.1:7441")
}

impl Raw {
    fn check(self, folder: &Path) -> Result<Config, Wrong> {
        let api_listen = self.api_listen.get_ref().parse().map_err(|_| {
            let problem = format!("`{}` is no address: write for instance `127.0.0.1:7441`", self.api_listen.get_ref());
            at(&self.api_listen, problem)
        })?;
        if self.feed.len() > FEEDS_MAX {
            return Err((None, format!("{} feeds, {FEEDS_MAX} are allowed", self.feed.len())));
        }
        let mut feeds = BTreeMap::new();
        for feed in self.feed {
            let key = name(&feed.name)?;
            let span = feed.name.span();
            let checked = feed.check(folder)?;
            if feeds.insert(key.clone(), checked).is_some() {
                return Err((Some(span), format!("two feeds are named `{key}`")));
            }
        }
        let mut sites = BTreeMap::new();
        for site in self.site {
            let (key, span) = (name(&site.name)?, site.name.span());
            if sites.insert(key.clone(), site.check()?).is_some() {
                return Err((Some(span), format!("two sites are named `{key}`")));
            }
        }
        if self.freeze.len() > FREEZES_MAX {
            return Err((None, format!("{} freezes, {FREEZES_MAX} are allowed", self.freeze.len())));
        }
        let freezes = self.freeze.into_iter().map(RawFreeze::check).collect::<Result<_, _>>()?;
        Ok(Config {
            data_dir: folder.join(self.data_dir),
            mesh_listen: addresses("mesh_listen", self.mesh_listen)?,
            mesh_advertise: advertised(self.mesh_advertise)?,
            bulk_listen: addresses("bulk_listen", self.bulk_listen)?,
            bulk_advertise: advertised(self.bulk_advertise)?,
            api_listen,
            feeds,
            sites,
            freezes,
            timezone: self.timezone.as_ref().map_or_else(|| Ok(TimeZone::system()), zone)?,
        })
    }
}

/// `url` if it can be asked: complete, of HTTP, and without a password.
pub(crate) fn check_url(url: &str) -> Result<String, String> {
    let shown = shoal_proto::origin::shown_url(url);
    let parsed = reqwest::Url::parse(url).map_err(|error| format!("`{shown}` is no URL: {error}"))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(format!("`{shown}` is no URL of http or https"));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(format!(
            "the URL of `{shown}` has a user in it: name it by `username` and `password_file` of a feed"
        ));
    }
    Ok(url.to_owned())
}

fn name(text: &Spanned<String>) -> Result<Name, Wrong> {
    Name::new(text.get_ref().as_str()).map_err(|error| at(text, error.to_string()))
}

fn zone(text: &Spanned<String>) -> Result<TimeZone, Wrong> {
    TimeZone::get(text.get_ref()).map_err(|_| {
        let problem = format!("`{}` is no time zone: write for instance `Australia/Sydney`", text.get_ref());
        at(text, problem)
    })
}

fn addresses(key: &str, list: Vec<Spanned<String>>) -> Result<Vec<String>, Wrong> {
    if list.is_empty() {
        Err((None, format!("`{key}` is empty, so that no node could join")))
    } else {
        advertised(list)
    }
}

fn advertised(list: Vec<Spanned<String>>) -> Result<Vec<String>, Wrong> {
    let check = |address: Spanned<String>| {
        let text = address.get_ref();
        let complete = text.starts_with('/') && (text.contains("/tcp/") || text.contains("/udp/"));
        let problem = || format!("`{text}` is no mesh address: write for instance `/ip4/0.0.0.0/tcp/7440`");
        if complete { Ok(text.clone()) } else { Err(at(&address, problem())) }
    };
    list.into_iter().map(check).collect()
}

fn at<T>(place: &Spanned<T>, problem: String) -> Wrong {
    (Some(place.span()), problem)
}

fn line_at(text: &str, offset: usize) -> u64 {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() as u64 + 1
}

/// The header of the table that what stands at `offset` is in, such as `[[feed]]`; empty at the top of the file, and for
/// a header itself.
fn table_at(text: &str, offset: usize) -> &str {
    let mut lines = text.get(..offset).unwrap_or(text).lines().rev().map(str::trim);
    if lines.next().is_some_and(|line| line.starts_with('[')) {
        return "";
    }
    let header = lines.find(|line| line.starts_with('[')).unwrap_or("");
    let end = header.find(']').map_or(0, |at| at + if header.starts_with("[[") { 2 } else { 1 });
    header.get(..end).unwrap_or(header)
}

#[cfg(test)]
mod tests {
    use super::access::SecretAt;
    use super::feed::FeedPlace;
    use super::*;

    fn parse(text: &str) -> Result<Config, FileError> {
        Config::parse(text, Path::new("/etc/shoal/coordinator.toml"))
    }

    fn error(text: &str) -> String {
        let error = parse(text).unwrap_err().to_string();
        error.strip_prefix("/etc/shoal/coordinator.toml").expect("the file is named").to_owned()
    }

    const FULL: &str = r#"
data_dir = "/var/lib/shoal"
mesh_listen = ["/ip4/0.0.0.0/tcp/7440"]
api_listen = "127.0.0.1:7441"

[[feed]]
name = "nuget-main"
kind = "nuget"
url = "https://nuget.example.com/v3/index.json"
username = "ci"
password_file = "nuget.password"
mirrors = [{ sites = ["syd*"], url = "https://nuget-syd.example.com/v3/index.json" }]

[[feed]]
name = "models"
kind = "folder"
path = "/srv/models"

[[site]]
name = "branch-017"
wan_limit = "50 Mbit/s"
"#;

    #[test]
    fn a_full_file_is_read() {
        let config = parse(FULL).unwrap();
        assert_eq!(config.data_dir, Path::new("/var/lib/shoal"));
        assert_eq!(config.bulk_listen, ["/ip4/0.0.0.0/tcp/7443"]);
        let feed = &config.feeds[&Name::new("nuget-main").unwrap()];
        let FeedPlace::Remote(remote) = &feed.place else { panic!("{config:?}") };
        let credentials = remote.access.credentials.as_ref().unwrap();
        let file = PathBuf::from("/etc/shoal/nuget.password");
        assert_eq!(credentials.secret, SecretAt::File(file), "from the folder of the configuration");
        assert_eq!(feed.kind.name, "nuget");
        let (sydney, oslo) = (Name::new("syd-2").unwrap(), Name::new("osl").unwrap());
        assert!(remote.mirrors[0].sites[0].matches(&sydney) && !remote.mirrors[0].sites[0].matches(&oslo));
        let path = PathBuf::from("/srv/models");
        assert_eq!(config.feeds[&Name::new("models").unwrap()].place, FeedPlace::Folder(path));
        assert_eq!(config.sites[&Name::new("branch-017").unwrap()].calendar.base, Some(6_250_000));
    }

    #[test]
    fn the_least_file_is_a_data_folder() {
        let config = parse("data_dir = 'data'").unwrap();
        assert_eq!(config.data_dir, Path::new("/etc/shoal/data"));
        assert_eq!(config.api_listen.to_string(), "127.0.0.1:7441");
        assert_eq!(config.mesh_listen.len(), 2);
    }

    #[test]
    fn unknown_keys_name_their_line_and_the_nearest() {
        let table = [
            (
                FULL.replace("password_file", "pasword_file"),
                ":11: unknown key `pasword_file` in [[feed]]: did you mean `password_file`?",
            ),
            (FULL.replace("data_dir", "datadir"), ":2: unknown key `datadir`: did you mean `data_dir`?"),
            (
                FULL.replace("wan_limit", "hours"),
                ":21: unknown key `hours` in [[site]]: known are `name`, `wan_limit`, `timezone`, `calendar`, `maintenance`",
            ),
            (FULL.replace("sites = [", "site = ["), ":12: unknown key `site` in [[feed]]: did you mean `sites`?"),
            (FULL.replace("\"folder\"", "\"foldr\""), ":16: unknown value `foldr` in [[feed]]: did you mean `folder`?"),
            (FULL.replace("kind = \"folder\"\n", ""), ":14: missing key `kind` in [[feed]]"),
            (FULL.replace("[[site]]", "[[sites]]"), ":19: unknown key `sites`: did you mean `site`?"),
            ("mesh_listen = []".to_owned(), ":1: missing key `data_dir`"),
        ];
        for (text, wanted) in table {
            assert_eq!(error(&text), wanted);
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let table = [
            (FULL.replace("\"models\"", "\"nuget-main\""), ":15: two feeds are named `nuget-main`"),
            (FULL.replace("path = \"/srv/models\"", ""), ":15: feed `models` lacks `path`"),
            (
                FULL.replace("path = \"/srv", "url = \"/srv"),
                ":17: feed `models` is a folder, so that `url` has no effect",
            ),
            (
                FULL.replace("username", "machine_role = true\nusername"),
                ":12: feed `nuget-main` has both `password_file` and `machine_role`",
            ),
            (
                FULL.replace("username = \"ci\"\npassword_file = \"nuget.password\"", "machine_role = true"),
                ":10: a feed of kind `nuget` is not of a cloud, so that `machine_role` has no effect",
            ),
            (
                FULL.replace("sites = [", "password_env = \"X\", sites = ["),
                "a mirror of feed `nuget-main` has a `password_env` but no `username`",
            ),
            (FULL.replace("username = \"ci\"\n", ""), ":10: feed `nuget-main` has a `password_file` but no `username`"),
            (
                FULL.replace("username", "token_file"),
                ":10: feed `nuget-main` has both `token_file` and `password_file`",
            ),
            (FULL.replace("ci\"\n", "ci\"\npassword_env = \"P\"\n"), "has both `password_file` and `password_env`"),
            (
                FULL.replace("password_file = \"nuget", "ca_file = \"nuget"),
                ":10: feed `nuget-main` has a `username` but no",
            ),
            (FULL.replace("path = \"/srv", "token_env = \"T\"\npath = \"/srv"), "so that `token_env` has no effect"),
            (
                FULL.replace("password_file = \"nuget.password\"", "password_file = \"p\"\nsigned_for = \"1h\""),
                ":12: a feed of kind `nuget` signs no URLs, so that `signed_for` has no effect",
            ),
            (
                FULL.replace("kind = \"nuget\"", "kind = \"s3\"\nsigned_for = \"8d\""),
                ":9: `signed_for` is 1s to 7d, not 8d",
            ),
            (FULL.replace("kind = \"nuget\"", "kind = \"gcs\"\nsigned_for = \"8\""), ":9: "),
            (FULL.replace("https://nuget.e", "https://{id}.e"), ":9: only the `url` of an `http` feed has `{id}`"),
            (FULL.replace("\"https://nuget.e", "\"https://ci:pw@nuget.e"), "has a user in it"),
            (
                FULL.replace("\"https://nuget.e", "\"ftp://nuget.e"),
                ":9: `ftp://nuget.example.com/v3/index.json` is no URL of http",
            ),
            (FULL.replace("\"https://nuget.e", "\"nuget.e"), "is no URL: relative URL without a base"),
            (FULL.replace("syd*", "syd ney"), ":12: `syd ney` is not the name of a site"),
            (FULL.replace("50 Mbit/s", "50"), ":21: `50` has no unit"),
            (FULL.replace("branch-017", "branch 017"), ":20: `branch 017` is not a name"),
            (FULL.replace("/ip4/0.0.0.0/tcp/7440", "0.0.0.0:7440"), ":3: `0.0.0.0:7440` is no mesh address"),
            (FULL.replace("127.0.0.1:7441", "localhost"), ":4: `localhost` is no address"),
            (FULL.replace("[\"/ip4/0.0.0.0/tcp/7440\"]", "[]"), "`mesh_listen` is empty"),
            ("data_dir = ".to_owned(), ":1: "),
        ];
        for (text, wanted) in table {
            let error = error(&text);
            assert!(error.contains(wanted), "{error}\nis not\n{wanted}");
            assert!(!error.contains("pw"), "a password is told: {error}");
        }
    }

    #[test]
    fn site_patterns() {
        let matches = |pattern: &str, site: &str| SitePattern::new(pattern).unwrap().matches(&Name::new(site).unwrap());
        for (pattern, site, wanted) in [
            ("syd", "syd", true),
            ("syd", "syd-2", false),
            ("syd*", "syd", true),
            ("*", "anything", true),
            ("*-eu", "osl-eu", true),
            ("*-eu", "osl-eu-2", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, site), wanted, "{pattern} {site}");
        }
        assert!(SitePattern::new("").is_err() && SitePattern::new("a/b").is_err());
    }
}
