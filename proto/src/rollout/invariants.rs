//! What holds of every state that a rollout comes to, whatever it was told.

use std::collections::BTreeSet;

use super::course::Course;
use super::input::Actor;
use super::sight::Sight;
use super::state::{LaneStand, Node, Stand, State};
use crate::id::{LaneIndex, StepIndex};
use crate::limits::ATTEMPTS_MAX;
use crate::manifest::{On, Phase};

/// Asserts what must hold after any prefix of any journal that `Rollout` wrote.
pub(super) fn check(sight: &Sight<'_>) {
    let state = sight.state;
    check_counts(state, sight.course);
    let gate_open = state.times.gate_opened.is_some();
    assert!(!gate_open || state.times.acquire_began.is_some(), "the gate opened before `acquire` began");
    assert!(!gate_open || !sight.stage_only, "the gate of a stage-only deployment opened");
    for ((step, actor), run) in &state.runs {
        assert!(sight.manifest.step(*step).is_some(), "{step:?} ran, but the manifest has no such step");
        assert!((1..=ATTEMPTS_MAX).contains(&run.attempt), "attempt {} at {step:?}", run.attempt);
        assert!(step.phase != Phase::Steps || gate_open, "GATE: {step:?} was ordered before the gate opened");
        let node = actor.node().and_then(|node| state.nodes.get(&node));
        let holds_all = node.is_none_or(Node::is_ready);
        assert!(step.phase != Phase::Steps || holds_all, "{actor:?} was to run {step:?} without its packages");
        assert!(run.stand != Stand::Ended || run.outcome.is_some(), "{step:?} ended without an outcome");
    }
    check_turns(sight);
    check_lanes(sight);
    check_waves(state, sight.course);
    check_places(sight);
}

fn check_counts(state: &State, course: &Course) {
    let live = || state.awaited_nodes();
    assert_eq!(state.live, live().count(), "nodes that are waited for");
    assert_eq!(state.behind, state.nodes.values().filter(|node| node.is_live() && node.behind).count(), "behind");
    assert_eq!(state.ready, live().filter(|(_, node)| node.is_ready()).count(), "nodes that are ready");
    let in_flight = || state.runs.iter().filter(|(_, run)| run.in_flight());
    assert_eq!(state.in_flight, in_flight().count(), "runs in flight");
    let mut by_lane = vec![0; state.lanes.len()];
    let on_nodes = in_flight().filter(|((step, _), _)| step.phase == Phase::Steps);
    let on_nodes = on_nodes.filter_map(|((_, actor), _)| actor.node()).filter(|node| !state.nodes[node].behind);
    on_nodes.for_each(|node| by_lane[course.lane_of(node).index()] += 1);
    assert_eq!(by_lane, state.lanes.iter().map(|lane| lane.in_flight).collect::<Vec<_>>(), "runs in flight by lane");
    let troubled = state.runs.iter().filter(|((_, actor), run)| run.is_troubled() && state.is_live(*actor));
    assert!(troubled.map(|(key, _)| key).eq(&state.troubled), "runs that something has to become of");
    assert!(state.finished.is_none() || state.in_flight == 0, "a run is in flight after the end");
    assert!(state.finished.is_none() || state.closing.is_some(), "it ended without closing");
}

/// Outside of stage `steps`, a step's turn comes when the one before is done at everyone who takes part.
fn check_turns(sight: &Sight<'_>) {
    let state = sight.state;
    let beside = || state.runs.iter().filter(|((step, _), _)| step.phase != Phase::Steps);
    for ((step, _), run) in beside() {
        assert!(!run.in_flight() || state.opened == Some(*step), "{step:?} is in flight out of its turn");
    }
    let Some(opened) = state.opened else { return };
    assert!(sight.manifest.step(opened).is_some(), "{opened:?} is no step");
    let ends = opened.phase != Phase::Before;
    assert!(!ends || state.closing.is_some(), "{opened:?} has its turn before the end");
    for ((step, actor), run) in beside().filter(|((step, _), _)| step.phase == Phase::Before && !ends) {
        let settled = run.is_done() || !state.is_live(*actor);
        assert!(*step >= opened || settled, "{opened:?} has its turn, but {step:?} is not done at {actor:?}");
        assert!(*step <= opened, "{step:?} ran before its turn");
    }
}

