//! What an exchange knows of its neighbours: what each has, what it was asked for, and how it answered.

use std::collections::BTreeMap;
use std::time::Duration;

use super::inflight::Window;
use crate::content::BlockSet;
use crate::id::BlockIndex;
use crate::limits::{NEIGHBOUR_REST_MAX, NEIGHBOUR_REST_MIN, REQUESTS_PER_NEIGHBOUR_MAX, REQUESTS_PER_NEIGHBOUR_MIN};
use crate::time::Time;

/// One neighbour.
#[derive(Debug)]
pub(super) struct Neighbour {
    pub(super) has: BlockSet,
    /// What it was asked for, and when.
    pub(super) requests: BTreeMap<BlockIndex, Time>,
    pub(super) window: Window,
    /// When it was asked last.
    pub(super) asked_at: Time,
    /// It is asked for nothing before this.
    pub(super) rests_until: Time,
    /// Refusals and failures since it last delivered.
    failures: u32,
}

impl Neighbour {
    pub(super) fn new(blocks: u32) -> Self {
        Self {
            has: BlockSet::new(blocks),
            requests: BTreeMap::new(),
            window: Window::new(REQUESTS_PER_NEIGHBOUR_MIN..=REQUESTS_PER_NEIGHBOUR_MAX),
            asked_at: Time::ZERO,
            rests_until: Time::ZERO,
            failures: 0,
        }
    }

    /// Whether it may be asked for one block more.
    pub(super) fn has_room(&self, now: Time) -> bool {
        self.rests_until <= now && self.requests.len() < self.window.size()
    }

    pub(super) fn delivered(&mut self, took: Duration, now: Time) {
        self.failures = 0;
        self.window.arrived(took, now);
    }

    /// It refused or failed: it rests, longer each time.
    pub(super) fn rest(&mut self, now: Time) {
        self.window.shrink();
        let span = (NEIGHBOUR_REST_MIN * (1 << self.failures.min(16))).min(NEIGHBOUR_REST_MAX);
        self.failures = self.failures.saturating_add(1);
        self.rests_until = now + span;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_rests_longer_each_time_until_it_delivers() {
        let mut neighbour = Neighbour::new(1);
        let mut rests = || {
            neighbour.rest(Time::ZERO);
            neighbour.rests_until.since(Time::ZERO).as_millis()
        };
        assert_eq!([rests(), rests(), rests()], [50, 100, 200]);
        (0..30).for_each(|_| neighbour.rest(Time::ZERO));
        assert_eq!(neighbour.rests_until, Time::ZERO + NEIGHBOUR_REST_MAX);
        neighbour.delivered(Duration::from_millis(1), Time::from_millis(1));
        neighbour.rest(Time::ZERO);
        assert_eq!(neighbour.rests_until, Time::from_millis(50));
    }
}
