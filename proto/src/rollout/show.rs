//! How a state is shown: [`View`] and what stands in it.

use super::input::{Actor, StepOutcome};
use super::orders::steps;
use super::record::Outcome;
use super::sight::Sight;
use super::state::{Node, Run, Stand};
use super::view::{GateView, NodeView, PackageState, PackageView, Stage, State, StepState, StepView, View, Waiting};
use crate::id::{Name, NodeId};
use crate::manifest::{On, Phase, StepRef};

/// All that a person is shown.
pub(super) fn view(sight: &Sight<'_>) -> View {
    let manifest = sight.manifest;
    let waiting = waiting(sight);
    View {
        deployment: manifest.deployment,
        name: manifest.name.clone(),
        release: manifest.release.clone(),
        stage: stage(sight),
        state: state(sight, &waiting),
        outcome: sight.state.finished.clone(),
        stage_only: sight.stage_only,
        generation: sight.state.generation,
        gate: gate(sight),
        waiting,
        nodes: sight.state.nodes.iter().filter_map(|(id, node)| node_view(sight, *id, node)).collect(),
        coordinator: steps_of(sight, Actor::Coordinator),
        times: sight.state.times,
    }
}

fn stage(sight: &Sight<'_>) -> Stage {
    let times = &sight.state.times;
    if sight.state.finished.is_some() {
        Stage::Done
    } else if times.gate_opened.is_some() {
        Stage::Steps
    } else if times.acquire_began.is_none() {
        Stage::BeforeAcquire
    } else if sight.state.ready < sight.needed() || sight.stage_only {
        Stage::Acquire
    } else {
        Stage::Release
    }
}

fn state(sight: &Sight<'_>, waiting: &[Waiting]) -> State {
    match &sight.state.finished {
        Some(Outcome::Succeeded | Outcome::SucceededWithout { .. }) => return State::Succeeded,
        Some(Outcome::Failed { .. }) => return State::Failed,
        Some(Outcome::Cancelled) => return State::Cancelled,
        None if sight.state.closing.is_some() => return State::Running,
        None => {}
    }
    if sight.asking().next().is_some() {
        return State::Paused;
    }
    let acquires = |(id, node): (NodeId, &Node)| node.failed().is_none() && sight.is_online(Actor::Node(id));
    let acquiring = sight.state.times.acquire_began.is_some() && sight.stragglers().any(acquires);
    let running = runs(sight).any(|(_, actor, _)| sight.is_online(actor));
    if waiting.is_empty() || acquiring || running { State::Running } else { State::Blocked }
}

fn gate(sight: &Sight<'_>) -> GateView {
    let count = |nodes: usize| u32::try_from(nodes).unwrap_or(u32::MAX);
    GateView {
        open: sight.state.times.gate_opened.is_some(),
        ready: count(sight.state.ready),
        needed: count(sight.needed()),
        nodes: count(sight.state.live),
        manual: sight.manifest.gate.manual,
        released: sight.state.released,
    }
}

