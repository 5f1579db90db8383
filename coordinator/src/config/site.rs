//! `[[site]]` of `coordinator.toml`: a site's time zone, its WAN limits by the hour, and its maintenance windows.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;
use shoal_proto::limits::{CALENDAR_ENTRIES_MAX, RATE_LIMIT_MIN};
use shoal_proto::rollout::units::parse_rate;
use shoal_proto::time::WallTime;
use shoal_proto::wan::calendar::{Calendar, Days, Entry, Hours, LocalTime};
use toml::Spanned;

use super::{Wrong, at, zone};

/// What is known of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteConfig {
    /// How fast it may read over its WAN, and when.
    pub calendar: Calendar,
    /// The hours in which steps may start on its nodes; at any if there are none.
    pub maintenance: Vec<Hours>,
    /// In which zone its calendar and its windows are.
    pub timezone: TimeZone,
}

impl Default for SiteConfig {
    fn default() -> Self {
        Self { calendar: Calendar::default(), maintenance: Vec::new(), timezone: TimeZone::UTC }
    }
}

impl SiteConfig {
    /// What the site's clocks show.
    pub fn local(&self, now: WallTime) -> LocalTime {
        let millis = i64::try_from(now.0).unwrap_or(i64::MAX);
        // Past the year 9999 it is always the last moment of it.
        let local =
            Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX).to_zoned_datetime(self.timezone.clone());
        let (hour, minute) = (local.hour().unsigned_abs(), local.minute().unsigned_abs());
        LocalTime {
            weekday: local.weekday().to_monday_zero_offset().unsigned_abs(),
            minute: u16::from(hour) * 60 + u16::from(minute),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSite {
    pub(super) name: Spanned<String>,
    wan_limit: Option<Spanned<String>>,
    timezone: Option<Spanned<String>>,
    #[serde(default)]
    calendar: Vec<RawEntry>,
    maintenance: Option<Spanned<Vec<RawHours>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHours {
    days: Spanned<String>,
    from: Spanned<String>,
    to: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    days: Spanned<String>,
    from: Spanned<String>,
    to: Spanned<String>,
    wan_limit: Spanned<String>,
}

impl RawSite {
    pub(super) fn check(self) -> Result<SiteConfig, Wrong> {
        let name = self.name.get_ref();
        let timezone = match &self.timezone {
            Some(text) => zone(text)?,
            None if !self.calendar.is_empty() => {
                return Err(at(&self.name, format!("site `{name}` has a `calendar` but no `timezone`")));
            }
            None if self.maintenance.is_some() => {
                return Err(at(&self.name, format!("site `{name}` has `maintenance` but no `timezone`")));
            }
            None => TimeZone::UTC,
        };
        if self.calendar.len() > CALENDAR_ENTRIES_MAX {
            let problem = format!("{} entries in a calendar, {CALENDAR_ENTRIES_MAX} are allowed", self.calendar.len());
            return Err(at(&self.name, problem));
        }
        let base = self.wan_limit.as_ref().map(rate).transpose()?.flatten();
        let entries = self.calendar.iter().map(RawEntry::check).collect::<Result<_, _>>()?;
        let maintenance = self.maintenance.as_ref().map_or_else(|| Ok(Vec::new()), windows)?;
        Ok(SiteConfig { calendar: Calendar { base, entries }, maintenance, timezone })
    }
}

/// A site's maintenance windows, of which there is one at least where the key stands.
fn windows(list: &Spanned<Vec<RawHours>>) -> Result<Vec<Hours>, Wrong> {
    if list.get_ref().is_empty() {
        let problem =
            "no hour is left in which a step could start: leave `maintenance` out for all, or use a [[freeze]]";
        return Err(at(list, problem.to_owned()));
    }
    if list.get_ref().len() > CALENDAR_ENTRIES_MAX {
        let problem = format!("{} windows, {CALENDAR_ENTRIES_MAX} are allowed", list.get_ref().len());
        return Err(at(list, problem));
    }
    let hours = |raw: &RawHours| {
        let days = Days::parse(raw.days.get_ref()).map_err(|error| at(&raw.days, error.to_string()))?;
        Hours::new(days, raw.from.get_ref(), raw.to.get_ref()).map_err(|error| at(&raw.from, error.to_string()))
    };
    list.get_ref().iter().map(hours).collect()
}

impl RawEntry {
    fn check(&self) -> Result<Entry, Wrong> {
        let days = Days::parse(self.days.get_ref()).map_err(|error| at(&self.days, error.to_string()))?;
        let limit = rate(&self.wan_limit)?;
        Entry::new(days, self.from.get_ref(), self.to.get_ref(), limit)
            .map_err(|error| at(&self.from, error.to_string()))
    }
}

/// A limit in bytes per second, or `none`.
fn rate(text: &Spanned<String>) -> Result<Option<u64>, Wrong> {
    if text.get_ref() == "none" {
        return Ok(None);
    }
    match parse_rate(text.get_ref()) {
        Ok(rate) if rate < RATE_LIMIT_MIN => {
            Err(at(text, format!("`{}` is too little: at least {RATE_LIMIT_MIN} B/s are wanted", text.get_ref())))
        }
        Ok(rate) => Ok(Some(rate)),
        Err(error) => Err(at(text, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use shoal_proto::id::Name;

    use super::super::Config;

    const TOML: &str = r#"data_dir = "/d"
[[site]]
name = "syd"
timezone = "Australia/Sydney"
wan_limit = "50 Mbit/s"
calendar = [
  { days = "mon-fri", from = "08:00", to = "18:00", wan_limit = "5 Mbit/s" },
  { days = "sun", from = "02:00", to = "03:00", wan_limit = "none" },
]
"#;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("c.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_calendar_goes_by_the_clocks_of_the_site() {
        let config = parse(TOML).unwrap();
        let site = &config.sites[&Name::new("syd").unwrap()];
        let limit = |utc: &str| {
            let millis = utc.parse::<jiff::Timestamp>().unwrap().as_millisecond();
            site.calendar.at(site.local(shoal_proto::time::WallTime(u64::try_from(millis).unwrap()))).0
        };
        // Sydney is 10 hours ahead of UTC in July and 11 in November.
        assert_eq!(limit("2026-07-05T21:59:00Z"), Some(6_250_000));
        assert_eq!(limit("2026-07-05T22:00:00Z"), Some(625_000), "Monday, 08:00");
        assert_eq!(limit("2026-11-15T20:59:00Z"), Some(6_250_000));
        assert_eq!(limit("2026-11-15T21:00:00Z"), Some(625_000), "Monday, 08:00");
        // On 4 October 2026, a Sunday, clocks go from 02:00 to 03:00; on 5 April they show 02:00 to 03:00 twice.
        assert_eq!(limit("2026-10-03T15:59:00Z"), Some(6_250_000));
        assert_eq!(limit("2026-10-03T16:00:00Z"), Some(6_250_000));
        assert_eq!(["2026-04-04T15:30:00Z", "2026-04-04T16:30:00Z"].map(limit), [None, None]);
        assert_eq!(limit("2026-04-04T17:00:00Z"), Some(6_250_000));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let cases = [
            ("Australia/Sydney", "Mars/Olympus", "c.toml:4: `Mars/Olympus` is no time zone"),
            ("timezone = \"Australia/Sydney\"", "", "c.toml:3: site `syd` has a `calendar` but no `timezone`"),
            ("mon-fri", "mon-fry", "c.toml:7: `mon-fry` are no days"),
            ("18:00", "8 pm", "c.toml:7: `8 pm` is no time of day"),
            ("18:00", "08:00", "c.toml:7: from `08:00` to `08:00` is no time"),
            ("50 Mbit/s", "50", "c.toml:5: "),
            ("50 Mbit/s", "50 kbit/s", "c.toml:5: `50 kbit/s` is too little"),
            ("calendar = [", "maintenance = []\ncalendar = [", "c.toml:6: no hour is left in which a step could start"),
            (
                "calendar = [",
                "maintenance = [{ days = \"daily\", from = \"22\", to = \"05:00\" }]\ncalendar = [",
                "c.toml:6: `22` is no time of day",
            ),
        ];
        for (right, wrong, message) in cases {
            let error = parse(&TOML.replace(right, wrong)).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
