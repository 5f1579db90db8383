//! When a deployment may start and run: not before a time, not after another, and at which hours.

use std::collections::BTreeMap;

use super::*;
use crate::hours::{Closed, Shut};
use crate::limits::CLOCK_LOOK_MAX;
use crate::manifest::{Offline, Share, Stragglers, Wave};
use crate::rollout::view::{Stage, State, Waiting};
use crate::time::WallTime;

pub(super) const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

/// Where tests begin: a clock that shows something.
const BEGAN: WallTime = WallTime(1_000_000_000);

pub(super) fn planned_for(at: Option<Duration>, expires: Option<Duration>, manifest: Manifest) -> Live {
    let moment = |span: Option<Duration>| span.map(|span| BEGAN + span);
    let mut live = Live::planned(manifest, false, When { at: moment(at), expires: moment(expires), any_hour: false });
    live.now.wall = BEGAN;
    live
}

fn window(until: Option<WallTime>) -> Shut {
    Shut { why: Closed::Window, until }
}

/// That these sites are shut, and no others.
pub(super) fn hours(sites: &[&str]) -> Input {
    Input::Hours(sites.iter().map(|site| (name(site), window(None))).collect())
}

fn ready(manifest: Manifest, shut: &[&str]) -> Live {
    let mut live = Live::new(manifest);
    live.tell(hours(shut));
    live.connect();
    live.acquire_all();
    live
}

pub(super) fn in_flight(live: &Live) -> Vec<(StepRef, Actor)> {
    live.rollout.state.flying().map(|(step, actor, _)| (step, actor)).collect()
}

#[test]
fn all_goes_on_at_once_but_the_gate_waits_for_its_time() {
    let mut live = planned_for(Some(2 * HOUR), None, manifest(2, vec![], vec![script("one")]));
    live.connect();
    live.acquire_all();
    let view = live.rollout.view();
    assert_eq!((view.stage, view.state), (Stage::Release, State::Blocked));
    assert_eq!(view.waiting, [Waiting::Time { at: BEGAN + 2 * HOUR }]);
    assert_eq!(live.rollout.next_wake(), Some((live.now.time + CLOCK_LOOK_MAX, Why::At)), "the clock may be set");
    assert_eq!(live.wait(2 * HOUR - SECOND).records, []);
    assert_eq!(live.rollout.next_wake(), Some((live.now.time + SECOND, Why::At)));
    assert_eq!(runs(&live.wait(SECOND).effects), [(on(1), nth(0), 1), (on(2), nth(0), 1)]);
}

#[test]
fn the_clock_says_when_and_not_how_long_it_took() {
    let mut live = planned_for(Some(2 * HOUR), None, manifest(1, vec![], vec![script("one")]));
    live.connect();
    live.acquire_all();
    live.wait(HOUR);
    live.now.wall = BEGAN;
    assert_eq!(live.wait(HOUR + HOUR / 2).records, [], "it was set back");
    live.now.wall = BEGAN + 2 * HOUR;
    assert_eq!(runs(&live.wait(Duration::ZERO).effects).len(), 1, "it was set on");
    live.now.wall = BEGAN;
    live.tell(Input::Tick);
    live.succeed(on(1), nth(0));
    assert_eq!(live.outcome(), Some(&Outcome::Succeeded), "what has begun stays begun");
}

#[test]
fn a_time_outlives_a_restart() {
    let mut live = planned_for(Some(2 * HOUR), Some(3 * HOUR), manifest(1, vec![], vec![script("one")]));
    live.connect();
    live.acquire_all();
    live.now.wall = BEGAN + HOUR;
    let mut again = live.restarted(live.journal.len());
    again.connect();
    assert_eq!(again.wait(HOUR - SECOND).records, []);
    assert_eq!(runs(&again.wait(SECOND).effects), [(on(1), nth(0), 1)]);
    live.now.wall = BEGAN + 3 * HOUR;
    let mut late = live.restarted(live.journal.len());
    late.tell(Input::Tick);
    assert!(matches!(late.outcome(), Some(Outcome::Failed { .. })), "it never runs late");
}

