//! The state of a rollout: what its journal says, applied one record at a time.
//!
//! [`State::apply`] takes any record and never panics, since a journal may come from a broken disk; whether a state makes
//! sense is asserted in `invariants.rs`. What to do next is decided in `next.rs`, never here.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::course::Course;
use super::input::{Actor, Failure, StepOutcome};
use super::outputs::Written;
use super::record::{Change, End, Exclusion, Outcome};
use super::view::{PackageState, Times};
use crate::hours::Shut;
use crate::id::{Generation, LaneIndex, Name, NodeId, PackageIndex, StepIndex, WaveIndex};
use crate::manifest::{Manifest, Phase, StepRef};
use crate::time::WallTime;

/// All that outlives a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct State {
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// The last attempt of each step at each actor that was ordered.
    pub(super) runs: BTreeMap<(StepRef, Actor), Run>,
    /// What they wrote for later steps.
    pub(super) written: Written,
    /// Nodes that are asked, each for its site, whether they can run a step; they have no run of it.
    pub(super) elected: BTreeSet<(StepRef, NodeId)>,
    /// Runs of nodes that take part, and of the coordinator, whose last attempt ended otherwise than well.
    pub(super) troubled: BTreeSet<(StepRef, Actor)>,
    /// The step whose turn it is or was last, but for those of stage `steps`.
    pub(super) opened: Option<StepRef>,
    /// The lanes of all waves, as in the course.
    pub(super) lanes: Vec<Lane>,
    pub(super) waves: Vec<Wave>,
    pub(super) paused: bool,
    /// When the last pause ended.
    pub(super) resumed: Option<WallTime>,
    pub(super) released: bool,
    /// Whether the gate does not wait for its time.
    pub(super) hurried: bool,
    /// Whether steps start also where a site is shut, if an operator said so or took it back while it ran.
    pub(super) any_hour: Option<bool>,
    /// Sites that are shut.
    pub(super) shut: BTreeMap<Name, Shut>,
    /// Nodes that are not connected and since when, where it matters.
    pub(super) away: BTreeMap<NodeId, WallTime>,
    pub(super) closing: Option<End>,
    /// Whether what still runs is killed.
    pub(super) killing: bool,
    pub(super) finished: Option<Outcome>,
    pub(super) generation: Generation,
    pub(super) times: Times,
    /// Nodes that the deployment waits for.
    pub(super) live: usize,
    /// Nodes that are to catch up.
    pub(super) behind: usize,
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
    /// Whether the others go on without it until it is back and has run what it missed.
    pub(super) behind: bool,
    lane: LaneIndex,
    wave: WaveIndex,
}

/// Nodes that go through the steps together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Lane {
    pub(super) stand: LaneStand,
    /// Runs of its nodes in stage `steps` that are in flight.
    pub(super) in_flight: usize,
}

/// How far a lane is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) enum LaneStand {
    #[default]
    Pending,
    /// It is the turn of this step.
    At(StepIndex),
    /// It went through all steps.
    Over,
}

/// How far a wave is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Wave {
    pub(super) opened: bool,
    pub(super) ended: bool,
    /// When it was through.
    pub(super) ended_at: Option<WallTime>,
    pub(super) promoted: bool,
    /// Nodes that its failure budget paid for.
    pub(super) failures: usize,
}

