//! Which sites are shut at this hour: their windows, the freezes of the configuration, and those of operators, told to the
//! core as they change.
//!
//! They are looked at before anything is decided in another minute than the last time, so that nothing is decided by hours
//! that are over, not even after the machine slept or its clock was set.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::civil::Time as CivilTime;
use jiff::{Span, ToSpan};
use shoal_proto::coordinator::{Created, Input, Record};
use shoal_proto::hours::{Closed, Freeze, Frozen, Shut, SiteHours};
use shoal_proto::id::Name;
use shoal_proto::limits::FREEZES_MAX;
use shoal_proto::manifest::Manifest;
use shoal_proto::rollout::barrier::together;
use shoal_proto::time::WallTime;
use tracing::info;

use super::Server;
use super::limits::MINUTE_MS;
use crate::api::types::{Done, DoneSchema, FreezeRequest, ShutSite, ShutWhy, ThawRequest};
use crate::api::{ApiError, ErrorCode};
use crate::config::Config;
use crate::config::site::SiteConfig;
use crate::moment;

/// Begins and ends of freezes and windows that are looked through for when a site opens: a freeze that ends outside of a
/// window, in which the next one begins, and so on.
const OPENINGS_LOOKED_AT_MAX: usize = 16;

/// For how long sites are looked at for whether they are open at the same time: windows come again every week, and the clocks
/// of one site may be changed in the first.
const TOGETHER_LOOK: Duration = Duration::from_secs(14 * 24 * 3600);

/// Moments that are looked at for that.
const TOGETHER_LOOKED_AT_MAX: usize = 10_000;

/// The hours that were looked at last, and for how long they hold.
#[derive(Debug, Default)]
pub(super) struct HoursKept {
    from: WallTime,
    until: WallTime,
}

impl Server {
    /// Tells the core which sites are shut, if that may be others by now.
    pub(super) fn keep_hours(&mut self) {
        let now = self.now();
        let HoursKept { from, until } = self.hours;
        if from <= now.wall && now.wall < until {
            return;
        }
        let minute = now.wall.0 - now.wall.0 % MINUTE_MS;
        let ends = self.core.frozen().values().filter_map(|freeze| freeze.to).filter(|to| *to > now.wall);
        let until = ends.min().unwrap_or(WallTime(u64::MAX)).min(WallTime(minute + MINUTE_MS));
        self.hours = HoursKept { from: WallTime(minute), until };
        let sites = self.known_sites();
        let shut = shut(&self.config, self.core.frozen(), &sites, now.wall);
        if shut != *self.core.shut() {
            for site in shut.keys().filter(|site| !self.core.shut().contains_key(*site)) {
                info!(%site, why = ?shut[site].why, "no step starts at a site");
            }
            for site in self.core.shut().keys().filter(|site| !shut.contains_key(*site)) {
                info!(%site, "steps start at a site");
            }
            self.core.handle(Input::Hours(shut), now);
        }
    }

    /// When the hours are to be looked at again.
    pub(super) fn hours_end(&self) -> WallTime {
        self.hours.until
    }

    fn known_sites(&self) -> BTreeSet<Name> {
        let members = self.core.directory().members().map(|member| &member.membership.site);
        self.config.sites.keys().chain(members).cloned().collect()
    }

    /// An operator has nothing start at some sites, or at all.
    pub(super) fn freeze(&mut self, request: &FreezeRequest) -> Result<Done, ApiError> {
        let now = self.now().wall;
        let bad = |problem: String| ApiError::new(ErrorCode::BadRequest, problem);
        self.check_sites(&request.sites)?;
        let to = match (&request.until, request.for_ms) {
            (Some(_), Some(_)) => return Err(bad("either until a time or for a time".to_owned())),
            (Some(text), None) => Some(moment::parse(text, &self.config.timezone, now).map_err(bad)?),
            (None, span) => span.map(|span| WallTime(now.0.saturating_add(span))),
        };
        if to.is_some_and(|to| to <= now) {
            return Err(bad("the time until which nothing should start is over".to_owned()));
        }
        let held = self.core.frozen().values().filter(|freeze| freeze.holds(now)).count();
        if held + request.sites.len().max(1) > FREEZES_MAX {
            let next = "freeze all sites at once, or end a freeze with `shoal thaw`";
            return Err(bad(format!("there are {FREEZES_MAX} freezes at most")).next(next));
        }
        for site in of_request(&request.sites) {
            let freeze = Freeze { from: now, to, reason: request.reason.clone() };
            self.handle(Input::Freeze { site, freeze: Some(freeze) });
        }
        self.look_at_hours();
        let until = to.map_or_else(
            || "until `shoal thaw`".to_owned(),
            |to| format!("until {}", moment::show(to, &self.config.timezone)),
        );
        Ok(said(format!("no step starts {} {until}; what runs is let finish", at_sites(&request.sites))))
    }

