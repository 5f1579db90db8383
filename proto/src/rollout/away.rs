//! Nodes that are away: what becomes of them after a while, and how one that returns catches up.
//!
//! A node that is behind takes part, and nobody waits for it. When it is back and has its packages, it runs each step that
//! its lane has left, in order; then it goes on with its lane. A step `on: site` is its to run where no node of its site was
//! told to, since the lane passed it without one: it, or another that is behind at the same step, is asked as others are.
//! Steps on the coordinator are not.

use std::collections::BTreeMap;

use super::course::step_after;
use super::election::{self, Had};
use super::input::Actor;
use super::next::fail;
use super::record::{Change, Exclusion};
use super::sight::Sight;
use super::state::{LaneStand, Node};
use crate::id::{NodeId, StepIndex};
use crate::manifest::{Offline, On, Phase, StepRef};
use crate::time::Time;

/// What becomes of nodes that are away for too long.
pub(super) fn overdue(sight: &Sight<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    for (node, at) in sight.overdue_at() {
        if at > sight.now {
            continue;
        }
        let behind = sight.state.nodes.get(&node).is_some_and(|node| node.behind);
        changes.push(match sight.manifest.offline {
            Offline::FailAfter(_) => return vec![fail(sight.describe_away(node))],
            Offline::CatchUp { .. } if !behind => Change::Behind { node },
            _ => Change::Excluded { node, why: Exclusion::Offline },
        });
    }
    changes
}

/// What nodes that are back have missed.
pub(super) fn catch_up(sight: &Sight<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    // Of several of a site, who was asked longest ago or never.
    let mut of_sites = BTreeMap::new();
    for node in back(sight) {
        match missed(sight, node) {
            Missed::Nothing => changes.push(Change::CaughtUp { node }),
            Missed::Own(step) => changes.push(Change::Ordered { step, attempt: 1, actors: vec![Actor::Node(node)] }),
            Missed::OfSite(step) if !election::is_asked(sight, step, node) => {
                let turn = (sight.soft.asked_before(step, node), node);
                let best = of_sites.entry((step, sight.site(node))).or_insert(turn);
                *best = turn.min(*best);
            }
            Missed::OfSite(_) | Missed::Waits => {}
        }
    }
    let elected = |((step, _), (_, node))| Change::Elected { step, nodes: vec![node] };
    changes.extend(of_sites.into_iter().map(elected));
    changes
}

/// Whether another node that is behind could be asked about a step in the place of this one.
pub(super) fn others(sight: &Sight<'_>, step: StepRef, node: NodeId) -> bool {
    let of_site = |other: &NodeId| *other != node && sight.site(*other) == sight.site(node);
    back(sight).filter(of_site).any(|other| missed(sight, other) == Missed::OfSite(step))
}

/// Nodes that are behind and can go on.
fn back(sight: &Sight<'_>) -> impl Iterator<Item = NodeId> {
    let gate_open = sight.state.times.gate_opened.is_some();
    let may_go_on = move |id: NodeId, node: &Node| (node.is_ready() && sight.is_open(id)) || !gate_open;
    let is_back = move |id: NodeId, node: &Node| sight.is_online(Actor::Node(id)) && may_go_on(id, node);
    sight.state.behind_nodes().filter(move |(id, node)| is_back(*id, node)).map(|(id, _)| id)
}

/// What a node that is behind has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missed {
    Nothing,
    /// What is under way, here or elsewhere in its site.
    Waits,
    /// A step that it runs like the others.
    Own(StepRef),
    /// A step that no node of its site was told to run.
    OfSite(StepRef),
}

fn missed(sight: &Sight<'_>, node: NodeId) -> Missed {
    let until = match sight.state.lanes[sight.course.lane_of(node).index()].stand {
        LaneStand::Pending => None,
        LaneStand::At(step) => Some(step),
        LaneStand::Over => Some(StepIndex(u16::MAX)),
    };
    let mut last = None;
    while let Some(index) = step_after(sight.manifest, last).filter(|index| until.is_some_and(|until| *index < until)) {
        last = Some(index);
        let step = StepRef { phase: Phase::Steps, index };
        match sight.manifest.step(step).map(|step| step.on) {
            Some(On::Node) => match sight.state.runs.get(&(step, Actor::Node(node))) {
                None => return Missed::Own(step),
                Some(run) if !run.is_done() => return Missed::Waits,
                Some(_) => {}
            },
            Some(On::Site) => match election::had(sight, step, node) {
                Had::No => return Missed::OfSite(step),
                Had::UnderWay => return Missed::Waits,
                Had::Over => {}
            },
            Some(On::Coordinator | On::Always) | None => {}
        }
    }
    Missed::Nothing
}

impl Sight<'_> {
    /// Nodes that are away, have something to do, and when that is too long.
    pub(super) fn overdue_at(&self) -> impl Iterator<Item = (NodeId, Time)> {
        let limits = match self.manifest.offline {
            Offline::Wait => None,
            Offline::SkipAfter(after) | Offline::FailAfter(after) => Some((after, after)),
            Offline::CatchUp { after, until } => Some((after, until)),
        };
        let began = self.state.times.acquire_began.is_some();
        let limits = limits.filter(|_| began && !self.all_online());
        let nodes = limits.into_iter().flat_map(|limits| self.state.live_nodes().map(move |node| (limits, node)));
        nodes
            .filter(|(_, (id, node))| !self.is_online(Actor::Node(*id)) && self.has_to_do(*id, node))
            .map(|((after, until), (id, node))| (id, self.away_for(id, if node.behind { until } else { after })))
    }

    /// Whether it matters for how long nodes are away.
    pub(super) fn counts_away(&self) -> bool {
        self.manifest.offline != Offline::Wait
    }

    fn has_to_do(&self, id: NodeId, node: &Node) -> bool {
        let lane = &self.state.lanes[self.course.lane_of(id).index()];
        let steps = step_after(self.manifest, None).is_some() && !self.stage_only;
        node.behind || !node.is_ready() || (steps && lane.stand != LaneStand::Over)
    }

    fn describe_away(&self, node: NodeId) -> String {
        let name = self.members.get(&node).map_or_else(|| node.short(), |member| member.name.to_string());
        format!("node `{name}` was offline for too long")
    }
}
