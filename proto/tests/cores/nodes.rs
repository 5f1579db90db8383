//! What one node does: after a restart, after a reconnect, with a roster that changes, and with messages that come twice,
//! late or from the wrong place.

use std::time::Duration;

use shoal_proto::content::BlockSet;
use shoal_proto::coordinator::Notice;
use shoal_proto::id::{BlockIndex, DeploymentId, Generation, NodeId};
use shoal_proto::limits::LIAR_REST;
use shoal_proto::node::{Input, Output};
use shoal_proto::rollout::Outcome;
use shoal_proto::wan::Lacking;
use shoal_proto::wire::{ToCoordinator, ToNeighbour, ToNode};

use crate::plan::{A, B, C, MIB, content, deployment, id, package};
use crate::site::Site;

/// What a node said of a package last.
fn last_wants(site: &Site, node: usize, of: shoal_proto::id::ContentId) -> (Vec<Lacking>, usize) {
    let said = site.reports.iter().rev().find_map(|(from, report)| match report {
        ToCoordinator::Wants { content, lacking, held } if *from == node && *content == of => {
            Some((lacking.clone(), held.len()))
        }
        _ => None,
    });
    said.expect("it wants it")
}

#[test]
fn a_node_that_starts_again_goes_on_with_what_its_disk_has() {
    let web = package("web", 400);
    let mut site = Site::new(2);
    site.create(&deployment(1, &[&web], &[A, B]));
    site.read(A, 1);
    site.pass(Duration::from_millis(300));
    site.read(B, 1);
    site.pass(Duration::from_millis(300));
    site.read_part(A, MIB / 4);
    let there = site.agents[A].blocks(content(&web));
    assert_eq!(there.len(), 2, "one of each");
    site.crash(A);
    site.start(A);
    site.connect(A);
    let (lacking, held) = last_wants(&site, A, content(&web));
    assert_eq!((lacking.len(), held), (398, 0), "leases are the process's");
    let parts: Vec<_> = lacking.iter().filter(|part| part.bytes < MIB).map(|part| part.bytes).collect();
    assert_eq!(parts, [MIB * 3 / 4]);
    assert!(site.live(1).budget_used_bytes <= 256 * 1024, "but for the segment in doubt, what it had not read is free");
    site.finish();
    assert_eq!(site.view(1).rollout.outcome, Some(Outcome::Succeeded));
    assert_eq!(site.wan_bytes(content(&web)), web.size);
}

#[test]
fn neighbours_that_meet_again_tell_each_other_all_that_they_have() {
    let web = package("web", 400);
    let mut site = Site::new(2);
    site.create(&deployment(1, &[&web], &[A, B]));
    site.trades = false;
    let read = site.read(A, 3);
    site.pass(Duration::from_secs(1));
    // B asked for them; then the connection broke, and with it what was under way.
    site.trades = true;
    site.reconnect(A, B);
    site.pass(Duration::from_secs(1));
    assert!(read > 0);
    assert_eq!(site.agents[B].blocks(content(&web)), site.agents[A].blocks(content(&web)));
    let asked: Vec<_> = site.agents[B].running().fetches.clone();
    assert_eq!(asked, [], "nothing is waited for");
}

#[test]
fn a_node_says_its_state_again_on_each_connection() {
    let (web, tools) = (package("web", 400), package("tools", 2));
    let mut site = Site::new(2);
    site.store(A, &tools, [0, 1].into_iter());
    site.create(&deployment(1, &[&web, &tools], &[A, B]));
    site.read(A, 1);
    site.pass(Duration::from_millis(300));
    let held = site.agents[A].running().reads.len();
    site.disconnect(A);
    let before = site.reports.len();
    site.read(A, 1);
    site.connect(A);
    let said = site.reports.split_off(before).into_iter().filter(|(node, _)| *node == A);
    let said: Vec<_> = said.map(|(_, report)| report).collect();
    assert!(matches!(said[0], ToCoordinator::Hello(_)));
    let wants = |report: &&ToCoordinator| match report {
        ToCoordinator::Wants { content: of, lacking, held: leases } if *of == content(&web) => {
            // A lease that ended meanwhile is named as well, without blocks: its end is said next.
            lacking.len() == 398 && leases.len() == held
        }
        _ => false,
    };
    assert_eq!(said.iter().filter(wants).count(), 1, "{said:?}");
    let tools_there =
        |report: &&ToCoordinator| matches!(report, ToCoordinator::Acquired { package, .. } if package.0 == 1);
    assert!(said.iter().any(|report| tools_there(&report)), "a result is said again");
    let while_away = site.wan.len();
    assert_eq!(while_away, 2, "it reads on for the leases that it holds");
}

