//! What a rollout does in cases that have names.

use super::*;
use crate::limits::{ABANDON_AFTER, CAUSE_BYTES_MAX};
use crate::manifest::{Quorum, Stragglers};
use crate::rollout::view::{PackageState, Stage, State, StepState, Waiting};

fn everything(which: Which) -> [Operator; 4] {
    [Operator::Retry(which), Operator::Ignore(which), Operator::Exclude(which), Operator::Fail(which)]
}

fn all() -> Which {
    Which::default()
}

fn only(actor: Actor) -> Which {
    Which { actor: Some(actor), step: None }
}

#[test]
fn stages_come_in_order_and_each_step_is_a_barrier() {
    let vpn = Step { on: On::Site, always_after: Some("down".to_owned()), ..script("vpn") };
    let steps = vec![script("stop"), Step { on: On::Coordinator, ..script("migrate") }, script("start")];
    let mut live = Live::new(manifest(3, vec![vpn], steps));
    assert_eq!(runs(&live.tell(Input::Tick).effects), [], "nobody is connected");
    assert_eq!(offers(&live.tell(Input::NodeOnline(node(3))).effects), [(node(3), before(0))], "one node of site a");
    assert_eq!(runs(&live.ready().effects), [(on(3), before(0), 1)]);
    assert_eq!(offers(&live.tell(Input::NodeOnline(node(1))).effects), [], "site a has its node");
    assert_eq!(offers(&live.tell(Input::NodeOnline(node(2))).effects), [(node(2), before(0))], "one node of site b");
    assert_eq!(runs(&live.ready().effects), [(on(2), before(0), 1)]);
    assert_eq!(live.rollout.view().stage, Stage::BeforeAcquire);
    live.succeed(on(3), before(0));
    let acquire = live.succeed(on(2), before(0)).effects;
    assert_eq!(acquire.iter().filter(|effect| matches!(effect, Effect::Acquire { .. })).count(), 3);
    assert_eq!(live.rollout.view().stage, Stage::Acquire);
    live.acquire(1);
    live.acquire(2);
    assert_eq!(runs(&live.tell(Input::Tick).effects), [], "GATE: the quorum is all three");
    let first = live.acquire(3).effects;
    assert_eq!(runs(&first), [1, 2, 3].map(|number| (on(number), nth(0), 1)));
    live.succeed(on(1), nth(0));
    live.succeed(on(3), nth(0));
    let second = live.succeed(on(2), nth(0)).effects;
    assert_eq!(runs(&second), [(Actor::Coordinator, nth(1), 1)]);
    live.succeed(Actor::Coordinator, nth(1));
    live.succeed(on(1), nth(2));
    live.succeed(on(2), nth(2));
    let last = live.succeed(on(3), nth(2)).effects;
    assert_eq!(runs(&last), [(on(2), after(0), 1), (on(3), after(0), 1)], "where the step ran");
    live.succeed(on(2), after(0));
    let end = live.end(on(3), after(0), 1, failed(1)).effects;
    assert!(end.contains(&Effect::Finished { outcome: Outcome::Succeeded }), "{end:?}");
    assert_eq!(end.iter().filter(|effect| matches!(effect, Effect::Forget { .. })).count(), 3);
    assert_eq!((live.rollout.view().stage, live.rollout.view().state), (Stage::Done, State::Succeeded));
    assert_eq!(live.rollout.next_wake(), None);
}

#[test]
fn the_gate_opens_at_its_quorum_and_stragglers_join_at_the_barrier() {
    let mut manifest = manifest(3, vec![], vec![script("one"), script("two")]);
    manifest.gate.quorum = Quorum::AllBut(1);
    let mut live = Live::started(manifest);
    live.acquire(1);
    assert_eq!(runs(&live.acquire(3).effects), [(on(1), nth(0), 1), (on(3), nth(0), 1)]);
    live.succeed(on(1), nth(0));
    assert_eq!(runs(&live.succeed(on(3), nth(0)).effects), [], "the straggler is awaited");
    assert_eq!(live.rollout.view().waiting, [Waiting::Acquiring { nodes: 1 }]);
    assert_eq!(runs(&live.acquire(2).effects), [(on(2), nth(0), 1)]);
    assert_eq!(runs(&live.succeed(on(2), nth(0)).effects).len(), 3);
}

