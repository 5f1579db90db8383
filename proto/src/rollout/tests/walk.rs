//! The exhaustive walk: up to three nodes in waves, every order of messages, crashes of the coordinator at every record and
//! effect, crashes of nodes at any moment, an operator who pauses, promotes or cancels at any moment.
//!
//! The nodes here keep the contract of `effect.rs` and nothing more. Every world that can be reached is visited once;
//! wherever nothing can happen any more, the deployment must be over. Crashes are bounded, and everything else makes
//! progress, so each path ends there.

mod ends;
mod expires;
mod hours;
mod order;
mod sites;

use std::collections::VecDeque;

use super::*;
use crate::codec;

/// One of the worlds.
#[derive(Clone)]
struct World {
    rollout: Rollout,
    journal: Arc<Vec<Record>>,
    /// The deployment as it began; with a node more, that may still join; and where in the journal that did.
    first: Arc<Manifest>,
    joins: Option<Arc<Manifest>>,
    joined_at: Option<usize>,
    nodes: Vec<Target>,
    coordinator_crashes: u8,
    node_crashes: u8,
    failures: u8,
    retries: u8,
    cancels: u8,
    rollbacks: u8,
    pauses: u8,
    promotes: u8,
    /// How often site `a`, of the odd nodes, is shut; it may open at any moment.
    shuts: u8,
    shut: bool,
    /// How often a node falls silent while it stays connected; it may speak again at any moment, unless it is lost for good.
    silences: u8,
    /// How often whoever is asked for a site, and is not silent, answers too late.
    lates: u8,
    when: When,
    /// Whether the time by which its steps are to begin may come, at any moment.
    may_expire: bool,
    /// Whether it came when none had begun.
    too_late: bool,
    /// Jumps to where every bake and every wait before a retry is over.
    now: Now,
    /// Whether orders may be under way for a while. If not, they arrive at once: one that arrives late and one that was
    /// never sent lead to much the same, and the latter is walked in any case, as a crash between two effects.
    slow_orders: bool,
    /// Whether nodes that crashed or fell silent stay so.
    lost_for_good: bool,
    /// Whether what comes after `before_acquire` is left out.
    only_before: bool,
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
    /// It crashed, and nobody starts it again; or it is silent, for good.
    lost: bool,
    /// It is connected, and neither hears nor says anything.
    silent: bool,
}

impl Target {
    /// `may_start`: whether the gates in front of the node's steps are open.
    fn obey(&mut self, number: u8, order: Effect, may_start: bool) {
        let generation = match &order {
            Effect::Acquire { generation, .. }
            | Effect::StopAcquire { generation, .. }
            | Effect::RunStep { generation, .. }
            | Effect::OfferStep { generation, .. }
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
            Effect::RunStep { step, attempt, .. } => self.run(number, step, attempt, may_start),
            Effect::OfferStep { step, .. } if self.seen.contains_key(&(step, 1)) => self.report(number, step, 1),
            Effect::OfferStep { step, .. } => self.send(Input::StepReady { node: node(number), step }),
            Effect::CancelStep { step, attempt, .. } => {
                let outcome = self.seen.entry((step, attempt)).or_default();
                outcome.get_or_insert(StepOutcome::Killed);
                self.report(number, step, attempt);
            }
            Effect::Forget { .. } => self.forgotten = true,
            Effect::Finished { .. } => {}
        }
    }

