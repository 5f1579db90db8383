//! When a deployment may start and run: not before a time, not after another, and at each site in its own hours.
//!
//! - **`at`.** Everything up to the release gate goes on at once, so that packages are there when the time comes. The gate
//!   does not open before.
//! - **`expires`.** Where none of `steps` was begun by then, the deployment fails, also in a pause. Until one was begun, no
//!   order goes to nodes that are away. Where a node was lost after its order went out and before it was heard to start,
//!   nobody knows whether it began: then nothing more starts, and the node is waited for, and asked when it is back (GATE).
//!   If it says that it never started, the order is taken back. If it is excluded meanwhile, the deployment fails with the
//!   outcome of its step unknown.
//! - **Hours.** While a site is shut, outside its maintenance windows or in a freeze, none of `steps` starts on its nodes,
//!   neither again; what runs is let finish. The other nodes go on as far as the step's barrier lets them. A step on the
//!   coordinator starts while a site is open whose nodes wait for it.
//!
//! Never held up by the hours are `before_acquire`, since staging early is what they are for, and no step of it may change
//! what runs; what runs at the end, since it clears away what was begun; and rollbacks, since what they take back is broken
//! already. An operator may override them for one deployment.
//!
//! Times of day are those of the coordinator's clock when something is decided. If that is set back, what has begun stays
//! begun; what waits, waits longer. Which sites are shut is on record, so that a restart knows it before its shell says so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Why;
use super::input::Actor;
use super::next::fail;
use super::record::Change;
use super::sight::Sight;
use super::state::{LaneStand, Run, Stand};
use crate::hours::Shut;
use crate::id::{Name, NodeId};
use crate::limits::CLOCK_LOOK_MAX;
use crate::manifest::{On, Phase, StepRef};
use crate::time::{Time, WallTime};

/// When a deployment may start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct When {
    /// Its gate does not open before.
    pub at: Option<WallTime>,
    /// It fails if its steps have not begun by then.
    pub expires: Option<WallTime>,
    /// Whether an operator lets its steps start also where and when a site is shut.
    pub any_hour: bool,
}

/// Whether any of `steps` was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    No,
    /// Nodes that are away were ordered to, and may have.
    InDoubt,
    /// The same of nodes that are not waited for any more.
    Unknown,
    Yes,
}

/// What a deployment that expired says.
pub(super) fn expired(sight: &Sight<'_>) -> Option<Change> {
    match sight.begun().filter(|_| sight.is_due())? {
        Begun::No => Some(fail(format!("it expired before its steps began: {}", sight.describe_delay()))),
        Begun::Unknown => Some(fail("it expired, and nobody saw whether its steps began".to_owned())),
        Begun::InDoubt | Begun::Yes => None,
    }
}

/// Whether the time is over by which a deployment had to begin, and only nodes that are away know whether it did.
pub(super) fn is_in_doubt(sight: &Sight<'_>) -> bool {
    sight.is_due() && sight.begun() == Some(Begun::InDoubt)
}

/// Whether a node that is back is asked whether it began an attempt that it is not to start at this moment.
pub(super) fn asks_whether_begun(sight: &Sight<'_>, step: StepRef, attempt: u32) -> bool {
    step.phase == Phase::Steps && attempt == 1 && sight.when.expires.is_some()
}

/// A node says that it did not begin what it was ordered to, and it was not told so again since.
pub(super) fn not_begun(sight: &Sight<'_>, step: StepRef, actor: Actor) -> Option<Change> {
    let node = actor.node()?;
    let run = sight.state.runs.get(&(step, actor)).filter(|run| run.stand == Stand::Ordered)?;
    let asked = asks_whether_begun(sight, step, run.attempt) && !sight.was_told(step, node);
    asked.then_some(Change::NotBegun { actor, step })
}

/// The changes that it is for a deployment that these sites are shut, and no others.
pub(super) fn hours(sight: &Sight<'_>, shut: &BTreeMap<Name, Shut>) -> Vec<Change> {
    if sight.state.closing.is_some() || sight.is_any_hour() {
        return Vec::new();
    }
    let sites: BTreeSet<&Name> = sight.members.values().map(|member| &member.site).collect();
    let change = |site: &Name| match (shut.get(site), sight.state.shut.get(site)) {
        (Some(shut), known) if known != Some(shut) => Some(Change::Shut { site: site.clone(), shut: shut.clone() }),
        (None, Some(_)) => Some(Change::Opened { site: site.clone() }),
        _ => None,
    };
    sites.into_iter().filter_map(change).collect()
}

impl<'a> Sight<'a> {
    /// Until when the gate waits for its time.
    pub(super) fn early_until(&self) -> Option<WallTime> {
        let waits = self.state.times.gate_opened.is_none() && !self.state.hurried && !self.stage_only;
        self.when.at.filter(|at| waits && *at > self.wall)
    }

    /// Whether steps start at any hour.
    pub(super) fn is_any_hour(&self) -> bool {
        self.said_any_hour() || self.stage_only || self.manifest.rollback.is_some()
    }

    /// Whether an operator said so, the last time.
    pub(super) fn said_any_hour(&self) -> bool {
        self.state.any_hour.unwrap_or(self.when.any_hour)
    }

    /// Whether that is why.
    pub(super) fn is_overridden(&self) -> bool {
        self.said_any_hour() && !self.stage_only && self.manifest.rollback.is_none()
    }

