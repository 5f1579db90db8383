//! The coordinator starts anew while nodes read: what they report is its ledger again.

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_proto::limits::{HOLDER_GRACE, RETURN_MAX};
use shoal_proto::rollout::Outcome;
use shoal_proto::wire::ToCoordinator;

use crate::plan::{A, B, MIB, content, deployment, package};
use crate::site::Site;

/// Two nodes in the middle of a package: each has landed a block, read a part of another, and holds leases.
fn half_way() -> (Site, shoal_proto::manifest::Package) {
    let web = package("web", 400);
    let mut site = Site::new(2);
    site.create(&deployment(1, &[&web], &[A, B]));
    for node in [A, B] {
        site.read(node, 1);
        site.pass(Duration::from_millis(300));
        site.read_part(node, MIB / 2);
        assert!(site.agents[node].to_read(content(&web)).len() > 1);
    }
    (site, web)
}

#[test]
fn reports_rebuild_the_ledger_and_nothing_is_read_twice() {
    let (mut site, web) = half_way();
    let web_content = content(&web);
    site.crash_coordinator();
    let held: Vec<BTreeSet<u32>> =
        [A, B].iter().map(|node| site.agents[*node].to_read(web_content).into_iter().collect()).collect();
    let landed: BTreeSet<u32> = site.agents[A].blocks(web_content).into_iter().collect();
    assert_eq!(landed.len(), 2);
    let before = [A, B].map(|node| site.granted(node, web_content).len());
    site.start_coordinator();
    site.connect(A);
    site.pass(Duration::from_secs(1));
    assert_eq!(site.granted(A, web_content).len(), before[A], "B may hold anything: it is waited for");
    site.connect(B);
    site.pass(Duration::from_secs(1));
    for (node, other) in [(A, B), (B, A)] {
        let granted = site.granted(node, web_content).split_off(before[node]);
        let granted: BTreeSet<u32> = granted.into_iter().flat_map(|(_, blocks)| blocks).collect();
        assert!(granted.is_disjoint(&landed), "node {node} is granted what is there: {granted:?}");
        assert!(granted.is_disjoint(&held[other]), "node {node} is granted what node {other} reads: {granted:?}");
        assert!(granted.is_disjoint(&held[node]), "node {node} is granted what it reads: {granted:?}");
    }
    let read = site.wan_bytes(web_content);
    site.finish();
    assert_eq!(site.view(1).rollout.outcome, Some(Outcome::Succeeded));
    assert!(read < web.size && site.wan_bytes(web_content) == web.size);
}

#[test]
fn who_does_not_return_is_not_waited_for_longer_than_it_takes() {
    let (mut site, web) = half_way();
    site.crash_coordinator();
    site.crash(B);
    let before = site.granted(A, content(&web)).len();
    site.start_coordinator();
    site.connect(A);
    site.pass(RETURN_MAX - Duration::from_millis(1));
    assert_eq!(site.granted(A, content(&web)).len(), before);
    site.pass(Duration::from_millis(1));
    assert!(site.granted(A, content(&web)).len() > before);
    site.finish();
    assert_eq!(site.agents[A].blocks(content(&web)).len(), 400);
    // What B read of a block was on its disk alone.
    assert_eq!(site.wan_bytes(content(&web)), web.size + u64::from(MIB / 2));
}

#[test]
fn what_was_read_while_the_coordinator_was_away_is_told_and_counts_once() {
    for restarted in [true, false] {
        let (mut site, web) = half_way();
        let web_content = content(&web);
        if restarted {
            site.crash_coordinator();
        } else {
            site.disconnect(A);
        }
        let known = if restarted { 0 } else { site.live(1).read_bytes };
        // Its leases end, and nobody hears of it.
        site.read(A, 400);
        assert!(site.agents[A].running().reads.is_empty());
        let before = site.reports.len();
        if restarted {
            site.start_coordinator();
            site.connect(B);
        }
        site.connect(A);
        // A says it again each time that it connects, which is nothing new.
        for _ in 0..3 {
            site.disconnect(A);
            site.pass(Duration::from_secs(1));
            site.connect(A);
        }
        let ends = site.reports[before..].iter().filter_map(|(from, report)| match report {
            ToCoordinator::LeaseEnded { end, .. } if end.read_bytes > 0 => Some((*from, end.lease, end.read_bytes)),
            _ => None,
        });
        let of_a: Vec<_> = ends.clone().filter(|(from, ..)| *from == A).collect();
        let unique: BTreeSet<_> = ends.collect();
        let of_a_unique = unique.iter().filter(|(from, ..)| *from == A).count();
        assert!(of_a_unique > 0 && of_a.len() == 4 * of_a_unique, "{of_a:?}");
        let read: u64 = unique.iter().map(|(_, _, bytes)| bytes).sum();
        assert_eq!(site.live(1).read_bytes, known + read, "restarted: {restarted}, {unique:?}");
        assert_eq!(site.live(1).budget_used_bytes, 0, "a first reading is nobody's second");
        site.finish();
        assert_eq!(site.wan_bytes(web_content), web.size);
    }
}

#[test]
fn a_short_absence_costs_nothing_and_a_long_one_is_paid_from_the_budget() {
    for away in [HOLDER_GRACE / 2, HOLDER_GRACE * 2] {
        let (mut site, web) = half_way();
        let held: BTreeSet<u32> = site.agents[A].to_read(content(&web)).into_iter().collect();
        site.disconnect(A);
        let before = site.granted(B, content(&web)).len();
        site.pass(away);
        let granted = site.granted(B, content(&web)).split_off(before);
        let taken = granted.iter().flat_map(|(_, blocks)| blocks).filter(|block| held.contains(block)).count();
        site.connect(A);
        site.finish();
        let wasted = site.wan_bytes(content(&web)) - web.size;
        if away < HOLDER_GRACE {
            assert_eq!((taken, wasted), (0, 0));
        }
        assert!(wasted <= web.size / 100, "{wasted} bytes were read again after {away:?}");
        assert_eq!(site.view(1).rollout.outcome, Some(Outcome::Succeeded));
    }
}

#[test]
fn what_is_granted_to_a_node_that_returns_is_not_taken_for_lost() {
    let web = package("web", 800);
    let mut site = Site::new(2);
    site.create(&deployment(1, &[&web], &[A, B]));
    let mut returns_with_leases = 0;
    for _ in 0..8 {
        site.read(A, 40);
        site.read(B, 1);
        site.disconnect(A);
        // What A landed is with B when A is back, so that it may be granted more at once.
        site.pass(Duration::from_secs(1));
        site.connect(A);
        let (mut leased, mut leases) = (BTreeSet::new(), 0);
        for read in [A, B].iter().flat_map(|node| &site.agents[*node].process.as_ref().unwrap().reads) {
            leases += 1;
            let blocks = read.grant.blocks.iter().flat_map(|range| range.iter());
            blocks.for_each(|block| assert!(leased.insert(block), "{block} is leased twice"));
        }
        returns_with_leases += usize::from(!site.agents[A].running().reads.is_empty());
        assert_eq!(site.live(1).leases, leases, "the ledger knows of each");
    }
    assert!(returns_with_leases > 1, "{returns_with_leases}");
    site.finish();
    assert_eq!(site.view(1).sites[0].wan.read_bytes, web.size, "each byte is counted once");
}
