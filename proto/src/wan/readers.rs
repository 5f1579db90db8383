//! How many nodes of a site read over the WAN at the same time.
//!
//! A node asks its neighbours for [`TRANSFERS_MIN`] blocks at a time. As many readers land blocks about as fast as
//! neighbours pass them on, if the WAN is like a node's link; with more of them blocks arrive slowly, and all who ask for
//! them wait. A WAN that is faster than one node, or a long way, needs more. It shows when readers were faster while there
//! was nothing to fetch yet; for the rest, a number is questioned now and then. It grows while that makes the site
//! faster, and goes back when it did not.
//!
//! [`TRANSFERS_MIN`]: crate::limits::TRANSFERS_MIN

use crate::limits::{READERS_MAX, READERS_MIN};
use crate::time::Time;

/// Landings that a measurement waits for, times the number of readers: each of them landed about this many blocks.
const ROUNDS: u32 = 3;

/// Measurements after which a number that was found is questioned, first and at most: twice as many each time.
const CALM_MIN: u32 = 4;
const CALM_MAX: u32 = 32;

/// What more readers have to gain, in tenths of the rate before.
const GAIN_MIN: u64 = 11;

/// From such a gain on the number doubles instead of growing by half, as it does when readers are busy with other things.
const GAIN_MUCH: u64 = 13;

/// At less than this many tenths of the best rate, readers are: they fetch too.
const BUSY: u64 = 8;

/// The number of readers and how it is found.
#[derive(Debug)]
pub(super) struct Readers {
    limit: u32,
    /// The number before it grew last and the rate then, in bytes a second; none once it is known what that gained.
    before: Option<(u32, u64)>,
    /// Measurements since the number was questioned, and how many there have to be.
    calm: u32,
    calm_wanted: u32,
    /// The best rate, in bytes a second; what it was when more readers gained nothing.
    best: u64,
    since: Option<Time>,
    landings: u32,
    bytes: u64,
}

impl Readers {
    pub(super) fn new() -> Self {
        let (limit, calm_wanted) = (READERS_MIN, CALM_MIN);
        Self { limit, before: None, calm: 0, calm_wanted, best: 0, since: None, landings: 0, bytes: 0 }
    }

    /// How many nodes may read at the same time.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// Reading begins after a time in which nobody read.
    pub(super) fn begin(&mut self, now: Time) {
        (self.since, self.landings, self.bytes) = (Some(now), 0, 0);
    }

    /// A leased block of `bytes` landed; whether the limit changed.
    pub(super) fn landed(&mut self, bytes: u32, now: Time) -> bool {
        let since = *self.since.get_or_insert(now);
        self.landings += 1;
        self.bytes += u64::from(bytes);
        // The first ones come before there is anything to fetch.
        let rounds = if self.best == 0 { 1 } else { ROUNDS };
        let elapsed = now.since(since).as_nanos();
        if self.landings < rounds * self.limit || elapsed == 0 {
            return false;
        }
        let rate = u128::from(self.bytes) * 1_000_000_000 / elapsed;
        self.begin(now);
        let limit = self.limit;
        self.decide(u64::try_from(rate).unwrap_or(u64::MAX));
        limit != self.limit
    }

    fn decide(&mut self, rate: u64) {
        let tenths_of = |other: u64| rate / (other / 10).max(1);
        self.best = self.best.max(rate);
        let gain = self.before.take().map(|(smaller, before)| (smaller, tenths_of(before)));
        if let Some((smaller, _)) = gain.filter(|(_, gain)| *gain < GAIN_MIN) {
            (self.limit, self.best) = (smaller, rate);
            (self.calm, self.calm_wanted) = (0, (2 * self.calm_wanted).min(CALM_MAX));
            return;
        }
        let busy = tenths_of(self.best) < BUSY;
        self.calm += 1;
        if gain.is_none() && !busy && self.calm < self.calm_wanted || self.limit >= READERS_MAX {
            return;
        }
        let much = busy || gain.is_some_and(|(_, gain)| gain >= GAIN_MUCH);
        self.before = Some((self.limit, rate));
        self.calm = 0;
        self.limit = (self.limit + if much { self.limit } else { self.limit / 2 }).min(READERS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lands blocks of 1 MB on a WAN of `wan` blocks a second whose readers each do at most one block a second.
    fn limit_found(wan: u64, landings: u32) -> u32 {
        let mut readers = Readers::new();
        let mut now_nanos = 0;
        readers.begin(Time::ZERO);
        for _ in 0..landings {
            now_nanos += 1_000_000_000 / wan.min(u64::from(readers.limit()));
            readers.landed(1_000_000, Time::from_nanos(now_nanos));
        }
        readers.limit()
    }

    #[test]
    fn the_number_grows_while_the_site_gets_faster() {
        assert_eq!(limit_found(1, 59), READERS_MIN, "few readers fill this WAN");
        assert_eq!(limit_found(1, 60), READERS_MIN * 3 / 2, "that is questioned after a while");
        assert_eq!(limit_found(1, 90), READERS_MIN, "and found to be so");
        assert!((20..=45).contains(&limit_found(30, 2000)), "about 30 readers fill this one");
        assert_eq!(limit_found(u64::MAX, 1_000_000), READERS_MAX);
    }

    #[test]
    fn readers_that_were_faster_at_first_are_not_enough() {
        let mut readers = Readers::new();
        readers.begin(Time::ZERO);
        let mut now_millis = 0;
        // From the second round on they fetch too.
        for landing in 0..4 * READERS_MIN {
            now_millis += if landing < READERS_MIN { 10 } else { 30 };
            readers.landed(1_000_000, Time::from_millis(now_millis));
        }
        assert_eq!(readers.limit(), 2 * READERS_MIN);
    }
}
