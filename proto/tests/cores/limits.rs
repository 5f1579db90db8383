//! A site's WAN limit: what its readers may read together, whoever is out of whose reach.

use std::time::Duration;

use shoal_proto::coordinator::Input;
use shoal_proto::limits::{COORDINATOR_GRACE, HOLDER_GRACE, RETURN_MAX, VIEW_SETTLED};
use shoal_proto::manifest::Package;
use shoal_proto::time::WallTime;
use shoal_proto::wan::calendar::Override;
use shoal_proto::wire::{ToNode, WanRates};

use crate::plan::{A, B, C, deployment, name, package};
use crate::site::Site;

const LIMIT: u64 = 3_000_000;

const SECOND: Duration = Duration::from_secs(1);

/// A site of three with a limit that all read under.
fn reading(limit: u64) -> (Site, Package) {
    let web = package("web", 2_000);
    let mut site = Site::new(3);
    site.limit(Some(limit));
    site.create(&deployment(1, &[&web], &[A, B, C]));
    for _ in 0..5 {
        site.pass(SECOND);
        site.all_read(1);
    }
    assert!(site.agents.iter().all(|agent| !agent.process.as_ref().unwrap().reads.is_empty()), "all read");
    (site, web)
}

fn rate(site: &Site, node: usize) -> Option<u64> {
    site.agents[node].process.as_ref().unwrap().wan_rate
}

/// What nodes that have something to read may read together; none if one of them has no limit.
fn sum(site: &Site) -> Option<u64> {
    let processes = site.agents.iter().filter_map(|agent| agent.process.as_ref());
    processes.filter(|process| !process.reads.is_empty()).map(|process| process.wan_rate).sum()
}

fn assert_used(site: &Site, limit: u64) {
    let sum = sum(site).expect("all have a limit");
    assert!(sum <= limit && sum >= limit / 100 * 95, "{sum} of {limit}");
}

#[test]
fn a_limit_is_divided_and_may_change_under_way() {
    let (mut site, _) = reading(LIMIT);
    assert_used(&site, LIMIT);
    site.limit(Some(LIMIT / 10));
    // Who has to read less is told at once.
    assert!(sum(&site).unwrap() <= LIMIT / 10);
    site.pass(SECOND);
    assert_used(&site, LIMIT / 10);
    site.limit(None);
    assert_eq!([A, B, C].map(|node| rate(&site, node)), [None; 3]);
    site.limit(Some(LIMIT));
    site.pass(SECOND);
    assert_used(&site, LIMIT);
}

#[test]
fn the_share_of_a_lost_node_goes_to_the_others_and_it_waits() {
    let (mut site, _) = reading(LIMIT);
    let before = rate(&site, A);
    site.disconnect(A);
    site.pass(SECOND);
    assert_eq!(rate(&site, A), before, "its leases are kept for a while");
    site.pass(HOLDER_GRACE);
    assert_eq!(rate(&site, A), Some(0));
    site.pass(2 * SECOND);
    assert_used(&site, LIMIT);
    assert!(rate(&site, B) > before);
    site.connect(A);
    site.pass(2 * SECOND);
    assert_used(&site, LIMIT);
}

#[test]
fn a_crashed_reader_is_told_its_share_when_it_is_back() {
    let (mut site, _) = reading(LIMIT);
    site.crash(A);
    site.start(A);
    site.connect(A);
    assert!(rate(&site, A).is_some(), "its process has forgotten what it was told, and is told again");
    site.pass(2 * SECOND);
    site.all_read(1);
    site.pass(2 * SECOND);
    assert!(rate(&site, A) > Some(0));
    assert_used(&site, LIMIT);
}

#[test]
fn deputies_share_the_limit_that_held_last() {
    let (mut site, _) = reading(LIMIT);
    site.crash_coordinator();
    let grace = COORDINATOR_GRACE + VIEW_SETTLED;
    for _ in 0..grace.as_secs() + 20 {
        site.pass(SECOND);
        site.all_read(1);
        assert!(sum(&site).unwrap() <= LIMIT);
    }
    assert_eq!([A, B, C].map(|node| rate(&site, node)), [Some(LIMIT / 3); 3]);
}

/// A coordinator that was started anew, and of whose nodes one is back.
fn restarted() -> Site {
    let (mut site, _) = reading(LIMIT);
    site.crash_coordinator();
    site.start_coordinator();
    site.limit(Some(LIMIT));
    site.connect(B);
    site
}

#[test]
fn who_is_back_first_after_a_restart_does_not_get_what_the_others_may_still_read() {
    let mut site = restarted();
    for _ in 0..RETURN_MAX.as_secs() + 1 {
        assert!(sum(&site).unwrap() <= LIMIT, "{:?}", [A, B, C].map(|node| rate(&site, node)));
        site.pass(SECOND);
        site.all_read(1);
    }
    assert_eq!([A, B, C].map(|node| rate(&site, node)), [Some(0), Some(LIMIT), Some(0)]);
    let mut site = restarted();
    [A, C].into_iter().for_each(|node| site.connect(node));
    site.pass(2 * SECOND);
    assert_used(&site, LIMIT);
}

/// As where one was told its part by a coordinator that knew of no other reader, and was lost before it heard of them.
#[test]
fn parts_of_two_reckonings_keep_the_limit_once_the_coordinator_is_away() {
    let (mut site, _) = reading(LIMIT);
    let whole = Some(LIMIT);
    site.order(B, ToNode::WanRate(WanRates { rate: whole, away: whole, alone: whole }));
    assert_eq!(rate(&site, B), whole);
    site.crash_coordinator();
    let grace = COORDINATOR_GRACE + VIEW_SETTLED;
    for _ in 0..grace.as_secs() + 20 {
        assert!(sum(&site).unwrap() <= LIMIT, "{:?}", [A, B, C].map(|node| rate(&site, node)));
        site.pass(SECOND);
        site.all_read(1);
    }
    assert_used(&site, LIMIT);
}

#[test]
fn what_an_operator_set_outlives_the_coordinator() {
    let mut site = Site::new(1);
    let set = Override { limit: Some(LIMIT), until: Some(WallTime(9_000_000)) };
    let over = |site: &Site| site.coordinator.as_ref().unwrap().limit_override(&name("syd"));
    for limit in [Some(set), None] {
        site.operator_says(Input::OverrideLimit { site: name("syd"), limit });
        site.crash_coordinator();
        site.start_coordinator();
        assert_eq!(over(&site), limit);
    }
}
