//! Nodes that come while a deployment that means them is under way.

use shoal_proto::id::{DeploymentId, PackageIndex};
use shoal_proto::node;
use shoal_proto::rollout::join::Joins;
use shoal_proto::rollout::{Operator, Outcome, StepOutcome};
use shoal_proto::wire::ToNode;

use crate::plan::{A, B, C, another, content, deployment, first_run, id, package, step};
use crate::site::Site;

fn succeed(site: &mut Site, node: usize) {
    assert_eq!(site.agents[node].process.as_ref().unwrap().started_steps, [first_run(1)], "node {node}");
    site.tell_node(node, node::Input::StepEnded { run: first_run(1), outcome: StepOutcome::Succeeded });
    site.finish();
}

fn all() -> Joins {
    Joins { targets: vec![("all".to_owned(), vec![PackageIndex(0)])], waves: Vec::new() }
}

/// Two targets of three members, of which the third was away when the deployment began.
fn running() -> Site {
    let web = package("web", 10);
    let mut site = Site::new(3);
    site.disconnect(C);
    site.joins = all();
    let mut manifest = deployment(1, &[&web], &[A, B]);
    manifest.steps = vec![step("restart")];
    site.create(&manifest);
    site.finish();
    site
}

#[test]
fn a_late_joiner_has_the_package_and_runs_the_steps_whatever_is_restarted() {
    let web = package("web", 10);
    let mut site = running();
    succeed(&mut site, A);
    site.connect(C);
    site.finish();
    assert_eq!(site.wan_bytes(content(&web)), web.size, "WAN-ONCE: it comes from its neighbours");
    site.crash_coordinator();
    site.start_coordinator();
    [A, B, C].into_iter().for_each(|node| site.connect(node));
    site.finish();
    succeed(&mut site, B);
    assert_eq!(site.view(1).rollout.outcome, None, "the end waits for it");
    succeed(&mut site, C);
    let view = site.view(1).rollout;
    assert_eq!((view.outcome, view.nodes.len()), (Some(Outcome::Succeeded), 3));
    let targets = site.coordinator.as_ref().unwrap().manifest(DeploymentId(1)).unwrap().targets();
    assert!(targets.contains(&id(C)));
}

#[test]
fn who_comes_when_a_deployment_ends_or_is_not_meant_is_left_out() {
    let mut site = running();
    site.operate(1, Operator::Cancel);
    site.connect(C);
    site.finish();
    assert_eq!(site.view(1).rollout.nodes.len(), 2);
    let mut site = running();
    site.joins = Joins::default();
    site.create(&another(2, &[&package("tools", 2)], &[A]));
    site.operate(1, Operator::Cancel);
    site.connect(C);
    site.finish();
    assert_eq!(site.view(2).rollout.nodes.len(), 1);
}

/// It may have to go back to what it had before, which its cache is to keep from there on.
#[test]
fn who_joins_the_next_deployment_is_told_to_keep_the_release_before() {
    let mut site = Site::new(3);
    site.create(&deployment(1, &[&package("old", 2)], &[A, B, C]));
    site.finish();
    assert_eq!(site.view(1).rollout.outcome, Some(Outcome::Succeeded));
    site.disconnect(C);
    site.joins = all();
    let mut next = deployment(2, &[&package("new", 2)], &[A, B]);
    next.steps = vec![step("restart")];
    site.create(&next);
    site.finish();
    site.orders.clear();
    site.connect(C);
    let told = site.orders.iter().filter_map(|(to, order)| match order {
        ToNode::Deploy { signed, .. } if *to == C => Some(signed.open(|_, _| true).unwrap().deployment.0),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [1, 2]);
}
