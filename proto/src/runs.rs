//! Which runs of steps an actor (a node, or the coordinator itself) started, and how they ended.
//!
//! Invariant (GATE): a run is started at most once, also across restarts, because its start is durable before its process
//! exists. A run that was started and whose end was not seen has ended as [`StepOutcome::Unknown`].

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::DeploymentId;
use crate::manifest::Manifest;
use crate::rollout::StepOutcome;
use crate::wire::StepRun;

/// What is to be done, in this order; a [`RunEffect::Persist`] is durable before anything after it is done.
#[derive(Clone, Debug)]
pub enum RunEffect {
    /// Write a record down.
    Persist(StepRecord),
    /// Start a run's process.
    Run {
        /// Which run of which step.
        run: StepRun,
        /// The manifest it belongs to.
        manifest: Arc<Manifest>,
    },
    /// Kill a run's processes.
    Kill(StepRun),
    /// Report that a run can be started, and was not.
    Ready(StepRun),
    /// Report that a run was started.
    Started(StepRun),
    /// Report how a run ended.
    Ended {
        /// Which run of which step.
        run: StepRun,
        /// How.
        outcome: StepOutcome,
    },
}

/// What an actor remembers of a run, whatever happens to its process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepRecord {
    /// It is about to start.
    Started(StepRun),
    /// It is over.
    Ended {
        /// The run.
        run: StepRun,
        /// How.
        outcome: StepOutcome,
    },
    /// Its deployment is over: its runs need not be remembered.
    Forgotten(DeploymentId),
}

/// Every run of the deployments that are not over.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    /// `None`: it runs.
    runs: BTreeMap<StepRun, Option<StepOutcome>>,
}

impl Runs {
    /// What `records` say, and what follows: the records of runs whose end nobody saw.
    pub(crate) fn restored(records: impl IntoIterator<Item = StepRecord>) -> (Self, Vec<RunEffect>) {
        let mut runs = BTreeMap::new();
        for record in records {
            match record {
                StepRecord::Started(run) => drop(runs.entry(run).or_insert(None)),
                StepRecord::Ended { run, outcome } => drop(runs.insert(run, Some(outcome))),
                StepRecord::Forgotten(id) => runs.retain(|run, _| run.deployment != id),
            }
        }
        let unseen = runs.iter_mut().filter(|(_, outcome)| outcome.is_none()).map(|(run, outcome)| {
            *outcome = Some(StepOutcome::Unknown);
            RunEffect::Persist(StepRecord::Ended { run: *run, outcome: StepOutcome::Unknown })
        });
        let unseen = unseen.collect();
        (Self { runs }, unseen)
    }

    /// What follows from the question whether `run` can be started.
    pub(crate) fn on_offer(&self, run: StepRun, manifest: &Manifest) -> Vec<RunEffect> {
        match self.runs.get(&run) {
            Some(Some(outcome)) => vec![ended(run, outcome)],
            Some(None) => vec![RunEffect::Started(run)],
            None if manifest.step(run.step).is_none() => Vec::new(),
            None => vec![RunEffect::Ready(run)],
        }
    }

    /// What follows from the order to run `run`.
    pub(crate) fn on_run(&mut self, run: StepRun, manifest: &Arc<Manifest>) -> Vec<RunEffect> {
        match self.runs.get(&run) {
            Some(Some(outcome)) => vec![ended(run, outcome)],
            Some(None) => vec![RunEffect::Started(run)],
            None if manifest.step(run.step).is_none() => Vec::new(),
            None => {
                self.runs.insert(run, None);
                let started = RunEffect::Persist(StepRecord::Started(run));
                vec![started, RunEffect::Run { run, manifest: Arc::clone(manifest) }, RunEffect::Started(run)]
            }
        }
    }

    /// What follows from the end of a run's process.
    pub(crate) fn on_ended(&mut self, run: StepRun, outcome: StepOutcome) -> Vec<RunEffect> {
        let Some(running @ None) = self.runs.get_mut(&run) else { return Vec::new() };
        let record = StepRecord::Ended { run, outcome: outcome.clone() };
        let effects = vec![RunEffect::Persist(record), ended(run, &outcome)];
        *running = Some(outcome);
        effects
    }

    /// What follows from the order to kill `run`.
    pub(crate) fn on_kill(&mut self, run: StepRun) -> Vec<RunEffect> {
        match self.runs.get(&run) {
            Some(None) => vec![RunEffect::Kill(run)],
            Some(Some(outcome)) => vec![ended(run, outcome)],
            // Never started: remembered as killed, so that an order that comes late does not start it.
            None => {
                self.runs.insert(run, Some(StepOutcome::Killed));
                let record = StepRecord::Ended { run, outcome: StepOutcome::Killed };
                vec![RunEffect::Persist(record), ended(run, &StepOutcome::Killed)]
            }
        }
    }

    /// What follows from the end of a deployment: its runs are killed and forgotten.
    pub(crate) fn on_end(&mut self, deployment: DeploymentId) -> Vec<RunEffect> {
        let of_it: Vec<_> = self.runs.iter().filter(|(run, _)| run.deployment == deployment).collect();
        if of_it.is_empty() {
            return Vec::new();
        }
        let running = of_it.into_iter().filter(|(_, outcome)| outcome.is_none());
        let mut effects: Vec<_> = running.map(|(run, _)| RunEffect::Kill(*run)).collect();
        self.runs.retain(|run, _| run.deployment != deployment);
        effects.push(RunEffect::Persist(StepRecord::Forgotten(deployment)));
        effects
    }

    /// The deployments that have runs here.
    pub(crate) fn deployments(&self) -> impl Iterator<Item = DeploymentId> {
        self.runs.keys().map(|run| run.deployment)
    }

    /// All that is known, for a listener that may have missed some of it.
    pub(crate) fn say_all_again(&self) -> Vec<RunEffect> {
        let say = |(run, outcome): (&StepRun, &Option<StepOutcome>)| match outcome {
            Some(outcome) => ended(*run, outcome),
            None => RunEffect::Started(*run),
        };
        self.runs.iter().map(say).collect()
    }

    pub(crate) fn check(&self) {
        assert!(self.runs.keys().all(|run| run.attempt >= 1), "attempts count from 1");
    }
}

fn ended(run: StepRun, outcome: &StepOutcome) -> RunEffect {
    RunEffect::Ended { run, outcome: outcome.clone() }
}
