//! Scripts with places for values, tried before anything begins: for every machine that runs one, as far as can be told.

use std::collections::BTreeMap;

use shoal_node::template::{self, Outputs, Purpose, TemplateError};
use shoal_proto::id::{Name, NodeId, StepIndex};
use shoal_proto::manifest::{Action, Manifest, On, Phase, Rollback, Step, StepRef};
use shoal_proto::outputs::seen_by;
use shoal_proto::rollout::back::Back;
use shoal_proto::rollout::variables::Variables;

/// Why a script cannot be filled in.
#[derive(Debug, thiserror::Error)]
#[error("step `{step}`{}: {error}", if *.in_rollback { ", when a later release is rolled back to this one" } else { "" })]
pub(super) struct ScriptError {
    step: Name,
    in_rollback: bool,
    error: TemplateError,
}

/// Fills in every script of a deployment, and of a rollback to it, for every machine that runs it, as far as it can be before
/// anything ran: outputs of steps that come before count as there.
pub(super) fn check_templates(
    manifest: &Manifest,
    back: &Back,
    variables: &Variables,
    secrets: &[String],
) -> Result<(), ScriptError> {
    check(manifest, variables, secrets, false)?;
    let rollback = Rollback { of: manifest.deployment, from: manifest.release.clone(), to: manifest.deployment };
    let rollback = back.manifest(manifest, &manifest.targets(), manifest.deployment, rollback);
    check(&rollback, variables, secrets, true)
}

fn check(manifest: &Manifest, variables: &Variables, secrets: &[String], in_rollback: bool) -> Result<(), ScriptError> {
    // One machine of each that see the same.
    let machines: BTreeMap<u16, NodeId> = variables.set_of.iter().map(|(node, set)| (*set, *node)).collect();
    for (at, step, text) in scripts(manifest) {
        let on: Vec<Option<NodeId>> = match step.on {
            On::Coordinator => vec![None],
            On::Node | On::Site | On::Always => machines.values().copied().map(Some).collect(),
        };
        let before: Vec<&Name> = seen_by(manifest, at).collect();
        for told in on.iter().filter_map(|machine| variables.told(*machine, secrets)) {
            let values = template::Values { plain: &told.plain, secret: &told.secret, outputs: Outputs::Of(&before) };
            let rendered = template::render(text, values, Purpose::Script);
            rendered.map_err(|error| ScriptError { step: step.name.clone(), in_rollback, error })?;
        }
    }
    Ok(())
}

/// Every script, and where it stands.
fn scripts(manifest: &Manifest) -> impl Iterator<Item = (StepRef, &Step, &String)> {
    let at = |phase, index| StepRef { phase, index: StepIndex(index) };
    let before = (0..).zip(&manifest.before_acquire).flat_map(move |(index, step)| {
        let after = step.always_after.as_ref().map(|text| (at(Phase::After, index), step, text));
        script(step).map(|text| (at(Phase::Before, index), step, text)).into_iter().chain(after)
    });
    let steps = (0..).zip(&manifest.steps).filter_map(move |(index, step)| {
        let phase = if step.on == On::Always { Phase::Always } else { Phase::Steps };
        Some((at(phase, index), step, script(step)?))
    });
    before.chain(steps)
}

fn script(step: &Step) -> Option<&String> {
    match &step.action {
        Action::Script { run } => Some(run),
        Action::Unpack { .. } | Action::Check { .. } | Action::Template { .. } => None,
    }
}
