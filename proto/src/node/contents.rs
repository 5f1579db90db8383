//! The contents that a node fetches, holds and serves, from the order to open one to the durable file.
//!
//! A package is opened first; if the store says that it lacks the recipe, the recipe is acquired as a content of its own
//! and the package opened again. Invariant: while a content is traded, `lacking` names exactly the blocks that its
//! exchange does not have.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::trade::{Sealing, Trade};
use super::{Input, Opened, Output, Why};
use crate::content::Outline;
use crate::exchange;
use crate::id::{ContentId, LeaseId, NodeId, PackageId};
use crate::manifest::Package;
use crate::origin::HttpOrigin;
use crate::rng::mix;
use crate::time::Time;
use crate::wan::{self, BlockRange};
use crate::wire::{AcquireStats, Grant, LeaseEnd, Roster, ToCoordinator, ToNeighbour};

/// A content to open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A recipe, known by its outline.
    Recipe(Outline),
    /// A package, known by its recipe.
    Package {
        /// The package.
        package: PackageId,
        /// Its size in bytes, as the manifest says.
        size: u64,
        /// Its recipe.
        recipe: Outline,
    },
}

impl What {
    /// The content's id.
    pub fn content(&self) -> ContentId {
        match self {
            Self::Recipe(outline) => outline.recipe.into(),
            Self::Package { package, .. } => (*package).into(),
        }
    }

    /// Whether it is a package with `content` as its recipe.
    fn needs(&self, content: ContentId) -> bool {
        matches!(self, Self::Package { recipe, .. } if ContentId::from(recipe.recipe) == content)
    }
}

/// Every content of one node.
#[derive(Debug)]
pub(super) struct Contents {
    seed: u64,
    /// The coordinator is away.
    away: bool,
    /// Neighbours that are connected.
    neighbours: BTreeSet<NodeId>,
    contents: BTreeMap<ContentId, Content>,
    /// Leases of contents that were closed, with what had landed: their reads were told to stop, and say how far they came.
    parting: BTreeMap<(ContentId, LeaseId), Vec<BlockRange>>,
}

#[derive(Debug)]
struct Content {
    what: What,
    swarm: bool,
    phase: Phase,
    stats: AcquireStats,
}

#[derive(Debug)]
enum Phase {
    /// The store was asked to open it, or it waits for its recipe.
    Opening,
    /// It is open.
    Trading(Box<Trade>),
    /// It cannot be had until it is ordered again.
    Failed,
}

impl Contents {
    pub(super) fn new(seed: u64) -> Self {
        let (neighbours, contents, parting) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        Self { seed, away: true, neighbours, contents, parting }
    }

    /// Opens the content of `package`. If it is there, the coordinator is told so again: it is wanted for a further
    /// deployment, whose ledgers may be others than those that were told when it was opened. While something of it is
    /// lacking they are the same, and a grant that is on its way would be taken for lost.
    pub(super) fn want(&mut self, package: &Package, swarm: bool, out: &mut VecDeque<Output>) {
        for content in [package.id.into(), package.recipe.recipe.into()] {
            let trade = match self.contents.get(&content) {
                Some(Content { phase: Phase::Trading(trade), .. }) if !trade.lacks() => trade,
                _ => continue,
            };
            out.push_back(Output::Coordinator(trade.wants(content, parting(&self.parting, content))));
        }
        let (id, size, recipe) = (package.id, package.size, package.recipe.clone());
        self.open(What::Package { package: id, size, recipe }, swarm, out);
    }

    fn open(&mut self, what: What, swarm: bool, out: &mut VecDeque<Output>) {
        let content = what.content();
        if let Some(Content { phase: Phase::Opening | Phase::Trading(_), .. }) = self.contents.get(&content) {
            return;
        }
        out.push_back(Output::Open(what.clone()));
        let stats = AcquireStats::default();
        self.contents.insert(content, Content { what, swarm, phase: Phase::Opening, stats });
    }

    /// Where the bytes of `package` came from, once it is complete and durable.
    pub(super) fn acquired(&self, package: &Package) -> Option<AcquireStats> {
        let content = self.contents.get(&package.id.into())?;
        let Phase::Trading(trade) = &content.phase else { return None };
        let recipe = self.contents.get(&package.recipe.recipe.into()).map_or_else(AcquireStats::default, |c| c.stats);
        let stats = content.stats;
        (trade.sealing == Sealing::Done).then_some(AcquireStats {
            wan_bytes: stats.wan_bytes + recipe.wan_bytes,
            peer_bytes: stats.peer_bytes + recipe.peer_bytes,
            ..stats
        })
    }

