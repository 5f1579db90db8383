//! Sites' WAN limits: who reads over a site's WAN, and how much of its limit each of them gets.

use std::collections::BTreeSet;

use super::{Coordinator, Output};
use crate::id::{Name, NodeId};
use crate::rollout::Now;
use crate::wan::calendar::Override;
use crate::wan::{self, shares::Shares};
use crate::wire::ToNode;

impl Coordinator {
    /// What an operator set in place of a site's calendar; it may have ended.
    pub fn limit_override(&self, site: &Name) -> Option<Override> {
        self.overrides.get(site).copied()
    }

    /// The sites for which an operator set a limit.
    pub fn overridden_sites(&self) -> impl Iterator<Item = &Name> {
        self.overrides.keys()
    }

    /// A site's WAN limit at present, in bytes a second.
    pub fn wan_limit(&self, site: &Name) -> Option<u64> {
        self.shares.get(site).and_then(Shares::limit)
    }

    /// What a site's nodes read over its WAN of late, in bytes a second, as they say under a limit.
    pub fn wan_rate(&self, site: &Name) -> u64 {
        match self.shares.get(site).filter(|shares| shares.limit().is_some()) {
            Some(shares) => shares.rate(),
            None => {
                let supplies = self.supplies.iter().filter(|((of, _), _)| of == site);
                supplies.map(|(_, supply)| supply.ledger.stats()).filter(|stats| stats.leases > 0).map(|s| s.rate).sum()
            }
        }
    }

    /// The greatest limit that held for a site while a deployment was live, in bytes a second: the bound in summaries is
    /// reckoned with it. None if there was none, or was none for a time.
    pub fn wan_bound(&self, deployment: crate::id::DeploymentId, site: &Name) -> Option<u64> {
        let bounds = self.deployments.get(&deployment).map(|deployment| &deployment.wan_bounds);
        bounds.and_then(|bounds| bounds.get(site).copied()).unwrap_or_else(|| self.wan_limit(site))
    }

    pub(super) fn set_wan_limit(&mut self, site: Name, limit: Option<u64>) {
        // A site that never had a limit costs nothing; one that had stays, so that its readers hear of the change.
        if limit.is_some() || self.shares.contains_key(&site) {
            let before = self.shares.get(&site).and_then(Shares::limit);
            for deployment in self.deployments.values_mut() {
                let bound = deployment.wan_bounds.entry(site.clone()).or_insert(before.or(limit));
                if !deployment.over {
                    *bound = bound.zip(limit).map(|(bound, limit)| bound.max(limit));
                }
            }
            self.shares.entry(site).or_default().set_limit(limit);
        }
    }

    pub(super) fn wan_used(&mut self, node: NodeId, rate: u64) {
        let Some(site) = self.directory.site_of(node) else { return };
        if let Some(shares) = self.shares.get_mut(site) {
            shares.used(node, rate);
        }
    }

    /// A node connected: until it is known to read, it reads nothing under a limit.
    pub(super) fn wan_node_up(&mut self, node: NodeId) {
        let Some(shares) = self.directory.site_of(node).and_then(|site| self.shares.get_mut(site)) else { return };
        shares.forget(node);
        if shares.limit().is_some() {
            let message = ToNode::WanRate { rate: Some(0) };
            self.outbox.push_back(Output::Node { to: node, message });
        }
    }

    /// Tells readers their shares.
    pub(super) fn share_wan(&mut self, now: Now) {
        for (site, shares) in &mut self.shares {
            let supplies = || self.supplies.iter().filter(|((of, _), _)| of == site);
            let readers: BTreeSet<NodeId> = supplies().flat_map(|(_, supply)| supply.ledger.holders()).collect();
            shares.set_readers(&readers, now.time);
            for (to, rate) in shares.reckon(now.time) {
                self.outbox.push_back(Output::Node { to, message: ToNode::WanRate { rate } });
            }
            let even = shares.limit().map(|limit| limit / shares.count().max(1) as u64);
            for (_, supply) in self.supplies.iter_mut().filter(|((of, _), _)| of == site) {
                if supply.allowed != even {
                    supply.allowed = even;
                    supply.ledger.handle(wan::Input::Allowed { rate: even }, now.time);
                }
            }
        }
    }
}
