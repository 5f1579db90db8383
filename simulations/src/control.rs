//! The coordinator's shell and its operator: feeds the core, makes records durable before what comes after them, and loses
//! with its process all that was not flushed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use shoal_proto::coordinator::{
    AllowReading, BudgetOf, BudgetWait, Config, Coordinator, Created, DeploymentView, Input, Notice, Output, Record,
};
use shoal_proto::directory::{DirectoryRecord, Token};
use shoal_proto::id::{DeploymentId, Epoch, NodeId};
use shoal_proto::manifest::Signed;
use shoal_proto::origin::HttpOrigin;
use shoal_proto::rollout::back::Back;
use shoal_proto::rollout::join::Joins;
use shoal_proto::rollout::view::Waiting;
use shoal_proto::rollout::{self, Actor, Change, Exclusion, Now, Operator, Options, Outcome, Which};
use shoal_proto::runs::StepRecord;
use shoal_proto::time::{Time, WallTime};
use shoal_proto::wan::Absence;
use shoal_proto::wire::{Origin, StepRun, ToCoordinator, ToNode};

use crate::checks::wan_once::Way;
use crate::links::{Payload, Place};
use crate::returns;
use crate::scenario::Scenario;
use crate::world::{Event, OPERATOR_LOOKS, World};

/// The coordinator's machine, and its operator's notebook.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) life: u32,
    seed: u64,
    /// What is durable.
    journal: Vec<Record>,
    pub(crate) process: Option<ControlProcess>,
    /// Nobody starts it before this.
    pub(crate) away_until: Time,
    /// How far the operator is with each planned deployment.
    plans: Vec<PlanStand>,
    /// Whether the operator had taken back what went well.
    regretted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PlanStand {
    Planned,
    Asked(DeploymentId),
    Answered,
}

/// What a crash loses.
#[derive(Debug)]
pub(crate) struct ControlProcess {
    core: Coordinator,
    started: Time,
    outputs: VecDeque<Output>,
    flushing: Option<Record>,
    pub(crate) wake: Option<Time>,
    links: BTreeMap<usize, usize>,
    pub(crate) running: BTreeSet<StepRun>,
}

impl Control {
    pub(crate) fn new(scenario: &Scenario, seed: u64) -> Self {
        let tokens = scenario.sites.iter().zip(1..).map(|(site, id)| {
            Record::Directory(DirectoryRecord::TokenCreated(Token {
                id,
                secret_hash: *blake3::hash(&[7; 32]).as_bytes(),
                site: site.name.clone(),
                roles: Vec::new(),
                expires: WallTime(u64::MAX),
                coordinator_bulk: Vec::new(),
            }))
        });
        let plans = vec![PlanStand::Planned; scenario.deployments.len()];
        Self {
            life: 0,
            seed,
            journal: tokens.collect(),
            process: None,
            away_until: Time::ZERO,
            plans,
            regretted: false,
        }
    }

    /// Whether the start of a step that runs here is durable.
    pub(crate) fn wrote_start(&self, run: StepRun) -> bool {
        self.journal.contains(&Record::Step(StepRecord::Started(run)))
    }
}

/// Where deputies read; all origins are one in this world.
fn origin() -> Origin {
    let (url, size) = ("http://origin.invalid/package".to_owned(), 1);
    Origin::Http(HttpOrigin { url, headers: Vec::new(), size, etag: None, last_modified: None, ca_pem: None })
}

