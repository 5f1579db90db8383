//! The node's decisions: what to open, fetch, read, serve and run, given what the coordinator and the neighbours say.
//!
//! [`Node`] joins the cores that a node is made of: one [`crate::exchange::Exchange`] per content that it trades, the
//! leases it works on, and the steps it was told to run. The shell does the I/O: it feeds every event to
//! [`Node::handle`] and then carries out what [`Node::poll`] says, in order. Two orders matter: an
//! [`Output::Persist`] is durable before any later output is carried out, and outputs are not reordered.
//!
//! What a node knows of deployments is soft: the coordinator says it again on each connection; so what the store keeps for
//! them is replaced only once it has ([`Output::Pins`]). What it must not forget
//! is which runs of steps it started ([`StepRecord`]): the shell gives them back to [`Node::new`] after a restart.

mod contents;
mod deputy;
mod input;
mod pins;
mod reach;
mod trade;
mod wan_rate;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use contents::What;
pub use input::{Input, Opened, Output};
pub use pins::Pin;

use contents::Contents;
use deputy::Deputy;
use pins::Pins;
use wan_rate::WanRate;

use crate::id::{ContentId, DeploymentId, Generation, NodeId, PackageIndex};
use crate::manifest::{Manifest, Package};
use crate::outputs::ByStep;
use crate::runs::{RunEffect, Runs, StepRecord};
use crate::time::Time;
use crate::wire::{AcquireStats, ToCoordinator, ToNode};

/// Why a core wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Blocks are to be announced to the coordinator.
    Report,
    /// An exchange has something to do.
    Exchange,
    /// The coordinator is away, and a run may have to be read without a lease.
    Deputy,
    /// It may read over the WAN at another rate.
    WanRate,
}

/// The decisions of one node.
#[derive(Debug)]
pub struct Node {
    me: NodeId,
    /// When it was last told something.
    now: Time,
    welcomed: bool,
    deployments: BTreeMap<DeploymentId, Deployment>,
    /// Those that a connection began with, until its first roster says that these are all.
    told: Option<BTreeSet<DeploymentId>>,
    contents: Contents,
    deputy: Deputy,
    pins: Pins,
    runs: Runs,
    wan_rate: WanRate,
    outbox: VecDeque<Output>,
}

/// What the node is to do for one deployment.
#[derive(Debug)]
struct Deployment {
    generation: Generation,
    manifest: Arc<Manifest>,
    acquiring: BTreeMap<PackageIndex, Acquiring>,
    /// What steps elsewhere wrote that steps here see.
    shared: ByStep,
}

/// How far the acquisition of one package is.
#[derive(Clone, Debug, PartialEq)]
enum Acquiring {
    /// Under way.
    Since(Time),
    /// Over; said again on each connection.
    Over(ToCoordinator),
}

impl Node {
    /// A node that does nothing yet. `ran` is what was persisted before a restart, in order.
    pub fn new(me: NodeId, seed: u64, ran: impl IntoIterator<Item = StepRecord>) -> Self {
        let (runs, unseen) = Runs::restored(ran);
        let outbox = unseen.into_iter().map(Output::from).collect();
        let (contents, deputy) = (Contents::new(seed), Deputy::new(me, seed));
        let (now, deployments) = (Time::ZERO, BTreeMap::new());
        let (pins, wan_rate) = (Pins::default(), WanRate::default());
        Self { me, now, welcomed: false, deployments, told: None, contents, deputy, pins, runs, wan_rate, outbox }
    }

    /// The same with another time than [`crate::limits::COORDINATOR_GRACE`] for which the coordinator has to be out of reach
    /// before this node, as a deputy, reads without leases. The shorter it is, the more restarts it mistakes for a loss.
    #[must_use]
    pub fn with_coordinator_grace(mut self, grace: Duration) -> Self {
        self.deputy.reach.set_grace(grace);
        self
    }