    /// Takes notice of an input that concerns contents; others are ignored.
    pub(super) fn handle(&mut self, input: Input, now: Time, out: &mut VecDeque<Output>) {
        match input {
            Input::NeighbourUp(node) => self.on_neighbour_up(node, out),
            Input::NeighbourDown(node) => {
                self.neighbours.remove(&node);
                self.for_each_trade(now, out, |trade| trade.neighbour_left(node, now));
            }
            Input::Neighbour { from, message } if self.neighbours.contains(&from) => match message {
                ToNeighbour::Has { content, blocks } => {
                    let mut answer = None;
                    self.with_swarm(content, now, out, |trade| {
                        answer = trade.neighbour_has(from, blocks, now).then(|| trade.has(content));
                    });
                    // What it was told before it opened the content, it did not keep.
                    out.extend(answer.map(|message| Output::Neighbour { to: from, message }));
                }
                ToNeighbour::Landed { content, blocks } => {
                    self.with_swarm(content, now, out, |trade| trade.neighbour_landed(from, &blocks, now));
                }
                ToNeighbour::Left { content } => {
                    self.with_swarm(content, now, out, |trade| trade.neighbour_left(from, now));
                }
                ToNeighbour::Room { content } => {
                    self.with_swarm(content, now, out, |trade| trade.neighbour_has_room(from, now));
                }
                // For the deputy and for who keeps the rate.
                ToNeighbour::Reach { .. } | ToNeighbour::Reading { .. } | ToNeighbour::WanRate { .. } => {}
            },
            Input::Opened { content, opened } => self.on_opened(content, opened, now, out),
            Input::RecipeWanted { content } => self.on_recipe_wanted(content, out),
            Input::Landed { content, block } => self.with_trade(content, now, out, |trade, _| trade.landed(block, now)),
            Input::Denied { content, lease } => self.on_denied(content, lease, out),
            Input::CreditWanted { content, lease, bytes } => self.on_credit_wanted(content, lease, bytes, now, out),
            Input::ReadEnded { end, begun } => self.on_read_ended(end, begun, now, out),
            Input::Fetched { node, content, block, bytes, took } => {
                self.with_trade(content, now, out, |trade, stats| {
                    if trade.fetched(node, block, bytes, took, now) {
                        stats.peer_bytes += bytes;
                    }
                })
            }
            Input::Arrives { content, block, arrived } => {
                let arrives = exchange::Input::Arrives { block, arrived };
                self.with_trade(content, now, out, |trade, _| trade.exchange.handle(arrives, now));
            }
            Input::FetchFailed { node, content, block, why } => {
                let failed = exchange::Input::FetchFailed { node, block, why };
                self.with_trade(content, now, out, |trade, _| trade.exchange.handle(failed, now));
            }
            Input::UploadAsked { node, request, content, block, bytes } => {
                let known = self.neighbours.contains(&node);
                let asked = exchange::Input::UploadAsked { node, request, block, bytes };
                let taken = known && self.with_swarm(content, now, out, |trade| trade.exchange.handle(asked, now));
                if !taken {
                    out.push_back(Output::Refuse { node, request });
                }
            }
            Input::UploadDone { node, request, content } => {
                let done = exchange::Input::UploadDone { node, request };
                self.with_trade(content, now, out, |trade, _| trade.exchange.handle(done, now));
            }
            Input::Sealed { content } => self.on_sealed(content, now, out),
            Input::Tick => self.for_each_trade(now, out, |trade| trade.tick(now)),
            _ => {}
        }
    }

    fn on_neighbour_up(&mut self, node: NodeId, out: &mut VecDeque<Output>) {
        self.neighbours.insert(node);
        for (content, entry) in &self.contents {
            if let (true, Phase::Trading(trade)) = (entry.swarm, &entry.phase) {
                out.push_back(Output::Neighbour { to: node, message: trade.has(*content) });
            }
        }
    }