/// In stage `steps`, a step's turn comes to a lane when the one before is done in that lane.
fn check_lanes(sight: &Sight<'_>) {
    let (state, course) = (sight.state, sight.course);
    let stand = |lane: LaneIndex| state.lanes[lane.index()].stand;
    for ((step, actor), run) in state.runs.iter().filter(|((step, _), _)| step.phase == Phase::Steps) {
        let Some(node) = actor.node() else {
            let reached = state.lanes.iter().any(|lane| has_come_to(lane.stand, step.index));
            assert!(reached, "{step:?} ran before its turn");
            continue;
        };
        let at = stand(course.lane_of(node));
        assert!(has_come_to(at, step.index), "{step:?} ran on {actor:?} before its turn");
        let past = at != LaneStand::At(step.index);
        let settled = run.is_done() || !state.nodes[&node].is_awaited();
        assert!(!past || settled, "its lane is past {step:?}, which is not done at {actor:?}");
    }
}

fn has_come_to(stand: LaneStand, step: StepIndex) -> bool {
    match stand {
        LaneStand::Pending => false,
        LaneStand::At(at) => step <= at,
        LaneStand::Over => true,
    }
}

/// GATE: no lane of a wave begins before the wave's gate opened, which is when the wave before is through.
fn check_waves(state: &State, course: &Course) {
    let gate_open = state.times.gate_opened.is_some();
    let begun = |lane: LaneIndex| state.lanes[lane.index()].stand != LaneStand::Pending;
    let over = |lane: LaneIndex| state.lanes[lane.index()].stand == LaneStand::Over;
    let mut before_ended = gate_open;
    for (wave, index) in state.waves.iter().zip(0..) {
        let lanes = || course.lanes(crate::id::WaveIndex(index));
        assert!(!wave.opened || before_ended, "GATE: wave {index} began before its gate opened");
        assert!(wave.opened || !lanes().any(begun), "GATE: a lane of wave {index} began before its wave");
        assert!(!wave.ended || lanes().all(over), "wave {index} ended before its lanes");
        let under_way = lanes().filter(|lane| begun(*lane) && !over(*lane)).count();
        assert!(under_way <= course.waves[usize::from(index)].max_parallel, "too many lanes of wave {index} at a time");
        before_ended = wave.ended;
    }
}

/// A step runs where it says, `on: site` once.
fn check_places(sight: &Sight<'_>) {
    let mut seen = BTreeSet::new();
    for (step, node) in &sight.state.elected {
        assert!(!step.phase.is_last(), "{step:?} at the end is where its step was");
        assert!(sight.manifest.step(*step).is_some_and(|step| step.on == On::Site), "{step:?} is no site's");
        assert!(seen.insert((*step, sight.site(*node))), "two nodes are asked for {step:?} at {:?}", sight.site(*node));
        let holds_all = sight.state.nodes.get(node).is_some_and(Node::is_ready);
        assert!(step.phase != Phase::Steps || holds_all, "{node:?} is asked for {step:?} without its packages");
    }
    for (step, actor) in sight.state.runs.keys() {
        let on = sight.manifest.step(*step).map(|step| step.on);
        let site = actor.node().and_then(|node| sight.site(node));
        match on {
            Some(On::Site) => assert!(seen.insert((*step, site)), "{step:?} was ordered twice at {site:?}"),
            Some(On::Always) if step.phase == Phase::Always => {
                assert!(actor.node().is_some(), "{step:?} ran on the coordinator");
            }
            Some(On::Always) => panic!("{step:?} has its turn at the end"),
            Some(On::Node) => assert!(actor.node().is_some(), "{step:?} ran on the coordinator"),
            Some(On::Coordinator) => assert!(*actor == Actor::Coordinator, "{step:?} ran on {actor:?}"),
            None => {}
        }
    }
}