    fn run(&mut self, number: u8, step: StepRef, attempt: u32, may_start: bool) {
        if !self.seen.contains_key(&(step, attempt)) {
            assert!(!self.forgotten, "{step:?} starts on a node that was told that all is over");
            assert!(may_start || step.phase != Phase::Steps, "GATE: {step:?} starts before the gate opened");
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
        let first = Arc::new(manifest);
        let rollout = fresh(Arc::clone(&first), false);
        let nodes = vec![Target::default(); rollout.manifest().targets().len()];
        let (coordinator_crashes, node_crashes, failures, retries) = (1, 1, 0, 0);
        let (cancels, rollbacks, pauses, promotes, now) = (0, 0, 0, 0, Now::default());
        let (journal, slow_orders, lost_for_good, by_crash) = (Arc::default(), false, false, false);
        let (joins, joined_at, shuts, shut, silences, lates) = (None, None, 0, false, 0, 0);
        let (only_before, when, may_expire, too_late) = (false, When::default(), false, false);
        Self {
            rollout,
            journal,
            first,
            joins,
            joined_at,
            nodes,
            coordinator_crashes,
            node_crashes,
            failures,
            retries,
            cancels,
            rollbacks,
            pauses,
            promotes,
            shuts,
            shut,
            silences,
            lates,
            when,
            may_expire,
            too_late,
            now,
            slow_orders,
            lost_for_good,
            only_before,
            by_crash,
        }
    }

    /// Two worlds with the same key have the same future.
    fn key(&self) -> [u8; 32] {
        let crashes = [self.coordinator_crashes, self.node_crashes, self.failures];
        let commands = [self.retries, self.cancels, self.rollbacks, self.pauses, self.promotes, self.shuts];
        let crashes = (crashes, self.silences, self.lates);
        // A jump passes all moments to come, so that what is to come is all that matters of time; and who was asked before.
        let wake = self.rollout.next_wake().map(|(_, why)| why);
        let passed_over = self.lates > 0 || self.nodes.iter().any(|node| node.silent);
        let asked = if passed_over { self.rollout.soft.asked_in_order() } else { Vec::new() };
        let told = (self.rollout.soft.told_in_order(), self.may_expire, self.too_late);
        let soft = (self.rollout.soft.since.is_some(), wake, asked, told);
        let all = (&self.rollout.state, &self.nodes, crashes, commands, soft, (self.joins.is_some(), self.shut));
        *blake3::hash(&codec::encode(&all, 1 << 20).unwrap()).as_bytes()
    }

    /// Every world that one event leads to.
    fn successors(&self) -> Vec<World> {
        let mut worlds = Vec::new();
        if self.only_before && self.rollout.state.times.acquire_began.is_some() {
            return worlds;
        }
        if self.rollout.soft.since.is_none() {
            // What was open when the last run ended may be shut by then.
            self.tell(&self.hours(), &mut worlds);
            self.shut_or_open(&mut worlds);
            return worlds;
        }
        if self.coordinator_crashes > 0 {
            let restarted = self.restarted(self.journal.len());
            assert_eq!(restarted.rollout.state, self.rollout.state, "replay is the same as live");
            worlds.push(restarted);
        }
        let asks = self.rollout.sight(None, Now::default()).asking().next().is_some();
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
        if self.rollbacks > 0 && self.rollout.outcome().is_none() {
            let taken_back = World { rollbacks: 0, ..self.clone() };
            taken_back.tell(&Input::Operator(Operator::Rollback), &mut worlds);
        }
        let missed = self.rollout.manifest().before_acquire.iter().zip((0..).map(StepIndex));
        let missed = missed.map(|(_, step)| step).any(|step| self.rollout.has_passed(step));
        if self.joins.is_some() && self.rollout.may_be_joined() && !missed {
            self.with_a_node_more().tell(&Input::Tick, &mut worlds);
        }
        self.more_commands(&mut worlds);
        self.expire(&mut worlds);
        self.shut_or_open(&mut worlds);
        match self.rollout.next_wake() {
            Some((at, Why::Bake | Why::Retry)) => self.later(at).tell(&Input::Tick, &mut worlds),
            Some((at, Why::Silent)) if self.asks_the_silent() => self.later(at).tell(&Input::Tick, &mut worlds),
            Some((at, Why::Silent)) if self.lates > 0 => {
                World { lates: self.lates - 1, ..self.later(at) }.tell(&Input::Tick, &mut worlds);
            }
            _ => {}
        }
        (0..self.rollout.members.len()).for_each(|index| self.successors_at(index, &mut worlds));
        worlds
    }

    /// Whether a silent node is asked for a site that has another one.
    fn asks_the_silent(&self) -> bool {
        let asked = self.rollout.state.elected.iter().map(|(_, node)| usize::from(node.0[0]) - 1);
        asked.filter(|index| index.is_multiple_of(2)).any(|index| self.nodes[index].silent)
    }

    /// A day after `at`.
    fn later(&self, at: Time) -> World {
        let day = Duration::from_secs(24 * 3600);
        let now = Now { time: at + day, wall: self.now.wall + at.since(self.now.time) + day };
        World { now, ..self.clone() }
    }

    fn more_commands(&self, worlds: &mut Vec<World>) {
        let state = &self.rollout.state;
        if state.closing.is_some() {
            return;
        }
        if state.paused {
            self.tell(&Input::Operator(Operator::Resume), worlds);
        } else if self.pauses > 0 {
            let paused = World { pauses: self.pauses - 1, ..self.clone() };
            paused.tell(&Input::Operator(Operator::Pause), worlds);
        }
        let view = || self.rollout.view();
        let waits =
            state.wave().is_some_and(|wave| state.waves[wave.index()].ended && !state.waves[wave.index()].promoted);
        let short = waits && view().waiting.iter().any(|waiting| matches!(waiting, view::Waiting::Promote { .. }));
        if short || (waits && self.promotes > 0) {
            let promoted = World { promotes: self.promotes.saturating_sub(1), ..self.clone() };
            promoted.tell(&Input::Operator(Operator::Promote), worlds);
        }
    }

    fn with_a_node_more(&self) -> World {
        let mut world = World { joined_at: Some(self.journal.len()), ..self.clone() };
        if let Some(manifest) = world.joins.take() {
            join(&mut world.rollout, &manifest);
            world.nodes.push(Target::default());
        }
        world
    }

    /// Whether the gates in front of the steps of the node with this index are open.
    fn may_start(&self, index: usize) -> bool {
        let state = &self.rollout.state;
        let wave = self.rollout.course.wave_of(node(u8::try_from(index + 1).unwrap()));
        // An order that is under way when a site is shut is carried out.
        let shut = self.shut && index.is_multiple_of(2) && !self.slow_orders;
        state.times.gate_opened.is_some() && state.waves[wave.index()].opened && !shut
    }

    fn successors_at(&self, index: usize, worlds: &mut Vec<World>) {
        let number = u8::try_from(index + 1).unwrap();
        let target = &self.nodes[index];
        let may_start = self.may_start(index);
        if target.silent {
            if !target.lost {
                self.change(worlds, |world| world.nodes[index].silent = false);
            }
            return;
        }
        if self.silences > 0 && target.connected {
            self.change(worlds, |world| {
                world.silences -= 1;
                let (lost, target) = (world.lost_for_good, &mut world.nodes[index]);
                (target.silent, target.lost) = (true, lost);
                if lost {
                    target.inbox.clear();
                    target.outbox.clear();
                }
                world.by_crash = true;
            });
        }
        if !target.inbox.is_empty() {
            let order = |world: &mut World| world.nodes[index].inbox.pop_front();
            self.change(worlds, |world| {
                if let Some(order) = order(world) {
                    world.nodes[index].obey(number, order, may_start);
                }
            });
        }
        if let Some(report) = target.outbox.front() {
            let mut told = self.clone();
            told.nodes[index].outbox.pop_front();
            told.tell(report, worlds);
        }
        if !target.connected && !target.lost {
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
            crashed.nodes[index].lost = self.lost_for_good;
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
        let decision = self.rollout.decide(input.clone(), self.now);
        let mut journaled = self.clone();
        for (index, record) in decision.records.iter().enumerate() {
            if self.coordinator_crashes > 0 {
                worlds.push(journaled.restarted(self.journal.len() + index));
            }
            Arc::make_mut(&mut journaled.journal).push(record.clone());
        }
        journaled.rollout.commit(&decision);
        journaled.assert_calm(&decision.effects);
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

    /// In a pause, only what is known to run is asked about.
    fn assert_calm(&self, effects: &[Effect]) {
        if !self.rollout.sight(None, Now::default()).is_paused() {
            return;
        }
        for (actor, step, _) in runs(effects) {
            let run = &self.rollout.state.runs[&(step, actor)];
            assert!(run.started.is_some(), "{step:?} starts on {actor:?} in a pause");
        }
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Acquire { .. })), "it fetches in a pause");
    }

