//! Pause, resume, and what runs at the end whatever it is.

use super::*;
use crate::limits::ABANDON_AFTER;
use crate::manifest::Stragglers;
use crate::rollout::view::{State, StepState, Waiting};

fn only(actor: Actor) -> Which {
    Which { actor: Some(actor), step: None }
}

#[test]
fn a_pause_stops_transfers_and_starts_and_lets_what_runs_finish() {
    let mut live = Live::started(manifest(2, vec![], vec![script("one"), script("two")]));
    live.acquire(1);
    let paused = live.operator(Operator::Pause).effects;
    assert!(matches!(paused[..], [Effect::StopAcquire { node: n, .. }] if n == node(2)), "{paused:?}");
    let view = live.rollout.view();
    assert_eq!((view.state, &view.waiting[0]), (State::Paused, &Waiting::Resume));
    assert_eq!(live.operator(Operator::Pause).refused, Some(Refusal::Paused));
    assert_eq!(runs(&live.acquire(2).effects), [], "what was under way may still come");
    assert_eq!(runs(&live.operator(Operator::Resume).effects).len(), 2, "the gate opens");
    live.operator(Operator::Pause);
    live.succeed(on(1), nth(0));
    assert_eq!(runs(&live.succeed(on(2), nth(0)).effects), []);
    assert_eq!(runs(&live.operator(Operator::Resume).effects), [(on(1), nth(1), 1), (on(2), nth(1), 1)]);
    assert_eq!(live.operator(Operator::Resume).refused, Some(Refusal::NotPaused));
}

#[test]
fn a_window_does_not_slide_in_a_pause() {
    let pace = Pace::Window(crate::manifest::Share::Count(2));
    let mut live = Live::started(manifest(4, vec![], vec![Step { pace, ..script("one") }]));
    live.acquire_all();
    live.operator(Operator::Pause);
    assert_eq!(runs(&live.succeed(on(1), nth(0)).effects), []);
    assert_eq!(runs(&live.succeed(on(2), nth(0)).effects), []);
    assert_eq!(runs(&live.operator(Operator::Resume).effects), [(on(3), nth(0), 1), (on(4), nth(0), 1)]);
}

#[test]
fn a_resume_acquires_again() {
    let mut live = Live::started(manifest(2, vec![], vec![]));
    live.acquire(1);
    live.operator(Operator::Pause);
    let resumed = live.operator(Operator::Resume).effects;
    assert!(matches!(resumed[..], [Effect::Acquire { node: n, .. }] if n == node(2)), "{resumed:?}");
}

#[test]
fn a_node_that_was_away_learns_of_the_pause_when_it_is_back() {
    let mut live = Live::started(manifest(2, vec![], vec![script("one")]));
    live.tell(Input::NodeOffline(node(2)));
    live.operator(Operator::Pause);
    let told = live.tell(Input::NodeOnline(node(2))).effects;
    assert!(matches!(told[..], [Effect::StopAcquire { .. }]), "{told:?}");
    live.operator(Operator::Resume);
    live.acquire_all();
    live.tell(Input::StepStarted { actor: on(1), step: nth(0), attempt: 1 });
    live.tell(Input::NodeOffline(node(2)));
    live.operator(Operator::Pause);
    assert_eq!(runs(&live.tell(Input::NodeOnline(node(2))).effects), [], "it was ordered, and did not start");
    assert_eq!(runs(&live.tell(Input::NodeOnline(node(1))).effects), [(on(1), nth(0), 1)], "it is asked how it went");
    assert_eq!(runs(&live.operator(Operator::Resume).effects), [(on(2), nth(0), 1)]);
}

#[test]
fn answers_wait_for_the_resume_and_a_cancel_does_not() {
    let mut live = Live::started(manifest(2, vec![], vec![script("one"), script("two")]));
    live.acquire_all();
    live.end(on(1), nth(0), 1, failed(1));
    live.succeed(on(2), nth(0));
    live.operator(Operator::Pause);
    assert_eq!(live.operator(Operator::Retry(only(on(1)))).refused, Some(Refusal::Paused));
    assert_eq!(runs(&live.operator(Operator::Ignore(only(on(1)))).effects), []);
    let mut cancelled = live.clone();
    assert_eq!(runs(&live.operator(Operator::Resume).effects).len(), 2);
    cancelled.operator(Operator::Cancel);
    assert_eq!(cancelled.outcome(), Some(&Outcome::Cancelled));
}

