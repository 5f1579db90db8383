//! What steps write to `$SHOAL_OUTPUT` for later ones, and who sees it.
//!
//! | a step | what it wrote is seen by later steps |
//! | --- | --- |
//! | `on: coordinator` | everywhere |
//! | `on: site` | on the nodes of that site |
//! | `on: node`, `on: always` | on the same node |
//!
//! Later is what comes later in the manifest, be it run sooner by another node. `always_after` scripts see all, and
//! nobody sees what they write. What is seen by others is in the coordinator's journal, and goes to a node with each order to
//! run; a node's own is in its step log.

use std::collections::BTreeMap;

use crate::id::{Name, StepIndex};
use crate::limits::{STEP_VALUES_BYTES_MAX, STEP_VALUES_MAX};
use crate::manifest::{Manifest, On, Phase, StepRef};

/// The values that one step wrote, by key.
pub type Outputs = BTreeMap<String, String>;

/// Those of several steps.
pub type ByStep = BTreeMap<StepRef, Outputs>;

/// Those of several steps by the steps' names, in the manifest's order.
pub type Named = Vec<(Name, Outputs)>;

/// Bytes of keys and values.
pub fn bytes(outputs: &Outputs) -> u64 {
    outputs.iter().map(|(key, value)| key.len() as u64 + value.len() as u64).sum()
}

/// Whether one step may write so much.
pub fn is_bounded(outputs: &Outputs) -> bool {
    outputs.len() <= STEP_VALUES_MAX && bytes(outputs) <= STEP_VALUES_BYTES_MAX
}

/// What of `all` step `of` sees.
pub fn named(all: &ByStep, of: StepRef, manifest: &Manifest) -> Named {
    let seen = all.iter().filter(|(step, _)| comes_before(**step, of));
    seen.filter_map(|(step, outputs)| Some((manifest.step(*step)?.name.clone(), outputs.clone()))).collect()
}

/// The names of the steps whose outputs step `of` may see.
pub fn seen_by(manifest: &Manifest, of: StepRef) -> impl Iterator<Item = &Name> {
    let here = manifest.step(of).map(|step| step.on);
    let list = |phase, len: usize| {
        let indices = 0..u16::try_from(len).unwrap_or(u16::MAX);
        indices.map(move |index| StepRef { phase, index: StepIndex(index) })
    };
    let (before, steps) = (manifest.before_acquire.len(), manifest.steps.len());
    let all = list(Phase::Before, before).chain(list(Phase::Steps, steps)).chain(list(Phase::Always, steps));
    all.filter_map(move |step| {
        let known = manifest.step(step).filter(|known| (known.on == On::Always) == (step.phase == Phase::Always))?;
        let seen = here != Some(On::Coordinator) || known.on == On::Coordinator;
        (seen && comes_before(step, of)).then_some(&known.name)
    })
}

fn comes_before(step: StepRef, of: StepRef) -> bool {
    step < of && step.phase != Phase::After
}
