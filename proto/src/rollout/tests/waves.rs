//! Waves: one after another, each through all steps, with a bake and a failure budget between them.

use super::*;
use crate::id::{LaneIndex, TargetIndex, WaveIndex};
use crate::manifest::{Offline, Quorum, Share, Wave};
use crate::rollout::view::{State, Waiting, WaveState};

const BAKE: Duration = Duration::from_secs(600);

/// A wave of the nodes with these numbers, a lane for each list.
pub(super) fn wave(of: &str, lanes: &[&[u8]]) -> Wave {
    let lane = |numbers: &&[u8]| numbers.iter().map(|number| TargetIndex(u16::from(*number) - 1)).collect();
    Wave {
        name: name(of),
        lanes: lanes.iter().map(lane).collect(),
        max_parallel: u16::MAX,
        bake: Duration::ZERO,
        success: Quorum::AllBut(u32::MAX),
        max_failures: Share::Count(0),
        max_failures_per_site: None,
    }
}

fn in_waves(nodes: u8, steps: Vec<Step>, waves: Vec<Wave>) -> Live {
    let mut live = Live::started(Manifest { waves, ..manifest(nodes, vec![], steps) });
    live.acquire_all();
    live
}

fn canary_and_rest(bake: Duration) -> Live {
    let waves = vec![Wave { bake, ..wave("canary", &[&[2]]) }, wave("rest", &[&[1, 3]])];
    in_waves(3, vec![script("one"), script("two")], waves)
}

fn states(live: &Live) -> Vec<WaveState> {
    live.rollout.view().waves.iter().map(|wave| wave.state).collect()
}

#[test]
fn a_wave_goes_through_all_steps_before_the_next_begins() {
    let mut live = canary_and_rest(BAKE);
    assert!(live.rollout.state.runs.keys().eq([&(nth(0), on(2))]), "only the canary");
    assert_eq!(runs(&live.succeed(on(2), nth(0)).effects), [(on(2), nth(1), 1)]);
    assert_eq!(states(&live), [WaveState::Running, WaveState::Pending]);
    assert_eq!(runs(&live.succeed(on(2), nth(1)).effects), [], "it bakes");
    assert_eq!(states(&live), [WaveState::Baking, WaveState::Pending]);
    let view = live.rollout.view();
    assert_eq!(
        (view.state, view.waiting),
        (State::Running, vec![Waiting::Bake { wave: WaveIndex(0), left_ms: 600_000 }])
    );
    assert_eq!(live.rollout.next_wake(), Some((live.now.time + BAKE, Why::Bake)));
    assert_eq!(live.wait(BAKE - Duration::from_secs(1)).records, []);
    let second = live.wait(Duration::from_secs(1));
    assert_eq!(runs(&second.effects), [(on(1), nth(0), 1), (on(3), nth(0), 1)]);
    for index in [0, 1] {
        live.succeed(on(1), nth(index));
        live.succeed(on(3), nth(index));
    }
    assert_eq!(live.outcome(), Some(&Outcome::Succeeded));
    assert_eq!(states(&live), [WaveState::Done, WaveState::Done]);
}

#[test]
fn an_operator_promotes_a_wave_before_its_bake_is_over() {
    let mut live = canary_and_rest(BAKE);
    assert_eq!(live.operator(Operator::Promote).refused, Some(Refusal::NothingToPromote), "it still runs");
    live.succeed(on(2), nth(0));
    live.succeed(on(2), nth(1));
    assert_eq!(runs(&live.operator(Operator::Promote).effects).len(), 2);
    assert_eq!(live.operator(Operator::Promote).refused, Some(Refusal::NothingToPromote), "the last wave");
}

#[test]
fn packages_come_to_all_waves_at_once() {
    let waves = vec![wave("canary", &[&[1]]), wave("rest", &[&[2]])];
    let mut live = Live::started(Manifest { waves, ..manifest(2, vec![], vec![script("one")]) });
    assert_eq!(runs(&live.acquire(1).effects), [], "GATE: the quorum is of all waves");
    assert_eq!(runs(&live.acquire(2).effects), [(on(1), nth(0), 1)]);
}

