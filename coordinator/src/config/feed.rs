//! `[[feed]]` of `coordinator.toml`: where packages come from, who asks, and which mirrors sites read from.
//!
//! Secrets are not here but where it says that they are ([`super::access`]).

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shoal_proto::limits::FEEDS_MAX;
use shoal_proto::rollout::units::parse_duration;
use toml::Spanned;

use super::access::{Access, with_access};
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
    /// How it is asked.
    pub access: Access,
    /// For how long URLs are signed, where its kind signs them.
    pub signed_for: Option<Duration>,
    /// Where else the same packages are, by site, in the order in which they are tried.
    pub mirrors: Vec<Mirror>,
}

/// Where some sites find a feed's packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Which sites.
    pub sites: Vec<SitePattern>,
    /// What stands in place of the feed's URL for them.
    pub url: String,
    /// How it is asked: as the feed is, where it says nothing of its own.
    pub access: Access,
}

with_access! {
    pub(super) struct RawFeed {
        pub(super) name: Spanned<String>,
        kind: &'static Kind,
        url: Option<Spanned<String>>,
        path: Option<Spanned<PathBuf>>,
        signed_for: Option<Spanned<String>>,
        mirrors: Option<Spanned<Vec<RawMirror>>>,
    }
}

with_access! {
    struct RawMirror {
        sites: Spanned<Vec<String>>,
        url: Spanned<String>,
    }
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
            let access = self.access().check(&format!("feed `{feed}`"), self.kind, folder)?;
            let mirrors = self.mirrors(&access, folder)?;
            let remote = Remote { url: self.checked_url(url)?, access, signed_for: self.signed_for()?, mirrors };
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
            ("signed_for", self.signed_for.as_ref().map(Spanned::span)),
            ("mirrors", self.mirrors.as_ref().map(Spanned::span)),
        ];
        let found = spans.into_iter().find_map(|(key, span)| Some((key, span?)));
        found.or_else(|| self.access().any())
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

    fn mirrors(&self, own: &Access, folder: &Path) -> Result<Vec<Mirror>, Wrong> {
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
            let whose = format!("a mirror of feed `{}`", self.name.get_ref());
            let access = mirror.access().check(&whose, self.kind, folder)?.or(own);
            Ok(Mirror { sites, url: self.checked_url(&mirror.url)?, access })
        };
        mirrors.get_ref().iter().map(check).collect()
    }

    fn checked_url(&self, url: &Spanned<String>) -> Result<String, Wrong> {
        let checked = check_url(url.get_ref()).map_err(|problem| at(url, problem))?;
        (self.kind.check_url)(&checked).map_err(|problem| at(url, problem))?;
        Ok(checked)
    }
}
