//! What crosses on its way: grants, revocations and ends of leases; and what is granted to a node that is stuck.

use std::time::Duration;

use shoal_proto::coordinator::Notice;
use shoal_proto::id::{BlockIndex, LeaseId};
use shoal_proto::limits::{STUCK_AFTER, STUCK_GRANT_EVERY};
use shoal_proto::node::Input;
use shoal_proto::origin::HttpOrigin;
use shoal_proto::rollout::Operator;
use shoal_proto::wan::{self, BlockRange};
use shoal_proto::wire::{ToCoordinator, ToNode};

use crate::plan::{A, B, MIB, content, deployment, package};
use crate::site::Site;

#[test]
fn a_grant_for_a_content_that_the_node_has_closed_goes_to_another() {
    let web = package("web", 40);
    let mut site = Site::new(2);
    site.create(&deployment(1, &[&web], &[A, B]));
    site.goes_deaf(A);
    let leased = site.agents[A].to_read(content(&web)).len();
    site.read(A, leased);
    site.pass(Duration::from_millis(300));
    let on_its_way = site.unheard(A).into_iter().filter(|message| matches!(message, ToNode::Grant(_))).count();
    assert!(on_its_way > 0, "B has what A read, so that A is granted more");
    site.tell_node(A, Input::SealFailed { content: content(&web), cause: "no space left on device".to_owned() });
    site.hears_again(A);
    assert!(site.agents[A].running().reads.is_empty(), "it reads nothing for a content that it has closed");
    let answers = site.reports.iter().filter(|(from, report)| {
        *from == A && matches!(report, ToCoordinator::LeaseEnded { end, .. } if end.read_bytes == 0)
    });
    assert!(answers.count() >= on_its_way, "and says so of each");
    site.finish();
    assert_eq!(site.agents[B].blocks(content(&web)).len(), 40);
    assert_eq!(site.wan_bytes(content(&web)), web.size, "B read the rest, and nothing twice");
    assert_eq!(site.live(1).budget_used_bytes, 0);
}

#[test]
fn a_revocation_that_crosses_the_end_of_its_lease_changes_nothing() {
    let web = package("web", 400);
    let mut site = Site::new(2);
    site.disconnect(B);
    site.create(&deployment(1, &[&web], &[A, B]));
    site.goes_deaf(A);
    site.connect(B);
    let revoked = site.unheard(A).into_iter().find_map(|message| match message {
        ToNode::Revoke { lease, .. } => Some(*lease),
        _ => None,
    });
    let revoked = revoked.expect("A alone had more at stake than two may");
    // It has read all that it was granted when it hears of it.
    while site.agents[A].running().reads.iter().any(|read| read.grant.lease == revoked) {
        site.read(A, 1);
    }
    let (read, charged) = (site.live(1).read_bytes, site.live(1).charged_bytes);
    site.hears_again(A);
    assert!(charged >= read);
    assert!(site.live(1).read_bytes == read && site.live(1).charged_bytes >= read, "nothing is taken back");
    site.finish();
    assert_eq!(site.wan_bytes(content(&web)), web.size);
    assert_eq!(site.view(1).sites[0].wan.read_bytes, web.size, "each byte was read once, and is counted once");
}

#[test]
fn a_cancelled_deployments_leases_end_and_what_was_read_for_them_counts() {
    let web = package("web", 40);
    let mut site = Site::new(2);
    site.create(&deployment(1, &[&web], &[A, B]));
    site.read(A, 1);
    site.pass(Duration::from_millis(300));
    site.read_part(A, MIB / 2);
    site.read_part(B, MIB / 4);
    site.operate(1, Operator::Cancel);
    for node in [A, B] {
        assert!(site.agents[node].running().reads.is_empty(), "node {node} reads on");
        assert!(site.agents[node].running().closed.contains(&content(&web)));
    }
    let view = site.view(1);
    assert!(view.rollout.outcome.is_some());
    assert_eq!(view.sites[0].wan.read_bytes, site.wan_bytes(content(&web)), "a block and two parts");
}

#[test]
fn what_was_read_for_a_cancelled_deployment_is_not_free_for_another() {
    let web = package("web", 40);
    let mut site = Site::new(2);
    site.create(&deployment(1, &[&web], &[A]));
    site.create(&deployment(2, &[&web], &[B]));
    site.read(A, 1);
    site.pass(Duration::from_millis(300));
    site.read_part(A, MIB / 4);
    site.operate(1, Operator::Cancel);
    assert_eq!(site.live(2).read_bytes, site.wan_bytes(content(&web)));
    site.finish();
    assert_eq!(site.agents[B].blocks(content(&web)).len(), 40);
    let view = site.view(2);
    assert_eq!(
        view.sites[0].wan.read_bytes,
        site.wan_bytes(content(&web)),
        "A's part of a block is read again, and counts"
    );
}