    fn on_opened(&mut self, content: ContentId, opened: Opened, now: Time, out: &mut VecDeque<Output>) {
        let Some(entry) = self.contents.get_mut(&content) else { return };
        if !matches!(entry.phase, Phase::Opening) {
            return;
        }
        entry.stats.local_bytes = opened.local_bytes;
        let seed = self.seed ^ mix(u64::from_le_bytes(content.0[..8].try_into().expect("eight of 32 bytes")));
        let trade = Trade::new(&opened, seed);
        out.push_back(Output::Coordinator(trade.wants(content, parting(&self.parting, content))));
        if entry.swarm {
            let to_all = self.neighbours.iter().map(|to| Output::Neighbour { to: *to, message: trade.has(content) });
            out.extend(to_all);
        }
        let sealed = trade.sealing == Sealing::Done;
        entry.phase = Phase::Trading(Box::new(trade));
        let recipe = match &entry.what {
            What::Package { recipe, .. } => Some(recipe.clone()),
            What::Recipe(_) => None,
        };
        let swarm = entry.swarm;
        self.with_trade(content, now, out, |trade, _| trade.tick(now));
        if sealed {
            self.after_sealed(content, out);
        }
        // A package cannot be opened without its recipe: who has a part of it serves the recipe too.
        if let Some(outline) = recipe {
            self.open(What::Recipe(outline), swarm, out);
        }
    }

    fn on_recipe_wanted(&mut self, content: ContentId, out: &mut VecDeque<Output>) {
        let Some(Content { what: What::Package { recipe, .. }, phase: Phase::Opening, swarm, .. }) =
            self.contents.get(&content)
        else {
            return;
        };
        let (outline, swarm) = (recipe.clone(), *swarm);
        self.open(What::Recipe(outline), swarm, out);
    }

    fn on_sealed(&mut self, content: ContentId, now: Time, out: &mut VecDeque<Output>) {
        self.with_trade(content, now, out, |trade, _| trade.sealing = Sealing::Done);
        self.after_sealed(content, out);
    }

    /// Opens the packages that waited for a recipe.
    fn after_sealed(&self, content: ContentId, out: &mut VecDeque<Output>) {
        let waiting = self.contents.values().filter(|entry| entry.what.needs(content));
        let waiting = waiting.filter(|entry| matches!(entry.phase, Phase::Opening));
        out.extend(waiting.map(|entry| Output::Open(entry.what.clone())));
    }

    pub(super) fn on_roster(&mut self, roster: Roster, out: &mut VecDeque<Output>) {
        let Roster { neighbours, coordinator_bulk, .. } = roster;
        out.push_back(Output::Neighbours { neighbours, coordinator_bulk });
    }

    pub(super) fn on_grant(&mut self, grant: Grant, now: Time, out: &mut VecDeque<Output>) {
        let (content, lease) = (grant.content, grant.lease);
        let mut taken = false;
        let blocks: Vec<_> = grant.blocks.iter().flat_map(|range| range.iter()).collect();
        let terms = grant.terms;
        self.with_trade(content, now, out, |trade, _| taken = trade.granted(lease, blocks, terms, now));
        if taken {
            out.push_back(Output::Read(grant));
        } else if !self.holds(content, lease) {
            let outcome = wan::Outcome::Failed { retryable: true };
            out.push_back(ended_unread(content, lease, outcome));
        }
    }

    pub(super) fn on_revoke(&mut self, content: ContentId, lease: LeaseId, out: &mut VecDeque<Output>) {
        if self.holds(content, lease) {
            out.push_back(Output::CancelRead { content, lease });
        } else if !self.parting.contains_key(&(content, lease)) {
            out.push_back(ended_unread(content, lease, wan::Outcome::Revoked));
        }
    }

    /// Another signature for a lease came; for one that is over it is nobody's.
    pub(super) fn on_renewed(
        &self,
        content: ContentId,
        lease: LeaseId,
        origin: HttpOrigin,
        out: &mut VecDeque<Output>,
    ) {
        if self.holds(content, lease) {
            out.push_back(Output::Renew { content, lease, origin });
        }
    }

    fn on_denied(&self, content: ContentId, lease: LeaseId, out: &mut VecDeque<Output>) {
        // A deputy's own lease is of no coordinator.
        if self.holds(content, lease) && !lease.is_own() {
            out.push_back(Output::Coordinator(ToCoordinator::Denied { content, lease }));
        }
    }

    /// A reader wants to go on. Nobody else reads for a lease of the node's own, and who is away cannot be asked.
    fn on_credit_wanted(
        &mut self,
        content: ContentId,
        lease: LeaseId,
        bytes: u64,
        now: Time,
        out: &mut VecDeque<Output>,
    ) {
        if !self.holds(content, lease) {
            return;
        }
        if self.away || lease.is_own() {
            // What is not to be read was cancelled when the coordinator went.
            return out.push_back(Output::Credit { content, lease, bytes: u64::MAX });
        }
        out.push_back(Output::Coordinator(ToCoordinator::CreditWanted { content, lease, bytes }));
        self.with_trade(content, now, out, |trade, _| trade.credits.wanted(lease, bytes));
    }

