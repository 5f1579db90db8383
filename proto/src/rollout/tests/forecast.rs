//! What a deployment would move.

use super::*;
use crate::content::{Cutter, Layout, Shape};
use crate::id::SegmentHash;
use crate::rollout::forecast::{Lacked, forecast, lacking};

/// Wanted, already there, over the WAN and from peers in the only site of three nodes, each with a package of two blocks
/// of 60 and 40 bytes; `lacked` is what each node lacks of them, if it has said.
fn moves(swarm: bool, lacked: [Option<[u32; 2]>; 3]) -> [u64; 4] {
    let mut manifest = manifest(3, Vec::new(), Vec::new());
    manifest.packages[0].size = 100;
    manifest.acquire.swarm = swarm;
    let sites = manifest.targets().into_iter().map(|node| (node, name("a"))).collect();
    let known = (1..).zip(lacked).filter_map(|(number, lacked)| Some((node(number), lacked?)));
    let (nodes, caches): (Vec<_>, Vec<Lacked>) =
        known.map(|(node, lacked)| (node, Lacked::from([(PackageIndex(0), lacked.to_vec())]))).unzip();
    let cache_of = nodes.into_iter().zip(0..).collect();
    let found = forecast(&manifest, &sites, &[vec![60, 40]], &caches, &cache_of);
    assert_eq!((found.len(), found[0].nodes, found[0].package_bytes), (1, 3, 100));
    [found[0].wanted_bytes, found[0].local_bytes, found[0].wan_bytes, found[0].peer_bytes]
}

#[test]
fn each_byte_that_a_site_lacks_crosses_its_wan_once() {
    let (all, none) = (Some([60, 40]), Some([0, 0]));
    let table = [
        (true, [all, all, all], [300, 0, 100, 200]),
        (true, [None, None, None], [300, 0, 100, 200]),
        (true, [none, all, None], [300, 100, 0, 200]),
        (true, [none, none, none], [300, 300, 0, 0]),
        // Of each block the node reads that lacks least of it.
        (true, [Some([10, 40]), Some([60, 5]), all], [300, 85, 15, 200]),
        (false, [Some([10, 40]), Some([60, 5]), all], [300, 85, 215, 0]),
    ];
    for (swarm, lacked, wanted) in table {
        assert_eq!(moves(swarm, lacked), wanted, "{swarm} {lacked:?}");
    }
}

#[test]
fn what_other_packages_hold_is_not_lacked() {
    let bytes: Vec<u8> = (0u32..400_000).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let recipe = |bytes: &[u8]| {
        let mut cutter = Cutter::new(Shape::Plain { size: bytes.len() as u64 }).unwrap();
        cutter.push(bytes);
        cutter.finish().unwrap()
    };
    let (before, after) = (recipe(&bytes[..1_000_000]), recipe(&bytes));
    let layout = Layout::of_recipe(&after);
    let held: BTreeSet<SegmentHash> = before.segments().iter().map(|segment| segment.hash).collect();
    let all: u64 = lacking(&layout, &BTreeSet::new()).into_iter().map(u64::from).sum();
    let rest: u64 = lacking(&layout, &held).into_iter().map(u64::from).sum();
    assert_eq!(all, layout.transfer_bytes());
    let whole: BTreeSet<SegmentHash> = layout.segments().iter().map(|segment| segment.hash).collect();
    assert!(lacking(&layout, &whole).iter().all(|bytes| *bytes == 0));
    // The first million bytes are cut alike but for the last segments.
    assert!((600_000..=1_300_000).contains(&rest), "{rest} of {all}");
}