#[test]
fn stragglers_are_excluded_after_a_while_but_never_below_the_quorum() {
    let after = Duration::from_secs(600);
    let mut manifest = manifest(4, vec![script("prepare")], vec![script("one")]);
    manifest.gate = Gate { quorum: Quorum::Percent(50), stragglers: Stragglers::ExcludeAfter(after), manual: false };
    let mut live = Live::started(manifest);
    live.wait(after * 2);
    (1..=4).for_each(|number| drop(live.succeed(on(number), before(0))));
    live.acquire(1);
    assert_eq!(live.rollout.next_wake(), Some((live.now.time + after, Why::Stragglers)), "counted from acquire");
    live.wait(after);
    assert_eq!(live.rollout.view().nodes.iter().filter(|node| node.excluded.is_some()).count(), 0);
    assert_eq!(live.rollout.next_wake(), None, "the moment has passed; a node has to act");
    let opened = live.acquire(2);
    let excluded: Vec<_> = opened.records.iter().filter(|r| matches!(r.change, Change::Excluded { .. })).collect();
    assert_eq!(excluded.len(), 2);
    assert_eq!(runs(&opened.effects), [(on(1), nth(0), 1), (on(2), nth(0), 1)]);
    assert!(opened.effects.iter().any(|effect| matches!(effect, Effect::StopAcquire { node: n, .. } if *n == node(3))));
    assert_eq!(live.acquire(3).records, [], "excluded nodes stay excluded");
    live.succeed(on(1), nth(0));
    live.succeed(on(2), nth(0));
    assert_eq!(live.outcome(), Some(&Outcome::SucceededWithout { excluded: 2 }));
    let skipped = &live.rollout.view().nodes[2].steps[1];
    assert_eq!((skipped.state, skipped.attempts), (StepState::Skipped, 0));
}

#[test]
fn a_manual_gate_waits_for_its_release_and_for_its_quorum() {
    let gate = |manual| {
        let mut manifest = manifest(2, vec![], vec![script("one")]);
        manifest.gate.manual = manual;
        Live::started(manifest)
    };
    let mut late = gate(true);
    late.acquire_all();
    let view = late.rollout.view();
    assert_eq!((view.stage, view.state, view.waiting), (Stage::Release, State::Blocked, vec![Waiting::Release]));
    assert_eq!(runs(&late.operator(Operator::Release).effects).len(), 2);
    assert_eq!(late.operator(Operator::Release).refused, Some(Refusal::GateOpen));

    let mut early = gate(true);
    assert_eq!(runs(&early.operator(Operator::Release).effects), [], "GATE: a release is no quorum");
    early.acquire(1);
    assert_eq!(runs(&early.acquire(2).effects).len(), 2);

    assert_eq!(gate(false).operator(Operator::Release).refused, Some(Refusal::GateAuto));
}

#[test]
fn stage_only_ends_before_the_gate_and_keeps_the_packages() {
    let vpn = Step { always_after: Some("down".to_owned()), ..script("vpn") };
    let mut live = Live::with(manifest(2, vec![vpn], vec![script("one")]), true);
    live.connect();
    live.succeed(on(1), before(0));
    live.succeed(on(2), before(0));
    live.acquire(1);
    assert_eq!(runs(&live.acquire(2).effects), [(on(1), after(0), 1), (on(2), after(0), 1)]);
    live.succeed(on(1), after(0));
    let end = live.succeed(on(2), after(0)).effects;
    assert_eq!(end, [Effect::Finished { outcome: Outcome::Succeeded }], "no node is told to forget");
    assert_eq!(live.rollout.view().times.gate_opened, None);
    assert_eq!(live.rollout.view().nodes[0].steps[1].state, StepState::Skipped);
}

#[test]
fn failures_are_retried_as_often_as_the_step_says() {
    let steps = vec![Step { retries: 2, ..script("one") }];
    let mut live = Live::started(manifest(1, vec![], steps));
    live.acquire(1);
    for (attempt, outcome) in [(1, failed(3)), (2, StepOutcome::TimedOut)] {
        assert_eq!(runs(&live.end(on(1), nth(0), attempt, outcome).effects), [(on(1), nth(0), attempt + 1)]);
    }
    assert_eq!(live.end(on(1), nth(0), 1, StepOutcome::Succeeded).records, [], "a report of an earlier attempt");
    assert_eq!(runs(&live.end(on(1), nth(0), 3, failed(9)).effects), []);
    let view = live.rollout.view();
    let asked = Waiting::Answer { actor: on(1), step: nth(0), attempt: 3, outcome: failed(9) };
    assert_eq!((view.state, view.waiting), (State::Paused, vec![asked]));
    assert_eq!(view.nodes[0].steps[0].attempts, 3);
    assert_eq!(runs(&live.operator(Operator::Retry(all())).effects), [(on(1), nth(0), 4)]);
    live.succeed(on(1), nth(0));
    assert_eq!(live.outcome(), Some(&Outcome::Succeeded));
}

