//! What a deployment would move, and from where, by site: from what the nodes hold before it begins.
//!
//! The same rule as that of the ledgers: each byte that a site lacks crosses its WAN once, read by the node that lacks
//! least of its block, and the other nodes get it from their neighbours. Recipes and messages are left out.

use std::collections::{BTreeMap, BTreeSet};

use crate::content::Layout;
use crate::id::{Name, NodeId, PackageIndex, SegmentHash};
use crate::manifest::Manifest;

/// What nodes with the same cache lack of the packages that they get: bytes of each block. A package that is not here is
/// lacked as a whole.
pub type Lacked = BTreeMap<PackageIndex, Vec<u32>>;

/// What would move in one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteForecast {
    /// Which site.
    pub site: Name,
    /// Target nodes.
    pub nodes: u32,
    /// Bytes of packages that one node gets; of the node that gets most.
    pub package_bytes: u64,
    /// Bytes of packages that all its nodes get.
    pub wanted_bytes: u64,
    /// What is there before, with what stands in the recipes.
    pub local_bytes: u64,
    /// What crosses the WAN.
    pub wan_bytes: u64,
    /// What comes from neighbours.
    pub peer_bytes: u64,
}

/// Bytes that whoever holds the segments `held` lacks of each block of a package.
pub fn lacking(layout: &Layout, held: &BTreeSet<SegmentHash>) -> Vec<u32> {
    let lacks = |block| {
        let segments = layout.segments()[layout.block_segments(block)].iter();
        segments.filter(|segment| !held.contains(&segment.hash)).map(|segment| segment.len).sum()
    };
    layout.blocks().map(lacks).collect()
}

/// What `manifest` would move, by site. `blocks` are the bytes of each block of each package; `caches` are what distinct
/// caches lack, and `cache_of` says which one a node has; a node without one holds nothing.
pub fn forecast(
    manifest: &Manifest,
    sites: &BTreeMap<NodeId, Name>,
    blocks: &[Vec<u32>],
    caches: &[Lacked],
    cache_of: &BTreeMap<NodeId, usize>,
) -> Vec<SiteForecast> {
    let mut by_site = BTreeMap::<&Name, Vec<NodeId>>::new();
    for (node, site) in sites {
        by_site.entry(site).or_default().push(*node);
    }
    let lacks = |node: NodeId, package: PackageIndex| {
        let cache = cache_of.get(&node).and_then(|cache| caches.get(*cache));
        let whole = || blocks.get(package.index()).map(Vec::as_slice).unwrap_or_default();
        cache.and_then(|cache| cache.get(&package)).map_or_else(whole, Vec::as_slice)
    };
    by_site.into_iter().map(|(site, nodes)| of_site(manifest, site, &nodes, lacks)).collect()
}

fn of_site<'a>(
    manifest: &Manifest,
    site: &Name,
    nodes: &[NodeId],
    lacks: impl Fn(NodeId, PackageIndex) -> &'a [u32],
) -> SiteForecast {
    let bytes_of = |node: &NodeId| manifest.packages_of(*node).map(|(_, package)| package.size).sum::<u64>();
    let wanted_bytes = nodes.iter().map(bytes_of).sum();
    let (mut wan_bytes, mut lacked_bytes) = (0, 0);
    for index in (0..).take(manifest.packages.len()).map(PackageIndex) {
        let of_nodes: Vec<&[u32]> =
            nodes.iter().filter(|node| manifest.gets(**node, index)).map(|node| lacks(*node, index)).collect();
        let sum = |lacked: &[u32]| lacked.iter().copied().map(u64::from).sum::<u64>();
        let all: u64 = of_nodes.iter().map(|lacked| sum(lacked)).sum();
        lacked_bytes += all;
        wan_bytes += if manifest.acquire.swarm { least(&of_nodes) } else { all };
    }
    SiteForecast {
        site: site.clone(),
        nodes: u32::try_from(nodes.len()).unwrap_or(u32::MAX),
        package_bytes: nodes.iter().map(bytes_of).max().unwrap_or_default(),
        wanted_bytes,
        local_bytes: wanted_bytes.saturating_sub(lacked_bytes),
        wan_bytes,
        peer_bytes: lacked_bytes - wan_bytes,
    }
}

/// Of each block, what the node lacks that lacks least of it.
fn least(of_nodes: &[&[u32]]) -> u64 {
    let count = of_nodes.iter().map(|lacked| lacked.len()).min().unwrap_or_default();
    let of_block = |block| of_nodes.iter().map(|lacked| u64::from(lacked[block])).min().unwrap_or_default();
    (0..count).map(of_block).sum()
}
