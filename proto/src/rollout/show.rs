//! How a state is shown: [`View`] and what stands in it.

use super::course::WavePlan;
use super::election;
use super::input::{Actor, StepOutcome};
use super::lanes::Tally;
use super::orders::steps;
use super::record::{Exclusion, Outcome};
use super::sight::Sight;
use super::state::{LaneStand, Node, Run, Stand};
use super::view::{
    GateView, NodeView, PackageState, PackageView, Stage, State, StepState, StepView, View, Waiting, WaveState,
    WaveView,
};
use super::when::When;
use crate::hours::Shut;
use crate::id::{LaneIndex, Name, NodeId, WaveIndex};
use crate::manifest::{On, Phase, StepRef};
use crate::time::Time;

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
        waves: waves(sight),
        nodes: sight.state.nodes.iter().filter_map(|(id, node)| node_view(sight, *id, node)).collect(),
        coordinator: steps_of(sight, Actor::Coordinator),
        times: sight.state.times,
        when: When { any_hour: sight.said_any_hour(), ..sight.when },
        shut: sight.held_sites().map(|(site, shut)| (site.clone(), shut.clone())).collect(),
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
    if sight.is_paused() || sight.asking().next().is_some() {
        return State::Paused;
    }
    let acquires = |(id, node): (NodeId, &Node)| node.failed().is_none() && sight.is_online(Actor::Node(id));
    let acquiring = sight.state.times.acquire_began.is_some() && sight.stragglers().any(acquires);
    let asked = sight.state.elected.iter().any(|(step, node)| !sight.is_silent(*step, *node));
    let running = asked || sight.state.flying().any(|(_, actor, _)| sight.is_online(actor));
    let timed = waiting.iter().any(|waiting| matches!(waiting, Waiting::Bake { .. } | Waiting::Retry { .. }));
    if timed || waiting.is_empty() || acquiring || running { State::Running } else { State::Blocked }
}

fn count(nodes: usize) -> u32 {
    u32::try_from(nodes).unwrap_or(u32::MAX)
}

fn gate(sight: &Sight<'_>) -> GateView {
    GateView {
        open: sight.state.times.gate_opened.is_some(),
        ready: count(sight.state.ready),
        needed: count(sight.needed()),
        nodes: count(sight.state.live),
        manual: sight.manifest.gate.manual,
        released: sight.state.released,
    }
}

fn waves(sight: &Sight<'_>) -> Vec<WaveView> {
    let named = |(wave, index): (&WavePlan, u16)| Some((wave.name.clone()?, WaveIndex(index)));
    let waves = sight.course.waves.iter().zip(0..).filter_map(named);
    waves.map(|(name, wave)| wave_view(sight, name, wave)).collect()
}

fn wave_view(sight: &Sight<'_>, name: Name, wave: WaveIndex) -> WaveView {
    let known = &sight.state.waves[wave.index()];
    let tally = Tally::of(sight, wave);
    let waits = sight.waiting_wave() == Some(wave);
    let nodes = || sight.course.nodes_of_wave(wave).filter_map(|id| Some((id, sight.state.nodes.get(&id)?)));
    let excluded = nodes().filter(|(_, node)| node.excluded.is_some_and(|why| why != Exclusion::Failed));
    let is_over = |id: NodeId| sight.state.lanes[sight.course.lane_of(id).index()].stand == LaneStand::Over;
    WaveView {
        name,
        state: match (known.opened, known.ended) {
            (false, _) => WaveState::Pending,
            (true, false) => WaveState::Running,
            (true, true) if waits && tally.is_short() => WaveState::Short,
            (true, true) if waits => WaveState::Baking,
            (true, true) => WaveState::Done,
        },
        nodes: count(nodes().count()),
        done: count(nodes().filter(|(id, node)| node.is_live() && is_over(*id)).count()),
        failed: count(known.failures),
        excluded: count(excluded.count()),
        needed: count(tally.needed),
    }
}

