//! Rollouts under test: a deployment with its journal, and what is asserted after everything that it decides.

mod away;
mod basis;
mod election;
mod expires;
mod forecast;
mod join;
mod outputs;
mod pauses;
mod plan;
mod properties;
mod retries;
mod scenarios;
mod variables;
mod walk;
mod waves;
mod when;
mod windows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::content::Outline;
use crate::id::{DeploymentId, PackageId, PackageIndex, RecipeId, StepIndex};
use crate::manifest::{
    Acquire, Action, Gate, Group, Manifest, On, OnFailure, Pace, Package, Phase, Source, Step, StepRef,
};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Nodes are numbered from 1.
fn node(number: u8) -> NodeId {
    NodeId([number; 32])
}

fn on(number: u8) -> Actor {
    Actor::Node(node(number))
}

fn step(phase: Phase, index: u16) -> StepRef {
    StepRef { phase, index: StepIndex(index) }
}

fn before(index: u16) -> StepRef {
    step(Phase::Before, index)
}

fn nth(index: u16) -> StepRef {
    step(Phase::Steps, index)
}

fn after(index: u16) -> StepRef {
    step(Phase::After, index)
}

fn package(text: &str) -> Package {
    let recipe = Outline { recipe: RecipeId([7; 32]), size: 1, pieces: Vec::new() };
    Package { name: name(text), reference: text.to_owned(), id: PackageId([9; 32]), size: 10, recipe }
}

fn script(text: &str) -> Step {
    Step {
        name: name(text),
        on: On::Node,
        action: Action::Script { run: "true".to_owned() },
        timeout: Duration::from_secs(60),
        retries: 0,
        backoff: Duration::ZERO,
        on_failure: OnFailure::Pause,
        idempotent: false,
        always_after: None,
        pace: Pace::Each,
    }
}

/// A deployment of one package to `nodes` nodes.
fn manifest(nodes: u8, before_acquire: Vec<Step>, steps: Vec<Step>) -> Manifest {
    Manifest {
        deployment: DeploymentId(1),
        coordinator: node(0),
        name: name("shop"),
        release: name("1"),
        packages: vec![package("web")],
        groups: vec![Group { nodes: (1..=nodes).map(node).collect(), packages: vec![PackageIndex(0)] }],
        acquire: Acquire { source: Source::Feed, swarm: true },
        gate: Gate::default(),
        before_acquire,
        steps,
        waves: Vec::new(),
        offline: crate::manifest::Offline::Wait,
        rollback: None,
    }
}

/// A rollout with its journal. Odd nodes are in site `a`, even ones in `b`.
#[derive(Clone)]
struct Live {
    rollout: Rollout,
    journal: Vec<Record>,
    /// Every attempt that a record ever ordered.
    ordered: BTreeSet<(StepRef, Actor, u32)>,
    now: Now,
    stage_only: bool,
    when: When,
}

/// A decision that was journaled and committed.
struct Said {
    records: Vec<Record>,
    effects: Vec<Effect>,
    refused: Option<Refusal>,
}

impl Live {
    fn new(manifest: Manifest) -> Self {
        Self::with(manifest, false)
    }

    fn with(manifest: Manifest, stage_only: bool) -> Self {
        Self::planned(manifest, stage_only, When::default())
    }

    fn planned(manifest: Manifest, stage_only: bool, when: When) -> Self {
        let rollout = planned(Arc::new(manifest), stage_only, when);
        Self { rollout, journal: Vec::new(), ordered: BTreeSet::new(), now: Now::default(), stage_only, when }
    }

    /// With all nodes connected and the first decision made.
    fn started(manifest: Manifest) -> Self {
        let mut live = Self::new(manifest);
        live.connect();
        live
    }

    fn connect(&mut self) {
        let nodes: Vec<_> = self.rollout.manifest().targets().into_iter().collect();
        nodes.into_iter().for_each(|node| drop(self.tell(Input::NodeOnline(node))));
        self.tell(Input::Tick);
    }

    /// Decides, journals and commits, and asserts what must hold after anything.
    fn tell(&mut self, input: Input) -> Said {
        let decision = self.rollout.decide(input.clone(), self.now);
        assert_eq!(decision, self.rollout.decide_by(input, self.now, false), "a quick look sees the same");
        self.note_orders(&decision.records);
        for effect in &decision.effects {
            let Effect::RunStep { actor, step, attempt, .. } = effect else { continue };
            assert!(self.ordered.contains(&(*step, *actor, *attempt)), "an order that no record allows: {effect:?}");
        }
        self.journal.extend(decision.records.iter().cloned());
        self.rollout.commit(&decision);
        self.assert_when(&decision);
        self.rollout.check();
        if decision.refused.is_none() {
            let more = self.rollout.decide(Input::Tick, self.now);
            assert_eq!(more.records, [], "a decision leaves nothing to add");
        }
        let Decision { records, effects, refused, .. } = decision;
        Said { records, effects, refused }
    }