#[test]
fn an_unknown_outcome_is_run_again_only_where_that_does_no_harm() {
    let run = |idempotent, retries| {
        let steps = vec![Step { idempotent, retries, ..script("one") }];
        let mut live = Live::started(manifest(1, vec![], steps));
        live.acquire(1);
        for attempt in 1.. {
            if runs(&live.end(on(1), nth(0), attempt, StepOutcome::Unknown).effects).is_empty() {
                assert_eq!(live.rollout.view().state, State::Paused);
                assert_eq!(live.rollout.view().nodes[0].steps[0].state, StepState::Unknown);
                return attempt;
            }
        }
        unreachable!()
    };
    assert_eq!(run(false, 0), 1);
    assert_eq!(run(false, 5), 1, "retries are for failures that somebody saw");
    assert_eq!(run(true, 0), 4, "for ever would be too often");
    assert_eq!(run(true, 5), 6);
}

#[test]
fn nothing_starts_while_a_failure_waits_for_an_answer() {
    let steps = vec![Step { retries: 1, ..script("one") }, script("two")];
    let mut manifest = manifest(3, vec![], steps);
    manifest.gate.quorum = Quorum::AllBut(1);
    let mut live = Live::started(manifest);
    live.acquire(1);
    live.acquire(2);
    live.end(on(1), nth(0), 1, failed(1));
    live.end(on(1), nth(0), 2, failed(1));
    assert_eq!(runs(&live.end(on(2), nth(0), 1, failed(1)).effects), [], "a retry of another node");
    assert_eq!(runs(&live.acquire(3).effects), [], "a straggler");
    let after = runs(&live.operator(Operator::Ignore(only(on(1)))).effects);
    assert_eq!(after, [(on(2), nth(0), 2), (on(3), nth(0), 1)]);
    let ignored = &live.rollout.view().nodes[0].steps[0];
    assert_eq!((ignored.state, ignored.ignored), (StepState::Failed, true));
}

#[test]
fn the_four_answers_to_a_failed_step() {
    let paused = || {
        let mut live = Live::started(manifest(3, vec![], vec![script("one"), script("two")]));
        live.acquire_all();
        live.succeed(on(3), nth(0));
        live.end(on(1), nth(0), 1, failed(1));
        live.end(on(2), nth(0), 1, failed(2));
        assert_eq!(live.rollout.view().waiting.len(), 2);
        live
    };
    let orders = |live: &mut Live, command| runs(&live.operator(command).effects);

    let mut live = paused();
    assert_eq!(orders(&mut live, Operator::Retry(only(on(2)))), [(on(2), nth(0), 2)]);
    assert_eq!(live.operator(Operator::Retry(only(on(2)))).refused, Some(Refusal::NothingWaits), "it runs");
    assert_eq!(live.operator(Operator::Retry(only(on(3)))).refused, Some(Refusal::NothingWaits));
    assert_eq!(orders(&mut live, Operator::Retry(all())), [(on(1), nth(0), 2)], "only what still waits");

    assert_eq!(orders(&mut paused(), Operator::Ignore(all())).len(), 3, "the next step on all three");
    let second = [(on(2), nth(1), 1), (on(3), nth(1), 1)];
    let mut live = paused();
    assert_eq!(orders(&mut live, Operator::Exclude(only(on(1)))), []);
    assert_eq!(orders(&mut live, Operator::Ignore(all())), second);
    assert_eq!(live.operator(Operator::Exclude(only(on(1)))).refused, Some(Refusal::AlreadyExcluded));
    assert_eq!(live.operator(Operator::Exclude(only(on(9)))).refused, Some(Refusal::NotATarget));
    assert_eq!(orders(&mut paused(), Operator::Exclude(all())), [(on(3), nth(1), 1)]);

    let mut live = paused();
    live.operator(Operator::Fail(all()));
    let cause = "step `one` failed on node `n1` with exit code 1, and 1 more like it".to_owned();
    assert_eq!(live.outcome(), Some(&Outcome::Failed { cause }));
    for command in everything(all()) {
        assert_eq!(live.operator(command).refused, Some(Refusal::Over));
    }
}