#[test]
fn a_release_is_for_the_gate_and_does_not_make_it_earlier_unless_it_says_so() {
    let gate = Gate { manual: true, ..Gate::default() };
    let steps = || vec![script("one")];
    let mut live = planned_for(Some(HOUR), None, Manifest { gate, ..manifest(1, vec![], steps()) });
    live.connect();
    live.acquire_all();
    assert_eq!(live.rollout.view().waiting, [Waiting::Release, Waiting::Time { at: BEGAN + HOUR }]);
    let mut early = live.clone();
    assert_eq!(runs(&live.operator(Operator::Release).effects), []);
    assert_eq!(live.rollout.view().waiting, [Waiting::Time { at: BEGAN + HOUR }]);
    assert_eq!(runs(&live.wait(HOUR).effects).len(), 1);
    assert_eq!(runs(&early.operator(Operator::ReleaseNow).effects).len(), 1);

    let mut auto = planned_for(Some(HOUR), None, manifest(1, vec![], steps()));
    auto.connect();
    auto.acquire_all();
    assert_eq!(auto.operator(Operator::Release).refused, Some(Refusal::GateTimed));
    assert_eq!(runs(&auto.operator(Operator::ReleaseNow).effects).len(), 1);
    assert_eq!(auto.operator(Operator::ReleaseNow).refused, Some(Refusal::GateOpen));
    let mut now = Live::started(manifest(1, vec![], steps()));
    assert_eq!(now.operator(Operator::ReleaseNow).refused, Some(Refusal::GateAuto));
}

#[test]
fn what_has_not_begun_by_its_time_fails_with_what_it_waited_for() {
    let steps = || vec![script("one"), Step { on: On::Always, ..script("always") }];
    let manual = Gate { manual: true, ..Gate::default() };
    type Case<'a> = (&'a str, Manifest, fn(&mut Live));
    let cases: [Case<'_>; 5] = [
        ("1 of 2 nodes had their packages", manifest(2, vec![], steps()), |live| drop(live.acquire(1))),
        ("an operator paused it", manifest(2, vec![], steps()), |live| drop(live.operator(Operator::Pause))),
        ("nobody had released it", Manifest { gate: manual, ..manifest(2, vec![], steps()) }, Live::acquire_all),
        ("site `a` was outside its maintenance windows or frozen", manifest(1, vec![], steps()), |live| {
            live.tell(hours(&["a"]));
            live.acquire_all();
        }),
        ("its steps before `acquire` were not done", manifest(1, vec![script("vpn")], steps()), |live| {
            live.end(on(1), before(0), 1, failed(1));
        }),
    ];
    for (cause, manifest, come_to) in cases {
        let mut live = planned_for(None, Some(HOUR), manifest);
        live.connect();
        come_to(&mut live);
        let wanted = if live.rollout.state.paused { Why::Expires } else { live.rollout.next_wake().unwrap().1 };
        assert_eq!(wanted, Why::Expires, "{cause}");
        assert_eq!(live.wait(HOUR - SECOND).records, [], "{cause}");
        let ends = live.wait(SECOND);
        let always = step(Phase::Always, 1);
        assert!(runs(&ends.effects).iter().all(|(_, step, _)| *step == always), "{cause}: {:?}", ends.effects);
        let nodes: Vec<_> = live.rollout.manifest().targets().into_iter().collect();
        nodes.into_iter().for_each(|node| drop(live.succeed(Actor::Node(node), always)));
        let expired = Outcome::Failed { cause: format!("it expired before its steps began: {cause}") };
        assert_eq!(live.outcome(), Some(&expired));
    }
}

#[test]
fn what_has_begun_does_not_expire() {
    let mut live = planned_for(None, Some(HOUR), manifest(2, vec![], vec![script("one"), script("two")]));
    live.connect();
    live.acquire_all();
    live.wait(2 * HOUR);
    for index in [0, 1] {
        live.succeed(on(1), nth(index));
        live.succeed(on(2), nth(index));
    }
    assert_eq!(live.outcome(), Some(&Outcome::Succeeded));
}

