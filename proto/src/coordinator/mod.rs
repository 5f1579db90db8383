//! The coordinator's decisions: who may join, what is deployed how far, who reads what from outside its site.
//!
//! [`Coordinator`] joins the cores that a coordinator is made of: the [`Directory`], one [`Rollout`] per deployment, and
//! one [`crate::wan::WanLedger`] per site and content. The shell does the I/O: it feeds every event to [`Coordinator::handle`] and
//! carries out what [`Coordinator::poll`] says, in order. An [`Output::Persist`] is durable before any later output is
//! carried out (ACKED-IS-KEPT); if it cannot be, the process stops, and a restart replays what is durable.
//!
//! Invariant: the state is a function of the records, the connections, and what connected nodes said since they
//! connected; so [`Coordinator::new`] with the journal's records, plus the nodes' hellos and wants, is the state again.

mod admit;
mod back;
mod budgets;
mod input;
mod join;
mod kept;
mod late;
mod ledgers;
mod nodes;
mod orders;
mod standby;
mod stock;
mod supplies;
mod supply;
mod view;
mod wan_limit;
mod when;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

pub use admit::Held;
pub use back::{NoWayBack, WayBack};
pub use budgets::BudgetWait;
pub use input::{AllowReading, BudgetOf, Created, Input, Notice, Output, Part, Record, WanTotals};
pub use join::{Joining, LeftOut};
pub use view::{DeploymentView, ReadTrouble, SiteView};

use ledgers::Ledgers;

use crate::directory::Directory;
use crate::hours::{Frozen, Shut};
use crate::id::{DeploymentId, Epoch, Name, NodeId, PackageIndex};
use crate::limits::RETURN_MAX;
use crate::manifest::Manifest;
use crate::rollout::{self, Now, Operator, Rollout};
use crate::runs::{RunEffect, Runs, StepRecord};
use crate::time::Time;
use crate::wan::calendar::Override;
use crate::wan::shares::Shares;
use crate::wan::{BlockRange, BudgetSums};
use crate::wire::{AcquireStats, Inventory, WanRates};

/// How a coordinator is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// This run of it; greater than that of every run before.
    pub epoch: Epoch,
    /// Where its bulk mesh is reached, as multiaddresses, unless a node's token says otherwise.
    pub bulk: Vec<String>,
    /// Where random choices start from.
    pub seed: u64,
    /// The sites that are shut as it starts.
    pub shut: BTreeMap<Name, Shut>,
}

/// Why an operator's command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OperateError {
    /// There is none with this number.
    #[error("there is no deployment {0}: `shoal status` lists them")]
    NoDeployment(DeploymentId),
    /// It does not fit.
    #[error(transparent)]
    Refused(#[from] rollout::Refusal),
    /// It has no target node there.
    #[error("{0} has no node in site `{1}`: `shoal status {0}` shows its sites")]
    NoSite(DeploymentId, Name),
    /// There is nothing to go back to.
    #[error(transparent)]
    NoWayBack(#[from] NoWayBack),
    /// It is over.
    #[error("{0} is over: nothing is read for it any more")]
    Over(DeploymentId),
    /// No reading waits for its budget.
    #[error("nothing that {0} reads in site `{1}` waits for its budget: name a package to allow more ahead of need")]
    NothingWaits(DeploymentId, Name),
}

/// Why a core wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A lease, a holder or an origin is due.
    Wan,
    /// A deployment has a deadline.
    Rollout,
    /// Rosters changed and are to be told.
    Roster,
    /// Shares of a site's WAN limit are to be told.
    Shares,
}

/// The decisions of one coordinator.
#[derive(Debug)]
pub struct Coordinator {
    config: Config,
    directory: Directory,
    deployments: BTreeMap<DeploymentId, Deployment>,
    ledgers: Ledgers,
    /// The WAN limit of each site that has or had one, and who reads.
    shares: BTreeMap<Name, Shares>,
    /// Sites with limits whose readers may have changed.
    wan_touched: BTreeSet<Name>,
    /// How fast each connected node was told that it may read.
    wan_told: BTreeMap<NodeId, WanRates>,
    /// And of which limit of its site that is a part.
    wan_limits_told: BTreeMap<NodeId, Option<u64>>,
    /// What operators set in place of calendars.
    overrides: BTreeMap<Name, Override>,
    /// What operators froze.
    frozen: Frozen,
    /// The sites that are shut.
    shut: BTreeMap<Name, Shut>,
    standbys: standby::Told,
    late: late::Late,
    runs: Runs,
    /// Deployments that an earlier run began, and until when their nodes are waited for.
    resumed: BTreeSet<DeploymentId>,
    resumed_until: Time,
    /// By site, nodes that an earlier run may have told how fast they may read, and that this one has not heard of.
    unheard: BTreeMap<Name, BTreeSet<NodeId>>,
    /// Which manifests each connected node was sent on its connection, until it was told the end.
    told: BTreeMap<NodeId, BTreeSet<DeploymentId>>,
    /// What connected nodes have in their caches, as far as they have said.
    inventories: BTreeMap<NodeId, Inventory>,
    /// What steps on the coordinator report to their rollouts.
    reports: VecDeque<RunEffect>,
    /// Sites whose rosters changed, and when they are told.
    stale_rosters: BTreeSet<Name>,
    rosters_at: Option<Time>,
    outbox: VecDeque<Output>,
}

