//! A step sees what earlier steps wrote for it, all of it and nothing else, whatever crashed meanwhile. Kept from the durable
//! records; judged where processes start.

use std::collections::BTreeMap;

use shoal_proto::coordinator::Record;
use shoal_proto::id::{DeploymentId, Name, NodeId};
use shoal_proto::manifest::{Manifest, On, Phase, StepRef};
use shoal_proto::outputs::{Named, Outputs};
use shoal_proto::rollout::{Actor, Change, StepOutcome};
use shoal_proto::wire::StepRun;

/// All deployments, as the durable records say.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    deployments: BTreeMap<DeploymentId, Deployment>,
    /// Counts the records.
    records: u64,
}

#[derive(Debug)]
struct Deployment {
    manifest: Manifest,
    sites: BTreeMap<NodeId, Name>,
    runs: BTreeMap<(StepRef, Actor), Run>,
}

/// When what became of a run was durable.
#[derive(Debug, Default)]
struct Run {
    attempt: u32,
    ordered: u64,
    wrote: Option<Outputs>,
    done: Option<u64>,
    abandoned: bool,
}

impl Handed {
    /// A record became durable.
    pub(crate) fn durable(&mut self, record: &Record) {
        self.records += 1;
        match record {
            Record::Created(created) => {
                if let Ok(manifest) = created.signed.open(|_, _| true) {
                    let (id, sites) = (manifest.deployment, created.sites.clone());
                    self.deployments.insert(id, Deployment { manifest, sites, runs: BTreeMap::new() });
                }
            }
            Record::Joined(created) => {
                let Ok(manifest) = created.signed.open(|_, _| true) else { return };
                if let Some(deployment) = self.deployments.get_mut(&manifest.deployment) {
                    (deployment.manifest, deployment.sites) = (manifest, created.sites.clone());
                }
            }
            Record::Rollout { deployment, record } => {
                if let Some(deployment) = self.deployments.get_mut(deployment) {
                    deployment.changed(&record.change, self.records);
                }
            }
            _ => {}
        }
    }

    /// A step's process starts and sees `seen`.
    pub(crate) fn started(&self, actor: Actor, run: StepRun, seen: &Named) -> Result<(), String> {
        let Some(deployment) = self.deployments.get(&run.deployment) else { return Ok(()) };
        if run.step.phase.is_last() {
            // At the end, what a node wrote and could not say any more may be seen there.
            return Ok(());
        }
        let Some(own) = deployment.runs.get(&(run.step, actor)) else { return Ok(()) };
        for (name, outputs) in seen {
            let known = deployment.written(run.step, actor).any(|(step, wrote, _)| (step, wrote) == (name, outputs));
            if !known {
                return Err(format!("{run:?} sees on {actor:?} what `{name}` did not write for it: {outputs:?}"));
            }
        }
        let mut due = deployment.written(run.step, actor).filter(|(.., done)| *done < own.ordered);
        match due.find(|(step, wrote, _)| !seen.iter().any(|(name, outputs)| (name, outputs) == (*step, *wrote))) {
            Some((step, ..)) => Err(format!("{run:?} does not see on {actor:?} what `{step}` wrote for it")),
            None => Ok(()),
        }
    }
}

impl Deployment {
    fn changed(&mut self, change: &Change, now: u64) {
        let (step, actor) = match change {
            Change::Ordered { step, attempt, actors } => {
                for actor in actors {
                    let run = Run { attempt: *attempt, ordered: now, ..Run::default() };
                    self.runs.insert((*step, *actor), run);
                }
                return;
            }
            Change::Wrote { step, actor, .. }
            | Change::Ended { step, actor, .. }
            | Change::Accepted { step, actor }
            | Change::Abandoned { step, actor } => (*step, *actor),
            _ => return,
        };
        let Some(run) = self.runs.get_mut(&(step, actor)) else { return };
        match change {
            Change::Wrote { attempt, outputs, .. } if *attempt == run.attempt => run.wrote = Some(outputs.clone()),
            Change::Ended { outcome: StepOutcome::Succeeded, .. } if !run.abandoned => run.done = Some(now),
            Change::Accepted { .. } => run.done = Some(now),
            Change::Abandoned { .. } => run.abandoned = true,
            _ => {}
        }
    }

    /// What steps before `of` wrote for it where it runs at `at`, and when they were done.
    fn written(&self, of: StepRef, at: Actor) -> impl Iterator<Item = (&Name, &Outputs, u64)> {
        let site = |actor: Actor| actor.node().and_then(|node| self.sites.get(&node));
        let earlier = self.runs.iter().filter(move |((step, _), _)| *step < of && step.phase != Phase::After);
        earlier.filter_map(move |((step, actor), run)| {
            let known = self.manifest.step(*step)?;
            let seen = match known.on {
                On::Coordinator => true,
                On::Site => at.node().is_some() && site(*actor) == site(at),
                On::Node | On::Always => *actor == at,
            };
            seen.then_some(())?;
            Some((&known.name, run.wrote.as_ref()?, run.done?))
        })
    }
}