impl World {
    pub(crate) fn start_coordinator(&mut self) {
        if self.control.process.is_some() || self.now < self.control.away_until {
            return;
        }
        self.control.life += 1;
        let shut = self.hours_at_start();
        let config = Config { epoch: Epoch(self.control.life.into()), bulk: Vec::new(), seed: self.control.seed, shut };
        let now = Now { time: Time::ZERO, wall: self.wall() };
        let core = match Coordinator::new(config, self.control.journal.iter().cloned(), now) {
            Ok(core) => core,
            Err(cause) => return self.verify("ACKED-IS-KEPT", Err(format!("the journal is refused: {cause}"))),
        };
        let verdict = self.checks.acked.restarted(|id| core.view(id, now.time).map(|view| view.rollout.outcome));
        self.verify("ACKED-IS-KEPT", verdict);
        self.checks.wan.coordinator_started();
        self.control.process = Some(ControlProcess {
            core,
            started: self.now,
            outputs: VecDeque::new(),
            flushing: None,
            wake: None,
            links: BTreeMap::new(),
            running: BTreeSet::new(),
        });
        self.settle_coordinator();
        self.say_limits();
    }

    pub(crate) fn crash_coordinator(&mut self) {
        let Some(process) = self.control.process.take() else { return };
        self.totals.coordinator_crashes += 1;
        self.control.life += 1;
        // What was being flushed may have become durable, with nobody told.
        if let Some(record) = process.flushing.filter(|_| self.rng.below(2) == 0) {
            self.became_durable(record);
        }
        self.checks.gate.crashed(Actor::Coordinator);
        for plan in &mut self.control.plans {
            if matches!(plan, PlanStand::Asked(_)) {
                *plan = PlanStand::Planned;
            }
        }
        for link in self.links.whole_at(Place::Coordinator) {
            self.break_link(link, Duration::from_secs(12));
        }
    }

    fn wall(&self) -> WallTime {
        WallTime(u64::try_from(self.now.since(Time::ZERO).as_millis()).unwrap_or(u64::MAX))
    }

    fn coordinator_now(&self, process: &ControlProcess) -> Now {
        Now { time: Time::ZERO + self.now.since(process.started), wall: self.wall() }
    }

    /// Tells the coordinator's core something, and has done what follows.
    pub(crate) fn feed_coordinator(&mut self, input: Input) {
        let Some(now) = self.control.process.as_ref().map(|process| self.coordinator_now(process)) else { return };
        let Some(process) = &mut self.control.process else { return };
        self.trace.note(self.now, format_args!("coordinator <- {input:?}"));
        process.core.handle(input, now);
        self.settle_coordinator();
    }

    fn settle_coordinator(&mut self) {
        let life = self.control.life;
        let Some(process) = &mut self.control.process else { return };
        while let Some(output) = process.core.poll() {
            self.trace.note(self.now, format_args!("coordinator -> {output:?}"));
            process.outputs.push_back(output);
        }
        process.core.check();
        let wake = process.core.next_wake().map(|(at, _)| (process.started + at.since(Time::ZERO)).max(self.now));
        if process.wake != wake {
            process.wake = wake;
            if let Some(at) = wake {
                self.queue.push(at, Event::Wake { place: Place::Coordinator, life });
            }
        }
        self.carry_out_coordinator();
    }

    fn carry_out_coordinator(&mut self) {
        loop {
            let Some(process) = self.control.process.as_mut().filter(|p| p.flushing.is_none()) else { return };
            match process.outputs.pop_front() {
                None => return,
                Some(Output::Persist(record)) => {
                    process.flushing = Some(record);
                    let at = self.now + self.within(Duration::from_micros(100), Duration::from_millis(8));
                    self.queue.push(at, Event::Flushed { place: Place::Coordinator, life: self.control.life });
                }
                Some(output) => self.do_for_coordinator(output),
            }
        }
    }

    pub(crate) fn coordinator_flushed(&mut self) {
        let record = self.control.process.as_mut().and_then(|process| process.flushing.take());
        if let Some(record) = record {
            if let Record::Created(created) = &record {
                self.answer_create(created);
            }
            self.became_durable(record);
        }
        self.carry_out_coordinator();
    }

    fn way_of(&self, of: &BudgetOf) -> Way {
        let site = self.scenario.sites.iter().position(|site| site.name == of.site).unwrap_or_default();
        Way { site, alone: of.node.and_then(|node| self.scenario.node(node)), content: of.content }
    }

