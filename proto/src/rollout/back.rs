//! Going back: what a release runs when a later deployment is taken back to it, and the manifest of the deployment that
//! does so.
//!
//! A rollback is a deployment of its own, with its own locks, journal and steps. It brings the packages of the release
//! before, which its nodes have kept, and runs that release's own steps, but for those marked `rollback: skip`, and those
//! marked `rollback: only` too, which no other deployment runs. All of its nodes go at once, at the pace of each step:
//! what is being taken back is broken already. Nodes that are away do not hold it up.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::plan::{self, PlanError};
use super::spec::{DeploymentSpec, RollbackSpec, StepSpec};
use crate::id::{DeploymentId, NodeId, StepIndex};
use crate::limits::CATCH_UP_UNTIL;
use crate::manifest::{Gate, Group, Manifest, Offline, OnFailure, Rollback, Step};

/// For how long a rollback waits for a node that is away before it goes on without it.
const AWAY_MAX: Duration = Duration::from_secs(10);

/// What runs when a later deployment goes back to this one, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Back {
    /// Of `before_acquire`.
    pub before_acquire: Vec<BackStep>,
    /// Of `steps`.
    pub steps: Vec<BackStep>,
}

/// A step of a rollback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackStep {
    /// One that the deployment itself ran: where it is in the manifest's list.
    Same(StepIndex),
    /// One that nothing but a rollback runs.
    Only(Box<Step>),
}

impl Back {
    /// What `spec`, which gave `manifest`, says of a rollback to it.
    ///
    /// # Errors
    /// [`PlanError::Step`].
    pub fn resolve(spec: &DeploymentSpec, manifest: &Manifest) -> Result<Self, PlanError> {
        let list = |specs: &[StepSpec], before| {
            let mut index = 0;
            let mut steps = Vec::new();
            for spec in specs {
                match spec.rollback {
                    Some(RollbackSpec::Only) => {
                        steps.push(BackStep::Only(Box::new(plan::step(spec, manifest, before)?)))
                    }
                    Some(RollbackSpec::Skip) => index += 1,
                    None => {
                        steps.push(BackStep::Same(StepIndex(index)));
                        index += 1;
                    }
                }
            }
            Ok(steps)
        };
        Ok(Self { before_acquire: list(&spec.before_acquire, true)?, steps: list(&spec.steps, false)? })
    }

    /// Every step that `manifest` has, and no other.
    pub fn same(manifest: &Manifest) -> Self {
        let list = |steps: &[Step]| (0..).take(steps.len()).map(|index| BackStep::Same(StepIndex(index))).collect();
        Self { before_acquire: list(&manifest.before_acquire), steps: list(&manifest.steps) }
    }

    /// The steps that only a rollback runs.
    pub fn own(&self) -> impl Iterator<Item = &Step> {
        self.before_acquire.iter().chain(&self.steps).filter_map(|step| match step {
            BackStep::Only(step) => Some(&**step),
            BackStep::Same(_) => None,
        })
    }

    /// The manifest under number `deployment` that takes `nodes` back to `to`, as `rollback` says.
    pub fn manifest(
        &self,
        to: &Manifest,
        nodes: &BTreeSet<NodeId>,
        deployment: DeploymentId,
        rollback: Rollback,
    ) -> Manifest {
        let group = |group: &Group| {
            let nodes: Vec<_> = group.nodes.iter().copied().filter(|node| nodes.contains(node)).collect();
            (!nodes.is_empty()).then(|| Group { nodes, packages: group.packages.clone() })
        };
        Manifest {
            deployment,
            groups: to.groups.iter().filter_map(group).collect(),
            gate: Gate::default(),
            before_acquire: steps(&self.before_acquire, &to.before_acquire),
            steps: steps(&self.steps, &to.steps),
            waves: Vec::new(),
            offline: Offline::CatchUp { after: AWAY_MAX, until: CATCH_UP_UNTIL },
            rollback: Some(rollback),
            ..to.clone()
        }
    }
}

fn steps(back: &[BackStep], of: &[Step]) -> Vec<Step> {
    let step = |step: &BackStep| match step {
        BackStep::Same(index) => of.get(index.index()).cloned(),
        BackStep::Only(step) => Some((**step).clone()),
    };
    back.iter().filter_map(step).map(without_end).collect()
}

/// A rollback is not rolled back in its turn: an operator is asked.
fn without_end(step: Step) -> Step {
    let on_failure = match step.on_failure {
        OnFailure::Rollback => OnFailure::Pause,
        other => other,
    };
    Step { on_failure, ..step }
}