    fn send(&mut self, number: u8, order: Effect) {
        let may_start = self.may_start(usize::from(number) - 1);
        let target = &mut self.nodes[usize::from(number) - 1];
        match target.connected {
            // Nobody will ever hear it.
            true if target.silent && target.lost => {}
            true if self.slow_orders || target.silent => target.inbox.push_back(order),
            true => target.obey(number, order, may_start),
            false => {}
        }
    }

    /// After `kill -9` of the coordinator with this many records durable. Nobody is connected, so that what
    /// `pending_effects` says comes again when nodes are.
    fn restarted(&self, records: usize) -> Self {
        let mut world = self.clone();
        (world.coordinator_crashes, world.by_crash) = (world.coordinator_crashes - 1, true);
        Arc::make_mut(&mut world.journal).truncate(records);
        world.rollout = planned(Arc::clone(&self.first), false, self.when);
        // That a node joined is durable before anything that follows from it.
        for index in 0..=records {
            if self.joined_at == Some(index) {
                join(&mut world.rollout, self.rollout.manifest());
            }
            world.journal.get(index).iter().for_each(|record| world.rollout.apply(record));
        }
        world.rollout.resume(world.now);
        world.nodes.iter_mut().for_each(Target::disconnect);
        world
    }
}

fn join(rollout: &mut Rollout, manifest: &Arc<Manifest>) {
    let number = u8::try_from(manifest.targets().len()).unwrap();
    let options = Options { names: [(node(number), name("late"))].into(), ..Options::default() };
    let site = if number % 2 == 1 { "a" } else { "b" };
    rollout.join(Arc::clone(manifest), &options, &[(node(number), name(site))].into());
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

fn none_twice(world: &World) {
    for target in &world.nodes {
        assert!(target.started.values().all(|times| *times == 1), "a step ran twice: {:?}", target.started);
    }
}

fn once(world: &World) {
    none_twice(world);
    let begun = world.nodes.iter().any(|target| target.started.keys().any(|step| step.phase == Phase::Steps));
    assert!(!begun || world.nodes.iter().all(|target| target.acquired), "GATE: the quorum is every node");
}

/// Of steps before, one `always_after`, and of steps after these, one that always runs.
fn cleaned_up(world: &World) {
    is_over(world);
    for target in &world.nodes {
        let ran = target.started.contains_key(&before(0));
        assert!(!ran || target.started.contains_key(&after(0)), "what was begun was not cleaned up");
        assert!(target.started.contains_key(&step(Phase::Always, 1)), "what always runs did not");
    }
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

/// The whole of a deployment that an operator may cancel at any moment, with what always runs at its end.
#[test]
fn cancelled_at_any_moment_it_ends_and_cleans_up() {
    let vpn = Step { on: On::Site, always_after: Some("down".to_owned()), ..script("vpn") };
    let always = Step { on: On::Always, ..script("always") };
    let manifest = manifest(2, vec![vpn], vec![script("one"), always]);
    let first = World { node_crashes: 0, cancels: 1, ..World::new(manifest) };
    assert_long(walk(first, once, cleaned_up));
}

/// A step that fails for good has the deployment taken back; so does an operator at any moment, also while it ends.
#[test]
fn rolled_back_at_any_moment_it_ends_and_says_so_for_good() {
    let always = Step { on: On::Always, ..script("always") };
    let step = Step { on_failure: OnFailure::Rollback, ..script("one") };
    let manifest = manifest(2, vec![], vec![step, always]);
    let ends = |world: &World| {
        is_over(world);
        let of_step = |node: &Target| node.seen.iter().any(|((step, _), o)| *step == nth(0) && *o == Some(failed(1)));
        let failed = world.nodes.iter().any(of_step);
        let well = world.rollout.outcome() == Some(&Outcome::Succeeded);
        assert!(!(failed && well), "a failure was passed over");
        assert_eq!(world.rollout.is_to_be_rolled_back(), !well, "{:?}", world.rollout.outcome());
        let again = World { coordinator_crashes: 1, ..world.clone() }.restarted(world.journal.len());
        assert_eq!(again.rollout.is_to_be_rolled_back(), !well, "a restart forgets it");
        for target in &world.nodes {
            assert!(target.started.contains_key(&step_always()), "what always runs did not");
            let ran = target.started.contains_key(&nth(0));
            let number = u8::try_from(world.nodes.iter().position(|other| std::ptr::eq(other, target)).unwrap() + 1);
            assert!(
                !ran || world.rollout.changed().contains(&node(number.unwrap())),
                "a changed node is not taken back"
            );
        }
    };
    let first = World { node_crashes: 0, failures: 1, rollbacks: 1, ..World::new(manifest) };
    assert_long(walk(first, once, ends));
}

/// A node joins at any moment, behind the others: it runs what they run, after its gate, once, and the end waits for it.
#[test]
fn a_node_that_joins_at_any_moment_runs_what_the_others_run() {
    let steps = || vec![script("one"), script("two")];
    let ends = |world: &World| {
        succeeds(world);
        for target in &world.nodes {
            assert!(target.acquired && target.started.len() == 2, "a node is left out: {:?}", target.started);
        }
    };
    let joins = Some(Arc::new(manifest(2, vec![], steps())));
    assert_long(walk(World { joins, ..World::new(manifest(1, vec![], steps())) }, none_twice, ends));
    let canary = || waves::wave("canary", &[&[1]]);
    let before = Manifest { waves: vec![canary(), waves::wave("rest", &[&[2]])], ..manifest(2, vec![], steps()) };
    let after = Manifest { waves: vec![canary(), waves::wave("rest", &[&[2, 3]])], ..manifest(3, vec![], steps()) };
    let first = World { node_crashes: 0, joins: Some(Arc::new(after)), ..World::new(before) };
    assert_long(walk(first, none_twice, ends));
}

/// It runs all that comes before packages are acquired too, whatever crashes, or it does not join.
#[test]
fn a_node_that_joins_before_packages_are_acquired_misses_no_step() {
    let before = || vec![script("one"), script("two")];
    let each = |world: &World| {
        let ran = |target: &Target| target.started.keys().filter(|step| step.phase == Phase::Before).count();
        let all = |target: &Target| !target.acquired || ran(target) == before().len();
        assert!(world.nodes.iter().all(all), "it missed a step: {:?}", world.rollout.view());
    };
    let joins = Some(Arc::new(manifest(2, before(), vec![])));
    let first = World { node_crashes: 0, pauses: 1, joins, ..World::new(manifest(1, before(), vec![])) };
    assert_long(walk(first, each, succeeds));
}

fn step_always() -> StepRef {
    step(Phase::Always, 1)
}
