//! Nodes that come while a deployment that means them is under way.

use shoal_proto::coordinator::{LeftOut, Record};
use shoal_proto::id::{DeploymentId, PackageIndex, StepIndex};
use shoal_proto::manifest::{Phase, StepRef};
use shoal_proto::node;
use shoal_proto::rollout::join::Joins;
use shoal_proto::rollout::{Operator, Outcome, StepOutcome};
use shoal_proto::wire::{StepRun, ToNode};

use crate::plan::{A, B, C, another, content, deployment, first_run, id, name, package, step};
use crate::site::Site;

fn succeed(site: &mut Site, node: usize) {
    assert_eq!(site.agents[node].process.as_ref().unwrap().started_steps, [first_run(1)], "node {node}");
    site.tell_node(node, node::Input::StepEnded { run: first_run(1), outcome: StepOutcome::Succeeded });
    site.finish();
}

/// Every node that joins later gets the package.
fn all() -> Joins {
    Joins { targets: vec![("all".to_owned(), vec![PackageIndex(0)])], ..Joins::default() }
}

fn left_out(site: &Site, deployment: u64) -> Vec<(usize, LeftOut)> {
    let core = site.coordinator.as_ref().unwrap();
    let node = |node| [A, B, C].into_iter().find(|number| id(*number) == node).unwrap();
    core.left_out(DeploymentId(deployment)).map(|(of, why)| (node(of), why)).collect()
}

#[test]
fn who_is_meant_and_left_out_is_named_with_the_cause() {
    let web = package("web", 10);
    let running = |number, nodes: &[usize]| {
        let steps = vec![step("restart")];
        shoal_proto::manifest::Manifest { steps, ..deployment(number, &[&web], nodes) }
    };
    let mut site = Site::new(3);
    site.disconnect(C);
    site.joins = Joins { variables_differ: true, ..all() };
    site.create(&running(1, &[A]));
    site.connect(C);
    site.finish();
    assert_eq!(left_out(&site, 1), [(B, LeftOut::Variables), (C, LeftOut::Variables)]);

    let mut site = Site::new(3);
    site.create(&running(1, &[B]));
    site.disconnect(B);
    site.joins = all();
    site.create(&running(2, &[A, C]));
    site.connect(B);
    site.finish();
    let held = left_out(&site, 2);
    assert!(matches!(&held[..], [(B, LeftOut::Held(held))] if held.by == DeploymentId(1)), "{held:?}");
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

fn before(index: u16) -> StepRun {
    StepRun { deployment: DeploymentId(1), step: StepRef { phase: Phase::Before, index: StepIndex(index) }, attempt: 1 }
}

/// A node runs each step before `acquire`, or none of the deployment.
#[test]
fn who_comes_after_a_step_before_acquire_is_left_out() {
    for (ended, joins) in [(&[][..], true), (&[A][..], true), (&[A, B][..], false)] {
        let mut site = Site::new(3);
        site.disconnect(C);
        site.joins = all();
        let mut manifest = deployment(1, &[&package("web", 2)], &[A, B]);
        manifest.before_acquire = vec![step("vpn"), step("drain")];
        site.create(&manifest);
        ended.iter().for_each(|node| site.end_step(*node, before(0), StepOutcome::Succeeded));
        site.connect(C);
        let started = &site.agents[C].running().started_steps;
        assert_eq!(*started, if joins { vec![before(0)] } else { vec![] }, "{ended:?} had run it");
        let core = site.coordinator.as_ref().unwrap();
        let left_out: Vec<_> = core.left_out(DeploymentId(1)).collect();
        let missed = (id(C), LeftOut::Missed(name("vpn")));
        assert_eq!(left_out, if joins { vec![] } else { vec![missed] });
    }
}

/// A coordinator that crashes as a node joins goes on with it.
#[test]
fn who_joined_before_acquire_is_waited_for_also_after_a_restart() {
    let mut site = Site::new(3);
    site.disconnect(C);
    site.joins = all();
    let mut manifest = deployment(1, &[&package("web", 2)], &[A, B]);
    manifest.before_acquire = vec![step("vpn")];
    site.create(&manifest);
    site.deaf.insert(C);
    site.connect(C);
    site.crash_coordinator();
    let joined = site.journal.iter().position(|record| matches!(record, Record::Joined(_))).unwrap();
    site.journal.truncate(joined + 1);
    site.crash(C);
    site.deaf.remove(&C);
    site.start_coordinator();
    for node in [A, B] {
        site.connect(node);
        site.end_step(node, before(0), StepOutcome::Succeeded);
    }
    site.finish();
    assert!(site.view(1).rollout.times.acquire_began.is_none(), "the step was not run everywhere");
    site.start(C);
    site.connect(C);
    site.end_step(C, before(0), StepOutcome::Succeeded);
    site.finish();
    assert_eq!(site.view(1).rollout.outcome, Some(Outcome::Succeeded));
}
