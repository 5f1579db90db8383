//! What a decision looks at: the journaled state, and who is connected since when.
//!
//! [`Soft`] is not journaled. Within a process, waits are measured by its own time, whatever becomes of the clock. After a
//! restart nobody is connected, and what passed of a wait before counts as [`Soft::resumed`] says: by the clock, from the
//! record of what the wait began with. A clock that was set back meanwhile makes a wait longer, but not longer than from its
//! beginning; one that was set forward makes it shorter by as much, as if the coordinator had been away for so long.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Member;
use super::course::Course;
use super::effect::Effect;
use super::input::{Actor, Now, StepOutcome};
use super::state::{Node, Run, Stand, State};
use super::when::When;
use crate::id::{Name, NodeId, WaveIndex};
use crate::limits::{
    ABANDON_AFTER, ATTEMPTS_MAX, BACKOFF_MAX, OFFER_WAIT, OFFER_WAIT_MAX, TEMPFAIL_RERUNS_MAX, UNKNOWN_RERUNS_MAX,
};
use crate::manifest::{Manifest, On, OnFailure, Step, StepRef, Stragglers};
use crate::time::{Time, WallTime};

/// What is forgotten by a restart.
#[derive(Clone, Debug, Default)]
pub(super) struct Soft {
    /// When the first decision was made.
    pub(super) since: Option<Time>,
    /// When the last was.
    pub(super) last: Now,
    /// When `acquire` began, or the end of the last pause was.
    acquire_since: Option<Moment>,
    /// Since when runs wait for what becomes of them.
    trouble: BTreeMap<(StepRef, Actor), Moment>,
    /// Nodes that were asked about steps `on: site` which somebody is still asked about.
    asked: BTreeMap<(StepRef, NodeId), Asked>,
    /// The last wave that is through, and since when.
    baking: Option<(WaveIndex, Moment)>,
    /// First attempts that nodes were told on the connections that they have, and did not report anything of; in a deployment
    /// that expires.
    told: BTreeSet<(StepRef, NodeId)>,
    online: BTreeSet<NodeId>,
    /// When nodes went away; the others that are not connected are away since the first decision.
    away: BTreeMap<NodeId, Moment>,
}

/// A node that was asked whether it can run a step for its site.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// When it was, the last time.
    since: Time,
    times: u32,
    /// Whether its answer is awaited.
    awaited: bool,
}

/// When a wait began: in this process, or before it and so much of it had passed then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    time: Time,
    passed: Duration,
}

impl Moment {
    fn at(time: Time) -> Self {
        Self { time, passed: Duration::ZERO }
    }

    /// When a wait of `span` that began then is over.
    fn after(self, span: Duration) -> Time {
        self.time + span.saturating_sub(self.passed)
    }
}

impl Soft {
    /// As it is when a process goes on with what the records of an earlier one say.
    pub(super) fn resumed(state: &State, now: Now) -> Self {
        let moment = |began: WallTime| Moment { time: now.time, passed: now.wall.since(began) };
        let acquiring = state.times.acquire_began.filter(|_| !state.paused);
        let trouble = state.troubled.iter().filter_map(|key| Some((*key, moment(state.runs.get(key)?.ended?))));
        let through = state.wave().and_then(|wave| Some((wave, moment(state.waves.get(wave.index())?.ended_at?))));
        Self {
            since: None,
            last: now,
            acquire_since: acquiring.map(|began| moment(began.max(state.resumed.unwrap_or(began)))),
            trouble: trouble.collect(),
            // Nobody is connected, so that whoever was asked is lost.
            asked: BTreeMap::new(),
            baking: through,
            told: BTreeSet::new(),
            online: BTreeSet::new(),
            away: state.away.iter().map(|(node, since)| (*node, moment(*since))).collect(),
        }
    }

    /// Time has passed, and perhaps a node came or went.
    pub(super) fn advance(&mut self, now: Now, presence: Option<(NodeId, bool)>, state: &State) {
        self.last = Now { time: self.last.time.max(now.time), wall: now.wall };
        let now = now.time;
        self.since.get_or_insert(now);
        if state.times.acquire_began.is_none() || state.paused {
            self.acquire_since = None;
        } else {
            self.acquire_since.get_or_insert(Moment::at(now));
        }
        self.trouble.retain(|key, _| state.troubled.contains(key));
        for key in &state.troubled {
            self.trouble.entry(*key).or_insert(Moment::at(now));
        }
        self.note_asked(now, state);
        let through = state.wave().filter(|wave| state.waves[wave.index()].ended);
        if let Some(wave) = through.filter(|wave| self.baking.is_none_or(|(of, _)| of != *wave)) {
            self.baking = Some((wave, Moment::at(now)));
        }
        match presence {
            Some((node, true)) => {
                self.online.insert(node);
                self.away.remove(&node);
            }
            Some((node, false)) => {
                self.online.remove(&node);
                self.away.entry(node).or_insert(Moment::at(now));
            }
            None => {}
        }
    }