    /// An operator ends freezes of operators.
    pub(super) fn thaw(&mut self, request: &ThawRequest) -> Result<Done, ApiError> {
        self.check_sites(&request.sites)?;
        let sites: Vec<_> = of_request(&request.sites).collect();
        let now = self.now().wall;
        let frozen = |site: &Option<Name>| self.core.frozen().get(site).is_some_and(|freeze| freeze.holds(now));
        if let Some(site) = sites.iter().find(|site| !frozen(site)) {
            let place = site.as_ref().map_or("all sites were".to_owned(), |site| format!("site {site} was"));
            let error = ApiError::new(ErrorCode::Conflict, format!("{place} not frozen by an operator"));
            return Err(error.next("`shoal sites ls` shows what holds; what is in coordinator.toml ends there"));
        }
        for site in sites {
            self.handle(Input::Freeze { site, freeze: None });
        }
        self.look_at_hours();
        Ok(said(format!("operators let steps start {} again", at_sites(&request.sites))))
    }

    /// What operators see of a site that is shut.
    pub(super) fn shut_site(&self, site: &Name, shut: &Shut) -> ShutSite {
        let (why, reason) = match &shut.why {
            Closed::Window => (ShutWhy::Window, None),
            Closed::Freeze { reason } => (ShutWhy::Freeze, Some(reason.clone())),
        };
        ShutSite { site: site.to_string(), why, reason, until: shut.until.map(Into::into) }
    }

    /// That a site is shut and until when, on its own clocks.
    pub(super) fn describe_shut(&self, site: &Name, shut: &Shut) -> String {
        let zone = self.config.sites.get(site).map_or(&self.config.timezone, |site| &site.timezone);
        let until = shut.until.map(|until| moment::show(until, zone));
        match (&shut.why, until) {
            (Closed::Window, Some(until)) => format!("site {site} waits for its maintenance window at {until}"),
            (Closed::Window, None) => format!("site {site} is outside its maintenance windows"),
            (Closed::Freeze { reason }, Some(until)) => format!("site {site} is frozen until {until}: {reason}"),
            (Closed::Freeze { reason }, None) => format!("site {site} is frozen: {reason}"),
        }
    }

    /// What keeps a step with `sync: barrier` from ever starting, as far as that can be known.
    pub(super) fn never_together(&self, manifest: &Manifest, created: &Created) -> Option<String> {
        let when = created.options.when;
        let (step, lanes) = together(manifest, &created.sites)?;
        let from = when.at.map_or(self.now().wall, |at| at.max(self.now().wall));
        let free = created.options.stage_only || when.any_hour || manifest.rollback.is_some();
        let mut apart = lanes.iter().filter(|sites| !free && !meet(&self.config, self.core.frozen(), sites, from));
        let windows = |site: &&&Name| {
            let config = self.config.sites.get(**site)?;
            let hours: Vec<String> = config.maintenance.iter().map(ToString::to_string).collect();
            let zone = config.timezone.iana_name().unwrap_or("its own time");
            (!hours.is_empty()).then(|| format!("{site} {} ({zone})", hours.join(", ")))
        };
        let windows: Vec<String> = apart.next()?.iter().filter_map(|site| windows(&site)).collect();
        Some(format!(
            "step {step} starts on all nodes together (`sync: barrier`), and their sites are not open at the same time: {}",
            windows.join("; ")
        ))
    }

    fn look_at_hours(&mut self) {
        self.hours = HoursKept::default();
        self.keep_hours();
        self.limits_at = std::time::Instant::now();
    }

    fn check_sites(&self, sites: &[Name]) -> Result<(), ApiError> {
        let known = self.known_sites();
        match sites.iter().find(|site| !known.contains(*site)) {
            Some(site) => {
                let error = ApiError::new(ErrorCode::NotFound, format!("there is no site {site}"));
                Err(error.next("`shoal sites ls` lists them"))
            }
            None => Ok(()),
        }
    }
}

fn of_request(sites: &[Name]) -> impl Iterator<Item = Option<Name>> {
    let all = sites.is_empty().then_some(None);
    all.into_iter().chain(sites.iter().cloned().map(Some))
}

pub(super) fn at_sites(sites: &[Name]) -> String {
    let names: Vec<&str> = sites.iter().map(Name::as_str).collect();
    if names.is_empty() { "at any site".to_owned() } else { format!("at {}", names.join(", ")) }
}

fn said(message: String) -> Done {
    Done { schema: DoneSchema::V1, message, nodes: Vec::new() }
}

