//! How many nodes of a site read over the WAN at the same time.
//!
//! Few readers land the first blocks soon, so that the exchange starts early; a WAN that is faster than one node, or a
//! long way, needs more. So the number doubles while doing so makes the site faster (as TCP's slow start does), goes back
//! when it did not, and is tried again after a while.

use crate::limits::{READERS_MAX, READERS_MIN};
use crate::time::Time;

/// Landings that a measurement waits for, times the number of readers: each of them landed about this many blocks.
const ROUNDS: u32 = 3;

/// Landings after which a number that was found is questioned, times the number of readers.
const SETTLED_ROUNDS: u32 = 6;

/// The number of readers and how it is found.
#[derive(Debug)]
pub(super) struct Readers {
    limit: u32,
    /// The rate before the last doubling, in bytes a second; none after going back.
    before: Option<u64>,
    settled: bool,
    since: Option<Time>,
    landings: u32,
    bytes: u64,
    rate: u64,
}

impl Readers {
    pub(super) fn new() -> Self {
        Self { limit: READERS_MIN, before: None, settled: false, since: None, landings: 0, bytes: 0, rate: 0 }
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
        let rounds = if self.settled { SETTLED_ROUNDS } else { ROUNDS };
        let elapsed = now.since(since).as_nanos();
        if self.landings < rounds * self.limit || elapsed == 0 {
            return false;
        }
        let rate = u128::from(self.bytes) * 1_000_000_000 / elapsed;
        self.rate = u64::try_from(rate).unwrap_or(u64::MAX);
        self.begin(now);
        let limit = self.limit;
        self.decide();
        limit != self.limit
    }

    fn decide(&mut self) {
        let gained = self.before.is_none_or(|before| self.rate / 11 > before / 10);
        if self.settled || gained {
            self.settled = self.limit >= READERS_MAX;
            self.before = Some(self.rate);
            self.limit = (self.limit * 2).min(READERS_MAX);
        } else {
            self.settled = true;
            self.before = None;
            self.limit = (self.limit / 2).max(READERS_MIN);
        }
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
    fn readers_double_while_the_site_gets_faster() {
        assert_eq!(limit_found(1, 12), 8, "the first doubling is a question");
        assert_eq!(limit_found(1, 36), 4, "one reader fills this WAN");
        assert_eq!(limit_found(30, 400), 32, "about 30 readers fill this one");
        assert_eq!(limit_found(u64::MAX, 1_000_000), READERS_MAX);
    }
}
