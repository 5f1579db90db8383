//! GATE: no step starts before its record is durable, before its gate, before the step before it is done everywhere, or
//! twice. A second account, kept from the durable records and from the processes that really run.

use std::collections::{BTreeMap, BTreeSet};

use shoal_proto::coordinator::Record;
use shoal_proto::id::{DeploymentId, Name, NodeId, StepIndex};
use shoal_proto::manifest::{Manifest, On, Phase, StepRef};
use shoal_proto::rollout::{Actor, Change, Outcome, StepOutcome};
use shoal_proto::wire::StepRun;

/// All deployments, as the durable records say.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    deployments: BTreeMap<DeploymentId, Deployment>,
    started: BTreeSet<(Actor, StepRun)>,
    running: BTreeSet<(Actor, StepRun)>,
}

#[derive(Debug)]
struct Deployment {
    manifest: Manifest,
    sites: BTreeMap<NodeId, Name>,
    runs: BTreeMap<(StepRef, Actor), Run>,
    excluded: BTreeSet<NodeId>,
    began: bool,
    gate_open: bool,
    closing: bool,
    outcome: Option<Outcome>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    attempt: u32,
    stand: Stand,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    Ordered,
    Failed,
    Done,
    Abandoned,
}

impl Gate {
    /// A record became durable.
    pub(crate) fn durable(&mut self, record: &Record) -> Result<(), String> {
        match record {
            Record::Created(created) => {
                let manifest = created.signed.open(|_, _| true).map_err(|error| error.to_string())?;
                let deployment = Deployment {
                    sites: created.sites.clone(),
                    runs: BTreeMap::new(),
                    excluded: BTreeSet::new(),
                    began: false,
                    gate_open: false,
                    closing: false,
                    outcome: None,
                    manifest,
                };
                let id = deployment.manifest.deployment;
                match self.deployments.insert(id, deployment) {
                    Some(_) => Err(format!("{id} was made twice")),
                    None => Ok(()),
                }
            }
            Record::Rollout { deployment: id, record } => self.changed(*id, &record.change),
            _ => Ok(()),
        }
    }

    fn changed(&mut self, id: DeploymentId, change: &Change) -> Result<(), String> {
        if matches!(change, Change::AcquireBegan) {
            let before = self.deployments.get(&id).map_or(0, |deployment| deployment.manifest.before_acquire.len());
            if let Some(last) = before.checked_sub(1) {
                self.done(id, step(Phase::Before, last))?;
            }
        }
        let Some(deployment) = self.deployments.get_mut(&id) else { return Err(format!("{id} was never made")) };
        let runs = &mut deployment.runs;
        match change {
            Change::Ordered { step, attempt, actors } => {
                for actor in actors {
                    runs.insert((*step, *actor), Run { attempt: *attempt, stand: Stand::Ordered });
                }
            }
            Change::Ended { actor, step, attempt, outcome } => {
                let run = runs.get_mut(&(*step, *actor)).filter(|run| run.attempt == *attempt);
                let run = run.ok_or_else(|| format!("{id} {step:?} of {actor:?} ended, and was not ordered"))?;
                let good = *outcome == StepOutcome::Succeeded;
                run.stand = if good { Stand::Done } else { Stand::Failed };
            }
            Change::Accepted { actor, step } => set(runs, *step, *actor, Stand::Done),
            Change::Abandoned { actor, step } => set(runs, *step, *actor, Stand::Abandoned),
            Change::AcquireBegan => deployment.began = true,
            Change::GateOpened => deployment.gate_open = true,
            Change::Excluded { node, .. } => drop(deployment.excluded.insert(*node)),
            Change::Closing { .. } => deployment.closing = true,
            Change::Finished { outcome } => deployment.outcome = Some(outcome.clone()),
            _ => {}
        }
        Ok(())
    }

    /// A node is told to run a step.
    pub(crate) fn ordered(&self, actor: Actor, run: StepRun) -> Result<(), String> {
        let deployment = self.deployments.get(&run.deployment);
        let known = deployment.and_then(|deployment| deployment.runs.get(&(run.step, actor)));
        let ordered = known.is_some_and(|known| known.attempt == run.attempt);
        ordered.then_some(()).ok_or_else(|| format!("{actor:?} is told {run:?} without a durable record"))
    }