#[test]
fn an_answer_is_not_reused_for_a_later_failure() {
    let mut live = Live::started(manifest(2, vec![], vec![script("one")]));
    live.acquire_all();
    live.end(on(1), nth(0), 1, failed(1));
    live.operator(Operator::Ignore(all()));
    live.end(on(2), nth(0), 1, failed(1));
    assert_eq!(live.rollout.view().state, State::Paused);
    assert_eq!(live.outcome(), None);
}

/// Each on one of two nodes, with a retry before.
#[test]
fn a_step_says_what_its_failure_leads_to() {
    let with = |on_failure| {
        let steps = vec![Step { on_failure, retries: 1, ..script("one") }, script("two")];
        let mut live = Live::started(manifest(2, vec![], steps));
        live.acquire_all();
        assert_eq!(runs(&live.end(on(1), nth(0), 1, failed(1)).effects), [(on(1), nth(0), 2)], "{on_failure:?}");
        live.end(on(1), nth(0), 2, failed(1));
        let then = live.succeed(on(2), nth(0)).effects;
        (live, runs(&then))
    };
    let (live, then) = with(OnFailure::Pause);
    assert_eq!((live.rollout.view().state, then), (State::Paused, vec![]));

    let (mut live, then) = with(OnFailure::Ignore);
    assert_eq!(then, [(on(1), nth(1), 1), (on(2), nth(1), 1)], "as if it had succeeded");
    let shown = &live.rollout.view().nodes[0].steps[0];
    assert_eq!((shown.state, shown.ignored), (StepState::Failed, true), "and shown as it was");
    live.succeed(on(1), nth(1));
    live.succeed(on(2), nth(1));
    assert_eq!(live.outcome(), Some(&Outcome::Succeeded));

    let cause = "step `one` failed on node `n1` with exit code 1".to_owned();
    for (on_failure, back) in [(OnFailure::Fail, false), (OnFailure::Rollback, true)] {
        let (live, then) = with(on_failure);
        assert_eq!(then, [], "{on_failure:?}");
        assert_eq!(live.outcome(), Some(&Outcome::Failed { cause: cause.clone() }), "{on_failure:?}");
        assert_eq!(live.rollout.is_to_be_rolled_back(), back, "{on_failure:?}");
    }
}

#[test]
fn a_failure_that_fails_the_deployment_lets_others_finish_and_starts_nothing() {
    let vpn = Step { on: On::Coordinator, always_after: Some("down".to_owned()), ..script("vpn") };
    let steps = vec![Step { on_failure: OnFailure::Fail, retries: 1, ..script("one") }];
    let mut live = Live::started(manifest(3, vec![vpn], steps));
    live.succeed(Actor::Coordinator, before(0));
    live.acquire_all();
    live.tell(Input::StepStarted { actor: on(2), step: nth(0), attempt: 1 });
    live.end(on(1), nth(0), 1, failed(1));
    let failing = live.end(on(1), nth(0), 2, StepOutcome::TimedOut).effects;
    assert_eq!(cancels(&failing), [(on(3), nth(0), 1)], "not started, as far as anybody knows");
    assert_eq!(live.outcome(), None, "node 2 still runs it");
    assert_eq!(runs(&live.end(on(2), nth(0), 1, failed(1)).effects), [], "no retry while it ends");
    let cleanup = live.end(on(3), nth(0), 1, StepOutcome::Killed).effects;
    assert_eq!(runs(&cleanup), [(Actor::Coordinator, after(0), 1)]);
    live.succeed(Actor::Coordinator, after(0));
    assert_eq!(live.outcome(), Some(&Outcome::Failed { cause: "step `one` timed out on node `n1`".to_owned() }));
}

