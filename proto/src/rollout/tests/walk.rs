//! The exhaustive walk: one or two nodes, every order of messages, a crash of the coordinator at every record and effect,
//! a crash of a node at any moment.
//!
//! The nodes here keep the contract of `effect.rs` and nothing more. Every world that can be reached is visited once;
//! wherever nothing can happen any more, the deployment must be over. Crashes are bounded, and everything else makes
//! progress, so each path ends there.

use std::collections::VecDeque;

use super::*;
use crate::codec;

/// One of the worlds.
#[derive(Clone)]
struct World {
    rollout: Rollout,
    journal: Arc<Vec<Record>>,
    nodes: Vec<Target>,
    coordinator_crashes: u8,
    node_crashes: u8,
    failures: u8,
    retries: u8,
    cancels: u8,
    /// Whether orders may be under way for a while. If not, they arrive at once: one that arrives late and one that was
    /// never sent lead to much the same, and the latter is walked in any case, as a crash between two effects.
    slow_orders: bool,
    /// Whether it came from the last one by a crash; no part of its key.
    by_crash: bool,
}

/// A node as `effect.rs` wants it.
#[derive(Clone, Default, Serialize)]
struct Target {
    connected: bool,
    /// From the coordinator. What was sent before a crash may still arrive, until the next connection.
    inbox: VecDeque<Effect>,
    /// To the coordinator.
    outbox: VecDeque<Input>,
    acquiring: bool,
    acquired: bool,
    generation: Generation,
    /// Attempts that it has seen, on disk; without an outcome they run.
    seen: BTreeMap<(StepRef, u32), Option<StepOutcome>>,
    /// How often each step was really started.
    started: BTreeMap<StepRef, u32>,
    forgotten: bool,
}

impl Target {
    fn obey(&mut self, number: u8, order: Effect, gate_open: bool) {
        let generation = match &order {
            Effect::Acquire { generation, .. }
            | Effect::StopAcquire { generation, .. }
            | Effect::RunStep { generation, .. }
            | Effect::CancelStep { generation, .. }
            | Effect::Forget { generation, .. } => *generation,
            Effect::Finished { .. } => return,
        };
        if generation < self.generation {
            return;
        }
        self.generation = generation;
        match order {
            Effect::Acquire { .. } if self.acquired => self.report_package(number),
            Effect::Acquire { .. } => self.acquiring = true,
            Effect::StopAcquire { .. } => self.acquiring = false,
            Effect::RunStep { step, attempt, .. } => self.run(number, step, attempt, gate_open),
            Effect::CancelStep { step, attempt, .. } => {
                let outcome = self.seen.entry((step, attempt)).or_default();
                outcome.get_or_insert(StepOutcome::Killed);
                self.report(number, step, attempt);
            }
            Effect::Forget { .. } => self.forgotten = true,
            Effect::Finished { .. } => {}
        }
    }

    fn run(&mut self, number: u8, step: StepRef, attempt: u32, gate_open: bool) {
        if !self.seen.contains_key(&(step, attempt)) {
            assert!(!self.forgotten, "{step:?} starts on a node that was told that all is over");
            assert!(gate_open || step.phase != Phase::Steps, "GATE: {step:?} starts before the gate opened");
            assert!(self.acquired || step.phase != Phase::Steps, "{step:?} starts without its package");
            assert!(self.seen.values().all(Option::is_some), "{step:?} starts while another runs");
            self.seen.insert((step, attempt), None);
            *self.started.entry(step).or_default() += 1;
        }
        self.report(number, step, attempt);
    }

    fn report(&mut self, number: u8, step: StepRef, attempt: u32) {
        let actor = on(number);
        let report = match self.seen.get(&(step, attempt)) {
            Some(Some(outcome)) => Input::StepEnded { actor, step, attempt, outcome: outcome.clone() },
            Some(None) => Input::StepStarted { actor, step, attempt },
            None => return,
        };
        self.send(report);
    }

    fn report_package(&mut self, number: u8) {
        self.send(Input::Acquired { node: node(number), package: PackageIndex(0) });
    }

    /// What is sent without a connection is lost.
    fn send(&mut self, report: Input) {
        if self.connected {
            self.outbox.push_back(report);
        }
    }

    fn finish(&mut self, number: u8, step: StepRef, attempt: u32, outcome: StepOutcome) {
        self.seen.insert((step, attempt), Some(outcome));
        self.report(number, step, attempt);
    }

    fn disconnect(&mut self) {
        self.connected = false;
        self.outbox.clear();
    }

    /// Kill -9 and start again: what ran is gone, and nobody saw how it ended.
    fn crash(&mut self) {
        self.disconnect();
        self.inbox.clear();
        self.acquiring = false;
        for outcome in self.seen.values_mut() {
            outcome.get_or_insert(StepOutcome::Unknown);
        }
    }
}

