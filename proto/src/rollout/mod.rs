//! The rollout of one deployment: from the deployment file to the manifest, and from the manifest to its end.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`spec`], [`units`], [`select`], [`nearest`] | the deployment file as a person writes it |
//! | [`plan`], `waves` | from that file, the nodes and the resolved packages to a manifest |
//! | [`back`] | what goes back to a release, and what that runs |
//! | [`join`] | which nodes that join later it means, and where they go in |
//! | [`variables`] | which values each machine sees, and who is told which secret |
//! | [`basis`], [`forecast`] | what a plan stands on and what moved since; what it would move, and from where |
//! | [`gate`], [`share`] | the arithmetic of quorums, failure budgets and windows |
//! | [`barrier`] | which sites have to be open at the same time |
//! | [`when`] | when it may start and run: not before, not after, and at which hours |
//! | `input`, `record`, `effect` | what [`Rollout`] is told, what it journals, what it wants done |
//! | `course` | which nodes go through the steps together, and after whom |
//! | `answer`, `orders` | what an input means, what a change has others do |
//! | `next`, `lanes`, `turn`, `election`, `away`, `last` | what follows from a state: of stages, of waves, of one step, on sites, for nodes that were away, at the end |
//! | `state`, `sight`, `invariants` | what survives a restart, what does not, what always holds |
//! | `outputs` | what steps wrote for later ones |
//! | [`view`], `show` | the status that a person sees |
//!
//! A step is a barrier: its turn comes when the one before is done at all of its lane who take part. Everything is decided
//! from the state and not from what just happened, so that a journal cut anywhere leads to the same end (ACKED-IS-KEPT,
//! GATE).

mod answer;
mod away;
pub mod back;
pub mod barrier;
pub mod basis;
mod course;
mod effect;
mod election;
pub mod forecast;
pub mod gate;
mod input;
mod invariants;
pub mod join;
mod lanes;
mod last;
pub mod nearest;
mod next;
mod orders;
mod outputs;
pub mod plan;
mod record;
pub mod select;
pub mod share;
mod show;
mod sight;
pub mod spec;
mod state;
#[cfg(test)]
mod tests;
mod turn;
pub mod units;
pub mod variables;
pub mod view;
mod waves;
pub mod when;

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(crate) use answer::cut;
pub use effect::{Decision, Effect};
pub use input::{Actor, Failure, Input, Now, Operator, Refusal, StepOutcome, Which};
pub use record::{Change, End, Exclusion, Outcome, Record};

use crate::id::{Generation, Name, NodeId, StepIndex};
use crate::manifest::{Manifest, Phase, StepRef};
use crate::time::Time;
use course::Course;
use sight::{Sight, Soft};
use state::State;
use turn::Follows;
use when::When;

/// What a rollout needs to know beside its manifest and the sites of its target nodes. The shell keeps all three, and
/// makes the rollout from them again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// The target nodes' names, as they were when the deployment was made: for causes and views.
    pub names: BTreeMap<NodeId, Name>,
    /// Whether it ends before the gate, with all packages on the nodes.
    pub stage_only: bool,
    /// When it may start.
    pub when: When,
}

/// What is fixed about a target node.
#[derive(Clone, Debug)]
struct Member {
    name: Name,
    site: Name,
}

/// Why a rollout wants to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Why {
    /// It was made or replayed, and has decided nothing since.
    Start,
    /// Nodes that lack packages are to be excluded.
    Stragglers,
    /// It is ending and waits no longer for nodes that are away.
    Abandon,
    /// The bake of a wave is over.
    Bake,
    /// A step that failed is to be tried again.
    Retry,
    /// A node was away for too long.
    Offline,
    /// A node that was asked for its site has not answered.
    Silent,
    /// The time has come before which the gate does not open.
    At,
    /// The time has come at which it expires.
    Expires,
}

/// One deployment under way.
///
/// ```text
/// let decision = rollout.decide(input, now);
/// journal.append(&decision.records)?;             // insert and flush, in this order
/// rollout.commit(&decision);
/// run(decision.effects);
/// ```
///
/// After a restart: [`Rollout::new`], [`Rollout::apply`] for each record of the journal, [`Rollout::resume`], then
/// [`Rollout::pending_effects`], [`Input::Absent`], [`Input::Hours`], [`Input::Tick`], and [`Input::NodeOnline`] for each node as it connects.
#[derive(Clone, Debug)]
pub struct Rollout {
    manifest: Arc<Manifest>,
    members: Arc<BTreeMap<NodeId, Member>>,
    course: Arc<Course>,
    stage_only: bool,
    when: When,
    state: State,
    soft: Soft,
}