#[test]
fn nothing_starts_where_a_site_is_shut_and_the_others_go_on() {
    let mut live = ready(manifest(4, vec![], vec![script("one"), script("two")]), &["a"]);
    assert_eq!(in_flight(&live), [(nth(0), on(2)), (nth(0), on(4))], "1 and 3 are at `a`");
    let waits = Waiting::Hours { site: name("a"), shut: window(None) };
    assert_eq!(live.rollout.view().waiting[0], waits);
    assert_eq!(live.rollout.view().state, State::Running);
    live.succeed(on(2), nth(0));
    live.succeed(on(4), nth(0));
    assert_eq!(live.rollout.view().state, State::Blocked, "the step is a barrier");
    assert_eq!(runs(&live.tell(hours(&[])).effects), [(on(1), nth(0), 1), (on(3), nth(0), 1)]);
    live.tell(hours(&["a"]));
    live.succeed(on(1), nth(0));
    assert_eq!(in_flight(&live), [(nth(0), on(3))], "what runs is let finish");
    assert_eq!(runs(&live.succeed(on(3), nth(0)).effects), [(on(2), nth(1), 1), (on(4), nth(1), 1)]);
}

#[test]
fn lanes_of_sites_that_are_open_go_on_to_the_end() {
    let sites = waves::wave("sites", &[&[1, 3], &[2, 4]]);
    let steps = vec![script("one"), script("two")];
    let mut live = ready(Manifest { waves: vec![sites], ..manifest(4, vec![], steps) }, &["a"]);
    for index in [0, 1] {
        live.succeed(on(2), nth(index));
        live.succeed(on(4), nth(index));
    }
    assert_eq!((in_flight(&live), live.rollout.view().waves[0].done), (vec![], 2));
    assert_eq!(runs(&live.tell(hours(&[])).effects).len(), 2);
}

#[test]
fn what_comes_before_the_gate_does_not_wait_for_the_hours() {
    let mut live = Live::new(manifest(1, vec![script("vpn")], vec![script("one")]));
    live.tell(hours(&["a"]));
    live.connect();
    assert_eq!(in_flight(&live), [(before(0), on(1))]);
    live.succeed(on(1), before(0));
    live.acquire(1);
    assert_eq!((in_flight(&live), live.rollout.view().stage), (vec![], Stage::Steps));
    let cancelled = live.operator(Operator::Cancel);
    assert_eq!(runs(&cancelled.effects), []);
    assert_eq!(live.outcome(), Some(&Outcome::Cancelled));
}

#[test]
fn what_runs_at_the_end_does_not_wait_for_the_hours() {
    let always = Step { on: On::Always, ..script("always") };
    let vpn = Step { always_after: Some("down".to_owned()), ..script("vpn") };
    let mut live = Live::new(manifest(1, vec![vpn], vec![script("one"), always]));
    live.connect();
    live.succeed(on(1), before(0));
    live.acquire(1);
    live.tell(hours(&["a"]));
    assert_eq!(runs(&live.succeed(on(1), nth(0)).effects), [(on(1), step(Phase::Always, 1), 1)]);
    assert_eq!(runs(&live.succeed(on(1), step(Phase::Always, 1)).effects), [(on(1), after(0), 1)]);
}

#[test]
fn an_order_that_has_not_arrived_waits_until_its_site_opens() {
    let mut live = ready(manifest(2, vec![], vec![script("one")]), &[]);
    live.tell(Input::NodeOffline(node(1)));
    live.tell(hours(&["a"]));
    assert_eq!(runs(&live.tell(Input::NodeOnline(node(1))).effects), [], "it was ordered, and may not have started");
    let restarted = live.restarted(live.journal.len());
    assert_eq!(runs(&restarted.rollout.pending_effects()), [(on(2), nth(0), 1)], "a restart knows it");
    assert_eq!(runs(&live.tell(hours(&[])).effects), [(on(1), nth(0), 1)]);
    live.tell(Input::StepStarted { actor: on(1), step: nth(0), attempt: 1 });
    live.tell(hours(&["a"]));
    live.tell(Input::NodeOffline(node(1)));
    let asked = runs(&live.tell(Input::NodeOnline(node(1))).effects);
    assert_eq!(asked, [(on(1), nth(0), 1)], "what started is asked how it went");
}

