//! Sites' WAN limits: who reads over a site's WAN, and how much of its limit each of them gets.

use std::collections::BTreeSet;

use super::{Coordinator, Output};
use crate::id::{ContentId, Name, NodeId};
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
            self.wan_touched.insert(site.clone());
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
    pub(super) fn wan_node_up(&mut self, node: NodeId, site: &Name) {
        if let Some(shares) = self.shares.get_mut(site) {
            shares.forget(node);
        }
        let (limit, away) = (self.wan_limit(site), self.wan_away(site));
        self.tell_wan_rate(node, limit.map(|_| 0), away);
    }

    /// A site's readers may have changed; that of all sites, without one.
    pub(super) fn touch_wan(&mut self, site: Option<&Name>) {
        match site {
            Some(site) if self.shares.contains_key(site) => drop(self.wan_touched.insert(site.clone())),
            Some(_) => {}
            None => self.wan_touched.extend(self.shares.keys().cloned()),
        }
    }

    /// Tells readers and deputies of sites that were touched their shares.
    pub(super) fn share_wan(&mut self, now: Now) {
        for site in std::mem::take(&mut self.wan_touched) {
            let of_site = || self.supplies.range((site.clone(), ContentId([0; 32]))..);
            let supplies = of_site().take_while(|((of, _), _)| *of == site);
            let readers: BTreeSet<NodeId> = supplies.flat_map(|(_, supply)| supply.ledger.holders()).collect();
            let away = self.wan_away(&site);
            let Some(shares) = self.shares.get_mut(&site) else { continue };
            shares.set_readers(&readers, now.time);
            let told = shares.reckon(now.time);
            let even = shares.limit().map(|limit| limit / shares.count().max(1) as u64);
            let of_site = self.supplies.range_mut((site.clone(), ContentId([0; 32]))..);
            for (_, supply) in of_site.take_while(|((of, _), _)| *of == site) {
                if supply.allowed != even {
                    supply.allowed = even;
                    supply.ledger.handle(wan::Input::Allowed { rate: even }, now.time);
                }
            }
            for (node, rate) in told {
                self.tell_wan_rate(node, rate, away);
            }
            self.tell_away(&site, away);
        }
    }

    /// What each of a site's deputies may read while the coordinator is out of reach: the limit is divided among all.
    fn wan_away(&self, site: &Name) -> Option<u64> {
        let limit = self.wan_limit(site)?;
        Some(limit / self.deputies_of(site).len().max(1) as u64)
    }

    /// The nodes that are a deputy of a site for any content.
    fn deputies_of(&self, site: &Name) -> BTreeSet<NodeId> {
        let of_site = self.standbys.range((site.clone(), ContentId([0; 32]))..).take_while(|((of, _), _)| of == site);
        let named = of_site.flat_map(|(_, told)| told.iter().filter(|(node, deputies)| deputies.contains(node)));
        named.map(|(node, _)| *node).collect()
    }

    /// Tells deputies whose share for the coordinator's absence changed.
    fn tell_away(&mut self, site: &Name, away: Option<u64>) {
        let limited = self.wan_limit(site).is_some();
        for node in self.deputies_of(site) {
            let Some((rate, had)) = self.wan_told.get(&node).copied() else { continue };
            // One that does not read was told nothing when the limit went.
            let rate = if limited { rate } else { None };
            if had != away {
                self.tell_wan_rate(node, rate, away);
            }
        }
    }

    fn tell_wan_rate(&mut self, to: NodeId, rate: Option<u64>, away: Option<u64>) {
        self.wan_told.insert(to, (rate, away));
        self.outbox.push_back(Output::Node { to, message: ToNode::WanRate { rate, away } });
    }
}
