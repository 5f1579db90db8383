//! Walks through waves and windows: who begins before whom.

use super::*;
use crate::manifest::{Share, Wave};

/// Three nodes in two waves, the second with a window, and a bake between them.
pub(super) fn in_waves(steps: Vec<Step>) -> World {
    let canary = Wave { bake: Duration::from_secs(60), ..waves::wave("canary", &[&[1]]) };
    let waves = vec![canary, waves::wave("rest", &[&[2, 3]])];
    World::new(Manifest { waves, ..manifest(3, vec![], steps) })
}

pub(super) fn windowed() -> Step {
    Step { pace: Pace::Window(Share::Count(1)), ..script("one") }
}

/// No node of the second wave starts before the first is through, and in the window one runs at a time.
pub(super) fn in_order(world: &World) {
    once(world);
    let started = |index: usize| world.nodes[index].started.keys().any(|step| step.phase == Phase::Steps);
    let runs = |index: usize| world.nodes[index].seen.values().any(Option::is_none);
    let through = world.nodes[0].seen.values().filter(|outcome| outcome.is_some()).count();
    let steps = world.rollout.manifest().steps.len();
    assert!(
        !(started(1) || started(2)) || through >= steps,
        "GATE: the second wave began before the first was through"
    );
    assert!(!(runs(1) && runs(2)), "two run in a window of one");
}

#[test]
fn waves_and_windows_keep_their_order_whatever_crashes() {
    let first = World { coordinator_crashes: 2, node_crashes: 0, promotes: 1, ..in_waves(vec![windowed()]) };
    assert_long(walk(first, in_order, succeeds));
    let first = World { coordinator_crashes: 1, node_crashes: 1, ..in_waves(vec![windowed()]) };
    assert_long(walk(first, in_order, succeeds));
}

#[test]
fn paused_or_cancelled_at_any_moment_waves_end() {
    let paused = World { node_crashes: 0, pauses: 1, ..in_waves(vec![windowed()]) };
    assert_long(walk(paused, in_order, succeeds));
    let cancelled = World { node_crashes: 0, cancels: 1, ..in_waves(vec![windowed()]) };
    assert_long(walk(cancelled, in_order, is_over));
}

/// Failures that the budget pays for, or that stop a wave, or that are tried again after a while.
#[test]
fn waves_with_failures_end_and_no_attempt_runs_twice() {
    let step = Step { retries: 1, backoff: Duration::from_secs(1), ..windowed() };
    let mut first = World { node_crashes: 0, failures: 2, ..in_waves(vec![step]) };
    let mut manifest = Manifest::clone(first.rollout.manifest());
    manifest.waves.iter_mut().for_each(|wave| wave.max_failures = Share::Count(1));
    first.rollout = fresh(Arc::new(manifest), false);
    let attempts = |world: &World| {
        for target in &world.nodes {
            let started = target.started.get(&nth(0)).map_or(0, |times| *times);
            assert!(target.seen.len() >= usize::try_from(started).unwrap(), "an attempt was started twice");
        }
    };
    assert_long(walk(first, attempts, is_over));
}

/// Orders that are under way for a while, and a crash of the coordinator and of a node, all at once.
#[test]
fn with_orders_under_way_and_both_crashes_every_path_ends() {
    assert_long(walk(World { slow_orders: true, ..two_steps() }, once, succeeds));
    assert_long(walk(World { slow_orders: true, ..in_waves(vec![windowed()]) }, in_order, succeeds));
}
