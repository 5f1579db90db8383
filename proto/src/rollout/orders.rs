//! Orders: the effects of a change, and all that a node is to do at a moment.
//!
//! The two agree: what [`after`] wants done because of a change, [`duties`] says again to a node that comes back, unless
//! it is void by then.

use super::effect::Effect;
use super::input::Actor;
use super::record::{Change, End, Outcome};
use super::sight::Sight;
use super::state::{Node, Run, Stand};
use super::when;
use crate::id::{Name, NodeId};
use crate::manifest::{Phase, StepRef};

/// What a change, which `sight` already shows, wants done.
pub(super) fn after(change: &Change, sight: &Sight<'_>) -> Vec<Effect> {
    let generation = sight.state.generation;
    match change {
        Change::AcquireBegan => {
            sight.state.live_nodes().map(|(node, _)| Effect::Acquire { node, generation }).collect()
        }
        Change::AcquireRetried { node } => vec![Effect::Acquire { node: *node, generation }],
        Change::Ordered { step, attempt, actors } => {
            let order = |actor: &Actor| Effect::RunStep { actor: *actor, step: *step, attempt: *attempt, generation };
            actors.iter().map(order).collect()
        }
        Change::Elected { step, nodes } => {
            nodes.iter().map(|node| Effect::OfferStep { node: *node, step: *step, generation }).collect()
        }
        Change::Paused => stop_acquiring(sight).collect(),
        Change::Resumed => {
            let began = sight.state.times.acquire_began.is_some();
            let lacking = sight.state.live_nodes().filter(|(_, node)| began && !node.is_ready());
            let acquire = lacking.map(|(node, _)| Effect::Acquire { node, generation });
            acquire.chain(held_back(sight, None)).collect()
        }
        Change::Opened { site } => held_back(sight, Some(site)).collect(),
        Change::AnyHour => held_back(sight, None).collect(),
        Change::Excluded { node, .. } => {
            let stop = sight.state.times.acquire_began.map(|_| Effect::StopAcquire { node: *node, generation });
            let runs = sight.state.flying().filter(|(_, actor, _)| *actor == Actor::Node(*node));
            stop.into_iter().chain(runs.map(|(step, actor, run)| cancel(sight, actor, step, run))).collect()
        }
        Change::Closing { end: End::Success } => Vec::new(),
        Change::Closing { .. } | Change::Killing => {
            let runs = sight.state.flying().filter(|(step, _, run)| is_void(sight, *step, run));
            stop_acquiring(sight).chain(runs.map(|(step, actor, run)| cancel(sight, actor, step, run))).collect()
        }
        Change::Finished { outcome } => {
            let over = std::iter::once(Effect::Finished { outcome: outcome.clone() });
            let nodes = sight.state.nodes.iter().filter(|(_, node)| is_forgotten(sight, outcome, node));
            over.chain(nodes.map(|(node, _)| Effect::Forget { node: *node, generation })).collect()
        }
        Change::Behind { .. } | Change::CaughtUp { .. } | Change::Withdrawn { .. } | Change::NotBegun { .. } => {
            Vec::new()
        }
        Change::StepOpened { .. }
        | Change::Started { .. }
        | Change::Wrote { .. }
        | Change::Ended { .. }
        | Change::Abandoned { .. }
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
        | Change::HoursKept
        | Change::Hurried => Vec::new(),
    }
}

/// Orders that were not given again while their actors were not to start anything; those of a site, or all.
fn held_back<'a>(sight: &Sight<'a>, site: Option<&'a Name>) -> impl Iterator<Item = Effect> + use<'a> {
    let (sight, generation) = (*sight, sight.state.generation);
    let is_there = move |actor: Actor| actor.node().is_none_or(|node| site.is_none() || sight.site(node) == site);
    let ordered = sight.state.flying().filter(|(.., run)| run.stand == Stand::Ordered);
    let free = ordered.filter(move |(step, actor, _)| is_there(*actor) && !is_withheld(&sight, *step, *actor));
    free.map(move |(step, actor, run)| Effect::RunStep { actor, step, attempt: run.attempt, generation })
}

