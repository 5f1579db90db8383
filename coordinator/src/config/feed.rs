//! `[[feed]]` of `coordinator.toml`: where packages come from, who asks, and which mirrors sites read from.
//!
//! Secrets are not here but in the files or environment variables that it names.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use shoal_proto::limits::FEEDS_MAX;
use shoal_proto::rollout::units::parse_duration;
use toml::Spanned;

use super::{SitePattern, Wrong, at, check_url};
use crate::feeds::Kind;

/// For how long URLs may be signed: stores refuse more than a week.
const SIGNED_FOR: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600);

/// One feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedConfig {
    /// How it is asked.
    pub kind: &'static Kind,
    /// Where it is.
    pub place: FeedPlace,
}

/// Where a feed is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedPlace {
    /// Behind a URL.
    Remote(Remote),
    /// In a folder of the coordinator.
    Folder(PathBuf),
}

/// A feed that is reached over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Its URL.
    pub url: String,
    /// Who asks.
    pub credentials: Option<Credentials>,
    /// Certificates in PEM of private authorities that vouch for it.
    pub ca_file: Option<PathBuf>,
    /// In which region of a cloud it is, where signatures need that.
    pub region: Option<String>,
    /// For how long URLs are signed, where its kind signs them.
    pub signed_for: Option<Duration>,
    /// Where else the same packages are, by site, in the order in which they are tried.
    pub mirrors: Vec<Mirror>,
}

/// Who asks, and where the secret is that proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name; none for a token that stands for itself.
    pub username: Option<String>,
    /// Where the password or token is.
    pub secret: SecretAt,
}

/// Where a secret is. It is read when it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretAt {
    /// Alone in a file; a line end behind it does not count.
    File(PathBuf),
    /// In an environment variable of the coordinator.
    Env(String),
}

