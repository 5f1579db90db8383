//! The kinds of feeds. Adding one is one file beside this and one line in [`KINDS`].

use std::fmt;
use std::sync::LazyLock;

use futures::future::BoxFuture;
use serde::{Deserialize, Deserializer, de};
use shoal_proto::origin::HttpOrigin;

use super::asked::{Asked, below};
use super::{FeedError, Found, Wanted, azure, folder, gcs, github, http, maven, npm, nuget, oci, pypi, s3};

/// Every kind, as people list them.
static KINDS: [&Kind; 11] = [
    &http::KIND,
    &folder::KIND,
    &nuget::KIND,
    &oci::KIND,
    &s3::KIND,
    &gcs::KIND,
    &azure::KIND,
    &maven::KIND,
    &npm::KIND,
    &pypi::KIND,
    &github::KIND,
];

/// What a kind of feed knows and does.
pub struct Kind {
    /// What `kind` says in a configuration.
    pub name: &'static str,
    /// Where its packages are: behind a `url`, or in the folder `path`.
    pub(crate) remote: bool,
    /// Whether a package has several files, of which `file` names one.
    pub(super) files: bool,
    /// Whether a package has variants, of which `platform` names one.
    pub(super) platforms: bool,
    /// Whether what is proved is a signature in the URL.
    pub(crate) signs: bool,
    /// Whether sites may have mirrors of it.
    pub(crate) mirrors: bool,
    /// What is wrong with a `url`, beyond what makes it none at all.
    pub(crate) check_url: fn(&str) -> Result<(), String>,
    /// What to ask for to see whether a feed with this `url` answers at all.
    pub(super) door: fn(&str) -> String,
    /// Finds out where a package is.
    pub(super) resolve: for<'a> fn(&'a Asked<'a>, &'a Wanted<'a>) -> BoxFuture<'a, Result<Found, FeedError>>,
    /// Completes the request for a package with what it has to prove, at the moment when it is to be sent.
    pub(super) authorize: for<'a> fn(&'a Asked<'a>, HttpOrigin) -> BoxFuture<'a, Result<HttpOrigin, FeedError>>,
}

impl Kind {
    /// What most kinds have in common: a URL, and a password or token in a header.
    pub(super) const COMMON: Self = Self {
        name: "",
        remote: true,
        files: false,
        platforms: false,
        signs: false,
        mirrors: true,
        check_url: plain_url,
        door: |url| below(url, ""),
        resolve: |_, wanted| Box::pin(async move { Err(FeedError::unknown(wanted)) }),
        authorize: |asked, origin| Box::pin(async move { Ok(asked.with_headers(origin)) }),
    };
}

/// Refuses the letters that only `http` feeds give a meaning.
fn plain_url(url: &str) -> Result<(), String> {
    match url.contains(['{', '}']) {
        true => Err("only the `url` of an `http` feed has `{id}` and `{version}` in it".to_owned()),
        false => Ok(()),
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Kind {}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl<'de> Deserialize<'de> for &'static Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        static NAMES: LazyLock<Vec<&'static str>> = LazyLock::new(|| KINDS.iter().map(|kind| kind.name).collect());
        let name = String::deserialize(deserializer)?;
        let found = KINDS.into_iter().find(|kind| kind.name == name);
        found.ok_or_else(|| de::Error::unknown_variant(&name, &NAMES))
    }
}
