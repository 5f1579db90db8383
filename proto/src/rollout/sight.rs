//! What a decision looks at: the journaled state, and who is connected since when.
//!
//! [`Soft`] is not journaled. After a restart nobody is connected, and clocks that count from an event in it start again:
//! a straggler may get up to twice its time, and a wave bake up to twice as long, never less.

use std::collections::{BTreeMap, BTreeSet};

use super::Member;
use super::course::Course;
use super::input::{Actor, StepOutcome};
use super::state::{Node, Run, State};
use crate::id::{Name, NodeId, WaveIndex};
use crate::limits::{ABANDON_AFTER, ATTEMPTS_MAX, UNKNOWN_RERUNS_MAX};
use crate::manifest::{Manifest, On, OnFailure, Step, StepRef, Stragglers};
use crate::time::Time;

/// What is forgotten by a restart.
#[derive(Clone, Debug, Default)]
pub(super) struct Soft {
    /// When the first decision was made.
    pub(super) since: Option<Time>,
    /// When the last was.
    pub(super) last: Time,
    /// When `acquire` began, or the restart was.
    acquire_since: Option<Time>,
    /// The last wave that is through, and since when, or since the restart.
    baking: Option<(WaveIndex, Time)>,
    online: BTreeSet<NodeId>,
    /// When nodes went away; the others that are not connected are away since the first decision.
    away: BTreeMap<NodeId, Time>,
}

impl Soft {
    /// Time has passed, and perhaps a node came or went.
    pub(super) fn advance(&mut self, now: Time, presence: Option<(NodeId, bool)>, state: &State) {
        self.since.get_or_insert(now);
        self.last = self.last.max(now);
        if state.times.acquire_began.is_some() {
            self.acquire_since.get_or_insert(now);
        }
        let through = state.wave().filter(|wave| state.waves[wave.index()].ended);
        if let Some(wave) = through.filter(|wave| self.baking(*wave).is_none()) {
            self.baking = Some((wave, now));
        }
        match presence {
            Some((node, true)) => {
                self.online.insert(node);
                self.away.remove(&node);
            }
            Some((node, false)) => {
                self.online.remove(&node);
                self.away.entry(node).or_insert(now);
            }
            None => {}
        }
    }

    /// Since when a wave bakes, if it does.
    pub(super) fn baking(&self, wave: WaveIndex) -> Option<Time> {
        self.baking.filter(|(of, _)| *of == wave).map(|(_, since)| since)
    }
}

/// What becomes of a step at an actor whose last attempt did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is tried again.
    Retry,
    /// An operator is asked.
    Ask,
    /// The deployment fails.
    Fail,
    /// It counts as done.
    Accept,
    /// The deployment goes on without the node: the failure budget of its wave has room for it.
    Drop(NodeId),
}

/// All that a decision depends on.
#[derive(Clone, Copy)]
pub(super) struct Sight<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) members: &'a BTreeMap<NodeId, Member>,
    pub(super) course: &'a Course,
    pub(super) stage_only: bool,
    pub(super) state: &'a State,
    pub(super) soft: &'a Soft,
    /// A node that comes or goes with this very input.
    pub(super) presence: Option<(NodeId, bool)>,
    pub(super) now: Time,
}

impl<'a> Sight<'a> {
    /// Whether an actor can be reached.
    pub(super) fn is_online(&self, actor: Actor) -> bool {
        let Some(node) = actor.node() else { return true };
        match self.presence {
            Some((changed, online)) if changed == node => online,
            _ => self.soft.online.contains(&node),
        }
    }

    /// When a deployment that is ending waits no longer for an actor, if that is not connected.
    pub(super) fn abandon_at(&self, actor: Actor) -> Option<Time> {
        let node = actor.node().filter(|_| !self.is_online(actor))?;
        let goes = (self.presence == Some((node, false))).then_some(self.now);
        let away = self.soft.away.get(&node).copied().or(goes).or(self.soft.since);
        Some(away.unwrap_or(self.now) + ABANDON_AFTER)
    }

    /// When nodes that still lack packages are excluded, if ever.
    pub(super) fn stragglers_until(&self) -> Option<Time> {
        match self.manifest.gate.stragglers {
            Stragglers::Wait => None,
            Stragglers::ExcludeAfter(span) => {
                self.state.times.acquire_began?;
                Some(self.soft.acquire_since.unwrap_or(self.now) + span)
            }
        }
    }

    /// The site of a target node.
    pub(super) fn site(&self, node: NodeId) -> Option<&'a Name> {
        self.members.get(&node).map(|member| &member.site)
    }

    /// How many nodes the gate takes.
    pub(super) fn needed(&self) -> usize {
        self.manifest.gate.quorum.needed(self.state.live)
    }

    /// Nodes that take part and lack packages.
    pub(super) fn stragglers(self) -> impl Iterator<Item = (NodeId, &'a Node)> {
        self.state.live_nodes().filter(|(_, node)| !node.is_ready())
    }

    /// Runs that ended otherwise than well and that something has to become of.
    pub(super) fn troubled(self) -> impl Iterator<Item = (StepRef, Actor, &'a Run)> {
        let state = self.state;
        state.troubled.iter().filter_map(move |key| Some((key.0, key.1, state.runs.get(key)?)))
    }

    /// What becomes of a troubled run.
    pub(super) fn verdict(&self, step: StepRef, actor: Actor, run: &Run) -> Verdict {
        let (Some(step), Some(outcome)) = (self.manifest.step(step), &run.outcome) else { return Verdict::Ask };
        match verdict(outcome, run.attempt, step) {
            final_one @ (Verdict::Ask | Verdict::Fail) => {
                // What a site or the coordinator was to do is missing for all.
                let node = actor.node().filter(|node| step.on == On::Node && self.affords(*node));
                node.map_or(final_one, Verdict::Drop)
            }
            other => other,
        }
    }

    /// Runs that wait for an operator's answer.
    pub(super) fn asking(self) -> impl Iterator<Item = (StepRef, Actor, &'a Run)> {
        let going = self.state.closing.is_none();
        self.troubled().filter(move |(step, actor, run)| going && self.verdict(*step, *actor, run) == Verdict::Ask)
    }

    /// Nodes that gave up on a package and wait for an operator's answer.
    pub(super) fn without_package(self) -> impl Iterator<Item = (NodeId, &'a Node)> {
        let going = self.state.closing.is_none();
        self.state.live_nodes().filter(move |(_, node)| going && node.failed().is_some())
    }
}

/// An attempt whose outcome nobody saw may have had any effect: it is repeated only where the step says that this does no
/// harm (GATE).
fn verdict(outcome: &StepOutcome, attempt: u32, step: &Step) -> Verdict {
    let reruns_max = match outcome {
        StepOutcome::Unknown if step.idempotent => step.retries.max(UNKNOWN_RERUNS_MAX),
        StepOutcome::Unknown => 0,
        _ => step.retries,
    };
    match step.on_failure {
        _ if attempt <= reruns_max && attempt < ATTEMPTS_MAX => Verdict::Retry,
        OnFailure::Pause => Verdict::Ask,
        OnFailure::Fail => Verdict::Fail,
        OnFailure::Ignore => Verdict::Accept,
    }
}