/// Where some sites find a feed's packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Which sites.
    pub sites: Vec<SitePattern>,
    /// What stands in place of the feed's URL for them.
    pub url: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFeed {
    pub(super) name: Spanned<String>,
    kind: &'static Kind,
    url: Option<Spanned<String>>,
    path: Option<Spanned<PathBuf>>,
    username: Option<Spanned<String>>,
    password_file: Option<Spanned<PathBuf>>,
    password_env: Option<Spanned<String>>,
    token_file: Option<Spanned<PathBuf>>,
    token_env: Option<Spanned<String>>,
    ca_file: Option<Spanned<PathBuf>>,
    region: Option<Spanned<String>>,
    signed_for: Option<Spanned<String>>,
    mirrors: Option<Spanned<Vec<RawMirror>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMirror {
    sites: Spanned<Vec<String>>,
    url: Spanned<String>,
}

/// A key that says where a secret is.
struct SecretKey {
    name: &'static str,
    span: std::ops::Range<usize>,
    at: SecretAt,
    /// Whether it stands beside a `username`.
    password: bool,
}

impl RawFeed {
    pub(super) fn check(self, folder: &Path) -> Result<FeedConfig, Wrong> {
        let feed = self.name.get_ref();
        let missing = |key| at(&self.name, format!("feed `{feed}` lacks `{key}`"));
        if self.kind.remote {
            if let Some(path) = &self.path {
                return Err(at(path, format!("feed `{feed}` is no folder, so that `path` has no effect")));
            }
            let url = self.url.as_ref().ok_or_else(|| missing("url"))?;
            let remote = Remote {
                url: self.checked_url(url)?,
                credentials: self.credentials(folder)?,
                ca_file: self.ca_file.as_ref().map(|path| folder.join(path.get_ref())),
                region: self.region.as_ref().map(|region| region.get_ref().clone()),
                signed_for: self.signed_for()?,
                mirrors: self.mirrors()?,
            };
            return Ok(FeedConfig { kind: self.kind, place: FeedPlace::Remote(remote) });
        }
        if let Some((key, span)) = self.remote_key() {
            return Err((Some(span), format!("feed `{feed}` is a folder, so that `{key}` has no effect")));
        }
        let path = self.path.as_ref().ok_or_else(|| missing("path"))?;
        Ok(FeedConfig { kind: self.kind, place: FeedPlace::Folder(folder.join(path.get_ref())) })
    }

    /// A key that only a feed behind a URL has.
    fn remote_key(&self) -> Option<(&'static str, std::ops::Range<usize>)> {
        let spans = [
            ("url", self.url.as_ref().map(Spanned::span)),
            ("username", self.username.as_ref().map(Spanned::span)),
            ("ca_file", self.ca_file.as_ref().map(Spanned::span)),
            ("region", self.region.as_ref().map(Spanned::span)),
            ("signed_for", self.signed_for.as_ref().map(Spanned::span)),
            ("mirrors", self.mirrors.as_ref().map(Spanned::span)),
        ];
        let secrets = self.secrets(Path::new(""));
        let found = spans.into_iter().find_map(|(key, span)| Some((key, span?)));
        found.or_else(|| secrets.into_iter().next().map(|key| (key.name, key.span)))
    }

    fn secrets(&self, folder: &Path) -> Vec<SecretKey> {
        let files = [("token_file", &self.token_file, false), ("password_file", &self.password_file, true)];
        let files = files.into_iter().filter_map(|(name, path, password)| {
            let path = path.as_ref()?;
            Some(SecretKey { name, span: path.span(), at: SecretAt::File(folder.join(path.get_ref())), password })
        });
        let variables = [("token_env", &self.token_env, false), ("password_env", &self.password_env, true)];
        let variables = variables.into_iter().filter_map(|(name, text, password)| {
            let text = text.as_ref()?;
            Some(SecretKey { name, span: text.span(), at: SecretAt::Env(text.get_ref().clone()), password })
        });
        files.chain(variables).collect()
    }

    fn credentials(&self, folder: &Path) -> Result<Option<Credentials>, Wrong> {
        let feed = self.name.get_ref();
        let mut secrets = self.secrets(folder);
        if let [one, other, ..] = &secrets[..] {
            let problem = format!("feed `{feed}` has both `{}` and `{}`", one.name, other.name);
            return Err((Some(one.span.clone()), problem));
        }
        match (&self.username, secrets.pop()) {
            (None, None) => Ok(None),
            (Some(username), None) => {
                Err(at(username, format!("feed `{feed}` has a `username` but no `password_file`")))
            }
            (None, Some(key)) if key.password => {
                Err((Some(key.span), format!("feed `{feed}` has a `{}` but no `username`", key.name)))
            }
            (Some(username), Some(key)) if !key.password => {
                Err(at(username, format!("feed `{feed}` has a `{}`, with which `username` has no effect", key.name)))
            }
            // Basic authentication cannot carry a colon in the name (RFC 7617, 2).
            (Some(username), Some(_)) if username.get_ref().contains([':', '\n', '\r']) => {
                Err(at(username, format!("feed `{feed}` has a `username` with a colon or a line end")))
            }
            (username, Some(key)) => Ok(Some(Credentials {
                username: username.as_ref().map(|username| username.get_ref().clone()),
                secret: key.at,
            })),
        }
    }

    fn signed_for(&self) -> Result<Option<Duration>, Wrong> {
        let Some(text) = &self.signed_for else { return Ok(None) };
        if !self.kind.signs {
            let problem =
                format!("a feed of kind `{}` signs no URLs, so that `signed_for` has no effect", self.kind.name);
            return Err(at(text, problem));
        }
        let life = parse_duration(text.get_ref()).map_err(|error| at(text, error.to_string()))?;
        match SIGNED_FOR.contains(&life) {
            true => Ok(Some(life)),
            false => Err(at(text, format!("`signed_for` is 1s to 7d, not {}", text.get_ref()))),
        }
    }

    fn mirrors(&self) -> Result<Vec<Mirror>, Wrong> {
        let Some(mirrors) = &self.mirrors else { return Ok(Vec::new()) };
        if !self.kind.mirrors {
            return Err(at(mirrors, format!("a feed of kind `{}` has no mirrors", self.kind.name)));
        }
        if mirrors.get_ref().len() > FEEDS_MAX {
            return Err(at(mirrors, format!("{} mirrors, {FEEDS_MAX} are allowed", mirrors.get_ref().len())));
        }
        let check = |mirror: &RawMirror| {
            let patterns = mirror.sites.get_ref();
            if patterns.is_empty() {
                return Err(at(&mirror.sites, "a mirror for no site".to_owned()));
            }
            let sites = patterns.iter().map(|text| SitePattern::new(text)).collect::<Result<_, _>>();
            let sites = sites.map_err(|problem| at(&mirror.sites, problem))?;
            Ok(Mirror { sites, url: self.checked_url(&mirror.url)? })
        };
        mirrors.get_ref().iter().map(check).collect()
    }

    fn checked_url(&self, url: &Spanned<String>) -> Result<String, Wrong> {
        let checked = check_url(url.get_ref()).map_err(|problem| at(url, problem))?;
        (self.kind.check_url)(&checked).map_err(|problem| at(url, problem))?;
        Ok(checked)
    }
}
