//! Nodes that come while a deployment that means them is under way.

use shoal_proto::id::PackageIndex;
use shoal_proto::node;
use shoal_proto::rollout::join::Joins;
use shoal_proto::rollout::{Operator, Outcome, StepOutcome};

use crate::plan::{A, B, C, content, deployment, first_run, id, package, step};
use crate::site::Site;

fn succeed(site: &mut Site, node: usize) {
    assert_eq!(site.agents[node].process.as_ref().unwrap().started_steps, [first_run(1)], "node {node}");
    site.tell_node(node, node::Input::StepEnded { run: first_run(1), outcome: StepOutcome::Succeeded });
    site.finish();
}

/// Two targets of three members, of which the third was away when the deployment began.
fn running() -> Site {
    let web = package("web", 10);
    let mut site = Site::new(3);
    site.disconnect(C);
    site.joins = Joins { targets: vec![("all".to_owned(), vec![PackageIndex(0)])], waves: Vec::new() };
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
    let targets = site.coordinator.as_ref().unwrap().manifest(shoal_proto::id::DeploymentId(1)).unwrap().targets();
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
    site.create(&crate::plan::another(2, &[&package("tools", 2)], &[A]));
    site.operate(1, Operator::Cancel);
    site.connect(C);
    site.finish();
    assert_eq!(site.view(2).rollout.nodes.len(), 1);
}