#[test]
fn a_retry_is_a_start() {
    let step = Step { retries: 1, backoff: SECOND, ..script("one") };
    let mut live = ready(manifest(1, vec![], vec![step]), &[]);
    live.tell(hours(&["a"]));
    live.end(on(1), nth(0), 1, failed(1));
    assert_eq!(runs(&live.wait(HOUR).effects), []);
    assert_eq!((live.rollout.view().state, live.rollout.next_wake()), (State::Blocked, None));
    assert_eq!(runs(&live.tell(hours(&[])).effects), [(on(1), nth(0), 2)]);
    live.end(on(1), nth(0), 2, failed(1));
    live.tell(hours(&["a"]));
    assert_eq!(live.operator(Operator::Retry(Which::default())).refused, Some(Refusal::Shut));
    live.tell(hours(&[]));
    assert_eq!(runs(&live.operator(Operator::Retry(Which::default())).effects), [(on(1), nth(0), 3)]);
}

#[test]
fn a_window_of_nodes_slides_over_those_whose_site_is_open() {
    let pace = Pace::Window(Share::Count(1));
    let mut live = ready(manifest(4, vec![], vec![Step { pace, ..script("one") }]), &["a"]);
    assert_eq!(in_flight(&live), [(nth(0), on(2))]);
    assert_eq!(runs(&live.succeed(on(2), nth(0)).effects), [(on(4), nth(0), 1)]);
    assert_eq!(runs(&live.succeed(on(4), nth(0)).effects), []);
    assert_eq!(runs(&live.tell(hours(&[])).effects), [(on(1), nth(0), 1)]);
    let mut together = ready(manifest(2, vec![], vec![Step { pace: Pace::Together, ..script("one") }]), &["a"]);
    assert_eq!(in_flight(&together), [], "they start together, once all can");
    assert_eq!(runs(&together.tell(hours(&[])).effects).len(), 2);
}

#[test]
fn steps_for_a_site_or_the_coordinator_wait_for_those_that_they_are_for() {
    let mut live = ready(manifest(4, vec![], vec![Step { on: On::Site, ..script("site") }]), &["a"]);
    assert!(live.rollout.state.elected.iter().eq(&[(nth(0), node(2))]), "`b` is open");
    live.tell(hours(&["a", "b"]));
    assert_eq!(live.tell(Input::StepReady { node: node(2), step: nth(0) }).records, [], "it answers too late");
    live.tell(hours(&["a"]));
    assert_eq!(runs(&live.ready().effects), [(on(2), nth(0), 1)]);
    let waiting = live.rollout.view().waiting;
    assert!(!waiting.iter().any(|waiting| matches!(waiting, Waiting::Site { .. })), "it is not for lack of a node");
    assert_eq!(offers(&live.tell(hours(&[])).effects), [(node(1), nth(0))]);

    let migrate = || vec![Step { on: On::Coordinator, ..script("migrate") }, script("one")];
    let mut live = ready(manifest(2, vec![], migrate()), &["a", "b"]);
    assert_eq!(in_flight(&live), [], "all it is for are shut");
    assert_eq!(runs(&live.tell(hours(&["a"])).effects), [(Actor::Coordinator, nth(0), 1)]);
    // The canary's site is shut; that the rest's is open does not help it.
    let waves = vec![waves::wave("canary", &[&[1]]), waves::wave("rest", &[&[2]])];
    let mut live = ready(Manifest { waves, ..manifest(2, vec![], migrate()) }, &["a"]);
    assert_eq!(in_flight(&live), []);
    assert_eq!(runs(&live.tell(hours(&["b"])).effects), [(Actor::Coordinator, nth(0), 1)]);
}

