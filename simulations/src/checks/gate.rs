//! GATE: no step starts before its record is durable, before its gate, before the step before it is done everywhere, or
//! twice. A second account, kept from the durable records and from the processes that really run.

use std::collections::{BTreeMap, BTreeSet};

use shoal_proto::coordinator::Record;
use shoal_proto::id::{DeploymentId, Name, NodeId, StepIndex};
use shoal_proto::manifest::{Manifest, On, Pace, Phase, StepRef};
use shoal_proto::rollout::{Actor, Change, End, Outcome, StepOutcome};
use shoal_proto::time::WallTime;
use shoal_proto::wire::StepRun;

use super::waves::Waves;

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
    waves: Waves,
    runs: BTreeMap<(StepRef, Actor), Run>,
    excluded: BTreeSet<NodeId>,
    /// Nodes that are away, and that the others do not wait for.
    behind: BTreeSet<NodeId>,
    paused: bool,
    began: bool,
    gate_open: bool,
    /// What was said last of how it ends.
    closing: Option<End>,
    outcome: Option<Outcome>,
}

/// For whom a step is to be done.
#[derive(Clone, Copy, Debug)]
enum Whom<'a> {
    All,
    Lane(&'a BTreeSet<NodeId>),
    /// A node that catches up.
    Alone(NodeId),
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
                    waves: Waves::of(&manifest),
                    sites: created.sites.clone(),
                    runs: BTreeMap::new(),
                    excluded: BTreeSet::new(),
                    behind: BTreeSet::new(),
                    paused: false,
                    began: false,
                    gate_open: false,
                    closing: None,
                    outcome: None,
                    manifest,
                };
                let id = deployment.manifest.deployment;
                match self.deployments.insert(id, deployment) {
                    Some(_) => Err(format!("{id} was made twice")),
                    None => Ok(()),
                }
            }
            Record::Joined(created) => {
                let manifest = created.signed.open(|_, _| true).map_err(|error| error.to_string())?;
                let id = manifest.deployment;
                let deployment = self.deployments.get_mut(&id).ok_or_else(|| format!("{id} was never made"))?;
                let mut fresh: Vec<_> =
                    manifest.targets().difference(&deployment.manifest.targets()).copied().collect();
                // Whoever joins is behind the others from the first moment, but for before `acquire`.
                fresh.retain(|_| deployment.began);
                deployment.waves.joined(&manifest, &fresh);
                deployment.behind.extend(fresh);
                (deployment.manifest, deployment.sites) = (manifest, created.sites.clone());
                Ok(())
            }
            Record::Rollout { deployment: id, record } => {
                self.changed(*id, &record.change)?;
                self.wave_changed(*id, &record.change, record.at)
            }
            _ => Ok(()),
        }
    }

    fn changed(&mut self, id: DeploymentId, change: &Change) -> Result<(), String> {
        if matches!(change, Change::AcquireBegan) {
            let before = self.deployments.get(&id).map_or(0, |deployment| deployment.manifest.before_acquire.len());
            if let Some(last) = before.checked_sub(1) {
                self.done(id, step(Phase::Before, last), Whom::All)?;
            }
        }
        let Some(deployment) = self.deployments.get_mut(&id) else { return Err(format!("{id} was never made")) };
        let runs = &mut deployment.runs;
        match change {
            Change::Ordered { step, attempt, actors } => {
                for actor in actors {
                    let gone = actor.node().is_some_and(|node| deployment.excluded.contains(&node));
                    if gone && !step.phase.is_last() {
                        return Err(format!("{id} {step:?} is ordered at {actor:?}, which was excluded"));
                    }
                    let before = runs.insert((*step, *actor), Run { attempt: *attempt, stand: Stand::Ordered });
                    if let Some(before) = before.filter(|before| before.stand == Stand::Ordered) {
                        return Err(format!("{id} {step:?} is ordered at {actor:?} again beside {before:?}"));
                    }
                }
                deployment.paced(*step, *attempt, actors)?;
            }
            Change::Ended { actor, step, attempt, outcome } => {
                let run = runs.get_mut(&(*step, *actor)).filter(|run| run.attempt == *attempt);
                let run = run.ok_or_else(|| format!("{id} {step:?} of {actor:?} ended, and was not ordered"))?;
                let good = *outcome == StepOutcome::Succeeded;
                run.stand = if good { Stand::Done } else { Stand::Failed };
            }
            Change::Accepted { actor, step } => set(runs, *step, *actor, Stand::Done),
            Change::Abandoned { actor, step } => set(runs, *step, *actor, Stand::Abandoned),
            Change::NotBegun { actor, step } => drop(runs.remove(&(*step, *actor))),
            Change::Paused => deployment.paused = true,
            Change::Resumed => deployment.paused = false,
            Change::Behind { node } => drop(deployment.behind.insert(*node)),
            Change::CaughtUp { node } => drop(deployment.behind.remove(node)),
            Change::AcquireBegan => deployment.began = true,
            Change::GateOpened => deployment.gate_open = true,
            Change::Excluded { node, .. } => drop(deployment.excluded.insert(*node)),
            Change::Closing { end } => deployment.closing = Some(end.clone()),
            Change::Finished { outcome } => {
                deployment.outcome = Some(outcome.clone());
                let end = deployment.closing.as_ref();
                if !end.is_some_and(|end| is_end_of(end, outcome)) {
                    return Err(format!("{id} is to end by {end:?}, and ended as {outcome:?}"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn wave_changed(&mut self, id: DeploymentId, change: &Change, at: WallTime) -> Result<(), String> {
        let through = |lane: &BTreeSet<NodeId>| self.through(id, lane);
        // Taken out, since its account and that of the steps are read together.
        let mut waves = self.deployments.get(&id).map(|deployment| deployment.waves.clone());
        if let (Some(waves), Some(deployment)) = (&mut waves, self.deployments.get(&id)) {
            waves.changed(change, at, &deployment.sites, through)?;
        }
        if let (Some(waves), Some(deployment)) = (waves, self.deployments.get_mut(&id)) {
            deployment.waves = waves;
        }
        Ok(())
    }

    /// Whether a lane has all its steps done.
    fn through(&self, id: DeploymentId, lane: &BTreeSet<NodeId>) -> Result<(), String> {
        let steps = self.deployments.get(&id).map_or(0, |deployment| deployment.manifest.steps.len());
        (0..steps).try_for_each(|index| self.done(id, step(Phase::Steps, index), Whom::Lane(lane)))
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
        self.once_in_site(actor, run)?;
        if !ready {
            return Err(format!("{actor:?} starts {run:?} and lacks a package"));
        }
        let Some(deployment) = self.deployments.get(&run.deployment) else { return Ok(()) };
        let StepRef { phase, index } = run.step;
        let open = match phase {
            Phase::Before => !deployment.began,
            Phase::Steps => deployment.gate_open,
            Phase::Always | Phase::After => deployment.closing.is_some(),
        };
        if !open {
            return Err(format!("{actor:?} starts {run:?} outside of its stage"));
        }
        if phase == Phase::Steps {
            let begun = |lane: &BTreeSet<NodeId>| deployment.begun(lane);
            let through = |lane: &BTreeSet<NodeId>| self.through(run.deployment, lane).is_ok();
            deployment.waves.started(actor, begun, through)?;
        }
        let before = index.index().checked_sub(1).filter(|_| !phase.is_last()).map(|before| step(phase, before));
        match (before, phase, actor) {
            (None, ..) => Ok(()),
            // Once for all lanes, when the first that comes to it is there.
            (Some(before), Phase::Steps, Actor::Coordinator) => {
                let mut verdicts =
                    deployment.waves.lanes.iter().map(|lane| self.done(run.deployment, before, Whom::Lane(lane)));
                let first = verdicts.next().unwrap_or(Ok(()));
                if first.is_err() && verdicts.any(|verdict| verdict.is_ok()) { Ok(()) } else { first }
            }
            (Some(before), ..) => {
                // Who catches up waits for nobody.
                let behind = actor.node().filter(|node| deployment.behind.contains(node));
                let whom = match (behind, deployment.waves.lane_of(actor)) {
                    (Some(node), _) if phase == Phase::Steps => Whom::Alone(node),
                    (None, Some(lane)) if phase == Phase::Steps => Whom::Lane(lane),
                    _ => Whom::All,
                };
                self.done(run.deployment, before, whom)
            }
        }
    }

    /// A step `on: site` was started on no other node of its site.
    fn once_in_site(&self, actor: Actor, run: StepRun) -> Result<(), String> {
        let Some(deployment) = self.deployments.get(&run.deployment) else { return Ok(()) };
        let of_site = deployment.manifest.step(run.step).is_some_and(|step| step.on == On::Site);
        let site = |actor: &Actor| actor.node().and_then(|node| deployment.sites.get(&node));
        let is_same = |other: &StepRun| (other.deployment, other.step) == (run.deployment, run.step);
        let mut others = self.started.iter().filter(|(other, of)| is_same(of) && *other != actor);
        match others.find(|(other, _)| of_site && site(other) == site(&actor)) {
            Some((other, _)) => Err(format!("{actor:?} starts {run:?}, which {other:?} of its site has run")),
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

    /// Whether a step is done wherever it is to run for `whom`.
    fn done(&self, id: DeploymentId, step: StepRef, whom: Whom<'_>) -> Result<(), String> {
        let Some(deployment) = self.deployments.get(&id) else { return Ok(()) };
        let awaits = |node: NodeId| match whom {
            Whom::All => deployment.awaits(node, false),
            Whom::Lane(lane) => lane.contains(&node) && deployment.awaits(node, false),
            Whom::Alone(one) => node == one && deployment.awaits(node, true),
        };
        let live = |actor: &Actor| actor.node().is_none_or(awaits);
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
        let nodes = deployment.sites.keys().filter(|node| awaits(**node));
        let left = match on {
            Some(On::Node) => nodes.copied().find(|node| stand(Actor::Node(*node)).is_none()),
            Some(On::Site) => nodes.copied().find(|node| !deployment.ran_in(step, &deployment.sites[node])),
            Some(On::Coordinator) if stand(Actor::Coordinator).is_none() => {
                return Err(format!("{id} goes on from {step:?}, which the coordinator never had"));
            }
            Some(On::Coordinator | On::Always) | None => None,
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
    /// Whether a node is waited for, or by itself.
    fn awaits(&self, node: NodeId, alone: bool) -> bool {
        !self.excluded.contains(&node) && (alone || !self.behind.contains(&node))
    }

    /// Attempts are ordered: never in a pause, and no more at a time than their step says.
    fn paced(&self, step: StepRef, attempt: u32, actors: &[Actor]) -> Result<(), String> {
        if self.paused && self.closing.is_none() {
            return Err(format!("{step:?} is ordered in a pause"));
        }
        let pace = self.manifest.step(step).map_or(Pace::Each, |step| step.pace);
        let of = actors.first().and_then(|actor| self.waves.lane_of(*actor));
        let Some(lane) = of.filter(|_| step.phase == Phase::Steps && attempt == 1) else { return Ok(()) };
        let nodes = || lane.iter().filter(|node| self.awaits(**node, false));
        if actors.iter().filter_map(|actor| actor.node()).any(|node| self.behind.contains(&node)) {
            return Ok(());
        }
        let run = |node: &NodeId| self.runs.get(&(step, Actor::Node(*node)));
        let flying = nodes().filter(|node| run(node).is_some_and(|run| run.stand == Stand::Ordered)).count();
        match pace {
            Pace::Window(window) if flying > window.rounded_up(nodes().count()).max(1) => {
                Err(format!("{step:?} runs on {flying} nodes at a time, and its window is {window}"))
            }
            Pace::Together if nodes().any(|node| run(node).is_none()) => {
                Err(format!("{step:?} does not start on all nodes together"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a step was ordered on a node of a lane.
    fn begun(&self, lane: &BTreeSet<NodeId>) -> bool {
        let of_steps = self.runs.keys().filter(|(step, _)| step.phase == Phase::Steps);
        of_steps.filter_map(|(_, actor)| actor.node()).any(|node| lane.contains(&node))
    }

    fn ran_in(&self, step: StepRef, site: &Name) -> bool {
        let of_step = self.runs.keys().filter(|(of, _)| *of == step);
        of_step.filter_map(|(_, actor)| actor.node()).any(|node| self.sites.get(&node) == Some(site))
    }
}

/// Whether a deployment that is to end so may end as this.
fn is_end_of(end: &End, outcome: &Outcome) -> bool {
    match end {
        End::Success => matches!(outcome, Outcome::Succeeded | Outcome::SucceededWithout { .. }),
        End::Failure { cause } | End::Rollback { cause } => *outcome == Outcome::Failed { cause: cause.clone() },
        End::Cancel => *outcome == Outcome::Cancelled,
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
    use shoal_proto::id::{TargetIndex, WaveIndex};
    use shoal_proto::manifest::{Acquire, Action, Group, OnFailure, Pace, Quorum, Share, Signed, Source, Step, Wave};
    use shoal_proto::rollout::{Exclusion, Options, Record as RolloutRecord};
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
            backoff: Duration::ZERO,
            on_failure: OnFailure::Pause,
            idempotent: false,
            always_after: None,
            pace: Pace::Each,
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
            waves: Vec::new(),
            offline: shoal_proto::manifest::Offline::Wait,
            rollback: None,
        };
        let created = Created {
            signed: Signed::seal(&manifest, |_| Vec::new()).unwrap(),
            options: Options::default(),
            sites: BTreeMap::from([(A, name("s")), (B, name("s"))]),
            blocks: Vec::new(),
            sources: Vec::new(),
            variables: Default::default(),
            back: Default::default(),
            joins: Default::default(),
        };
        let mut gate = Gate::default();
        gate.durable(&Record::Created(Box::new(created))).unwrap();
        for change in changes {
            durable(&mut gate, 0, change.clone()).unwrap();
            if *change == Change::GateOpened {
                durable(&mut gate, 0, Change::WaveOpened { wave: WaveIndex(0) }).unwrap();
            }
        }
        gate
    }

    fn durable(gate: &mut Gate, at_ms: u64, change: Change) -> Result<(), String> {
        let record = RolloutRecord { at: WallTime(at_ms), change };
        gate.durable(&Record::Rollout { deployment: ID, record })
    }

    /// One node a wave, a minute between them, one failure allowed in the second.
    fn in_waves() -> Gate {
        let wave = |of: &str, target, bake_s, failures| Wave {
            name: name(of),
            lanes: vec![vec![TargetIndex(target)]],
            max_parallel: 1,
            bake: Duration::from_secs(bake_s),
            success: Quorum::AllBut(u32::MAX),
            max_failures: Share::Count(failures),
            max_failures_per_site: None,
        };
        let waves = vec![wave("canary", 0, 60, 0), wave("rest", 1, 0, 1)];
        let mut gate = gate(&[]);
        let deployment = gate.deployments.get_mut(&ID).unwrap();
        deployment.manifest.waves = waves;
        deployment.waves = Waves::of(&deployment.manifest);
        durable(&mut gate, 0, Change::GateOpened).unwrap();
        gate
    }

    fn through(gate: &mut Gate, node: NodeId) {
        for index in [0, 1] {
            durable(gate, 0, ordered(index, &[node])).unwrap();
            durable(gate, 0, ended(index, node, StepOutcome::Succeeded)).unwrap();
        }
    }

    #[test]
    fn a_wave_that_does_not_wait_for_the_one_before_is_caught() {
        let (first, second) = (WaveIndex(0), WaveIndex(1));
        let mut gate = in_waves();
        durable(&mut gate, 0, Change::WaveOpened { wave: first }).unwrap();
        durable(&mut gate, 0, ordered(0, &[B])).unwrap();
        let early = gate.started(Actor::Node(B), run(0), true);
        assert!(early.unwrap_err().contains("before its wave's gate"));
        let unfinished = durable(&mut gate, 0, Change::WaveEnded { wave: first });
        assert!(unfinished.unwrap_err().contains("never had"));

        let mut gate = in_waves();
        durable(&mut gate, 0, Change::WaveOpened { wave: first }).unwrap();
        through(&mut gate, A);
        assert!(
            durable(&mut gate, 0, Change::WaveOpened { wave: second }).unwrap_err().contains("before the one before")
        );
        durable(&mut gate, 1_000, Change::WaveEnded { wave: first }).unwrap();
        assert!(durable(&mut gate, 60_999, Change::WaveOpened { wave: second }).unwrap_err().contains("bake"));
        durable(&mut gate, 61_000, Change::WaveOpened { wave: second }).unwrap();
        durable(&mut gate, 0, ordered(0, &[B])).unwrap();
        assert_eq!(gate.started(Actor::Node(B), run(0), true), Ok(()));
    }

    /// The lane of one node that is away is no node that catches up: its wave goes on without it.
    #[test]
    fn a_wave_whose_only_node_is_behind_is_through_without_it() {
        let mut gate = in_waves();
        durable(&mut gate, 0, Change::WaveOpened { wave: WaveIndex(0) }).unwrap();
        durable(&mut gate, 0, Change::Behind { node: A }).unwrap();
        assert_eq!(durable(&mut gate, 0, Change::WaveEnded { wave: WaveIndex(0) }), Ok(()));
        durable(&mut gate, 0, ordered(1, &[A])).unwrap();
        let early = gate.started(Actor::Node(A), run(1), true);
        assert!(early.unwrap_err().contains("never had"), "but it runs what it missed in order");
    }

    #[test]
    fn more_failures_than_the_budget_are_caught() {
        let failed = |node| Change::Excluded { node, why: Exclusion::Failed };
        let mut gate = in_waves();
        assert_eq!(durable(&mut gate, 0, failed(B)), Ok(()));
        assert!(durable(&mut gate, 0, failed(A)).unwrap_err().contains("more nodes failed"));
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
    fn a_second_order_beside_the_first_and_one_at_an_excluded_node_are_caught() {
        let mut gate = gate(&[Change::GateOpened, ordered(0, &[A, B])]);
        let again = Change::Ordered { step: at(0), attempt: 2, actors: vec![Actor::Node(A)] };
        assert!(durable(&mut gate, 0, again).unwrap_err().contains("again beside"));
        durable(&mut gate, 0, Change::Excluded { node: B, why: Exclusion::Operator }).unwrap();
        assert!(durable(&mut gate, 0, ordered(1, &[B])).unwrap_err().contains("was excluded"));
    }

    #[test]
    fn another_end_than_what_was_said_is_caught() {
        let ends = |end: End, outcome: Outcome| {
            let mut gate = gate(&[Change::GateOpened, Change::Closing { end }]);
            durable(&mut gate, 0, Change::Finished { outcome })
        };
        assert_eq!(ends(End::Cancel, Outcome::Cancelled), Ok(()));
        assert!(ends(End::Cancel, Outcome::Succeeded).unwrap_err().contains("is to end by"));
        let failed = |cause: &str| Outcome::Failed { cause: cause.to_owned() };
        assert!(ends(End::Failure { cause: "a".to_owned() }, failed("b")).is_err());
        assert_eq!(ends(End::Rollback { cause: "a".to_owned() }, failed("a")), Ok(()));
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
