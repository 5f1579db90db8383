//! The coordinator is away: who of the site reads on, and what becomes of it when the coordinator is back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_proto::id::{BlockIndex, ContentId};
use shoal_proto::limits::{COORDINATOR_GRACE, DEPUTY_RUN_BYTES, REACH_HOPS_MAX, RETURN_MAX, VIEW_SETTLED};
use shoal_proto::manifest::Package;
use shoal_proto::node::Input;
use shoal_proto::rollout::Outcome;
use shoal_proto::wan::BlockRange;
use shoal_proto::wire::ToNeighbour;

use crate::plan::{A, B, C, MIB, content, deployment, id, package};
use crate::site::Site;

const RUN_BLOCKS: u32 = (DEPUTY_RUN_BYTES / MIB as u64) as u32;

/// A site that has read all that it was granted of a package of `runs` runs, with the coordinator gone.
fn left_alone(nodes: usize, runs: u32) -> (Site, Package) {
    let web = package("web", runs * RUN_BLOCKS);
    let mut site = Site::new(nodes);
    site.create(&deployment(1, &[&web], &(0..nodes).collect::<Vec<_>>()));
    site.crash_coordinator();
    while site.all_read(100) > 0 {
        site.pass(Duration::from_secs(1));
    }
    assert!(!site.agents[A].blocks(content(&web)).is_empty());
    (site, web)
}

/// Which run each node reads as a deputy, if it does; run 0 has the first blocks.
fn own_runs(site: &Site, of: ContentId) -> BTreeMap<usize, u32> {
    let reads = site.agents.iter().zip(0..).flat_map(|(agent, node)| {
        agent.process.iter().flat_map(|process| &process.reads).map(move |read| (node, read))
    });
    let own = reads.filter(|(_, read)| read.grant.lease.is_own() && read.grant.content == of);
    own.map(|(node, read)| (node, read.grant.blocks[0].start.0 / RUN_BLOCKS)).collect()
}

#[test]
fn each_run_is_read_once_and_by_the_deputy_that_all_agree_on() {
    let mut readers = Vec::new();
    // Also if none of them hears what the others read and have.
    for hears in [true, false] {
        let (mut site, web) = left_alone(3, 40);
        site.pass(COORDINATOR_GRACE - Duration::from_secs(10));
        site.slow_talk = !hears;
        let mut read = BTreeMap::new();
        for _ in 0..200 {
            let own = own_runs(&site, content(&web));
            for (node, run) in &own {
                assert_eq!(*read.entry(*run).or_insert(*node), *node, "two read run {run}, hears: {hears}");
            }
            site.all_read(2);
            site.pass(Duration::from_millis(600));
        }
        assert_eq!(site.wan_bytes(content(&web)), web.size, "each block crossed the WAN once, hears: {hears}");
        let nodes: BTreeSet<_> = read.values().collect();
        assert_eq!(nodes.len(), 3, "all of them read: {read:?}");
        readers.push(read);
        site.talk_arrives();
        site.pass(Duration::from_secs(1));
        assert!(
            [A, B, C].iter().all(|node| site.agents[*node].blocks(content(&web)).len() == 40 * RUN_BLOCKS as usize)
        );
    }
    assert_eq!(readers[0], readers[1], "it is a matter of content, run and keys");
}

#[test]
fn nobody_reads_before_the_time_of_grace_is_over() {
    let (mut site, web) = left_alone(2, 8);
    site.pass(COORDINATOR_GRACE - Duration::from_secs(10));
    assert_eq!(own_runs(&site, content(&web)), BTreeMap::new());
    site.pass(Duration::from_secs(12));
    assert!(!own_runs(&site, content(&web)).is_empty());
}

#[test]
fn a_deputy_waits_while_the_coordinator_reaches_one_of_its_neighbours() {
    let web = package("web", 8 * RUN_BLOCKS);
    let mut site = Site::new(3);
    site.create(&deployment(1, &[&web], &[A, B, C]));
    site.disconnect(A);
    site.disconnect(B);
    while [A, B].into_iter().map(|node| site.read(node, 100)).sum::<usize>() > 0 {}
    site.pass(COORDINATOR_GRACE * 4);
    assert_eq!(own_runs(&site, content(&web)), BTreeMap::new(), "C may still be granted leases");
    assert!(site.wan_bytes(content(&web)) < web.size);
}