fn waiting(sight: &Sight<'_>) -> Vec<Waiting> {
    let state = sight.state;
    if state.finished.is_some() {
        return Vec::new();
    }
    let mut waiting: Vec<Waiting> = sight.is_paused().then_some(Waiting::Resume).into_iter().collect();
    waiting.extend(sight.asking().filter_map(|(step, actor, run)| answer(step, actor, run)));
    waiting.extend(sight.without_package().filter_map(|(node, held)| {
        let (package, cause) = held.failed()?;
        Some(Waiting::Package { node, package, cause: cause.to_owned() })
    }));
    if stage(sight) == Stage::Release && sight.manifest.gate.manual && !state.released && state.closing.is_none() {
        waiting.push(Waiting::Release);
    }
    if state.closing.is_none() {
        waiting.extend(sight.early_until().map(|at| Waiting::Time { at }));
    }
    let shut = |(site, shut): (&Name, &Shut)| Waiting::Hours { site: site.clone(), shut: shut.clone() };
    waiting.extend(sight.held_sites().map(shut));
    waiting.extend(sight.waiting_wave().map(|wave| at_wave_gate(sight, wave)));
    let retrying = sight.retrying().filter(|(step, actor, ..)| sight.may_start(*step, *actor));
    waiting.extend(retrying.map(|(step, actor, run, at)| Waiting::Retry {
        actor,
        step,
        attempts: run.attempt,
        left_ms: left_ms(sight, at),
    }));
    let acquiring = state.times.acquire_began.is_some() && state.closing.is_none();
    let acquirers = || sight.stragglers().filter(|(_, node)| acquiring && node.failed().is_none());
    let busy = acquirers().map(|(id, _)| Actor::Node(id)).chain(state.flying().map(|(_, actor, _)| actor));
    let busy = busy.chain(yet_to_start(sight));
    let mut away: Vec<NodeId> = busy.filter(|actor| !sight.is_online(*actor)).filter_map(Actor::node).collect();
    away.sort_unstable();
    away.dedup();
    waiting.extend(away.into_iter().map(|node| Waiting::Offline { node }));
    waiting.extend(state.behind_nodes().map(|(node, _)| Waiting::CatchingUp { node }));
    let silent = state.elected.iter().filter(|(step, node)| sight.is_silent(*step, *node));
    waiting.extend(silent.map(|(step, node)| Waiting::Silent { node: *node, step: *step }));
    waiting.extend(empty_sites(sight));
    let nodes = count(acquirers().count());
    waiting.extend((nodes > 0).then_some(Waiting::Acquiring { nodes }));
    let mut running: std::collections::BTreeMap<StepRef, u32> = std::collections::BTreeMap::new();
    let flying = state.flying().map(|(step, ..)| step).chain(state.elected.iter().map(|(step, _)| *step));
    flying.for_each(|step| *running.entry(step).or_default() += 1);
    waiting.extend(running.into_iter().map(|(step, actors)| Waiting::Running { step, actors }));
    waiting
}

fn at_wave_gate(sight: &Sight<'_>, wave: WaveIndex) -> Waiting {
    let tally = Tally::of(sight, wave);
    if tally.is_short() {
        return Waiting::Promote { wave, succeeded: count(tally.sound), needed: count(tally.needed) };
    }
    Waiting::Bake { wave, left_ms: left_ms(sight, sight.baked_at(wave)) }
}

fn left_ms(sight: &Sight<'_>, until: Time) -> u64 {
    u64::try_from(until.since(sight.now).as_millis()).unwrap_or(u64::MAX)
}

fn answer(step: StepRef, actor: Actor, run: &Run) -> Option<Waiting> {
    Some(Waiting::Answer { actor, step, attempt: run.attempt, outcome: run.outcome.clone()? })
}

