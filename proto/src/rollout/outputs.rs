//! What steps wrote for later ones, as far as the coordinator keeps it: what others see, and what people may look at.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Rollout;
use super::input::{Actor, Failure, StepOutcome};
use super::record::Change;
use super::sight::Sight;
use super::state::Run;
use crate::id::NodeId;
use crate::limits::{OUTPUTS_KEPT_BYTES_MAX, SHARED_OUTPUTS_BYTES_MAX};
use crate::manifest::{On, Phase, StepRef};
use crate::outputs::{self, ByStep, Outputs};

/// The outputs of the last attempts: those that others see, and those that are kept to be looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Written {
    shared: Kept,
    own: Kept,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Kept {
    by_run: BTreeMap<(StepRef, Actor), Outputs>,
    bytes: u64,
}

impl Kept {
    fn insert(&mut self, key: (StepRef, Actor), outputs: Outputs) {
        self.remove(key);
        self.bytes += outputs::bytes(&outputs);
        self.by_run.insert(key, outputs);
    }

    fn remove(&mut self, key: (StepRef, Actor)) {
        self.bytes -= self.by_run.remove(&key).map_or(0, |before| outputs::bytes(&before));
    }
}

impl Written {
    pub(super) fn insert(&mut self, step: StepRef, actor: Actor, shared: bool, outputs: Outputs) {
        let kept = if shared { &mut self.shared } else { &mut self.own };
        kept.insert((step, actor), outputs);
    }

    /// Another attempt begins.
    pub(super) fn remove(&mut self, step: StepRef, actor: Actor) {
        self.shared.remove((step, actor));
        self.own.remove((step, actor));
    }

    pub(super) fn of(&self, step: StepRef, actor: Actor) -> Option<&Outputs> {
        self.shared.by_run.get(&(step, actor)).or_else(|| self.own.by_run.get(&(step, actor)))
    }
}

/// What follows from an attempt's outputs: they are kept, or not for lack of room; where others were to see them, its step
/// has failed then.
pub(super) fn wrote(sight: &Sight<'_>, (step, actor): (StepRef, Actor), run: &Run, outputs: Outputs) -> Option<Change> {
    let attempt = run.attempt;
    if step.phase == Phase::After || run.outcome.is_some() || sight.state.written.of(step, actor) == Some(&outputs) {
        return None;
    }
    let shared = sight.manifest.step(step).is_some_and(|step| matches!(step.on, On::Site | On::Coordinator));
    let written = &sight.state.written;
    let (kept, room) = match shared {
        true => (&written.shared, SHARED_OUTPUTS_BYTES_MAX),
        false => (&written.own, OUTPUTS_KEPT_BYTES_MAX),
    };
    let fits = outputs::is_bounded(&outputs) && kept.bytes + outputs::bytes(&outputs) <= room;
    match fits {
        true => Some(Change::Wrote { actor, step, attempt, shared, outputs }),
        false if shared => {
            let cause =
                format!("$SHOAL_OUTPUT: steps on sites and the coordinator hand on at most {room} bytes in all");
            let outcome = StepOutcome::Failed(Failure::Cause(cause));
            Some(Change::Ended { actor, step, attempt, outcome })
        }
        false => None,
    }
}

impl Rollout {
    /// What steps on the coordinator and on a node's site wrote, for its later steps; `None` as long as none wrote anything.
    pub fn outputs_for(&self, node: NodeId) -> Option<ByStep> {
        let shared = &self.state.written.shared.by_run;
        if shared.is_empty() {
            return None;
        }
        let sight = self.sight(None, self.soft.last);
        let seen = |actor: Actor| actor.node().is_none_or(|other| sight.site(other) == sight.site(node));
        let done = |key| sight.state.runs.get(key).is_some_and(Run::is_done);
        let shared = shared.iter().filter(|(key, _)| seen(key.1) && done(key));
        Some(shared.map(|((step, _), outputs)| (*step, outputs.clone())).collect())
    }
}
