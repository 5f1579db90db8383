//! Nodes that join while a deployment runs: which of them it means, and the manifest with one of them in it.
//!
//! A node that joins once packages are acquired is behind from the first moment: it acquires, runs what its lane has left,
//! and goes on with that. Nobody waits for it meanwhile, but the deployment's end does. What its lane has not begun, it does
//! not run before. One that joins earlier is like the others: packages are acquired when it has run what comes before, too.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::plan::{NodeFacts, traits};
use super::select::Selector;
use super::spec::DeploymentSpec;
use crate::id::{Name, NodeId, PackageIndex, TargetIndex};
use crate::limits::NODES_MAX;
use crate::manifest::{Group, Manifest, Wave};

/// Which nodes that join later a deployment means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joins {
    /// What nodes get, by selector.
    pub targets: Vec<(String, Vec<PackageIndex>)>,
    /// Which nodes go with which wave, by selector; all without one.
    pub waves: Vec<(Name, Option<String>)>,
    /// Whether variables differ between nodes: then none can join, since what they would be for one more is not known any
    /// more.
    pub variables_differ: bool,
}

impl Joins {
    /// What `spec`, which gave `manifest`, says of nodes that join later.
    pub fn resolve(spec: &DeploymentSpec, manifest: &Manifest) -> Self {
        let variables_differ =
            spec.variables.iter().any(|v| v.site.is_some() || v.select.is_some() || v.node.is_some());
        let index = |name: &Name| {
            let place = manifest.packages.iter().position(|package| package.name == *name)?;
            u16::try_from(place).ok().map(PackageIndex)
        };
        let targets = spec.targets.iter().map(|target| {
            let packages: BTreeSet<PackageIndex> = target.packages.iter().filter_map(index).collect();
            (target.select.clone(), packages.into_iter().collect())
        });
        let waves = spec.waves.iter().map(|wave| (wave.name.clone(), wave.select.clone()));
        Self { targets: targets.collect(), waves: waves.collect(), variables_differ }
    }

    /// Whether it means a node.
    pub fn means(&self, node: &NodeFacts) -> bool {
        self.meant(node).next().is_some()
    }

    fn meant<'a>(&'a self, node: &'a NodeFacts) -> impl Iterator<Item = &'a [PackageIndex]> {
        let targets = self.targets.iter().filter(|(select, _)| fits(select, node));
        targets.map(|(_, packages)| &packages[..])
    }

    /// `of` with `node` in it; none if that is a target already, or is not meant. `sites` are those of the targets.
    pub fn manifest(&self, of: &Manifest, node: &NodeFacts, sites: &BTreeMap<NodeId, Name>) -> Option<Manifest> {
        let mut targets = of.targets();
        if self.variables_differ || !self.means(node) || targets.len() >= NODES_MAX || !targets.insert(node.id) {
            return None;
        }
        let packages: BTreeSet<PackageIndex> = self.meant(node).flatten().copied().collect();
        let wave = |wave: &Wave| {
            let select = self.waves.iter().find(|(name, _)| *name == wave.name).map(|(_, select)| select.as_deref());
            select.is_some_and(|select| select.is_none_or(|select| fits(select, node)))
        };
        // The last one that means it: the first ones are small on purpose.
        let chosen = of.waves.iter().rposition(wave).or(of.waves.len().checked_sub(1));
        let waves = of.waves.iter().enumerate().map(|(index, wave)| {
            let joins = (chosen == Some(index)).then_some(node);
            with_node(wave, &of.targets(), &targets, joins, sites)
        });
        let (groups, waves) = (in_groups(&of.groups, node.id, packages), waves.collect::<Option<_>>()?);
        Some(Manifest { groups, waves, ..of.clone() })
    }
}

fn fits(select: &str, node: &NodeFacts) -> bool {
    select.parse::<Selector>().is_ok_and(|selector| selector.matches(traits(node)))
}

fn in_groups(groups: &[Group], node: NodeId, packages: BTreeSet<PackageIndex>) -> Vec<Group> {
    let mut groups = groups.to_vec();
    let packages: Vec<_> = packages.into_iter().collect();
    match groups.iter_mut().find(|group| group.packages == packages) {
        Some(group) => {
            let place = group.nodes.partition_point(|other| *other < node);
            group.nodes.insert(place, node);
        }
        None => groups.push(Group { nodes: vec![node], packages }),
    }
    groups
}

/// A wave whose nodes are numbered among `after` and no longer among `before`; with one node more if it `joins` this one,
/// in a lane of its site where there is one.
fn with_node(
    wave: &Wave,
    before: &BTreeSet<NodeId>,
    after: &BTreeSet<NodeId>,
    joins: Option<&NodeFacts>,
    sites: &BTreeMap<NodeId, Name>,
) -> Option<Wave> {
    let before: Vec<NodeId> = before.iter().copied().collect();
    let known = |lane: &Vec<TargetIndex>| lane.iter().filter_map(|place| before.get(place.index()).copied()).collect();
    let mut lanes: Vec<Vec<NodeId>> = wave.lanes.iter().map(known).collect();
    if let Some(node) = joins {
        let of_site = |lane: &Vec<NodeId>| lane.iter().any(|other| sites.get(other) == Some(&node.site));
        let lane = lanes.iter().position(of_site).or(lanes.len().checked_sub(1))?;
        lanes.get_mut(lane)?.push(node.id);
    }
    let numbers: BTreeMap<NodeId, u16> = after.iter().copied().zip(0..).collect();
    let number = |lane: Vec<NodeId>| {
        let mut places: Vec<_> = lane.iter().filter_map(|node| numbers.get(node).copied().map(TargetIndex)).collect();
        places.sort_unstable();
        places
    };
    Some(Wave { lanes: lanes.into_iter().map(number).collect(), ..wave.clone() })
}
