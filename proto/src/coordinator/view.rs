//! What a person is shown of a deployment: the rollout's own view, and what moved in each site.

use std::collections::BTreeMap;

use super::input::WanTotals;
use super::{Coordinator, Deployment};
use crate::id::{DeploymentId, Name, NodeId, PackageIndex};
use crate::rollout::view::{PackageState, View};
use crate::time::Time;
use crate::wan::{self, WanLedger};

/// A deployment's status.
#[derive(Clone, Debug)]
pub struct DeploymentView {
    /// Stages, steps, nodes.
    pub rollout: View,
    /// What moved, by site.
    pub sites: Vec<SiteView>,
    /// Bytes that nodes have of packages that are on their way.
    pub held_bytes: BTreeMap<(NodeId, PackageIndex), u64>,
}

/// What moved in one site for one deployment; sums over its nodes unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteView {
    /// Which site.
    pub site: Name,
    /// How many target nodes it has.
    pub nodes: u32,
    /// How many of them hold all their packages.
    pub acquired: u32,
    /// Bytes of all packages that one node gets; of the node that gets most.
    pub package_bytes: u64,
    /// Bytes of packages that all its nodes get.
    pub wanted_bytes: u64,
    /// What the site lacked and read.
    pub wan: WanTotals,
    /// What came from neighbours.
    pub peer_bytes: u64,
    /// What nodes had already.
    pub local_bytes: u64,
    /// Milliseconds from the order to acquire to the last node's last package; `None` until then.
    pub acquire_ms: Option<u64>,
    /// Live sums of the site's ledgers: `None` when nothing is on its way.
    pub live: Option<wan::Stats>,
    /// What moves of late.
    pub rates: wan::Rates,
}

/// A read over a site's WAN that failed, none having brought anything since, of a package that the site still lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadTrouble {
    /// Which site.
    pub site: Name,
    /// Which package of the deployment.
    pub package: PackageIndex,
    /// Who read.
    pub node: NodeId,
    /// What went wrong.
    pub cause: String,
}

impl Coordinator {
    /// The reads that fail for a deployment at this moment.
    pub fn read_troubles(&self, id: DeploymentId) -> impl Iterator<Item = ReadTrouble> {
        self.parts(id).filter_map(|((site, _), package, _, supply)| {
            let (node, cause) = supply.trouble.clone().filter(|_| supply.ledger.stats().missing_bytes > 0)?;
            Some(ReadTrouble { site: site.clone(), package, node, cause })
        })
    }

    /// A deployment's status at `now`.
    pub fn view(&self, id: DeploymentId, now: Time) -> Option<DeploymentView> {
        let deployment = self.deployments.get(&id)?;
        let rollout = deployment.rollout.view();
        let mut by_site = BTreeMap::<&Name, Vec<NodeId>>::new();
        for (node, site) in &deployment.created.sites {
            by_site.entry(site).or_default().push(*node);
        }
        let totals = self.totals(id);
        let sites = by_site.into_iter().map(|(site, nodes)| {
            let mut view = site_view(deployment, site, &nodes, &rollout);
            if let Some(live) = totals.get(site) {
                view.wan.missing_bytes = view.wan.missing_bytes.max(live.missing_bytes);
                view.wan.read_bytes = view.wan.read_bytes.max(live.read_bytes);
            }
            let ledgers = || self.ledgers(id, site);
            view.live = ledgers().map(WanLedger::stats).reduce(wan::Stats::plus);
            view.rates = ledgers().map(|ledger| ledger.rates(now)).fold(view.rates, wan::Rates::plus);
            view
        });
        let sites = sites.collect();
        Some(DeploymentView { rollout, sites, held_bytes: self.held_bytes(id) })
    }

    fn ledgers(&self, id: DeploymentId, site: &Name) -> impl Iterator<Item = &WanLedger> {
        let own = self.ledgers.of_site(site).filter(move |(_, supply)| supply.purpose.deployment == id);
        own.map(|(_, supply)| &supply.ledger)
    }

    fn held_bytes(&self, id: DeploymentId) -> BTreeMap<(NodeId, PackageIndex), u64> {
        let packages = self.parts(id).filter(|(_, _, recipe, _)| !recipe);
        let packages = packages.map(|(_, package, _, supply)| (package, &supply.ledger));
        packages
            .flat_map(|(package, ledger)| ledger.held_bytes().map(move |(n, bytes)| ((n, package), bytes)))
            .collect()
    }
}

fn site_view(deployment: &Deployment, site: &Name, nodes: &[NodeId], rollout: &View) -> SiteView {
    let package_bytes = |node: &NodeId| deployment.manifest.packages_of(*node).map(|(_, package)| package.size).sum();
    let stats = || deployment.stats.iter().filter(|((node, _), _)| nodes.contains(node)).map(|(_, stats)| stats);
    let views = || rollout.nodes.iter().filter(|view| nodes.contains(&view.node));
    let done = views().filter(|view| view.acquired);
    let last = done.clone().flat_map(|view| &view.packages).filter_map(|package| match package.state {
        PackageState::Acquired { at } => Some(at.0),
        PackageState::Missing | PackageState::Failed { .. } => None,
    });
    let began = rollout.times.acquire_began.map(|at| at.0);
    let acquired = u32::try_from(done.count()).unwrap_or(u32::MAX);
    let count = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
    let acquire_ms =
        began.zip(last.max()).filter(|_| acquired == count).map(|(began, last)| last.saturating_sub(began));
    let mut wan = deployment.wan.get(site).copied().unwrap_or_default();
    // A ledger's sums begin anew with each run of the coordinator: what the nodes say bounds them from below.
    wan.read_bytes = wan.read_bytes.max(stats().map(|stats| stats.wan_bytes).sum());
    SiteView {
        site: site.clone(),
        nodes: count,
        acquired,
        package_bytes: nodes.iter().map(package_bytes).max().unwrap_or_default(),
        wanted_bytes: nodes.iter().map(package_bytes).sum(),
        wan,
        peer_bytes: stats().map(|stats| stats.peer_bytes).sum(),
        local_bytes: stats().map(|stats| stats.local_bytes).sum(),
        acquire_ms,
        live: None,
        rates: wan::Rates::default(),
    }
}
