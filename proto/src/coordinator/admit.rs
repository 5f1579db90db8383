//! Whether a deployment may begin: one of a name at a time on each node, and none where all is as it wants it.
//!
//! What is under way is known from the journal, so that a restart gives nobody's nodes to another.

use std::collections::BTreeSet;

use thiserror::Error;

use super::{Coordinator, Created, Deployment};
use crate::id::{DeploymentId, Name, NodeId};
use crate::manifest::Manifest;
use crate::rollout::Outcome;
use crate::rollout::basis::plan_hash;

/// A deployment of the same name that has some of the nodes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{by} deploys `{name}` to {nodes} of these nodes and is not over")]
pub struct Held {
    /// Which one.
    pub by: DeploymentId,
    /// What both deploy.
    pub name: Name,
    /// How many nodes they share.
    pub nodes: usize,
}

impl Coordinator {
    /// Asserts that no node is in the hands of two deployments of one name.
    pub(super) fn check_held(&self) {
        let mut held = BTreeSet::new();
        for deployment in self.live().map(|id| &self.deployments[&id]) {
            for node in deployment.created.sites.keys() {
                let free = held.insert((&deployment.manifest.name, *node));
                assert!(free, "two deployments of `{}` have {node}", deployment.manifest.name);
            }
        }
    }

    /// The deployment of the same name that has not let go of all of `nodes`.
    pub fn holder(&self, name: &Name, nodes: &BTreeSet<NodeId>) -> Option<Held> {
        self.live().find_map(|by| {
            let other = &self.deployments[&by];
            let shared = nodes.iter().filter(|node| other.created.has_target(**node)).count();
            let holds = other.manifest.name == *name && shared > 0;
            holds.then(|| Held { by, name: name.clone(), nodes: shared })
        })
    }

    /// The deployment after which nothing was deployed under the same name, and that did on every node what this one would.
    ///
    /// One that only staged changed no machine, and is passed over; after one that failed, or whose failures were ignored,
    /// nobody knows.
    pub fn as_wanted(&self, manifest: &Manifest, created: &Created) -> Option<DeploymentId> {
        let same = |(_, deployment): &(&DeploymentId, &Deployment)| {
            deployment.manifest.name == manifest.name && !deployment.created.options.stage_only
        };
        let (since, last) = self.deployments.iter().rev().find(same)?;
        let well = last.rollout.outcome() == Some(&Outcome::Succeeded) && !last.rollout.was_forgiving();
        let plan = |manifest, Created { options, sites, variables, back, .. }: &Created| {
            plan_hash(manifest, options, sites, variables, back)
        };
        let did = || plan(&last.manifest, &last.created);
        (well && !created.options.stage_only && did() == plan(manifest, created)).then_some(*since)
    }
}