#[test]
fn cancel_kills_what_runs_then_cleans_up() {
    let vpn = Step { always_after: Some("down".to_owned()), ..script("vpn") };
    let mut live = Live::started(manifest(2, vec![vpn, script("other")], vec![script("one")]));
    live.succeed(on(1), before(0));
    live.succeed(on(2), before(0));
    live.tell(Input::StepStarted { actor: on(1), step: before(1), attempt: 1 });
    let killed = live.operator(Operator::Cancel).effects;
    assert_eq!(cancels(&killed), [(on(1), before(1), 1), (on(2), before(1), 1)]);
    assert_eq!(live.operator(Operator::Cancel).refused, Some(Refusal::Ending));
    live.end(on(1), before(1), 1, StepOutcome::Killed);
    assert_eq!(runs(&live.end(on(2), before(1), 1, StepOutcome::Killed).effects).len(), 2, "the VPN goes down");
    live.succeed(on(1), after(0));
    live.succeed(on(2), after(0));
    assert_eq!(live.outcome(), Some(&Outcome::Cancelled));
}

#[test]
fn cancel_stops_transfers() {
    let mut live = Live::started(manifest(2, vec![], vec![script("one")]));
    live.acquire(1);
    let effects = live.operator(Operator::Cancel).effects;
    assert!(matches!(effects[0], Effect::StopAcquire { node: n, .. } if n == node(2)), "{effects:?}");
    assert_eq!(live.outcome(), Some(&Outcome::Cancelled));
}

#[test]
fn a_second_cancel_kills_what_a_failed_deployment_waits_for() {
    let mut live = Live::started(manifest(1, vec![], vec![script("one")]));
    live.acquire(1);
    live.tell(Input::StepStarted { actor: on(1), step: nth(0), attempt: 1 });
    let cause = "package `web` changed in its feed".to_owned();
    assert_eq!(cancels(&live.tell(Input::Stop { cause: cause.clone() }).effects), []);
    assert_eq!(cancels(&live.operator(Operator::Cancel).effects), [(on(1), nth(0), 1)]);
    live.end(on(1), nth(0), 1, StepOutcome::Killed);
    assert_eq!(live.outcome(), Some(&Outcome::Failed { cause }));
}

#[test]
fn a_node_that_is_away_holds_up_the_end_only_for_a_while() {
    let vpn = Step { always_after: Some("down".to_owned()), ..script("vpn") };
    let mut live = Live::started(manifest(2, vec![vpn], vec![script("one")]));
    live.tell(Input::NodeOffline(node(2)));
    live.operator(Operator::Cancel);
    live.end(on(1), before(0), 1, StepOutcome::Killed);
    assert_eq!(live.rollout.next_wake(), Some((live.now.time + ABANDON_AFTER, Why::Abandon)));
    assert_eq!(live.wait(ABANDON_AFTER / 2).records, []);
    let cleanup = live.wait(ABANDON_AFTER / 2);
    assert_eq!(runs(&cleanup.effects), [(on(1), after(0), 1), (on(2), after(0), 1)]);
    assert!(cleanup.records.iter().any(|r| r.change == Change::Abandoned { actor: on(2), step: after(0) }));
    assert_eq!(live.rollout.view().nodes[1].steps[0].state, StepState::Unknown);
    let back = live.tell(Input::NodeOnline(node(2))).effects;
    assert_eq!(cancels(&back), [(on(2), before(0), 1), (on(2), after(0), 1)], "it is told when it is back");
    live.end(on(2), before(0), 1, failed(4));
    assert_eq!(live.rollout.view().nodes[1].steps[0].state, StepState::Failed, "the truth may come late");
    live.succeed(on(1), after(0));
    assert_eq!(live.outcome(), Some(&Outcome::Cancelled));
    let back = live.tell(Input::NodeOnline(node(2))).effects;
    assert!(matches!(back[..], [Effect::Forget { .. }]), "{back:?}");
}

#[test]
fn after_a_restart_nodes_get_their_time_to_come_back() {
    let mut live = Live::started(manifest(1, vec![], vec![script("one")]));
    live.acquire(1);
    live.tell(Input::StepStarted { actor: on(1), step: nth(0), attempt: 1 });
    live.tell(Input::Stop { cause: "no".to_owned() });
    let mut again = live.restarted(live.journal.len());
    assert_eq!(again.rollout.next_wake(), Some((Time::ZERO, Why::Start)));
    again.wait(ABANDON_AFTER * 5);
    assert_eq!(again.outcome(), None);
    assert_eq!(again.rollout.next_wake(), Some((again.now.time + ABANDON_AFTER, Why::Abandon)));
    let told = again.tell(Input::NodeOnline(node(1))).effects;
    assert_eq!(runs(&told), [(on(1), nth(0), 1)], "what it started it is asked about again");
    again.succeed(on(1), nth(0));
    assert_eq!(again.outcome(), Some(&Outcome::Failed { cause: "no".to_owned() }));
}

