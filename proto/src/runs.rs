//! Which runs of steps an actor (a node, or the coordinator itself) started, and how they ended.
//!
//! Invariant (GATE): a run is started at most once, also across restarts, because its start is durable before its process
//! exists. A run that was started and whose end was not seen has ended as [`StepOutcome::Unknown`].

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{DeploymentId, StepIndex};
use crate::manifest::{Manifest, Phase, StepRef};
use crate::outputs::{self, ByStep, Named, Outputs};
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
        /// What earlier steps wrote that it sees.
        outputs: Named,
    },
    /// Kill a run's processes.
    Kill(StepRun),
    /// Report that a run can be started, and was not.
    Ready(StepRun),
    /// Report that a run was started.
    Started(StepRun),
    /// Report what a run wrote for later steps.
    Wrote {
        /// Which run of which step.
        run: StepRun,
        /// What.
        outputs: Outputs,
    },
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
    /// What it wrote for later steps; it is about to end well.
    Wrote {
        /// The run.
        run: StepRun,
        /// What.
        outputs: Outputs,
    },
}

/// Every run of the deployments that are not over.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    /// `None`: it runs.
    runs: BTreeMap<StepRun, Option<StepOutcome>>,
    /// What they wrote for later steps.
    written: BTreeMap<StepRun, Outputs>,
}

impl Runs {
    /// What `records` say, and what follows: the records of runs whose end nobody saw.
    pub(crate) fn restored(records: impl IntoIterator<Item = StepRecord>) -> (Self, Vec<RunEffect>) {
        let (mut runs, mut written) = (BTreeMap::new(), BTreeMap::new());
        for record in records {
            match record {
                StepRecord::Started(run) => drop(runs.entry(run).or_insert(None)),
                StepRecord::Ended { run, outcome } => drop(runs.insert(run, Some(outcome))),
                StepRecord::Wrote { run, outputs } => drop(written.insert(run, outputs)),
                StepRecord::Forgotten(id) => {
                    runs.retain(|run, _| run.deployment != id);
                    written.retain(|run, _| run.deployment != id);
                }
            }
        }
        let unseen = runs.iter_mut().filter(|(_, outcome)| outcome.is_none()).map(|(run, outcome)| {
            *outcome = Some(StepOutcome::Unknown);
            RunEffect::Persist(StepRecord::Ended { run: *run, outcome: StepOutcome::Unknown })
        });
        let unseen = unseen.collect();
        (Self { runs, written }, unseen)
    }

    /// What follows from the question whether `run` can be started.
    pub(crate) fn on_offer(&self, run: StepRun, manifest: &Manifest) -> Vec<RunEffect> {
        match self.runs.get(&run) {
            Some(_) => self.say(run).collect(),
            None if manifest.step(run.step).is_none() => Vec::new(),
            None => vec![RunEffect::Ready(run)],
        }
    }

    /// What follows from the order to run `run`; `shared` is what steps wrote elsewhere that this actor sees.
    pub(crate) fn on_run(&mut self, run: StepRun, manifest: &Arc<Manifest>, shared: &ByStep) -> Vec<RunEffect> {
        match self.runs.get(&run) {
            Some(_) => self.say(run).collect(),
            None if manifest.step(run.step).is_none() => Vec::new(),
            None => {
                let outputs = self.seen_by(run, manifest, shared);
                self.runs.insert(run, None);
                let started = RunEffect::Persist(StepRecord::Started(run));
                vec![started, RunEffect::Run { run, manifest: Arc::clone(manifest), outputs }, RunEffect::Started(run)]
            }
        }
    }

    /// What earlier steps wrote that `run` sees: here, and elsewhere.
    fn seen_by(&self, run: StepRun, manifest: &Manifest, shared: &ByStep) -> Named {
        let mut all = shared.clone();
        let step = StepRef { phase: Phase::Before, index: StepIndex(0) };
        let first = StepRun { step, attempt: 0, ..run };
        // Of several attempts at a step the last one counts, also if it wrote nothing.
        for (own, outcome) in self.runs.range(first..).take_while(|(own, _)| own.deployment == run.deployment) {
            match self.written.get(own).filter(|_| outcome.is_some()) {
                Some(outputs) => drop(all.insert(own.step, outputs.clone())),
                None if !shared.contains_key(&own.step) => drop(all.remove(&own.step)),
                None => {}
            }
        }
        outputs::named(&all, run.step, manifest)
    }

    /// What follows from what a run that ends well wrote for later steps.
    pub(crate) fn on_wrote(&mut self, run: StepRun, outputs: Outputs) -> Vec<RunEffect> {
        if outputs.is_empty() || !outputs::is_bounded(&outputs) || self.runs.get(&run) != Some(&None) {
            return Vec::new();
        }
        self.written.insert(run, outputs.clone());
        let record = StepRecord::Wrote { run, outputs: outputs.clone() };
        vec![RunEffect::Persist(record), RunEffect::Wrote { run, outputs }]
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
        self.written.retain(|run, _| run.deployment != deployment);
        effects.push(RunEffect::Persist(StepRecord::Forgotten(deployment)));
        effects
    }

    /// The deployments that have runs here.
    pub(crate) fn deployments(&self) -> impl Iterator<Item = DeploymentId> {
        self.runs.keys().map(|run| run.deployment)
    }

    /// All that is known, for a listener that may have missed some of it.
    pub(crate) fn say_all_again(&self) -> Vec<RunEffect> {
        self.runs.keys().flat_map(|run| self.say(*run)).collect()
    }

    /// All that is known of one run.
    fn say(&self, run: StepRun) -> impl Iterator<Item = RunEffect> {
        let wrote = self.written.get(&run).map(|outputs| RunEffect::Wrote { run, outputs: outputs.clone() });
        let stands = self.runs.get(&run).map(|outcome| match outcome {
            Some(outcome) => ended(run, outcome),
            None => RunEffect::Started(run),
        });
        wrote.into_iter().chain(stands)
    }

    pub(crate) fn check(&self) {
        assert!(self.runs.keys().all(|run| run.attempt >= 1), "attempts count from 1");
        assert!(self.written.keys().all(|run| self.runs.contains_key(run)), "who wrote was started");
    }
}

fn ended(run: StepRun, outcome: &StepOutcome) -> RunEffect {
    RunEffect::Ended { run, outcome: outcome.clone() }
}
