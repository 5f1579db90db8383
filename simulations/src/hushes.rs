//! Nodes that are connected and do not answer when they are asked to run a step for their site: they hang for a while, and say
//! it late. In five of seventeen seeds, so that the others mean what they meant.

use std::time::Duration;

use shoal_proto::id::DeploymentId;
use shoal_proto::limits::OFFER_WAIT;
use shoal_proto::manifest::{On, Pace};
use shoal_proto::rng::{Rng, mix};
use shoal_proto::rollout::Change;
use shoal_proto::wire::{StepRun, ToCoordinator};

use crate::scenario::{Scenario, step};
use crate::world::{Event, World};

/// Tells the random numbers of this file from those of the scenario.
const SALT: u64 = 0x4054;

/// For how long a node hangs, at most.
const HANGS_MAX: Duration = Duration::from_secs(90);

/// Has nodes of a scenario hang, and gives them steps of their sites.
pub(crate) fn set(scenario: &mut Scenario, seed: u64) {
    let mut rng = Rng::new(mix(seed ^ SALT));
    scenario.mishaps.answer_hangs = 100 + rng.below(500);
    for deployment in &mut scenario.deployments {
        if deployment.steps.is_empty() {
            deployment.steps.push(step("site", false, &mut rng));
        }
        let chosen = usize::try_from(rng.below(deployment.steps.len() as u64)).expect("below a count of steps");
        (deployment.steps[chosen].on, deployment.steps[chosen].pace) = (On::Site, Pace::Each);
    }
}

impl World {
    /// Whether a node hangs as it is about to say that it can run a step.
    pub(crate) fn hangs(&mut self, node: usize, message: &ToCoordinator) -> bool {
        let chance = self.scenario.mishaps.answer_hangs;
        let ToCoordinator::StepReady(run) = message else { return false };
        if chance == 0 || !self.mishap(chance) {
            return false;
        }
        let (span, life) = (self.within(Duration::ZERO, HANGS_MAX), self.hosts[node].life);
        self.totals.late_answers += u64::from(span >= OFFER_WAIT);
        if let Some(process) = &mut self.hosts[node].process {
            process.unsaid.insert(*run, self.now);
        }
        self.queue.push(self.now + span, Event::Answers { node, life, run: *run });
        true
    }

    /// It says so after all, on the connection that it has by then.
    pub(crate) fn answers(&mut self, node: usize, run: StepRun) {
        let unsaid = self.hosts[node].process.as_mut().and_then(|process| process.unsaid.remove(&run));
        if unsaid.is_some() {
            self.tell_coordinator(node, ToCoordinator::StepReady(run));
        }
    }

    /// Counts how often a node is asked in the place of one that is connected and has not answered in time.
    pub(crate) fn count_passed_over(&mut self, deployment: DeploymentId, change: &Change) {
        let Change::Elected { step, nodes } = change else { return };
        let run = StepRun { deployment, step: *step, attempt: 1 };
        let silent = |node: usize| {
            let since = self.hosts[node].process.as_ref().and_then(|process| process.unsaid.get(&run));
            // It was asked a little before it heard so.
            since.is_some_and(|since| self.now.since(*since) >= OFFER_WAIT / 2) && self.is_connected(node)
        };
        let asked = nodes.iter().filter_map(|node| self.scenario.node(*node));
        let passed_over = asked.filter(|asked| {
            let site = self.scenario.nodes[*asked].site;
            let mut others = (0..self.hosts.len()).filter(|other| other != asked);
            others.any(|other| self.scenario.nodes[other].site == site && silent(other))
        });
        let passed_over = passed_over.count() as u64;
        self.totals.passed_over += passed_over;
    }
}
