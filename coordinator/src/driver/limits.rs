//! Sites' WAN limits at this hour: the calendar and what operators set in its place, told to the core as they change.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use shoal_proto::coordinator::Input;
use shoal_proto::id::Name;
use shoal_proto::limits::RATE_LIMIT_MIN;
use shoal_proto::time::WallTime;
use shoal_proto::wan::calendar::{Override, Reason};
use tracing::info;

use super::Server;
use crate::api::types::{Done, DoneSchema, LimitRequest, LimitedBy, Site};
use crate::api::{ApiError, ErrorCode};
use crate::config::site::SiteConfig;
use crate::moment;

/// Calendars go by the minute.
pub(super) const MINUTE_MS: u64 = 60_000;

impl Server {
    /// Tells the core what limits hold by now. Answers how long that stays so at least.
    pub(super) fn keep_limits(&mut self) -> Duration {
        let now = self.now().wall;
        let mut next = (now.0 - now.0 % MINUTE_MS + MINUTE_MS).min(self.hours_end().0.max(now.0));
        for site in self.limited_sites() {
            let (limit, reason) = self.limit(&site, now);
            if let Reason::Override(Some(until)) = reason {
                next = next.min(until.0);
            }
            if self.core.wan_limit(&site) != limit {
                info!(%site, limit, ?reason, "the WAN limit of a site changes");
                self.handle(Input::WanLimit { site, limit });
            }
        }
        Duration::from_millis(next.saturating_sub(now.0).max(1))
    }

    fn limited_sites(&self) -> BTreeSet<Name> {
        self.config.sites.keys().chain(self.core.overridden_sites()).cloned().collect()
    }

    /// A site's limit, and why it is that.
    pub(super) fn limit(&self, site: &Name, now: WallTime) -> (Option<u64>, Reason) {
        let config = self.config.sites.get(site).cloned().unwrap_or_default();
        config.calendar.with_override(config.local(now), self.core.limit_override(site), now)
    }

    /// What operators see of a site's limit.
    pub(super) fn show_limit(&self, name: &Name, site: Site) -> Site {
        let (wan_limit, reason) = self.limit(name, self.now().wall);
        let (limited_by, limited_until) = match reason {
            Reason::Base => (LimitedBy::Base, None),
            Reason::Entry(_) => (LimitedBy::Calendar, None),
            Reason::Override(until) => (LimitedBy::Operator, until.map(Into::into)),
        };
        let config = self.config.sites.get(name);
        Site {
            wan_limit,
            limited_by,
            limited_until,
            base_limit: config.and_then(|config| config.calendar.base),
            wan_rate: self.core.wan_rate(name, self.now().time),
            shut: self.core.shut().get(name).map(|shut| self.shut_site(name, shut)),
            timezone: config.and_then(|config| config.timezone.iana_name()).map(str::to_owned),
            ..site
        }
    }

    pub(super) fn limit_site(&mut self, site: &Name, request: &LimitRequest) -> Result<Done, ApiError> {
        let known = self.config.sites.contains_key(site)
            || self.core.directory().members().any(|member| member.membership.site == *site);
        if !known {
            let error = ApiError::new(ErrorCode::NotFound, format!("there is no site {site}"));
            return Err(error.next("`shoal sites ls` lists them"));
        }
        let config = self.config.sites.get(site).cloned().unwrap_or_default();
        let limit = over(request, &config, self.now().wall);
        let limit = limit.map_err(|problem| ApiError::new(ErrorCode::BadRequest, problem))?;
        self.handle(Input::OverrideLimit { site: site.clone(), limit });
        self.limits_at = Instant::now() + self.keep_limits();
        let until = limit.and_then(|limit| limit.until).map(crate::api::types::Timestamp::from);
        let until = until.map_or(String::new(), |until| format!(" until {until}"));
        let message = match self.limit(site, self.now().wall).0 {
            Some(rate) => format!("site {site} reads at most {rate} B/s over its WAN{until}"),
            None => format!("site {site} reads over its WAN without a limit{until}"),
        };
        Ok(Done { schema: DoneSchema::V1, message, nodes: Vec::new() })
    }
}

/// What a request asks for at a site.
fn over(request: &LimitRequest, site: &SiteConfig, now: WallTime) -> Result<Option<Override>, String> {
    let LimitRequest::Set { limit, until, for_ms } = request else { return Ok(None) };
    if limit.is_some_and(|limit| limit < RATE_LIMIT_MIN) {
        return Err(format!("a limit is at least {RATE_LIMIT_MIN} B/s"));
    }
    let until = match (until, for_ms) {
        (Some(_), Some(_)) => return Err("either until a time or for a time".to_owned()),
        (Some(text), None) => Some(moment::parse(text, &site.timezone, now)?),
        (None, span) => span.map(|span| WallTime(now.0.saturating_add(span))),
    };
    if until.is_some_and(|until| until <= now) {
        return Err("the time until which the limit should hold is over".to_owned());
    }
    Ok(Some(Override { limit: *limit, until }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(utc: &str) -> WallTime {
        WallTime(u64::try_from(utc.parse::<jiff::Timestamp>().unwrap().as_millisecond()).unwrap())
    }

    #[test]
    fn limits_that_cannot_hold_are_refused() {
        let (site, now) = (SiteConfig::default(), at("2026-11-26T06:00:00Z"));
        let set = |limit, until: Option<&str>, for_ms| {
            let request = LimitRequest::Set { limit, until: until.map(str::to_owned), for_ms };
            over(&request, &site, now)
        };
        let expected = Override { limit: Some(2_000_000), until: Some(WallTime(now.0 + 5_000)) };
        assert_eq!(set(Some(2_000_000), None, Some(5_000)), Ok(Some(expected)));
        assert_eq!(over(&LimitRequest::Default, &site, now), Ok(None));
        assert!(set(Some(1), None, None).is_err(), "too little");
        assert!(set(None, Some("2026-11-26T05:00:00Z"), None).is_err(), "over");
        assert!(set(None, Some("18:00"), Some(1)).is_err(), "both");
    }
}
