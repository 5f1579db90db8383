//! Which of the places that have a package a site reads it from: the first, in the order of the configuration, that does
//! not rest after a failure.
//!
//! A place that failed rests for a while that doubles with each failure in a row, so that a site comes back to its own
//! mirror by itself. When all rest, the one whose rest ends first is tried: a site never has nowhere to read from. Kept in
//! memory alone: after a restart each place has a good name again.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::Name;
use crate::limits::{MIRROR_REST_MAX, MIRROR_REST_MIN, MIRRORS_RESTING_MAX};
use crate::time::Time;
use crate::wire::FaultKind;

/// The places that failed, by site: another site may reach what this one does not.
#[derive(Clone, Debug, Default)]
pub struct Mirrors {
    rests: BTreeMap<(Name, String), Rest>,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    failures: u32,
    until: Time,
    /// It gave other bytes than those that were resolved.
    lies: bool,
}

impl Mirrors {
    /// The index of the place that `site` reads from.
    pub fn choose(&self, site: &Name, places: &[&str], now: Time) -> usize {
        let until = |place: &&str| {
            let rest = self.rests.get(&(site.clone(), (*place).to_owned()));
            rest.map_or(Time::ZERO, |rest| rest.until).max(now)
        };
        let first = places.iter().enumerate().min_by_key(|(index, place)| (until(place), *index));
        first.map_or(0, |(index, _)| index)
    }

    /// A read of `site` from `place` failed. Answers what that means for the package, which `others` have as well: wrong or
    /// changed bytes at one of several places are that place's failure, and the end of the package only when all rest for it.
    pub fn failed(&mut self, site: &Name, place: &str, kind: FaultKind, others: &[String], now: Time) -> FaultKind {
        let lies = matches!(kind, FaultKind::Changed | FaultKind::WrongBytes);
        if !lies && !matches!(kind, FaultKind::Unanswered | FaultKind::Denied) {
            return kind;
        }
        let rest = self.rests.entry((site.clone(), place.to_owned())).or_insert(Rest { failures: 0, until: now, lies });
        rest.lies |= lies;
        // Leases that were granted before it rested fail one after the other, and are one failure.
        if rest.until <= now || lies {
            rest.failures = rest.failures.saturating_add(1);
            let doubled = MIRROR_REST_MIN.saturating_mul(1 << rest.failures.saturating_sub(1).min(16));
            rest.until = now + if lies { MIRROR_REST_MAX } else { doubled.min(MIRROR_REST_MAX) };
        }
        let is_left = lies && others.iter().any(|other| !self.lies(site, other, now));
        self.forget_some();
        if is_left { FaultKind::Unanswered } else { kind }
    }

    /// A read of `site` from `place` brought what was wanted.
    pub fn worked(&mut self, site: &Name, place: &str) {
        self.rests.remove(&(site.clone(), place.to_owned()));
    }

    /// How long `site` leaves `place` alone.
    pub fn rests(&self, site: &Name, place: &str, now: Time) -> Option<Duration> {
        let rest = self.rests.get(&(site.clone(), place.to_owned()))?;
        (rest.until > now).then(|| rest.until.since(now))
    }

    /// Whether `place` gave other bytes and rests for that. Once it has rested it may be good again.
    fn lies(&self, site: &Name, place: &str, now: Time) -> bool {
        self.rests.get(&(site.clone(), place.to_owned())).is_some_and(|rest| rest.lies && rest.until > now)
    }