    /// Orders are given, and perhaps a connection begins or ends with that.
    pub(super) fn note_told(&mut self, effects: &[Effect], presence: Option<(NodeId, bool)>, state: &State) {
        self.told.retain(|(_, node)| presence.is_none_or(|(changed, _)| changed != *node));
        for effect in effects {
            // What is said to a node that is away is lost.
            match effect {
                Effect::RunStep { actor: Actor::Node(node), step, attempt: 1, .. } if self.online.contains(node) => {
                    self.told.insert((*step, *node));
                }
                _ => {}
            }
        }
        let is_open = |run: &Run| run.stand == Stand::Ordered;
        self.told.retain(|(step, node)| state.runs.get(&(*step, Actor::Node(*node))).is_some_and(is_open));
    }

    fn note_asked(&mut self, now: Time, state: &State) {
        let steps: BTreeSet<StepRef> = state.elected.iter().map(|(step, _)| *step).collect();
        self.asked.retain(|(step, _), _| steps.contains(step));
        for (key, asked) in &mut self.asked {
            asked.awaited &= state.elected.contains(key);
        }
        for key in &state.elected {
            let asked = self.asked.entry(*key).or_insert(Asked { since: now, times: 0, awaited: false });
            if !asked.awaited {
                *asked = Asked { since: now, times: asked.times.saturating_add(1), awaited: true };
            }
        }
    }

    /// When a node was asked about a step, those last whose answer is awaited, or was when this decision began.
    pub(super) fn asked_before(&self, step: StepRef, node: NodeId) -> Option<(bool, Time)> {
        self.asked.get(&(step, node)).map(|asked| (asked.awaited, asked.since))
    }

    /// Who was asked, the last one last.
    #[cfg(test)]
    pub(super) fn asked_in_order(&self) -> Vec<(bool, (StepRef, NodeId))> {
        let mut asked: Vec<_> = self.asked.iter().map(|(key, asked)| (asked.since, asked.awaited, *key)).collect();
        asked.sort_unstable();
        asked.into_iter().map(|(_, awaited, key)| (awaited, key)).collect()
    }

    /// Who was told to start what, and did not report it.
    #[cfg(test)]
    pub(super) fn told_in_order(&self) -> Vec<(StepRef, NodeId)> {
        self.told.iter().copied().collect()
    }

    /// When a wave is over that bakes for `bake`, if it does.
    pub(super) fn baked(&self, wave: WaveIndex, bake: Duration) -> Option<Time> {
        self.baking.filter(|(of, _)| *of == wave).map(|(_, since)| since.after(bake))
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
    /// It fails, and goes back to what was before.
    RollBack,
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
    pub(super) when: When,
    pub(super) state: &'a State,
    pub(super) soft: &'a Soft,
    /// A node that comes or goes with this very input.
    pub(super) presence: Option<(NodeId, bool)>,
    pub(super) now: Time,
    pub(super) wall: WallTime,
}

impl<'a> Sight<'a> {
    /// Whether nothing starts until an operator resumes it.
    pub(super) fn is_paused(&self) -> bool {
        self.state.paused && self.state.closing.is_none()
    }

    /// Whether an actor can be reached.
    pub(super) fn is_online(&self, actor: Actor) -> bool {
        let Some(node) = actor.node() else { return true };
        match self.presence {
            Some((changed, online)) if changed == node => online,
            _ => self.soft.online.contains(&node),
        }
    }

    /// Whether a node was told to start a first attempt, on the connection that it has.
    pub(super) fn was_told(&self, step: StepRef, node: NodeId) -> bool {
        let connected = self.presence.is_none_or(|(changed, _)| changed != node);
        connected && self.soft.told.contains(&(step, node))
    }

    /// When a node that is not connected is away for `span`.
    pub(super) fn away_for(&self, node: NodeId, span: Duration) -> Time {
        let goes = (self.presence == Some((node, false))).then_some(self.now);
        let since = || goes.or(self.soft.since).unwrap_or(self.now) + span;
        self.soft.away.get(&node).map_or_else(since, |away| away.after(span))
    }

    /// Whether every node that ever came is connected, and every target node came.
    pub(super) fn all_online(&self) -> bool {
        self.soft.online.len() == self.state.nodes.len() && self.presence.is_none_or(|(_, online)| online)
    }

    /// When a deployment that is ending waits no longer for an actor, if that is not connected.
    pub(super) fn abandon_at(&self, actor: Actor) -> Option<Time> {
        let node = actor.node().filter(|_| !self.is_online(actor))?;
        Some(self.away_for(node, ABANDON_AFTER))
    }

