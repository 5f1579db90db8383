//! What inputs mean: a report becomes a fact or nothing, an operator's command becomes changes or a refusal.

use std::collections::{BTreeMap, BTreeSet};

use super::input::{Actor, Failure, Input, Operator, Refusal, StepOutcome, Which};
use super::next::describe;
use super::outputs;
use super::record::{Change, End, Exclusion};
use super::sight::Sight;
use super::state::{Node, Run, Stand};
use super::view::PackageState;
use super::when;
use crate::id::{NodeId, PackageIndex};
use crate::limits::{ATTEMPTS_MAX, CAUSE_BYTES_MAX};
use crate::manifest::StepRef;

/// The changes that an input says; none if it says nothing that is not known.
pub(super) fn changes(input: Input, sight: &Sight<'_>) -> Result<Vec<Change>, Refusal> {
    if let Input::Operator(command) = input {
        return operator(command, sight);
    }
    if sight.state.finished.is_some() {
        return Ok(Vec::new());
    }
    let fact = match input {
        Input::Acquired { node, package } => acquired(sight, node, package),
        Input::AcquireFailed { node, package, cause } => acquire_failed(sight, node, package, cause),
        Input::StepReady { node, step } => {
            let actor = Actor::Node(node);
            // What expired meanwhile does not begin.
            let expired = || when::expired(sight).is_some() || when::is_in_doubt(sight);
            let begins = sight.state.elected.contains(&(step, node)) && !expired();
            let ordered = begins.then(|| Change::Ordered { step, attempt: 1, actors: vec![actor] });
            ordered.or_else(|| when::not_begun(sight, step, actor))
        }
        Input::StepStarted { actor, step, attempt } => {
            let run = current(sight, actor, step, attempt).filter(|run| run.stand == Stand::Ordered);
            run.map(|_| Change::Started { actor, step, attempt })
        }
        Input::StepWrote { actor, step, attempt, outputs } => {
            let run = current(sight, actor, step, attempt);
            run.and_then(|run| outputs::wrote(sight, (step, actor), run, outputs))
        }
        Input::StepEnded { actor, step, attempt, outcome } => {
            let run = current(sight, actor, step, attempt).filter(|run| run.outcome.is_none());
            run.map(|_| Change::Ended { actor, step, attempt, outcome: bounded(outcome) })
        }
        Input::Stop { cause } => {
            let end = End::Failure { cause: cut(cause) };
            sight.state.closing.is_none().then_some(Change::Closing { end })
        }
        Input::NodeOnline(node) => sight.state.away.contains_key(&node).then_some(Change::Back { node }),
        Input::NodeOffline(node) => away(sight, vec![node]),
        Input::Absent(nodes) => away(sight, nodes),
        Input::Hours(shut) => return Ok(when::hours(sight, &shut)),
        Input::Tick | Input::Operator(_) => None,
    };
    Ok(fact.into_iter().collect())
}

/// Nodes are away, of a deployment for which that matters.
fn away(sight: &Sight<'_>, mut nodes: Vec<NodeId>) -> Option<Change> {
    let counts = |node: &NodeId| sight.state.nodes.get(node).is_some_and(Node::is_live);
    nodes.retain(|node| counts(node) && !sight.state.away.contains_key(node));
    (sight.counts_away() && !nodes.is_empty()).then_some(Change::Away { nodes })
}

/// The run that a report is about; reports about another attempt are stale.
fn current<'a>(sight: &Sight<'a>, actor: Actor, step: StepRef, attempt: u32) -> Option<&'a Run> {
    sight.state.runs.get(&(step, actor)).filter(|run| run.attempt == attempt)
}

fn acquired(sight: &Sight<'_>, node: NodeId, package: PackageIndex) -> Option<Change> {
    let state = package_state(sight, node, package)?;
    let known = matches!(state, PackageState::Acquired { .. });
    (!known).then_some(Change::Acquired { node, package })
}

fn acquire_failed(sight: &Sight<'_>, node: NodeId, package: PackageIndex, cause: String) -> Option<Change> {
    let cause = cut(cause);
    match package_state(sight, node, package)? {
        PackageState::Acquired { .. } => None,
        PackageState::Failed { cause: known } if *known == cause => None,
        PackageState::Missing | PackageState::Failed { .. } => Some(Change::AcquireFailed { node, package, cause }),
    }
}