#[test]
fn a_node_that_gives_up_on_a_package_waits_for_an_answer() {
    let stuck = || {
        let mut live = Live::started(manifest(2, vec![], vec![script("one")]));
        live.acquire(1);
        let cause = "the disk is full".to_owned();
        live.tell(Input::AcquireFailed { node: node(2), package: PackageIndex(0), cause: cause.clone() });
        let waits = Waiting::Package { node: node(2), package: PackageIndex(0), cause };
        let view = live.rollout.view();
        assert_eq!((view.state, view.waiting), (State::Blocked, vec![waits]));
        live
    };
    let mut live = stuck();
    assert_eq!(live.operator(Operator::Ignore(all())).refused, Some(Refusal::PackageMissing));
    let again = live.operator(Operator::Retry(all())).effects;
    assert!(matches!(again[..], [Effect::Acquire { node: n, .. }] if n == node(2)), "{again:?}");
    assert_eq!(live.rollout.view().nodes[1].packages[0].state, PackageState::Missing);
    assert_eq!(runs(&live.acquire(2).effects).len(), 2);

    assert_eq!(runs(&stuck().operator(Operator::Exclude(all())).effects), [(on(1), nth(0), 1)]);
    assert_eq!(runs(&stuck().acquire(2).effects).len(), 2, "it may succeed by itself");

    let mut live = stuck();
    live.operator(Operator::Fail(all()));
    let cause = "node `n2` gave up on package `web`: the disk is full".to_owned();
    assert_eq!(live.outcome(), Some(&Outcome::Failed { cause }));
}

#[test]
fn steps_on_the_coordinator_can_be_answered_but_it_cannot_be_excluded() {
    let steps = vec![Step { on: On::Coordinator, ..script("migrate") }];
    let mut live = Live::started(manifest(1, vec![], steps));
    live.acquire(1);
    live.end(Actor::Coordinator, nth(0), 1, failed(1));
    assert_eq!(live.operator(Operator::Exclude(all())).refused, Some(Refusal::CoordinatorNeeded));
    assert_eq!(live.operator(Operator::Exclude(only(Actor::Coordinator))).refused, Some(Refusal::CoordinatorNeeded));
    let other = Which { actor: None, step: Some(nth(7)) };
    assert_eq!(live.operator(Operator::Retry(other)).refused, Some(Refusal::NothingWaits));
    live.operator(Operator::Ignore(Which { actor: Some(Actor::Coordinator), step: Some(nth(0)) }));
    assert_eq!(live.outcome(), Some(&Outcome::Succeeded));
}

#[test]
fn without_any_node_left_the_deployment_fails() {
    let mut live = Live::started(manifest(1, vec![], vec![script("one")]));
    live.operator(Operator::Exclude(only(on(1))));
    assert!(matches!(live.outcome(), Some(Outcome::Failed { cause }) if cause.contains("no target node is left")));
}

#[test]
fn a_deployment_without_steps_or_packages_ends() {
    let mut manifest = manifest(2, vec![], vec![]);
    manifest.groups[0].packages.clear();
    let live = Live::started(manifest);
    assert_eq!(live.outcome(), Some(&Outcome::Succeeded));
}

#[test]
fn a_node_that_comes_back_is_told_what_it_is_to_do() {
    let mut live = Live::started(manifest(1, vec![], vec![script("one")]));
    live.tell(Input::NodeOffline(node(1)));
    assert_eq!(live.rollout.view().waiting[0], Waiting::Offline { node: node(1) });
    assert!(matches!(live.tell(Input::NodeOnline(node(1))).effects[..], [Effect::Acquire { .. }]));
    live.acquire(1);
    let told = live.tell(Input::NodeOnline(node(1))).effects;
    assert_eq!(runs(&told), [(on(1), nth(0), 1)]);
    assert_eq!(live.tell(Input::NodeOnline(node(77))).effects, [], "none of this deployment's");
}

