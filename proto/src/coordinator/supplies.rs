//! What comes into sites: ledgers are made when the first node wants a content, fed with what nodes say, and dropped when
//! no live deployment wants the content any more.

use super::ledgers::Key;
use super::supply::{Purpose, Supply};
use super::{Coordinator, Notice, Output, Part, Record, WanTotals};
use crate::content::Layout;
use crate::id::{BlockIndex, ContentId, DeploymentId, LeaseId, Name, NodeId, PackageIndex};
use crate::limits::{GATHER_MAX, RETURN_MAX, STUCK_BLOCKS_MAX};
use crate::manifest::Source;
use crate::rng::mix;
use crate::rollout::{self, Now};
use crate::wan::credit::Terms;
use crate::wan::{self, BlockRange, WanLedger};
use crate::wire::{Grant, LeaseEnd, Origin, ToNode};

impl Coordinator {
    /// A node wants a content of a live deployment that it is a target of.
    pub(super) fn wants(&mut self, node: NodeId, content: ContentId, input: wan::Input, now: Now) {
        let Some(site) = self.directory.site_of(node).cloned() else { return };
        let key = (site, content);
        if !self.ledgers.contains(&key) {
            let Some(purpose) = self.purpose(content, Some(node)) else { return };
            let Some(mut supply) = self.new_supply(&key, purpose) else { return };
            let resumed = self.resumed.contains(&purpose.deployment) && now.time < self.resumed_until;
            let mut nodes = self.receivers(purpose, &key.0);
            // A first lease that knows of one node alone would be too large for what the others can take over.
            let until = if resumed { self.resumed_until } else { now.time + GATHER_MAX };
            nodes.retain(|node| resumed || self.told.contains_key(node));
            supply.ledger.handle(wan::Input::Await { nodes, until }, now.time);
            self.ledgers.insert(key.clone(), supply);
        }
        self.ledgers.tell(&key, now.time, |_| input);
        self.standby_for(node, content);
    }

    /// The first node of a site is back after all were gone. Deputies may have read meanwhile: they are heard before leases
    /// are granted for what they have or still read.
    pub(super) fn await_site(&mut self, site: &Name, now: Now) {
        let of_site = self.ledgers.of_site(site);
        let awaited: Vec<_> =
            of_site.map(|(key, supply)| (key.clone(), self.receivers(supply.purpose, site))).collect();
        for (key, nodes) in awaited {
            self.ledgers.tell(&key, now.time, |_| wan::Input::Await { nodes, until: now.time + RETURN_MAX });
        }
    }

    /// The nodes of a site that a package, or its recipe, is for.
    pub(super) fn receivers(&self, purpose: Purpose, site: &Name) -> Vec<NodeId> {
        let deployment = &self.deployments[&purpose.deployment];
        let of_site = deployment.created.sites.iter().filter(|(_, of)| *of == site).map(|(node, _)| *node);
        of_site.filter(|node| deployment.manifest.gets(*node, purpose.package)).collect()
    }

    /// What is read for a deployment, whichever one its ledger is kept for: of which package, and whether its recipe.
    pub(super) fn parts(
        &self,
        id: DeploymentId,
    ) -> impl Iterator<Item = (&(Name, ContentId), PackageIndex, bool, &Supply)> {
        let manifest = self.deployments.get(&id).map(|deployment| &deployment.manifest);
        self.ledgers.iter().filter_map(move |(key, supply)| {
            let (package, recipe) = manifest?.part(key.1)?;
            Some((key, package, recipe, supply))
        })
    }

    /// Which live deployment wants `content`, and as what; only those that `node` is a target of, if one is given.
    pub(super) fn purpose(&self, content: ContentId, node: Option<NodeId>) -> Option<Purpose> {
        self.live().find_map(|id| {
            let deployment = &self.deployments[&id];
            if node.is_some_and(|node| !deployment.created.has_target(node)) {
                return None;
            }
            let (package, recipe) = deployment.manifest.part(content)?;
            Some(Purpose { deployment: id, package, recipe })
        })
    }