    pub(super) fn on_credit(&mut self, content: ContentId, lease: LeaseId, bytes: u64, out: &mut VecDeque<Output>) {
        let Some(Content { phase: Phase::Trading(trade), .. }) = self.contents.get_mut(&content) else { return };
        if trade.leases.contains_key(&lease) {
            trade.credits.confirmed(lease);
            out.push_back(Output::Credit { content, lease, bytes });
        }
    }

    fn holds(&self, content: ContentId, lease: LeaseId) -> bool {
        let phase = self.contents.get(&content).map(|entry| &entry.phase);
        matches!(phase, Some(Phase::Trading(trade)) if trade.leases.contains_key(&lease))
    }

    fn on_read_ended(&mut self, mut end: LeaseEnd, begun: Vec<wan::Lacking>, now: Time, out: &mut VecDeque<Output>) {
        // What crossed the WAN counts, also for a content that was closed meanwhile (WAN-ONCE).
        if let Some(landed) = self.parting.remove(&(end.content, end.lease)) {
            end.landed = landed;
            return out.push_back(Output::Coordinator(ToCoordinator::LeaseEnded { end, begun }));
        }
        let mut known = false;
        let away = self.away;
        self.with_trade(end.content, now, out, |trade, stats| {
            if let Some(landed) = trade.lease_ended(end.lease, &begun, now) {
                stats.wan_bytes += end.read_bytes;
                end.landed = landed;
                known = true;
                if away {
                    trade.keep(end.clone(), begun.clone());
                }
            }
        });
        if known {
            out.push_back(Output::Coordinator(ToCoordinator::LeaseEnded { end, begun }));
        }
    }

    /// Marks a content as not to be had until it is ordered again, and with a recipe the packages that wait for it.
    pub(super) fn fail(&mut self, content: ContentId, out: &mut VecDeque<Output>) {
        for entry in self.contents.values_mut() {
            if entry.what.needs(content) && matches!(entry.phase, Phase::Opening) {
                entry.phase = Phase::Failed;
            }
        }
        if let Some(entry) = self.contents.get_mut(&content) {
            let phase = std::mem::replace(&mut entry.phase, Phase::Failed);
            if let Phase::Trading(trade) = phase {
                self.parting.extend(leave(content, &trade, &self.neighbours, out));
            }
        }
    }

    /// Closes every content that is not in `wanted`.
    pub(super) fn retain(&mut self, wanted: &BTreeSet<ContentId>, out: &mut VecDeque<Output>) {
        let (neighbours, parting) = (&self.neighbours, &mut self.parting);
        self.contents.retain(|content, entry| {
            let stays = wanted.contains(content);
            if !stays {
                match &entry.phase {
                    Phase::Trading(trade) => parting.extend(leave(*content, trade, neighbours, out)),
                    Phase::Opening => out.push_back(Output::Close { content: *content }),
                    Phase::Failed => {}
                }
            }
            stays
        });
    }

    pub(super) fn say_all_again(&mut self, out: &mut VecDeque<Output>) {
        for (content, entry) in &mut self.contents {
            if let Phase::Trading(trade) = &mut entry.phase {
                out.push_back(Output::Coordinator(trade.wants(*content, parting(&self.parting, *content))));
                out.extend(trade.kept().into_iter().map(Output::Coordinator));
            }
        }
    }

    /// Notes whether the coordinator is away. A lease that was begun is then read to its end, the others are given back.
    pub(super) fn set_away(&mut self, away: bool, out: &mut VecDeque<Output>) {
        self.away = away;
        for (content, trade) in self.trades().filter(|_| away) {
            let (begun, others) = trade.credits.on_its_own();
            out.extend(begun.map(|lease| Output::Credit { content, lease, bytes: u64::MAX }));
            out.extend(others.map(|lease| Output::CancelRead { content, lease }));
        }
    }

    /// Whether nothing is being acquired.
    pub(super) fn is_idle(&self) -> bool {
        self.contents.values().all(|content| match &content.phase {
            Phase::Opening => false,
            Phase::Trading(trade) => trade.sealing == Sealing::Done,
            Phase::Failed => true,
        })
    }

    /// Whether a content is wanted or there.
    pub(super) fn knows(&self, content: ContentId) -> bool {
        self.contents.contains_key(&content)
    }

