//! The way back from a deployment: which of its nodes go back to which release, as deployments of their own.
//!
//! What is to be taken back follows from the journal: a deployment that ended so, and whose nodes no later one has had. So
//! it is found again after a restart, and done once: whatever took it back is a later one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use thiserror::Error;

use super::{Coordinator, Created, Deployment, Output};
use crate::id::{DeploymentId, Name, NodeId, PlanHash};
use crate::manifest::{Manifest, Rollback, Signed};
use crate::rollout::Options;
use crate::rollout::back::Back;
use crate::rollout::basis::plan_hash;
use crate::rollout::join::Joins;

/// Why there is no way back from a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoWayBack {
    /// It changed nothing.
    #[error("{0} has run none of its steps on any node: there is nothing to take back")]
    NothingRan(DeploymentId),
    /// There was nothing before.
    #[error("no node that {0} changed had a release of `{1}` before it: there is nothing to go back to")]
    NothingBefore(DeploymentId, Name),
    /// Its nodes went on.
    #[error("the nodes that {of} changed went on with {by}: `shoal rollback {by}` takes that back")]
    WentOn {
        /// The deployment.
        of: DeploymentId,
        /// The newest that had some of its nodes.
        by: DeploymentId,
    },
}

/// A deployment that takes another one back, but for its signature.
#[derive(Clone, Debug)]
pub struct WayBack {
    /// Its manifest.
    pub manifest: Manifest,
    /// The deployment that it goes back to.
    pub to: DeploymentId,
    options: Options,
    sites: BTreeMap<NodeId, Name>,
}

impl Coordinator {
    /// The next deployment that takes back what `of` changed: one for each release that its nodes had before. Nodes of one
    /// that took it back already and came to nothing are meant if it is to be done `again`.
    ///
    /// # Errors
    /// [`NoWayBack`], also when all was taken back.
    pub fn way_back(&self, of: DeploymentId, again: bool) -> Result<WayBack, NoWayBack> {
        let (to, nodes) = self.check_way_back(of, again)?;
        Ok(self.way_to(of, to, &nodes))
    }

    /// All of them, as they would be at this moment, the newest release first.
    ///
    /// # Errors
    /// [`NoWayBack`], also when all was taken back.
    pub fn ways_back(&self, of: DeploymentId) -> Result<Vec<WayBack>, NoWayBack> {
        let ways = self.releases_before(of, true)?;
        Ok(ways.iter().rev().map(|(to, nodes)| self.way_to(of, *to, nodes)).collect())
    }

    fn way_to(&self, of: DeploymentId, to: DeploymentId, nodes: &BTreeSet<NodeId>) -> WayBack {
        let (taken, release) = (&self.deployments[&of], &self.deployments[&to]);
        let rollback = Rollback { of, from: taken.manifest.release.clone(), to };
        let manifest = release.created.back.manifest(&release.manifest, nodes, self.next_deployment(), rollback);
        let own = |node: &NodeId| nodes.contains(node);
        let Options { mut names, .. } = release.created.options.clone();
        names.retain(|node, _| own(node));
        let mut sites = release.created.sites.clone();
        sites.retain(|node, _| own(node));
        WayBack { manifest, to, options: Options { names, ..Options::default() }, sites }
    }

    /// The release that some of the nodes go back to, and which.
    pub(super) fn check_way_back(
        &self,
        of: DeploymentId,
        again: bool,
    ) -> Result<(DeploymentId, BTreeSet<NodeId>), NoWayBack> {
        let mut before = self.releases_before(of, again)?;
        Ok(before.pop_last().expect("there is one, or an error"))
    }

    /// The releases that the nodes which `of` changed go back to, and which nodes each; one at least.
    fn releases_before(
        &self,
        of: DeploymentId,
        again: bool,
    ) -> Result<BTreeMap<DeploymentId, BTreeSet<NodeId>>, NoWayBack> {
        let Some(taken) = self.deployments.get(&of) else { return Err(NoWayBack::NothingRan(of)) };
        let changed = taken.rollout.changed();
        if taken.created.options.stage_only || changed.is_empty() {
            return Err(NoWayBack::NothingRan(of));
        }
        let later: Vec<_> =
            self.of_name(&taken.manifest.name, after(of)).map(|(id, d)| (id, has(d, of, again))).collect();
        let mut went_on = None;
        let mut before = BTreeMap::<DeploymentId, BTreeSet<NodeId>>::new();
        for node in changed {
            match later.iter().rfind(|(_, has)| has.contains(&node)) {
                Some((by, _)) => went_on = went_on.max(Some(*by)),
                None => {
                    let to = self.release_before(of, node);
                    to.map(|to| before.entry(to).or_default().insert(node));
                }
            }
        }
        match went_on {
            _ if !before.is_empty() => Ok(before),
            Some(by) => Err(NoWayBack::WentOn { of, by }),
            None => Err(NoWayBack::NothingBefore(of, taken.manifest.name.clone())),
        }
    }

    /// The newest deployment before `of` that succeeded on a node; where that was a rollback, what it went back to.
    pub(super) fn release_before(&self, of: DeploymentId, node: NodeId) -> Option<DeploymentId> {
        let name = &self.deployments.get(&of)?.manifest.name;
        let mut earlier = self.of_name(name, (Bound::Unbounded, Bound::Excluded(of)));
        let found = earlier.rfind(|(_, earlier)| earlier.rollout.released_to(node));
        found.map(|(id, _)| self.origin_of(id))
    }

