//! Whether a deployment's steps had begun when its time was over: where nobody saw it, it is found out and not guessed.

use super::view::{State, StepState, Waiting};
use super::when::{HOUR, hours, in_flight, planned_for};
use super::*;

fn expired(live: &Live) -> bool {
    let Some(Outcome::Failed { cause }) = live.outcome() else { return false };
    cause.starts_with("it expired before its steps began")
}

/// Nodes that hold all, and were ordered to run the first step; nobody has reported that it started.
fn ordered(nodes: u8) -> Live {
    let mut live = planned_for(None, Some(HOUR), manifest(nodes, vec![], vec![script("one"), script("two")]));
    live.connect();
    live.acquire_all();
    assert_eq!(in_flight(&live).len(), usize::from(nodes));
    live
}

#[test]
fn nothing_is_ordered_on_nodes_that_are_away_before_anything_began() {
    let mut live = planned_for(None, Some(HOUR), manifest(2, vec![], vec![script("one")]));
    live.connect();
    live.tell(Input::NodeOffline(node(1)));
    live.tell(Input::NodeOffline(node(2)));
    live.acquire_all();
    assert_eq!(in_flight(&live), [], "nobody can begin");
    let mut in_time = live.clone();
    in_time.tell(Input::NodeOnline(node(2)));
    assert_eq!(in_flight(&in_time).len(), 2, "once one has begun, the others run it when they are back");
    in_time.wait(HOUR);
    assert_eq!(runs(&in_time.tell(Input::NodeOnline(node(1))).effects), [(on(1), nth(0), 1)]);
    live.wait(HOUR);
    assert!(expired(&live));
    assert_eq!(runs(&live.tell(Input::NodeOnline(node(1))).effects), [], "it does not run late");
}

#[test]
fn a_node_lost_before_it_was_heard_to_start_is_asked_when_it_is_back() {
    let mut live = ordered(1);
    live.tell(Input::NodeOffline(node(1)));
    assert_eq!(live.wait(HOUR).records, [], "nobody knows whether it began");
    assert_eq!(live.rollout.view().state, State::Blocked);
    assert_eq!(live.rollout.view().waiting[0], Waiting::Offline { node: node(1) });
    let restarted = live.restarted(live.journal.len());
    for mut live in [live, restarted] {
        live.tell(Input::Tick);
        assert_eq!(live.outcome(), None);
        let back = live.tell(Input::NodeOnline(node(1))).effects;
        assert_eq!((runs(&back), offers(&back)), (vec![], vec![(node(1), nth(0))]), "asked, and not told to start");
        let mut began = live.clone();
        began.tell(Input::StepStarted { actor: on(1), step: nth(0), attempt: 1 });
        began.succeed(on(1), nth(0));
        began.succeed(on(1), nth(1));
        assert_eq!(began.outcome(), Some(&Outcome::Succeeded), "it began in time");
        let mut ended = live.clone();
        assert_eq!(runs(&ended.succeed(on(1), nth(0)).effects), [(on(1), nth(1), 1)], "it ended meanwhile");
        live.tell(Input::StepReady { node: node(1), step: nth(0) });
        assert!(expired(&live), "it never started");
        assert!(live.rollout.changed().is_empty());
    }
}

#[test]
fn while_nobody_knows_nothing_else_starts() {
    let steps = || vec![Step { on: On::Site, ..script("one") }, script("two")];
    let mut live = planned_for(None, Some(HOUR), manifest(4, vec![], steps()));
    live.connect();
    live.acquire_all();
    live.tell(Input::StepReady { node: node(1), step: nth(0) });
    live.tell(Input::NodeOffline(node(1)));
    live.wait(HOUR);
    assert!(live.rollout.state.elected.is_empty(), "what site b was asked is taken back");
    assert_eq!(runs(&live.tell(Input::StepReady { node: node(2), step: nth(0) }).effects), []);
    assert_eq!(offers(&live.tell(Input::NodeOnline(node(1))).effects), [(node(1), nth(0))]);
    let began = live.tell(Input::StepStarted { actor: on(1), step: nth(0), attempt: 1 });
    assert_eq!(offers(&began.effects), [(node(2), nth(0))], "it goes on from there");
}