/// All that an actor is to do.
pub(super) fn duties(actor: Actor, sight: &Sight<'_>) -> Vec<Effect> {
    let node = actor.node().and_then(|id| Some((id, sight.state.nodes.get(&id)?)));
    let generation = sight.state.generation;
    if let Some(outcome) = &sight.state.finished {
        let forgotten = node.filter(|(_, node)| is_forgotten(sight, outcome, node));
        return forgotten.map(|(node, _)| Effect::Forget { node, generation }).into_iter().collect();
    }
    let mut duties: Vec<Effect> = node.and_then(|(id, node)| transfer(id, node, sight)).into_iter().collect();
    let asked = |step: &StepRef| actor.node().filter(|node| sight.state.elected.contains(&(*step, *node)));
    for step in steps(sight) {
        duties.extend(asked(&step).map(|node| Effect::OfferStep { node, step, generation }));
        let Some(run) = sight.state.runs.get(&(step, actor)) else { continue };
        let attempt = run.attempt;
        match run.stand {
            Stand::Ordered | Stand::Started if is_void(sight, step, run) => {
                duties.push(cancel(sight, actor, step, run));
            }
            Stand::Ordered if is_withheld(sight, step, actor) => {
                let asked = actor.node().filter(|_| when::asks_whether_begun(sight, step, attempt));
                duties.extend(asked.map(|node| Effect::OfferStep { node, step, generation }));
            }
            Stand::Ordered | Stand::Started => duties.push(Effect::RunStep { actor, step, attempt, generation }),
            Stand::Abandoned if run.outcome.is_none() => duties.push(cancel(sight, actor, step, run)),
            Stand::Abandoned | Stand::Ended | Stand::Accepted => {}
        }
    }
    duties
}

/// Whether an order is not given again: what did not start before a pause does not start in it, nor while its site is shut,
/// nor when the deployment has expired.
fn is_withheld(sight: &Sight<'_>, step: StepRef, actor: Actor) -> bool {
    sight.is_paused() || !sight.may_start(step, actor) || (step.phase == Phase::Steps && when::is_in_doubt(sight))
}

/// Whether a node is to acquire or to stop.
fn transfer(id: NodeId, node: &Node, sight: &Sight<'_>) -> Option<Effect> {
    sight.state.times.acquire_began?;
    let generation = sight.state.generation;
    match &sight.state.closing {
        _ if !node.is_live() => Some(Effect::StopAcquire { node: id, generation }),
        None if !sight.is_paused() => Some(Effect::Acquire { node: id, generation }),
        _ if !node.is_ready() => Some(Effect::StopAcquire { node: id, generation }),
        _ => None,
    }
}

/// Whether an attempt is to be killed. Where the deployment failed, what runs is let finish, but an attempt that nobody
/// reported as started shall not start now. What runs at the end is never killed.
fn is_void(sight: &Sight<'_>, step: StepRef, run: &Run) -> bool {
    let ending = sight.state.closing.is_some() && run.stand == Stand::Ordered;
    !step.phase.is_last() && (sight.state.killing || ending)
}

/// After a deployment that only staged, nodes keep what they hold for the one that goes on from there.
pub(super) fn is_forgotten(sight: &Sight<'_>, outcome: &Outcome, node: &Node) -> bool {
    let staged = sight.stage_only && matches!(outcome, Outcome::Succeeded | Outcome::SucceededWithout { .. });
    !staged || !node.is_live()
}

fn stop_acquiring(sight: &Sight<'_>) -> impl Iterator<Item = Effect> {
    let (generation, began) = (sight.state.generation, sight.state.times.acquire_began.is_some());
    let lacking = sight.state.live_nodes().filter(move |(_, node)| began && !node.is_ready());
    lacking.map(move |(node, _)| Effect::StopAcquire { node, generation })
}

fn cancel(sight: &Sight<'_>, actor: Actor, step: StepRef, run: &Run) -> Effect {
    Effect::CancelStep { actor, step, attempt: run.attempt, generation: sight.state.generation }
}

/// Every step that may have a run, in order.
pub(super) fn steps(sight: &Sight<'_>) -> impl Iterator<Item = StepRef> + use<> {
    let lens = [
        (Phase::Before, sight.manifest.before_acquire.len()),
        (Phase::Steps, sight.manifest.steps.len()),
        (Phase::Always, sight.manifest.steps.len()),
        (Phase::After, sight.manifest.before_acquire.len()),
    ];
    let indices = |len: usize| 0..u16::try_from(len).unwrap_or(u16::MAX);
    lens.into_iter().flat_map(move |(phase, len)| {
        indices(len).map(move |index| StepRef { phase, index: crate::id::StepIndex(index) })
    })
}