    /// Takes notice of `input`; what follows from it is in [`Self::poll`].
    pub fn handle(&mut self, input: Input, now: Time) {
        self.now = now;
        self.deputy.note(&input, &self.contents, now);
        self.wan_rate.note(&input, &self.deputy.reach);
        match input {
            Input::CoordinatorDown => self.set_welcomed(false),
            Input::Coordinator(message) => self.on_coordinator(message, now),
            Input::Deploy { manifest, generation } => self.on_deploy(Arc::new(*manifest), generation),
            Input::OpenFailed { content, cause } | Input::SealFailed { content, cause } => {
                self.on_content_failed(content, &cause);
            }
            Input::StepWrote { run, outputs } => {
                let effects = self.runs.on_wrote(run, outputs);
                self.carry_out(effects);
            }
            Input::StepEnded { run, outcome } => {
                let effects = self.runs.on_ended(run, outcome);
                self.carry_out(effects);
            }
            Input::StepOutput { run, stream, text } => {
                self.outbox.push_back(Output::Coordinator(ToCoordinator::StepOutput { run, stream, text }));
            }
            other => self.contents.handle(other, now, &mut self.outbox),
        }
        self.settle(now);
        // Before what is read at it.
        self.outbox.extend(self.wan_rate.change(&self.deputy, now).map(Output::WanRate));
        self.deputy.act(&mut self.contents, now, &mut self.outbox);
        self.wan_rate.say(&self.deputy, &self.contents, now, &mut self.outbox);
        self.pins.make_room(|| self.contents.is_idle(), &mut self.outbox);
    }

    fn set_welcomed(&mut self, welcomed: bool) {
        self.welcomed = welcomed;
        self.contents.set_away(!welcomed, &mut self.outbox);
    }

    /// What is to be done next, in this order; `None` once all is said.
    pub fn poll(&mut self) -> Option<Output> {
        loop {
            match self.outbox.pop_front()? {
                // What is said to a coordinator that is away is said again when it is back.
                Output::Coordinator(_) if !self.welcomed => {}
                output => return Some(output),
            }
        }
    }

    /// When [`Input::Tick`] is wanted, and for what.
    pub fn next_wake(&self) -> Option<(Time, Why)> {
        let deputy = self.deputy.next_wake(&self.contents, self.now);
        let wan_rate = self.wan_rate.next_wake(&self.deputy.reach, self.now).map(|at| (at, Why::WanRate));
        self.contents.next_wake().into_iter().chain(deputy).chain(wan_rate).min_by_key(|(at, _)| *at)
    }

    /// Asserts every invariant.
    ///
    /// # Panics
    /// If one does not hold: a bug.
    pub fn check(&self) {
        self.contents.check();
        self.deputy.check(&self.contents);
        self.runs.check();
        self.pins.check(&self.wanted_pins());
        for deployment in self.deployments.values() {
            for index in deployment.acquiring.keys() {
                assert!(deployment.manifest.packages_of(self.me).any(|(own, _)| own == *index), "a foreign package");
            }
        }
    }