/// Of a node that takes part, once `acquire` began: each order to acquire has it report again.
fn package_state<'a>(sight: &Sight<'a>, node: NodeId, package: PackageIndex) -> Option<&'a PackageState> {
    sight.state.times.acquire_began?;
    sight.state.nodes.get(&node).filter(|node| node.is_live())?.packages.get(&package)
}

fn bounded(outcome: StepOutcome) -> StepOutcome {
    match outcome {
        StepOutcome::Failed(Failure::Cause(cause)) => StepOutcome::Failed(Failure::Cause(cut(cause))),
        other => other,
    }
}

/// `cause` within [`CAUSE_BYTES_MAX`].
pub(crate) fn cut(mut cause: String) -> String {
    let end = (0..=CAUSE_BYTES_MAX.min(cause.len())).rev().find(|end| cause.is_char_boundary(*end));
    cause.truncate(end.unwrap_or(0));
    cause
}

fn operator(command: Operator, sight: &Sight<'_>) -> Result<Vec<Change>, Refusal> {
    let state = sight.state;
    if state.finished.is_some() {
        return Err(Refusal::Over);
    }
    match command {
        Operator::Cancel => return cancel(sight),
        Operator::Rollback => return roll_back(sight),
        _ => {}
    }
    if state.closing.is_some() {
        return Err(Refusal::Ending);
    }
    match command {
        Operator::Cancel => cancel(sight),
        Operator::Rollback => roll_back(sight),
        Operator::Pause if state.paused => Err(Refusal::Paused),
        Operator::Pause => Ok(vec![Change::Paused]),
        Operator::Resume if state.paused => Ok(vec![Change::Resumed]),
        Operator::Resume => Err(Refusal::NotPaused),
        Operator::Release => release(sight, false),
        Operator::ReleaseNow => release(sight, true),
        Operator::AnyHour if sight.is_any_hour() => Err(Refusal::AnyHourAlready),
        Operator::AnyHour => Ok(vec![Change::AnyHour]),
        Operator::KeepHours if !sight.is_overridden() => Err(Refusal::HoursKept),
        Operator::KeepHours => Ok(vec![Change::HoursKept]),
        Operator::Promote => promote(sight),
        Operator::Retry(_) if state.paused => Err(Refusal::Paused),
        Operator::Retry(which) => retry(sight, which),
        Operator::Ignore(which) => ignore(sight, which),
        Operator::Exclude(which) => exclude(sight, which),
        Operator::Fail(which) => fail(sight, which),
    }
}

fn cancel(sight: &Sight<'_>) -> Result<Vec<Change>, Refusal> {
    let scripts_left = sight.state.opened.is_some_and(|step| step.phase.is_last());
    match &sight.state.closing {
        None => Ok(vec![Change::Closing { end: End::Cancel }]),
        Some(End::Failure { .. } | End::Rollback { .. }) if !sight.state.killing && !scripts_left => {
            Ok(vec![Change::Killing])
        }
        Some(_) => Err(Refusal::Ending),
    }
}

fn roll_back(sight: &Sight<'_>) -> Result<Vec<Change>, Refusal> {
    let state = sight.state;
    if matches!(state.closing, Some(End::Success | End::Rollback { .. })) {
        return Err(Refusal::Ending);
    }
    let closing = Change::Closing { end: End::Rollback { cause: "an operator rolled it back".to_owned() } };
    let scripts_left = state.opened.is_some_and(|step| step.phase.is_last());
    let kills = !state.killing && !scripts_left;
    Ok(std::iter::once(closing).chain(kills.then_some(Change::Killing)).collect())
}

fn release(sight: &Sight<'_>, now: bool) -> Result<Vec<Change>, Refusal> {
    let (manual, timed) = (sight.manifest.gate.manual, sight.early_until().is_some());
    match (manual, timed) {
        _ if sight.state.times.gate_opened.is_some() => return Err(Refusal::GateOpen),
        (false, false) => return Err(Refusal::GateAuto),
        (false, true) if !now => return Err(Refusal::GateTimed),
        _ => {}
    }
    let released = (manual && !sight.state.released).then_some(Change::Released);
    Ok(released.into_iter().chain((now && timed).then_some(Change::Hurried)).collect())
}

fn promote(sight: &Sight<'_>) -> Result<Vec<Change>, Refusal> {
    let wave = sight.waiting_wave().ok_or(Refusal::NothingToPromote)?;
    Ok(vec![Change::Promoted { wave }])
}