#[test]
fn all_that_may_have_begun_are_waited_for() {
    let mut live = ordered(2);
    live.tell(Input::NodeOffline(node(1)));
    live.tell(Input::NodeOffline(node(2)));
    live.wait(HOUR);
    live.tell(Input::NodeOnline(node(1)));
    live.tell(Input::StepReady { node: node(1), step: nth(0) });
    assert_eq!((live.outcome(), in_flight(&live)), (None, vec![(nth(0), on(2))]));
    let mut began = live.clone();
    began.tell(Input::NodeOnline(node(2)));
    let go = began.tell(Input::StepStarted { actor: on(2), step: nth(0), attempt: 1 }).effects;
    assert_eq!(runs(&go), [(on(1), nth(0), 1)], "what was taken back is ordered again");
    live.tell(Input::NodeOnline(node(2)));
    live.tell(Input::StepReady { node: node(2), step: nth(0) });
    assert!(expired(&live));
}

#[test]
fn a_node_that_is_given_up_leaves_its_outcome_unknown() {
    let mut live = ordered(2);
    live.succeed(on(2), nth(0));
    live.tell(Input::NodeOffline(node(1)));
    live.wait(HOUR);
    live.operator(Operator::Exclude(Which { actor: Some(on(1)), step: None }));
    live.succeed(on(2), nth(1));
    assert_eq!(live.outcome(), Some(&Outcome::SucceededWithout { excluded: 1 }), "another one had begun");

    let mut live = ordered(2);
    live.tell(Input::NodeOffline(node(1)));
    live.tell(Input::NodeOffline(node(2)));
    live.wait(HOUR);
    live.operator(Operator::Exclude(Which { actor: Some(on(1)), step: None }));
    live.tell(Input::NodeOnline(node(2)));
    live.tell(Input::StepReady { node: node(2), step: nth(0) });
    let cause = "it expired, and nobody saw whether its steps began".to_owned();
    assert_eq!(live.outcome(), Some(&Outcome::Failed { cause }));
    let view = live.rollout.view();
    assert_eq!(view.nodes[0].steps[0].state, StepState::Unknown);
    assert_eq!(view.nodes[1].steps[0].state, StepState::Skipped);
}

#[test]
fn what_waits_in_a_pause_or_for_its_hours_does_not_begin_late() {
    let mut live = ordered(1);
    live.tell(Input::NodeOffline(node(1)));
    live.operator(Operator::Pause);
    let mut shut = ordered(1);
    shut.tell(Input::NodeOffline(node(1)));
    shut.tell(hours(&["a"]));
    for (mut live, go_on) in [(live, Input::Operator(Operator::Resume)), (shut, hours(&[]))] {
        let back = live.tell(Input::NodeOnline(node(1))).effects;
        assert_eq!((runs(&back), offers(&back)), (vec![], vec![(node(1), nth(0))]));
        let mut unsaid = live.clone();
        unsaid.wait(HOUR);
        assert_eq!(unsaid.outcome(), None, "it may have begun before");
        assert_eq!(runs(&unsaid.tell(go_on.clone()).effects), []);
        unsaid.tell(Input::StepReady { node: node(1), step: nth(0) });
        assert!(expired(&unsaid));
        live.tell(Input::StepReady { node: node(1), step: nth(0) });
        let mut again = live.clone();
        assert_eq!(runs(&again.tell(go_on).effects), [(on(1), nth(0), 1)], "in time");
        live.wait(HOUR);
        assert!(expired(&live));
    }
}

/// What a node says that was told again meanwhile is of before that.
#[test]
fn an_answer_from_before_an_order_takes_nothing_back() {
    let mut live = ordered(1);
    live.tell(Input::NodeOffline(node(1)));
    live.operator(Operator::Pause);
    live.tell(Input::NodeOnline(node(1)));
    assert_eq!(runs(&live.operator(Operator::Resume).effects), [(on(1), nth(0), 1)]);
    assert_eq!(live.tell(Input::StepReady { node: node(1), step: nth(0) }).records, []);
    live.wait(HOUR);
    assert_eq!(live.outcome(), None);
    live.succeed(on(1), nth(0));
    live.succeed(on(1), nth(1));
    assert_eq!(live.outcome(), Some(&Outcome::Succeeded));
}