#[test]
fn a_node_catches_up_when_its_site_is_open() {
    let offline = Offline::CatchUp { after: HOUR, until: 100 * HOUR };
    let mut live = Live::new(Manifest { offline, ..manifest(2, vec![], vec![script("one")]) });
    live.tell(Input::NodeOnline(node(2)));
    live.acquire(2);
    live.wait(HOUR);
    live.succeed(on(2), nth(0));
    live.tell(hours(&["a"]));
    live.tell(Input::NodeOnline(node(1)));
    assert_eq!(runs(&live.acquire(1).effects), []);
    assert_eq!(runs(&live.tell(hours(&[])).effects), [(on(1), nth(0), 1)]);
}

#[test]
fn an_operator_goes_past_the_hours_and_so_do_rollbacks_and_what_only_stages() {
    let mut live = ready(manifest(2, vec![], vec![script("one"), script("two")]), &["a", "b"]);
    assert_eq!(in_flight(&live), []);
    assert_eq!(runs(&live.operator(Operator::AnyHour).effects).len(), 2);
    assert!(live.rollout.view().when.any_hour);
    assert_eq!(live.operator(Operator::AnyHour).refused, Some(Refusal::AnyHourAlready));
    assert_eq!(live.restarted(live.journal.len()).rollout.state, live.rollout.state);

    let when = When { any_hour: true, ..When::default() };
    for mut live in [
        Live::planned(manifest(2, vec![], vec![script("one")]), false, when),
        Live::started(manifest(2, vec![], vec![script("one")])),
    ] {
        live.tell(hours(&["a", "b"]));
        live.connect();
        if !live.rollout.view().when.any_hour {
            live.operator(Operator::AnyHour);
        }
        assert_eq!(live.operator(Operator::KeepHours).refused, None);
        live.tell(hours(&["a", "b"]));
        live.acquire_all();
        assert_eq!((in_flight(&live), live.rollout.view().when.any_hour), (vec![], false), "it was taken back");
        assert_eq!(live.operator(Operator::KeepHours).refused, Some(Refusal::HoursKept));
        assert_eq!(live.restarted(live.journal.len()).rollout.state, live.rollout.state);
        assert_eq!(runs(&live.operator(Operator::AnyHour).effects).len(), 2, "and may be said again");
    }

    let any_hour = When { any_hour: true, ..When::default() };
    let mut told = Live::planned(manifest(1, vec![], vec![script("one")]), false, any_hour);
    told.tell(hours(&["a"]));
    told.connect();
    assert_eq!(runs(&told.acquire(1).effects).len(), 1);

    let rollback = crate::manifest::Rollback { of: DeploymentId(1), from: name("1"), to: DeploymentId(2) };
    let back = Manifest { rollback: Some(rollback), ..manifest(1, vec![], vec![script("one")]) };
    assert_eq!(in_flight(&ready(back, &["a"])), [(nth(0), on(1))]);

    let mut staged = Live::with(manifest(1, vec![], vec![script("one")]), true);
    staged.tell(hours(&["a"]));
    staged.connect();
    staged.acquire(1);
    assert_eq!(staged.outcome(), Some(&Outcome::Succeeded));
}

#[test]
fn only_what_changes_is_recorded_and_only_of_its_own_sites() {
    let mut live = Live::started(manifest(1, vec![], vec![script("one")]));
    let shut = |until| Input::Hours([(name("a"), window(until)), (name("z"), window(until))].into());
    let first = live.tell(shut(None)).records;
    let changes: Vec<_> = first.into_iter().map(|record| record.change).collect();
    assert_eq!(changes, [Change::Shut { site: name("a"), shut: window(None) }]);
    assert_eq!(live.tell(shut(None)).records, []);
    let until = Some(WallTime(7));
    assert_eq!(live.tell(shut(until)).records.len(), 1);
    let known: BTreeMap<_, _> = [(name("a"), window(until))].into();
    assert_eq!(live.rollout.state.shut, known);
}

/// Restarts a deployment that waits, with `passed` of the wait gone, and says how long it waits from there.
fn left_after(live: &mut Live, passed: Duration, clock: impl Fn(WallTime) -> WallTime, whole: Duration) -> Duration {
    live.wait(passed);
    live.now.wall = clock(live.now.wall);
    let mut again = live.restarted(live.journal.len());
    again.connect();
    let mut waited = Duration::ZERO;
    while again.journal.len() == live.journal.len() {
        assert!(waited <= whole, "it waits for ever");
        again.wait(SECOND);
        waited += SECOND;
    }
    waited
}

