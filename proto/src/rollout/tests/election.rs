//! Steps `on: site`: who is asked, who runs them, and what becomes of a node that is lost before or after it may start.

use super::view::{State, Waiting};
use super::*;
use crate::limits::{OFFER_WAIT, OFFER_WAIT_MAX};

const SECOND: Duration = Duration::from_secs(1);

fn only(actor: Actor) -> Which {
    Which { actor: Some(actor), step: None }
}

/// Four nodes, two in each site, that hold all; the first step is the sites'.
fn asked() -> Live {
    let steps = vec![Step { on: On::Site, ..script("one") }, script("two")];
    let mut live = Live::started(manifest(4, vec![], steps));
    live.acquire_all();
    live
}

fn in_doubt(live: &Live) -> Vec<(StepRef, NodeId)> {
    live.rollout.state.elected.iter().copied().collect()
}

#[test]
fn a_node_is_asked_before_it_is_ordered() {
    let mut live = asked();
    assert_eq!(in_doubt(&live), [(nth(0), node(1)), (nth(0), node(2))], "one of each site");
    assert!(live.rollout.state.runs.is_empty(), "nothing is ordered");
    assert_eq!(live.rollout.view().state, State::Running);
    let run = live.tell(Input::StepReady { node: node(1), step: nth(0) }).effects;
    assert_eq!(runs(&run), [(on(1), nth(0), 1)]);
    let again = live.tell(Input::StepReady { node: node(1), step: nth(0) });
    assert_eq!((again.records, again.effects), (vec![], vec![]), "once");
    assert_eq!(in_doubt(&live), [(nth(0), node(2))]);
}

#[test]
fn one_that_is_lost_before_it_may_start_is_replaced() {
    let mut live = asked();
    let lost = live.tell(Input::NodeOffline(node(1))).effects;
    assert_eq!(offers(&lost), [(node(3), nth(0))], "the other one of its site");
    let late = live.tell(Input::StepReady { node: node(1), step: nth(0) });
    assert_eq!(runs(&late.effects), [], "an answer that comes late");
    let back = live.tell(Input::NodeOnline(node(1))).effects;
    assert_eq!((offers(&back), runs(&back)), (vec![], vec![]), "it is not asked again");
    assert_eq!(runs(&live.ready().effects), [(on(2), nth(0), 1), (on(3), nth(0), 1)]);
    live.succeed(on(2), nth(0));
    assert_eq!(runs(&live.succeed(on(3), nth(0)).effects).len(), 4, "the second step, on all");
}

#[test]
fn one_that_is_connected_and_does_not_answer_is_replaced_and_answers_too_late() {
    let mut live = asked();
    live.tell(Input::StepReady { node: node(2), step: nth(0) });
    assert_eq!(live.rollout.next_wake(), Some((live.now.time + OFFER_WAIT, Why::Silent)));
    assert_eq!(live.wait(OFFER_WAIT - SECOND).records, []);
    assert_eq!(offers(&live.wait(SECOND).effects), [(node(3), nth(0))]);
    assert_eq!(in_doubt(&live), [(nth(0), node(3))]);
    let late = live.tell(Input::StepReady { node: node(1), step: nth(0) });
    assert_eq!((runs(&late.effects), late.records), (vec![], vec![]), "it answers too late");
    assert_eq!(runs(&live.ready().effects), [(on(3), nth(0), 1)]);
    let later = live.tell(Input::StepReady { node: node(1), step: nth(0) });
    assert_eq!((runs(&later.effects), later.records), (vec![], vec![]), "the other one runs it");
    assert_eq!(runs(&live.wait(OFFER_WAIT_MAX).effects), [], "who runs it is not passed over");
}

#[test]
fn where_nobody_answers_all_have_their_turn_again_and_twice_as_long() {
    let steps = vec![Step { on: On::Site, ..script("one") }];
    let mut live = Live::started(manifest(5, vec![], steps));
    live.acquire_all();
    live.tell(Input::StepReady { node: node(2), step: nth(0) });
    for (wait, next) in [(1, 3), (1, 5), (1, 1), (2, 3), (2, 5), (2, 1)] {
        assert_eq!(offers(&live.wait(wait * OFFER_WAIT - SECOND).effects), []);
        assert_eq!(offers(&live.wait(SECOND).effects), [(node(next), nth(0))]);
    }
    // One that was asked before, is passed over, and asked again, may answer.
    assert_eq!(runs(&live.ready().effects), [(on(1), nth(0), 1)]);
}