    /// A step's process starts; `ready` says whether its node really holds what it needs.
    pub(crate) fn started(&mut self, actor: Actor, run: StepRun, ready: bool) -> Result<(), String> {
        self.ordered(actor, run)?;
        if !self.started.insert((actor, run)) {
            return Err(format!("{actor:?} starts {run:?} a second time"));
        }
        self.running.insert((actor, run));
        if !ready {
            return Err(format!("{actor:?} starts {run:?} and lacks a package"));
        }
        let Some(deployment) = self.deployments.get(&run.deployment) else { return Ok(()) };
        let StepRef { phase, index } = run.step;
        let open = match phase {
            Phase::Before => !deployment.began,
            Phase::Steps => deployment.gate_open,
            Phase::After => deployment.closing,
        };
        if !open {
            return Err(format!("{actor:?} starts {run:?} outside of its stage"));
        }
        match index.index().checked_sub(1).filter(|_| phase != Phase::After) {
            Some(before) => self.done(run.deployment, step(phase, before)),
            None => Ok(()),
        }
    }

    /// A step's process has ended.
    pub(crate) fn over(&mut self, actor: Actor, run: StepRun) {
        self.running.remove(&(actor, run));
    }

    /// All processes of an actor died.
    pub(crate) fn crashed(&mut self, actor: Actor) {
        self.running.retain(|(of, _)| *of != actor);
    }

    /// Whether a step is done wherever it is to run.
    fn done(&self, id: DeploymentId, step: StepRef) -> Result<(), String> {
        let Some(deployment) = self.deployments.get(&id) else { return Ok(()) };
        let live = |actor: &Actor| actor.node().is_none_or(|node| !deployment.excluded.contains(&node));
        let stand = |actor: Actor| deployment.runs.get(&(step, actor)).map(|run| run.stand);
        if let Some((actor, _)) =
            self.running.iter().find(|(actor, run)| run.deployment == id && run.step == step && live(actor))
        {
            return Err(format!("{id} goes on from {step:?}, which {actor:?} still runs"));
        }
        let open = deployment.runs.iter().find(|((of, actor), run)| {
            *of == step && live(actor) && !matches!(run.stand, Stand::Done | Stand::Abandoned)
        });
        if let Some(((_, actor), run)) = open {
            return Err(format!("{id} goes on from {step:?}, which is {:?} at {actor:?}", run.stand));
        }
        let on = deployment.manifest.step(step).map(|step| step.on);
        let nodes = deployment.sites.keys().filter(|node| !deployment.excluded.contains(*node));
        let left = match on {
            Some(On::Node) => nodes.copied().find(|node| stand(Actor::Node(*node)).is_none()),
            Some(On::Site) => nodes.copied().find(|node| !deployment.ran_in(step, &deployment.sites[node])),
            Some(On::Coordinator) | None => None,
        };
        left.map_or(Ok(()), |node| Err(format!("{id} goes on from {step:?}, which {node:?} never had")))
    }

    /// A deployment's manifest, once it is durable.
    pub(crate) fn manifest(&self, id: DeploymentId) -> Option<&Manifest> {
        self.deployments.get(&id).map(|deployment| &deployment.manifest)
    }

    /// The deployments that succeeded, with the nodes that they go on with.
    pub(crate) fn succeeded(&self) -> impl Iterator<Item = (DeploymentId, &Manifest, Vec<NodeId>)> {
        let well = |deployment: &&Deployment| {
            matches!(deployment.outcome, Some(Outcome::Succeeded | Outcome::SucceededWithout { .. }))
        };
        self.deployments.values().filter(well).map(|deployment| {
            let targets = deployment.manifest.targets();
            let live = targets.difference(&deployment.excluded).copied().collect();
            (deployment.manifest.deployment, &deployment.manifest, live)
        })
    }
}

impl Deployment {
    fn ran_in(&self, step: StepRef, site: &Name) -> bool {
        let of_step = self.runs.keys().filter(|(of, _)| *of == step);
        of_step.filter_map(|(_, actor)| actor.node()).any(|node| self.sites.get(&node) == Some(site))
    }
}

fn step(phase: Phase, index: usize) -> StepRef {
    StepRef { phase, index: StepIndex(u16::try_from(index).expect("a manifest has at most 256 steps")) }
}