#[test]
fn lanes_go_on_each_for_itself_and_so_many_at_a_time() {
    let sites = Wave { max_parallel: 2, ..wave("all", &[&[1, 2], &[3], &[4]]) };
    let mut live = in_waves(4, vec![script("one"), script("two")], vec![sites]);
    let begun: Vec<_> = live.rollout.state.runs.keys().map(|(_, actor)| *actor).collect();
    assert_eq!(begun, [on(1), on(2), on(3)], "the third lane waits for room");
    live.succeed(on(1), nth(0));
    assert_eq!(runs(&live.succeed(on(3), nth(0)).effects), [(on(3), nth(1), 1)], "node 2 is no barrier for node 3");
    let last = live.succeed(on(3), nth(1));
    assert_eq!(runs(&last.effects), [(on(4), nth(0), 1)], "not when both are over: as soon as one is");
    assert!(last.records.iter().any(|record| record.change == Change::LaneEnded { lane: LaneIndex(1) }));
    assert_eq!(runs(&live.succeed(on(2), nth(0)).effects).len(), 2, "the second step of the first lane");
}

#[test]
fn a_step_on_the_coordinator_or_a_site_runs_once_for_all_waves() {
    let steps = vec![
        Step { on: On::Coordinator, ..script("migrate") },
        Step { on: On::Site, ..script("announce") },
        script("start"),
    ];
    let waves = vec![wave("canary", &[&[1]]), wave("rest", &[&[3], &[2]])];
    let mut live = in_waves(3, steps, waves);
    live.succeed(Actor::Coordinator, nth(0));
    live.ready();
    assert_eq!(runs(&live.succeed(on(1), nth(1)).effects), [(on(1), nth(2), 1)], "site a had its turn");
    let second = live.succeed(on(1), nth(2)).effects;
    assert_eq!(offers(&second), [(node(2), nth(1))], "site b has it");
    assert_eq!(runs(&second), [(on(3), nth(2), 1)], "a goes on");
}

/// Nodes of which the first `failures` fail at the only step, with this budget in total and per site.
fn with_failures(nodes: u8, total: &str, per_site: Option<&str>, failing: &[u8]) -> Live {
    let all: Vec<u8> = (1..=nodes).collect();
    let max_failures_per_site = per_site.map(|share| share.parse().unwrap());
    let only = Wave { max_failures: total.parse().unwrap(), max_failures_per_site, ..wave("all", &[&all]) };
    let mut live = in_waves(nodes, vec![script("one")], vec![only]);
    failing.iter().for_each(|number| drop(live.end(on(*number), nth(0), 1, failed(1))));
    live
}

#[test]
fn strictly_more_failures_than_the_budget_stop_it() {
    // How many of so many nodes may fail: none, 1 % and 100 % of 1, 2, 3 and 200.
    let table = [
        ("0", [0, 0, 0, 0]),
        ("0%", [0, 0, 0, 0]),
        ("1", [1, 1, 1, 1]),
        ("1%", [0, 0, 0, 2]),
        ("100%", [1, 2, 3, 200]),
    ];
    for (budget, allowed) in table {
        for (nodes, allowed) in [1u8, 2, 3, 200].into_iter().zip(allowed) {
            let failing: Vec<u8> = (1..=allowed).collect();
            let mut live = with_failures(nodes, budget, None, &failing);
            let view = live.rollout.view();
            assert_eq!(view.waves[0].failed, u32::from(allowed), "{budget} of {nodes}");
            assert_ne!(view.state, State::Paused, "{budget} of {nodes}: as many as the budget has");
            if allowed < nodes {
                live.end(on(allowed + 1), nth(0), 1, failed(1));
                assert_eq!(live.rollout.view().state, State::Paused, "{budget} of {nodes}: one more");
            }
        }
    }
}

#[test]
fn a_site_has_a_budget_of_its_own() {
    // Odd nodes are in one site, even ones in the other.
    let state = |per_site, failing: &[u8]| with_failures(8, "4", Some(per_site), failing).rollout.view().state;
    assert_eq!(state("1", &[1, 2]), State::Running);
    assert_eq!(state("1", &[1, 3]), State::Paused);
    assert_eq!(state("50%", &[1, 3]), State::Running);
    assert_eq!(state("50%", &[1, 3, 5]), State::Paused);
    assert_eq!(state("100%", &[1, 3, 5, 2]), State::Running);
    assert_eq!(state("100%", &[1, 3, 5, 2, 4]), State::Paused, "in total");
}

#[test]
fn excluded_nodes_do_not_count() {
    let mut live = with_failures(3, "34%", None, &[]);
    live.operator(Operator::Exclude(Which { actor: Some(on(3)), step: None }));
    live.end(on(1), nth(0), 1, failed(1));
    assert_eq!(live.rollout.view().state, State::Paused, "a third of two nodes is none");
}

