//! Walks in which a step runs once for each site: nodes are asked before they are told, fall silent, and are lost.

use super::*;

/// A step of the site of nodes 1 and 3, and of that of node 2, before `acquire` or after the gate.
pub(super) fn of_sites(phase: Phase) -> World {
    let step = || Step { on: On::Site, ..script("one") };
    let (before, steps) = if phase == Phase::Before { (vec![step()], vec![]) } else { (vec![], vec![step()]) };
    World::new(manifest(3, before, steps))
}

/// How often the only step was really started in the site of nodes 1 and 3.
fn started_in_site(world: &World) -> u32 {
    [0, 2].iter().map(|index| world.nodes[*index].started.values().sum::<u32>()).sum()
}

pub(super) fn once_in_a_site(world: &World) {
    once(world);
    assert!(started_in_site(world) <= 1, "a step of a site ran on two of its nodes");
    let knows = |target: &Target| target.seen.values().any(Option::is_some);
    for (index, target) in world.nodes.iter().enumerate().filter(|(_, target)| !target.started.is_empty()) {
        let ordered = world.rollout.state.runs.keys().any(|(_, actor)| actor.node() == Some(node(index as u8 + 1)));
        assert!(ordered || knows(target), "a node runs a step that was given to another");
    }
}

pub(super) fn once_per_site(world: &World) {
    succeeds(world);
    assert_eq!(started_in_site(world), 1, "it ran on no node of the site");
}

/// Crashes of the coordinator at every record and effect, and of nodes at any moment; who is back is not asked twice.
#[test]
fn a_step_of_a_site_runs_once_whatever_crashes() {
    assert_long(walk(of_sites(Phase::Before), once_in_a_site, once_per_site));
    assert_long(walk(of_sites(Phase::Steps), once_in_a_site, once_per_site));
}

/// Offers and orders that are under way when their node or the coordinator is lost.
#[test]
fn an_offer_that_comes_late_starts_nothing() {
    for (coordinator_crashes, node_crashes) in [(0, 1), (1, 0)] {
        let first = World { coordinator_crashes, node_crashes, slow_orders: true, ..of_sites(Phase::Steps) };
        assert_long(walk(first, once_in_a_site, once_per_site));
    }
}

/// A node that is connected and silent for a while is passed over, and what it says when it is too late starts nothing.
#[test]
fn a_node_that_answers_too_late_starts_nothing() {
    let ends = |world: &World| {
        assert!(world.rollout.state.times.acquire_began.is_some(), "it is held up: {:#?}", world.rollout.view());
        assert_eq!(started_in_site(world), 1, "it ran on no node of the site, or twice");
    };
    let first = || World { node_crashes: 0, only_before: true, ..of_sites(Phase::Before) };
    assert_long(walk(World { silences: 1, ..first() }, once_in_a_site, ends));
    assert_long(walk(World { lates: 2, slow_orders: true, ..first() }, once_in_a_site, ends));
}

/// A node that is lost for good before it was ordered holds nothing up. One that was ordered may have run the step.
#[test]
fn a_node_lost_before_it_was_ordered_is_replaced() {
    let ends = |world: &World| {
        let lost: Vec<_> = (1u8..).zip(&world.nodes).filter(|(_, target)| target.lost).collect();
        let ordered = |number: u8| world.rollout.state.runs.contains_key(&(before(0), on(number)));
        let may_have_run = lost.iter().any(|(number, _)| ordered(*number));
        let alone = lost.iter().any(|(number, _)| *number == 2);
        let began = world.rollout.state.times.acquire_began.is_some();
        assert!(began || may_have_run || alone, "a site waits for a node that is lost: {:#?}", world.rollout.view());
        assert!(!began || started_in_site(world) == 1, "it goes on, and the step ran on no node of the site");
    };
    let first = World { lost_for_good: true, slow_orders: true, ..of_sites(Phase::Before) };
    assert_long(walk(first, once_in_a_site, ends));
    // The same of one that stays connected.
    let silent = World { silences: 1, node_crashes: 0, lost_for_good: true, ..of_sites(Phase::Before) };
    let silent = World { only_before: true, ..silent };
    walk(silent, once_in_a_site, ends);
}

/// A node joins at any moment: the step runs there if its site has not had it, before what comes after it, and not if it has.
#[test]
fn a_node_that_joins_runs_the_step_of_its_site_if_that_has_not_had_it() {
    let steps = || vec![Step { on: On::Site, ..script("one") }, script("two")];
    let of_site = |world: &World, odd: bool| {
        let nodes = world.nodes.iter().enumerate().filter(|(index, _)| index.is_multiple_of(2) == odd);
        nodes.filter(|(_, node)| node.started.contains_key(&nth(0))).count()
    };
    let ends = |world: &World| {
        succeeds(world);
        assert!(world.nodes.iter().all(|node| node.started.contains_key(&nth(1))), "a node is left out");
        assert_eq!((of_site(world, true), of_site(world, false)), (1, 1), "once in each site");
    };
    let joins = Some(Arc::new(manifest(2, vec![], steps())));
    let own = World { node_crashes: 0, joins, ..World::new(manifest(1, vec![], steps())) };
    let ends_alone = |world: &World| if world.nodes.len() == 2 { ends(world) } else { succeeds(world) };
    assert_long(walk(own, none_twice, ends_alone));
    let joins = Some(Arc::new(manifest(3, vec![], steps())));
    let known = World { node_crashes: 0, joins, ..World::new(manifest(2, vec![], steps())) };
    assert_long(walk(known, none_twice, ends));
}