/// The sites that are shut as a coordinator starts with these records: those of its deployments that are known.
pub(super) fn shut_at_start(config: &Config, records: &[Record], now: WallTime) -> BTreeMap<Name, Shut> {
    let frozen = Record::frozen(records);
    let of_deployments = records.iter().filter_map(|record| match record {
        Record::Created(created) | Record::Joined(created) => Some(created.sites.values().cloned()),
        _ => None,
    });
    let sites = config.sites.keys().cloned().chain(of_deployments.flatten()).collect();
    shut(config, &frozen, &sites, now)
}

/// Which of `sites` are shut at `now`.
fn shut(config: &Config, frozen: &Frozen, sites: &BTreeSet<Name>, now: WallTime) -> BTreeMap<Name, Shut> {
    let none = SiteConfig { timezone: config.timezone.clone(), ..SiteConfig::default() };
    let shut = |name: &Name| {
        let site = config.sites.get(name).unwrap_or(&none);
        let hours = hours_of(config, frozen, name, site);
        let why = hours.closed(site.local(now), now)?;
        Some((name.clone(), Shut { why, until: opens_at(site, &hours, now) }))
    };
    sites.iter().filter_map(shut).collect()
}

fn hours_of(config: &Config, frozen: &Frozen, name: &Name, site: &SiteConfig) -> SiteHours {
    let configured = config.freezes.iter().filter(|freeze| freeze.is_for(name)).map(|freeze| freeze.on(&site.timezone));
    let of_operators = [None, Some(name.clone())].into_iter().filter_map(|of| frozen.get(&of).cloned());
    SiteHours { maintenance: site.maintenance.clone(), freezes: configured.chain(of_operators).collect() }
}

/// Whether these sites are open at the same time at some moment from `from` on. A freeze without an end is said elsewhere.
fn meet(config: &Config, frozen: &Frozen, sites: &BTreeSet<&Name>, from: WallTime) -> bool {
    let none = SiteConfig { timezone: config.timezone.clone(), ..SiteConfig::default() };
    let (mut at, mut until) = (from, from + TOGETHER_LOOK);
    for _ in 0..TOGETHER_LOOKED_AT_MAX {
        let mut opens = at;
        for name in sites {
            let site = config.sites.get(*name).unwrap_or(&none);
            let hours = hours_of(config, frozen, name, site);
            let Some(closed) = hours.closed(site.local(at), at) else { continue };
            let Some(next) = opens_at(site, &hours, at) else { return true };
            if matches!(closed, Closed::Freeze { .. }) {
                until = until.max(next + TOGETHER_LOOK);
            }
            opens = opens.max(next);
        }
        if opens == at || opens > until {
            return opens == at;
        }
        at = opens;
    }
    true
}

/// When a site that is shut opens next; none if that is not known, or too far away.
fn opens_at(site: &SiteConfig, hours: &SiteHours, now: WallTime) -> Option<WallTime> {
    let mut at = now;
    for _ in 0..OPENINGS_LOOKED_AT_MAX {
        match hours.closed(site.local(at), at) {
            None => return Some(at),
            Some(Closed::Freeze { .. }) => at = hours.freeze(at)?.to?,
            Some(Closed::Window) => {
                let begins = next_window(site, hours.next_window(site.local(at))?, at)?;
                // Where clocks skip the begin or show it twice, it is looked for minute by minute.
                at = begins.max(WallTime(at.0 + MINUTE_MS));
            }
        }
    }
    None
}