    fn became_durable(&mut self, record: Record) {
        let verdict = self.checks.gate.durable(&record);
        self.verify("GATE", verdict);
        let verdict = self.checks.hours.durable(&record, &self.scenario);
        self.verify("HOURS", verdict);
        self.checks.pinned.durable(&record);
        self.checks.handed.durable(&record);
        if let Record::Came { of, blocks, .. } = &record {
            self.checks.wan.came(self.way_of(of), blocks);
        }
        if let Record::Rollout { deployment, record } = &record {
            self.count_passed_over(*deployment, &record.change);
            match &record.change {
                Change::Acquired { node, .. } => self.judge_pins(*node),
                Change::Behind { .. } | Change::Excluded { why: Exclusion::Offline, .. } => {
                    self.totals.left_behind += 1
                }
                _ => {}
            }
        }
        let manifest = match &record {
            Record::Created(created) => created.signed.open(|_, _| true).ok(),
            _ => None,
        };
        self.totals.in_waves += u64::from(manifest.as_ref().is_some_and(|manifest| !manifest.waves.is_empty()));
        for package in manifest.iter().flat_map(|manifest| &manifest.packages) {
            self.checks.wan.deployed(package.id.into(), package.size);
            self.checks.wan.deployed(package.recipe.recipe.into(), package.recipe.size);
        }
        self.control.journal.push(record);
    }

    /// The operator's command to deploy is answered once the deployment is durable.
    fn answer_create(&mut self, created: &Created) {
        let Ok(manifest) = created.signed.open(|_, _| true) else { return };
        let id = manifest.deployment;
        self.checks.acked.created(id);
        for plan in &mut self.control.plans {
            if *plan == PlanStand::Asked(id) {
                *plan = PlanStand::Answered;
            }
        }
    }

    fn do_for_coordinator(&mut self, output: Output) {
        match output {
            Output::Node { to, message } => {
                if let ToNode::Run { run, .. } = &message {
                    let verdict = self.checks.gate.ordered(Actor::Node(to), *run);
                    self.verify("GATE", verdict);
                }
                if let ToNode::WanRate(rates) = &message {
                    self.wan_rates_sent(to, *rates);
                }
                self.tell_node(to, message);
            }
            Output::Grant { to, grant, .. } => {
                self.totals.leases += 1;
                self.tell_node(to, ToNode::Grant(grant));
            }
            Output::Standby { to, mut standby, .. } => {
                if !standby.deputies.is_empty() {
                    standby.origin = origin();
                }
                self.tell_node(to, ToNode::Standby(standby));
            }
            Output::Disconnect(node) => {
                let link = self.scenario.node(node).and_then(|node| {
                    self.control.process.as_ref().and_then(|process| process.links.get(&node).copied())
                });
                if let Some(link) = link {
                    self.break_link(link, Duration::from_millis(100));
                }
            }
            Output::Run { run, outputs, .. } => {
                if let Some(process) = &mut self.control.process {
                    process.running.insert(run);
                }
                self.start_step(Place::Coordinator, self.control.life, run, &outputs);
            }
            Output::Kill { run } => {
                let (at, life) = (self.now + Duration::from_millis(20), self.control.life);
                self.queue.push(at, Event::StepKilled { place: Place::Coordinator, life, run });
            }
            // Steps in a storm name no variables.
            Output::Variables { .. } => {}
            Output::RollBack { of } => self.take_back(of, false),
            Output::Join { deployment, node } => self.join(deployment, node),
            Output::Notice(notice) => self.take_notice(notice),
            Output::StepOutput { .. } | Output::Persist(_) => {}
        }
    }

    fn tell_node(&mut self, to: shoal_proto::id::NodeId, message: ToNode) {
        let Some(node) = self.scenario.node(to) else { return };
        let link = self.control.process.as_ref().and_then(|process| process.links.get(&node).copied());
        if let Some(link) = link {
            self.send(link, Place::Coordinator, Payload::ToNode(message));
        }
    }