fn set(runs: &mut BTreeMap<(StepRef, Actor), Run>, step: StepRef, actor: Actor, stand: Stand) {
    if let Some(run) = runs.get_mut(&(step, actor)) {
        run.stand = stand;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shoal_proto::coordinator::Created;
    use shoal_proto::manifest::{Acquire, Action, Group, OnFailure, Signed, Source, Step};
    use shoal_proto::rollout::{Options, Record as RolloutRecord};
    use shoal_proto::time::WallTime;

    use super::*;

    const ID: DeploymentId = DeploymentId(1);
    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn script(text: &str) -> Step {
        Step {
            name: name(text),
            on: On::Node,
            action: Action::Script { run: "true".to_owned() },
            timeout: Duration::from_secs(1),
            retries: 0,
            on_failure: OnFailure::Pause,
            idempotent: false,
            always_after: None,
        }
    }

    /// Two nodes and two steps, as durable as `changes` say.
    fn gate(changes: &[Change]) -> Gate {
        let manifest = Manifest {
            deployment: ID,
            coordinator: NodeId([9; 32]),
            name: name("d"),
            release: name("r"),
            packages: Vec::new(),
            groups: vec![Group { nodes: vec![A, B], packages: Vec::new() }],
            acquire: Acquire { source: Source::Feed, swarm: true },
            gate: shoal_proto::manifest::Gate::default(),
            before_acquire: Vec::new(),
            steps: vec![script("one"), script("two")],
        };
        let created = Created {
            signed: Signed::seal(&manifest, |_| Vec::new()).unwrap(),
            options: Options::default(),
            sites: BTreeMap::from([(A, name("s")), (B, name("s"))]),
            blocks: Vec::new(),
            sources: Vec::new(),
        };
        let mut gate = Gate::default();
        gate.durable(&Record::Created(Box::new(created))).unwrap();
        for change in changes {
            let record = RolloutRecord { at: WallTime(0), change: change.clone() };
            gate.durable(&Record::Rollout { deployment: ID, record }).unwrap();
        }
        gate
    }

    fn at(index: usize) -> StepRef {
        step(Phase::Steps, index)
    }

    fn run(index: usize) -> StepRun {
        StepRun { deployment: ID, step: at(index), attempt: 1 }
    }

    fn ordered(index: usize, nodes: &[NodeId]) -> Change {
        Change::Ordered { step: at(index), attempt: 1, actors: nodes.iter().copied().map(Actor::Node).collect() }
    }

    fn ended(index: usize, node: NodeId, outcome: StepOutcome) -> Change {
        Change::Ended { actor: Actor::Node(node), step: at(index), attempt: 1, outcome }
    }

    #[test]
    fn a_step_before_its_record_or_its_gate_is_caught() {
        let start = |changes: &[Change]| gate(changes).started(Actor::Node(A), run(0), true);
        assert!(start(&[Change::GateOpened]).unwrap_err().contains("without a durable record"));
        assert!(start(&[ordered(0, &[A])]).unwrap_err().contains("outside of its stage"));
        assert_eq!(start(&[Change::GateOpened, ordered(0, &[A])]), Ok(()));
    }

    #[test]
    fn a_second_start_is_caught_whatever_crashed_between() {
        let mut gate = gate(&[Change::GateOpened, ordered(0, &[A])]);
        assert_eq!(gate.started(Actor::Node(A), run(0), true), Ok(()));
        gate.crashed(Actor::Node(A));
        assert!(gate.started(Actor::Node(A), run(0), true).unwrap_err().contains("second time"));
    }

    #[test]
    fn a_start_without_the_packages_is_caught() {
        let mut gate = gate(&[Change::GateOpened, ordered(0, &[A])]);
        assert!(gate.started(Actor::Node(A), run(0), false).unwrap_err().contains("lacks a package"));
    }

    #[test]
    fn a_step_that_does_not_wait_for_the_one_before_is_caught() {
        let well = |node| ended(0, node, StepOutcome::Succeeded);
        let both = [Change::GateOpened, ordered(0, &[A, B])];
        let start = |more: &[Change]| {
            let changes = [&both[..], more, &[ordered(1, &[A])]].concat();
            gate(&changes).started(Actor::Node(A), run(1), true)
        };
        assert!(start(&[well(A)]).unwrap_err().contains("goes on from"), "it runs at B");
        assert!(start(&[well(A), ended(0, B, StepOutcome::TimedOut)]).unwrap_err().contains("Failed"));
        assert_eq!(start(&[well(A), well(B)]), Ok(()));
        assert_eq!(
            start(&[
                well(A),
                ended(0, B, StepOutcome::TimedOut),
                Change::Accepted { actor: Actor::Node(B), step: at(0) }
            ]),
            Ok(())
        );
        let one = [Change::GateOpened, ordered(0, &[A]), well(A), ordered(1, &[A])];
        assert!(gate(&one).started(Actor::Node(A), run(1), true).unwrap_err().contains("never had"));
    }

    #[test]
    fn a_process_that_still_runs_holds_the_next_step_up() {
        let mut gate = gate(&[Change::GateOpened, ordered(0, &[A, B])]);
        assert_eq!(gate.started(Actor::Node(B), run(0), true), Ok(()));
        for change in [ended(0, A, StepOutcome::Succeeded), ended(0, B, StepOutcome::Succeeded), ordered(1, &[A])] {
            let record = RolloutRecord { at: WallTime(0), change };
            gate.durable(&Record::Rollout { deployment: ID, record }).unwrap();
        }
        assert!(gate.started(Actor::Node(A), run(1), true).unwrap_err().contains("still runs"));
    }
}