/// When clocks of a site show a minute of a day, so many days after they show `at`.
fn next_window(site: &SiteConfig, (days, minute): (u8, u16), at: WallTime) -> Option<WallTime> {
    let today = moment::shown(at, &site.timezone).date();
    let ahead: Span = i64::from(days).days().minutes(i64::from(minute));
    moment::moment(today.to_datetime(CivilTime::midnight()).checked_add(ahead).ok()?, &site.timezone)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const TOML: &str = r#"data_dir = "/d"
timezone = "UTC"
[[site]]
name = "osl"
timezone = "Europe/Oslo"
maintenance = [{ days = "mon-fri", from = "22:00", to = "05:00" }]
[[site]]
name = "syd"
timezone = "Australia/Sydney"
maintenance = [{ days = "sun", from = "02:15", to = "02:45" }, { days = "sat", from = "20:00", to = "21:00" }]
[[freeze]]
reason = "end of the year"
from = "2026-12-20"
to = "2027-01-03"
"#;

    fn at(utc: &str) -> WallTime {
        WallTime(u64::try_from(utc.parse::<jiff::Timestamp>().unwrap().as_millisecond()).unwrap())
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn shut_at(frozen: &Frozen, site: &str, now: &str) -> Option<(Closed, Option<WallTime>)> {
        let config = Config::parse(TOML, Path::new("c.toml")).unwrap();
        let shut = shut(&config, frozen, &[name(site)].into(), at(now));
        shut.get(&name(site)).map(|shut| (shut.why.clone(), shut.until))
    }

    fn frozen(reason: &str) -> Closed {
        Closed::Freeze { reason: reason.to_owned() }
    }

    #[test]
    fn a_site_is_shut_outside_its_windows_on_its_own_clocks() {
        let none = Frozen::new();
        let until = |text: &str| Some((Closed::Window, Some(at(text))));
        // Oslo is an hour ahead of UTC in November.
        assert_eq!(shut_at(&none, "osl", "2026-11-27T20:59:00Z"), until("2026-11-27T21:00:00Z"));
        assert_eq!(shut_at(&none, "osl", "2026-11-27T21:00:00Z"), None);
        assert_eq!(shut_at(&none, "osl", "2026-11-28T03:59:00Z"), None, "the night after Friday");
        assert_eq!(shut_at(&none, "osl", "2026-11-28T04:00:00Z"), until("2026-11-30T21:00:00Z"));
        assert_eq!(shut_at(&none, "lab", "2026-11-27T20:59:00Z"), None, "it has no windows");
    }

    #[test]
    fn an_hour_that_clocks_skip_opens_nothing_and_one_that_they_show_twice_opens_twice() {
        let none = Frozen::new();
        // On 4 October 2026 Sydney's clocks go from 02:00 to 03:00: the window of this Sunday never comes.
        let after = shut_at(&none, "syd", "2026-10-03T11:30:00Z").unwrap().1;
        assert_eq!(after, Some(at("2026-10-10T09:00:00Z")), "Saturday after it, 20:00");
        // On 5 April they show 02:00 to 03:00 twice.
        for open in ["2026-04-04T15:20:00Z", "2026-04-04T16:20:00Z"] {
            assert_eq!(shut_at(&none, "syd", open), None, "{open}");
        }
        assert!(shut_at(&none, "syd", "2026-04-04T15:50:00Z").is_some());
    }

    #[test]
    fn sites_whose_windows_do_not_overlap_never_meet() {
        let hours = |zone: &str, days: &str, from: &str, to: &str| {
            format!("timezone = '{zone}'\nmaintenance = [{{ days = '{days}', from = '{from}', to = '{to}' }}]\n")
        };
        let oslo = hours("Europe/Oslo", "daily", "22:00", "02:00");
        for (other, wanted) in [
            (hours("Europe/Oslo", "daily", "01:59", "03:00"), true),
            (hours("Europe/Oslo", "daily", "02:00", "22:00"), false),
            (hours("Europe/Oslo", "sun", "21:00", "22:01"), true),
            // Sydney is ten hours ahead of Oslo in November.
            (hours("Australia/Sydney", "daily", "08:00", "12:00"), true),
            (hours("Australia/Sydney", "daily", "22:00", "02:00"), false),
            ("timezone = 'UTC'\n".to_owned(), true),
        ] {
            let freeze = "[[freeze]]\nreason = 'sale'\nfrom = '2026-11-20'\nto = '2026-12-24'\n";
            for freeze in ["", freeze] {
                let text = format!(
                    "data_dir = '/d'\ntimezone = 'UTC'\n{freeze}[[site]]\nname = 'osl'\n{oslo}[[site]]\nname = 'b'\n{other}"
                );
                let config = Config::parse(&text, Path::new("c.toml")).unwrap();
                let (osl, b) = (name("osl"), name("b"));
                let met = meet(&config, &Frozen::new(), &[&osl, &b].into(), at("2026-11-27T12:00:00Z"));
                assert_eq!(met, wanted, "{other}{freeze}");
            }
        }
    }

    #[test]
    fn a_freeze_opens_into_the_next_window() {
        let mut by_operators = Frozen::new();
        let opens = Some(at("2027-01-04T21:00:00Z"));
        assert_eq!(shut_at(&by_operators, "osl", "2026-12-23T22:00:00Z"), Some((frozen("end of the year"), opens)));
        let lab = Some((frozen("end of the year"), Some(at("2027-01-04T00:00:00Z"))));
        assert_eq!(shut_at(&by_operators, "lab", "2026-12-23T22:00:00Z"), lab);
        let freeze =
            |to: Option<&str>| Freeze { from: at("2026-11-01T00:00:00Z"), to: to.map(at), reason: "outage".into() };
        by_operators.insert(Some(name("osl")), freeze(None));
        assert_eq!(shut_at(&by_operators, "osl", "2026-11-27T22:00:00Z"), Some((frozen("outage"), None)));
        assert_eq!(shut_at(&by_operators, "lab", "2026-11-27T22:00:00Z"), None);
        by_operators.insert(None, freeze(Some("2026-11-27T23:30:00Z")));
        let lab = Some((frozen("outage"), Some(at("2026-11-27T23:30:00Z"))));
        assert_eq!(shut_at(&by_operators, "lab", "2026-11-27T22:00:00Z"), lab);
    }
}
