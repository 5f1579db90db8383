//! What comes next: the changes that follow from a state, without anybody saying so.
//!
//! A pure function of what is seen, not of what just happened. So a journal that ends in the middle of a decision leads,
//! after a restart, to the rest of that decision. It is called until it has nothing to add; each change that it returns
//! removes the reason for it.

use super::away;
use super::election;
use super::input::{Actor, Failure, StepOutcome};
use super::lanes::{self, Goes};
use super::last;
use super::record::{Change, End, Exclusion, Outcome};
use super::sight::Sight;
use super::state::Run;
use super::turn::{self, Judged, Places};
use super::when;
use crate::id::StepIndex;
use crate::manifest::{Phase, StepRef};

/// The changes that follow; none if it is somebody else's turn.
pub(super) fn next(sight: &Sight<'_>) -> Vec<Change> {
    if sight.state.finished.is_some() {
        return Vec::new();
    }
    let orphans = orphans(sight);
    if !orphans.is_empty() {
        return orphans;
    }
    let void = election::void(sight);
    if !void.is_empty() {
        return void;
    }
    match &sight.state.closing {
        None => going(sight),
        Some(end) => closing(sight, end),
    }
}

/// Runs of nodes that were excluded: nobody waits for them. The scripts at the end run on excluded nodes too.
fn orphans(sight: &Sight<'_>) -> Vec<Change> {
    if sight.state.live + sight.state.behind == sight.state.nodes.len() {
        return Vec::new();
    }
    let of_steps = sight.state.flying().filter(|(step, ..)| !step.phase.is_last());
    let orphans = of_steps.filter(|(_, actor, _)| !sight.state.is_live(*actor));
    orphans.map(|(step, actor, _)| Change::Abandoned { actor, step }).collect()
}

fn going(sight: &Sight<'_>) -> Vec<Change> {
    if sight.state.live + sight.state.behind == 0 {
        return vec![fail("no target node is left: all are excluded".to_owned())];
    }
    if let Some(expired) = when::expired(sight) {
        return vec![expired];
    }
    if sight.state.paused {
        return Vec::new();
    }
    let overdue = away::overdue(sight);
    if !overdue.is_empty() {
        return overdue;
    }
    if when::is_in_doubt(sight) {
        return Vec::new();
    }
    let gate_open = sight.state.times.gate_opened.is_some();
    if gate_open {
        let late = late(sight);
        if !late.is_empty() {
            return late;
        }
    }
    let Judged { changes, asked } = turn::judge(sight);
    if !changes.is_empty() {
        return changes;
    }
    if asked {
        return election::all(sight);
    }
    let missed = away::catch_up(sight);
    if !missed.is_empty() {
        return missed;
    }
    if !gate_open {
        return before_gate(sight);
    }
    match lanes::go(sight) {
        Goes::On(changes) => changes,
        // Stragglers that no step waited for still get their packages.
        Goes::Over if sight.all_hold_all() => vec![Change::Closing { end: End::Success }],
        Goes::Over => Vec::new(),
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

fn before_gate(sight: &Sight<'_>) -> Vec<Change> {
    if sight.state.times.acquire_began.is_some() {
        return at_gate(sight);
    }
    let places = sight.state.opened.map(|step| (step, Places::of(sight, step, None)));
    match places {
        Some((step, places)) if !places.done => places.first(sight, step).into_iter().collect(),
        _ => vec![next_before(sight).unwrap_or(Change::AcquireBegan)],
    }
}

/// The turn of the step of `before_acquire` after the current one.
fn next_before(sight: &Sight<'_>) -> Option<Change> {
    let index = sight.state.opened.map_or(0, |step| step.index.index() + 1);
    let index = u16::try_from(index).ok().filter(|_| index < sight.manifest.before_acquire.len())?;
    Some(Change::StepOpened { step: StepRef { phase: Phase::Before, index: StepIndex(index) }, lane: None })
}

fn at_gate(sight: &Sight<'_>) -> Vec<Change> {
    let state = sight.state;
    if state.ready < sight.needed() {
        return Vec::new();
    }
    if sight.stage_only {
        return if sight.all_hold_all() { vec![Change::Closing { end: End::Success }] } else { late(sight) };
    }
    if (sight.manifest.gate.manual && !state.released) || sight.early_until().is_some() {
        return Vec::new();
    }
    vec![Change::GateOpened]
}

/// Waits for what is in flight, then runs the steps `on: always` and the `always_after` scripts, then it is over.
fn closing(sight: &Sight<'_>, end: &End) -> Vec<Change> {
    let gone = gone(sight);
    if !gone.is_empty() || sight.state.in_flight > 0 {
        return gone;
    }
    if let Some(step) = sight.state.opened.filter(|step| step.phase.is_last()) {
        let told = |actor: &Actor| sight.state.runs.contains_key(&(step, *actor));
        let actors: Vec<Actor> = last::who(sight, step).filter(|actor| !told(actor)).collect();
        if !actors.is_empty() {
            return vec![Change::Ordered { step, attempt: 1, actors }];
        }
    }
    match last::following(sight) {
        Some(step) => vec![Change::StepOpened { step, lane: None }],
        None => vec![Change::Finished { outcome: outcome(sight, end) }],
    }
}

/// Runs in flight on nodes that have been away for too long.
fn gone(sight: &Sight<'_>) -> Vec<Change> {
    let is_gone = |actor| sight.abandon_at(actor).is_some_and(|at| at <= sight.now);
    let gone = sight.state.flying().filter(|(_, actor, _)| is_gone(*actor));
    gone.map(|(step, actor, _)| Change::Abandoned { actor, step }).collect()
}

fn outcome(sight: &Sight<'_>, end: &End) -> Outcome {
    let excluded = sight.state.nodes.len() - sight.state.live - sight.state.behind;
    match end {
        End::Success if excluded == 0 => Outcome::Succeeded,
        End::Success => Outcome::SucceededWithout { excluded: u32::try_from(excluded).unwrap_or(u32::MAX) },
        End::Failure { cause } | End::Rollback { cause } => Outcome::Failed { cause: cause.clone() },
        End::Cancel => Outcome::Cancelled,
    }
}

pub(super) fn fail(cause: String) -> Change {
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
