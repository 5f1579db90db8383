//! What comes next: the changes that follow from a state, without anybody saying so.
//!
//! A pure function of what is seen, not of what just happened. So a journal that ends in the middle of a decision leads,
//! after a restart, to the rest of that decision. It is called until it has nothing to add; each change that it returns
//! removes the reason for it.

use std::collections::{BTreeMap, BTreeSet};

use super::input::{Actor, Failure, StepOutcome};
use super::record::{Change, End, Exclusion, Outcome};
use super::sight::{Sight, Verdict};
use super::state::Run;
use crate::id::{Name, StepIndex};
use crate::manifest::{On, Phase, StepRef};

/// The changes that follow; none if it is somebody else's turn.
pub(super) fn next(sight: &Sight<'_>) -> Vec<Change> {
    if sight.state.finished.is_some() {
        return Vec::new();
    }
    let orphans = orphans(sight);
    if !orphans.is_empty() {
        return orphans;
    }
    match &sight.state.closing {
        None => going(sight),
        Some(end) => closing(sight, end),
    }
}

/// Runs of nodes that were excluded: nobody waits for them. The `always_after` scripts run on excluded nodes too.
fn orphans(sight: &Sight<'_>) -> Vec<Change> {
    let Some(step) = sight.state.opened.filter(|step| step.phase != Phase::After) else { return Vec::new() };
    let runs = sight.state.runs_of(step).filter(|(actor, run)| run.in_flight() && !sight.state.is_live(*actor));
    runs.map(|(actor, _)| Change::Abandoned { actor, step }).collect()
}

fn going(sight: &Sight<'_>) -> Vec<Change> {
    if sight.state.live == 0 {
        return vec![fail("no target node is left: all are excluded".to_owned())];
    }
    if sight.state.times.gate_opened.is_some() {
        let late = late(sight);
        if !late.is_empty() {
            return late;
        }
    }
    match sight.state.opened {
        None => next_stage(sight),
        Some(step) => match in_turn(sight, step) {
            Turn::Over => next_stage(sight),
            Turn::Goes(changes) => changes,
        },
    }
}

/// Nodes whose time to acquire is up.
fn late(sight: &Sight<'_>) -> Vec<Change> {
    if sight.stragglers_until().is_none_or(|until| sight.now < until) {
        return Vec::new();
    }
    let excluded = |(node, _)| Change::Excluded { node, why: Exclusion::Straggler };
    sight.stragglers().map(excluded).collect()
}

enum Turn {
    Goes(Vec<Change>),
    Over,
}

/// The step whose turn it is: failures are judged, then retries and first attempts ordered, unless an operator is asked.
fn in_turn(sight: &Sight<'_>, step: StepRef) -> Turn {
    let mut accepted = Vec::new();
    let mut retries: BTreeMap<u32, Vec<Actor>> = BTreeMap::new();
    let mut asked = false;
    for (actor, run) in sight.state.runs_of(step) {
        match sight.verdict(step, actor, run) {
            Some(Verdict::Fail) => return Turn::Goes(vec![fail(describe(sight, step, actor, run))]),
            Some(Verdict::Accept) => accepted.push(Change::Accepted { actor, step }),
            Some(Verdict::Retry) => retries.entry(run.attempt + 1).or_default().push(actor),
            Some(Verdict::Ask) => asked = true,
            None => {}
        }
    }
    if !accepted.is_empty() || asked {
        return Turn::Goes(accepted);
    }
    if !retries.is_empty() {
        let ordered = |(attempt, actors)| Change::Ordered { step, attempt, actors };
        return Turn::Goes(retries.into_iter().map(ordered).collect());
    }
    let places = Places::of(sight, step);
    if places.done {
        return Turn::Over;
    }
    let first = Change::Ordered { step, attempt: 1, actors: places.free };
    let ordered = !matches!(&first, Change::Ordered { actors, .. } if actors.is_empty());
    Turn::Goes(if ordered { vec![first] } else { Vec::new() })
}

