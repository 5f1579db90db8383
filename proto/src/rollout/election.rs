//! Which node of a site runs a step `on: site`: one that said that it can, once (GATE).
//!
//! A node is asked first, and ordered to run the step once it answered and that is on record. So a node that is lost
//! before is known not to have run it, and another one of its site is asked; one that is lost after may have, and the step
//! stays with it. So is one that is connected and does not answer in time, as long as there is another: an answer that
//! comes after that is refused. Only the first attempt is asked for: later ones are where the first was. It costs a step
//! `on: site` one more round trip and record, and other steps nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::away;
use super::input::Actor;
use super::record::Change;
use super::sight::Sight;
use super::state::{Node, Run};
use super::turn::Places;
use super::when;
use crate::id::{LaneIndex, Name, NodeId};
use crate::manifest::{Phase, StepRef};
use crate::time::Time;

/// Whoever was asked, and is not going to run the step: it is lost or silent, or nothing may start, there or at all. Who
/// answers late is too late.
pub(super) fn void(sight: &Sight<'_>) -> Vec<Change> {
    let stopped = sight.state.closing.is_some() || sight.state.paused || when::is_in_doubt(sight);
    let may_start = |step: StepRef, actor: Actor| sight.is_online(actor) && sight.may_start(step, actor);
    let is_passed_over = |step, node| sight.is_silent(step, node) && others(sight, step, node);
    let is_void = |(step, node): &&(StepRef, NodeId)| {
        stopped
            || !sight.state.is_live(Actor::Node(*node))
            || !may_start(*step, Actor::Node(*node))
            || is_passed_over(*step, *node)
    };
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
        runs.filter_map(|(actor, run)| Some((sight.site(actor.node()?)?, is_over(sight, actor, run)))).collect()
    };
    let taken: BTreeSet<&Name> = had.keys().copied().chain(asked(sight, step)).collect();
    let mut free = BTreeMap::new();
    let mut done = true;
    for (id, node) in sight.live_in(lane) {
        let Some(site) = sight.site(id) else { continue };
        done &= had.get(site).is_some_and(|over| *over);
        if !taken.contains(site) && is_able(sight, step, id, node) {
            // Who was asked longest ago or never: a node that was passed over has its turn again after the others.
            let turn = (sight.soft.asked_before(step, id), id);
            free.entry(site).and_modify(|best| *best = turn.min(*best)).or_insert(turn);
        }
    }
    Places { done, free: free.into_values().map(|(_, node)| Actor::Node(node)).collect() }
}

/// Whether a node could be asked about a step at this moment.
fn is_able(sight: &Sight<'_>, step: StepRef, id: NodeId, node: &Node) -> bool {
    let holds_all = step.phase == Phase::Before || (node.is_ready() && sight.is_open(id));
    holds_all && sight.is_online(Actor::Node(id))
}

/// How the site of a node stands to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Had {
    /// None of its nodes was told to run it.
    No,
    /// One was, and it is not done.
    UnderWay,
    /// It had its turn.
    Over,
}

/// Whether the site of a node had its turn of a step.
pub(super) fn had(sight: &Sight<'_>, step: StepRef, node: NodeId) -> Had {
    let is_there = |actor: Actor| actor.node().is_some_and(|other| sight.site(other) == sight.site(node));
    match sight.state.runs_of(step).find(|(actor, _)| is_there(*actor)) {
        None => Had::No,
        Some((actor, run)) if is_over(sight, actor, run) => Had::Over,
        Some(_) => Had::UnderWay,
    }
}

/// Whether a node of the site of this one is asked about a step.
pub(super) fn is_asked(sight: &Sight<'_>, step: StepRef, node: NodeId) -> bool {
    asked(sight, step).any(|site| sight.site(node) == Some(site))
}

/// Whether a site has had its turn with this run.
fn is_over(sight: &Sight<'_>, actor: Actor, run: &Run) -> bool {
    run.is_done() || !sight.state.is_live(actor)
}

/// Whether another node of a site could be asked in the place of this one: those who are behind take turns among themselves.
fn others(sight: &Sight<'_>, step: StepRef, node: NodeId) -> bool {
    if sight.state.nodes.get(&node).is_some_and(|node| node.behind) {
        return away::others(sight, step, node);
    }
    let lane = (step.phase == Phase::Steps).then(|| sight.course.lane_of(node));
    let mut nodes = sight.live_in(lane).filter(|(id, _)| *id != node && sight.site(*id) == sight.site(node));
    nodes.any(|(id, other)| is_able(sight, step, id, other))
}

/// Until when those who are asked may answer.
pub(super) fn answers_until<'a>(sight: &'a Sight<'_>) -> impl Iterator<Item = Time> + use<'a> {
    sight.state.elected.iter().map(|(step, node)| sight.answers_until(*step, *node))
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
