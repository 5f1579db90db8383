//! What a decision looks at: the journaled state, and who is connected since when.
//!
//! [`Soft`] is not journaled. After a restart nobody is connected, and clocks that count from an event in it start again:
//! a straggler may get up to twice its time, never less.

use std::collections::{BTreeMap, BTreeSet};

use super::Member;
use super::input::{Actor, StepOutcome};
use super::state::{Node, Run, Stand, State};
use crate::id::NodeId;
use crate::limits::{ABANDON_AFTER, ATTEMPTS_MAX, UNKNOWN_RERUNS_MAX};
use crate::manifest::{Manifest, OnFailure, Step, StepRef, Stragglers};
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
    online: BTreeSet<NodeId>,
    /// When nodes went away; the others that are not connected are away since the first decision.
    away: BTreeMap<NodeId, Time>,
}

impl Soft {
    /// Time has passed, and perhaps a node came or went.
    pub(super) fn advance(&mut self, now: Time, presence: Option<(NodeId, bool)>, acquiring: bool) {
        self.since.get_or_insert(now);
        self.last = self.last.max(now);
        if acquiring {
            self.acquire_since.get_or_insert(now);
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
}

/// All that a decision depends on.
#[derive(Clone, Copy)]
pub(super) struct Sight<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) members: &'a BTreeMap<NodeId, Member>,
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

    /// How many nodes the gate takes.
    pub(super) fn needed(&self) -> usize {
        self.manifest.gate.quorum.needed(self.state.live)
    }

    /// Nodes that take part and lack packages.
    pub(super) fn stragglers(self) -> impl Iterator<Item = (NodeId, &'a Node)> {
        self.state.live_nodes().filter(|(_, node)| !node.is_ready())
    }

    /// What becomes of a run; nothing while it is in flight, done or given up.
    pub(super) fn verdict(&self, step: StepRef, actor: Actor, run: &Run) -> Option<Verdict> {
        let ended = run.stand == Stand::Ended && !run.is_done() && self.state.is_live(actor);
        let outcome = run.outcome.as_ref().filter(|_| ended)?;
        let step = self.manifest.step(step)?;
        Some(verdict(outcome, run.attempt, step))
    }

    /// Runs of the current step that wait for an operator's answer.
    pub(super) fn asking(self) -> impl Iterator<Item = (StepRef, Actor, &'a Run)> {
        let sight = self;
        let opened = self.state.opened.filter(|_| self.state.closing.is_none()).into_iter();
        let runs = opened.flat_map(move |step| sight.state.runs_of(step).map(move |(actor, run)| (step, actor, run)));
        runs.filter(move |(step, actor, run)| sight.verdict(*step, *actor, run) == Some(Verdict::Ask))
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