#[test]
fn the_only_one_that_could_is_waited_for_and_named() {
    let mut live = asked();
    live.tell(Input::StepReady { node: node(2), step: nth(0) });
    live.tell(Input::NodeOffline(node(3)));
    assert_eq!(live.rollout.view().state, State::Running);
    assert_eq!(live.wait(OFFER_WAIT).records, []);
    live.succeed(on(2), nth(0));
    let view = live.rollout.view();
    assert_eq!(view.waiting[0], Waiting::Silent { node: node(1), step: nth(0) });
    assert_eq!((view.state, live.rollout.next_wake()), (State::Blocked, None));
    assert_eq!(offers(&live.tell(Input::NodeOnline(node(3))).effects), [(node(3), nth(0))], "another one came");
    assert_eq!(runs(&live.ready().effects), [(on(3), nth(0), 1)]);
}

#[test]
fn one_that_is_excluded_before_it_may_start_is_replaced() {
    let mut live = asked();
    let excluded = live.operator(Operator::Exclude(only(on(1)))).effects;
    assert_eq!(offers(&excluded), [(node(3), nth(0))]);
    assert_eq!(runs(&live.ready().effects), [(on(2), nth(0), 1), (on(3), nth(0), 1)]);
}

#[test]
fn one_that_is_lost_after_it_may_have_started_is_not() {
    let mut live = asked();
    live.ready();
    let lost = live.tell(Input::NodeOffline(node(1))).effects;
    assert_eq!((offers(&lost), runs(&lost)), (vec![], vec![]));
    live.succeed(on(2), nth(0));
    assert_eq!(live.rollout.view().state, State::Blocked);
    assert_eq!(live.rollout.view().waiting[0], Waiting::Offline { node: node(1) });
    let excluded = live.operator(Operator::Exclude(only(on(1)))).effects;
    let second = [2, 3, 4].map(|number| (on(number), nth(1), 1));
    assert_eq!(runs(&excluded), second, "not on node 3: it may have run on node 1");
    assert_eq!(cancels(&excluded), [(on(1), nth(0), 1)]);
}

#[test]
fn a_restart_asks_anew_whoever_is_there() {
    let live = asked();
    let mut again = live.restarted(live.journal.len());
    assert_eq!(in_doubt(&again).len(), 2);
    again.tell(Input::Tick);
    assert_eq!(in_doubt(&again), [], "nobody is connected");
    assert_eq!(offers(&again.tell(Input::NodeOnline(node(3))).effects), [(node(3), nth(0))]);
    assert_eq!(offers(&again.tell(Input::NodeOnline(node(1))).effects), []);
    let late = again.tell(Input::StepReady { node: node(1), step: nth(0) });
    assert_eq!(runs(&late.effects), [], "what it was asked before the restart");
    assert_eq!(runs(&again.ready().effects), [(on(3), nth(0), 1)]);
}

#[test]
fn nobody_starts_in_a_pause_or_while_an_operator_is_asked() {
    let mut live = asked();
    live.operator(Operator::Pause);
    assert_eq!(in_doubt(&live), []);
    assert_eq!(runs(&live.tell(Input::StepReady { node: node(1), step: nth(0) }).effects), []);
    assert_eq!(offers(&live.operator(Operator::Resume).effects).len(), 2);
    live.tell(Input::StepReady { node: node(1), step: nth(0) });
    live.end(on(1), nth(0), 1, failed(1));
    assert_eq!(in_doubt(&live), [], "site b waits for the answer to what failed in site a");
    let answered = live.operator(Operator::Ignore(Which::default())).effects;
    assert_eq!(offers(&answered), [(node(2), nth(0))]);
}

#[test]
fn whoever_was_asked_does_not_hold_up_the_end() {
    let mut live = asked();
    live.operator(Operator::Cancel);
    assert_eq!(live.outcome(), Some(&Outcome::Cancelled));
    assert!(live.rollout.changed().is_empty(), "nobody ran anything");
}

#[test]
fn later_attempts_are_where_the_first_was() {
    let steps = vec![Step { on: On::Site, retries: 1, ..script("one") }];
    let mut live = Live::started(manifest(3, vec![], steps));
    live.acquire_all();
    live.ready();
    assert_eq!(runs(&live.end(on(1), nth(0), 1, failed(1)).effects), [(on(1), nth(0), 2)]);
    assert_eq!(offers(&live.tell(Input::NodeOffline(node(1))).effects), []);
    assert_eq!(runs(&live.tell(Input::NodeOnline(node(1))).effects), [(on(1), nth(0), 2)]);
}

#[test]
fn a_site_without_a_connected_node_is_waited_for() {
    let steps = vec![Step { on: On::Site, ..script("one") }];
    let mut live = Live::started(manifest(2, vec![], steps));
    live.acquire(1);
    live.tell(Input::NodeOffline(node(2)));
    assert_eq!(offers(&live.acquire(2).effects), [(node(1), nth(0))]);
    live.ready();
    live.succeed(on(1), nth(0));
    let view = live.rollout.view();
    assert_eq!(view.waiting, [Waiting::Site { site: name("b"), step: nth(0) }]);
    assert_eq!(view.state, State::Blocked);
    assert_eq!(offers(&live.tell(Input::NodeOnline(node(2))).effects), [(node(2), nth(0))]);
}
