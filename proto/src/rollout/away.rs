//! Nodes that are away: what becomes of them after a while, and how one that returns catches up.
//!
//! A node that is behind takes part, and nobody waits for it. When it is back and has its packages, it runs each step that
//! its lane has left, in order; then it goes on with its lane. Steps on a site or the coordinator are not its to run.

use super::course::step_after;
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
    let gate_open = sight.state.times.gate_opened.is_some();
    let may_go_on = |id: NodeId, node: &Node| (node.is_ready() && sight.is_open(id)) || !gate_open;
    let is_back = |id: NodeId, node: &Node| sight.is_online(Actor::Node(id)) && may_go_on(id, node);
    let back = sight.state.behind_nodes().filter(|(id, node)| is_back(*id, node));
    back.filter_map(|(id, _)| next_missed(sight, id)).collect()
}

fn next_missed(sight: &Sight<'_>, node: NodeId) -> Option<Change> {
    let actor = Actor::Node(node);
    let until = match sight.state.lanes[sight.course.lane_of(node).index()].stand {
        LaneStand::Pending => None,
        LaneStand::At(step) => Some(step),
        LaneStand::Over => Some(StepIndex(u16::MAX)),
    };
    let mut last = None;
    while let Some(index) = step_after(sight.manifest, last).filter(|index| until.is_some_and(|until| *index < until)) {
        last = Some(index);
        let step = StepRef { phase: Phase::Steps, index };
        if sight.manifest.step(step).is_none_or(|step| step.on != On::Node) {
            continue;
        }
        match sight.state.runs.get(&(step, actor)) {
            None => return Some(Change::Ordered { step, attempt: 1, actors: vec![actor] }),
            Some(run) if !run.is_done() => return None,
            Some(_) => {}
        }
    }
    Some(Change::CaughtUp { node })
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