impl Rollout {
    /// A deployment at its beginning; nothing happens before the first [`Rollout::decide`]. A target node that is in no
    /// site is one of its own.
    pub fn new(manifest: impl Into<Arc<Manifest>>, options: Options, mut sites: BTreeMap<NodeId, Name>) -> Self {
        let (manifest, Options { mut names, stage_only, when }) = (manifest.into(), options);
        let known = |node: NodeId| (node, member(node, names.remove(&node), sites.remove(&node)));
        let members = manifest.targets().into_iter().map(known).collect();
        let course = Course::of(&manifest);
        let state = State::new(&manifest, &course);
        let (members, course) = (Arc::new(members), Arc::new(course));
        Self { manifest, members, course, stage_only, when, state, soft: Soft::default() }
    }

    /// Whether a node may still join it.
    pub fn may_be_joined(&self) -> bool {
        self.state.closing.is_none() && self.state.finished.is_none()
    }

    /// Whether a node that joins has missed the turn of a step of `before_acquire`.
    pub fn has_passed(&self, step: StepIndex) -> bool {
        let later = |opened: StepRef| opened.phase != Phase::Before || opened.index > step;
        self.state.times.acquire_began.is_some() || self.state.opened.is_some_and(later)
    }

    /// Nodes joined: `manifest` is its own with these in it, and in no other way another. For replay too.
    pub fn join(&mut self, manifest: Arc<Manifest>, options: &Options, sites: &BTreeMap<NodeId, Name>) {
        let course = Course::of(&manifest);
        let mut members = BTreeMap::clone(&self.members);
        for id in manifest.targets() {
            if let Entry::Vacant(vacant) = members.entry(id) {
                vacant.insert(member(id, options.names.get(&id).cloned(), sites.get(&id).cloned()));
                self.state.join(id, &manifest, &course);
            }
        }
        (self.manifest, self.members, self.course) = (manifest, Arc::new(members), Arc::new(course));
    }

