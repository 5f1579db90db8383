//! A step's turn: who can run it and has not been told to, and what becomes of attempts that ended otherwise than well.

use std::collections::BTreeMap;

use super::election;
use super::input::Actor;
use super::next::{describe, fail};
use super::record::{Change, End, Exclusion};
use super::sight::{Sight, Verdict};
use super::state::{Node, Run};
use crate::id::{LaneIndex, NodeId};
use crate::manifest::{On, Pace, Phase, Share, StepRef};

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
            Verdict::RollBack => {
                let end = End::Rollback { cause: describe(sight, step, actor, run) };
                return Judged { changes: vec![Change::Closing { end }], asked: false };
            }
            Verdict::Drop(node) => {
                // The budget is counted anew after each.
                let changes = vec![Change::Excluded { node, why: Exclusion::Failed }];
                return Judged { changes, asked: false };
            }
            Verdict::Accept => settled.push(Change::Accepted { actor, step }),
            Verdict::Retry if sight.retry_at(step, actor, run) > sight.now || !sight.may_start(step, actor) => {}
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

/// How the nodes of a lane stand to a step.
#[derive(Default)]
struct Counts {
    nodes: usize,
    in_flight: usize,
    /// Whether a failure waits to be answered or tried again.
    troubled: bool,
    /// Whether a node has no order and could not start at once.
    waits: bool,
}

impl Counts {
    fn add(&mut self, run: Option<&Run>, can_start: bool) {
        self.nodes += 1;
        self.in_flight += usize::from(run.is_some_and(Run::in_flight));
        self.troubled |= run.is_some_and(Run::is_troubled);
        self.waits |= run.is_none() && !can_start;
    }

    /// How many more may start in a window: none next to a failure.
    fn room(&self, window: Share) -> usize {
        let window = window.rounded_up(self.nodes).max(1);
        if self.troubled { 0 } else { window.saturating_sub(self.in_flight) }
    }
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
            Some(On::Site) => election::places(sight, step, lane),
            Some(On::Coordinator) => Self::coordinator(sight, step),
            // At the end.
            Some(On::Always) | None => Self { done: true, free: Vec::new() },
        }
    }

    /// The first attempts that can be ordered; on sites, who can be asked.
    pub(super) fn first(self, sight: &Sight<'_>, step: StepRef) -> Option<Change> {
        if self.free.is_empty() {
            return None;
        }
        let on_site = sight.manifest.step(step).is_some_and(|step| step.on == On::Site);
        Some(match on_site {
            true => Change::Elected { step, nodes: self.free.into_iter().filter_map(Actor::node).collect() },
            false => Change::Ordered { step, attempt: 1, actors: self.free },
        })
    }

    fn nodes(sight: &Sight<'_>, step: StepRef, lane: Option<LaneIndex>) -> Self {
        let mut places = Self { done: true, free: Vec::new() };
        let mut lane_nodes = Counts::default();
        for (id, node) in sight.live_in(lane) {
            let actor = Actor::Node(id);
            let run = sight.state.runs.get(&(step, actor));
            places.done &= run.is_some_and(Run::is_done);
            let able = run.is_none() && (step.phase == Phase::Before || node.is_ready() && sight.is_open(id));
            if able {
                places.free.push(actor);
            }
            lane_nodes.add(run, able && sight.is_online(actor));
        }
        match sight.pace(step) {
            // Of what was ordered and may not have begun, nobody knows whether it expired.
            Pace::Each if step.phase == Phase::Steps && sight.may_expire() => {
                places.free.retain(|actor| sight.is_online(*actor))
            }
            Pace::Each => {}
            Pace::Window(window) => {
                places.free.retain(|actor| sight.is_online(*actor));
                places.free.truncate(lane_nodes.room(window));
            }
            Pace::Together if lane_nodes.waits => places.free.clear(),
            Pace::Together => {}
        }
        places
    }

    /// Once in all lanes together.
    fn coordinator(sight: &Sight<'_>, step: StepRef) -> Self {
        let run = sight.state.runs.get(&(step, Actor::Coordinator));
        let begins = run.is_none() && sight.may_start(step, Actor::Coordinator);
        let free = if begins { vec![Actor::Coordinator] } else { Vec::new() };
        Self { done: run.is_some_and(Run::is_done), free }
    }
}

impl<'a> Sight<'a> {
    /// On how many nodes a step runs at a time.
    pub(super) fn pace(&self, step: StepRef) -> Pace {
        self.manifest.step(step).map_or(Pace::Each, |step| step.pace)
    }

    /// The next node of a window in which one is done.
    fn next_in_window(&self, step: StepRef, lane: LaneIndex) -> Option<Actor> {
        let mut waiting = self.live_in(Some(lane)).filter(|(id, node)| node.is_ready() && self.is_open(*id));
        let is_next = |actor: Actor| !self.state.runs.contains_key(&(step, actor)) && self.is_online(actor);
        waiting.find(|(id, _)| is_next(Actor::Node(*id))).map(|(id, _)| Actor::Node(id))
    }

    /// What follows from an attempt that ended well, where that can be told without a look at all else.
    pub(super) fn follows_success(&self, step: StepRef, actor: Actor) -> Follows {
        if self.is_for_who_is_behind(step, actor) {
            return Follows::Unknown;
        }
        let others = self.others_in_flight(step, actor);
        let quiet = if others { Follows::Nothing } else { Follows::Unknown };
        match (self.pace(step), actor) {
            (Pace::Window(_), _) if self.state.closing.is_some() || self.state.paused => quiet,
            (Pace::Window(_), _) if !self.state.troubled.is_empty() => Follows::Unknown,
            (Pace::Window(window), Actor::Node(node)) => {
                let lane = self.course.lane_of(node);
                let room = window.rounded_up(self.live_in(Some(lane)).count()).max(1);
                let in_flight = self.state.lanes[lane.index()].in_flight;
                let next = self.next_in_window(step, lane).filter(|_| in_flight <= room);
                next.map_or(quiet, Follows::Start)
            }
            _ => quiet,
        }
    }
}

impl Sight<'_> {
    /// Whether a node that is behind may go on with the end of this run: its own, or that of its site.
    fn is_for_who_is_behind(&self, step: StepRef, actor: Actor) -> bool {
        let own = || actor.node().and_then(|node| self.state.nodes.get(&node)).is_some_and(|node| node.behind);
        let of_site = || self.manifest.step(step).is_some_and(|step| step.on == On::Site);
        self.state.behind > 0 && (own() || of_site())
    }
}

/// What follows from a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    Nothing,
    /// The first attempt of the next in a window.
    Start(Actor),
    /// Only a look at the whole state tells.
    Unknown,
}

impl<'a> Sight<'a> {
    /// Nodes that the others wait for: those of a lane, or all.
    pub(super) fn live_in(&self, lane: Option<LaneIndex>) -> Box<dyn Iterator<Item = (NodeId, &'a Node)> + 'a> {
        let state = self.state;
        match lane {
            None => Box::new(state.awaited_nodes()),
            Some(lane) => {
                let nodes = self.course.nodes(lane).iter();
                let node = move |id: &NodeId| Some((*id, state.nodes.get(id).filter(|node| node.is_awaited())?));
                Box::new(nodes.filter_map(node))
            }
        }
    }
}
