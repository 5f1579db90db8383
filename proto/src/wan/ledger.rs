//! [`WanLedger`]: one [`Site`] where nodes trade, or one for each node where they do not.

use std::collections::{BTreeMap, VecDeque};

use super::site::Site;
use super::{Config, Input, Output, Stats, Why};
use crate::id::NodeId;
use crate::limits::NODES_MAX;
use crate::time::Time;

/// The leases of one site for one content; the rules are at the head of [`super`].
#[derive(Debug)]
pub struct WanLedger {
    block_bytes: Vec<u32>,
    seed: u64,
    sites: Sites,
    next_lease: u64,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
enum Sites {
    Shared(Box<Site>),
    Apart(BTreeMap<NodeId, Site>),
}

impl WanLedger {
    /// A ledger for a content whose blocks have these sizes in bytes, that knows of no node.
    pub fn new(config: &Config, block_bytes: &[u32]) -> Self {
        let sites = if config.swarm {
            Sites::Shared(Box::new(Site::new(block_bytes, config.seed)))
        } else {
            Sites::Apart(BTreeMap::new())
        };
        Self {
            block_bytes: block_bytes.to_vec(),
            seed: config.seed,
            sites,
            next_lease: config.epoch.0 << 32,
            outputs: VecDeque::new(),
        }
    }

    /// Takes one input; [`WanLedger::poll`] has what follows from it. `now` never goes back.
    pub fn handle(&mut self, input: Input, now: Time) {
        match (&mut self.sites, input.node()) {
            (Sites::Shared(site), _) => {
                site.handle(input, now, &mut self.next_lease);
                self.outputs.append(&mut site.outputs);
            }
            (Sites::Apart(sites), Some(node)) => {
                if matches!(input, Input::Wants { .. }) && sites.len() < NODES_MAX {
                    sites.entry(node).or_insert_with(|| Site::new(&self.block_bytes, self.seed));
                }
                let Some(site) = sites.get_mut(&node) else { return };
                site.handle(input, now, &mut self.next_lease);
                self.outputs.append(&mut site.outputs);
            }
            (Sites::Apart(sites), None) => {
                for site in sites.values_mut() {
                    site.handle(input.clone(), now, &mut self.next_lease);
                    self.outputs.append(&mut site.outputs);
                }
            }
        }
    }

    /// What the shell is to do next, if anything.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due unless another input comes first, and why.
    pub fn next_wake(&self) -> Option<(Time, Why)> {
        self.sites().filter_map(|site| site.timers.first().copied()).min()
    }

    /// The sums, for progress and summary.
    pub fn stats(&self) -> Stats {
        self.sites().map(Site::stats).fold(Stats::default(), Stats::plus)
    }

    /// Asserts every invariant; a panic is a bug of this crate.
    pub fn check(&self) {
        self.sites().for_each(Site::check);
    }

    /// The nodes that may be reading: those with leases that own blocks. One may come several times.
    pub fn holders(&self) -> impl Iterator<Item = NodeId> {
        let holding = |site: &Site| {
            let held: Vec<_> = site.members.iter().filter(|member| !member.queue.is_empty()).map(|m| m.id).collect();
            held
        };
        self.sites().flat_map(holding)
    }

    fn sites(&self) -> impl Iterator<Item = &Site> {
        let (shared, apart) = match &self.sites {
            Sites::Shared(site) => (Some(site.as_ref()), None),
            Sites::Apart(sites) => (None, Some(sites.values())),
        };
        shared.into_iter().chain(apart.into_iter().flatten())
    }
}

impl Input {
    /// The node that it is about; none if it is about all.
    fn node(&self) -> Option<NodeId> {
        match self {
            Self::Wants { node, .. }
            | Self::Landed { node, .. }
            | Self::LeaseEnded { node, .. }
            | Self::NodeUp { node }
            | Self::NodeDown { node }
            | Self::Release { node }
            | Self::Stuck { node, .. } => Some(*node),
            Self::Await { .. } | Self::Override { .. } | Self::Tick | Self::Allowed { .. } => None,
        }
    }
}

impl Stats {
    fn plus(self, other: Self) -> Self {
        Self {
            base_bytes: self.base_bytes + other.base_bytes,
            charged_bytes: self.charged_bytes + other.charged_bytes,
            budget_used_bytes: self.budget_used_bytes + other.budget_used_bytes,
            budget_bytes: self.budget_bytes.saturating_add(other.budget_bytes),
            read_bytes: self.read_bytes.saturating_add(other.read_bytes),
            gap_bytes: self.gap_bytes.saturating_add(other.gap_bytes),
            in_site_bytes: self.in_site_bytes + other.in_site_bytes,
            missing_bytes: self.missing_bytes + other.missing_bytes,
            leased_blocks: self.leased_blocks + other.leased_blocks,
            missing_blocks: self.missing_blocks + other.missing_blocks,
            leases: self.leases + other.leases,
            rate: self.rate.saturating_add(other.rate),
        }
    }
}
