//! Who is told to read a package in the coordinator's absence.

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_proto::id::{ContentId, NodeId};
use shoal_proto::limits::DEPUTIES_MAX;
use shoal_proto::manifest::{Manifest, Source};
use shoal_proto::wire::ToNode;

use crate::plan::{A, B, C, content, deployment, id, package};
use crate::site::Site;

/// Whom a node knows last as deputies for a content.
fn known(site: &Site, node: usize, of: ContentId) -> Option<Vec<NodeId>> {
    site.orders.iter().rev().find_map(|(to, order)| match order {
        ToNode::Standby(standby) if *to == node && standby.content == of => Some(standby.deputies.clone()),
        _ => None,
    })
}

fn ids(nodes: &[usize]) -> Option<Vec<NodeId>> {
    Some(nodes.iter().map(|node| id(*node)).collect())
}

#[test]
fn deputies_know_each_other_whoever_comes_and_goes() {
    let web = package("web", 400);
    let of = content(&web);
    let mut site = Site::new(4);
    // The fourth is of the site and gets another package.
    site.create(&deployment(1, &[&web], &[A, B, C]));
    for node in [A, B, C] {
        assert_eq!(known(&site, node, of), ids(&[A, B, C]), "node {node}");
    }
    assert_eq!(known(&site, 3, of), None);
    assert_eq!(known(&site, A, web.recipe.recipe.into()), None, "recipes are read from the coordinator alone");
    site.disconnect(C);
    site.pass(Duration::from_secs(1));
    for node in [A, B] {
        assert_eq!(known(&site, node, of), ids(&[A, B]), "node {node}");
    }
    let told = site.orders.len();
    site.connect(C);
    site.pass(Duration::from_secs(1));
    for node in [A, B, C] {
        assert_eq!(known(&site, node, of), ids(&[A, B, C]), "node {node}");
    }
    let again = site.orders[told..].iter().filter(|(to, order)| *to == A && matches!(order, ToNode::Standby(_)));
    assert_eq!(again.count(), 1, "A is told of one change once");
}

#[test]
fn what_only_the_coordinator_has_and_what_is_not_traded_has_no_deputies() {
    let web = package("web", 40);
    let cases: [fn(&mut Manifest); 2] =
        [|manifest| manifest.acquire.source = Source::Coordinator, |manifest| manifest.acquire.swarm = false];
    for change in cases {
        let mut manifest = deployment(1, &[&web], &[A, B]);
        change(&mut manifest);
        let mut site = Site::new(2);
        site.create(&manifest);
        assert_eq!([A, B].map(|node| known(&site, node, content(&web))), [None, None], "{:?}", manifest.acquire);
    }
}

#[test]
fn deputies_of_a_large_site_are_few_and_neighbours_of_each_other() {
    let web = package("web", 40);
    let mut site = Site::new(40);
    let all: Vec<_> = (0..40).collect();
    site.create(&deployment(1, &[&web], &all));
    let named: Vec<usize> = all.iter().copied().filter(|node| known(&site, *node, content(&web)).is_some()).collect();
    assert_eq!(named.len(), DEPUTIES_MAX);
    for node in &named {
        assert_eq!(known(&site, *node, content(&web)), ids(&named));
        let links = site.agents[*node].running().links.clone();
        let others: BTreeSet<_> = named.iter().copied().filter(|other| other != node).collect();
        assert!(links.is_superset(&others), "{node} knows {links:?}, not all of {others:?}");
    }
    // One that is gone is replaced, and those who stay are told.
    site.disconnect(named[0]);
    site.pass(Duration::from_secs(1));
    let after = known(&site, named[1], content(&web)).unwrap();
    assert_eq!(after.len(), DEPUTIES_MAX);
    assert!(!after.contains(&id(named[0])) && named[1..].iter().all(|node| after.contains(&id(*node))));
}