/// Runs in flight.
fn runs<'a>(sight: &Sight<'a>) -> impl Iterator<Item = (StepRef, Actor, &'a Run)> + use<'a> {
    let state = sight.state;
    let runs =
        state.opened.into_iter().flat_map(|step| state.runs_of(step).map(move |(actor, run)| (step, actor, run)));
    runs.filter(|(_, _, run)| run.in_flight())
}

fn waiting(sight: &Sight<'_>) -> Vec<Waiting> {
    let state = sight.state;
    if state.finished.is_some() {
        return Vec::new();
    }
    let mut waiting: Vec<Waiting> = sight.asking().filter_map(|(step, actor, run)| answer(step, actor, run)).collect();
    waiting.extend(sight.without_package().filter_map(|(node, held)| {
        let (package, cause) = held.failed()?;
        Some(Waiting::Package { node, package, cause: cause.to_owned() })
    }));
    if stage(sight) == Stage::Release && sight.manifest.gate.manual && !state.released && state.closing.is_none() {
        waiting.push(Waiting::Release);
    }
    let acquiring = state.times.acquire_began.is_some() && state.closing.is_none();
    let acquirers = || sight.stragglers().filter(|(_, node)| acquiring && node.failed().is_none());
    let busy = acquirers().map(|(id, _)| Actor::Node(id)).chain(runs(sight).map(|(_, actor, _)| actor));
    let mut away: Vec<NodeId> = busy.filter(|actor| !sight.is_online(*actor)).filter_map(Actor::node).collect();
    away.sort_unstable();
    away.dedup();
    waiting.extend(away.into_iter().map(|node| Waiting::Offline { node }));
    waiting.extend(empty_sites(sight));
    let nodes = u32::try_from(acquirers().count()).unwrap_or(u32::MAX);
    waiting.extend((nodes > 0).then_some(Waiting::Acquiring { nodes }));
    let actors = u32::try_from(state.in_flight).unwrap_or(u32::MAX);
    let step = state.opened.filter(|_| actors > 0);
    waiting.extend(step.map(|step| Waiting::Running { step, actors }));
    waiting
}

fn answer(step: StepRef, actor: Actor, run: &Run) -> Option<Waiting> {
    Some(Waiting::Answer { actor, step, attempt: run.attempt, outcome: run.outcome.clone()? })
}

/// Sites that have no node to run the current step.
fn empty_sites(sight: &Sight<'_>) -> Vec<Waiting> {
    let opened = sight.state.opened.filter(|_| sight.state.closing.is_none());
    let on_site = |step: &StepRef| sight.manifest.step(*step).is_some_and(|step| step.on == On::Site);
    let Some(step) = opened.filter(on_site) else { return Vec::new() };
    let site = |node: &NodeId| sight.members.get(node).map(|member| &member.site);
    let had: Vec<&Name> = sight.state.runs_of(step).filter_map(|(actor, _)| site(&actor.node()?)).collect();
    let mut sites: Vec<&Name> = sight.state.live_nodes().filter_map(|(id, _)| site(&id)).collect();
    sites.sort_unstable();
    sites.dedup();
    let empty = sites.into_iter().filter(|site| !had.contains(site));
    empty.map(|site| Waiting::Site { site: site.clone(), step }).collect()
}

fn node_view(sight: &Sight<'_>, id: NodeId, node: &Node) -> Option<NodeView> {
    let member = sight.members.get(&id)?;
    let package = |(package, state): (&_, &PackageState)| PackageView { package: *package, state: state.clone() };
    Some(NodeView {
        node: id,
        name: member.name.clone(),
        site: member.site.clone(),
        online: sight.is_online(Actor::Node(id)),
        excluded: node.excluded,
        acquired: node.is_ready(),
        packages: node.packages.iter().map(package).collect(),
        steps: steps_of(sight, Actor::Node(id)),
    })
}

/// An actor's steps: those that it runs in any case, and those that it was chosen for.
fn steps_of(sight: &Sight<'_>, actor: Actor) -> Vec<StepView> {
    let own = if actor == Actor::Coordinator { On::Coordinator } else { On::Node };
    let shown = |step: StepRef| {
        let run = sight.state.runs.get(&(step, actor));
        let details = sight.manifest.step(step)?;
        let expected = details.on == own && (step.phase != Phase::After || details.always_after.is_some());
        (run.is_some() || expected).then(|| step_view(sight, step, actor, details.name.clone(), run))
    };
    steps(sight).filter_map(shown).collect()
}

fn step_view(sight: &Sight<'_>, step: StepRef, actor: Actor, name: Name, run: Option<&Run>) -> StepView {
    let never = sight.state.finished.is_some()
        || !sight.state.is_live(actor)
        || (sight.state.closing.is_some() && step.phase != Phase::After);
    StepView {
        step,
        name,
        state: run.map_or(if never { StepState::Skipped } else { StepState::Pending }, step_state),
        ignored: run.is_some_and(|run| run.stand == Stand::Accepted),
        attempts: run.map_or(0, |run| run.attempt),
        outcome: run.and_then(|run| run.outcome.clone()),
        ordered: run.map(|run| run.ordered),
        started: run.and_then(|run| run.started),
        ended: run.and_then(|run| run.ended),
    }
}

fn step_state(run: &Run) -> StepState {
    match (&run.outcome, run.stand) {
        (None, Stand::Ordered) => StepState::Pending,
        (None, Stand::Started) => StepState::Running,
        (None, _) | (Some(StepOutcome::Unknown), _) => StepState::Unknown,
        (Some(StepOutcome::Succeeded), _) => StepState::Succeeded,
        (Some(StepOutcome::Failed(_) | StepOutcome::TimedOut | StepOutcome::Killed), _) => StepState::Failed,
    }
}