/// A step at an actor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Run {
    pub(super) attempt: u32,
    /// How many attempts before it ended with the exit code that says to try again.
    pub(super) tempfails: u32,
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

    /// Whether the others wait for it.
    pub(super) fn is_awaited(&self) -> bool {
        self.is_live() && !self.behind
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

    /// Whether it ended with the exit code that says to try again: EX_TEMPFAIL of sysexits.h.
    pub(super) fn is_tempfail(&self) -> bool {
        self.outcome == Some(StepOutcome::Failed(Failure::Exit(75)))
    }

    /// Whether something has to become of it.
    pub(super) fn is_troubled(&self) -> bool {
        self.stand == Stand::Ended && !self.is_done()
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
    pub(super) fn new(manifest: &Manifest, course: &Course) -> Self {
        let node = |id| {
            let packages = manifest.packages_of(id).map(|(package, _)| (package, PackageState::Missing));
            let (lane, wave) = (course.lane_of(id), course.wave_of(id));
            (id, Node { packages: packages.collect(), excluded: None, behind: false, lane, wave })
        };
        let nodes: BTreeMap<NodeId, Node> = manifest.targets().into_iter().map(node).collect();
        Self {
            live: nodes.len(),
            behind: 0,
            ready: nodes.values().filter(|node| node.is_ready()).count(),
            nodes,
            runs: BTreeMap::new(),
            written: Written::default(),
            elected: BTreeSet::new(),
            troubled: BTreeSet::new(),
            opened: None,
            lanes: vec![Lane::default(); course.lanes.len()],
            waves: vec![Wave::default(); course.waves.len()],
            paused: false,
            resumed: None,
            released: false,
            hurried: false,
            any_hour: None,
            shut: BTreeMap::new(),
            away: BTreeMap::new(),
            closing: None,
            killing: false,
            finished: None,
            generation: Generation::default(),
            times: Times::default(),
            in_flight: 0,
        }
    }

    /// One node more. It is behind the others once packages are acquired; before that it is one of them, so that it misses
    /// none of the steps that come before.
    pub(super) fn join(&mut self, id: NodeId, manifest: &Manifest, course: &Course) {
        let packages = manifest.packages_of(id).map(|(package, _)| (package, PackageState::Missing));
        let (lane, wave) = (course.lane_of(id), course.wave_of(id));
        let behind = self.times.acquire_began.is_some();
        let node = Node { packages: packages.collect(), excluded: None, behind, lane, wave };
        if let Entry::Vacant(vacant) = self.nodes.entry(id) {
            let ready = usize::from(vacant.insert(node).is_ready());
            self.behind += usize::from(behind);
            self.live += usize::from(!behind);
            self.ready += if behind { 0 } else { ready };
            self.generation = self.generation.next();
        }
    }

    /// The runs in flight.
    pub(super) fn flying(&self) -> impl Iterator<Item = (StepRef, Actor, &Run)> {
        // Every step has its runs kept; they are many, those in flight often none.
        let runs = self.runs.iter().filter(|(_, run)| self.in_flight > 0 && run.in_flight());
        runs.map(|((step, actor), run)| (*step, *actor, run))
    }

    /// The wave whose turn it is or was last.
    pub(super) fn wave(&self) -> Option<WaveIndex> {
        let opened = self.waves.iter().take_while(|wave| wave.opened).count();
        u16::try_from(opened).ok()?.checked_sub(1).map(WaveIndex)
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

    /// Nodes that the deployment waits for.
    pub(super) fn awaited_nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.live_nodes().filter(|(_, node)| !node.behind)
    }

    /// Nodes that are to catch up.
    pub(super) fn behind_nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.live_nodes().filter(|(_, node)| self.behind > 0 && node.behind)
    }

    /// Nodes that take part.
    pub(super) fn live_nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().filter(|(_, node)| node.is_live()).map(|(id, node)| (*id, node))
    }

    /// Does what a record says.
    pub(super) fn apply(&mut self, change: &Change, at: WallTime) {
        self.times.began.get_or_insert(at);
        match change {
            Change::StepOpened { step, lane: Some(lane) } => self.stand(*lane, LaneStand::At(step.index)),
            Change::StepOpened { step, lane: None } => self.opened = Some(*step),
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
            Change::Wrote { actor, step, attempt, shared, outputs } => {
                if self.runs.get(&(*step, *actor)).is_some_and(|run| run.attempt == *attempt) {
                    self.written.insert(*step, *actor, *shared, outputs.clone());
                }
            }
            Change::Abandoned { actor, step } => self.update(*step, *actor, |run| run.stand = Stand::Abandoned),
            Change::Accepted { actor, step } => self.update(*step, *actor, |run| run.stand = Stand::Accepted),
            Change::NotBegun { actor, step } => {
                self.update(*step, *actor, |run| run.stand = Stand::Abandoned);
                self.runs.remove(&(*step, *actor));
            }
            Change::AcquireBegan => self.times.acquire_began = Some(at),
            Change::Acquired { node, package } => self.hold(*node, *package, PackageState::Acquired { at }),
            Change::AcquireFailed { node, package, cause } => {
                self.hold(*node, *package, PackageState::Failed { cause: cause.clone() });
            }
            Change::AcquireRetried { node } => self.retry_packages(*node),
            Change::Paused => self.paused = true,
            Change::Resumed => (self.paused, self.resumed) = (false, Some(at)),
            Change::Released => self.released = true,
            Change::GateOpened => self.times.gate_opened = Some(at),
            Change::LaneEnded { lane } => self.stand(*lane, LaneStand::Over),
            Change::WaveOpened { wave } => self.update_wave(*wave, |wave| wave.opened = true),
            Change::WaveEnded { wave } => {
                self.update_wave(*wave, |wave| (wave.ended, wave.ended_at) = (true, Some(at)));
            }
            Change::Promoted { wave } => self.update_wave(*wave, |wave| wave.promoted = true),
            Change::Excluded { node, why } => self.exclude(*node, *why),
            Change::Behind { node } => self.set_behind(*node, true),
            Change::CaughtUp { node } => self.set_behind(*node, false),
            Change::Closing { end } => {
                self.killing |= *end == End::Cancel;
                self.closing = Some(end.clone());
            }
            Change::Killing => self.killing = true,
            Change::Elected { step, nodes } => self.elected.extend(nodes.iter().map(|node| (*step, *node))),
            Change::Withdrawn { step, node } => drop(self.elected.remove(&(*step, *node))),
            Change::Finished { outcome } => {
                (self.finished, self.times.finished) = (Some(outcome.clone()), Some(at));
            }
            when => self.apply_when(when, at),
        }
        if changes_orders(change) {
            self.generation = self.generation.next();
        }
    }

    /// Does what a record says of when it may go on.
    fn apply_when(&mut self, change: &Change, at: WallTime) {
        match change {
            Change::Away { nodes } => {
                for node in nodes.iter().filter(|node| self.nodes.contains_key(node)) {
                    self.away.entry(*node).or_insert(at);
                }
            }
            Change::Back { node } => drop(self.away.remove(node)),
            Change::Shut { site, shut } => drop(self.shut.insert(site.clone(), shut.clone())),
            Change::Opened { site } => drop(self.shut.remove(site)),
            Change::AnyHour => self.any_hour = Some(true),
            Change::HoursKept => self.any_hour = Some(false),
            Change::Hurried => self.hurried = true,
            _ => {}
        }
    }

    fn order(&mut self, step: StepRef, actor: Actor, attempt: u32, at: WallTime) {
        let tempfails = self.runs.get(&(step, actor)).map_or(0, |run| run.tempfails + u32::from(run.is_tempfail()));
        let (outcome, started, ended) = (None, None, None);
        let run = Run { attempt, tempfails, stand: Stand::Ordered, outcome, ordered: at, started, ended };
        let before = self.runs.insert((step, actor), run);
        self.written.remove(step, actor);
        self.troubled.remove(&(step, actor));
        actor.node().map(|node| self.elected.remove(&(step, node)));
        if !before.is_some_and(|run| run.in_flight()) {
            self.count_in_flight(step, actor, |count| count + 1);
        }
    }

    fn update(&mut self, step: StepRef, actor: Actor, with: impl FnOnce(&mut Run)) {
        let Some(run) = self.runs.get_mut(&(step, actor)) else { return };
        let before = run.in_flight();
        with(run);
        // No update puts a run in flight; `order` does.
        let (landed, troubled) = (before && !run.in_flight(), run.is_troubled());
        if landed {
            self.count_in_flight(step, actor, |count| count - 1);
        }
        if troubled && self.is_live(actor) {
            self.troubled.insert((step, actor));
        } else {
            self.troubled.remove(&(step, actor));
        }
    }

    fn count_in_flight(&mut self, step: StepRef, actor: Actor, count: impl Fn(usize) -> usize) {
        self.in_flight = count(self.in_flight);
        let node = actor.node().and_then(|node| self.nodes.get(&node)).filter(|_| step.phase == Phase::Steps);
        let node = node.filter(|node| !node.behind);
        if let Some(lane) = node.and_then(|node| self.lanes.get_mut(node.lane.index())) {
            lane.in_flight = count(lane.in_flight);
        }
    }

    fn stand(&mut self, lane: LaneIndex, stand: LaneStand) {
        if let Some(lane) = self.lanes.get_mut(lane.index()) {
            lane.stand = stand;
        }
    }

    fn update_wave(&mut self, wave: WaveIndex, with: impl FnOnce(&mut Wave)) {
        if let Some(wave) = self.waves.get_mut(wave.index()) {
            with(wave);
        }
    }

    fn hold(&mut self, node: NodeId, package: PackageIndex, state: PackageState) {
        let Some(node) = self.nodes.get_mut(&node) else { return };
        let Some(slot) = node.packages.get_mut(&package) else { return };
        if matches!(slot, PackageState::Acquired { .. }) {
            return;
        }
        *slot = state;
        self.ready += usize::from(node.is_awaited() && node.is_ready());
    }

    fn retry_packages(&mut self, node: NodeId) {
        let Some(node) = self.nodes.get_mut(&node) else { return };
        for state in node.packages.values_mut().filter(|state| matches!(state, PackageState::Failed { .. })) {
            *state = PackageState::Missing;
        }
    }

    fn set_behind(&mut self, node: NodeId, behind: bool) {
        let Some(known) = self.nodes.get_mut(&node).filter(|node| node.is_live() && node.behind != behind) else {
            return;
        };
        known.behind = behind;
        let (lane, ready) = (known.lane, usize::from(known.is_ready()));
        // Its lane does not wait for what it runs.
        let flying = self.flying().filter(|(step, actor, _)| step.phase == Phase::Steps && *actor == Actor::Node(node));
        let flying = flying.count();
        let Some(lane) = self.lanes.get_mut(lane.index()) else { return };
        if behind {
            (self.live, self.ready, self.behind) = (self.live - 1, self.ready - ready, self.behind + 1);
            lane.in_flight -= flying;
        } else {
            (self.live, self.ready, self.behind) = (self.live + 1, self.ready + ready, self.behind - 1);
            lane.in_flight += flying;
        }
    }

    fn exclude(&mut self, node: NodeId, why: Exclusion) {
        let Some(known) = self.nodes.get_mut(&node).filter(|node| node.is_live()) else { return };
        // What it still runs stays uncounted in its lane.
        if known.behind {
            self.behind -= 1;
        } else {
            self.live -= 1;
            self.ready -= usize::from(known.is_ready());
        }
        known.excluded = Some(why);
        let wave = known.wave;
        self.troubled.retain(|(_, actor)| *actor != Actor::Node(node));
        if why == Exclusion::Failed {
            self.update_wave(wave, |wave| wave.failures += 1);
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
        | Change::Behind { .. }
        | Change::CaughtUp { .. }
        | Change::Closing { .. }
        | Change::Killing
        | Change::Paused
        | Change::Resumed
        | Change::Elected { .. }
        | Change::Withdrawn { .. }
        | Change::NotBegun { .. }
        | Change::Finished { .. } => true,
        Change::StepOpened { .. }
        | Change::Started { .. }
        | Change::Wrote { .. }
        | Change::Ended { .. }
        | Change::Accepted { .. }
        | Change::Acquired { .. }
        | Change::AcquireFailed { .. }
        | Change::Released
        | Change::GateOpened
        | Change::WaveOpened { .. }
        | Change::LaneEnded { .. }
        | Change::WaveEnded { .. }
        | Change::Promoted { .. }
        | Change::Away { .. }
        | Change::Back { .. }
        | Change::Shut { .. }
        | Change::Opened { .. }
        | Change::AnyHour
        | Change::HoursKept
        | Change::Hurried => false,
    }
}