/// How long a wait of an hour goes on after half of it and a restart, by what becomes of the clock meanwhile.
fn over_clock_steps(live: &Live) {
    let half = HOUR / 2;
    let left = |clock: fn(WallTime) -> WallTime| left_after(&mut live.clone(), half, clock, HOUR + SECOND);
    assert_eq!(left(|wall| wall), half, "what passed counts");
    assert_eq!(left(|wall| WallTime(wall.0 - 600_000)), half + HOUR / 6, "set back by ten minutes");
    assert_eq!(left(|_| BEGAN), HOUR, "set back to before it began: never more than from the beginning");
    assert_eq!(left(|wall| wall + HOUR / 4), half / 2, "set on, or the coordinator was away for so long");
    assert!(left(|wall| wall + 100 * HOUR) <= SECOND, "over while it was away: at once");
}

fn began(manifest: Manifest) -> Live {
    let mut live = Live::new(manifest);
    live.now.wall = BEGAN;
    live.connect();
    live
}

#[test]
fn a_bake_outlives_a_restart() {
    let waves = vec![Wave { bake: HOUR, ..waves::wave("canary", &[&[1]]) }, waves::wave("rest", &[&[2]])];
    let mut live = began(Manifest { waves, ..manifest(2, vec![], vec![script("one")]) });
    live.acquire_all();
    live.succeed(on(1), nth(0));
    over_clock_steps(&live);
}

#[test]
fn the_wait_before_a_retry_outlives_a_restart() {
    let mut live = began(manifest(1, vec![], vec![Step { retries: 1, backoff: HOUR, ..script("one") }]));
    live.acquire_all();
    live.end(on(1), nth(0), 1, failed(1));
    over_clock_steps(&live);
}

#[test]
fn the_clock_for_stragglers_outlives_a_restart() {
    let stragglers = Stragglers::ExcludeAfter(HOUR);
    let gate = Gate { quorum: crate::manifest::Quorum::Percent(50), stragglers, manual: false };
    let mut live = began(Manifest { gate, ..manifest(2, vec![], vec![script("one")]) });
    live.acquire(1);
    over_clock_steps(&live);
    // A pause begins it anew, also across a restart.
    live.wait(HOUR / 2);
    live.operator(Operator::Pause);
    live.operator(Operator::Resume);
    assert_eq!(left_after(&mut live, HOUR / 4, |wall| wall, HOUR + SECOND), HOUR - HOUR / 4);
}

#[test]
fn for_how_long_a_node_is_away_outlives_a_restart() {
    let offline = Offline::SkipAfter(HOUR);
    let away = |live: &mut Live| {
        let mut again = live.restarted(live.journal.len());
        again.tell(Input::NodeOnline(node(1)));
        let mut waited = Duration::ZERO;
        while again.rollout.view().nodes[1].excluded.is_none() {
            assert!(waited <= HOUR, "it waits for ever");
            again.wait(SECOND);
            waited += SECOND;
        }
        waited
    };
    let mut live = began(Manifest { offline, ..manifest(2, vec![], vec![script("one")]) });
    live.acquire(1);
    live.tell(Input::NodeOffline(node(2)));
    live.wait(HOUR / 2);
    assert_eq!(away(&mut live), HOUR / 2);
    live.tell(Input::NodeOnline(node(2)));
    live.wait(HOUR / 2);
    assert_eq!(away(&mut live), HOUR, "it was there when the coordinator went");
    let mut never = Live::new(Manifest { offline, ..manifest(2, vec![], vec![script("one")]) });
    never.now.wall = BEGAN;
    never.tell(Input::Absent(vec![node(2)]));
    never.tell(Input::NodeOnline(node(1)));
    never.acquire(1);
    never.wait(HOUR / 2);
    assert_eq!(away(&mut never), HOUR / 2, "it never came");
}
