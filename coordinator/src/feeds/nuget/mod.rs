//! NuGet feeds: v3 by the URL of a service index (`…/index.json`), v2 by any other.
//!
//! Floating versions are resolved once, to the highest that is listed, and pinned. Ids are case-insensitive; versions are
//! normalised, so that `4.2`, `4.2.0` and `4.2.0.0+build` are one.

mod v2;
mod v3;
mod version;

use shoal_proto::limits::SUGGESTIONS_MAX;
use shoal_proto::rollout::nearest::nearest;

use super::asked::{Asked, below};
use super::http::escaped_path;
use super::kind::Kind;
use super::{FeedError, Found, Wanted};
use version::{Range, Version};

pub(super) const KIND: Kind = Kind {
    name: "nuget",
    // The index of a v3 feed is a document, the root of a v2 feed is not.
    door: |url| if url.ends_with(".json") { url.to_owned() } else { below(url, "") },
    resolve: |asked, wanted| Box::pin(resolve(asked, wanted)),
    ..Kind::COMMON
};

const ID_LEN_MAX: usize = 100;

/// A package that is looked for.
struct Sought<'a> {
    asked: &'a Asked<'a>,
    wanted: &'a Wanted<'a>,
    /// Its id as the flat container spells it.
    lower: String,
    /// Which version, if the reference says.
    range: Option<Range>,
}

async fn resolve(asked: &Asked<'_>, wanted: &Wanted<'_>) -> Result<Found, FeedError> {
    let impossible = |problem| asked.impossible(wanted, problem);
    let lower = lower_id(wanted.id).map_err(impossible)?;
    let range = wanted.version.map(Range::parse).transpose().map_err(impossible)?;
    let sought = Sought { asked, wanted, lower, range };
    match asked.remote().url.split(['?', '#']).next().is_some_and(|url| url.ends_with(".json")) {
        true => sought.resolve_v3().await,
        false => sought.resolve_v2().await,
    }
}

impl Sought<'_> {
    /// The version to pin, of those that there are.
    fn choose<'v>(&self, known: &'v [Version]) -> Result<&'v Version, FeedError> {
        let Some(range) = &self.range else {
            let problem = format!("a `version` is needed, `*` for the latest stable; {}", last_ones(known));
            return Err(self.asked.impossible(self.wanted, problem));
        };
        range.best(known).ok_or_else(|| {
            let texts: Vec<String> = known.iter().map(Version::to_string).collect();
            let words: Vec<&str> = texts.iter().map(String::as_str).collect();
            let wanted = self.wanted.version.unwrap_or_default();
            let hint = match nearest(wanted, &words) {
                Some(meant) => format!("did you mean {meant}? {}", last_ones(known)),
                None => last_ones(known),
            };
            self.asked.no_version(self.wanted, hint)
        })
    }

    fn found(&self, version: &Version, place: super::Place, digests: Vec<super::Digest>) -> Found {
        Found { version: Some(version.to_string()), lineage: self.lower.clone(), place, digests }
    }
}

/// The highest versions.
fn last_ones(known: &[Version]) -> String {
    let mut sorted: Vec<&Version> = known.iter().collect();
    sorted.sort();
    let last: Vec<String> = sorted.iter().rev().take(SUGGESTIONS_MAX).rev().map(ToString::to_string).collect();
    match last.is_empty() {
        true => "it has none".to_owned(),
        false => format!("its last versions are {}", last.join(", ")),
    }
}

/// A package's id as the flat container spells it.
fn lower_id(id: &str) -> Result<String, String> {
    let well_formed = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_');
    if id.chars().count() > ID_LEN_MAX || !id.split(['.', '-']).all(well_formed) {
        return Err(format!("`{id}` is no NuGet id: letters and digits are wanted, with single `.` or `-` between"));
    }
    escaped_path(&id.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_lower_case_and_no_paths() {
        assert_eq!(lower_id("Acme.Web-Core_2").as_deref(), Ok("acme.web-core_2"));
        for bad in ["", "..", "a..b", "a/b", ".a", "a.", "a b", "a?b", "a'b", &"x".repeat(101)] {
            assert!(lower_id(bad).is_err(), "{bad}");
        }
    }
}