#[test]
fn the_late_end_of_a_cancelled_deployments_lease_is_not_taken_for_that_of_the_next() {
    let web = package("web", 40);
    let mut site = Site::new(1);
    site.create(&deployment(1, &[&web], &[A]));
    let before: Vec<_> = site.granted(A, content(&web));
    site.linger.insert(A);
    site.read_part(A, MIB / 4);
    site.operate(1, Operator::Cancel);
    site.create(&deployment(2, &[&web], &[A]));
    let granted = site.granted(A, content(&web)).split_off(before.len());
    assert!(!granted.is_empty(), "it is granted leases anew");
    site.stops(A);
    let after = site.granted(A, content(&web)).split_off(before.len());
    assert_eq!(after, granted, "what ended is none of these, so that nothing of them is granted again");
    assert_eq!(site.view(1).sites[0].wan.read_bytes, u64::from(MIB / 4), "and is of the first deployment");
    site.finish();
    assert!(site.view(2).rollout.outcome.is_some());
    assert_eq!(site.wan_bytes(content(&web)), web.size);
}

#[test]
fn a_stuck_node_is_granted_what_the_budget_pays_for_and_once() {
    let web = package("web", 1);
    let block = 64 * 1024;
    let mut site = Site::new(2);
    site.publish(&web, block);
    site.store(A, &web, 0..16);
    site.trades = false;
    site.create(&deployment(1, &[&web], &[A, B]));
    assert_eq!(site.granted(B, content(&web)), [], "the site has it all");
    site.pass(STUCK_AFTER);
    let granted = |site: &Site| site.granted(B, content(&web)).into_iter().flat_map(|(_, blocks)| blocks).count();
    assert_eq!(granted(&site), 4, "256 KiB");
    let empty = site.notices.iter().filter(|notice| {
        matches!(notice, Notice::Wan { notice: wan::Notice::BudgetEmpty { wanted_bytes: 786_432, .. }, .. })
    });
    assert_eq!(empty.count(), 1, "{:?}", site.notices);
    // Said again at once, and by somebody who does not want it, it changes nothing.
    let all = vec![BlockRange { start: BlockIndex(0), end: BlockIndex(u32::MAX) }];
    for node in [A, B] {
        site.say(node, ToCoordinator::Stuck { content: content(&web), blocks: all.clone() });
    }
    assert_eq!(granted(&site), 4);
    assert_eq!(site.granted(A, content(&web)), []);
    site.allow_reading(&web, 12 * u64::from(block));
    assert_eq!(granted(&site), 16);
    site.read(B, 16);
    site.pass(STUCK_GRANT_EVERY * 2);
    assert_eq!(site.agents[B].blocks(content(&web)).len(), 16);
    assert_eq!(site.wan_bytes(content(&web)), web.size);
    assert!(site.view(1).rollout.outcome.is_some(), "{:?}", site.view(1).rollout.nodes);
}

#[test]
fn only_a_lease_that_is_read_is_told_of_a_refusal_and_renewed() {
    let web = package("web", 40);
    let mut site = Site::new(1);
    site.create(&deployment(1, &[&web], &[A]));
    let (content, lease) = (content(&web), site.agents[A].running().reads[0].grant.lease);
    let origin = || HttpOrigin {
        url: "http://feed/web?signature=2".into(),
        headers: Vec::new(),
        size: web.size,
        etag: None,
        last_modified: None,
        ca_pem: None,
    };
    for (asked, counts) in [(lease, true), (LeaseId(lease.0 + 1000), false)] {
        let said = ToCoordinator::Denied { content, lease: asked };
        site.tell_node(A, Input::Denied { content, lease: asked });
        assert_eq!(site.reports.iter().any(|(_, report)| *report == said), counts, "{asked:?}");
        site.order(A, ToNode::Renewed { content, lease: asked, origin: origin() });
        assert_eq!(site.agents[A].running().renewed.contains(&asked), counts, "{asked:?}");
    }
    site.finish();
    assert_eq!(site.wan_bytes(content), web.size);
    site.order(A, ToNode::Renewed { content, lease, origin: origin() });
    assert_eq!(site.agents[A].running().renewed, [lease], "it is over");
}
