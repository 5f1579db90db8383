//! Which node of a site runs a step `on: site`: one that said that it can, once (GATE).
//!
//! A node is asked first, and ordered to run the step once it answered and that is on record. So a node that is lost
//! before is known not to have run it, and another one of its site is asked; one that is lost after may have, and the step
//! stays with it. Only the first attempt is asked for: later ones are where the first was. It costs a step `on: site` one
//! more round trip and record, and other steps nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::input::Actor;
use super::record::Change;
use super::sight::Sight;
use super::state::Run;
use super::turn::Places;
use crate::id::{LaneIndex, Name, NodeId};
use crate::manifest::{Phase, StepRef};

/// Whoever was asked, and is not going to run the step: it is lost, or nothing may start, there or at all. Who answers late is too late.
pub(super) fn void(sight: &Sight<'_>) -> Vec<Change> {
    let stopped = sight.state.closing.is_some() || sight.state.paused;
    let awaited = |node: &NodeId| sight.state.nodes.get(node).is_some_and(|node| node.is_awaited());
    let may_start = |step: StepRef, actor: Actor| sight.is_online(actor) && sight.may_start(step, actor);
    let is_void =
        |(step, node): &&(StepRef, NodeId)| stopped || !awaited(node) || !may_start(*step, Actor::Node(*node));
    withdraw(sight.state.elected.iter().filter(is_void))
}

/// All who were asked: while an operator is, nothing starts.
pub(super) fn all(sight: &Sight<'_>) -> Vec<Change> {
    withdraw(sight.state.elected.iter())
}

fn withdraw<'a>(elected: impl Iterator<Item = &'a (StepRef, NodeId)>) -> Vec<Change> {
    elected.map(|(step, node)| Change::Withdrawn { step: *step, node: *node }).collect()
}

/// How the sites of a lane stand to a step. A site whose node was ordered to run it and then excluded has had its turn,
/// since the step may have run there; so has one where it ran for an earlier lane.
pub(super) fn places(sight: &Sight<'_>, step: StepRef, lane: Option<LaneIndex>) -> Places {
    let had: BTreeMap<&Name, bool> = {
        let runs = sight.state.runs_of(step);
        let is_over = |actor, run: &Run| run.is_done() || !sight.state.is_live(actor);
        runs.filter_map(|(actor, run)| Some((sight.site(actor.node()?)?, is_over(actor, run)))).collect()
    };
    let mut taken: BTreeSet<&Name> = had.keys().copied().chain(asked(sight, step)).collect();
    let mut places = Places { done: true, free: Vec::new() };
    for (id, node) in sight.live_in(lane) {
        let Some(site) = sight.site(id) else { continue };
        places.done &= had.get(site).is_some_and(|over| *over);
        let able = step.phase == Phase::Before || (node.is_ready() && sight.is_open(id));
        let able = able && sight.is_online(Actor::Node(id));
        if able && taken.insert(site) {
            places.free.push(Actor::Node(id));
        }
    }
    places
}

/// Sites in which no node was told to run a step, or is asked.
pub(super) fn without_node<'a>(sight: &Sight<'a>, step: StepRef, lane: Option<LaneIndex>) -> BTreeSet<&'a Name> {
    let told = sight.state.runs_of(step).filter_map(|(actor, _)| sight.site(actor.node()?));
    let taken: BTreeSet<&Name> = told.chain(asked(sight, step)).collect();
    let sites = sight.live_in(lane).filter_map(|(id, _)| sight.site(id));
    sites.filter(|site| !taken.contains(site)).collect()
}

/// The sites of the nodes that are asked about a step.
fn asked<'a>(sight: &Sight<'a>, step: StepRef) -> impl Iterator<Item = &'a Name> + use<'a> {
    let (state, members) = (sight.state, sight.members);
    let nodes = state.elected.iter().filter(move |(of, _)| *of == step);
    nodes.filter_map(move |(_, node)| members.get(node).map(|member| &member.site))
}
