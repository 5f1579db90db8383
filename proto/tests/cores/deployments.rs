//! Who gets what: nodes that come late, nodes that are no targets, and deployments that want the same package.

use std::time::Duration;

use shoal_proto::coordinator::{Notice, Record};
use shoal_proto::id::{BlockIndex, DeploymentId, PackageIndex};
use shoal_proto::rollout::{Operator, Outcome, StepOutcome};
use shoal_proto::wan::Lacking;
use shoal_proto::wire::{AcquireStats, Hello, JoinProof, LeaseEnd, ToCoordinator, ToNode};

use crate::plan::{A, B, C, MIB, another, content, deployment, first_run, package, step};
use crate::site::{Site, hello};

fn orders_of(site: &Site, node: usize) -> Vec<&ToNode> {
    site.orders.iter().filter(|(to, _)| *to == node).map(|(_, order)| order).collect()
}

#[test]
fn a_target_that_comes_late_gets_everything_from_its_neighbours() {
    let web = package("web", 40);
    let mut site = Site::new(3);
    site.disconnect(C);
    site.create(&deployment(1, &[&web], &[A, B, C]));
    site.finish();
    assert_eq!(site.view(1).rollout.outcome, None, "the gate waits for C");
    site.connect(C);
    site.finish();
    assert_eq!(site.view(1).rollout.outcome, Some(Outcome::Succeeded));
    assert_eq!((site.wan_bytes(content(&web)), site.granted(C, content(&web))), (web.size, vec![]));
    let acquire = orders_of(&site, C).into_iter().filter(|order| matches!(order, ToNode::Acquire { .. }));
    let deploy = orders_of(&site, C).into_iter().filter(|order| matches!(order, ToNode::Deploy { .. }));
    assert_eq!((deploy.count(), acquire.count()), (1, 1), "and is told once");
}

#[test]
fn a_node_that_the_selector_did_not_match_gets_neither_orders_nor_leases() {
    let (web, tools) = (package("web", 40), package("tools", 40));
    let mut site = Site::new(3);
    site.disconnect(C);
    site.create(&deployment(1, &[&web], &[A, B]));
    site.create(&deployment(2, &[&tools], &[C]));
    // It joins while the others fetch, and wants what is none of its business.
    site.connect(C);
    let of_it = |order: &&ToNode| matches!(order, ToNode::Acquire { deployment, .. } if deployment.0 == 1);
    assert!(!orders_of(&site, C).iter().any(of_it));
    let lacking: Vec<_> = (0..40).map(|block| Lacking { block: BlockIndex(block), bytes: 1 }).collect();
    site.say(C, ToCoordinator::Wants { content: content(&web), lacking, held: Vec::new() });
    assert_eq!(site.granted(C, content(&web)), []);
    site.finish();
    assert_eq!(site.granted(C, content(&web)), [], "whoever lacks the fewest bytes");
    assert_eq!(site.view(1).rollout.outcome, Some(Outcome::Succeeded));
    assert_eq!(site.wan_bytes(content(&web)), web.size);
}