    /// The nodes that a deployment changed and that had no release of its name before it: nothing takes them back.
    pub fn without_way_back(&self, of: DeploymentId) -> Vec<NodeId> {
        let Some(taken) = self.deployments.get(&of) else { return Vec::new() };
        let changed = taken.rollout.changed().into_iter();
        changed.filter(|node| self.release_before(of, *node).is_none()).collect()
    }

    /// What a way back would read over the WAN, as far as connected nodes have said what they have: for each site how much
    /// of the packages is on none of its nodes, and which nodes lack something.
    pub fn lacking_for(&self, way: &WayBack) -> BTreeMap<Name, (u64, Vec<NodeId>)> {
        let mut lacking = BTreeMap::<Name, (u64, Vec<NodeId>)>::new();
        for (index, package) in way.manifest.packages.iter().enumerate() {
            let gets = |node: &NodeId| way.manifest.packages_of(*node).any(|(own, _)| own.index() == index);
            let known = way.sites.iter().filter(|(node, _)| gets(node));
            let known = known.filter_map(|(node, site)| Some((*node, site, self.inventories.get(node)?)));
            let mut by_site = BTreeMap::<&Name, (bool, Vec<NodeId>)>::new();
            for (node, site, inventory) in known {
                let (held, lack) = by_site.entry(site).or_default();
                match inventory.packages.contains(&package.id) {
                    true => *held = true,
                    false => lack.push(node),
                }
            }
            for (site, (held, lack)) in by_site.into_iter().filter(|(_, (_, lack))| !lack.is_empty()) {
                let (bytes, nodes) = lacking.entry(site.clone()).or_default();
                *bytes += if held { 0 } else { package.size };
                nodes.extend(lack);
            }
        }
        lacking.values_mut().for_each(|(_, nodes)| {
            nodes.sort_unstable();
            nodes.dedup();
        });
        lacking
    }

    /// The deployment whose packages and steps one brings: itself, or what it goes back to.
    pub(super) fn origin_of(&self, id: DeploymentId) -> DeploymentId {
        let rollback = self.deployments.get(&id).and_then(|deployment| deployment.manifest.rollback.as_ref());
        rollback.map_or(id, |rollback| rollback.to)
    }

    /// The deployments that took one back.
    pub fn taken_back_by(&self, of: DeploymentId) -> impl Iterator<Item = DeploymentId> {
        let later = self.deployments.range(after(of));
        let takes = move |deployment: &Deployment| deployment.manifest.rollback.as_ref().is_some_and(|r| r.of == of);
        later.filter(move |(_, deployment)| takes(deployment)).map(|(id, _)| *id)
    }

    /// Has a deployment taken back if it ended so and can be.
    pub(super) fn go_back_from(&mut self, id: DeploymentId) {
        let wants = self.deployments.get(&id).is_some_and(|deployment| deployment.rollout.is_to_be_rolled_back());
        if wants && self.check_way_back(id, false).is_ok() {
            self.outbox.push_back(Output::RollBack { of: id });
        }
    }

    pub(super) fn of_name<'a>(
        &'a self,
        name: &'a Name,
        range: (Bound<DeploymentId>, Bound<DeploymentId>),
    ) -> impl DoubleEndedIterator<Item = (DeploymentId, &'a Deployment)> {
        self.deployments
            .range(range)
            .filter(move |(_, deployment)| deployment.manifest.name == *name)
            .map(|(id, deployment)| (*id, deployment))
    }
}

impl WayBack {
    /// The site of each of its nodes.
    pub fn sites(&self) -> &BTreeMap<NodeId, Name> {
        &self.sites
    }

    /// What people call its nodes.
    pub fn names(&self) -> &BTreeMap<NodeId, Name> {
        &self.options.names
    }

    /// Which plan it is: what the packages, the nodes and the steps come to, `release` being what it goes back to.
    pub fn hash(&self, release: &Created) -> PlanHash {
        plan_hash(&self.manifest, &self.options, &self.sites, &release.variables, &Back::default())
    }

    /// The deployment, with its manifest signed; `release` is what it goes back to.
    pub fn created(self, signed: Signed, release: &Created) -> Created {
        Created {
            signed,
            options: self.options,
            sites: self.sites,
            // Nothing goes back to it: see `origin_of`.
            back: Back::default(),
            joins: Joins::default(),
            ..release.clone()
        }
    }
}

fn after(id: DeploymentId) -> (Bound<DeploymentId>, Bound<DeploymentId>) {
    (Bound::Excluded(id), Bound::Unbounded)
}

/// The nodes that a deployment which came after `of` has or had, so that they are not taken back.
fn has(deployment: &Deployment, of: DeploymentId, again: bool) -> BTreeSet<NodeId> {
    let takes_back = deployment.manifest.rollback.as_ref().is_some_and(|rollback| rollback.of == of);
    match deployment.rollout.outcome() {
        Some(_) if again || !takes_back => deployment.rollout.changed(),
        _ => deployment.created.sites.keys().copied().collect(),
    }
}