fn retry(sight: &Sight<'_>, which: Which) -> Result<Vec<Change>, Refusal> {
    let asking: Vec<_> = asking(sight, which).collect();
    let open = |(step, actor, _): &(_, _, &Run)| sight.may_start(*step, *actor);
    let runs: Vec<_> = asking.iter().copied().filter(open).collect();
    let nodes: Vec<_> = without_package(sight, which).collect();
    if runs.is_empty() && nodes.is_empty() {
        return Err(if asking.is_empty() { Refusal::NothingWaits } else { Refusal::Shut });
    }
    let mut attempts: BTreeMap<(StepRef, u32), Vec<Actor>> = BTreeMap::new();
    for (step, actor, run) in runs.into_iter().filter(|(_, _, run)| run.attempt < ATTEMPTS_MAX) {
        attempts.entry((step, run.attempt + 1)).or_default().push(actor);
    }
    let ordered = attempts.into_iter().map(|((step, attempt), actors)| Change::Ordered { step, attempt, actors });
    let retried = nodes.into_iter().map(|node| Change::AcquireRetried { node });
    let changes: Vec<Change> = ordered.chain(retried).collect();
    if changes.is_empty() { Err(Refusal::AttemptsSpent) } else { Ok(changes) }
}

fn ignore(sight: &Sight<'_>, which: Which) -> Result<Vec<Change>, Refusal> {
    let accepted: Vec<Change> = asking(sight, which).map(|(step, actor, _)| Change::Accepted { actor, step }).collect();
    match without_package(sight, which).next() {
        _ if !accepted.is_empty() => Ok(accepted),
        Some(_) => Err(Refusal::PackageMissing),
        None => Err(Refusal::NothingWaits),
    }
}

/// A node may be excluded by name at any time, whether it waits for an answer or not.
fn exclude(sight: &Sight<'_>, which: Which) -> Result<Vec<Change>, Refusal> {
    let nodes: BTreeSet<NodeId> = match which.actor {
        Some(Actor::Coordinator) => return Err(Refusal::CoordinatorNeeded),
        Some(Actor::Node(node)) => match sight.state.nodes.get(&node) {
            None => return Err(Refusal::NotATarget),
            Some(known) if !known.is_live() => return Err(Refusal::AlreadyExcluded),
            Some(_) => BTreeSet::from([node]),
        },
        None => {
            let runs = asking(sight, which).filter_map(|(_, actor, _)| actor.node());
            runs.chain(without_package(sight, which)).collect()
        }
    };
    if nodes.is_empty() {
        let coordinator = asking(sight, which).next().is_some();
        return Err(if coordinator { Refusal::CoordinatorNeeded } else { Refusal::NothingWaits });
    }
    Ok(nodes.into_iter().map(|node| Change::Excluded { node, why: Exclusion::Operator }).collect())
}

fn fail(sight: &Sight<'_>, which: Which) -> Result<Vec<Change>, Refusal> {
    let steps = asking(sight, which).map(|(step, actor, run)| describe(sight, step, actor, run));
    let packages = without_package(sight, which).map(|node| lacking(sight, node));
    let mut causes = steps.chain(packages);
    let first = causes.next().ok_or(Refusal::NothingWaits)?;
    let cause = match causes.count() {
        0 => first,
        more => format!("{first}, and {more} more like it"),
    };
    Ok(vec![Change::Closing { end: End::Failure { cause: cut(cause) } }])
}

fn lacking(sight: &Sight<'_>, node: NodeId) -> String {
    let name = sight.members.get(&node).map_or_else(|| node.short(), |member| member.name.to_string());
    let failed = sight.state.nodes.get(&node).and_then(|node| node.failed());
    let package = failed.and_then(|(package, _)| sight.manifest.packages.get(package.index()));
    let package = package.map(|package| package.name.as_str()).unwrap_or_default();
    let cause = failed.map(|(_, cause)| cause).unwrap_or_default();
    format!("node `{name}` gave up on package `{package}`: {cause}")
}

fn asking<'a>(sight: &Sight<'a>, which: Which) -> impl Iterator<Item = (StepRef, Actor, &'a Run)> + use<'a> {
    let chosen = move |step, actor| which.step.is_none_or(|s| s == step) && which.actor.is_none_or(|a| a == actor);
    sight.asking().filter(move |(step, actor, _)| chosen(*step, *actor))
}

/// An answer that names a step is for that step only.
fn without_package<'a>(sight: &Sight<'a>, which: Which) -> impl Iterator<Item = NodeId> + use<'a> {
    let chosen = move |node| which.step.is_none() && which.actor.is_none_or(|a| a == Actor::Node(node));
    sight.without_package().map(|(node, _)| node).filter(move |node| chosen(*node))
}
