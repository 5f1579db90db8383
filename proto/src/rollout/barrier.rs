//! Steps that start on all nodes of a lane together, and the sites that have to be open for that at the same time.

use std::collections::{BTreeMap, BTreeSet};

use super::course::Course;
use crate::id::{Name, NodeId};
use crate::manifest::{Manifest, On, Pace};

/// The first step with `sync: barrier`, and of each lane with nodes of several sites what these are: they have to be open at
/// the same time for it to start. None if there is nothing like that.
pub fn together<'a>(
    manifest: &'a Manifest,
    sites: &'a BTreeMap<NodeId, Name>,
) -> Option<(&'a Name, BTreeSet<BTreeSet<&'a Name>>)> {
    let step = manifest.steps.iter().find(|step| step.pace == Pace::Together && step.on == On::Node)?;
    let course = Course::of(manifest);
    let lanes = course.lanes.iter().map(|lane| lane.nodes.iter().filter_map(|node| sites.get(node)).collect());
    let lanes: BTreeSet<BTreeSet<&Name>> = lanes.filter(|lane: &BTreeSet<&Name>| lane.len() > 1).collect();
    (!lanes.is_empty()).then_some((&step.name, lanes))
}
