//! The state of a rollout: what its journal says, applied one record at a time.
//!
//! [`State::apply`] takes any record and never panics, since a journal may come from a broken disk; whether a state makes
//! sense is asserted by [`State::check`]. What to do next is decided in `next.rs`, never here.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Member;
use super::input::{Actor, StepOutcome};
use super::record::{Change, End, Exclusion, Outcome};
use super::view::{PackageState, Times};
use crate::id::{Generation, NodeId, PackageIndex};
use crate::limits::ATTEMPTS_MAX;
use crate::manifest::{Manifest, On, Phase, StepRef};
use crate::time::WallTime;

/// All that outlives a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct State {
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// The last attempt of each step at each actor that was ordered.
    pub(super) runs: BTreeMap<(StepRef, Actor), Run>,
    /// The step whose turn it is or was last.
    pub(super) opened: Option<StepRef>,
    pub(super) released: bool,
    pub(super) closing: Option<End>,
    /// Whether what still runs is killed.
    pub(super) killing: bool,
    pub(super) finished: Option<Outcome>,
    pub(super) generation: Generation,
    pub(super) times: Times,
    /// Nodes that are not excluded.
    pub(super) live: usize,
    /// Those of them that hold all their packages.
    pub(super) ready: usize,
    /// Runs in flight.
    pub(super) in_flight: usize,
}

/// A target node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Node {
    pub(super) packages: BTreeMap<PackageIndex, PackageState>,
    pub(super) excluded: Option<Exclusion>,
}

/// A step at an actor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Run {
    pub(super) attempt: u32,
    pub(super) stand: Stand,
    pub(super) outcome: Option<StepOutcome>,
    pub(super) ordered: WallTime,
    pub(super) started: Option<WallTime>,
    pub(super) ended: Option<WallTime>,
}

/// How an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Stand {
    /// The actor may have started it.
    Ordered,
    /// The actor said that it started it.
    Started,
    /// Its outcome is known, be it that nobody saw it.
    Ended,
    /// It failed, or nobody saw its outcome, and it counts as done.
    Accepted,
    /// Its outcome is awaited no longer; it is recorded if it comes.
    Abandoned,
}

impl Node {
    /// Whether it takes part.
    pub(super) fn is_live(&self) -> bool {
        self.excluded.is_none()
    }

    /// Whether it holds all its packages.
    pub(super) fn is_ready(&self) -> bool {
        self.packages.values().all(|state| matches!(state, PackageState::Acquired { .. }))
    }

    /// The first package that it gave up on, and why.
    pub(super) fn failed(&self) -> Option<(PackageIndex, &str)> {
        self.packages.iter().find_map(|(package, state)| match state {
            PackageState::Failed { cause } => Some((*package, cause.as_str())),
            _ => None,
        })
    }
}

impl Run {
    /// Whether its outcome is awaited.
    pub(super) fn in_flight(&self) -> bool {
        matches!(self.stand, Stand::Ordered | Stand::Started)
    }

    /// Whether its step is done at this actor.
    pub(super) fn is_done(&self) -> bool {
        match self.stand {
            Stand::Accepted => true,
            Stand::Ended => self.outcome == Some(StepOutcome::Succeeded),
            Stand::Ordered | Stand::Started | Stand::Abandoned => false,
        }
    }
}

impl State {
    pub(super) fn new(manifest: &Manifest) -> Self {
        let node = |id| {
            let packages = manifest.packages_of(id).map(|(package, _)| (package, PackageState::Missing));
            (id, Node { packages: packages.collect(), excluded: None })
        };
        let nodes: BTreeMap<NodeId, Node> = manifest.targets().into_iter().map(node).collect();
        Self {
            live: nodes.len(),
            ready: nodes.values().filter(|node| node.is_ready()).count(),
            nodes,
            runs: BTreeMap::new(),
            opened: None,
            released: false,
            closing: None,
            killing: false,
            finished: None,
            generation: Generation::default(),
            times: Times::default(),
            in_flight: 0,
        }
    }

    /// The runs of a step, by actor.
    pub(super) fn runs_of(&self, step: StepRef) -> impl Iterator<Item = (Actor, &Run)> {
        let first = (step, Actor::Coordinator);
        let last = (step, Actor::Node(NodeId([u8::MAX; 32])));
        self.runs.range(first..=last).map(|((_, actor), run)| (*actor, run))
    }