    fn take_notice(&mut self, notice: Notice) {
        if let Notice::Finished { deployment, outcome } = notice {
            let verdict = self.checks.acked.finished(deployment, outcome);
            self.verify("ACKED-IS-KEPT", verdict);
        }
    }

    pub(crate) fn hear_node(&mut self, link: usize, message: ToCoordinator) {
        let Place::Node(node) = self.links.other(link, Place::Coordinator) else { return };
        let from = self.scenario.nodes[node].id;
        let Some(process) = &mut self.control.process else { return };
        let before = process.links.insert(node, link);
        if let Some(before) = before.filter(|before| *before != link) {
            self.links.break_link(before);
            self.feed_coordinator(Input::NodeDown { node: from, absence: Absence::Unheard });
        }
        match &message {
            // What was wasted under leases of others than this run, no budget of its could avoid.
            ToCoordinator::LeaseEnded { end, .. } if end.lease.epoch() == Some(Epoch(self.control.life.into())) => {
                self.checks.wan.waste_said(end.lease);
            }
            ToCoordinator::Landed { content, blocks } => {
                let blocks = blocks.iter().flat_map(|range| range.iter());
                blocks.for_each(|block| self.checks.wan.said(node, *content, block));
            }
            _ => {}
        }
        self.feed_coordinator(Input::Node { from, message });
    }

    /// The coordinator learns that a connection broke: `quick` if something on its way or at its end said so.
    pub(crate) fn coordinator_link_down(&mut self, link: usize, quick: bool) {
        let Place::Node(node) = self.links.other(link, Place::Coordinator) else { return };
        let Some(process) = &mut self.control.process else { return };
        if process.links.get(&node) == Some(&link) {
            process.links.remove(&node);
            let closed = quick && self.hosts[node].process.is_none();
            let absence = if closed { Absence::Closed } else { Absence::Unheard };
            self.feed_coordinator(Input::NodeDown { node: self.scenario.nodes[node].id, absence });
        }
    }

    /// Begins all that takes a deployment back, as the real shell does.
    fn take_back(&mut self, of: DeploymentId, mut again: bool) {
        loop {
            let Some(core) = self.control.process.as_ref().map(|process| &process.core) else { return };
            let Ok(way) = core.way_back(of, std::mem::take(&mut again)) else { return };
            let signed = Signed::seal(&way.manifest, |_| Vec::new()).expect("manifests in scenarios are small");
            let Some(release) = core.created(way.to) else { return };
            let created = way.created(signed, release);
            self.totals.rollbacks += 1;
            self.feed_coordinator(Input::Create(Box::new(created)));
        }
    }

    /// A node joins a deployment that runs, as the real shell has it.
    fn join(&mut self, deployment: DeploymentId, node: NodeId) {
        let Some(core) = self.control.process.as_ref().map(|process| &process.core) else { return };
        let Some(joining) = core.joining(deployment, node) else { return };
        let signed = Signed::seal(&joining.manifest, |_| Vec::new()).expect("manifests in scenarios are small");
        self.totals.joined += 1;
        let created = Box::new(joining.created(signed));
        self.feed_coordinator(Input::Join { node, created });
    }

    /// When all is over, the operator has the newest deployment that went well taken back after all; whether that began.
    fn regrets(&mut self, views: &[DeploymentView]) -> bool {
        let went_well = |view: &&DeploymentView| {
            matches!(view.rollout.outcome, Some(Outcome::Succeeded | Outcome::SucceededWithout { .. }))
        };
        let last = views.iter().rfind(went_well).map(|view| view.rollout.deployment);
        if let Some(id) = last.filter(|_| self.scenario.returns && self.totals.rollbacks == 0) {
            self.take_back(id, true);
        }
        self.totals.rollbacks > 0 && !std::mem::replace(&mut self.control.regretted, true)
    }