    /// A content that is traded with neighbours.
    pub(super) fn traded(&self, content: ContentId) -> Option<&Trade> {
        match self.contents.get(&content)? {
            Content { swarm: true, phase: Phase::Trading(trade), .. } => Some(trade),
            _ => None,
        }
    }

    /// Every content that is traded with neighbours.
    pub(super) fn all_traded(&self) -> impl Iterator<Item = (ContentId, &Trade)> {
        self.contents.keys().filter_map(|content| Some((*content, self.traded(*content)?)))
    }

    /// Takes a lease that a deputy granted itself.
    pub(super) fn hold_own(&mut self, grant: &Grant, now: Time, out: &mut VecDeque<Output>) {
        let blocks: Vec<_> = grant.blocks.iter().flat_map(|range| range.iter()).collect();
        self.with_trade(grant.content, now, out, |trade, _| {
            trade.granted(grant.lease, blocks, grant.terms, now);
        });
    }

    pub(super) fn next_wake(&self) -> Option<(Time, Why)> {
        self.trades().filter_map(|(_, trade)| trade.next_wake()).min_by_key(|(at, _)| *at)
    }

    pub(super) fn check(&self) {
        for (content, trade) in self.trades() {
            trade.check();
            assert_eq!(self.contents[&content].what.content(), content, "a content under another's id");
        }
    }

    fn trades(&self) -> impl Iterator<Item = (ContentId, &Trade)> {
        self.contents.iter().filter_map(|(content, entry)| match &entry.phase {
            Phase::Trading(trade) => Some((*content, &**trade)),
            Phase::Opening | Phase::Failed => None,
        })
    }

    /// Lets `act` change the trade of `content`, then says what follows from it. Nothing happens if it is not traded.
    fn with_trade(
        &mut self,
        content: ContentId,
        now: Time,
        out: &mut VecDeque<Output>,
        act: impl FnOnce(&mut Trade, &mut AcquireStats),
    ) {
        if let Some(Content { phase: Phase::Trading(trade), stats, .. }) = self.contents.get_mut(&content) {
            act(trade, stats);
            trade.drain(content, now, out);
        }
    }

    /// The same for a content that is traded with neighbours; says whether it is.
    fn with_swarm(
        &mut self,
        content: ContentId,
        now: Time,
        out: &mut VecDeque<Output>,
        act: impl FnOnce(&mut Trade),
    ) -> bool {
        let swarm = self.contents.get(&content).is_some_and(|e| e.swarm && matches!(e.phase, Phase::Trading(_)));
        if swarm {
            self.with_trade(content, now, out, |trade, _| act(trade));
        }
        swarm
    }

    fn for_each_trade(&mut self, now: Time, out: &mut VecDeque<Output>, act: impl Fn(&mut Trade)) {
        for (content, entry) in &mut self.contents {
            if let Phase::Trading(trade) = &mut entry.phase {
                act(trade);
                trade.drain(*content, now, out);
            }
        }
    }
}

/// Tells everybody that `content` is not traded any more, and closes it; says which leases were open, with what landed.
fn leave(
    content: ContentId,
    trade: &Trade,
    neighbours: &BTreeSet<NodeId>,
    out: &mut VecDeque<Output>,
) -> Vec<((ContentId, LeaseId), Vec<BlockRange>)> {
    let told = neighbours.iter().map(|to| Output::Neighbour { to: *to, message: ToNeighbour::Left { content } });
    out.extend(told);
    out.extend(trade.leases.keys().map(|lease| Output::CancelRead { content, lease: *lease }));
    out.push_back(Output::Coordinator(ToCoordinator::Left { content }));
    out.push_back(Output::Close { content });
    trade.leases.iter().map(|(lease, blocks)| ((content, *lease), trade.landed_of(blocks))).collect()
}

/// The leases of a content that were open when it was closed and have not ended.
fn parting(all: &BTreeMap<(ContentId, LeaseId), Vec<BlockRange>>, content: ContentId) -> impl Iterator<Item = LeaseId> {
    all.range((content, LeaseId(0))..=(content, LeaseId(u64::MAX))).map(|((_, lease), _)| *lease)
}

fn ended_unread(content: ContentId, lease: LeaseId, outcome: wan::Outcome) -> Output {
    let end = LeaseEnd { content, lease, read_bytes: 0, landed: Vec::<BlockRange>::new(), outcome, fault: None };
    Output::Coordinator(ToCoordinator::LeaseEnded { end, begun: Vec::new() })
}