    fn on_coordinator(&mut self, message: ToNode, now: Time) {
        match message {
            ToNode::Welcome { epoch, site } => {
                self.set_welcomed(true);
                self.told = Some(BTreeSet::new());
                self.wan_rate.set_limit(None);
                self.outbox.push_back(Output::Welcomed { epoch, site });
                self.say_all_again();
            }
            ToNode::Roster(roster) => {
                self.end_all_but_told();
                self.contents.on_roster(roster, &mut self.outbox);
                let pins = self.wanted_pins();
                self.pins.heard(pins, &mut self.outbox);
            }
            ToNode::Grant(grant) => self.contents.on_grant(grant, now, &mut self.outbox),
            ToNode::Renewed { content, lease, origin } => {
                self.contents.on_renewed(content, lease, origin, &mut self.outbox);
            }
            ToNode::Credit { content, lease, bytes } => {
                self.contents.on_credit(content, lease, bytes, &mut self.outbox);
            }
            ToNode::Revoke { content, lease } => self.contents.on_revoke(content, lease, &mut self.outbox),
            ToNode::Acquire { deployment, generation } => self.on_acquire(deployment, generation, now),
            ToNode::StopAcquire { deployment, generation } => self.on_stop_acquire(deployment, generation),
            ToNode::Run { run, generation } => {
                if let Some(deployment) = self.current(run.deployment, generation) {
                    let (manifest, shared) = (Arc::clone(&deployment.manifest), deployment.shared.clone());
                    let effects = self.runs.on_run(run, &manifest, &shared);
                    self.carry_out(effects);
                }
            }
            ToNode::Offer { run, generation } => {
                if let Some(deployment) = self.current(run.deployment, generation) {
                    let manifest = Arc::clone(&deployment.manifest);
                    let effects = self.runs.on_offer(run, &manifest);
                    self.carry_out(effects);
                }
            }
            ToNode::Outputs { deployment, outputs } => {
                if let Some(deployment) = self.deployments.get_mut(&deployment) {
                    deployment.shared = outputs;
                }
            }
            ToNode::Kill { run, generation } => {
                if self.current(run.deployment, generation).is_some() {
                    let effects = self.runs.on_kill(run);
                    self.carry_out(effects);
                }
            }
            ToNode::End { deployment } => self.on_end(deployment),
            ToNode::WanRate(rates) => self.wan_rate.set(rates),
            ToNode::WanLimit { limit } => self.wan_rate.set_limit(limit),
            // The deputy has noted the one; whoever runs the steps keeps the other.
            ToNode::Standby(_) | ToNode::Variables { .. } => {}
            // The shell opens signed manifests ([`Input::Deploy`]) and ends refused connections.
            ToNode::Deploy { .. } | ToNode::Refused { .. } => {}
        }
    }

    fn carry_out(&mut self, effects: Vec<RunEffect>) {
        self.outbox.extend(effects.into_iter().map(Output::from));
    }

    fn on_deploy(&mut self, manifest: Arc<Manifest>, generation: Generation) {
        let id = manifest.deployment;
        if let Some(told) = &mut self.told {
            told.insert(id);
        }
        let deployment = self.deployments.entry(id).or_insert_with(|| Deployment {
            generation,
            manifest: Arc::clone(&manifest),
            acquiring: BTreeMap::new(),
            shared: ByStep::new(),
        });
        if generation >= deployment.generation {
            deployment.generation = generation;
            deployment.manifest = manifest;
        }
        self.deployments_changed();
    }

    /// Says what the store is to keep: before anything is opened for a deployment, or closed after it.
    fn deployments_changed(&mut self) {
        let pins = self.wanted_pins();
        self.pins.changed(pins, &mut self.outbox);
    }

    fn wanted_pins(&self) -> BTreeSet<Pin> {
        let packages =
            self.deployments.iter().flat_map(|(id, d)| d.manifest.packages_of(self.me).map(move |p| (id, p)));
        let pin = |(id, (_, package)): (&DeploymentId, (PackageIndex, &Package))| Pin {
            package: package.id,
            deployment: *id,
            recipe: package.recipe.recipe,
        };
        packages.map(pin).collect()
    }

    /// The deployment that an order is for, unless the order is older than the newest one seen.
    fn current(&mut self, id: DeploymentId, generation: Generation) -> Option<&mut Deployment> {
        let deployment = self.deployments.get_mut(&id)?;
        if generation < deployment.generation {
            return None;
        }
        deployment.generation = generation;
        Some(deployment)
    }

    fn on_acquire(&mut self, id: DeploymentId, generation: Generation, now: Time) {
        let me = self.me;
        let Some(deployment) = self.current(id, generation) else { return };
        let manifest = Arc::clone(&deployment.manifest);
        // What failed is tried again whenever it is ordered; what is there is said again.
        let failed = |acquiring: &Acquiring| matches!(acquiring, Acquiring::Over(ToCoordinator::AcquireFailed { .. }));
        deployment.acquiring.retain(|_, acquiring| !failed(acquiring));
        let mut said = Vec::new();
        let mut wanted = Vec::new();
        for (index, package) in manifest.packages_of(me) {
            match deployment.acquiring.entry(index) {
                Entry::Vacant(entry) => {
                    entry.insert(Acquiring::Since(now));
                    wanted.push(package);
                }
                Entry::Occupied(entry) => {
                    if let Acquiring::Over(message) = entry.get() {
                        said.push(Output::Coordinator(message.clone()));
                    }
                }
            }
        }
        self.outbox.extend(said);
        for package in wanted {
            self.contents.want(package, manifest.acquire.swarm, &mut self.outbox);
        }
    }