    /// What is deployed.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// How it ended, when it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.state.finished.as_ref()
    }

    /// Whether a step that failed somewhere, or whose outcome nobody saw, was counted as done.
    pub fn was_forgiving(&self) -> bool {
        self.state.runs.values().any(|run| run.stand == state::Stand::Accepted)
    }

    /// When things happened, as far as they have.
    pub fn times(&self) -> view::Times {
        self.state.times
    }

    /// Whether a node keeps what it holds for this deployment: as long as it is not over, and after one that only staged.
    pub fn keeps(&self, node: NodeId) -> bool {
        let sight = self.sight(None, self.soft.last);
        match (self.state.nodes.get(&node), &self.state.finished) {
            (Some(node), Some(outcome)) => !orders::is_forgotten(&sight, outcome, node),
            (member, _) => member.is_some(),
        }
    }

    /// Whether it brought its release to a node: it succeeded, with the node, and not only staged.
    pub fn released_to(&self, node: NodeId) -> bool {
        let well = matches!(self.state.finished, Some(Outcome::Succeeded | Outcome::SucceededWithout { .. }));
        well && !self.stage_only && self.state.is_live(Actor::Node(node))
    }

    /// Whether it is over and what it changed is to be taken back.
    pub fn is_to_be_rolled_back(&self) -> bool {
        self.state.finished.is_some() && matches!(self.state.closing, Some(End::Rollback { .. }))
    }

    /// The nodes on which one of `steps` was to run: they may be changed.
    pub fn changed(&self) -> BTreeSet<NodeId> {
        let steps = self.state.runs.keys().filter(|(step, _)| step.phase == Phase::Steps);
        steps.filter_map(|(_, actor)| actor.node()).collect()
    }

    /// The generation of its orders.
    pub fn generation(&self) -> Generation {
        self.state.generation
    }

    /// What follows from `input`. Changes nothing: see [`Decision`] for the order of things.
    ///
    /// Costs little for a report that only counts, and a look at the nodes of its lane for one that has the next of a window
    /// start; one that ends a step or a stage costs a copy of the state.
    pub fn decide(&self, input: Input, now: Now) -> Decision {
        self.decide_by(input, now, true)
    }

    /// `may_be_quick`: whether a report is looked at alone where that is enough.
    fn decide_by(&self, input: Input, now: Now, may_be_quick: bool) -> Decision {
        let presence = self.presence(&input);
        let sight = self.sight(presence, now);
        let mut decision = Decision { records: Vec::new(), effects: Vec::new(), refused: None, presence, now };
        if let Some((node, true)) = presence {
            decision.effects = orders::duties(Actor::Node(node), &sight);
        }
        let is_report = matches!(input, Input::StepStarted { .. } | Input::Acquired { .. })
            || matches!(input, Input::StepEnded { .. } | Input::StepWrote { .. } | Input::AcquireFailed { .. });
        let due = self.next_wake().is_some_and(|(at, _)| at <= now.time) || sight.time_came(self.soft.last.wall);
        let quick = is_report && !due && may_be_quick && !when::is_in_doubt(&sight);
        match answer::changes(input, &sight) {
            Err(refusal) => decision.refused = Some(refusal),
            Ok(changes) => match quick.then(|| follow(&changes, &sight)).flatten() {
                Some((more, effects)) => {
                    let all = changes.into_iter().chain(more);
                    decision.records = all.map(|change| Record { at: now.wall, change }).collect();
                    decision.effects.extend(effects);
                }
                None => {
                    Draft { sight: self, state: Cow::Borrowed(&self.state), decision: &mut decision, now }.go(changes)
                }
            },
        }
        decision
    }

    /// Makes a decision true, once its records are in the journal. One that refuses a command decides nothing: it may be
    /// committed or dropped.
    pub fn commit(&mut self, decision: &Decision) {
        if decision.refused.is_some() {
            return;
        }
        decision.records.iter().for_each(|record| self.apply(record));
        self.soft.advance(decision.now, decision.presence, &self.state);
        if self.when.expires.is_some() {
            self.soft.note_told(&decision.effects, decision.presence, &self.state);
        }
        if cfg!(debug_assertions) {
            self.check();
        }
    }

    /// Takes up the clocks where they were when the records of an earlier run ended: what passed since then counts, as far
    /// as the coordinator's clock tells. Where that was set back, less counts, and never less than nothing.
    pub fn resume(&mut self, now: Now) {
        self.soft = Soft::resumed(&self.state, now);
    }

    /// Does what a record of the journal says; for replay. Any record is taken, without panic.
    pub fn apply(&mut self, record: &Record) {
        self.state.apply(&record.change, record.at);
    }

    /// All effects that are due, after a restart; those for nodes come again when they connect.
    pub fn pending_effects(&self) -> Vec<Effect> {
        let sight = self.sight(None, self.soft.last);
        let over = self.state.finished.clone().map(|outcome| Effect::Finished { outcome });
        let actors = self.state.nodes.keys().map(|node| Actor::Node(*node));
        let actors = std::iter::once(Actor::Coordinator).chain(actors);
        over.into_iter().chain(actors.flat_map(|actor| orders::duties(actor, &sight))).collect()
    }

    /// When to call with [`Input::Tick`] at the latest, and why.
    pub fn next_wake(&self) -> Option<(Time, Why)> {
        if self.soft.since.is_none() {
            return Some((Time::ZERO, Why::Start));
        }
        if self.state.finished.is_some() {
            return None;
        }
        let sight = self.sight(None, self.soft.last);
        // A moment that has passed had its effect, or waits for something else.
        let to_come = |at: &Time| *at > self.soft.last.time;
        if self.state.closing.is_some() {
            let moments = self.state.flying().filter_map(|(_, actor, _)| sight.abandon_at(actor)).filter(to_come);
            return moments.min().map(|at| (at, Why::Abandon));
        }
        let times = sight.times_of_day();
        if self.state.paused {
            return times.filter(|(_, why)| *why == Why::Expires).min();
        }
        let late = sight.stragglers_until().filter(|_| self.state.ready < self.state.live);
        let baked = sight.waiting_wave().map(|wave| sight.baked_at(wave));
        let retry = sight.retrying().map(|(.., at)| at).filter(to_come).min();
        let away = sight.overdue_at().map(|(_, at)| at).filter(to_come).min();
        let silent = election::answers_until(&sight).filter(to_come).min();
        let moments = [
            (late, Why::Stragglers),
            (baked, Why::Bake),
            (retry, Why::Retry),
            (away, Why::Offline),
            (silent, Why::Silent),
        ];
        let moments = moments.into_iter().filter_map(|(at, why)| Some((at.filter(to_come)?, why)));
        moments.chain(times).min_by_key(|(at, _)| *at)
    }

    /// All that a person is shown.
    pub fn view(&self) -> view::View {
        show::view(&self.sight(None, self.soft.last))
    }

    /// Asserts every invariant of the state.
    ///
    /// # Panics
    /// On a bug, or on a journal that no rollout wrote.
    pub fn check(&self) {
        invariants::check(&self.sight(None, self.soft.last));
    }

    fn sight(&self, presence: Option<(NodeId, bool)>, now: Now) -> Sight<'_> {
        let Self { manifest, members, course, stage_only, when, state, soft } = self;
        let (stage_only, when, Now { time: now, wall }) = (*stage_only, *when, now);
        Sight { manifest, members, course, stage_only, when, state, soft, presence, now, wall }
    }

    /// Only target nodes come and go here, so that what is kept of them is bounded.
    fn presence(&self, input: &Input) -> Option<(NodeId, bool)> {
        let presence = match input {
            Input::NodeOnline(node) => Some((*node, true)),
            Input::NodeOffline(node) => Some((*node, false)),
            _ => None,
        };
        presence.filter(|(node, _)| self.state.nodes.contains_key(node))
    }
}

