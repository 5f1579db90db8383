//! One deployment of a name at a time on each node, and none where all is as wanted.

use std::collections::BTreeSet;

use shoal_proto::coordinator::Created;
use shoal_proto::id::{DeploymentId, NodeId};
use shoal_proto::manifest::Manifest;
use shoal_proto::rollout::{Operator, Options, Outcome};
use shoal_proto::wire::{Inventory, ToCoordinator};

use crate::plan::{A, B, C, deployment, id, name, package};
use crate::site::Site;

fn nodes(of: &[usize]) -> BTreeSet<NodeId> {
    of.iter().map(|node| id(*node)).collect()
}

fn as_wanted(site: &Site, manifest: &Manifest, stage_only: bool) -> Option<u64> {
    let core = site.coordinator.as_ref().unwrap();
    let first = core.created(DeploymentId(1)).unwrap();
    let options = Options { stage_only, ..first.options.clone() };
    core.as_wanted(manifest, &Created { options, ..first.clone() }).map(|id| id.0)
}

#[test]
fn a_deployment_has_its_nodes_until_it_is_over_whatever_is_restarted() {
    let web = package("web", 4);
    let mut site = Site::new(3);
    site.create(&deployment(1, &[&web], &[A, B]));
    let holder = |site: &Site, of: &[usize], text: &str| {
        let held = site.coordinator.as_ref().unwrap().holder(&name(text), &nodes(of));
        held.map(|held| (held.by.0, held.nodes))
    };
    site.crash_coordinator();
    site.start_coordinator();
    let table = [
        (&[A, B, C][..], "storefront", Some((1, 2))),
        (&[B][..], "storefront", Some((1, 1))),
        (&[C][..], "storefront", None),
        (&[A, B][..], "backoffice", None),
    ];
    for (of, text, wanted) in table {
        assert_eq!(holder(&site, of, text), wanted, "{text} to {of:?}");
    }
    // Two operators at once: both saw the nodes free, and one is the second.
    site.create(&deployment(2, &[&web], &[B, C]));
    let known = |site: &Site| site.coordinator.as_ref().unwrap().deployments().collect::<Vec<_>>();
    assert_eq!(known(&site), [DeploymentId(1)]);
    site.create(&deployment(2, &[&web], &[C]));
    assert_eq!(known(&site), [DeploymentId(1), DeploymentId(2)], "other nodes are free");
    site.operate(2, Operator::Cancel);
    site.operate(1, Operator::Cancel);
    site.finish();
    assert_eq!(site.view(1).rollout.outcome, Some(Outcome::Cancelled));
    assert_eq!(holder(&site, &[A, B, C], "storefront"), None);
}

#[test]
fn all_is_as_wanted_after_the_same_plan_alone() {
    let (web, tools) = (package("web", 4), package("tools", 4));
    let mut site = Site::new(2);
    let first = deployment(1, &[&web], &[A, B]);
    site.create(&first);
    assert_eq!(as_wanted(&site, &first, false), None, "it is not over");
    site.finish();
    assert_eq!(site.view(1).rollout.outcome, Some(Outcome::Succeeded));
    let again = Manifest { deployment: DeploymentId(2), ..first.clone() };
    assert_eq!(as_wanted(&site, &again, false), Some(1));
    assert_eq!(as_wanted(&site, &again, true), None, "staging costs nothing where all is there");
    assert_eq!(as_wanted(&site, &Manifest { release: name("r2"), ..again.clone() }, false), None);
    // What only staged changed nothing; what was cancelled may have.
    site.create_with(&deployment(2, &[&tools], &[A, B]), true);
    site.finish();
    assert_eq!(as_wanted(&site, &again, false), Some(1));
    site.create(&deployment(3, &[&package("more", 4)], &[A, B]));
    site.operate(3, Operator::Cancel);
    site.finish();
    assert_eq!(as_wanted(&site, &again, false), None);
}

#[test]
fn what_nodes_say_of_their_caches_is_known_while_they_are_connected() {
    let web = package("web", 4);
    let mut site = Site::new(2);
    let known = |site: &Site, node: usize| site.coordinator.as_ref().unwrap().inventory(id(node)).cloned();
    assert_eq!(known(&site, A), None);
    let inventory = Inventory { packages: Vec::new(), cache_bytes: 5, free_bytes: Some(3 * web.size) };
    site.say(A, ToCoordinator::Inventory(inventory));
    site.create(&deployment(1, &[&web], &[A, B]));
    site.finish();
    let wanted = Inventory { packages: vec![web.id], cache_bytes: 5 + web.size, free_bytes: Some(2 * web.size) };
    assert_eq!(known(&site, A), Some(wanted), "a package that it acquired is in it");
    assert_eq!(known(&site, B), None, "who has not said has not said");
    site.disconnect(A);
    assert_eq!(known(&site, A), None);
}
