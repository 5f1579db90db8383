//! PINNED: what a node reported as acquired for a deployment is among what its store was told to keep, until the deployment
//! is over; what was staged, until a deployment of the same name that began after that has succeeded.
//!
//! A second account, kept from the durable records. A store that was told nothing since its node started drops nothing.

use std::collections::{BTreeMap, BTreeSet};

use shoal_proto::coordinator::Record;
use shoal_proto::id::{DeploymentId, NodeId, PackageId};
use shoal_proto::manifest::Manifest;
use shoal_proto::node::Pin;
use shoal_proto::rollout::{Change, Outcome};
use shoal_proto::time::WallTime;

use crate::world::World;

/// What nodes hold for deployments that need it.
#[derive(Debug, Default)]
pub(crate) struct Pinned {
    deployments: BTreeMap<DeploymentId, Deployment>,
}

#[derive(Debug)]
struct Deployment {
    manifest: Manifest,
    stage_only: bool,
    began: Option<WallTime>,
    over: Option<WallTime>,
    needed: BTreeSet<(NodeId, PackageId)>,
}

impl Pinned {
    /// A record became durable.
    pub(crate) fn durable(&mut self, record: &Record) {
        match record {
            Record::Created(created) => {
                let Ok(manifest) = created.signed.open(|_, _| true) else { return };
                let (id, stage_only) = (manifest.deployment, created.options.stage_only);
                let deployment = Deployment { manifest, stage_only, began: None, over: None, needed: BTreeSet::new() };
                self.deployments.insert(id, deployment);
            }
            Record::Rollout { deployment: id, record } => {
                let Some(deployment) = self.deployments.get_mut(id) else { return };
                deployment.began.get_or_insert(record.at);
                match &record.change {
                    Change::Acquired { node, package } => {
                        let package = deployment.manifest.packages.get(package.index());
                        deployment.needed.extend(package.map(|package| (*node, package.id)));
                    }
                    // It may stay pinned on nodes that go on, but nobody needs it there.
                    Change::Excluded { node, .. } => deployment.needed.retain(|(of, _)| of != node),
                    Change::Finished { outcome } => self.finished(*id, outcome, record.at),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn finished(&mut self, id: DeploymentId, outcome: &Outcome, at: WallTime) {
        let well = matches!(outcome, Outcome::Succeeded | Outcome::SucceededWithout { .. });
        let Some(deployment) = self.deployments.get_mut(&id) else { return };
        deployment.over = Some(at);
        if !well || !deployment.stage_only {
            deployment.needed.clear();
        }
        let (name, targets, began) =
            (deployment.manifest.name.clone(), deployment.manifest.targets(), deployment.began);
        let before = |earlier: &Deployment| {
            earlier.manifest.name == name && earlier.over.is_some_and(|over| began >= Some(over))
        };
        for (_, earlier) in self.deployments.range_mut(..id).filter(|(_, earlier)| well && before(earlier)) {
            earlier.needed.retain(|(node, _)| !targets.contains(node));
        }
    }

    /// Whether `pins` are enough for a node.
    fn judge(&self, node: NodeId, pins: &BTreeSet<Pin>) -> Result<(), String> {
        for (id, deployment) in &self.deployments {
            for (_, package) in deployment.needed.iter().filter(|(of, _)| *of == node) {
                if !pins.iter().any(|pin| (pin.deployment, pin.package) == (*id, *package)) {
                    return Err(format!("{package:?} is not kept on {node:?}, and {id} needs it there"));
                }
            }
        }
        Ok(())
    }
}

impl World {
    /// A node's store is told what to keep.
    pub(crate) fn pin(&mut self, node: usize, pins: BTreeSet<Pin>) {
        if let Some(process) = &mut self.hosts[node].process {
            process.pins = Some(pins);
        }
        self.judge_pins(self.scenario.nodes[node].id);
    }

    /// Judges what a node's store was told last.
    pub(crate) fn judge_pins(&mut self, node: NodeId) {
        let host = self.scenario.node(node).and_then(|number| self.hosts[number].process.as_ref());
        let verdict = host.and_then(|process| process.pins.as_ref()).map(|pins| self.checks.pinned.judge(node, pins));
        self.verify("PINNED", verdict.unwrap_or(Ok(())));
    }
}