#[test]
fn what_strangers_and_bystanders_say_changes_nothing() {
    let web = package("web", 4);
    let mut site = Site::new(3);
    let mut manifest = deployment(1, &[&web], &[A, B]);
    manifest.steps = vec![step("restart")];
    site.create(&manifest);
    site.disconnect(C);
    let before = site.journal.len();
    let end = LeaseEnd {
        content: content(&web),
        lease: site.granted(A, content(&web))[0].0,
        read_bytes: u64::from(MIB),
        landed: Vec::new(),
        outcome: shoal_proto::wan::Outcome::Done,
        fault: None,
    };
    let (id, package) = (DeploymentId(1), PackageIndex(0));
    let said = [
        ToCoordinator::Acquired { deployment: id, package, stats: AcquireStats::default() },
        ToCoordinator::AcquireFailed { deployment: id, package, cause: "no".to_owned() },
        ToCoordinator::StepStarted(first_run(1)),
        ToCoordinator::StepEnded { run: first_run(1), outcome: StepOutcome::Succeeded },
        ToCoordinator::LeaseEnded { end, begun: Vec::new() },
    ];
    let leases = site.live(1).leases;
    // Before its hello, then as a member that is no target.
    said.iter().for_each(|message| site.say(C, message.clone()));
    let refused = site.notices.iter().filter(|notice| matches!(notice, Notice::Refused { .. })).count();
    assert_eq!(refused, said.len(), "the first message of a connection is a hello");
    let hello = Hello { join: Some(JoinProof { token: 1, secret: [8; 32] }), ..hello(7) };
    site.say(7, ToCoordinator::Hello(hello));
    assert!(matches!(site.notices.last(), Some(Notice::Refused { .. })), "{:?}", site.notices.last());
    site.connect(C);
    said.into_iter().for_each(|message| site.say(C, message));
    assert_eq!(site.live(1).leases, leases, "another's lease goes on");
    assert_eq!(site.live(1).read_bytes, 0);
    let of_it = |record: &&Record| !matches!(record, Record::Directory(_));
    assert_eq!(site.journal[before..].iter().filter(of_it).count(), 0, "nothing of it is written down");
}

#[test]
fn two_deployments_of_one_package_read_it_once() {
    let web = package("web", 60);
    let mut site = Site::new(3);
    site.create(&deployment(1, &[&web], &[A, B]));
    site.read(A, 2);
    site.create(&another(2, &[&web], &[A, B, C]));
    site.finish();
    for number in [1, 2] {
        assert_eq!(site.view(number).rollout.outcome, Some(Outcome::Succeeded), "{number}");
    }
    assert_eq!(site.wan_bytes(content(&web)), web.size);
}

#[test]
fn a_package_goes_on_where_a_cancelled_deployment_left_it() {
    let web = package("web", 60);
    let mut site = Site::new(2);
    site.create(&deployment(1, &[&web], &[A, B]));
    for node in [A, B, A, B] {
        site.read(node, 1);
        site.pass(Duration::from_millis(300));
    }
    let landed = site.agents[A].blocks(content(&web));
    site.create(&another(2, &[&web], &[A, B]));
    let before = site.orders.len();
    site.operate(1, Operator::Cancel);
    site.finish();
    assert_eq!(site.view(2).rollout.outcome, Some(Outcome::Succeeded));
    assert_eq!(site.wan_bytes(content(&web)), web.size);
    let granted = site.orders.drain(before..).filter_map(|(_, order)| match order {
        ToNode::Grant(grant) => Some(grant.blocks),
        _ => None,
    });
    let granted: Vec<_> = granted.flatten().flat_map(|range| range.iter()).map(|block| block.0).collect();
    assert!(granted.iter().all(|block| !landed.contains(block)), "{landed:?} was there: {granted:?}");
}

#[test]
fn what_was_staged_is_not_read_again_for_a_node_that_comes_later() {
    let web = package("web", 40);
    let mut site = Site::new(3);
    site.create_with(&deployment(1, &[&web], &[A, B]), true);
    site.finish();
    assert_eq!(site.view(1).rollout.outcome, Some(Outcome::Succeeded));
    assert_eq!(site.wan_bytes(content(&web)), web.size);
    // Blocks between neighbours take their time: what the WAN could bring meanwhile it would.
    site.trades = false;
    site.create(&deployment(2, &[&web], &[A, B, C]));
    site.pass(Duration::from_secs(2));
    assert_eq!(site.granted(C, content(&web)), [], "A and B have it all");
    site.trades = true;
    site.reconnect(A, C);
    site.finish();
    assert_eq!(site.view(2).rollout.outcome, Some(Outcome::Succeeded));
    assert_eq!(site.wan_bytes(content(&web)), web.size);
}
