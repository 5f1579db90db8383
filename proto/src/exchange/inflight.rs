//! How much to ask at once of one neighbour, and what counts as slow.
//!
//! The window is what the way to the neighbour holds: its rate times the shortest time that a block took, and half of it
//! more so that it can grow, plus the block that is being sent. A way that is full has a rate that does not grow with the
//! window.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::limits::{SLOW_AGE_MIN, SLOW_FACTOR, TURN_GUESS};
use crate::time::Time;

/// How many requests may be open: at one neighbour, or at all of them.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    bounds: RangeInclusive<usize>,
    shortest: Option<Duration>,
    since: Option<Time>,
    arrived: u32,
}

impl Window {
    pub(super) fn new(bounds: RangeInclusive<usize>) -> Self {
        Self { size: *bounds.start(), bounds, shortest: None, since: None, arrived: 0 }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The neighbour was asked for a first block.
    pub(super) fn begin(&mut self, now: Time) {
        (self.since, self.arrived) = (Some(now), 0);
    }

    /// A block took this long, from the request on.
    pub(super) fn arrived(&mut self, took: Duration, now: Time) {
        let shortest = self.shortest.map_or(took, |shortest| took.min(shortest));
        self.shortest = Some(shortest);
        self.arrived += 1;
        let Some(since) = self.since else { return };
        let span = now.since(since);
        if self.arrived < 4 || span.is_zero() {
            return;
        }
        let on_the_way = u128::from(self.arrived) * 3 * shortest.as_nanos() / (2 * span.as_nanos());
        let size = usize::try_from(on_the_way).unwrap_or(usize::MAX).saturating_add(1);
        self.size = size.clamp(*self.bounds.start(), *self.bounds.end());
        self.begin(now);
    }

    /// The neighbour has no room, or failed: what was measured of the way no longer holds.
    pub(super) fn shrink(&mut self) {
        self.shortest = None;
        self.size = (self.size / 2).max(*self.bounds.start());
    }
}

/// The times that recent blocks took, of all neighbours.
#[derive(Debug, Default)]
pub(super) struct Times {
    recent: VecDeque<Duration>,
}

impl Times {
    const KEPT: usize = 32;

    pub(super) fn add(&mut self, took: Duration) {
        if self.recent.len() == Self::KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(took);
    }

    fn median(&self) -> Option<Duration> {
        let mut sorted: Vec<_> = self.recent.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }

    /// How long it takes until a block that was asked for can be asked of one node more.
    pub(super) fn turn(&self) -> Duration {
        self.median().unwrap_or(TURN_GUESS)
    }

    /// The age at which a request is slow; at the end of a content, when a second neighbour is to be asked too.
    pub(super) fn patience(&self, endgame: bool) -> Duration {
        let Some(median) = self.median() else { return SLOW_AGE_MIN * SLOW_FACTOR };
        if endgame { (median * 3 / 2).max(SLOW_AGE_MIN / 4) } else { (median * SLOW_FACTOR).max(SLOW_AGE_MIN) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The window after many blocks on a way with this round trip that passes `per_second` blocks.
    fn window_found(round_trip: Duration, per_second: u32) -> usize {
        let mut window = Window::new(2..=16);
        let mut now = Time::ZERO;
        window.begin(now);
        let sending = Duration::from_secs(1) / per_second;
        for _ in 0..200 {
            let size = u32::try_from(window.size()).unwrap();
            let took = (round_trip + sending).max(sending * size);
            now = now + (took / size);
            window.arrived(took, now);
        }
        window.size()
    }

    #[test]
    fn a_long_way_gets_a_large_window_and_a_slow_one_a_small_one() {
        assert!(window_found(Duration::from_millis(1), 10) <= 4, "100 ms to send a block, 1 ms there and back");
        assert_eq!(window_found(Duration::from_millis(200), 1000), 16);
        assert!((6..=14).contains(&window_found(Duration::from_millis(50), 100)), "5 blocks are on the way");
    }

    #[test]
    fn slow_is_three_times_the_median_of_late() {
        let mut times = Times::default();
        assert_eq!(times.patience(false), SLOW_AGE_MIN * SLOW_FACTOR);
        (0..100).for_each(|_| times.add(Duration::from_secs(9)));
        (0..32).for_each(|_| times.add(Duration::from_secs(2)));
        assert_eq!(times.patience(false), Duration::from_secs(6));
        assert_eq!(times.patience(true), Duration::from_secs(3));
        (0..32).for_each(|_| times.add(Duration::from_millis(1)));
        assert_eq!(times.patience(false), SLOW_AGE_MIN);
    }
}