    fn forget_some(&mut self) {
        while self.rests.len() > MIRRORS_RESTING_MAX {
            let earliest = self.rests.iter().min_by_key(|(_, rest)| rest.until).map(|(key, _)| key.clone());
            let Some(earliest) = earliest else { return };
            self.rests.remove(&earliest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: [&str; 3] = ["http://near/x", "http://far/x", "http://main/x"];

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    /// All places but the one at `index`.
    fn others(index: usize) -> Vec<String> {
        let others = PLACES.iter().enumerate().filter(|(other, _)| *other != index);
        others.map(|(_, place)| (*place).to_owned()).collect()
    }

    fn site(name: &str) -> Name {
        Name::new(name).unwrap()
    }

    #[test]
    fn the_first_place_that_does_not_rest_is_read_and_comes_back_by_itself() {
        let (mut mirrors, osl) = (Mirrors::default(), site("osl"));
        let rest = MIRROR_REST_MIN.as_secs();
        assert_eq!(mirrors.choose(&osl, &PLACES, at(5)), 0);
        let kind = mirrors.failed(&osl, PLACES[0], FaultKind::Unanswered, &others(0), at(5));
        assert_eq!((kind, mirrors.choose(&osl, &PLACES, at(5))), (FaultKind::Unanswered, 1));
        assert_eq!(mirrors.choose(&site("syd"), &PLACES, at(5)), 0, "another site has another way");
        mirrors.failed(&osl, PLACES[0], FaultKind::Unanswered, &others(0), at(6));
        assert_eq!(mirrors.rests(&osl, PLACES[0], at(5)), Some(MIRROR_REST_MIN), "a late lease is no second failure");
        assert_eq!(mirrors.choose(&osl, &PLACES, at(5 + rest)), 0, "failback");

        mirrors.failed(&osl, PLACES[0], FaultKind::Denied, &others(0), at(5 + rest));
        assert_eq!(mirrors.rests(&osl, PLACES[0], at(5 + rest)), Some(MIRROR_REST_MIN * 2));
        mirrors.worked(&osl, PLACES[0]);
        assert_eq!(mirrors.choose(&osl, &PLACES, at(5 + rest)), 0);
        mirrors.failed(&osl, PLACES[0], FaultKind::Unanswered, &others(0), at(5 + rest));
        assert_eq!(mirrors.rests(&osl, PLACES[0], at(5 + rest)), Some(MIRROR_REST_MIN), "it began anew");
    }

    #[test]
    fn when_all_rest_the_one_that_is_back_first_is_tried() {
        let (mut mirrors, osl) = (Mirrors::default(), site("osl"));
        for (place, second) in [(2, 1), (0, 2), (1, 3)] {
            mirrors.failed(&osl, PLACES[place], FaultKind::Unanswered, &others(place), at(second));
        }
        assert_eq!(mirrors.choose(&osl, &PLACES, at(3)), 2);
        assert_eq!(mirrors.choose(&osl, &[], at(3)), 0);
    }

    #[test]
    fn lies_of_one_of_several_places_are_not_the_end_of_a_package() {
        let (mut mirrors, osl) = (Mirrors::default(), site("osl"));
        for lie in [FaultKind::Changed, FaultKind::WrongBytes] {
            assert_eq!(mirrors.failed(&osl, PLACES[0], lie, &others(0), at(1)), FaultKind::Unanswered);
            assert_eq!(mirrors.failed(&osl, PLACES[2], lie, &[], at(1)), lie, "the only place there is");
        }
        assert_eq!(mirrors.rests(&osl, PLACES[0], at(1)), Some(MIRROR_REST_MAX));
        for own in [FaultKind::Passing, FaultKind::IgnoresRanges] {
            assert_eq!(mirrors.failed(&osl, PLACES[1], own, &others(1), at(1)), own);
            assert_eq!(mirrors.rests(&osl, PLACES[1], at(1)), None, "not the place's fault");
        }
    }

    #[test]
    fn lies_of_all_places_are_the_end_of_a_package() {
        let osl = site("osl");
        for lie in [FaultKind::Changed, FaultKind::WrongBytes] {
            let mut mirrors = Mirrors::default();
            assert_eq!(mirrors.failed(&osl, PLACES[0], lie, &others(0), at(1)), FaultKind::Unanswered);
            assert_eq!(
                mirrors.failed(&osl, PLACES[1], FaultKind::Unanswered, &others(1), at(2)),
                FaultKind::Unanswered
            );
            assert_eq!(
                mirrors.failed(&osl, PLACES[2], lie, &others(2), at(3)),
                FaultKind::Unanswered,
                "one is only down"
            );
            assert_eq!(
                mirrors.failed(&site("syd"), PLACES[1], lie, &others(1), at(4)),
                FaultKind::Unanswered,
                "elsewhere"
            );
            assert_eq!(mirrors.failed(&osl, PLACES[1], lie, &others(1), at(5)), lie, "none is left");
        }
    }

    #[test]
    fn a_place_that_has_rested_from_a_lie_is_asked_once_more_before_the_end() {
        let (mut mirrors, osl, rested) = (Mirrors::default(), site("osl"), 1 + MIRROR_REST_MAX.as_secs());
        let pair = |other: usize| vec![PLACES[other].to_owned()];
        mirrors.failed(&osl, PLACES[0], FaultKind::Changed, &pair(2), at(1));
        assert_eq!(mirrors.failed(&osl, PLACES[2], FaultKind::Changed, &pair(0), at(rested)), FaultKind::Unanswered);
        assert_eq!(mirrors.choose(&osl, &[PLACES[0], PLACES[2]], at(rested)), 0);
        assert_eq!(mirrors.failed(&osl, PLACES[0], FaultKind::Changed, &pair(2), at(rested)), FaultKind::Changed);
        mirrors.worked(&osl, PLACES[2]);
        assert_eq!(mirrors.failed(&osl, PLACES[0], FaultKind::Changed, &pair(2), at(rested)), FaultKind::Unanswered);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut mirrors, osl) = (Mirrors::default(), site("osl"));
        for number in 0..MIRRORS_RESTING_MAX as u64 + 5 {
            mirrors.failed(&osl, &number.to_string(), FaultKind::Unanswered, &others(0), at(number));
        }
        assert_eq!(mirrors.rests.len(), MIRRORS_RESTING_MAX);
    }
}
