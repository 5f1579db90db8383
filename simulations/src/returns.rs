//! Deployments that follow each other and go back, and nodes that come late to them.

use std::time::Duration;

use shoal_proto::id::PackageIndex;
use shoal_proto::manifest::{Manifest, OnFailure, Stragglers};
use shoal_proto::rng::{Rng, mix};
use shoal_proto::rollout::join::Joins;

use crate::scenario::{DeploymentPlan, Scenario};

/// Tells the random numbers of this file from those of the scenario.
const SALT: u64 = 0xbac4;

/// Between one deployment and the next.
const APART: Duration = Duration::from_secs(25);

/// Has the deployments of a scenario be releases of one project: the first goes well, and those after it often go back.
pub(crate) fn set(scenario: &mut Scenario, seed: u64) {
    let mut rng = Rng::new(mix(seed ^ SALT));
    scenario.returns = true;
    scenario.mishaps.step_fails = scenario.mishaps.step_fails.max(150);
    if let [only] = &scenario.deployments[..] {
        let again = only.clone();
        scenario.deployments.push(again);
    }
    // Some nodes are no targets as it begins: they join when they connect again.
    for package in &mut scenario.packages {
        let first = package.targets.first().copied();
        package.targets.retain(|node| Some(*node) == first || !node.is_multiple_of(3));
    }
    let first = scenario.deployments[0].at;
    for (number, deployment) in (0u32..).zip(&mut scenario.deployments) {
        deployment.at = first + APART * number;
        deployment.stage_only = false;
        deployment.gate.manual = false;
        deployment.gate.stragglers = Stragglers::Wait;
        for step in &mut deployment.steps {
            step.retries = 0;
            step.on_failure = match number {
                0 => OnFailure::Ignore,
                _ if rng.below(2) == 0 => OnFailure::Rollback,
                _ => OnFailure::Pause,
            };
        }
    }
}

/// Any node that is no target yet gets all packages of a deployment, and goes with its last wave.
pub(crate) fn joins(plan: &DeploymentPlan, manifest: &Manifest) -> Joins {
    let packages = (0..).take(plan.packages.len()).map(PackageIndex).collect();
    let waves = manifest.waves.iter().map(|wave| (wave.name.clone(), None));
    Joins { targets: vec![("all".to_owned(), packages)], waves: waves.collect(), variables_differ: false }
}