/// Where a step has to run.
struct Places {
    /// Whether it is done everywhere.
    done: bool,
    /// Actors that can run it and have not been told to.
    free: Vec<Actor>,
}

impl Places {
    fn of(sight: &Sight<'_>, step: StepRef) -> Self {
        match sight.manifest.step(step).map(|step| step.on) {
            Some(On::Node) => Self::nodes(sight, step),
            Some(On::Site) => Self::sites(sight, step),
            Some(On::Coordinator) => Self::coordinator(sight, step),
            None => Self { done: true, free: Vec::new() },
        }
    }

    fn nodes(sight: &Sight<'_>, step: StepRef) -> Self {
        let mut places = Self { done: true, free: Vec::new() };
        for (id, node) in sight.state.live_nodes() {
            let actor = Actor::Node(id);
            let run = sight.state.runs.get(&(step, actor));
            places.done &= run.is_some_and(Run::is_done);
            if run.is_none() && (step.phase == Phase::Before || node.is_ready()) {
                places.free.push(actor);
            }
        }
        places
    }

    /// One node of each site: the first that is connected and has what it needs. A site whose node was excluded has had
    /// its turn, since the step may have run there.
    fn sites(sight: &Sight<'_>, step: StepRef) -> Self {
        let site = |actor: Actor| actor.node().and_then(|node| sight.site(node));
        let runs = sight.state.runs_of(step);
        let had: BTreeMap<&Name, bool> = runs
            .filter_map(|(actor, run)| Some((site(actor)?, run.is_done() || !sight.state.is_live(actor))))
            .collect();
        let mut places = Self { done: true, free: Vec::new() };
        let mut chosen: BTreeSet<&Name> = BTreeSet::new();
        for (id, node) in sight.state.live_nodes() {
            let Some(site) = sight.site(id) else { continue };
            places.done &= had.get(site).is_some_and(|done| *done);
            let able = sight.is_online(Actor::Node(id)) && (step.phase == Phase::Before || node.is_ready());
            if able && !had.contains_key(site) && chosen.insert(site) {
                places.free.push(Actor::Node(id));
            }
        }
        places
    }

    fn coordinator(sight: &Sight<'_>, step: StepRef) -> Self {
        let run = sight.state.runs.get(&(step, Actor::Coordinator));
        let free = if run.is_none() { vec![Actor::Coordinator] } else { Vec::new() };
        Self { done: run.is_some_and(Run::is_done), free }
    }
}

fn next_stage(sight: &Sight<'_>) -> Vec<Change> {
    let times = &sight.state.times;
    if times.acquire_began.is_none() {
        let opened = following(sight, Phase::Before, sight.manifest.before_acquire.len());
        return vec![opened.unwrap_or(Change::AcquireBegan)];
    }
    if times.gate_opened.is_none() {
        return at_gate(sight);
    }
    if let Some(opened) = following(sight, Phase::Steps, sight.manifest.steps.len()) {
        return vec![opened];
    }
    // Stragglers that no step waited for still get their packages.
    let all = sight.state.ready == sight.state.live;
    if all { vec![Change::Closing { end: End::Success }] } else { Vec::new() }
}

/// The turn of the step after the current one in the same list.
fn following(sight: &Sight<'_>, phase: Phase, len: usize) -> Option<Change> {
    let last = sight.state.opened.filter(|step| step.phase == phase);
    let index = last.map_or(0, |step| step.index.index() + 1);
    let index = u16::try_from(index).ok().filter(|_| index < len)?;
    Some(Change::StepOpened { step: StepRef { phase, index: StepIndex(index) } })
}

fn at_gate(sight: &Sight<'_>) -> Vec<Change> {
    let state = sight.state;
    if state.ready < sight.needed() {
        return Vec::new();
    }
    if sight.stage_only {
        let all = state.ready == state.live;
        return if all { vec![Change::Closing { end: End::Success }] } else { late(sight) };
    }
    if sight.manifest.gate.manual && !state.released {
        return Vec::new();
    }
    vec![Change::GateOpened]
}

