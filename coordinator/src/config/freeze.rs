//! `[[freeze]]` of `coordinator.toml`: days on which no step starts, on the clocks of each site.

use jiff::ToSpan;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use serde::Deserialize;
use shoal_proto::hours::Freeze;
use shoal_proto::id::Name;
use shoal_proto::time::WallTime;
use toml::Spanned;

use super::{SitePattern, Wrong, at};
use crate::moment;

/// A freeze of some sites, or of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreezeConfig {
    from: DateTime,
    /// Not in it any more.
    to: DateTime,
    sites: Vec<SitePattern>,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFreeze {
    reason: Spanned<String>,
    from: Spanned<String>,
    to: Spanned<String>,
    sites: Option<Spanned<Vec<String>>>,
}

impl FreezeConfig {
    /// Whether it is for a site.
    pub fn is_for(&self, site: &Name) -> bool {
        self.sites.is_empty() || self.sites.iter().any(|pattern| pattern.matches(site))
    }

    /// It on the clocks of a zone.
    pub fn on(&self, zone: &TimeZone) -> Freeze {
        let moment = |shown| moment::moment(shown, zone);
        let from = moment(self.from).unwrap_or(WallTime(0));
        Freeze { from, to: moment(self.to), reason: self.reason.clone() }
    }
}

impl RawFreeze {
    pub(super) fn check(self) -> Result<FreezeConfig, Wrong> {
        if self.reason.get_ref().trim().is_empty() {
            return Err(at(&self.reason, "a freeze says why: `reason` is empty".to_owned()));
        }
        let (from, to) = (time(&self.from, false)?, time(&self.to, true)?);
        if to <= from {
            return Err(at(&self.to, format!("`to` is not after `from`, `{}`", self.from.get_ref())));
        }
        let sites = match &self.sites {
            None => Vec::new(),
            Some(list) if list.get_ref().is_empty() => {
                return Err(at(list, "a freeze for no site: leave `sites` out for all".to_owned()));
            }
            Some(list) => {
                let sites = list.get_ref().iter().map(|text| SitePattern::new(text)).collect::<Result<_, _>>();
                sites.map_err(|problem| at(list, problem))?
            }
        };
        Ok(FreezeConfig { from, to, sites, reason: self.reason.into_inner() })
    }
}

/// A date, with a time or whole: as the end of something, it is in it.
fn time(text: &Spanned<String>, is_end: bool) -> Result<DateTime, Wrong> {
    let shown = text.get_ref();
    if let Ok(date) = shown.parse::<Date>()
        && !shown.contains(':')
    {
        let day = if is_end { date.checked_add(1.day()) } else { Ok(date) };
        return day.map(|day| day.at(0, 0, 0, 0)).map_err(|error| at(text, error.to_string()));
    }
    let wrong = |_| at(text, format!("`{shown}` is no day: write for instance `2026-12-20` or `2026-12-20 18:00`"));
    shown.parse().map_err(wrong)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::*;

    const TOML: &str = r#"data_dir = "/d"
[[freeze]]
reason = "end of the year"
from = "2026-12-20 18:00"
to = "2027-01-03"
sites = ["branch-*"]
"#;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("c.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_freeze_is_on_the_clocks_of_each_site_and_its_last_day_is_in_it() {
        let config = parse(TOML).unwrap();
        let freeze = &config.freezes[0];
        let name = |text: &str| Name::new(text).unwrap();
        assert!(freeze.is_for(&name("branch-017")) && !freeze.is_for(&name("syd")));
        let wall =
            |utc: &str| WallTime(u64::try_from(utc.parse::<jiff::Timestamp>().unwrap().as_millisecond()).unwrap());
        let oslo = freeze.on(&TimeZone::get("Europe/Oslo").unwrap());
        assert_eq!((oslo.from, oslo.to), (wall("2026-12-20T17:00:00Z"), Some(wall("2027-01-03T23:00:00Z"))));
        assert_eq!(oslo.reason, "end of the year");
        assert_eq!(freeze.on(&TimeZone::UTC).to, Some(wall("2027-01-04T00:00:00Z")));
        let all = parse(&TOML.replace("sites = [\"branch-*\"]\n", "")).unwrap();
        assert!(all.freezes[0].is_for(&name("syd")));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let cases = [
            ("2026-12-20 18:00", "Christmas", "c.toml:4: `Christmas` is no day: write for instance `2026-12-20`"),
            ("2027-01-03", "2026-12-19", "c.toml:5: `to` is not after `from`, `2026-12-20 18:00`"),
            ("[\"branch-*\"]", "[]", "c.toml:6: a freeze for no site"),
            ("branch-*", "a/b", "c.toml:6: `a/b` is not the name of a site"),
            ("end of the year", " ", "c.toml:3: a freeze says why"),
            ("reason = \"end of the year\"", "", "c.toml:2: missing key `reason`"),
        ];
        for (right, wrong, message) in cases {
            let error = parse(&TOML.replace(right, wrong)).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