    fn new_supply(&self, key: &(Name, ContentId), purpose: Purpose) -> Option<Supply> {
        let deployment = self.deployments.get(&purpose.deployment)?;
        let package = deployment.manifest.packages.get(purpose.package.index())?;
        let blocks: Vec<u32> = if purpose.recipe {
            let layout = Layout::of_outline(&package.recipe).ok()?;
            layout.blocks().map(|block| u32::try_from(layout.block_bytes(block)).unwrap_or(u32::MAX)).collect()
        } else {
            deployment.created.blocks.get(purpose.package.index())?.clone()
        };
        let salt = key.1.0.iter().chain(key.0.as_str().as_bytes()).fold(0, |sum, byte| mix(sum ^ u64::from(*byte)));
        let config = wan::Config {
            epoch: self.config.epoch,
            swarm: deployment.manifest.acquire.swarm,
            seed: self.config.seed ^ salt,
            resumed: self.resumed.contains(&purpose.deployment),
        };
        let count = u32::try_from(blocks.len()).ok()?;
        let mut ledger = WanLedger::new(&config, &blocks);
        self.carry_budgets(purpose.deployment, key, &mut ledger);
        Some(Supply::new(ledger, count, purpose))
    }

    pub(super) fn landed(&mut self, node: NodeId, content: ContentId, blocks: &[BlockRange], now: Now) {
        self.with_ledger(node, content, now, |supply| wan::Input::Landed { node, blocks: expand(blocks, supply) });
    }

    pub(super) fn stuck(&mut self, node: NodeId, content: ContentId, blocks: &[BlockRange], now: Now) {
        self.with_ledger(node, content, now, |supply| {
            let blocks = expand(blocks, supply).into_iter().take(STUCK_BLOCKS_MAX).collect();
            wan::Input::Stuck { node, blocks }
        });
    }

    /// A node reads on for a lease. Where nobody keeps the books of it any more, nobody minds.
    pub(super) fn credit_wanted(&mut self, node: NodeId, content: ContentId, lease: LeaseId, bytes: u64, now: Now) {
        let key = self.directory.site_of(node).map(|site| (site.clone(), content));
        if key.is_some_and(|key| self.ledgers.get(&key).is_some()) {
            self.with_ledger(node, content, now, |_| wan::Input::CreditWanted { node, lease, bytes });
        } else {
            self.outbox.push_back(Output::Node { to: node, message: ToNode::Credit { content, lease, bytes } });
        }
    }

    pub(super) fn lease_ended(&mut self, node: NodeId, end: LeaseEnd, begun: Vec<wan::Lacking>, now: Now) {
        let content = end.content;
        let mut verdict = None;
        self.with_ledger(node, content, now, |supply| {
            verdict = end.fault.as_ref().and_then(|fault| supply.verdict(fault, content));
            supply.ended(node, &end, begun)
        });
        if let Some(fault) = end.fault {
            self.outbox.push_back(Output::Notice(Notice::ReadFailed { node, content, cause: fault.cause }));
        }
        if let Some(cause) = verdict {
            self.stop_all(content, &cause, now);
        }
    }

    /// Ends every live deployment that wants `content`, which cannot be had.
    fn stop_all(&mut self, content: ContentId, cause: &str, now: Now) {
        while let Some(purpose) = self.purpose(content, None) {
            let deployment = &self.deployments[&purpose.deployment];
            let before = deployment.rollout.view();
            let package = deployment.manifest.packages.get(purpose.package.index());
            let package = package.map(|package| format!("package `{}` ({}): ", package.name, package.reference));
            let cause = package.unwrap_or_default() + cause;
            self.decide(purpose.deployment, rollout::Input::Stop { cause }, now);
            let ended = self.deployments[&purpose.deployment].over;
            // A deployment that runs its last scripts is ending, but not over: it is told once.
            if !ended || before.outcome.is_some() {
                return;
            }
        }
    }

    pub(super) fn with_ledger(
        &mut self,
        node: NodeId,
        content: ContentId,
        now: Now,
        input: impl FnOnce(&mut Supply) -> wan::Input,
    ) {
        let Some(site) = self.directory.site_of(node).cloned() else { return };
        self.ledgers.tell(&(site, content), now.time, input);
    }