/// Waits for what is in flight, then runs the `always_after` scripts, then it is over.
fn closing(sight: &Sight<'_>, end: &End) -> Vec<Change> {
    let gone = gone(sight);
    if !gone.is_empty() || sight.state.in_flight > 0 {
        return gone;
    }
    if let Some(after) = sight.state.opened.filter(|step| step.phase == Phase::After) {
        let told = |actor: &Actor| sight.state.runs.contains_key(&(after, *actor));
        let actors: Vec<Actor> = where_it_ran(sight, after).filter(|actor| !told(actor)).collect();
        if !actors.is_empty() {
            return vec![Change::Ordered { step: after, attempt: 1, actors }];
        }
    }
    match next_after(sight) {
        Some(step) => vec![Change::StepOpened { step }],
        None => vec![Change::Finished { outcome: outcome(sight, end) }],
    }
}

/// Runs in flight on nodes that have been away for too long.
fn gone(sight: &Sight<'_>) -> Vec<Change> {
    let Some(step) = sight.state.opened else { return Vec::new() };
    let is_gone = |actor| sight.abandon_at(actor).is_some_and(|at| at <= sight.now);
    let runs = sight.state.runs_of(step).filter(|(actor, run)| run.in_flight() && is_gone(*actor));
    runs.map(|(actor, _)| Change::Abandoned { actor, step }).collect()
}

/// The last `always_after` before the current one whose step has run.
fn next_after(sight: &Sight<'_>) -> Option<StepRef> {
    let before = sight.state.opened.filter(|step| step.phase == Phase::After);
    let until = before.map_or(sight.manifest.before_acquire.len(), |step| step.index.index());
    (0..until).rev().find_map(|index| {
        let step = StepRef { phase: Phase::After, index: StepIndex(u16::try_from(index).ok()?) };
        let has_script = sight.manifest.step(step)?.always_after.is_some();
        (has_script && where_it_ran(sight, step).next().is_some()).then_some(step)
    })
}

/// The actors that were told to run the step that an `always_after` script belongs to.
fn where_it_ran<'a>(sight: &Sight<'a>, after: StepRef) -> impl Iterator<Item = Actor> + use<'a> {
    let before = StepRef { phase: Phase::Before, index: after.index };
    sight.state.runs_of(before).map(|(actor, _)| actor)
}

fn outcome(sight: &Sight<'_>, end: &End) -> Outcome {
    let excluded = sight.state.nodes.len() - sight.state.live;
    match end {
        End::Success if excluded == 0 => Outcome::Succeeded,
        End::Success => Outcome::SucceededWithout { excluded: u32::try_from(excluded).unwrap_or(u32::MAX) },
        End::Failure { cause } => Outcome::Failed { cause: cause.clone() },
        End::Cancel => Outcome::Cancelled,
    }
}

fn fail(cause: String) -> Change {
    Change::Closing { end: End::Failure { cause } }
}

/// A failed run in words.
pub(super) fn describe(sight: &Sight<'_>, step: StepRef, actor: Actor, run: &Run) -> String {
    let name = sight.manifest.step(step).map(|step| step.name.as_str()).unwrap_or_default();
    let place = match actor {
        Actor::Coordinator => "the coordinator".to_owned(),
        Actor::Node(node) => match sight.members.get(&node) {
            Some(member) => format!("node `{}`", member.name),
            None => format!("node {}", node.short()),
        },
    };
    match &run.outcome {
        Some(StepOutcome::Failed(Failure::Exit(code))) => {
            format!("step `{name}` failed on {place} with exit code {code}")
        }
        Some(StepOutcome::Failed(Failure::Cause(cause))) => format!("step `{name}` failed on {place}: {cause}"),
        Some(StepOutcome::TimedOut) => format!("step `{name}` timed out on {place}"),
        Some(StepOutcome::Killed) => format!("step `{name}` was killed on {place}"),
        _ => format!("nobody saw how step `{name}` ended on {place}"),
    }
}

impl<'a> Sight<'a> {
    /// The site of a target node.
    fn site(&self, node: crate::id::NodeId) -> Option<&'a Name> {
        self.members.get(&node).map(|member| &member.site)
    }
}