    /// Whether an actor takes part: the coordinator always does.
    pub(super) fn is_live(&self, actor: Actor) -> bool {
        actor.node().is_none_or(|node| self.nodes.get(&node).is_some_and(Node::is_live))
    }

    /// Nodes that take part.
    pub(super) fn live_nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().filter(|(_, node)| node.is_live()).map(|(id, node)| (*id, node))
    }

    /// Does what a record says.
    pub(super) fn apply(&mut self, change: &Change, at: WallTime) {
        self.times.began.get_or_insert(at);
        match change {
            Change::StepOpened { step } => self.opened = Some(*step),
            Change::Ordered { step, attempt, actors } => {
                actors.iter().for_each(|actor| self.order(*step, *actor, *attempt, at));
            }
            Change::Started { actor, step, attempt } => self.update(*step, *actor, |run| {
                if run.attempt == *attempt && run.stand == Stand::Ordered {
                    (run.stand, run.started) = (Stand::Started, Some(at));
                }
            }),
            Change::Ended { actor, step, attempt, outcome } => self.update(*step, *actor, |run| {
                if run.attempt == *attempt && run.outcome.is_none() {
                    (run.outcome, run.ended) = (Some(outcome.clone()), Some(at));
                    if run.in_flight() {
                        run.stand = Stand::Ended;
                    }
                }
            }),
            Change::Abandoned { actor, step } => self.update(*step, *actor, |run| run.stand = Stand::Abandoned),
            Change::Accepted { actor, step } => self.update(*step, *actor, |run| run.stand = Stand::Accepted),
            Change::AcquireBegan => self.times.acquire_began = Some(at),
            Change::Acquired { node, package } => self.hold(*node, *package, PackageState::Acquired { at }),
            Change::AcquireFailed { node, package, cause } => {
                self.hold(*node, *package, PackageState::Failed { cause: cause.clone() });
            }
            Change::AcquireRetried { node } => self.retry_packages(*node),
            Change::Released => self.released = true,
            Change::GateOpened => self.times.gate_opened = Some(at),
            Change::Excluded { node, why } => self.exclude(*node, *why),
            Change::Closing { end } => {
                self.killing |= *end == End::Cancel;
                self.closing = Some(end.clone());
            }
            Change::Killing => self.killing = true,
            Change::Finished { outcome } => {
                (self.finished, self.times.finished) = (Some(outcome.clone()), Some(at));
            }
        }
        if changes_orders(change) {
            self.generation = Generation(self.generation.0.saturating_add(1));
        }
    }

    fn order(&mut self, step: StepRef, actor: Actor, attempt: u32, at: WallTime) {
        let run = Run { attempt, stand: Stand::Ordered, outcome: None, ordered: at, started: None, ended: None };
        let before = self.runs.insert((step, actor), run);
        self.in_flight += usize::from(!before.is_some_and(|run| run.in_flight()));
    }

    fn update(&mut self, step: StepRef, actor: Actor, with: impl FnOnce(&mut Run)) {
        let Some(run) = self.runs.get_mut(&(step, actor)) else { return };
        let before = run.in_flight();
        with(run);
        // No update puts a run in flight; `order` does.
        self.in_flight -= usize::from(before && !run.in_flight());
    }

    fn hold(&mut self, node: NodeId, package: PackageIndex, state: PackageState) {
        let Some(node) = self.nodes.get_mut(&node) else { return };
        let Some(slot) = node.packages.get_mut(&package) else { return };
        if matches!(slot, PackageState::Acquired { .. }) {
            return;
        }
        *slot = state;
        self.ready += usize::from(node.is_live() && node.is_ready());
    }

    fn retry_packages(&mut self, node: NodeId) {
        let Some(node) = self.nodes.get_mut(&node) else { return };
        for state in node.packages.values_mut().filter(|state| matches!(state, PackageState::Failed { .. })) {
            *state = PackageState::Missing;
        }
    }

    fn exclude(&mut self, node: NodeId, why: Exclusion) {
        let Some(node) = self.nodes.get_mut(&node).filter(|node| node.is_live()) else { return };
        node.excluded = Some(why);
        self.live -= 1;
        self.ready -= usize::from(node.is_ready());
    }

    /// Asserts what must hold after any prefix of any journal that `Rollout` wrote.
    pub(super) fn check(&self, manifest: &Manifest, members: &BTreeMap<NodeId, Member>, stage_only: bool) {
        self.check_counts();
        let gate_open = self.times.gate_opened.is_some();
        assert!(!gate_open || self.times.acquire_began.is_some(), "the gate opened before `acquire` began");
        assert!(!gate_open || !stage_only, "the gate of a stage-only deployment opened");
        for ((step, actor), run) in &self.runs {
            assert!(manifest.step(*step).is_some(), "{step:?} ran, but the manifest has no such step");
            assert!((1..=ATTEMPTS_MAX).contains(&run.attempt), "attempt {} at {step:?}", run.attempt);
            assert!(step.phase != Phase::Steps || gate_open, "GATE: {step:?} was ordered before the gate opened");
            let node = actor.node().and_then(|node| self.nodes.get(&node));
            let holds_all = node.is_none_or(Node::is_ready);
            assert!(step.phase != Phase::Steps || holds_all, "{actor:?} was to run {step:?} without its packages");
            assert!(!run.in_flight() || self.opened == Some(*step), "{step:?} is in flight out of its turn");
            assert!(run.stand != Stand::Ended || run.outcome.is_some(), "{step:?} ended without an outcome");
        }
        self.check_turns(manifest);
        self.check_sites(manifest, members);
    }

    fn check_counts(&self) {
        let live = || self.live_nodes();
        assert_eq!(self.live, live().count(), "nodes that take part");
        assert_eq!(self.ready, live().filter(|(_, node)| node.is_ready()).count(), "nodes that are ready");
        assert_eq!(self.in_flight, self.runs.values().filter(|run| run.in_flight()).count(), "runs in flight");
        assert!(self.finished.is_none() || self.in_flight == 0, "a run is in flight after the end");
        assert!(self.finished.is_none() || self.closing.is_some(), "it ended without closing");
    }

    /// A step's turn comes when the one before is done at everyone who takes part.
    fn check_turns(&self, manifest: &Manifest) {
        let Some(opened) = self.opened else { return };
        assert!(opened.phase != Phase::After || self.closing.is_some(), "{opened:?} has its turn before the end");
        for ((step, actor), run) in &self.runs {
            let past = *step < opened && opened.phase != Phase::After;
            let settled = run.is_done() || !self.is_live(*actor);
            assert!(!past || settled, "{opened:?} has its turn, but {step:?} is not done at {actor:?}");
            assert!(*step <= opened || step.phase == Phase::After, "{step:?} ran before its turn");
        }
        assert!(manifest.step(opened).is_some(), "{opened:?} is no step");
    }

    fn check_sites(&self, manifest: &Manifest, members: &BTreeMap<NodeId, Member>) {
        let mut seen = std::collections::BTreeSet::new();
        for (step, actor) in self.runs.keys() {
            let on = manifest.step(*step).map(|step| step.on);
            let site = actor.node().and_then(|node| members.get(&node)).map(|member| &member.site);
            match on {
                Some(On::Site) => assert!(seen.insert((*step, site)), "{step:?} was ordered twice at {site:?}"),
                Some(On::Node) => assert!(actor.node().is_some(), "{step:?} ran on the coordinator"),
                Some(On::Coordinator) => assert!(actor.node().is_none(), "{step:?} ran on {actor:?}"),
                None => {}
            }
        }
    }
}

/// Whether a change makes an earlier order to anyone void or adds one.
fn changes_orders(change: &Change) -> bool {
    match change {
        Change::Ordered { .. }
        | Change::Abandoned { .. }
        | Change::AcquireBegan
        | Change::AcquireRetried { .. }
        | Change::Excluded { .. }
        | Change::Closing { .. }
        | Change::Killing
        | Change::Finished { .. } => true,
        Change::StepOpened { .. }
        | Change::Started { .. }
        | Change::Ended { .. }
        | Change::Accepted { .. }
        | Change::Acquired { .. }
        | Change::AcquireFailed { .. }
        | Change::Released
        | Change::GateOpened => false,
    }
}
