//! From what rollouts want done to orders for nodes and for the coordinator's own step runner.

use std::sync::Arc;

use super::{Coordinator, Notice, Output, Record};
use crate::id::{DeploymentId, Generation, NodeId};
use crate::outputs::ByStep;
use crate::rollout::{self, Actor, Effect, Now, Outcome};
use crate::runs::RunEffect;
use crate::wire::{StepRun, ToNode};

impl Coordinator {
    pub(super) fn carry_out(&mut self, id: DeploymentId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Acquire { node, generation } => {
                    self.order(node, id, generation, ToNode::Acquire { deployment: id, generation });
                }
                Effect::StopAcquire { node, generation } => {
                    self.order(node, id, generation, ToNode::StopAcquire { deployment: id, generation });
                }
                Effect::RunStep { actor, step, attempt, generation } => {
                    self.order_run(actor, StepRun { deployment: id, step, attempt }, generation);
                }
                Effect::OfferStep { node, step, generation } => {
                    let run = StepRun { deployment: id, step, attempt: 1 };
                    self.order(node, id, generation, ToNode::Offer { run, generation });
                }
                Effect::CancelStep { actor, step, attempt, generation } => {
                    self.order_kill(actor, StepRun { deployment: id, step, attempt }, generation);
                }
                Effect::Finished { outcome } => self.on_finished(id, outcome),
                Effect::Forget { node, generation } => self.end_at(node, id, generation),
            }
        }
    }

    fn order_run(&mut self, actor: Actor, run: StepRun, generation: Generation) {
        match actor {
            Actor::Node(node) => {
                self.tell_outputs(node, run.deployment, generation);
                self.order(node, run.deployment, generation, ToNode::Run { run, generation });
            }
            Actor::Coordinator => {
                let Some(deployment) = self.deployments.get(&run.deployment) else { return };
                let manifest = Arc::clone(&deployment.manifest);
                let effects = self.runs.on_run(run, &manifest, &ByStep::new());
                self.carry_out_runs(effects);
            }
        }
    }

    /// Tells a node that is about to run a step what steps elsewhere wrote that it sees.
    fn tell_outputs(&mut self, node: NodeId, id: DeploymentId, generation: Generation) {
        let outputs = self.deployments.get(&id).and_then(|deployment| deployment.rollout.outputs_for(node));
        if let Some(outputs) = outputs {
            self.order(node, id, generation, ToNode::Outputs { deployment: id, outputs });
        }
    }

    fn order_kill(&mut self, actor: Actor, run: StepRun, generation: Generation) {
        match actor {
            Actor::Node(node) => self.order(node, run.deployment, generation, ToNode::Kill { run, generation }),
            Actor::Coordinator => {
                let effects = self.runs.on_kill(run);
                self.carry_out_runs(effects);
            }
        }
    }

    /// Gives a connected node an order, after the manifest if it lacks that. One that is away gets it when it is back.
    fn order(&mut self, node: NodeId, id: DeploymentId, generation: Generation, order: ToNode) {
        if self.told.contains_key(&node) {
            self.tell_manifest(node, id, generation);
            self.outbox.push_back(Output::Node { to: node, message: order });
        }
    }

    pub(super) fn carry_out_runs(&mut self, effects: Vec<RunEffect>) {
        for effect in effects {
            match effect {
                RunEffect::Persist(record) => self.outbox.push_back(Output::Persist(Record::Step(record))),
                RunEffect::Run { run, manifest, outputs } => {
                    self.outbox.push_back(Output::Run { run, manifest, outputs });
                }
                RunEffect::Kill(run) => self.outbox.push_back(Output::Kill { run }),
                report @ (RunEffect::Started(_) | RunEffect::Wrote { .. } | RunEffect::Ended { .. }) => {
                    self.reports.push_back(report);
                }
                // Nobody asks the coordinator whether it can.
                RunEffect::Ready(_) => {}
            }
        }
    }

    /// Tells a rollout what became of a step that runs on the coordinator.
    pub(super) fn on_own_report(&mut self, report: RunEffect, now: Now) {
        let actor = Actor::Coordinator;
        let (id, input) = match report {
            RunEffect::Started(StepRun { deployment, step, attempt }) => {
                (deployment, rollout::Input::StepStarted { actor, step, attempt })
            }
            RunEffect::Wrote { run: StepRun { deployment, step, attempt }, outputs } => {
                (deployment, rollout::Input::StepWrote { actor, step, attempt, outputs })
            }
            RunEffect::Ended { run: StepRun { deployment, step, attempt }, outcome } => {
                (deployment, rollout::Input::StepEnded { actor, step, attempt, outcome })
            }
            RunEffect::Persist(_) | RunEffect::Run { .. } | RunEffect::Kill(_) | RunEffect::Ready(_) => return,
        };
        self.decide(id, input, now);
    }

    fn on_finished(&mut self, id: DeploymentId, outcome: Outcome) {
        self.record_totals(id);
        let open = self.open_leases(id);
        self.reassign_supplies(id);
        self.await_late_ends(id, open);
        self.end_superseded(id);
        let effects = self.runs.on_end(id);
        self.carry_out_runs(effects);
        self.outbox.push_back(Output::Notice(Notice::Finished { deployment: id, outcome }));
        self.go_back_from(id);
    }
}