    pub(super) fn for_each_ledger_of(&mut self, node: NodeId, input: &wan::Input, now: Now) {
        if let Some(site) = self.directory.site_of(node) {
            self.ledgers.tell_site(site, input, now.time);
        }
    }

    /// Says what the ledgers want done.
    pub(super) fn hear_ledgers(&mut self) {
        self.record_budgets();
        for (key, output) in self.ledgers.heard() {
            let content = key.1;
            match output {
                wan::Output::Grant { node, lease, blocks, terms, .. } => self.grant(node, key, lease, blocks, terms),
                wan::Output::Credit { node, lease, bytes } => {
                    let message = ToNode::Credit { content, lease, bytes };
                    self.outbox.push_back(Output::Node { to: node, message });
                }
                wan::Output::Revoke { node, lease } => {
                    let message = ToNode::Revoke { content, lease };
                    self.outbox.push_back(Output::Node { to: node, message });
                }
                wan::Output::Came { node, blocks } => self.record_came(&key, node, blocks),
                wan::Output::Notice(notice) => {
                    self.outbox.push_back(Output::Notice(Notice::Wan { site: key.0, content, notice }));
                }
            }
        }
    }

    fn grant(&mut self, to: NodeId, (site, content): Key, lease: LeaseId, blocks: Vec<BlockRange>, terms: Terms) {
        let Some(supply) = self.ledgers.get(&(site.clone(), content)) else { return };
        let (purpose, whole) = (supply.purpose, supply.whole);
        let grant = Grant { content, lease, blocks, origin: Origin::Coordinator { dictionary: None }, whole, terms };
        let manifest = &self.deployments[&purpose.deployment].manifest;
        let part = match manifest.acquire.source {
            _ if purpose.recipe => Part::Recipe,
            Source::Feed => Part::FromFeed,
            Source::Coordinator => Part::FromCoordinator,
        };
        let Purpose { deployment, package, .. } = purpose;
        self.outbox.push_back(Output::Grant { to, site, deployment, package, part, grant });
    }

    /// Has the sums of a deployment's ledgers made durable where they changed.
    pub(super) fn record_totals(&mut self, id: DeploymentId) {
        for (site, wan) in self.totals(id) {
            let known = self.deployments.get(&id).and_then(|deployment| deployment.wan.get(&site));
            if known.is_none_or(|known| known.read_bytes < wan.read_bytes || known.missing_bytes < wan.missing_bytes) {
                self.record(Record::Read { deployment: id, site, wan });
            }
        }
    }

    /// What the ledgers say of a deployment, by site.
    pub(super) fn totals(&self, id: DeploymentId) -> std::collections::BTreeMap<Name, WanTotals> {
        let mut sums = std::collections::BTreeMap::<Name, WanTotals>::new();
        for ((site, _), supply) in self.ledgers.iter().filter(|(_, supply)| supply.purpose.deployment == id) {
            let totals = supply.totals();
            let sum = sums.entry(site.clone()).or_default();
            sum.missing_bytes += totals.missing_bytes;
            sum.read_bytes += totals.read_bytes;
        }
        sums
    }

    /// Hands the ledgers of a deployment that is over to one that wants the same content, or drops them.
    pub(super) fn reassign_supplies(&mut self, over: DeploymentId) {
        let of_it = self.ledgers.iter().filter(|(_, supply)| supply.purpose.deployment == over);
        let keys: Vec<_> = of_it.map(|(key, _)| key.clone()).collect();
        for key in keys {
            match self.purpose(key.1, None) {
                Some(purpose) => {
                    let came = self.recorded_came(over, &key);
                    self.ledgers.reassign(&key, purpose);
                    came.into_iter().for_each(|(node, blocks)| self.record_came(&key, node, blocks));
                }
                None => self.ledgers.remove(&key),
            }
        }
    }
}

/// The blocks of `ranges` that the content has, each at most once if the ranges are in order.
fn expand(ranges: &[BlockRange], supply: &Supply) -> Vec<BlockIndex> {
    let count = supply.blocks;
    let blocks = ranges.iter().flat_map(|range| range.start.0..range.end.0.min(count));
    blocks.take(count as usize).map(BlockIndex).collect()
}
