//! GATE between the cores: a step starts once per attempt, whatever is said twice and whoever starts anew.

use std::time::Duration;

use shoal_proto::id::Generation;
use shoal_proto::limits::ABANDON_AFTER;
use shoal_proto::manifest::Manifest;
use shoal_proto::rollout::view::Waiting;
use shoal_proto::rollout::{Actor, Operator, Outcome, StepOutcome, Which};
use shoal_proto::runs::StepRecord;
use shoal_proto::wire::{ToCoordinator, ToNode};

use crate::plan::{A, B, deployment, first_run, id, package, step};
use crate::site::Site;

fn with_a_step(nodes: &[usize]) -> Manifest {
    let web = package("web", 1);
    let mut manifest = deployment(1, &[&web], nodes);
    manifest.steps = vec![step("restart")];
    manifest
}

#[test]
fn a_step_that_is_ordered_twice_starts_once() {
    let mut site = Site::new(1);
    site.create(&with_a_step(&[A]));
    site.finish();
    let run = first_run(1);
    assert_eq!(site.agents[A].running().started_steps, [run]);
    let generation = site.orders.iter().rev().find_map(|(_, order)| match order {
        ToNode::Run { generation, .. } => Some(*generation),
        _ => None,
    });
    let order = ToNode::Run { run, generation: generation.unwrap() };
    site.order(A, order.clone());
    site.disconnect(A);
    site.connect(A);
    site.crash_coordinator();
    site.start_coordinator();
    site.connect(A);
    assert_eq!(site.agents[A].running().started_steps, [run], "the order came four times");
    site.end_step(A, run, StepOutcome::Succeeded);
    assert_eq!(site.view(1).rollout.outcome, Some(Outcome::Succeeded));
    // A deployment that is over is forgotten: an order that was on its way does not begin it anew.
    site.order(A, order);
    assert_eq!(site.agents[A].running().started_steps, [run]);
}

#[test]
fn a_step_whose_node_started_anew_is_unknown_and_not_run_again() {
    let mut site = Site::new(2);
    site.create(&with_a_step(&[A, B]));
    site.finish();
    site.crash(A);
    site.start(A);
    site.connect(A);
    site.pass(Duration::from_secs(1));
    assert_eq!(site.agents[A].running().started_steps, [], "it has started before");
    let waiting = site.view(1).rollout.waiting;
    let unknown = |waiting: &Waiting| matches!(waiting, Waiting::Answer { outcome: StepOutcome::Unknown, .. });
    assert!(waiting.iter().any(unknown), "{waiting:?}");
    site.end_step(B, first_run(1), StepOutcome::Succeeded);
    site.operate(1, Operator::Retry(Which::default()));
    let started = site.agents[A].running().started_steps.clone();
    assert_eq!(started.iter().map(|run| run.attempt).collect::<Vec<_>>(), [2], "an operator says so");
    site.end_step(A, started[0], StepOutcome::Succeeded);
    assert_eq!(site.view(1).rollout.outcome, Some(Outcome::Succeeded));
}

#[test]
fn an_outcome_that_the_coordinator_did_not_hear_is_said_when_it_is_back() {
    let mut site = Site::new(1);
    site.create(&with_a_step(&[A]));
    site.finish();
    site.crash_coordinator();
    site.end_step(A, first_run(1), StepOutcome::Succeeded);
    site.start_coordinator();
    assert_eq!(site.view(1).rollout.outcome, None);
    site.connect(A);
    assert_eq!(site.view(1).rollout.outcome, Some(Outcome::Succeeded));
    assert_eq!(site.agents[A].running().started_steps.len(), 1);
}

#[test]
fn no_step_is_ordered_before_the_gate_whoever_comes_and_goes() {
    let mut site = Site::new(2);
    site.create(&with_a_step(&[A, B]));
    let ordered = |site: &Site| site.orders.iter().filter(|(_, order)| matches!(order, ToNode::Run { .. })).count();
    site.crash_coordinator();
    site.start_coordinator();
    site.connect(B);
    site.connect(A);
    // What a node says of a step that was not ordered counts for nothing.
    let run = first_run(1);
    site.say(A, ToCoordinator::StepStarted(run));
    site.say(A, ToCoordinator::StepEnded { run, outcome: StepOutcome::Succeeded });
    assert_eq!((ordered(&site), site.view(1).rollout.gate.open), (0, false));
    site.finish();
    assert_eq!((ordered(&site), site.view(1).rollout.gate.open), (2, true));
}

#[test]
fn a_step_that_was_killed_before_it_started_never_starts() {
    let mut site = Site::new(1);
    site.deaf.insert(A);
    site.create(&with_a_step(&[A]));
    site.hears_again(A);
    let run = first_run(1);
    site.order(A, ToNode::Kill { run, generation: Generation(60) });
    site.order(A, ToNode::Run { run, generation: Generation(60) });
    assert_eq!(site.agents[A].running().started_steps, []);
    assert!(site.agents[A].records.len() == 1, "and remembers that: {:?}", site.agents[A].records);
    site.crash(A);
    site.start(A);
    site.connect(A);
    site.order(A, ToNode::Run { run, generation: Generation(60) });
    assert_eq!(site.agents[A].running().started_steps, []);
}

#[test]
fn a_step_of_a_deployment_that_ended_while_its_node_was_away_is_killed_and_forgotten() {
    let mut site = Site::new(2);
    site.create(&with_a_step(&[A, B]));
    site.finish();
    let run = first_run(1);
    site.disconnect(A);
    site.end_step(B, run, StepOutcome::Succeeded);
    site.operate(1, Operator::Exclude(Which { actor: Some(Actor::Node(id(A))), step: None }));
    site.pass(ABANDON_AFTER + Duration::from_secs(1));
    assert!(site.view(1).rollout.outcome.is_some());
    assert_eq!(site.agents[A].running().killed_steps, [], "nobody could tell it");
    site.connect(A);
    site.pass(Duration::from_secs(1));
    assert_eq!(site.agents[A].running().killed_steps, [run]);
    assert_eq!(site.agents[A].records.last(), Some(&StepRecord::Forgotten(run.deployment)));
}
