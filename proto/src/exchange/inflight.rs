//! How much to ask at once of one neighbour, and what counts as slow.
//!
//! The window is what the way to the neighbour holds: its rate times the shortest time that a block took, and half of it
//! more so that it can grow, plus the block that is being sent. A way that is full has a rate that does not grow with the
//! window.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits::{
    BUSY_REST_MAX, BUSY_REST_MIN, REQUESTS_PER_NEIGHBOUR_MAX, REQUESTS_PER_NEIGHBOUR_MIN, SLOW_AGE_FIRST, SLOW_AGE_MIN,
    SLOW_FACTOR, TRANSFERS_BYTES_MIN, TRANSFERS_MIN, UPLOADS_MAX,
};
use crate::time::Time;

/// How many blocks of these sizes are asked for at a time, and how many are served.
pub(super) fn transfers_max(block_bytes: &[u32]) -> usize {
    let total: u64 = block_bytes.iter().map(|bytes| u64::from(*bytes)).sum();
    let mean = (total / (block_bytes.len() as u64).max(1)).max(1);
    let blocks = usize::try_from(TRANSFERS_BYTES_MIN.div_ceil(mean)).unwrap_or(usize::MAX);
    blocks.clamp(TRANSFERS_MIN, UPLOADS_MAX / 2)
}

/// How many requests may be open at one neighbour.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    shortest: Option<Duration>,
    since: Option<Time>,
    arrived: u32,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { size: REQUESTS_PER_NEIGHBOUR_MIN, shortest: None, since: None, arrived: 0 }
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
        self.size = size.clamp(REQUESTS_PER_NEIGHBOUR_MIN, REQUESTS_PER_NEIGHBOUR_MAX);
        self.begin(now);
    }

    /// The neighbour has no room, or failed: what was measured of the way no longer holds.
    pub(super) fn shrink(&mut self) {
        self.shortest = None;
        self.size = (self.size / 2).max(REQUESTS_PER_NEIGHBOUR_MIN);
    }
}

/// The times that recent blocks took, of all neighbours.
#[derive(Debug, Default)]
pub(super) struct Times {
    recent: VecDeque<Duration>,
    /// It is asked for far more often than a time is added.
    median: Option<Duration>,
}

impl Times {
    const KEPT: usize = 32;

    /// So many say what is usual.
    const KNOWN: usize = 4;

    pub(super) fn add(&mut self, took: Duration) {
        if self.recent.len() == Self::KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(took);
        let mut times = [Duration::ZERO; Self::KEPT];
        let times = &mut times[..self.recent.len()];
        times.iter_mut().zip(&self.recent).for_each(|(time, recent)| *time = *recent);
        let (_, median, _) = times.select_nth_unstable(times.len() / 2);
        self.median = Some(*median);
    }

    /// The median, if one is known.
    pub(super) fn usual(&self) -> Option<Duration> {
        self.median
    }

    /// How long a neighbour without a free slot is left alone: about until one of its uploads ends.
    pub(super) fn busy_rest(&self) -> Duration {
        let span = self.median.unwrap_or_default() / TRANSFERS_MIN as u32;
        span.clamp(BUSY_REST_MIN, BUSY_REST_MAX)
    }

    /// Whether a neighbour whose blocks take this long is slow, once enough is known of the others.
    pub(super) fn is_slow(&self, pace: Duration) -> bool {
        self.recent.len() >= Self::KNOWN && self.median.is_some_and(|median| pace > median * SLOW_FACTOR)
    }

    /// The age at which a request is slow; at the end of a content, when a second neighbour is to be asked too.
    pub(super) fn patience(&self, endgame: bool) -> Duration {
        let Some(median) = self.median else { return SLOW_AGE_FIRST };
        if endgame { (median * 3 / 2).max(SLOW_AGE_MIN / 4) } else { (median * SLOW_FACTOR).max(SLOW_AGE_MIN) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The window after many blocks on a way with this round trip that passes `per_second` blocks.
    fn window_found(round_trip: Duration, per_second: u32) -> usize {
        let mut window = Window::new();
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
    fn small_blocks_are_moved_in_greater_number() {
        const KIB: u32 = 1024;
        let cases = [(4096 * KIB, 6), (1024 * KIB, 6), (256 * KIB, 6), (128 * KIB, 8), (1, 16)];
        for (bytes, transfers) in cases {
            assert_eq!(transfers_max(&[bytes; 9]), transfers, "{bytes}");
        }
        assert_eq!(transfers_max(&[]), 16, "nothing to move");
    }

    #[test]
    fn slow_is_three_times_the_median_of_late() {
        let mut times = Times::default();
        assert_eq!(times.patience(false), SLOW_AGE_FIRST);
        (0..100).for_each(|_| times.add(Duration::from_secs(9)));
        (0..32).for_each(|_| times.add(Duration::from_secs(2)));
        assert_eq!(times.patience(false), Duration::from_secs(6));
        assert_eq!(times.patience(true), Duration::from_secs(3));
        (0..32).for_each(|_| times.add(Duration::from_millis(1)));
        assert_eq!(times.patience(false), SLOW_AGE_MIN);
    }

    #[test]
    fn a_busy_neighbour_is_left_alone_until_one_of_its_uploads_ends() {
        let mut times = Times::default();
        assert_eq!(times.busy_rest(), BUSY_REST_MIN);
        times.add(Duration::from_millis(120));
        assert_eq!(times.busy_rest(), Duration::from_millis(20));
        (0..32).for_each(|_| times.add(Duration::from_secs(9)));
        assert_eq!(times.busy_rest(), BUSY_REST_MAX);
    }
}