#[test]
fn a_pause_survives_a_restart_and_stops_the_clock_for_stragglers() {
    let after = Duration::from_secs(600);
    let mut manifest = manifest(2, vec![], vec![script("one")]);
    manifest.gate.quorum = crate::manifest::Quorum::AllBut(1);
    manifest.gate.stragglers = Stragglers::ExcludeAfter(after);
    let mut live = Live::started(manifest);
    live.acquire(1);
    live.operator(Operator::Pause);
    live.wait(after * 2);
    assert_eq!(live.rollout.next_wake(), None);
    let mut again = live.restarted(live.journal.len());
    again.connect();
    again.wait(after * 2);
    assert_eq!(again.rollout.view().state, State::Paused);
    again.operator(Operator::Resume);
    assert_eq!(again.rollout.next_wake(), Some((again.now.time + after, Why::Stragglers)));
    again.wait(after);
    assert_eq!(again.rollout.view().nodes[1].excluded, Some(Exclusion::Straggler));
}

fn always() -> Step {
    Step { on: On::Always, ..script("always") }
}

/// The attempts that are ordered at the end of a deployment that `end` ends.
fn at_end(end: impl FnOnce(&mut Live)) -> (Vec<(Actor, StepRef, u32)>, Live) {
    let vpn = Step { always_after: Some("down".to_owned()), ..script("vpn") };
    let mut live = Live::started(manifest(2, vec![vpn], vec![always(), script("one")]));
    live.succeed(on(1), before(0));
    live.succeed(on(2), before(0));
    end(&mut live);
    let is_last = |key: &&(StepRef, Actor)| key.0.phase.is_last();
    let ordered = live.rollout.state.runs.keys().filter(is_last).map(|(step, actor)| (*actor, *step, 1)).collect();
    (ordered, live)
}

fn last(index: u16) -> StepRef {
    step(Phase::Always, index)
}

#[test]
fn steps_that_are_always_run_come_at_every_end() {
    let both = vec![(on(1), last(0), 1), (on(2), last(0), 1)];
    let succeeds = |live: &mut Live| {
        live.acquire_all();
        live.succeed(on(1), nth(1));
        live.succeed(on(2), nth(1));
    };
    let fails = |live: &mut Live| {
        live.acquire_all();
        live.succeed(on(1), nth(1));
        live.end(on(2), nth(1), 1, failed(1));
        live.operator(Operator::Fail(Which::default()));
    };
    let cannot_acquire = |live: &mut Live| {
        live.tell(Input::AcquireFailed { node: node(2), package: PackageIndex(0), cause: "full".to_owned() });
        live.operator(Operator::Fail(Which::default()));
    };
    let cancelled = |live: &mut Live| drop(live.operator(Operator::Cancel));
    assert_eq!(at_end(succeeds).0, both);
    assert_eq!(at_end(fails).0, both);
    assert_eq!(at_end(cancelled).0, both);
    let (ordered, mut live) = at_end(cannot_acquire);
    assert_eq!(ordered, both);
    assert!(live.rollout.state.runs.keys().all(|(step, _)| step.phase != Phase::Steps), "no step ran");
    live.succeed(on(1), last(0));
    let scripts = live.end(on(2), last(0), 1, failed(1)).effects;
    assert_eq!(runs(&scripts), [(on(1), after(0), 1), (on(2), after(0), 1)], "then the VPN goes down");
    live.succeed(on(1), after(0));
    live.succeed(on(2), after(0));
    assert!(matches!(live.outcome(), Some(Outcome::Failed { cause }) if cause.contains("full")));
    let steps: Vec<_> = live.rollout.view().nodes[0].steps.iter().map(|step| (step.step, step.state)).collect();
    let (done, skipped) = (StepState::Succeeded, StepState::Skipped);
    assert_eq!(steps, [(before(0), done), (nth(1), skipped), (last(0), done), (after(0), done)]);
}

#[test]
fn what_runs_at_the_end_is_not_cancelled_and_not_waited_for_for_ever() {
    let (_, mut live) = at_end(|live| drop(live.operator(Operator::Cancel)));
    assert_eq!(live.operator(Operator::Cancel).refused, Some(Refusal::Ending));
    live.succeed(on(1), last(0));
    live.tell(Input::NodeOffline(node(2)));
    let next = live.wait(ABANDON_AFTER).effects;
    assert_eq!(runs(&next), [(on(1), after(0), 1), (on(2), after(0), 1)]);
    live.succeed(on(1), after(0));
    assert_eq!(live.outcome(), Some(&Outcome::Cancelled));
}

#[test]
fn a_deployment_that_only_stages_runs_no_steps_at_its_end() {
    let mut live = Live::with(manifest(1, vec![], vec![always()]), true);
    live.connect();
    live.acquire(1);
    assert_eq!(live.outcome(), Some(&Outcome::Succeeded));
}
