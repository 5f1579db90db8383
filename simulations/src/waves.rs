//! Rollouts in waves in a storm: canaries, sites one after another, bakes and failure budgets, windows.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_proto::id::{NodeId, TargetIndex};
use shoal_proto::manifest::{Offline, On, Pace, Quorum, Share, Wave};
use shoal_proto::rng::{Rng, mix};

use crate::scenario::{DeploymentPlan, Scenario, name};

/// Tells the random numbers of this file from those of the scenario.
const SALT: u64 = 0x3a7e;

/// A wave before it is known which nodes a deployment has.
#[derive(Clone, Debug)]
pub(crate) struct WavePlan {
    nodes: usize,
    per_site: bool,
    max_parallel: u16,
    bake: Duration,
    success: Quorum,
    max_failures: Share,
    max_failures_per_site: Option<Share>,
}

/// Has the deployments of a scenario go in waves, and their steps in windows.
pub(crate) fn set(scenario: &mut Scenario, seed: u64) {
    let mut rng = Rng::new(mix(seed ^ SALT));
    for deployment in &mut scenario.deployments {
        deployment.waves = (0..1 + rng.below(3)).map(|_| wave(&mut rng)).collect();
        deployment.offline = offline(&mut rng);
        for step in &mut deployment.steps {
            step.backoff = Duration::from_millis(rng.below(3) * rng.below(5_000));
        }
        for step in deployment.steps.iter_mut().filter(|step| step.on == On::Node) {
            step.pace = pace(&mut rng);
        }
    }
}

/// Has every wave but the last bake, and makes two of one.
pub(crate) fn bake(waves: &mut Vec<WavePlan>, rng: &mut Rng) {
    if let [only] = &waves[..] {
        let first = WavePlan { nodes: 1, ..only.clone() };
        waves.insert(0, first);
    }
    waves.iter_mut().for_each(|wave| wave.bake = wave.bake.max(Duration::from_secs(20 + rng.below(100))));
}

fn offline(rng: &mut Rng) -> Offline {
    let after = Duration::from_secs(5 + rng.below(60));
    match rng.below(6) {
        0 => Offline::SkipAfter(after),
        1 => Offline::FailAfter(after * 4),
        2 | 3 => Offline::CatchUp { after, until: after * (1 + u32::try_from(rng.below(20)).expect("below 20")) },
        _ => Offline::Wait,
    }
}

fn pace(rng: &mut Rng) -> Pace {
    match rng.below(4) {
        0 => Pace::Window(Share::Count(1 + u32::try_from(rng.below(3)).expect("below 3"))),
        1 => Pace::Window(Share::Percent(1 + u8::try_from(rng.below(100)).expect("below 100"))),
        2 => Pace::Together,
        _ => Pace::Each,
    }
}

fn wave(rng: &mut Rng) -> WavePlan {
    let count = |rng: &mut Rng, below: u64| u32::try_from(rng.below(below)).expect("a small number");
    let percent = |rng: &mut Rng| u8::try_from(rng.below(101)).expect("at most 100");
    WavePlan {
        nodes: 1 + usize::try_from(rng.below(4)).expect("below 4"),
        per_site: rng.below(3) == 0,
        max_parallel: 1 + u16::try_from(rng.below(3)).expect("below 3"),
        bake: Duration::from_secs(rng.below(3) * rng.below(40)),
        success: if rng.below(3) == 0 { Quorum::Percent(percent(rng).max(1)) } else { Quorum::AllBut(u32::MAX) },
        max_failures: if rng.below(2) == 0 { Share::Count(count(rng, 3)) } else { Share::Percent(percent(rng)) },
        max_failures_per_site: (rng.below(4) == 0).then(|| Share::Count(count(rng, 2))),
    }
}

/// The waves of a deployment's manifest; the last has all that those before left.
pub(crate) fn resolve(plans: &[WavePlan], scenario: &Scenario, deployment: &DeploymentPlan) -> Vec<Wave> {
    let nodes = scenario.nodes.iter().enumerate();
    let is_target = |number: &usize| scenario.packages_of(deployment).any(|package| package.targets.contains(number));
    let targets: BTreeMap<NodeId, usize> =
        nodes.filter(|(number, _)| is_target(number)).map(|(_, node)| (node.id, node.site)).collect();
    let mut left: Vec<(TargetIndex, usize)> = (0..).map(TargetIndex).zip(targets.into_values()).collect();
    let mut waves = Vec::new();
    for (index, plan) in plans.iter().enumerate() {
        let count = if index + 1 == plans.len() { left.len() } else { plan.nodes.min(left.len()) };
        let mut lanes: BTreeMap<usize, Vec<TargetIndex>> = BTreeMap::new();
        for (target, site) in left.drain(..count) {
            lanes.entry(if plan.per_site { site } else { 0 }).or_default().push(target);
        }
        if !lanes.is_empty() {
            waves.push(Wave {
                name: name(&format!("wave{index}")),
                lanes: lanes.into_values().collect(),
                max_parallel: plan.max_parallel,
                bake: plan.bake,
                success: plan.success,
                max_failures: plan.max_failures,
                max_failures_per_site: plan.max_failures_per_site,
            });
        }
    }
    waves
}