    /// Tells the coordinator of packages that are complete.
    fn settle(&mut self, now: Time) {
        for (id, deployment) in &mut self.deployments {
            for (index, acquiring) in &mut deployment.acquiring {
                let Acquiring::Since(since) = acquiring else { continue };
                let Some(package) = deployment.manifest.packages.get(index.index()) else { continue };
                let Some(stats) = self.contents.acquired(package) else { continue };
                let took_ms = u64::try_from(now.since(*since).as_millis()).unwrap_or(u64::MAX);
                let stats = AcquireStats { took_ms, ..stats };
                let message = ToCoordinator::Acquired { deployment: *id, package: *index, stats };
                *acquiring = Acquiring::Over(message.clone());
                self.outbox.push_back(Output::Coordinator(message));
            }
        }
    }

    /// Fails every package that needs `content`.
    fn on_content_failed(&mut self, content: ContentId, cause: &str) {
        self.contents.fail(content, &mut self.outbox);
        for (id, deployment) in &mut self.deployments {
            for (index, acquiring) in &mut deployment.acquiring {
                let Some(package) = deployment.manifest.packages.get(index.index()) else { continue };
                let needs = content == package.id.into() || content == package.recipe.recipe.into();
                if needs && matches!(acquiring, Acquiring::Since(_)) {
                    let cause = cause.to_owned();
                    let message = ToCoordinator::AcquireFailed { deployment: *id, package: *index, cause };
                    *acquiring = Acquiring::Over(message.clone());
                    self.outbox.push_back(Output::Coordinator(message));
                }
            }
        }
    }

    fn on_stop_acquire(&mut self, id: DeploymentId, generation: Generation) {
        if let Some(deployment) = self.current(id, generation) {
            deployment.acquiring.clear();
            self.close_unwanted();
        }
    }

    fn on_end(&mut self, id: DeploymentId) {
        self.deployments.remove(&id);
        self.deployments_changed();
        let effects = self.runs.on_end(id);
        self.carry_out(effects);
        self.close_unwanted();
    }

    /// What ended while this node was away, it is not told of one by one.
    fn end_all_but_told(&mut self) {
        let Some(told) = self.told.take() else { return };
        let known = self.deployments.keys().copied().chain(self.runs.deployments());
        let over: BTreeSet<_> = known.filter(|id| !told.contains(id)).collect();
        over.into_iter().for_each(|id| self.on_end(id));
    }

    fn close_unwanted(&mut self) {
        let wanted: BTreeSet<ContentId> = self
            .deployments
            .values()
            .flat_map(|d| d.acquiring.keys().filter_map(|index| d.manifest.packages.get(index.index())))
            .flat_map(|package| [package.id.into(), package.recipe.recipe.into()])
            .collect();
        self.contents.retain(&wanted, &mut self.outbox);
    }

    fn say_all_again(&mut self) {
        self.contents.say_all_again(&mut self.outbox);
        for acquiring in self.deployments.values().flat_map(|deployment| deployment.acquiring.values()) {
            if let Acquiring::Over(message) = acquiring {
                self.outbox.push_back(Output::Coordinator(message.clone()));
            }
        }
        let effects = self.runs.say_all_again();
        self.carry_out(effects);
    }
}

/// How long landed blocks wait for others before the coordinator is told of them together.
const REPORT_DELAY: Duration = Duration::from_millis(100);

/// How many landed blocks are told without waiting for more.
const REPORT_BLOCKS: usize = 8;
