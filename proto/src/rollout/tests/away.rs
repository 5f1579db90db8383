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

/// Nodes 1 and 3 in one site, 2 and 4 in the other; the first step is the sites'. Those of `absent` are away from the start.
fn of_sites(absent: &[u8]) -> Live {
    let offline = Offline::CatchUp { after: AFTER, until: AFTER * 10 };
    let steps = vec![Step { on: On::Site, ..script("one") }, script("two")];
    let mut live = Live::new(Manifest { offline, ..manifest(4, vec![], steps) });
    live.tell(Input::Tick);
    for number in (1..=4).filter(|number| !absent.contains(number)) {
        live.tell(Input::NodeOnline(node(number)));
        live.acquire(number);
    }
    live.wait(AFTER);
    live
}

fn back(live: &mut Live, number: u8) -> Said {
    live.tell(Input::NodeOnline(node(number)));
    live.acquire(number)
}

#[test]
fn a_step_of_a_site_that_was_away_as_a_whole_is_run_once_by_one_that_returns() {
    let mut live = of_sites(&[2, 4]);
    assert_eq!(runs(&live.ready().effects), [(on(1), nth(0), 1)]);
    live.succeed(on(1), nth(0));
    live.succeed(on(1), nth(1));
    assert_eq!(offers(&back(&mut live, 4).effects), [(node(4), nth(0))], "before its later steps");
    assert_eq!(offers(&back(&mut live, 2).effects), [], "one of the site");
    assert_eq!(runs(&live.ready().effects), [(on(4), nth(0), 1)]);
    live.succeed(on(3), nth(1));
    let done = live.succeed(on(4), nth(0)).effects;
    assert_eq!(runs(&done), [(on(2), nth(1), 1), (on(4), nth(1), 1)], "the other waited for it and does not repeat it");
    live.succeed(on(2), nth(1));
    live.succeed(on(4), nth(1));
    assert_eq!(live.outcome(), Some(&Outcome::Succeeded));
}

#[test]
fn a_step_that_a_site_has_had_is_not_run_again_by_one_that_returns() {
    let mut live = of_sites(&[4]);
    assert_eq!(runs(&live.ready().effects), [(on(1), nth(0), 1), (on(2), nth(0), 1)]);
    live.succeed(on(1), nth(0));
    live.succeed(on(2), nth(0));
    let returned = back(&mut live, 4).effects;
    assert_eq!((offers(&returned), runs(&returned)), (vec![], vec![(on(4), nth(1), 1)]));
}

#[test]
fn one_that_returns_and_does_not_answer_for_its_site_is_replaced() {
    let mut live = of_sites(&[2, 4]);
    live.ready();
    live.succeed(on(1), nth(0));
    back(&mut live, 2);
    live.wait(crate::limits::OFFER_WAIT);
    assert_eq!(live.rollout.view().waiting.iter().filter(|w| matches!(w, Waiting::Silent { .. })).count(), 1, "alone");
    assert_eq!(offers(&back(&mut live, 4).effects), [(node(4), nth(0))]);
    assert_eq!(runs(&live.tell(Input::StepReady { node: node(2), step: nth(0) }).effects), [], "too late");
    assert_eq!(offers(&live.tell(Input::NodeOffline(node(4))).effects), [(node(2), nth(0))], "lost before it was told");
    live.operator(Operator::Pause);
    assert!(live.rollout.state.elected.is_empty(), "nothing starts in a pause");
    assert_eq!(offers(&live.operator(Operator::Resume).effects), [(node(2), nth(0))]);
    assert_eq!(runs(&live.ready().effects), [(on(2), nth(0), 1)]);
    live.tell(Input::NodeOffline(node(2)));
    let late = live.tell(Input::NodeOnline(node(4))).effects;
    assert_eq!((offers(&late), runs(&late)), (vec![], vec![]), "it may have run on node 2");
}

/// The lane is at a later step meanwhile, and goes on by itself.
#[test]
fn a_site_that_joins_late_gets_the_steps_that_it_missed() {
    let steps = || vec![Step { on: On::Site, ..script("one") }, script("two"), script("three")];
    let mut live = Live::started(manifest(1, vec![], steps()));
    live.acquire_all();
    live.ready();
    assert_eq!(runs(&live.succeed(on(1), nth(0)).effects), [(on(1), nth(1), 1)]);
    let late = (node(2), name("late"));
    let options = Options { names: [late].into(), ..Options::default() };
    live.rollout.join(Arc::new(manifest(2, vec![], steps())), &options, &[(node(2), name("new"))].into());
    assert_eq!(offers(&back(&mut live, 2).effects), [(node(2), nth(0))]);
    assert_eq!(runs(&live.succeed(on(1), nth(1)).effects), [(on(1), nth(2), 1)]);
    assert_eq!(runs(&live.ready().effects), [(on(2), nth(0), 1)]);
    assert_eq!(runs(&live.succeed(on(2), nth(0)).effects), [(on(2), nth(1), 1)]);
    assert_eq!(runs(&live.succeed(on(2), nth(1)).effects), [(on(2), nth(2), 1)]);
}

#[test]
fn one_that_catches_up_goes_on_while_others_run() {
    let offline = Offline::CatchUp { after: AFTER, until: AFTER * 10 };
    let steps = ["one", "two", "three"].map(script).to_vec();
    let mut live = Live::new(Manifest { offline, ..manifest(4, vec![], steps) });
    live.tell(Input::Tick);
    for number in 1..=3 {
        live.tell(Input::NodeOnline(node(number)));
        live.acquire(number);
    }
    live.wait(AFTER);
    for index in [0, 1] {
        (1..=3).for_each(|number| drop(live.succeed(on(number), nth(index))));
    }
    back(&mut live, 4);
    assert_eq!(runs(&live.succeed(on(4), nth(0)).effects), [(on(4), nth(1), 1)], "three run the third step");
}