#[derive(Debug)]
struct Deployment {
    created: Box<Created>,
    manifest: Arc<Manifest>,
    rollout: Rollout,
    stats: BTreeMap<(NodeId, PackageIndex), AcquireStats>,
    wan: BTreeMap<Name, WanTotals>,
    /// The greatest limit of each site while it was live; none for none. A site whose limit did not change is left out.
    wan_bounds: BTreeMap<Name, Option<u64>>,
    budgets: BTreeMap<BudgetOf, BudgetSums>,
    came: BTreeMap<BudgetOf, Vec<BlockRange>>,
    over: bool,
}

/// How long a change of rosters waits for others, so that a site that starts at once is told a few times, not once a node.
const ROSTER_DELAY: Duration = Duration::from_millis(200);

impl Coordinator {
    /// A coordinator with the state that `records` say.
    ///
    /// # Errors
    /// The deployment whose manifest does not decode: the journal is another program's, or damaged.
    pub fn new(config: Config, records: impl IntoIterator<Item = Record>, now: Now) -> Result<Self, String> {
        let mut new = Self {
            shut: config.shut.clone(),
            config,
            directory: Directory::default(),
            deployments: BTreeMap::new(),
            ledgers: Ledgers::default(),
            shares: BTreeMap::new(),
            wan_touched: BTreeSet::new(),
            wan_told: BTreeMap::new(),
            wan_limits_told: BTreeMap::new(),
            overrides: BTreeMap::new(),
            frozen: Frozen::new(),
            standbys: BTreeMap::new(),
            late: BTreeMap::new(),
            runs: Runs::default(),
            resumed: BTreeSet::new(),
            resumed_until: now.time + RETURN_MAX,
            unheard: BTreeMap::new(),
            told: BTreeMap::new(),
            inventories: BTreeMap::new(),
            reports: VecDeque::new(),
            stale_rosters: BTreeSet::new(),
            rosters_at: None,
            outbox: VecDeque::new(),
        };
        let mut ran: Vec<StepRecord> = Vec::new();
        for record in records {
            match record {
                Record::Step(step) => ran.push(step),
                other => new.apply(&other)?,
            }
        }
        let (runs, unseen) = Runs::restored(ran);
        new.runs = runs;
        new.carry_out_runs(unseen);
        let known = new.runs.say_all_again();
        new.carry_out_runs(known);
        let live: Vec<_> = new.live().collect();
        new.resumed.extend(&live);
        new.note_unheard();
        for id in live {
            new.go_on(id, now);
        }
        let ended: Vec<_> = new.deployments.keys().copied().filter(|id| new.is_over(*id)).collect();
        ended.into_iter().for_each(|id| new.go_back_from(id));
        new.settle(now);
        Ok(new)
    }

    /// Takes notice of `input`; what follows from it is in [`Self::poll`].
    pub fn handle(&mut self, input: Input, now: Now) {
        match input {
            Input::Node { from, message } => {
                self.on_node(from, message, now);
                return self.settle_for(from, now);
            }
            Input::NodeDown { node, absence } => {
                self.on_node_down(node, absence, now);
                return self.settle_for(node, now);
            }
            Input::Directory(record) => self.record(Record::Directory(record)),
            Input::Create(created) => self.on_create(created, now),
            Input::Join { node, created } => self.on_join(node, created, now),
            Input::StepWrote { run, outputs } => {
                let effects = self.runs.on_wrote(run, outputs);
                self.carry_out_runs(effects);
            }
            Input::StepEnded { run, outcome } => {
                let effects = self.runs.on_ended(run, outcome);
                self.carry_out_runs(effects);
            }
            Input::Stop { deployment, cause } => self.decide(deployment, rollout::Input::Stop { cause }, now),
            Input::OverrideLimit { site, limit } => self.record(Record::SiteLimit { site, limit }),
            Input::WanLimit { site, limit } => self.set_wan_limit(site, limit),
            Input::Freeze { site, freeze } => self.record(Record::Freeze { site, freeze }),
            Input::Hours(shut) => self.set_hours(shut, now),
            Input::Tick => self.on_tick(now),
        }
        self.settle(now);
    }

