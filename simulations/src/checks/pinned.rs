//! PINNED: what a node reported as acquired for a deployment is among what its store was told to keep, until the deployment
//! is over; what was staged, until a deployment of the same name that began after that has succeeded; and of the releases of a
//! name that came to a node the newest two, once a second one begins to come.
//!
//! A second account, kept from the durable records. A store that was told nothing since its node started drops nothing.

use std::collections::{BTreeMap, BTreeSet};

use shoal_proto::coordinator::Record;
use shoal_proto::id::{DeploymentId, Name, NodeId, PackageId};
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
    /// What it brought to nodes that a later deployment may have to go back to.
    released: BTreeSet<(NodeId, PackageId)>,
}

impl Pinned {
    /// A record became durable.
    pub(crate) fn durable(&mut self, record: &Record) {
        match record {
            Record::Created(created) => {
                let Ok(manifest) = created.signed.open(|_, _| true) else { return };
                let (id, stage_only) = (manifest.deployment, created.options.stage_only);
                let (needed, released) = (BTreeSet::new(), BTreeSet::new());
                let deployment = Deployment { manifest, stage_only, began: None, over: None, needed, released };
                self.deployments.insert(id, deployment);
            }
            Record::Joined(created) => {
                let Ok(manifest) = created.signed.open(|_, _| true) else { return };
                if let Some(deployment) = self.deployments.get_mut(&manifest.deployment) {
                    deployment.manifest = manifest;
                }
            }
            Record::Rollout { deployment: id, record } => {
                let Some(deployment) = self.deployments.get_mut(id) else { return };
                deployment.began.get_or_insert(record.at);
                match &record.change {
                    Change::Acquired { node, package } => {
                        let package = deployment.manifest.packages.get(package.index());
                        deployment.needed.extend(package.map(|package| (*node, package.id)));
                        let name = deployment.manifest.name.clone();
                        self.follows(*id, &name, *node);
                    }
                    // It may stay pinned there, but nobody needs it.
                    Change::Excluded { node, .. } => deployment.needed.retain(|(of, _)| of != node),
                    Change::Finished { outcome } => self.finished(*id, outcome, record.at),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// A node acquires for a deployment: by now it was told what that may have to go back to.
    fn follows(&mut self, id: DeploymentId, name: &Name, node: NodeId) {
        for (_, earlier) in self.deployments.range_mut(..id).filter(|(_, earlier)| earlier.manifest.name == *name) {
            let of_node = earlier.released.iter().filter(|(of, _)| *of == node).copied();
            earlier.needed.extend(of_node);
        }
    }

    fn finished(&mut self, id: DeploymentId, outcome: &Outcome, at: WallTime) {
        let well = matches!(outcome, Outcome::Succeeded | Outcome::SucceededWithout { .. });
        let Some(deployment) = self.deployments.get_mut(&id) else { return };
        deployment.over = Some(at);
        if !well || !deployment.stage_only {
            let needed = std::mem::take(&mut deployment.needed);
            deployment.released.extend(needed.into_iter().filter(|_| well));
        }
        let staged = deployment.stage_only;
        let (name, targets, began) =
            (deployment.manifest.name.clone(), deployment.manifest.targets(), deployment.began);
        let before = |earlier: &Deployment| {
            earlier.manifest.name == name && earlier.over.is_some_and(|over| began >= Some(over))
        };
        for (_, earlier) in self.deployments.range_mut(..id).filter(|(_, earlier)| well && before(earlier)) {
            if earlier.stage_only {
                earlier.needed.retain(|(node, _)| !targets.contains(node));
                earlier.released.retain(|(node, _)| !targets.contains(node));
            }
        }
        if well && !staged {
            self.keep_two(&name);
        }
    }

    /// Of each node's releases of a name, those before the newest two are needed no more, and these are if there are two.
    fn keep_two(&mut self, name: &Name) {
        let mut releases = BTreeMap::<NodeId, Vec<DeploymentId>>::new();
        for (id, release) in self.deployments.iter().rev() {
            if release.manifest.name == *name && !release.stage_only && release.over.is_some() {
                let nodes: BTreeSet<NodeId> = release.released.iter().map(|(node, _)| *node).collect();
                nodes.into_iter().for_each(|node| releases.entry(node).or_default().push(*id));
            }
        }
        for (node, ids) in releases.into_iter().filter(|(_, ids)| ids.len() > 1) {
            for (newer, id) in ids.into_iter().enumerate() {
                let Some(release) = self.deployments.get_mut(&id) else { continue };
                if newer < 2 {
                    let of_node = release.released.iter().filter(|(of, _)| *of == node).copied();
                    release.needed.extend(of_node);
                } else {
                    release.needed.retain(|(of, _)| *of != node);
                    release.released.retain(|(of, _)| *of != node);
                }
            }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use shoal_proto::coordinator::Created;
    use shoal_proto::id::PackageIndex;
    use shoal_proto::manifest::Signed;
    use shoal_proto::rollout::{Options, Record as RolloutRecord};

    use super::*;
    use crate::scenario::Scenario;

    /// A world of one seed, whose first deployment goes out once under number 1 and once under 3, of one name, each to all its
    /// targets.
    fn twice(stage_only: bool) -> (Pinned, NodeId, Pin) {
        let scenario = Scenario::new(1);
        let mut pinned = Pinned::default();
        let mut first = None;
        for id in [DeploymentId(1), DeploymentId(3)] {
            let manifest = scenario.manifest(&scenario.deployments[0], id);
            let signed = Signed::seal(&manifest, |_| Vec::new()).unwrap();
            let options = Options { stage_only: stage_only && id.0 == 1, ..Options::default() };
            let created = Created {
                signed,
                options,
                sites: BTreeMap::new(),
                blocks: Vec::new(),
                sources: Vec::new(),
                variables: Default::default(),
                back: Default::default(),
                joins: Default::default(),
            };
            pinned.durable(&Record::Created(Box::new(created)));
            first.get_or_insert(manifest);
        }
        let manifest = first.unwrap();
        let node = *manifest.targets().first().unwrap();
        let (_, package) = manifest.packages_of(node).next().unwrap();
        let pin = Pin { package: package.id, deployment: DeploymentId(1), recipe: package.recipe.recipe };
        (pinned, node, pin)
    }

    fn change(pinned: &mut Pinned, id: u64, at: u64, change: Change) {
        let record = RolloutRecord { at: WallTime(at), change };
        pinned.durable(&Record::Rollout { deployment: DeploymentId(id), record });
    }

    fn acquire(pinned: &mut Pinned, node: NodeId, pin: &Pin) {
        let manifest = &pinned.deployments[&pin.deployment].manifest;
        let place = manifest.packages.iter().position(|package| package.id == pin.package).unwrap();
        let package = PackageIndex(u16::try_from(place).unwrap());
        change(pinned, 1, 1, Change::Acquired { node, package });
    }

    #[test]
    fn a_package_that_is_not_kept_for_a_live_deployment_is_caught() {
        let (mut pinned, node, pin) = twice(false);
        assert_eq!(pinned.judge(node, &BTreeSet::new()), Ok(()), "it is not there yet");
        acquire(&mut pinned, node, &pin);
        assert!(pinned.judge(node, &BTreeSet::new()).unwrap_err().contains("not kept"));
        assert_eq!(pinned.judge(node, &BTreeSet::from([pin])), Ok(()));
        change(&mut pinned, 1, 2, Change::Finished { outcome: Outcome::Cancelled });
        assert_eq!(pinned.judge(node, &BTreeSet::new()), Ok(()));
    }

    #[test]
    fn what_was_staged_is_to_be_kept_until_a_deployment_went_on_from_there() {
        for (began, kept) in [(1, true), (2, false)] {
            let (mut pinned, node, pin) = twice(true);
            acquire(&mut pinned, node, &pin);
            change(&mut pinned, 1, 2, Change::Finished { outcome: Outcome::Succeeded });
            assert!(pinned.judge(node, &BTreeSet::new()).is_err());
            change(&mut pinned, 3, began, Change::AcquireBegan);
            change(&mut pinned, 3, 3, Change::Finished { outcome: Outcome::Succeeded });
            assert_eq!(pinned.judge(node, &BTreeSet::new()).is_err(), kept);
        }
    }
}
