//! A step's turn: who can run it and has not been told to, and what becomes of attempts that ended otherwise than well.

use std::collections::{BTreeMap, BTreeSet};

use super::input::Actor;
use super::next::{describe, fail};
use super::record::{Change, Exclusion};
use super::sight::{Sight, Verdict};
use super::state::{Node, Run};
use crate::id::{LaneIndex, Name, NodeId};
use crate::manifest::{On, Phase, StepRef};

/// What becomes of attempts that ended otherwise than well; whether an operator is asked.
pub(super) struct Judged {
    pub(super) changes: Vec<Change>,
    pub(super) asked: bool,
}

/// Judges failures. Nothing starts anywhere, retries neither, while an operator is asked.
pub(super) fn judge(sight: &Sight<'_>) -> Judged {
    let mut settled = Vec::new();
    let mut retries: BTreeMap<(StepRef, u32), Vec<Actor>> = BTreeMap::new();
    let mut asked = false;
    for (step, actor, run) in sight.troubled() {
        match sight.verdict(step, actor, run) {
            Verdict::Fail => {
                return Judged { changes: vec![fail(describe(sight, step, actor, run))], asked: false };
            }
            Verdict::Drop(node) => {
                // The budget is counted anew after each.
                let changes = vec![Change::Excluded { node, why: Exclusion::Failed }];
                return Judged { changes, asked: false };
            }
            Verdict::Accept => settled.push(Change::Accepted { actor, step }),
            Verdict::Retry => retries.entry((step, run.attempt + 1)).or_default().push(actor),
            Verdict::Ask => asked = true,
        }
    }
    if settled.is_empty() && !asked {
        let ordered = |((step, attempt), actors)| Change::Ordered { step, attempt, actors };
        settled.extend(retries.into_iter().map(ordered));
    }
    Judged { changes: settled, asked }
}

/// Where a step has to run, in one lane or everywhere.
pub(super) struct Places {
    /// Whether it is done everywhere.
    pub(super) done: bool,
    /// Actors that can run it and have not been told to.
    pub(super) free: Vec<Actor>,
}

impl Places {
    pub(super) fn of(sight: &Sight<'_>, step: StepRef, lane: Option<LaneIndex>) -> Self {
        match sight.manifest.step(step).map(|step| step.on) {
            Some(On::Node) => Self::nodes(sight, step, lane),
            Some(On::Site) => Self::sites(sight, step, lane),
            Some(On::Coordinator) => Self::coordinator(sight, step),
            None => Self { done: true, free: Vec::new() },
        }
    }

    /// The first attempts that can be ordered.
    pub(super) fn first(self, step: StepRef) -> Option<Change> {
        (!self.free.is_empty()).then_some(Change::Ordered { step, attempt: 1, actors: self.free })
    }

    fn nodes(sight: &Sight<'_>, step: StepRef, lane: Option<LaneIndex>) -> Self {
        let mut places = Self { done: true, free: Vec::new() };
        for (id, node) in sight.live_in(lane) {
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
    /// its turn, since the step may have run there; so has one where it ran for an earlier lane.
    fn sites(sight: &Sight<'_>, step: StepRef, lane: Option<LaneIndex>) -> Self {
        let site = |actor: Actor| actor.node().and_then(|node| sight.site(node));
        let runs = sight.state.runs_of(step);
        let had: BTreeMap<&Name, bool> = runs
            .filter_map(|(actor, run)| Some((site(actor)?, run.is_done() || !sight.state.is_live(actor))))
            .collect();
        let mut places = Self { done: true, free: Vec::new() };
        let mut chosen: BTreeSet<&Name> = BTreeSet::new();
        for (id, node) in sight.live_in(lane) {
            let Some(site) = sight.site(id) else { continue };
            places.done &= had.get(site).is_some_and(|done| *done);
            let able = sight.is_online(Actor::Node(id)) && (step.phase == Phase::Before || node.is_ready());
            if able && !had.contains_key(site) && chosen.insert(site) {
                places.free.push(Actor::Node(id));
            }
        }
        places
    }

    /// Sites in which no node was told to run a step.
    pub(super) fn without_node<'a>(sight: &Sight<'a>, step: StepRef, lane: Option<LaneIndex>) -> BTreeSet<&'a Name> {
        let site = |actor: Actor| actor.node().and_then(|node| sight.site(node));
        let had: BTreeSet<&Name> = sight.state.runs_of(step).filter_map(|(actor, _)| site(actor)).collect();
        let sites = sight.live_in(lane).filter_map(|(id, _)| sight.site(id));
        sites.filter(|site| !had.contains(site)).collect()
    }

    /// Once in all lanes together.
    fn coordinator(sight: &Sight<'_>, step: StepRef) -> Self {
        let run = sight.state.runs.get(&(step, Actor::Coordinator));
        let free = if run.is_none() { vec![Actor::Coordinator] } else { Vec::new() };
        Self { done: run.is_some_and(Run::is_done), free }
    }
}

impl<'a> Sight<'a> {
    /// Nodes that take part: those of a lane, or all.
    pub(super) fn live_in(&self, lane: Option<LaneIndex>) -> Box<dyn Iterator<Item = (NodeId, &'a Node)> + 'a> {
        let state = self.state;
        match lane {
            None => Box::new(state.live_nodes()),
            Some(lane) => {
                let nodes = self.course.nodes(lane).iter();
                let node = move |id: &NodeId| Some((*id, state.nodes.get(id).filter(|node| node.is_live())?));
                Box::new(nodes.filter_map(node))
            }
        }
    }
}
