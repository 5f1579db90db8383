//! When steps may start at a site: its maintenance windows and freezes, as its clocks show them.
//!
//! A site without windows is open at any hour; a freeze goes over windows. Time zones are the shell's, as for
//! [`crate::wan::calendar`]: it says what the site's clocks show, and turns the dates of freezes into moments. What an hour
//! means for a deployment is decided in [`crate::rollout`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::Name;
use crate::time::WallTime;
use crate::wan::calendar::{Hours, LocalTime};

/// A site's windows and freezes; by default none, so that steps may start at any hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteHours {
    /// Outside of these, where there are any, nothing starts.
    pub maintenance: Vec<Hours>,
    /// In these nothing starts.
    pub freezes: Vec<Freeze>,
}

/// A time in which nothing starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// From when on.
    pub from: WallTime,
    /// Until when; none until an operator ends it.
    pub to: Option<WallTime>,
    /// Why, for people.
    pub reason: String,
}

/// What operators froze while the coordinator runs: a site each, or all sites.
pub type Frozen = BTreeMap<Option<Name>, Freeze>;

/// Why nothing starts at a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Closed {
    /// It is not an hour of its maintenance windows.
    Window,
    /// It is frozen.
    Freeze {
        /// Why, for people.
        reason: String,
    },
}

/// That nothing starts at a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shut {
    /// Why.
    pub why: Closed,
    /// When it opens next, as far as that is known: for people.
    pub until: Option<WallTime>,
}

impl Freeze {
    /// Whether it holds at `now`.
    pub fn holds(&self, now: WallTime) -> bool {
        self.from <= now && self.to.is_none_or(|to| now < to)
    }
}

impl SiteHours {
    /// Why nothing starts at `now`, when the site's clocks show `local`; none if it is open.
    pub fn closed(&self, local: LocalTime, now: WallTime) -> Option<Closed> {
        if let Some(freeze) = self.freeze(now) {
            return Some(Closed::Freeze { reason: freeze.reason.clone() });
        }
        let open = self.maintenance.is_empty() || self.maintenance.iter().any(|hours| hours.contains(local));
        (!open).then_some(Closed::Window)
    }

    /// The freeze that holds at `now`; of several, the one that ends last.
    pub fn freeze(&self, now: WallTime) -> Option<&Freeze> {
        let held = self.freezes.iter().filter(|freeze| freeze.holds(now));
        held.max_by_key(|freeze| freeze.to.unwrap_or(WallTime(u64::MAX)))
    }

    /// When a window begins next, after clocks showed `local`: so many days later, at this minute of the day.
    pub fn next_window(&self, local: LocalTime) -> Option<(u8, u16)> {
        self.maintenance.iter().map(|hours| hours.next_begin(local)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wan::calendar::{Days, minute};

    fn hours(days: &str, from: &str, to: &str) -> Hours {
        Hours::new(Days::parse(days).unwrap(), from, to).unwrap()
    }

    fn freeze(from: u64, to: Option<u64>, reason: &str) -> Freeze {
        Freeze { from: WallTime(from), to: to.map(WallTime), reason: reason.to_owned() }
    }

    fn local(weekday: u8, time: &str) -> LocalTime {
        LocalTime { weekday, minute: minute(time).unwrap() }
    }

    #[test]
    fn a_site_is_open_in_its_windows_and_at_any_hour_without_them() {
        let site = SiteHours { maintenance: vec![hours("mon-fri", "22:00", "05:00")], freezes: Vec::new() };
        for (weekday, time, open) in [
            (0, "21:59", false),
            (0, "22:00", true),
            (1, "04:59", true),
            (1, "05:00", false),
            (5, "04:59", true),
            (5, "22:00", false),
            (0, "00:00", false),
        ] {
            let closed = site.closed(local(weekday, time), WallTime(0));
            assert_eq!(closed, (!open).then_some(Closed::Window), "{weekday} {time}");
        }
        assert_eq!(SiteHours::default().closed(local(3, "12:00"), WallTime(0)), None);
        assert_eq!(site.next_window(local(0, "21:59")), Some((0, 22 * 60)));
        assert_eq!(SiteHours::default().next_window(local(0, "21:59")), None);
    }

    #[test]
    fn a_freeze_goes_over_windows_from_its_begin_to_before_its_end() {
        let freezes = vec![freeze(100, Some(200), "sale"), freeze(150, Some(180), "move"), freeze(300, None, "audit")];
        let site = SiteHours { maintenance: vec![hours("daily", "00:00", "24:00")], freezes };
        for (now, reason) in [
            (99, None),
            (100, Some("sale")),
            (160, Some("sale")),
            (199, Some("sale")),
            (200, None),
            (300, Some("audit")),
            (u64::MAX, Some("audit")),
        ] {
            let wanted = reason.map(|reason| Closed::Freeze { reason: reason.to_owned() });
            assert_eq!(site.closed(local(0, "12:00"), WallTime(now)), wanted, "{now}");
        }
    }
}