fn member(node: NodeId, name: Option<Name>, site: Option<Name>) -> Member {
    let id = || Name::new(node.to_string()).expect("hexadecimal digits are a name");
    Member { name: name.unwrap_or_else(id), site: site.unwrap_or_else(id) }
}

/// What follows from a report and what that has others do, where it can be told without a copy of the state.
fn follow(changes: &[Change], sight: &Sight<'_>) -> Option<(Option<Change>, Option<Effect>)> {
    let [change] = changes else { return changes.is_empty().then_some((None, None)) };
    match (follows(change, sight), change) {
        (Follows::Nothing, _) => Some((None, None)),
        (Follows::Start(actor), Change::Ended { step, .. }) => {
            let (step, attempt) = (*step, 1);
            let generation = sight.state.generation.next();
            let order = Effect::RunStep { actor, step, attempt, generation };
            Some((Some(Change::Ordered { step, attempt, actors: vec![actor] }), Some(order)))
        }
        _ => None,
    }
}

fn follows(change: &Change, sight: &Sight<'_>) -> Follows {
    let state = sight.state;
    let quiet = |quiet: bool| if quiet { Follows::Nothing } else { Follows::Unknown };
    match change {
        Change::Started { .. } | Change::Wrote { .. } | Change::AcquireFailed { .. } => Follows::Nothing,
        Change::Ended { outcome: StepOutcome::Succeeded, step, actor, .. } => sight.follows_success(*step, *actor),
        Change::Acquired { node, package } => {
            let others = state.nodes.get(node).into_iter().flat_map(|node| &node.packages);
            let mut missing = others.filter(|(_, held)| !matches!(held, view::PackageState::Acquired { .. }));
            let completes = missing.all(|(other, _)| other == package);
            let at_gate = state.times.gate_opened.is_some() || state.ready + 1 >= sight.needed();
            quiet(!completes || !at_gate)
        }
        _ => Follows::Unknown,
    }
}

/// A decision in the making: each change is recorded and shown to what decides the next.
struct Draft<'a, 'd> {
    sight: &'a Rollout,
    state: Cow<'a, State>,
    decision: &'d mut Decision,
    now: Now,
}

impl Draft<'_, '_> {
    fn go(&mut self, mut changes: Vec<Change>) {
        loop {
            changes.drain(..).for_each(|change| self.push(change));
            changes = next::next(&self.shown());
            if changes.is_empty() {
                return;
            }
        }
    }

    fn push(&mut self, change: Change) {
        self.state.to_mut().apply(&change, self.now.wall);
        let effects = orders::after(&change, &self.shown());
        self.decision.effects.extend(effects);
        self.decision.records.push(Record { at: self.now.wall, change });
    }

    fn shown(&self) -> Sight<'_> {
        Sight { state: &self.state, ..self.sight.sight(self.decision.presence, self.now) }
    }
}
