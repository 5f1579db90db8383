//! Going back to the release before: who does, to what, and at no cost over the WAN.

use shoal_proto::coordinator::{NoWayBack, OperateError, Record};
use shoal_proto::id::DeploymentId;
use shoal_proto::manifest::{Manifest, OnFailure, Pace, Package, Share, Step};
use shoal_proto::node;
use shoal_proto::rollout::{Change, Failure, Operator, Outcome, StepOutcome};
use shoal_proto::wire::StepRun;

use crate::plan::{A, B, C, deployment, first_run, id, name, package, step};
use crate::site::Site;

/// A release with one step, whose failure is rolled back.
fn release(number: u64, package: &Package, nodes: &[usize]) -> Manifest {
    let restart = Step { on_failure: OnFailure::Rollback, ..step("restart") };
    Manifest { release: name(&format!("r{number}")), steps: vec![restart], ..deployment(number, &[package], nodes) }
}

fn started(site: &mut Site, node: usize, deployment: u64) -> Option<StepRun> {
    let process = site.agents[node].process.as_ref()?;
    process.started_steps.iter().find(|run| run.deployment.0 == deployment).copied()
}

fn end(site: &mut Site, node: usize, deployment: u64, outcome: StepOutcome) {
    assert!(started(site, node, deployment).is_some(), "the step of d{deployment} was not started on node {node}");
    site.tell_node(node, node::Input::StepEnded { run: first_run(deployment), outcome });
    site.finish();
}

fn succeed(site: &mut Site, nodes: &[usize], deployment: u64) {
    site.finish();
    nodes.iter().for_each(|node| end(site, *node, deployment, StepOutcome::Succeeded));
    assert_eq!(site.view(deployment).rollout.outcome, Some(Outcome::Succeeded), "d{deployment}");
}

fn failed() -> StepOutcome {
    StepOutcome::Failed(Failure::Exit(3))
}

fn way_back(site: &Site, of: u64) -> Result<(u64, usize), NoWayBack> {
    let way = site.coordinator.as_ref().unwrap().way_back(DeploymentId(of), true)?;
    Ok((way.to.0, way.manifest.targets().len()))
}

fn ids(site: &Site) -> Vec<u64> {
    site.coordinator.as_ref().unwrap().deployments().map(|id| id.0).collect()
}

#[test]
fn a_failure_takes_the_nodes_that_were_changed_back_and_nothing_crosses_the_wan() {
    let (old, new) = (package("old", 6), package("new", 6));
    let mut site = Site::new(3);
    site.create(&release(1, &old, &[A, B, C]));
    succeed(&mut site, &[A, B, C], 1);
    let mut second = release(2, &new, &[A, B, C]);
    second.steps[0].pace = Pace::Window(Share::Count(2));
    site.create(&second);
    site.finish();
    let read = site.wan.len();
    let changed: Vec<usize> = (0..3).filter(|node| started(&mut site, *node, 2).is_some()).collect();
    assert_eq!(changed.len(), 2, "the window");
    end(&mut site, changed[0], 2, failed());
    assert_eq!(ids(&site), [1, 2], "what runs is let finish");
    end(&mut site, changed[1], 2, StepOutcome::Succeeded);

    assert!(matches!(site.view(2).rollout.outcome, Some(Outcome::Failed { .. })));
    let manifest = site.coordinator.as_ref().unwrap().manifest(DeploymentId(3)).unwrap().clone();
    let back = manifest.rollback.clone().unwrap();
    assert_eq!((back.of.0, back.from.as_str(), back.to.0), (2, "r2", 1));
    assert_eq!(manifest.targets().into_iter().collect::<Vec<_>>(), changed.iter().map(|n| id(*n)).collect::<Vec<_>>());
    assert_eq!(
        (manifest.release.as_str(), manifest.steps[0].on_failure),
        ("r1", OnFailure::Pause),
        "it ends somewhere"
    );
    succeed(&mut site, &changed, 3);
    assert_eq!(site.wan.len(), read, "not a byte crosses the WAN");
    assert_eq!(way_back(&site, 2), Err(NoWayBack::WentOn { of: DeploymentId(2), by: DeploymentId(3) }));
}

#[test]
fn a_rollback_that_a_crash_lost_begins_once_after_the_restart() {
    let (old, new) = (package("old", 2), package("new", 2));
    let mut site = Site::new(2);
    site.create(&release(1, &old, &[A, B]));
    succeed(&mut site, &[A, B], 1);
    site.create(&release(2, &new, &[A, B]));
    site.finish();
    end(&mut site, A, 2, failed());
    end(&mut site, B, 2, failed());
    assert_eq!(ids(&site), [1, 2, 3]);
    // The crash comes when the end of the second is durable, and nothing after it.
    site.crash_coordinator();
    let end_of_second = |record: &Record| matches!(record, Record::Rollout { deployment: DeploymentId(2), record } if matches!(record.change, Change::Finished { .. }));
    let durable = site.journal.iter().position(end_of_second).unwrap() + 1;
    site.journal.truncate(durable);
    for _ in 0..2 {
        site.start_coordinator();
        assert_eq!(ids(&site), [1, 2, 3], "it is made up for, once");
        site.crash_coordinator();
    }
    site.start_coordinator();
    [A, B].into_iter().for_each(|node| site.connect(node));
    succeed(&mut site, &[A, B], 3);
}

#[test]
fn an_operator_takes_back_what_is_under_way_or_over_as_far_as_there_is_something_before() {
    let (first, second, third) = (package("first", 2), package("second", 2), package("third", 2));
    let mut site = Site::new(3);
    site.create(&release(1, &first, &[A]));
    site.finish();
    let refused = site.coordinator.as_mut().unwrap().operate(DeploymentId(1), Operator::Rollback, Default::default());
    let nothing = NoWayBack::NothingBefore(DeploymentId(1), name("storefront"));
    assert_eq!(refused, Err(OperateError::NoWayBack(nothing.clone())), "the first is cancelled, not rolled back");
    end(&mut site, A, 1, StepOutcome::Succeeded);
    assert_eq!(way_back(&site, 1), Err(nothing));
    site.create(&release(2, &second, &[B]));
    succeed(&mut site, &[B], 2);
    // Three nodes: two with releases before it, which differ, and one with none.
    site.create(&release(3, &third, &[A, B, C]));
    site.finish();
    site.operate(3, Operator::Rollback);
    site.finish();
    for node in [A, B, C] {
        assert_eq!(site.agents[node].process.as_ref().unwrap().killed_steps, [first_run(3)]);
        end(&mut site, node, 3, StepOutcome::Killed);
    }
    assert_eq!(ids(&site), [1, 2, 3, 4, 5], "one for each release before");
    for (node, to) in [(A, 1), (B, 2)] {
        let core = site.coordinator.as_ref().unwrap();
        let of_node = |number: &u64| core.manifest(DeploymentId(*number)).unwrap().targets().contains(&id(node));
        let number = [4, 5].into_iter().find(of_node).unwrap();
        assert_eq!(core.manifest(DeploymentId(number)).unwrap().rollback.as_ref().unwrap().to.0, to);
        succeed(&mut site, &[node], number);
    }
    // What was taken back is what runs: a rollback of the next goes there.
    site.create(&release(6, &third, &[A]));
    succeed(&mut site, &[A], 6);
    assert_eq!(way_back(&site, 6), Ok((1, 1)));
}