#[test]
fn reports_that_do_not_fit_change_nothing() {
    let mut live = Live::started(manifest(1, vec![], vec![script("one")]));
    let strange = [
        Input::Acquired { node: node(9), package: PackageIndex(0) },
        Input::Acquired { node: node(1), package: PackageIndex(9) },
        Input::AcquireFailed { node: node(9), package: PackageIndex(0), cause: String::new() },
        Input::StepStarted { actor: on(1), step: nth(0), attempt: 1 },
        Input::StepEnded { actor: on(1), step: nth(0), attempt: 1, outcome: StepOutcome::Succeeded },
        Input::StepEnded { actor: Actor::Coordinator, step: after(9), attempt: 0, outcome: StepOutcome::Unknown },
    ];
    for input in strange {
        let decision = live.tell(input.clone());
        assert_eq!((decision.records, decision.effects), (vec![], vec![]), "{input:?}");
    }
    live.acquire(1);
    for attempt in [0, 2, u32::MAX] {
        assert_eq!(live.end(on(1), nth(0), attempt, StepOutcome::Succeeded).records, [], "attempt {attempt}");
    }
}

#[test]
fn causes_are_bounded() {
    let mut live = Live::started(manifest(1, vec![], vec![]));
    live.tell(Input::Stop { cause: "ä".repeat(CAUSE_BYTES_MAX) });
    let Some(Outcome::Failed { cause }) = live.outcome() else { panic!("{:?}", live.outcome()) };
    assert_eq!(cause.len(), CAUSE_BYTES_MAX);
}

#[test]
fn generations_grow_with_every_order() {
    let mut live = Live::started(manifest(1, vec![], vec![Step { retries: 1, ..script("one") }]));
    let mut last = live.rollout.generation();
    live.acquire(1);
    let first = live.rollout.generation();
    assert!(first > last, "the first attempt");
    last = first;
    live.tell(Input::StepStarted { actor: on(1), step: nth(0), attempt: 1 });
    assert_eq!(live.rollout.generation(), last, "a report voids no order");
    let retried = live.end(on(1), nth(0), 1, failed(1)).effects;
    assert!(matches!(retried[..], [Effect::RunStep { generation, .. }] if generation > last), "{retried:?}");
    let again = live.restarted(live.journal.len());
    assert_eq!(again.rollout.generation(), live.rollout.generation());
}

#[test]
fn records_travel_through_the_codec() {
    let mut live = Live::started(manifest(2, vec![script("a")], vec![script("one")]));
    live.succeed(on(1), before(0));
    live.succeed(on(2), before(0));
    live.acquire_all();
    live.end(on(1), nth(0), 1, StepOutcome::Failed(Failure::Cause("gone".to_owned())));
    live.operator(Operator::Exclude(all()));
    live.succeed(on(2), nth(0));
    assert_eq!(live.outcome(), Some(&Outcome::SucceededWithout { excluded: 1 }));
    for record in &live.journal {
        assert_eq!(Record::decode(&record.encode().unwrap()).as_ref(), Ok(record));
    }
}

/// A thousand nodes through twenty steps: reports that only count must not cost a copy of the state each.
#[test]
fn many_nodes_take_no_quadratic_time() {
    let steps = (0..20).map(|index| script(&format!("s{index}"))).collect();
    let mut manifest = manifest(1, vec![], steps);
    let id = |number: u16| NodeId([number.to_be_bytes(); 16].concat().try_into().unwrap());
    manifest.groups[0].nodes = (0..1000).map(id).collect();
    let mut rollout = fresh(Arc::new(manifest), false);
    // `commit` would check all of the state each time.
    rollout.soft.advance(Now::default(), None, &rollout.state);
    let mut copies = 0;
    let mut tell = |input: Input| {
        let decision = rollout.decide(input, Now::default());
        let change = std::slice::from_ref(&decision.records[0].change);
        copies += usize::from(follow(change, &rollout.sight(None, Now::default())).is_none());
        decision.records.iter().for_each(|record| rollout.apply(record));
    };
    tell(Input::Tick);
    (0..1000).for_each(|number| tell(Input::Acquired { node: id(number), package: PackageIndex(0) }));
    for step in 0..20 {
        for number in 0..1000 {
            let (actor, step) = (Actor::Node(id(number)), nth(step));
            tell(Input::StepEnded { actor, step, attempt: 1, outcome: StepOutcome::Succeeded });
        }
    }
    assert_eq!(rollout.outcome(), Some(&Outcome::Succeeded));
    assert_eq!(copies, 1 + 1 + 20, "the beginning, the gate, the end of each step");
}
