//! Walks in which a site is shut, or opens, between any two messages, also while the coordinator is away.

use super::order::{in_order, in_waves, windowed};
use super::sites::{of_sites, once_in_a_site, once_per_site};
use super::*;

impl World {
    pub(super) fn hours(&self) -> Input {
        when::hours(if self.shut { &["a"] } else { &[] })
    }

    pub(super) fn shut_or_open(&self, worlds: &mut Vec<World>) {
        let shuts = if self.shut { Some(self.shuts) } else { self.shuts.checked_sub(1) };
        if let Some(shuts) = shuts.filter(|_| self.rollout.outcome().is_none()) {
            let other = World { shut: !self.shut, shuts, ..self.clone() };
            other.tell(&other.hours(), worlds);
        }
    }
}

/// None of its nodes starts a step then, and all paths come to the end.
#[test]
fn shut_at_any_moment_a_site_starts_nothing() {
    assert_long(walk(World { shuts: 1, ..two_steps() }, once, succeeds));
    let first = World { shuts: 2, slow_orders: true, node_crashes: 0, coordinator_crashes: 0, ..two_steps() };
    assert_long(walk(first, once, succeeds));
}

#[test]
fn shut_at_any_moment_waves_and_retries_keep_their_order() {
    let waves = World { node_crashes: 0, shuts: 1, pauses: 1, ..in_waves(vec![windowed()]) };
    assert_long(walk(waves, in_order, succeeds));
    let steps = vec![Step { retries: 1, backoff: Duration::from_secs(1), ..script("one") }];
    let retried =
        World { node_crashes: 0, shuts: 2, failures: 2, retries: 1, ..World::new(manifest(2, vec![], steps)) };
    assert_long(walk(retried, |_| {}, is_over));
}

#[test]
fn shut_at_any_moment_a_site_runs_its_step_once() {
    let first = World { node_crashes: 0, shuts: 1, ..of_sites(Phase::Steps) };
    assert_long(walk(first, once_in_a_site, once_per_site));
    let late = World { coordinator_crashes: 0, node_crashes: 0, shuts: 3, slow_orders: true, ..of_sites(Phase::Steps) };
    assert_long(walk(late, once_in_a_site, once_per_site));
}