    /// No step starts before its time, after the other, or where it is shut.
    fn assert_when(&self, decision: &Decision) {
        let (sight, state) = (self.rollout.sight(None, self.now), &self.rollout.state);
        let is_shut = |step: StepRef, actor: Actor| {
            let site = actor.node().and_then(|node| sight.site(node)).filter(|_| step.phase == Phase::Steps);
            site.is_some_and(|site| state.shut.contains_key(site)) && !sight.is_any_hour()
        };
        for (actor, step, _) in runs(&decision.effects) {
            let started = state.runs[&(step, actor)].started.is_some();
            assert!(started || !is_shut(step, actor), "{step:?} starts on {actor:?} while its site is shut");
        }
        let first = |step: &StepRef| state.runs.keys().filter(|(known, _)| known.phase == step.phase).count();
        for Record { change, .. } in &decision.records {
            match change {
                Change::GateOpened => {
                    let early = self.when.at.is_some_and(|at| self.now.wall < at) && !state.hurried;
                    assert!(!early, "the gate opens before its time");
                }
                Change::Ordered { step, attempt, actors } if step.phase == Phase::Steps => {
                    assert!(actors.iter().all(|actor| !is_shut(*step, *actor)), "{step:?} is ordered while it is shut");
                    let late = self.when.expires.is_some_and(|expires| expires <= self.now.wall);
                    let begun = *attempt > 1 || first(step) > actors.len();
                    assert!(!late || begun, "its steps begin after it expired");
                }
                _ => {}
            }
        }
    }

    fn note_orders(&mut self, records: &[Record]) {
        for record in records {
            if let Change::NotBegun { actor, step } = &record.change {
                assert!(self.ordered.remove(&(*step, *actor, 1)), "an order is taken back that was not given");
            }
            let Change::Ordered { step, attempt, actors } = &record.change else { continue };
            for actor in actors {
                assert!(self.ordered.insert((*step, *actor, *attempt)), "attempt {attempt} at {step:?} ordered twice");
                let earlier = (1..*attempt).all(|earlier| self.ordered.contains(&(*step, *actor, earlier)));
                assert!(earlier, "attempt {attempt} at {step:?} skips one");
            }
        }
    }

    fn acquire(&mut self, number: u8) -> Said {
        self.tell(Input::Acquired { node: node(number), package: PackageIndex(0) })
    }

    fn acquire_all(&mut self) {
        let nodes = self.rollout.manifest().targets().len();
        (1..=u8::try_from(nodes).unwrap()).for_each(|number| drop(self.acquire(number)));
    }

    fn end(&mut self, actor: Actor, step: StepRef, attempt: u32, outcome: StepOutcome) -> Said {
        self.tell(Input::StepEnded { actor, step, attempt, outcome })
    }

    /// Every node that is asked for its site says that it can run the step.
    fn ready(&mut self) -> Said {
        let asked: Vec<_> = self.rollout.state.elected.iter().copied().collect();
        let mut all = Said { records: Vec::new(), effects: Vec::new(), refused: None };
        for (step, node) in asked {
            let said = self.tell(Input::StepReady { node, step });
            all.records.extend(said.records);
            all.effects.extend(said.effects);
        }
        all
    }

    fn succeed(&mut self, actor: Actor, step: StepRef) -> Said {
        let attempt = self.rollout.state.runs[&(step, actor)].attempt;
        self.end(actor, step, attempt, StepOutcome::Succeeded)
    }

    fn operator(&mut self, command: Operator) -> Said {
        self.tell(Input::Operator(command))
    }

    fn wait(&mut self, span: Duration) -> Said {
        self.now = Now { time: self.now.time + span, wall: self.now.wall + span };
        self.tell(Input::Tick)
    }

    /// After `kill -9`: only the first `records` records are there, and nobody is connected. The new process counts its
    /// time from 0; the clock goes on.
    fn restarted(&self, records: usize) -> Self {
        let mut again = Self::planned(Manifest::clone(self.rollout.manifest()), self.stage_only, self.when);
        again.now = Now { time: Time::ZERO, wall: self.now.wall };
        again.journal = self.journal[..records].to_vec();
        again.journal.iter().for_each(|record| again.rollout.apply(record));
        let journal = again.journal.clone();
        again.note_orders(&journal);
        again.rollout.resume(again.now);
        again.rollout.check();
        again
    }

    fn outcome(&self) -> Option<&Outcome> {
        self.rollout.outcome()
    }
}

fn fresh(manifest: Arc<Manifest>, stage_only: bool) -> Rollout {
    planned(manifest, stage_only, When::default())
}

fn planned(manifest: Arc<Manifest>, stage_only: bool, when: When) -> Rollout {
    let targets = manifest.targets();
    let sites = targets.iter().map(|node| (*node, name(if node.0[0] % 2 == 1 { "a" } else { "b" }))).collect();
    let names: BTreeMap<_, _> = targets.iter().map(|node| (*node, name(&format!("n{}", node.0[0])))).collect();
    Rollout::new(manifest, Options { names, stage_only, when }, sites)
}

/// The runs that effects order.
fn runs(effects: &[Effect]) -> Vec<(Actor, StepRef, u32)> {
    let run = |effect: &Effect| match effect {
        Effect::RunStep { actor, step, attempt, .. } => Some((*actor, *step, *attempt)),
        _ => None,
    };
    effects.iter().filter_map(run).collect()
}

/// Who is asked for its site about a step.
fn offers(effects: &[Effect]) -> Vec<(NodeId, StepRef)> {
    let offer = |effect: &Effect| match effect {
        Effect::OfferStep { node, step, .. } => Some((*node, *step)),
        _ => None,
    };
    effects.iter().filter_map(offer).collect()
}

/// The runs that effects cancel.
fn cancels(effects: &[Effect]) -> Vec<(Actor, StepRef, u32)> {
    let cancel = |effect: &Effect| match effect {
        Effect::CancelStep { actor, step, attempt, .. } => Some((*actor, *step, *attempt)),
        _ => None,
    };
    effects.iter().filter_map(cancel).collect()
}

fn failed(code: i32) -> StepOutcome {
    StepOutcome::Failed(Failure::Exit(code))
}