#[test]
fn a_roster_that_changes_in_the_middle_of_a_fetch_moves_the_fetch() {
    let web = package("web", 40);
    let mut site = Site::new(4);
    let late = 3;
    site.crash(late);
    site.store(B, &web, 0..40);
    site.trades = false;
    site.create(&deployment(1, &[&web], &[A, B, late]));
    site.pass(Duration::from_secs(1));
    let asked = |site: &mut Site| {
        let fetches = site.agents[A].running().fetches.iter();
        fetches.map(|(from, _, _)| *from).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(asked(&mut site), [B].into(), "B is the only one that has anything");
    // One with everything joins, and B leaves with what was asked of it.
    site.store(late, &web, 0..40);
    site.start(late);
    site.connect(late);
    site.pass(Duration::from_secs(1));
    site.disconnect(B);
    site.pass(Duration::from_secs(1));
    assert!(!site.agents[A].running().links.contains(&B), "rosters name who is connected");
    assert_eq!(asked(&mut site), [late].into());
    let rosters = site.orders.iter().filter(|(to, order)| *to == A && matches!(order, ToNode::Roster(_))).count();
    assert!(rosters >= 3, "A was told of each change");
    site.trades = true;
    site.connect(B);
    site.finish();
    assert_eq!(site.agents[A].blocks(content(&web)).len(), 40);
    assert_eq!(site.wan_bytes(content(&web)), 0);
}

#[test]
fn rosters_are_told_once_for_nodes_that_come_together() {
    let mut site = Site::new(3);
    let rosters = |site: &Site| site.orders.iter().filter(|(_, order)| matches!(order, ToNode::Roster(_))).count();
    assert_eq!(rosters(&site), 3, "one each");
    site.disconnect(B);
    site.disconnect(C);
    assert_eq!(rosters(&site), 3);
    site.pass(Duration::from_millis(200));
    assert_eq!(rosters(&site), 4, "A alone is left to tell");
}

#[test]
fn orders_of_an_older_generation_are_refused() {
    let web = package("web", 4);
    let mut site = Site::new(1);
    site.create(&deployment(1, &[&web], &[A]));
    let (deployment, newer, older) = (DeploymentId(1), Generation(50), Generation(49));
    site.order(A, ToNode::Acquire { deployment, generation: newer });
    site.order(A, ToNode::StopAcquire { deployment, generation: older });
    assert_eq!(site.agents[A].running().closed, [], "it goes on");
    let mut manifest = crate::plan::deployment(1, &[&web], &[A]);
    manifest.steps = vec![crate::plan::step("new")];
    site.tell_node(A, Input::Deploy { manifest: Box::new(manifest), generation: older });
    let run = crate::plan::first_run(1);
    site.order(A, ToNode::Run { run, generation: newer });
    assert_eq!(site.agents[A].running().started_steps, [], "an older manifest does not replace a newer one");
    site.order(A, ToNode::StopAcquire { deployment, generation: newer });
    assert!(site.agents[A].running().closed.contains(&content(&web)));
    site.order(A, ToNode::Acquire { deployment, generation: older });
    assert!(!site.agents[A].running().reads.iter().any(|read| read.grant.content == content(&web)), "nor begins again");
    let opened = site.reports.iter().filter(|(_, report)| matches!(report, ToCoordinator::Wants { .. })).count();
    site.order(A, ToNode::Acquire { deployment, generation: newer });
    let again = site.reports.iter().filter(|(_, report)| matches!(report, ToCoordinator::Wants { .. })).count();
    assert_eq!(again, opened + 2, "the package and its recipe");
}

#[test]
fn a_grant_that_comes_twice_is_read_once_and_an_impossible_one_not_at_all() {
    let web = package("web", 40);
    let mut site = Site::new(1);
    site.create(&deployment(1, &[&web], &[A]));
    let grant = site.agents[A].running().reads[0].grant.clone();
    let (reads, ends) = (site.agents[A].running().reads.len(), site.reports.len());
    site.order(A, ToNode::Grant(grant.clone()));
    assert_eq!(site.agents[A].running().reads.len(), reads);
    assert_eq!(site.reports.len(), ends, "it is not answered either: it is being read");
    let mut wrong = grant;
    wrong.lease.0 += 1000;
    wrong.blocks[0].end = BlockIndex(41);
    site.order(A, ToNode::Grant(wrong));
    assert_eq!(site.agents[A].running().reads.len(), reads);
    assert!(matches!(&site.reports[ends].1, ToCoordinator::LeaseEnded { end, .. } if end.read_bytes == 0));
}

#[test]
fn only_neighbours_are_heard_and_served() {
    let web = package("web", 4);
    let mut site = Site::new(2);
    site.store(A, &web, 0..4);
    site.trades = false;
    site.create(&deployment(1, &[&web], &[A, B]));
    let ask = |node| Input::UploadAsked {
        node: id(node),
        request: 900,
        content: content(&web),
        block: BlockIndex(0),
        bytes: 1,
    };
    let process = site.agents[A].running();
    let now = shoal_proto::time::Time::from_millis(5000);
    let outputs = |process: &mut crate::agent::Process, input| {
        process.core.handle(input, now);
        std::iter::from_fn(|| process.core.poll()).collect::<Vec<_>>()
    };
    let served = |outputs: &[Output]| outputs.iter().any(|output| matches!(output, Output::Serve { request: 900, .. }));
    let refused =
        |outputs: &[Output]| outputs.iter().any(|output| matches!(output, Output::Refuse { request: 900, .. }));
    let (stranger, neighbour) = (outputs(process, ask(C)), outputs(process, ask(B)));
    assert!(refused(&stranger) && !served(&stranger), "{stranger:?}");
    assert!(served(&neighbour) && !refused(&neighbour), "{neighbour:?}");
    let all = ToNeighbour::Has { content: content(&web), blocks: BlockSet::full(4) };
    assert!(outputs(process, Input::Neighbour { from: id(C), message: all }).is_empty(), "no answer to a stranger");
}

#[test]
fn a_neighbour_that_sends_wrong_bytes_is_reported_and_the_rest_comes_from_others() {
    let web = package("web", 8);
    let mut site = Site::new(3);
    site.liars.insert(B);
    site.store(B, &web, 0..8);
    site.store(C, &web, 0..8);
    site.create(&deployment(1, &[&web], &[A, B, C]));
    site.finish();
    assert_eq!(site.view(1).rollout.outcome, Some(Outcome::Succeeded));
    assert_eq!(site.wan_bytes(content(&web)), 0);
    assert_eq!(lies(&site), [(id(A), id(B))]);
}

#[test]
fn a_node_whose_only_source_lied_once_completes_without_an_operator() {
    let web = package("web", 8);
    let mut site = Site::new(2);
    site.liars.insert(B);
    site.store(B, &web, 0..8);
    site.create(&deployment(1, &[&web], &[A, B]));
    site.liars.clear();
    site.pass(LIAR_REST / 2);
    site.reconnect(A, B);
    site.pass(LIAR_REST / 3);
    assert_eq!((site.view(1).rollout.outcome, lies(&site).len()), (None, 1));
    site.pass(LIAR_REST);
    assert_eq!(site.view(1).rollout.outcome, Some(Outcome::Succeeded));
    assert_eq!(site.wan_bytes(content(&web)), 0, "it had no budget for a block of this size");
}

#[test]
fn a_neighbour_that_lies_again_is_reported_again_and_never_asked_any_more() {
    let web = package("web", 8);
    let mut site = Site::new(2);
    site.liars.insert(B);
    site.store(B, &web, 0..8);
    site.create(&deployment(1, &[&web], &[A, B]));
    site.pass(LIAR_REST * 2);
    assert_eq!(lies(&site), [(id(A), id(B)); 2]);
    // It is mended, it connects anew with its neighbours and with the coordinator: who tells it from a liar?
    site.liars.clear();
    site.reconnect(A, B);
    site.disconnect(B);
    site.pass(LIAR_REST);
    site.connect(B);
    site.pass(LIAR_REST * 10);
    assert_eq!(site.agents[A].blocks(content(&web)), [] as [u32; 0]);
    // Another process of A asks it again.
    site.crash(A);
    site.start(A);
    site.connect(A);
    site.pass(Duration::from_secs(1));
    assert_eq!(site.view(1).rollout.outcome, Some(Outcome::Succeeded));
}

/// Who reported whom, in order.
fn lies(site: &Site) -> Vec<(NodeId, NodeId)> {
    let lied = site.notices.iter().filter_map(|notice| match notice {
        Notice::Lied { by, neighbour, .. } => Some((*by, *neighbour)),
        _ => None,
    });
    lied.collect()
}