/// Skipped, or to catch up: they are neither of the nodes that a share is of, nor failures.
#[test]
fn nodes_that_are_away_do_not_count() {
    let after = Duration::from_secs(600);
    for offline in [Offline::SkipAfter(after), Offline::CatchUp { after, until: after * 10 }] {
        let state = |budget: &str| {
            let only = Wave { max_failures: budget.parse().unwrap(), ..wave("all", &[&[1, 2, 3]]) };
            let steps = vec![script("one")];
            let mut live = Live::new(Manifest { offline, waves: vec![only], ..manifest(3, vec![], steps) });
            live.tell(Input::Tick);
            for number in [1, 2] {
                live.tell(Input::NodeOnline(node(number)));
                live.acquire(number);
            }
            live.wait(after);
            live.end(on(1), nth(0), 1, failed(1));
            live.rollout.view().state
        };
        assert_eq!(state("34%"), State::Paused, "a third of two nodes is none: {offline:?}");
        assert_eq!(state("1"), State::Running, "one that is away has not failed: {offline:?}");
    }
}

#[test]
fn retries_come_before_the_budget() {
    let only = Wave { max_failures: Share::Count(1), ..wave("all", &[&[1, 2]]) };
    let mut live = in_waves(2, vec![Step { retries: 1, ..script("one") }, script("two")], vec![only]);
    assert_eq!(runs(&live.end(on(1), nth(0), 1, failed(1)).effects), [(on(1), nth(0), 2)]);
    let dropped = live.end(on(1), nth(0), 2, failed(1));
    let wanted = Change::Excluded { node: node(1), why: Exclusion::Failed };
    assert!(dropped.records.iter().any(|record| record.change == wanted));
    assert_eq!(runs(&live.succeed(on(2), nth(0)).effects), [(on(2), nth(1), 1)]);
    live.succeed(on(2), nth(1));
    assert_eq!(live.outcome(), Some(&Outcome::SucceededWithout { excluded: 1 }));
}

#[test]
fn a_failure_of_a_site_or_the_coordinator_is_no_nodes_failure() {
    for step in [Step { on: On::Site, ..script("one") }, Step { on: On::Coordinator, ..script("one") }] {
        let actor = if step.on == On::Site { on(1) } else { Actor::Coordinator };
        let only = Wave { max_failures: Share::Percent(100), ..wave("all", &[&[1, 2]]) };
        let mut live = in_waves(2, vec![step], vec![only]);
        live.ready();
        live.end(actor, nth(0), 1, failed(1));
        assert_eq!(live.rollout.view().state, State::Paused);
    }
}

#[test]
fn a_wave_that_too_few_came_through_waits_to_be_promoted() {
    let canary =
        Wave { max_failures: Share::Percent(100), success: Quorum::Percent(67), ..wave("canary", &[&[1, 2, 3]]) };
    let mut live = in_waves(4, vec![script("one")], vec![canary, wave("rest", &[&[4]])]);
    live.succeed(on(1), nth(0));
    live.end(on(2), nth(0), 1, failed(1));
    assert_eq!(runs(&live.succeed(on(3), nth(0)).effects), [], "2 of 3 are less than 67 %");
    let view = live.rollout.view();
    assert_eq!(view.state, State::Blocked);
    assert_eq!(view.waiting, [Waiting::Promote { wave: WaveIndex(0), succeeded: 2, needed: 3 }]);
    assert_eq!(view.waves[0].state, WaveState::Short);
    assert_eq!(runs(&live.operator(Operator::Promote).effects), [(on(4), nth(0), 1)]);
}

#[test]
fn nobodys_success_is_none() {
    let canary = Wave { max_failures: Share::Percent(100), ..wave("canary", &[&[1]]) };
    let mut live = in_waves(2, vec![script("one")], vec![canary, wave("rest", &[&[2]])]);
    assert_eq!(runs(&live.end(on(1), nth(0), 1, failed(1)).effects), [], "a canary that died does not go on");
    assert_eq!(live.rollout.view().state, State::Blocked);

    let canary = wave("canary", &[&[1]]);
    let rest = Wave { max_failures: Share::Percent(100), ..wave("rest", &[&[2]]) };
    let mut live = in_waves(2, vec![script("one")], vec![canary, rest]);
    live.succeed(on(1), nth(0));
    live.end(on(2), nth(0), 1, failed(1));
    let cause = "wave `rest`: 0 of 1 nodes succeeded, and 1 are needed".to_owned();
    assert_eq!(live.outcome(), Some(&Outcome::Failed { cause }));
}