    /// Until when a node that is asked about a step may answer, if there is another to ask: each time that it did not, it
    /// has twice as long.
    pub(super) fn answers_until(&self, step: StepRef, node: NodeId) -> Time {
        let asked = self.soft.asked.get(&(step, node)).filter(|asked| asked.awaited);
        let (since, times) = asked.map_or((self.now, 1), |asked| (asked.since, asked.times));
        let doubled = OFFER_WAIT.saturating_mul(2u32.saturating_pow(times.saturating_sub(1)));
        since + doubled.min(OFFER_WAIT_MAX)
    }

    /// Whether a node that is asked about a step has not answered in time.
    pub(super) fn is_silent(&self, step: StepRef, node: NodeId) -> bool {
        self.answers_until(step, node) <= self.now
    }

    /// When nodes that still lack packages are excluded, if ever.
    pub(super) fn stragglers_until(&self) -> Option<Time> {
        match self.manifest.gate.stragglers {
            Stragglers::Wait => None,
            Stragglers::ExcludeAfter(span) => {
                self.state.times.acquire_began?;
                Some(self.soft.acquire_since.map_or(self.now + span, |since| since.after(span)))
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

    /// Whether no node lacks packages or has to catch up.
    pub(super) fn all_hold_all(&self) -> bool {
        self.state.ready == self.state.live && self.state.behind == 0
    }

    /// Nodes that are waited for and lack packages.
    pub(super) fn stragglers(self) -> impl Iterator<Item = (NodeId, &'a Node)> {
        self.state.awaited_nodes().filter(|(_, node)| !node.is_ready())
    }

    /// Runs that ended otherwise than well and that something has to become of.
    pub(super) fn troubled(self) -> impl Iterator<Item = (StepRef, Actor, &'a Run)> {
        let state = self.state;
        state.troubled.iter().filter_map(move |key| Some((key.0, key.1, state.runs.get(key)?)))
    }

    /// What becomes of a troubled run.
    pub(super) fn verdict(&self, step: StepRef, actor: Actor, run: &Run) -> Verdict {
        let (Some(step), Some(outcome)) = (self.manifest.step(step), &run.outcome) else { return Verdict::Ask };
        match verdict(outcome, run, step) {
            final_one @ (Verdict::Ask | Verdict::Fail | Verdict::RollBack) => {
                // What a site or the coordinator was to do is missing for all.
                let node = actor.node().filter(|node| step.on == On::Node && self.affords(*node));
                node.map_or(final_one, Verdict::Drop)
            }
            other => other,
        }
    }

    /// When a run that has the verdict to be tried again is.
    pub(super) fn retry_at(&self, step: StepRef, actor: Actor, run: &Run) -> Time {
        let since = self.soft.trouble.get(&(step, actor)).copied().unwrap_or(Moment::at(self.now));
        let first = self.manifest.step(step).map_or(Duration::ZERO, |step| step.backoff);
        let doubled = first.saturating_mul(2u32.saturating_pow(run.attempt.saturating_sub(1)));
        since.after(doubled.min(first.max(BACKOFF_MAX)))
    }

    /// Runs that are tried again by themselves, and when.
    pub(super) fn retrying(self) -> impl Iterator<Item = (StepRef, Actor, &'a Run, Time)> {
        let going = self.state.closing.is_none() && !self.state.paused;
        let sight = self;
        let runs = self.troubled().filter(move |_| going);
        let runs = runs.filter(move |(step, actor, run)| sight.verdict(*step, *actor, run) == Verdict::Retry);
        runs.map(move |(step, actor, run)| (step, actor, run, sight.retry_at(step, actor, run)))
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
fn verdict(outcome: &StepOutcome, run: &Run, step: &Step) -> Verdict {
    let (attempt, tempfails) = (run.attempt, run.tempfails);
    let reruns_max = match outcome {
        _ if run.is_tempfail() && tempfails < step.retries.max(TEMPFAIL_RERUNS_MAX) => u32::MAX,
        _ if run.is_tempfail() => 0,
        StepOutcome::Unknown if step.idempotent => step.retries.max(UNKNOWN_RERUNS_MAX),
        StepOutcome::Unknown => 0,
        _ => tempfails.saturating_add(step.retries),
    };
    match step.on_failure {
        _ if attempt <= reruns_max && attempt < ATTEMPTS_MAX => Verdict::Retry,
        OnFailure::Pause => Verdict::Ask,
        OnFailure::Fail => Verdict::Fail,
        OnFailure::Ignore => Verdict::Accept,
        OnFailure::Rollback => Verdict::RollBack,
    }
}
