//! Sites' WAN limits: who reads over a site's WAN, and how much of its limit each of them gets.

use std::collections::BTreeSet;

use super::ledgers::of_site;
use super::{Coordinator, Output};
use crate::id::{DeploymentId, Name, NodeId};
use crate::rollout::Now;
use crate::time::Time;
use crate::wan::calendar::Override;
use crate::wan::shares::Shares;
use crate::wire::{ToNode, WanRates};

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

    /// What a site's nodes read over its WAN of late, in bytes a second: as they say under a limit, else as blocks land.
    pub fn wan_rate(&self, site: &Name, now: Time) -> u64 {
        match self.shares.get(site).filter(|shares| shares.limit().is_some()) {
            Some(shares) => shares.rate(),
            None => self.ledgers.of_site(site).map(|(_, supply)| supply.ledger.rates(now).wan).sum(),
        }
    }

    /// The greatest limit that held for a site while a deployment was live, in bytes a second: the bound in summaries is
    /// reckoned with it. None if there was none, or was none for a time.
    pub fn wan_bound(&self, deployment: DeploymentId, site: &Name) -> Option<u64> {
        let bounds = self.deployments.get(&deployment).map(|deployment| &deployment.wan_bounds);
        bounds.and_then(|bounds| bounds.get(site).copied()).unwrap_or_else(|| self.wan_limit(site))
    }

    pub(super) fn set_wan_limit(&mut self, site: Name, limit: Option<u64>) {
        // A site that never had a limit costs nothing; one that had stays, so that its readers hear of the change.
        if limit.is_some() || self.shares.contains_key(&site) {
            let before = self.shares.get(&site).and_then(Shares::limit);
            for deployment in self.deployments.values_mut() {
                // What held before is not known of one that an earlier run began.
                let bound = deployment.wan_bounds.entry(site.clone()).or_insert(before.or(limit));
                if !deployment.over {
                    *bound = bound.zip(limit).map(|(bound, limit)| bound.max(limit));
                }
            }
            self.wan_touched.insert(site.clone());
            self.shares.entry(site).or_default().set_limit(limit);
        }
    }

    /// The limits that a deployment begins with.
    pub(super) fn note_wan_bounds(&mut self, id: DeploymentId) {
        let Some(sites) = self.deployments.get(&id).map(|deployment| deployment.created.sites.values().cloned()) else {
            return;
        };
        let bounds = sites.map(|site| (site.clone(), self.wan_limit(&site))).collect();
        if let Some(deployment) = self.deployments.get_mut(&id) {
            deployment.wan_bounds = bounds;
        }
    }

    pub(super) fn wan_used(&mut self, node: NodeId, rate: u64, now: Time) {
        let Some(site) = self.directory.site_of(node) else { return };
        if let Some(shares) = self.shares.get_mut(site) {
            shares.used(node, rate, now);
        }
    }

    /// A node connected: until it is known to read, it reads nothing under a limit.
    pub(super) fn wan_node_up(&mut self, node: NodeId, site: &Name) {
        if let Some(shares) = self.shares.get_mut(site) {
            shares.forget(node);
        }
        let rate = self.wan_limit(site).map(|_| 0);
        self.tell_wan_rates(node, WanRates { rate, ..self.wan_away(site) });
    }

    /// The nodes of live deployments: they may read by what an earlier run of the coordinator told them.
    pub(super) fn note_unheard(&mut self) {
        for id in self.live().collect::<Vec<_>>() {
            for (node, site) in &self.deployments[&id].created.sites {
                self.unheard.entry(site.clone()).or_default().insert(*node);
            }
        }
    }

    /// A node connected: what it reads by from here on, this run tells it.
    pub(super) fn heard_of(&mut self, node: NodeId, site: &Name) {
        if let Some(unheard) = self.unheard.get_mut(site) {
            unheard.remove(&node);
        }
    }

    /// A site's readers may have changed; that of all sites, without one.
    pub(super) fn touch_wan(&mut self, site: Option<&Name>) {
        match site {
            Some(site) if self.shares.contains_key(site) => drop(self.wan_touched.insert(site.clone())),
            Some(_) => {}
            None => self.wan_touched.extend(self.shares.keys().cloned()),
        }
    }

    /// The deputies of a site changed: what nodes may read while the coordinator is away has to be reckoned anew.
    pub(super) fn deputies_changed(&mut self, site: &Name) {
        if let Some(shares) = self.shares.get_mut(site) {
            shares.reckon_anew();
            self.wan_touched.insert(site.clone());
        }
    }

    /// Tells readers and deputies of sites that were touched how fast they may read.
    pub(super) fn share_wan(&mut self, now: Now) {
        while let Some(site) = self.wan_touched.pop_first() {
            let Some(shares) = self.shares.get_mut(&site) else { continue };
            let unheard = self.unheard.get(&site).filter(|_| now.time < self.resumed_until);
            shares.set_unheard(unheard.map_or(0, BTreeSet::len), self.resumed_until);
            shares.set_readers(&self.ledgers.holders(&site), now.time);
            let reckoned = shares.reckon(now.time);
            let may_read = shares.readers().count() + shares.unheard();
            let even = shares.limit().map(|limit| limit / may_read.max(1) as u64);
            if self.ledgers.allow(&site, even, now.time) {
                // Leases may have been granted to others on that occasion.
                self.wan_touched.insert(site.clone());
            }
            for (node, rate) in reckoned.told {
                let rates = self.wan_told.get(&node).copied().unwrap_or_default();
                self.tell_wan_rates(node, WanRates { rate, ..rates });
            }
            if reckoned.anew {
                self.tell_away(&site);
            }
        }
    }

    /// What a site's nodes may read while the coordinator is out of reach, when nobody divides the limit anew: each that
    /// may read then, deputies, those that hold leases and those that were not heard of, has the same.
    fn wan_away(&self, site: &Name) -> WanRates {
        let Some(shares) = self.shares.get(site) else { return WanRates::default() };
        let deputies = self.deputies_of(site);
        let others = shares.readers().filter(|node| !deputies.contains(node)).count();
        let unheard = shares.unheard();
        let part = |count: usize| shares.limit().map(|limit| limit / count.max(1) as u64);
        WanRates { rate: None, away: part(deputies.len() + others + unheard), alone: part(deputies.len() + unheard) }
    }

    /// The nodes that are a deputy of a site for any content.
    fn deputies_of(&self, site: &Name) -> BTreeSet<NodeId> {
        let told = self.standbys.range(of_site(site)).flat_map(|(_, told)| told);
        let named = told.filter(|(node, deputies)| deputies.contains(node));
        named.map(|(node, _)| *node).collect()
    }

    /// Tells those that may read without the coordinator how fast, where that changed.
    fn tell_away(&mut self, site: &Name) {
        let WanRates { away, alone, .. } = self.wan_away(site);
        let limited = self.wan_limit(site).is_some();
        let mut nodes = self.deputies_of(site);
        nodes.extend(self.shares.get(site).into_iter().flat_map(|shares| shares.readers()));
        for node in nodes {
            let Some(had) = self.wan_told.get(&node).copied() else { continue };
            // One that does not read was told nothing when the limit went.
            let rates = WanRates { rate: had.rate.filter(|_| limited), away, alone };
            if had != rates {
                self.tell_wan_rates(node, rates);
            }
        }
    }

    fn tell_wan_rates(&mut self, to: NodeId, rates: WanRates) {
        // Only of connected nodes is it kept what they were told.
        if self.told.contains_key(&to) {
            let limit = self.directory.site_of(to).and_then(|site| self.wan_limit(site));
            let had = self.wan_limits_told.insert(to, limit).flatten();
            self.outbox.extend((had != limit).then_some(Output::Node { to, message: ToNode::WanLimit { limit } }));
            self.wan_told.insert(to, rates);
            self.outbox.push_back(Output::Node { to, message: ToNode::WanRate(rates) });
        }
    }
}
