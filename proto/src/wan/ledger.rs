//! [`WanLedger`]: one [`Site`] where nodes trade, or one for each node where they do not.

use std::collections::{BTreeMap, VecDeque};

use super::site::Site;
use super::{BlockRange, BudgetSums, Config, Input, Output, Stats, Why};
use crate::id::{BlockIndex, LeaseId, NodeId};
use crate::limits::NODES_MAX;
use crate::time::Time;

/// The leases of one site for one content; the rules are at the head of [`super`].
#[derive(Debug)]
pub struct WanLedger {
    block_bytes: Vec<u32>,
    config: Config,
    sites: Sites,
    next_lease: u64,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
enum Sites {
    Shared(Box<Site>),
    Apart(BTreeMap<NodeId, Site>),
}

/// Reading that waits for its holder to come back, or for an operator: the budget does not pay for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverBudget {
    /// Whose budget: a node's with `swarm` off, otherwise the site's.
    pub node: Option<NodeId>,
    /// Bytes that the blocks cost beyond their allowance.
    pub wanted_bytes: u64,
    /// Bytes left of the budget.
    pub left_bytes: u64,
}

/// What moves of late, in bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Over the WAN.
    pub wan: u64,
    /// Between nodes.
    pub peers: u64,
}

impl WanLedger {
    /// A ledger for a content whose blocks have these sizes in bytes, that knows of no node.
    pub fn new(config: &Config, block_bytes: &[u32]) -> Self {
        let sites = if config.swarm {
            Sites::Shared(Box::new(Site::new(block_bytes, config, None)))
        } else {
            Sites::Apart(BTreeMap::new())
        };
        Self {
            block_bytes: block_bytes.to_vec(),
            config: config.clone(),
            sites,
            next_lease: config.epoch.0 << 32,
            outputs: VecDeque::new(),
        }
    }

    /// Numbers its leases from `first` on, so that those of another ledger for the content are not mistaken for its own.
    #[must_use]
    pub fn with_first_lease(mut self, first: u32) -> Self {
        self.next_lease += u64::from(first);
        self
    }

    /// Leases that have not ended, with who holds them.
    pub fn open_leases(&self) -> impl Iterator<Item = (NodeId, LeaseId)> {
        self.sites().flat_map(Site::open_leases)
    }

    /// Takes one input; [`WanLedger::poll`] has what follows from it. `now` never goes back.
    pub fn handle(&mut self, input: Input, now: Time) {
        match (&mut self.sites, input.node()) {
            (Sites::Shared(site), _) => {
                site.handle(input, now, &mut self.next_lease);
                self.outputs.append(&mut site.outputs);
            }
            (Sites::Apart(sites), Some(node)) => {
                let begins = matches!(input, Input::Wants { .. } | Input::Override { .. });
                if begins && sites.len() < NODES_MAX {
                    sites.entry(node).or_insert_with(|| Site::new(&self.block_bytes, &self.config, Some(node)));
                }
                let Some(site) = sites.get_mut(&node) else { return };
                site.handle(input, now, &mut self.next_lease);
                self.outputs.append(&mut site.outputs);
            }
            // There is no budget that all share.
            (Sites::Apart(_), None) if matches!(input, Input::Override { .. }) => {}
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

    /// Whose budgets were spent from or added to, and how they stand: what [`WanLedger::carry`] takes after a restart.
    pub fn budgets(&self) -> impl Iterator<Item = (Option<NodeId>, BudgetSums)> {
        let sums = self.budgeted().map(|(node, site)| (node, site.budget.sums()));
        sums.filter(|(_, sums)| sums.used_bytes > 0 || sums.added_bytes > 0)
    }

    /// How a budget stands: what the site's, or with `swarm` off the node's, next run is to go on from.
    pub fn budget(&self, node: Option<NodeId>) -> Option<BudgetSums> {
        self.budgeted().find(|(of, _)| *of == node).map(|(_, site)| site.budget.sums())
    }

    /// Goes on from what a ledger of an earlier run of the coordinator had spent, and from the blocks that had come to it,
    /// before anything else is told.
    pub fn carry(&mut self, node: Option<NodeId>, sums: BudgetSums, came: &[BlockRange]) {
        let site = match (&mut self.sites, node) {
            (Sites::Shared(site), None) => site,
            (Sites::Apart(sites), Some(node)) => {
                sites.entry(node).or_insert_with(|| Site::new(&self.block_bytes, &self.config, Some(node)))
            }
            // Kept for the same deployment, whose `swarm` does not change.
            (Sites::Shared(_), Some(_)) | (Sites::Apart(_), None) => return,
        };
        site.carry(sums, came);
    }

    /// What waits because the budget does not pay for it.
    pub fn over_budget(&self) -> impl Iterator<Item = OverBudget> {
        self.budgeted().filter(|(_, site)| site.said_budget_empty).map(|(node, site)| {
            let (wanted_bytes, left_bytes) = (site.wanted_beyond(), site.budget.left_bytes());
            OverBudget { node, wanted_bytes, left_bytes }
        })
    }

    /// What moves of late.
    pub fn rates(&self, now: Time) -> Rates {
        let rates = |site: &Site| Rates { wan: site.wan_meter.rate(now), peers: site.peer_meter.rate(now) };
        self.sites().map(rates).fold(Rates::default(), Rates::plus)
    }

    /// How many bytes each node has, of all nodes that ever said.
    pub fn held_bytes(&self) -> impl Iterator<Item = (NodeId, u64)> {
        self.sites().flat_map(|site| {
            site.members.iter().map(|member| {
                let blocks = site.block_bytes.iter().zip(0..).map(|(bytes, index)| (BlockIndex(index), *bytes));
                let held = blocks.map(|(block, bytes)| u64::from(bytes - member.lacking(block, bytes).min(bytes)));
                (member.id, held.sum())
            })
        })
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
        self.budgeted().map(|(_, site)| site)
    }

    /// The sites, and the node of each that is one node's.
    fn budgeted(&self) -> impl Iterator<Item = (Option<NodeId>, &Site)> {
        let (shared, apart) = match &self.sites {
            Sites::Shared(site) => (Some((None, site.as_ref())), None),
            Sites::Apart(sites) => (None, Some(sites.iter().map(|(node, site)| (Some(*node), site)))),
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
            | Self::Begun { node, .. }
            | Self::CreditWanted { node, .. }
            | Self::LeaseEnded { node, .. }
            | Self::NodeUp { node }
            | Self::NodeDown { node, .. }
            | Self::Release { node }
            | Self::Stuck { node, .. } => Some(*node),
            Self::Override { node, .. } => *node,
            Self::Await { .. } | Self::Tick | Self::Allowed { .. } => None,
        }
    }
}

impl Rates {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { wan: self.wan.saturating_add(other.wan), peers: self.peers.saturating_add(other.peers) }
    }
}

impl Stats {
    pub(crate) fn plus(self, other: Self) -> Self {
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
        }
    }
}