    /// The operator starts a deployment; again later if the coordinator is away.
    pub(crate) fn create(&mut self, plan: usize) {
        if self.control.plans[plan] == PlanStand::Answered {
            return;
        }
        self.queue.push(self.now + Duration::from_secs(2), Event::Create { plan });
        if self.control.plans[plan] != PlanStand::Planned {
            return;
        }
        let Some(process) = &self.control.process else { return };
        let id = process.core.next_deployment();
        let deployment = &self.scenario.deployments[plan];
        let manifest = self.scenario.manifest(deployment, id);
        let facts = self.scenario.facts();
        let created = Created {
            signed: Signed::seal(&manifest, |_| Vec::new()).expect("manifests in scenarios are small"),
            options: Options {
                when: deployment.when,
                ..Options::for_targets(&manifest, &facts, deployment.stage_only)
            },
            sites: rollout::plan::sites(&manifest, &facts),
            blocks: self.scenario.packages_of(deployment).map(|package| package.blocks.clone()).collect(),
            sources: Vec::new(),
            variables: Default::default(),
            back: Back::same(&manifest),
            joins: if self.scenario.returns { returns::joins(deployment, &manifest) } else { Joins::default() },
        };
        // Every other operator looks first; the others find out by being the second.
        let held = process.core.holder(&manifest.name, &manifest.targets()).is_some();
        if held && plan.is_multiple_of(2) {
            return;
        }
        self.control.plans[plan] = PlanStand::Asked(id);
        self.feed_coordinator(Input::Create(Box::new(created)));
        if held {
            let known = self.control.process.as_ref().is_some_and(|process| process.core.manifest(id).is_some());
            assert!(!known, "{id} began though another one has its nodes");
            self.control.plans[plan] = PlanStand::Planned;
        }
    }

    /// The operator answers what waits for an answer: at times in the storm, always in the calm.
    pub(crate) fn operator_looks(&mut self) {
        self.queue.push(self.now + OPERATOR_LOOKS, Event::OperatorLooks);
        let Some(process) = &self.control.process else { return };
        let now = self.coordinator_now(process).time;
        let views: Vec<_> = process.core.deployments().filter_map(|id| process.core.view(id, now)).collect();
        let all = self.control.plans.iter().all(|plan| *plan == PlanStand::Answered);
        let idle = process.outputs.is_empty() && process.flushing.is_none();
        if self.calm && all && idle && views.iter().all(|view| view.rollout.outcome.is_some()) {
            self.over = !self.regrets(&views);
            return;
        }
        if self.go_for_hours(&views) {
            return;
        }
        self.disagree(&views);
        for view in views.iter().filter(|view| view.rollout.outcome.is_none()) {
            self.pause_at_times(view.rollout.deployment);
            for waiting in &view.rollout.waiting {
                if self.calm || self.rng.below(3) == 0 {
                    self.answer(view.rollout.deployment, waiting);
                }
            }
        }
        // In the calm all that waits goes on; before it, a coordinator that crashes later is not to forget the operator's word.
        if self.calm || self.mishap(10) {
            self.allow_all_reading();
        }
    }

    fn answer(&mut self, id: DeploymentId, waiting: &Waiting) {
        let dice = self.rng.below(12);
        let command = match waiting {
            Waiting::Resume => Operator::Resume,
            Waiting::Release => Operator::Release,
            Waiting::Promote { .. } => Operator::Promote,
            Waiting::Bake { .. } if dice == 0 => Operator::Promote,
            Waiting::Time { .. } if dice == 0 => Operator::ReleaseNow,
            Waiting::Hours { .. } if dice == 0 => Operator::AnyHour,
            Waiting::Package { node, .. } => {
                let which = Which { actor: Some(Actor::Node(*node)), step: None };
                if dice == 0 { Operator::Exclude(which) } else { Operator::Retry(which) }
            }
            Waiting::Answer { actor, step, .. } => {
                let which = Which { actor: Some(*actor), step: Some(*step) };
                match dice {
                    0 => Operator::Fail(which),
                    1 => Operator::Exclude(Which { actor: Some(*actor), step: None }),
                    2 | 3 => Operator::Ignore(which),
                    4 => Operator::Rollback,
                    _ => Operator::Retry(which),
                }
            }
            _ => return,
        };
        let command = if self.mishap(5) { Operator::Cancel } else { command };
        let _ = self.operate(id, command);
    }