    /// Does what an operator says.
    ///
    /// # Errors
    /// Why nothing changed.
    pub fn operate(&mut self, id: DeploymentId, command: Operator, now: Now) -> Result<(), OperateError> {
        let deployment = self.deployments.get(&id).ok_or(OperateError::NoDeployment(id))?;
        if command == Operator::Rollback && deployment.rollout.outcome().is_none() {
            self.check_way_back(id, true)?;
        }
        let decision = deployment.rollout.decide(rollout::Input::Operator(command), now);
        if let Some(refusal) = decision.refused {
            return Err(refusal.into());
        }
        self.commit(id, decision);
        if command == Operator::KeepHours {
            // It heard of none since they were overridden.
            self.tell_hours(id, now);
        }
        self.settle(now);
        Ok(())
    }

    /// What is to be done next, in this order; `None` once all is said.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When [`Input::Tick`] is wanted, and for what.
    pub fn next_wake(&self) -> Option<(Time, Why)> {
        let wan = self.ledgers.next_wake().map(|at| (at, Why::Wan));
        let rollouts = self.live().filter_map(|id| self.deployments[&id].rollout.next_wake());
        let rollouts = rollouts.map(|(at, _)| (at, Why::Rollout));
        let rosters = self.rosters_at.map(|at| (at, Why::Roster));
        let shares = self.shares.values().filter_map(Shares::next_wake).map(|at| (at, Why::Shares));
        wan.into_iter().chain(rollouts).chain(rosters).chain(shares).min_by_key(|(at, _)| *at)
    }

    /// Tokens, members, sites.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Every deployment's number, in order.
    pub fn deployments(&self) -> impl Iterator<Item = DeploymentId> {
        self.deployments.keys().copied()
    }

    /// The number of the next deployment.
    pub fn next_deployment(&self) -> DeploymentId {
        DeploymentId(self.deployments.last_key_value().map_or(1, |(last, _)| last.0 + 1))
    }

    /// How a deployment began.
    pub fn created(&self, id: DeploymentId) -> Option<&Created> {
        self.deployments.get(&id).map(|deployment| &*deployment.created)
    }

    /// A deployment's manifest.
    pub fn manifest(&self, id: DeploymentId) -> Option<&Arc<Manifest>> {
        self.deployments.get(&id).map(|deployment| &deployment.manifest)
    }

    /// Whether a deployment has ended, or is not known.
    pub fn is_over(&self, id: DeploymentId) -> bool {
        self.deployments.get(&id).is_none_or(|deployment| deployment.rollout.outcome().is_some())
    }

    /// Asserts every invariant.
    ///
    /// # Panics
    /// If one does not hold: a bug.
    pub fn check(&self) {
        self.ledgers.check();
        for (_, supply) in self.ledgers.iter() {
            assert!(self.deployments.contains_key(&supply.purpose.deployment), "a supply for no deployment");
        }
        self.shares.values().for_each(Shares::check);
        self.check_held();
        for (id, deployment) in &self.deployments {
            deployment.rollout.check();
            assert_eq!(deployment.manifest.deployment, *id);
        }
        assert!(
            self.late.values().all(|(node, _)| self.told.contains_key(node)),
            "only who is connected is waited for"
        );
        assert!(self.inventories.keys().all(|node| self.told.contains_key(node)), "only who is connected has said so");
        assert!(self.told.keys().all(|node| self.directory.member(*node).is_some_and(|m| m.online.is_some())));
    }

    /// Deployments that are not over.
    fn live(&self) -> impl Iterator<Item = DeploymentId> {
        self.deployments.iter().filter(|(_, deployment)| !deployment.over).map(|(id, _)| *id)
    }

    /// Makes a change and has it made durable.
    fn record(&mut self, record: Record) {
        self.apply(&record).expect("a record that was just made fits");
        self.outbox.push_back(Output::Persist(record));
    }