    /// Whether a node's site is open.
    pub(super) fn is_open(&self, node: NodeId) -> bool {
        self.state.shut.is_empty()
            || self.is_any_hour()
            || self.site(node).is_none_or(|site| !self.state.shut.contains_key(site))
    }

    /// Whether an actor may start a step at this hour.
    pub(super) fn may_start(&self, step: StepRef, actor: Actor) -> bool {
        if step.phase != Phase::Steps || self.state.shut.is_empty() {
            return true;
        }
        match actor {
            Actor::Node(node) => self.is_open(node),
            Actor::Coordinator => {
                let at = |lane: &super::state::Lane| lane.stand == LaneStand::At(step.index);
                let lanes = self.state.lanes.iter().zip(0..).filter(|(lane, _)| at(lane));
                let mut nodes = lanes.flat_map(|(_, lane)| self.live_in(Some(crate::id::LaneIndex(lane)))).peekable();
                nodes.peek().is_none() || nodes.any(|(node, _)| self.is_open(node))
            }
        }
    }

    /// The sites that are shut and at which steps are still to start.
    pub(super) fn held_sites(&self) -> impl Iterator<Item = (&'a Name, &'a Shut)> + use<'a> {
        let going = self.state.closing.is_none() && self.state.times.gate_opened.is_some() && !self.is_any_hour();
        let has_steps = self.manifest.steps.iter().any(|step| step.on != On::Always);
        let sight = *self;
        let waits = move |site: &Name| {
            sight.state.live_nodes().any(|(id, node)| {
                let stand = sight.state.lanes[sight.course.lane_of(id).index()].stand;
                sight.site(id) == Some(site) && (node.behind || stand != LaneStand::Over)
            })
        };
        let shut = self.state.shut.iter().filter(move |_| going && has_steps);
        shut.filter(move |(site, _)| waits(site))
    }

    /// Whether the time is over by which a deployment has to begin.
    fn is_due(&self) -> bool {
        self.when.expires.is_some_and(|expires| expires <= self.wall) && !self.stage_only
    }

    /// Whether it may expire, since no step was ordered yet.
    pub(super) fn may_expire(&self) -> bool {
        self.begun() == Some(Begun::No)
    }

    /// Whether any of `steps` was begun, as far as is known; none if that is of no matter.
    fn begun(&self) -> Option<Begun> {
        self.when.expires?;
        let step = |phase| StepRef { phase, index: crate::id::StepIndex(0) };
        let runs = self.state.runs.range((step(Phase::Steps), Actor::Coordinator)..);
        let mut begun = Begun::No;
        for ((step, actor), run) in runs.take_while(|((step, _), _)| step.phase == Phase::Steps) {
            begun = match self.begun_by(*step, *actor, run) {
                Begun::Yes => return Some(Begun::Yes),
                Begun::InDoubt => Begun::InDoubt,
                other if begun == Begun::No => other,
                _ => begun,
            };
        }
        Some(begun)
    }

    fn begun_by(&self, step: StepRef, actor: Actor, run: &Run) -> Begun {
        let told = actor.node().is_none_or(|node| self.was_told(step, node));
        match run.stand {
            _ if run.attempt > 1 || run.started.is_some() || run.outcome.is_some() => Begun::Yes,
            Stand::Ordered if told => Begun::Yes,
            Stand::Ordered => Begun::InDoubt,
            Stand::Abandoned => Begun::Unknown,
            Stand::Started | Stand::Ended | Stand::Accepted => Begun::Yes,
        }
    }

    /// What a deployment that has not begun waits for.
    fn describe_delay(&self) -> String {
        let state = self.state;
        let held = self.held_sites().next();
        if state.paused {
            "an operator paused it".to_owned()
        } else if state.times.acquire_began.is_none() {
            "its steps before `acquire` were not done".to_owned()
        } else if state.ready < self.needed() {
            format!("{} of {} nodes had their packages", state.ready, self.needed())
        } else if self.manifest.gate.manual && !state.released {
            "nobody had released it".to_owned()
        } else if let Some((site, _)) = held {
            format!("site `{site}` was outside its maintenance windows or frozen")
        } else {
            "no node was there to begin".to_owned()
        }
    }

    /// When the times of day that it waits for come, by the process's own time. The clock may be set meanwhile: so it is
    /// looked at every [`CLOCK_LOOK_MAX`].
    pub(super) fn times_of_day(&self) -> impl Iterator<Item = (Time, Why)> + use<> {
        let at = self.early_until().map(|at| (at, Why::At));
        let begins = !self.stage_only && self.state.closing.is_none() && self.state.finished.is_none();
        let expires = self.when.expires.filter(|expires| begins && *expires > self.wall);
        let expires = expires.filter(|_| self.begun() != Some(Begun::Yes));
        let expires = expires.map(|expires| (expires, Why::Expires));
        let (now, wall) = (self.now, self.wall);
        let look = |at: WallTime| now + at.since(wall).clamp(Duration::from_millis(1), CLOCK_LOOK_MAX);
        let moments: Vec<_> = at.into_iter().chain(expires).map(|(at, why)| (look(at), why)).collect();
        moments.into_iter()
    }

    /// Whether a time of day has come that had not when it was last decided, at `before`.
    pub(super) fn time_came(&self, before: WallTime) -> bool {
        let came = |at: &WallTime| before < *at && *at <= self.wall;
        self.when.at.iter().chain(&self.when.expires).any(came)
    }
}
