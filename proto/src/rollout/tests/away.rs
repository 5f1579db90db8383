//! Nodes that are away: waited for, skipped, fatal, or to catch up.

use super::*;
use crate::id::WaveIndex;
use crate::manifest::{Offline, Quorum};
use crate::rollout::view::{State, Waiting};

const AFTER: Duration = Duration::from_secs(600);

/// Two nodes and two steps; node 2 is away from the start.
fn with(offline: Offline) -> Live {
    let mut live = Live::new(Manifest { offline, ..manifest(2, vec![], vec![script("one"), script("two")]) });
    live.tell(Input::Tick);
    live.tell(Input::NodeOnline(node(1)));
    live.acquire(1);
    live
}

fn run_out(live: &mut Live) {
    live.succeed(on(1), nth(0));
    live.succeed(on(1), nth(1));
}

#[test]
fn a_node_that_is_away_is_waited_for_unless_the_file_says_otherwise() {
    let mut live = with(Offline::Wait);
    live.wait(AFTER * 100);
    assert_eq!(live.rollout.view().state, State::Blocked);
    assert_eq!(live.rollout.next_wake(), None);
}

#[test]
fn a_node_that_is_away_is_skipped_after_a_while() {
    let mut live = with(Offline::SkipAfter(AFTER));
    assert_eq!(live.rollout.next_wake(), Some((live.now.time + AFTER, Why::Offline)));
    assert_eq!(live.wait(AFTER - Duration::from_secs(1)).records, []);
    assert_eq!(runs(&live.wait(Duration::from_secs(1)).effects), [(on(1), nth(0), 1)]);
    run_out(&mut live);
    assert_eq!(live.outcome(), Some(&Outcome::SucceededWithout { excluded: 1 }));
}

#[test]
fn a_node_that_comes_back_in_time_is_not_skipped() {
    let mut live = with(Offline::SkipAfter(AFTER));
    live.wait(AFTER / 2);
    live.tell(Input::NodeOnline(node(2)));
    live.wait(AFTER);
    live.tell(Input::NodeOffline(node(2)));
    live.wait(AFTER / 2);
    assert_eq!(live.rollout.view().nodes[1].excluded, None);
}

#[test]
fn a_node_that_is_done_may_go_away() {
    let mut live = with(Offline::FailAfter(AFTER));
    live.tell(Input::NodeOnline(node(2)));
    live.acquire(2);
    for index in [0, 1] {
        live.succeed(on(1), nth(index));
        live.succeed(on(2), nth(index));
    }
    assert_eq!(live.outcome(), Some(&Outcome::Succeeded));
}

#[test]
fn a_node_that_is_away_fails_the_deployment_after_a_while() {
    let mut live = with(Offline::FailAfter(AFTER));
    live.wait(AFTER);
    assert_eq!(live.outcome(), Some(&Outcome::Failed { cause: "node `n2` was offline for too long".to_owned() }));
}

fn catching_up() -> Live {
    with(Offline::CatchUp { after: AFTER, until: AFTER * 10 })
}

#[test]
fn a_node_that_returns_runs_what_it_missed_and_goes_on_with_the_others() {
    let mut live = catching_up();
    assert_eq!(runs(&live.wait(AFTER).effects), [(on(1), nth(0), 1)], "the gate opens without it");
    live.succeed(on(1), nth(0));
    assert!(matches!(live.tell(Input::NodeOnline(node(2))).effects[..], [Effect::Acquire { .. }]));
    assert_eq!(runs(&live.acquire(2).effects), [(on(2), nth(0), 1)], "the first step, while node 1 is at the second");
    assert_eq!(runs(&live.succeed(on(2), nth(0)).effects), [(on(2), nth(1), 1)], "with the others");
    live.succeed(on(1), nth(1));
    assert_eq!(live.outcome(), None, "it is waited for again");
    live.succeed(on(2), nth(1));
    assert_eq!(live.outcome(), Some(&Outcome::Succeeded));
}

#[test]
fn a_node_that_returns_after_all_others_are_done_runs_everything() {
    let mut live = catching_up();
    live.wait(AFTER);
    run_out(&mut live);
    let view = live.rollout.view();
    assert_eq!((view.state, view.waiting), (State::Blocked, vec![Waiting::CatchingUp { node: node(2) }]));
    live.tell(Input::NodeOnline(node(2)));
    assert_eq!(runs(&live.acquire(2).effects), [(on(2), nth(0), 1)]);
    assert_eq!(runs(&live.succeed(on(2), nth(0)).effects), [(on(2), nth(1), 1)]);
    live.succeed(on(2), nth(1));
    assert_eq!(live.outcome(), Some(&Outcome::Succeeded));
}

#[test]
fn a_node_that_is_away_for_too_long_never_catches_up() {
    let mut live = catching_up();
    live.wait(AFTER);
    run_out(&mut live);
    live.wait(AFTER * 9 - Duration::from_secs(1));
    assert_eq!(live.outcome(), None);
    live.wait(Duration::from_secs(1));
    assert_eq!(live.outcome(), Some(&Outcome::SucceededWithout { excluded: 1 }));
}

#[test]
fn a_run_that_was_under_way_when_its_node_went_is_neither_waited_for_nor_repeated() {
    let mut live = catching_up();
    live.tell(Input::NodeOnline(node(2)));
    live.acquire(2);
    live.tell(Input::StepStarted { actor: on(2), step: nth(0), attempt: 1 });
    live.tell(Input::NodeOffline(node(2)));
    live.succeed(on(1), nth(0));
    assert_eq!(runs(&live.wait(AFTER).effects), [(on(1), nth(1), 1)]);
    let asked = live.tell(Input::NodeOnline(node(2))).effects;
    assert_eq!(runs(&asked), [(on(2), nth(0), 1)], "the same attempt: how did it go?");
    assert_eq!(runs(&live.succeed(on(2), nth(0)).effects), [(on(2), nth(1), 1)]);
}

#[test]
fn a_wave_of_which_all_are_away_waits_to_be_promoted() {
    let waves = vec![waves::wave("canary", &[&[2]]), waves::wave("rest", &[&[1]])];
    let offline = Offline::CatchUp { after: AFTER, until: AFTER * 10 };
    let mut live = Live::new(Manifest { offline, waves, ..manifest(2, vec![], vec![script("one")]) });
    live.tell(Input::Tick);
    live.tell(Input::NodeOnline(node(1)));
    live.acquire(1);
    live.wait(AFTER);
    assert!(live.rollout.view().waiting.contains(&Waiting::Promote { wave: WaveIndex(0), succeeded: 0, needed: 1 }));
    assert_eq!(runs(&live.operator(Operator::Promote).effects), [(on(1), nth(0), 1)]);
}

#[test]
fn nodes_that_are_all_away_may_all_return() {
    let offline = Offline::CatchUp { after: AFTER, until: AFTER * 10 };
    let mut all_away = manifest(2, vec![], vec![script("one")]);
    all_away.gate.quorum = Quorum::Percent(100);
    let mut live = Live::new(Manifest { offline, ..all_away });
    live.tell(Input::Tick);
    live.wait(AFTER);
    assert_eq!(live.outcome(), None);
    live.connect();
    live.acquire(1);
    assert_eq!(runs(&live.acquire(2).effects).len(), 2);
}
