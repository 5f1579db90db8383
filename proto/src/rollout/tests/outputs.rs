//! What steps write for later ones: who is told, what is kept, and that there is no more of it than there is room.

use super::*;
use crate::limits::{OUTPUTS_KEPT_BYTES_MAX, SHARED_OUTPUTS_BYTES_MAX, STEP_VALUES_BYTES_MAX};
use crate::outputs::{self, ByStep, Outputs};

fn value(text: &str) -> Outputs {
    [("key".to_owned(), text.to_owned())].into()
}

impl Live {
    fn wrote(&mut self, actor: Actor, step: StepRef, attempt: u32, outputs: Outputs) -> Said {
        self.tell(Input::StepWrote { actor, step, attempt, outputs })
    }

    fn seen_at(&self, number: u8) -> ByStep {
        self.rollout.outputs_for(node(number)).unwrap_or_default()
    }
}

/// Four nodes, two in each site: a step on the coordinator, one of the sites, and one on the nodes.
fn three_kinds() -> Live {
    let own = Step { on: On::Coordinator, ..script("migrate") };
    let steps = vec![own, Step { on: On::Site, ..script("elect") }, script("one"), script("two")];
    let mut live = Live::started(manifest(4, vec![], steps));
    live.acquire_all();
    live
}

#[test]
fn what_the_coordinator_writes_is_for_all_and_what_a_site_writes_for_the_site() {
    let mut live = three_kinds();
    assert_eq!(live.rollout.outputs_for(node(1)), None, "nothing was written");
    live.wrote(Actor::Coordinator, nth(0), 1, value("own"));
    assert_eq!(live.seen_at(1), ByStep::new(), "its step has not ended");
    live.succeed(Actor::Coordinator, nth(0));
    live.ready();
    live.wrote(on(1), nth(1), 1, value("a"));
    live.succeed(on(1), nth(1));
    live.wrote(on(2), nth(1), 1, value("b"));
    let run = live.succeed(on(2), nth(1));
    assert_eq!(runs(&run.effects).len(), 4);
    for (number, site) in [(1, "a"), (2, "b"), (3, "a"), (4, "b")] {
        assert_eq!(live.seen_at(number), [(nth(0), value("own")), (nth(1), value(site))].into(), "node {number}");
    }
    live.wrote(on(1), nth(2), 1, value("mine"));
    live.succeed(on(1), nth(2));
    assert_eq!(live.seen_at(3).len(), 2, "what a node writes for itself is its own");
    let view = live.rollout.view();
    let shown = |steps: &[view::StepView], step| steps.iter().find(|of| of.step == step).unwrap().outputs.clone();
    assert_eq!(shown(&view.nodes[0].steps, nth(2)), value("mine"));
    assert_eq!(shown(&view.nodes[1].steps, nth(2)), Outputs::new());
    assert_eq!(shown(&view.coordinator, nth(0)), value("own"));
    let again = live.restarted(live.journal.len());
    assert_eq!(again.rollout.state, live.rollout.state);
    assert_eq!(again.seen_at(4), live.seen_at(4));
}

#[test]
fn what_is_said_twice_or_late_or_by_another_attempt_changes_nothing() {
    let mut live = three_kinds();
    let silent = |said: Said| said.records.is_empty() && said.effects.is_empty();
    assert!(silent(live.wrote(on(1), nth(2), 1, value("early"))), "it does not run");
    assert!(silent(live.wrote(Actor::Coordinator, nth(0), 2, value("other"))));
    live.wrote(Actor::Coordinator, nth(0), 1, value("x"));
    assert!(silent(live.wrote(Actor::Coordinator, nth(0), 1, value("x"))));
    live.succeed(Actor::Coordinator, nth(0));
    assert!(silent(live.wrote(Actor::Coordinator, nth(0), 1, value("late"))));
}

/// An attempt whose end nobody saw, and that had written: what counts is what the next one writes.
#[test]
fn another_attempt_begins_with_nothing() {
    let mut live = three_kinds();
    live.wrote(Actor::Coordinator, nth(0), 1, value("x"));
    live.end(Actor::Coordinator, nth(0), 1, StepOutcome::Unknown);
    live.operator(Operator::Retry(Which::default()));
    live.succeed(Actor::Coordinator, nth(0));
    assert_eq!(live.seen_at(1), ByStep::new());
}

#[test]
fn more_than_there_is_room_for_fails_the_step_where_others_were_to_see_it() {
    let most = usize::try_from(STEP_VALUES_BYTES_MAX).unwrap() - "key".len();
    let count = u16::try_from(SHARED_OUTPUTS_BYTES_MAX / STEP_VALUES_BYTES_MAX).unwrap();
    let steps = (0..=count).map(|number| Step { on: On::Coordinator, ..script(&format!("s{number}")) }).collect();
    let mut live = Live::started(manifest(1, vec![], steps));
    live.acquire_all();
    for index in 0..count {
        live.wrote(Actor::Coordinator, nth(index), 1, value(&"x".repeat(most)));
        live.succeed(Actor::Coordinator, nth(index));
    }
    let total: u64 = live.seen_at(1).values().map(outputs::bytes).sum();
    assert_eq!(total, SHARED_OUTPUTS_BYTES_MAX, "all that fits is handed on");
    live.wrote(Actor::Coordinator, nth(count), 1, value("x"));
    live.succeed(Actor::Coordinator, nth(count));
    let view = live.rollout.view();
    let asks = |waiting: &view::Waiting| matches!(waiting, view::Waiting::Answer { outcome: StepOutcome::Failed(Failure::Cause(cause)), .. } if cause.contains("at most 65536 bytes in all"));
    assert!(view.waiting.iter().any(asks), "{:?}", view.waiting);
}

#[test]
fn what_a_node_writes_for_itself_is_shown_as_long_as_there_is_room_and_fails_nothing() {
    let most = usize::try_from(STEP_VALUES_BYTES_MAX).unwrap() - "key".len();
    let nodes = u8::try_from(OUTPUTS_KEPT_BYTES_MAX / STEP_VALUES_BYTES_MAX).unwrap() + 1;
    let mut live = Live::started(manifest(nodes, vec![], vec![script("one")]));
    live.acquire_all();
    for number in 1..=nodes {
        let said = live.wrote(on(number), nth(0), 1, value(&"x".repeat(most)));
        assert_eq!(said.records.is_empty(), number == nodes, "node {number}");
        live.succeed(on(number), nth(0));
    }
    assert_eq!(live.outcome(), Some(&Outcome::Succeeded));
}

#[test]
fn a_step_may_name_what_comes_before_it_and_is_seen_where_it_runs() {
    let before = vec![script("vpn")];
    let own = || Step { on: On::Coordinator, ..script("own") };
    let steps = vec![own(), script("one"), Step { on: On::Always, ..script("end") }, script("two")];
    let manifest = manifest(1, before, steps);
    let seen = |of: StepRef| outputs::seen_by(&manifest, of).map(Name::as_str).collect::<Vec<_>>();
    assert_eq!(seen(super::before(0)), [""; 0]);
    assert_eq!(seen(nth(0)), [""; 0], "what nodes wrote is not the coordinator's to see");
    assert_eq!(seen(nth(1)), ["vpn", "own"]);
    assert_eq!(seen(nth(3)), ["vpn", "own", "one"], "what runs at the end comes later");
    assert_eq!(seen(step(Phase::Always, 2)), ["vpn", "own", "one", "two"]);
    assert_eq!(seen(after(0)), ["vpn", "own", "one", "two", "end"]);
}