impl World {
    fn new(manifest: Manifest) -> Self {
        let rollout = fresh(Arc::new(manifest), false);
        let nodes = vec![Target::default(); rollout.manifest().targets().len()];
        let (coordinator_crashes, node_crashes, failures, retries, cancels) = (1, 1, 0, 0, 0);
        let (journal, slow_orders, by_crash) = (Arc::default(), false, false);
        Self {
            rollout,
            journal,
            nodes,
            coordinator_crashes,
            node_crashes,
            failures,
            retries,
            cancels,
            slow_orders,
            by_crash,
        }
    }

    /// Two worlds with the same key have the same future.
    fn key(&self) -> [u8; 32] {
        let budgets = [self.coordinator_crashes, self.node_crashes, self.failures, self.retries, self.cancels];
        let started = self.rollout.soft.since.is_some();
        let all = (&self.rollout.state, &self.nodes, budgets, started);
        *blake3::hash(&codec::encode(&all, 1 << 20).unwrap()).as_bytes()
    }

    /// Every world that one event leads to.
    fn successors(&self) -> Vec<World> {
        let mut worlds = Vec::new();
        if self.rollout.soft.since.is_none() {
            self.tell(&Input::Tick, &mut worlds);
            return worlds;
        }
        if self.coordinator_crashes > 0 {
            let restarted = self.restarted(self.journal.len());
            assert_eq!(restarted.rollout.state, self.rollout.state, "replay is the same as live");
            worlds.push(restarted);
        }
        let asks = self.rollout.sight(None, Time::ZERO).asking().next().is_some();
        if asks {
            self.tell(&Input::Operator(Operator::Ignore(Which::default())), &mut worlds);
        }
        if asks && self.retries > 0 {
            let retrying = World { retries: self.retries - 1, ..self.clone() };
            retrying.tell(&Input::Operator(Operator::Retry(Which::default())), &mut worlds);
        }
        if self.cancels > 0 && self.rollout.state.closing.is_none() {
            let cancelled = World { cancels: 0, ..self.clone() };
            cancelled.tell(&Input::Operator(Operator::Cancel), &mut worlds);
        }
        (0..self.nodes.len()).for_each(|index| self.successors_at(index, &mut worlds));
        worlds
    }

    fn successors_at(&self, index: usize, worlds: &mut Vec<World>) {
        let number = u8::try_from(index + 1).unwrap();
        let target = &self.nodes[index];
        let gate_open = self.rollout.state.times.gate_opened.is_some();
        if !target.inbox.is_empty() {
            let order = |world: &mut World| world.nodes[index].inbox.pop_front();
            self.change(worlds, |world| {
                if let Some(order) = order(world) {
                    world.nodes[index].obey(number, order, gate_open);
                }
            });
        }
        if let Some(report) = target.outbox.front() {
            let mut told = self.clone();
            told.nodes[index].outbox.pop_front();
            told.tell(report, worlds);
        }
        if !target.connected {
            let mut connected = self.clone();
            connected.nodes[index].connected = true;
            connected.nodes[index].inbox.clear();
            connected.tell(&Input::NodeOnline(node(number)), worlds);
        }
        if target.acquiring && !target.acquired {
            self.change(worlds, |world| {
                world.nodes[index].acquired = true;
                world.nodes[index].report_package(number);
            });
        }
        for (step, attempt) in target.seen.iter().filter(|(_, outcome)| outcome.is_none()).map(|(run, _)| *run) {
            self.change(worlds, |world| world.nodes[index].finish(number, step, attempt, StepOutcome::Succeeded));
            if self.failures > 0 {
                self.change(worlds, |world| {
                    world.failures -= 1;
                    world.nodes[index].finish(number, step, attempt, failed(1));
                });
            }
        }
        if self.node_crashes > 0 {
            let mut crashed = self.clone();
            (crashed.node_crashes, crashed.by_crash) = (crashed.node_crashes - 1, true);
            crashed.nodes[index].crash();
            crashed.tell(&Input::NodeOffline(node(number)), worlds);
        }
    }

    fn change(&self, worlds: &mut Vec<World>, with: impl FnOnce(&mut World)) {
        let mut world = self.clone();
        with(&mut world);
        worlds.push(world);
    }

    /// The coordinator decides: wholly, or with a crash after any record, or after any effect.
    fn tell(&self, input: &Input, worlds: &mut Vec<World>) {
        let decision = self.rollout.decide(input.clone(), Now::default());
        let mut journaled = self.clone();
        for (index, record) in decision.records.iter().enumerate() {
            if self.coordinator_crashes > 0 {
                worlds.push(journaled.restarted(self.journal.len() + index));
            }
            Arc::make_mut(&mut journaled.journal).push(record.clone());
        }
        journaled.rollout.commit(&decision);
        for effect in decision.effects {
            if self.coordinator_crashes > 0 {
                worlds.push(journaled.restarted(journaled.journal.len()));
            }
            if let Some(to) = effect.node() {
                journaled.send(to.0[0], effect);
            }
        }
        worlds.push(journaled);
    }