#[test]
fn a_deputy_waits_while_one_some_hops_away_is_reached() {
    let (mut site, web) = left_alone(3, 8);
    // C alone sees somebody whom the coordinator reaches: it is in a part of the site that A and B do not see.
    site.crash(C);
    site.start(C);
    site.pass(COORDINATOR_GRACE + RETURN_MAX + VIEW_SETTLED * 2);
    let before = own_runs(&site, content(&web));
    assert!(before.contains_key(&A) && before.contains_key(&B), "without C both read: {before:?}");
    for hops in [0, 2, REACH_HOPS_MAX - 3] {
        site.tell_node(A, Input::NeighbourUp(id(C)));
        site.tell_node(A, Input::Neighbour { from: id(C), message: ToNeighbour::Reach { hops } });
        assert_eq!(own_runs(&site, content(&web)), BTreeMap::new(), "A tells B, and both yield");
        site.pass(COORDINATOR_GRACE * 2);
        assert_eq!(own_runs(&site, content(&web)), BTreeMap::new(), "{hops} hops");
        let message = ToNeighbour::Reach { hops: REACH_HOPS_MAX };
        site.tell_node(A, Input::Neighbour { from: id(C), message });
        site.pass(VIEW_SETTLED * 2);
        assert!(own_runs(&site, content(&web)).contains_key(&A), "C sees nobody any more");
    }
}

#[test]
fn a_deputy_yields_to_who_reads_for_the_coordinator() {
    let (mut site, web) = left_alone(2, 8);
    site.pass(COORDINATOR_GRACE + VIEW_SETTLED);
    let block = site.agents[A].to_read(content(&web))[0];
    let granted = vec![BlockRange { start: BlockIndex(block), end: BlockIndex(block + 1) }];
    let reading = ToNeighbour::Reading { content: content(&web), granted, own: Vec::new(), fails: false };
    site.tell_node(A, Input::Neighbour { from: id(B), message: reading });
    assert!(!site.agents[A].to_read(content(&web)).contains(&block), "it stops at once");
    site.pass(Duration::from_secs(5));
    assert!(!site.agents[A].to_read(content(&web)).contains(&block), "as long as B says so");
}

#[test]
fn another_deputy_takes_over_what_a_lost_one_read() {
    let (mut site, web) = left_alone(3, 12);
    site.pass(COORDINATOR_GRACE + VIEW_SETTLED);
    let lost = own_runs(&site, content(&web))[&B];
    site.crash(B);
    site.pass(RETURN_MAX + VIEW_SETTLED);
    let mut taken = false;
    for _ in 0..60 {
        taken |= own_runs(&site, content(&web)).values().any(|run| *run == lost);
        site.all_read(2);
        site.pass(Duration::from_millis(600));
    }
    assert!(taken);
    assert_eq!(site.agents[A].blocks(content(&web)).len(), 12 * RUN_BLOCKS as usize);
    assert_eq!(site.wan_bytes(content(&web)), web.size, "B had read nothing of it");
}

#[test]
fn what_deputies_read_is_told_to_the_coordinator_and_counts_once() {
    let (mut site, web) = left_alone(2, 20);
    site.pass(COORDINATOR_GRACE + VIEW_SETTLED);
    for _ in 0..4 {
        site.all_read(RUN_BLOCKS as usize);
        site.pass(Duration::from_secs(1));
    }
    let open = own_runs(&site, content(&web));
    assert!(!open.is_empty(), "some read on while the coordinator comes back");
    site.start_coordinator();
    site.connect(A);
    site.connect(B);
    site.pass(Duration::from_secs(1));
    let read = site.live(1).read_bytes;
    // All that was read for leases that are over, by whomever they were granted.
    let over = site.wan_bytes(content(&web));
    assert_eq!(read, over, "no more and no less");
    for node in [A, B, A] {
        site.disconnect(node);
        site.pass(Duration::from_secs(1));
        site.connect(node);
    }
    assert_eq!(site.live(1).read_bytes, read, "told again, it is nothing new");
    site.finish();
    assert_eq!(site.view(1).rollout.outcome, Some(Outcome::Succeeded));
    assert_eq!(site.wan_bytes(content(&web)), web.size);
    assert_eq!(site.view(1).sites[0].wan.read_bytes, web.size);
}