    /// The operator pauses a deployment that goes in waves.
    fn pause_at_times(&mut self, id: DeploymentId) {
        let manifest = self.control.process.as_ref().and_then(|process| process.core.manifest(id));
        let in_waves = manifest.is_some_and(|manifest| !manifest.waves.is_empty());
        if in_waves && !self.calm && self.rng.below(8) == 0 {
            let _ = self.operate(id, Operator::Pause);
        }
    }

    /// An operator says something; whether it was taken.
    pub(crate) fn operate(&mut self, id: DeploymentId, command: Operator) -> bool {
        let now = self.control.process.as_ref().map(|process| self.coordinator_now(process));
        let (Some(process), Some(now)) = (&mut self.control.process, now) else { return false };
        let answer = process.core.operate(id, command, now);
        self.trace.note(self.now, format_args!("operator: {id} {command:?} {answer:?}"));
        self.settle_coordinator();
        answer.is_ok()
    }

    /// The operator pays for what the budgets do not.
    fn allow_all_reading(&mut self) {
        let Some(process) = &self.control.process else { return };
        let deployments = process.core.deployments();
        let waits = deployments.flat_map(|id| process.core.budget_waits(id).map(move |wait| (id, wait)));
        for (id, wait) in waits.collect::<Vec<_>>() {
            self.allow_reading(id, wait);
        }
    }

    fn allow_reading(&mut self, id: DeploymentId, wait: BudgetWait) {
        let Some(now) = self.control.process.as_ref().map(|process| self.coordinator_now(process)) else { return };
        let (site, package) = (wait.of.site, Some(wait.package));
        let allow = AllowReading { site, package, bytes: wait.wanted_bytes };
        let Some(process) = &mut self.control.process else { return };
        let answer = process.core.allow_reading(id, &allow, now);
        self.trace.note(self.now, format_args!("operator: {id} {allow:?} {answer:?}"));
        self.totals.overrides += 1;
        for of in answer.unwrap_or_default() {
            self.checks.wan.allowed(self.way_of(&of), allow.bytes);
        }
        self.settle_coordinator();
    }

    pub(crate) fn what_is_unfinished(&self) -> String {
        let Some(process) = &self.control.process else { return "the coordinator is down".to_owned() };
        let now = self.coordinator_now(process).time;
        let views = process.core.deployments().filter_map(|id| process.core.view(id, now));
        let open = views.filter(|view| view.rollout.outcome.is_none()).map(|view| {
            let view = view.rollout;
            format!("{} in stage {:?} waits for {:?}, gate {:?}", view.deployment, view.stage, view.waiting, view.gate)
        });
        let plans = format!("plans {:?}", self.control.plans);
        open.chain([plans]).collect::<Vec<_>>().join("; ")
    }

    /// Each target of a deployment that succeeded holds what it was to hold.
    pub(crate) fn judge_end(&mut self) {
        let mut verdict = Ok(());
        for (id, manifest, live) in self.checks.gate.succeeded() {
            for node in live {
                let Some(number) = self.scenario.node(node) else { continue };
                let disk = &self.hosts[number].disk;
                let lacks = manifest.packages_of(node).find(|(_, package)| !disk.is_sealed(package.id.into()));
                if let Some((_, package)) = lacks {
                    verdict = Err(format!("{id} succeeded, and node{number} lacks {}", package.name));
                }
            }
        }
        self.verify("LIVENESS", verdict);
        self.totals.wan = self.checks.wan.ratios();
    }
}