    fn apply(&mut self, record: &Record) -> Result<(), String> {
        match record {
            Record::Directory(record) => self.directory.apply(record),
            Record::Created(created) => {
                let manifest = created.signed.open(|_, _| true).map_err(|error| error.to_string())?;
                let manifest = Arc::new(manifest);
                let rollout = Rollout::new(Arc::clone(&manifest), created.options.clone(), created.sites.clone());
                let deployment = Deployment {
                    created: created.clone(),
                    manifest,
                    rollout,
                    stats: BTreeMap::new(),
                    wan: BTreeMap::new(),
                    wan_bounds: BTreeMap::new(),
                    budgets: BTreeMap::new(),
                    came: BTreeMap::new(),
                    over: false,
                };
                self.deployments.insert(deployment.manifest.deployment, deployment);
            }
            Record::Joined(created) => self.apply_joined(created)?,
            Record::Rollout { deployment, record } => {
                if let Some(deployment) = self.deployments.get_mut(deployment) {
                    deployment.rollout.apply(record);
                    deployment.over |= matches!(record.change, rollout::Change::Finished { .. });
                }
            }
            Record::Step(_) => {}
            Record::SiteLimit { site, limit } => match limit {
                Some(limit) => drop(self.overrides.insert(site.clone(), *limit)),
                None => drop(self.overrides.remove(site)),
            },
            Record::Freeze { .. } => record.note_frozen(&mut self.frozen),
            Record::Acquired { deployment, node, package, stats } => {
                if let Some(deployment) = self.deployments.get_mut(deployment) {
                    deployment.stats.insert((*node, *package), *stats);
                }
            }
            Record::Read { deployment, site, wan } => {
                if let Some(deployment) = self.deployments.get_mut(deployment) {
                    deployment.wan.insert(site.clone(), *wan);
                }
            }
            Record::Budget { deployment, of, sums } => {
                if let Some(deployment) = self.deployments.get_mut(deployment) {
                    deployment.budgets.insert(of.clone(), *sums);
                }
            }
            Record::Came { deployment, of, blocks } => {
                if let Some(deployment) = self.deployments.get_mut(deployment) {
                    deployment.came.entry(of.clone()).or_default().extend(blocks);
                }
            }
        }
        Ok(())
    }

    /// Lets everything that follows from an input follow.
    fn settle(&mut self, now: Now) {
        self.touch_wan(None);
        self.settle_touched(now);
    }

    /// The same after an input that changes who reads in one node's site only: there are many of them.
    fn settle_for(&mut self, node: NodeId, now: Now) {
        let site = self.directory.site_of(node).cloned();
        if let Some(site) = site {
            self.touch_wan(Some(&site));
        }
        self.settle_touched(now);
    }

    fn settle_touched(&mut self, now: Now) {
        while let Some(report) = self.reports.pop_front() {
            self.on_own_report(report, now);
        }
        // Before the grants: a node that reads has to know how fast.
        self.share_wan(now);
        self.hear_ledgers();
    }

    fn on_create(&mut self, created: Box<Created>, now: Now) {
        let id = match created.signed.open(|_, _| true) {
            // Who looked before and was told that the nodes are free may be the second who did.
            Ok(manifest) if self.holder(&manifest.name, &manifest.targets()).is_some() => return,
            Ok(manifest) if !self.deployments.contains_key(&manifest.deployment) => manifest.deployment,
            _ => return,
        };
        self.record(Record::Created(created));
        self.note_wan_bounds(id);
        self.begin_when_it_may(id, now);
        let online: Vec<_> = self.told.keys().copied().collect();
        for node in online {
            self.tell_releases_before(node, id);
            self.tell_kept(node, id);
            self.decide(id, rollout::Input::NodeOnline(node), now);
        }
        self.decide(id, rollout::Input::Tick, now);
    }

    fn on_tick(&mut self, now: Now) {
        self.ledgers.tick(now.time);
        let live: Vec<_> = self.live().collect();
        for id in live {
            self.decide(id, rollout::Input::Tick, now);
        }
        if self.rosters_at.is_some_and(|at| at <= now.time) {
            self.rosters_at = None;
            self.tell_rosters();
        }
    }

    fn decide(&mut self, id: DeploymentId, input: rollout::Input, now: Now) {
        if let Some(deployment) = self.deployments.get(&id) {
            let decision = deployment.rollout.decide(input, now);
            self.commit(id, decision);
        }
    }

    fn commit(&mut self, id: DeploymentId, decision: rollout::Decision) {
        let Some(deployment) = self.deployments.get_mut(&id) else { return };
        deployment.rollout.commit(&decision);
        let changed = !decision.records.is_empty();
        for record in &decision.records {
            deployment.over |= matches!(record.change, rollout::Change::Finished { .. });
            self.outbox.push_back(Output::Persist(Record::Rollout { deployment: id, record: record.clone() }));
        }
        self.carry_out(id, decision.effects);
        if changed {
            self.outbox.push_back(Output::Notice(Notice::Changed(id)));
        }
    }
}