    fn send(&mut self, number: u8, order: Effect) {
        let gate_open = self.rollout.state.times.gate_opened.is_some();
        let target = &mut self.nodes[usize::from(number) - 1];
        match target.connected {
            true if self.slow_orders => target.inbox.push_back(order),
            true => target.obey(number, order, gate_open),
            false => {}
        }
    }

    /// After `kill -9` of the coordinator with this many records durable. Nobody is connected, so that what
    /// `pending_effects` says comes again when nodes are.
    fn restarted(&self, records: usize) -> Self {
        let mut world = self.clone();
        (world.coordinator_crashes, world.by_crash) = (world.coordinator_crashes - 1, true);
        Arc::make_mut(&mut world.journal).truncate(records);
        world.rollout = fresh(Arc::clone(self.rollout.manifest()), false);
        world.journal.iter().for_each(|record| world.rollout.apply(record));
        world.nodes.iter_mut().for_each(Target::disconnect);
        world
    }
}

/// Visits every world that can be reached from `first`; `at_end` sees those where nothing can happen any more.
fn walk(first: World, each: impl Fn(&World), at_end: impl Fn(&World)) -> usize {
    let mut seen = BTreeSet::from([first.key()]);
    let mut open = vec![first];
    while let Some(world) = open.pop() {
        each(&world);
        let next = World { by_crash: false, ..world.clone() }.successors();
        if next.iter().all(|next| next.by_crash) {
            at_end(&world);
        }
        open.extend(next.into_iter().filter(|next| seen.insert(next.key())));
    }
    seen.len()
}

fn is_over(world: &World) {
    assert!(world.rollout.outcome().is_some(), "nothing can happen, but it is not over: {:#?}", world.rollout.view());
    assert!(world.nodes.iter().all(|node| node.forgotten), "a node was never told that it is over");
}

fn once(world: &World) {
    for target in &world.nodes {
        assert!(target.started.values().all(|times| *times == 1), "a step ran twice: {:?}", target.started);
    }
    let begun = world.nodes.iter().any(|target| target.started.keys().any(|step| step.phase == Phase::Steps));
    assert!(!begun || world.nodes.iter().all(|target| target.acquired), "GATE: the quorum is every node");
}

fn succeeds(world: &World) {
    is_over(world);
    assert_eq!(world.rollout.outcome(), Some(&Outcome::Succeeded));
}

fn two_steps() -> World {
    World::new(manifest(2, vec![], vec![script("one"), script("two")]))
}

/// The walks are useless if they are short; the counts are of worlds that differ.
fn assert_long(worlds: usize) {
    assert!(worlds > 2_000, "only {worlds} worlds: what was to be walked was not");
}

#[test]
fn with_a_crash_of_each_every_path_ends_and_no_step_runs_twice() {
    assert_long(walk(two_steps(), once, succeeds));
}

#[test]
fn with_orders_under_way_every_path_ends_and_no_step_runs_twice() {
    assert_long(walk(World { node_crashes: 0, slow_orders: true, ..two_steps() }, once, succeeds));
}

/// One node, with two crashes of the coordinator, two of the node, two failures, a retry by itself, and two by an operator: each start is an attempt of its own.
#[test]
fn with_failures_and_retries_every_path_ends_and_no_attempt_runs_twice() {
    let steps = vec![Step { retries: 1, ..script("one") }];
    let first = World {
        coordinator_crashes: 2,
        node_crashes: 2,
        failures: 2,
        retries: 2,
        slow_orders: true,
        ..World::new(manifest(1, vec![], steps))
    };
    let attempts = |world: &World| {
        for target in &world.nodes {
            let seen = target.seen.len();
            let started = target.started.get(&nth(0)).map_or(0, |times| *times);
            assert!(seen >= usize::try_from(started).unwrap(), "an attempt was started twice");
            let may_follow = |outcome: &&Option<StepOutcome>| !matches!(outcome, Some(StepOutcome::Succeeded) | None);
            let repeats = target.seen.values().filter(may_follow).count();
            assert!(seen <= 1 + repeats, "an attempt followed one that succeeded or still ran: {:?}", target.seen);
        }
    };
    assert_long(walk(first, attempts, is_over));
}

/// The whole of a deployment that an operator may cancel at any moment, with a script that always runs at its end.
#[test]
fn cancelled_at_any_moment_it_ends_and_cleans_up() {
    let vpn = Step { on: On::Site, always_after: Some("down".to_owned()), ..script("vpn") };
    let first = World { node_crashes: 0, cancels: 1, ..World::new(manifest(2, vec![vpn], vec![script("one")])) };
    let cleaned = |world: &World| {
        is_over(world);
        for target in &world.nodes {
            let ran = target.started.contains_key(&before(0));
            assert!(!ran || target.started.contains_key(&after(0)), "what was begun was not cleaned up");
        }
    };
    assert_long(walk(first, once, cleaned));
}
