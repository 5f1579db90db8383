//! Who reads a package in the coordinator's absence: the deputies of each site and package, and what they were told.
//!
//! Deputies are nodes that are connected and get the package, chosen by rendezvous, so that one that comes or goes changes
//! one of them. They have to see each other: in a site where everybody is everybody's neighbour any will do; in a larger one
//! they are of the site's few that rosters make neighbours of each other ([`crate::directory::Directory::deputies`]), or one
//! alone if none of those gets the package. Recipes and packages whose origin is the coordinator have none: they cannot be
//! read without it. What deputies do is in `node/deputy.rs`.

use std::collections::BTreeMap;

use super::supply::Purpose;
use super::{Coordinator, Output};
use crate::id::{ContentId, Name, NodeId};
use crate::limits::{DEPUTIES_MAX, FULL_MESH_NODES_MAX};
use crate::manifest::Source;
use crate::rendezvous::chosen;
use crate::wire::{Origin, Standby};

/// What deputies were told: for each site and package, whom each connected node knows as deputies.
pub(super) type Told = BTreeMap<(Name, ContentId), BTreeMap<NodeId, Vec<NodeId>>>;

impl Coordinator {
    /// A node wants a package or its recipe: it is told again whether it is a deputy.
    pub(super) fn standby_for(&mut self, node: NodeId, content: ContentId) {
        let Some(site) = self.directory.site_of(node).cloned() else { return };
        let Some(purpose) = self.purpose(content, Some(node)) else { return };
        let manifest = &self.deployments[&purpose.deployment].manifest;
        let Some(package) = manifest.packages.get(purpose.package.index()) else { return };
        let key = (site, package.id.into());
        self.standbys.entry(key.clone()).or_default().remove(&node);
        self.tell_standby(&key);
    }

    /// Tells the deputies of a site what changed for them.
    pub(super) fn tell_standbys(&mut self, site: &Name) {
        let keys: Vec<_> = self.standbys.keys().filter(|(of, _)| of == site).cloned().collect();
        keys.iter().for_each(|key| self.tell_standby(key));
    }

    /// A node is away: whatever it was told is told again.
    pub(super) fn standby_gone(&mut self, node: NodeId) {
        self.standbys.values_mut().for_each(|told| drop(told.remove(&node)));
    }

    fn tell_standby(&mut self, key: &(Name, ContentId)) {
        let Some(purpose) = self.purpose(key.1, None) else {
            // Nodes forget with the deployment.
            self.standbys.remove(key);
            return;
        };
        let deputies = self.deputies(key, purpose);
        let told = self.standbys.entry(key.clone()).or_default();
        let dropped = told.iter().filter(|(node, list)| !deputies.contains(node) && !list.is_empty());
        let dropped = dropped.map(|(node, _)| (*node, Vec::new()));
        let news = deputies.iter().filter(|node| told.get(node) != Some(&deputies));
        let news: Vec<_> = news.map(|node| (*node, deputies.clone())).chain(dropped).collect();
        let changed = !news.is_empty();
        for (to, deputies) in news {
            told.insert(to, deputies.clone());
            let standby = Standby { content: key.1, deputies, origin: Origin::Coordinator { dictionary: None } };
            let Purpose { deployment, package, .. } = purpose;
            self.outbox.push_back(Output::Standby { to, site: key.0.clone(), deployment, package, standby });
        }
        if changed {
            self.deputies_changed(&key.0);
        }
    }

    fn deputies(&self, key: &(Name, ContentId), purpose: Purpose) -> Vec<NodeId> {
        let acquire = &self.deployments[&purpose.deployment].manifest.acquire;
        let whole = self.ledgers.get(key).is_some_and(|supply| supply.whole);
        if !acquire.swarm || acquire.source != Source::Feed || whole {
            return Vec::new();
        }
        let receivers = self.receivers(purpose, &key.0).into_iter().filter(|node| self.told.contains_key(node));
        let site = self.told.keys().filter(|node| self.directory.site_of(**node) == Some(&key.0));
        if site.count() <= FULL_MESH_NODES_MAX {
            return chosen(key.1, receivers, DEPUTIES_MAX);
        }
        let of_site = self.directory.deputies(&key.0);
        let both: Vec<_> = receivers.clone().filter(|node| of_site.contains(node)).collect();
        if both.is_empty() { chosen(key.1, receivers, 1) } else { both }
    }
}
