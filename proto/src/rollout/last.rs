//! What runs at the end, whatever the end is: the steps `on: always` in their order, then the `always_after` scripts of
//! `before_acquire`, the last step's first. Each is tried once; its outcome is shown and changes nothing.

use super::input::Actor;
use super::record::Exclusion;
use super::sight::Sight;
use crate::id::StepIndex;
use crate::manifest::{On, Phase, StepRef};

/// The step or script after the one whose turn it is, that somebody has to run.
pub(super) fn following(sight: &Sight<'_>) -> Option<StepRef> {
    let opened = sight.state.opened.filter(|step| step.phase.is_last());
    let all = all(sight);
    let begin = opened.map_or(0, |opened| all.iter().take_while(|step| **step != opened).count() + 1);
    all.into_iter().skip(begin).find(|step| who(sight, *step).next().is_some())
}

fn all(sight: &Sight<'_>) -> Vec<StepRef> {
    let step = |phase, index: usize| Some(StepRef { phase, index: StepIndex(u16::try_from(index).ok()?) });
    let steps = (0..sight.manifest.steps.len()).filter_map(|index| step(Phase::Always, index));
    let scripts = (0..sight.manifest.before_acquire.len()).rev().filter_map(|index| step(Phase::After, index));
    let steps = steps.filter(|step| sight.manifest.step(*step).is_some_and(|step| step.on == On::Always));
    let scripts = scripts.filter(|step| sight.manifest.step(*step).is_some_and(|step| step.always_after.is_some()));
    steps.chain(scripts).collect()
}

/// Who runs one of them: a script, whoever was told to run its step; a step, every target node that takes part, and those
/// on which a step failed.
pub(super) fn who<'a>(sight: &Sight<'a>, step: StepRef) -> Box<dyn Iterator<Item = Actor> + 'a> {
    match step.phase {
        Phase::Always if sight.stage_only => Box::new(std::iter::empty()),
        Phase::Always => {
            let takes_part = |excluded| matches!(excluded, None | Some(Exclusion::Failed));
            let nodes = sight.state.nodes.iter().filter(move |(_, node)| takes_part(node.excluded));
            Box::new(nodes.map(|(id, _)| Actor::Node(*id)))
        }
        _ => {
            let before = StepRef { phase: Phase::Before, index: step.index };
            Box::new(sight.state.runs_of(before).map(|(actor, _)| actor))
        }
    }
}
