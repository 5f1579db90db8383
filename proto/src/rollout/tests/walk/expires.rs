//! Walks in which the time comes, between any two messages, by which the steps are to begin, also while the coordinator is away.

use super::when::HOUR;
use super::*;

impl World {
    pub(super) fn expire(&self, worlds: &mut Vec<World>) {
        let Some(expires) = self.when.expires.filter(|_| self.may_expire) else { return };
        let (time, wall) = (self.now.time + HOUR, expires.max(self.now.wall) + HOUR);
        let too_late = !self.nodes.iter().any(begun);
        World { may_expire: false, too_late, now: Now { time, wall }, ..self.clone() }.tell(&Input::Tick, worlds);
    }
}

/// Whether any of `steps` was really started.
fn begun(node: &Target) -> bool {
    node.started.keys().any(|step| step.phase == Phase::Steps)
}

fn has_expired(world: &World) -> bool {
    matches!(world.rollout.outcome(), Some(Outcome::Failed { cause }) if cause.starts_with("it expired before"))
}

fn expiring(steps: Vec<Step>) -> World {
    let manifest = manifest(2, vec![], steps);
    let when = When { expires: Some(Now::default().wall + HOUR), ..When::default() };
    let rollout = planned(Arc::new(manifest.clone()), false, when);
    World { rollout, when, may_expire: true, ..World::new(manifest) }
}

/// What expired began nowhere, and what was lost on its way is found out.
fn honest(world: &World) {
    once(world);
    assert!(!has_expired(world) || !world.nodes.iter().any(begun), "it is said to have expired, and a step began");
}

/// With orders that arrive at once, none begins once its time is over.
fn in_time(world: &World) {
    honest(world);
    assert!(!world.too_late || !world.nodes.iter().any(begun), "its steps begin after it expired");
}

fn ends(world: &World) {
    is_over(world);
    let well = world.rollout.outcome() == Some(&Outcome::Succeeded);
    assert_ne!(well, has_expired(world), "{:?}", world.rollout.outcome());
    assert!(!well || world.nodes.iter().all(begun), "it succeeded, and a node ran nothing");
}

#[test]
fn expired_at_any_moment_it_began_in_time_or_never() {
    assert_long(walk(expiring(vec![script("one")]), in_time, ends));
    let of_sites = vec![Step { on: On::Site, ..script("one") }];
    assert_long(walk(expiring(of_sites), in_time, ends));
}

#[test]
fn expired_while_orders_are_under_way_it_says_what_is_so() {
    for (coordinator_crashes, node_crashes) in [(1, 0), (0, 1)] {
        let first = expiring(vec![script("one")]);
        walk(World { coordinator_crashes, node_crashes, slow_orders: true, ..first }, honest, ends);
    }
}