/// Steps whose turn it is, each in a lane or everywhere.
fn turns<'a>(sight: &Sight<'a>) -> impl Iterator<Item = (StepRef, Option<LaneIndex>)> + use<'a> {
    let state = sight.state;
    let before = state.opened.filter(|_| state.times.acquire_began.is_none()).map(|step| (step, None));
    let lanes = state.lanes.iter().zip(0..).filter_map(|(lane, index)| match lane.stand {
        LaneStand::At(step) => Some((StepRef { phase: Phase::Steps, index: step }, Some(LaneIndex(index)))),
        LaneStand::Pending | LaneStand::Over => None,
    });
    before.into_iter().chain(lanes).filter(|_| state.closing.is_none())
}

/// Nodes that a step whose turn it is was not ordered on.
fn yet_to_start<'a>(sight: &Sight<'a>) -> impl Iterator<Item = Actor> + use<'a> {
    let sight = *sight;
    let on_node = move |step: StepRef| sight.manifest.step(step).is_some_and(|step| step.on == On::Node);
    turns(&sight).filter(move |(step, _)| on_node(*step)).flat_map(move |(step, lane)| {
        let actors = sight.live_in(lane).map(|(id, _)| Actor::Node(id));
        actors.filter(move |actor| !sight.state.runs.contains_key(&(step, *actor)))
    })
}

/// Sites that have no node to run a step whose turn it is.
fn empty_sites(sight: &Sight<'_>) -> Vec<Waiting> {
    let on_site = |step: StepRef| sight.manifest.step(step).is_some_and(|step| step.on == On::Site);
    let empty = turns(sight).filter(|(step, _)| on_site(*step)).flat_map(|(step, lane)| {
        let shut = |site: &&Name| sight.state.shut.contains_key(*site) && !sight.is_any_hour();
        let sites = election::without_node(sight, step, lane).into_iter().filter(move |site| !shut(site));
        sites.map(move |site| Waiting::Site { site: site.clone(), step })
    });
    empty.collect()
}

fn node_view(sight: &Sight<'_>, id: NodeId, node: &Node) -> Option<NodeView> {
    let member = sight.members.get(&id)?;
    let package = |(package, state): (&_, &PackageState)| PackageView { package: *package, state: state.clone() };
    Some(NodeView {
        node: id,
        name: member.name.clone(),
        site: member.site.clone(),
        online: sight.is_online(Actor::Node(id)),
        wave: sight.course.wave_of(id),
        excluded: node.excluded,
        acquired: node.is_ready(),
        packages: node.packages.iter().map(package).collect(),
        steps: steps_of(sight, Actor::Node(id)),
    })
}

/// An actor's steps: those that it runs in any case, and those that it was chosen for.
fn steps_of(sight: &Sight<'_>, actor: Actor) -> Vec<StepView> {
    let shown = |step: StepRef| {
        let run = sight.state.runs.get(&(step, actor));
        let details = sight.manifest.step(step)?;
        let own = match (actor, step.phase) {
            (Actor::Coordinator, Phase::Always) => return None,
            (Actor::Coordinator, _) => On::Coordinator,
            (Actor::Node(_), Phase::Always) => On::Always,
            (Actor::Node(_), _) => On::Node,
        };
        let expected = details.on == own && (step.phase != Phase::After || details.always_after.is_some());
        (run.is_some() || expected).then(|| step_view(sight, step, actor, details.name.clone(), run))
    };
    steps(sight).filter_map(shown).collect()
}

fn step_view(sight: &Sight<'_>, step: StepRef, actor: Actor, name: Name, run: Option<&Run>) -> StepView {
    let never = sight.state.finished.is_some()
        || !sight.state.is_live(actor)
        || (sight.state.closing.is_some() && !step.phase.is_last());
    StepView {
        step,
        name,
        state: run.map_or(if never { StepState::Skipped } else { StepState::Pending }, step_state),
        ignored: run.is_some_and(|run| run.stand == Stand::Accepted),
        attempts: run.map_or(0, |run| run.attempt),
        outcome: run.and_then(|run| run.outcome.clone()),
        outputs: sight.state.written.of(step, actor).cloned().unwrap_or_default(),
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
