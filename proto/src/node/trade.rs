//! One open content: its exchange, the leases that the node works on, and what the coordinator was not told yet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::deputy::run_starts;
use super::{Opened, Output, REPORT_BLOCKS, REPORT_DELAY, Why};
use crate::content::BlockSet;
use crate::exchange::{self, Exchange, Source};
use crate::id::{BlockIndex, ContentId, LeaseId, NodeId};
use crate::limits::LEASES_KEPT_MAX;
use crate::time::Time;
use crate::wan::credit::Terms;
use crate::wan::credits::Credits;
use crate::wan::{BlockRange, HeldLease, Lacking};
use crate::wire::{LeaseEnd, ToCoordinator, ToNeighbour};

/// How far a content's file is from being durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sealing {
    /// Blocks are lacking.
    Lacking,
    /// The store was told to seal it.
    Asked,
    /// It is complete and durable.
    Done,
}

/// An open content.
#[derive(Debug)]
pub(super) struct Trade {
    pub(super) exchange: Exchange,
    pub(super) leases: BTreeMap<LeaseId, Vec<BlockIndex>>,
    pub(super) credits: Credits,
    pub(super) sealing: Sealing,
    /// Bytes lacking of each incomplete block.
    lacking: BTreeMap<BlockIndex, u32>,
    /// Neighbours that said that they trade it too.
    partners: BTreeSet<NodeId>,
    /// Blocks that landed and that the coordinator was not told of.
    unsaid: Vec<BlockIndex>,
    say_at: Option<Time>,
    /// Leases that ended while the coordinator was away, oldest first.
    kept: VecDeque<(LeaseEnd, Vec<Lacking>)>,
    /// Where the runs begin that deputies read.
    run_starts: Vec<u32>,
}

impl Trade {
    pub(super) fn new(opened: &Opened, seed: u64) -> Self {
        let lacking: BTreeMap<BlockIndex, u32> = opened.lacking.iter().map(|l| (l.block, l.bytes)).collect();
        let count = u32::try_from(opened.block_bytes.len()).expect("a layout has at most 2^32 blocks");
        let mut have = BlockSet::full(count);
        for block in lacking.keys() {
            have.remove(*block);
        }
        Self {
            exchange: Exchange::new(&opened.block_bytes, &have, seed),
            leases: BTreeMap::new(),
            credits: Credits::default(),
            sealing: if opened.sealed { Sealing::Done } else { Sealing::Lacking },
            lacking,
            partners: BTreeSet::new(),
            unsaid: Vec::new(),
            say_at: None,
            kept: VecDeque::new(),
            run_starts: run_starts(&opened.block_bytes),
        }
    }

    /// What the coordinator is to know of it, from scratch. `parting` are leases from before it was closed and opened again.
    pub(super) fn wants(&self, content: ContentId, parting: impl Iterator<Item = LeaseId>) -> ToCoordinator {
        let lacking = self.lacking.iter().map(|(block, bytes)| Lacking { block: *block, bytes: *bytes }).collect();
        let held =
            self.leases.iter().map(|(lease, blocks)| HeldLease { lease: *lease, blocks: ranges(self.open(blocks)) });
        // What became of these is said next; named here, they are not settled by a guess before.
        let mut kept: Vec<_> = self.kept.iter().map(|(end, _)| end.lease).chain(parting).collect();
        kept.sort_unstable_by_key(|lease| lease.is_own());
        let kept = kept.into_iter().map(|lease| HeldLease { lease, blocks: Vec::new() });
        ToCoordinator::Wants { content, lacking, held: held.chain(kept).collect() }
    }

    /// Keeps the end of a lease that the coordinator cannot be told of. It is told whenever it comes back: a coordinator
    /// that was restarted in between knows nothing of it, and one that does charges it once.
    pub(super) fn keep(&mut self, end: LeaseEnd, begun: Vec<Lacking>) {
        if end.read_bytes > 0 || !end.lease.is_own() {
            self.kept.push_back((end, begun));
        }
        if self.kept.len() > LEASES_KEPT_MAX {
            self.kept.pop_front();
        }
    }

    /// The ends that were kept. What was wrong is said the first time only: it may end a deployment.
    pub(super) fn kept(&mut self) -> Vec<ToCoordinator> {
        let said =
            self.kept.iter().map(|(end, begun)| ToCoordinator::LeaseEnded { end: end.clone(), begun: begun.clone() });
        let said = said.collect();
        self.kept.iter_mut().for_each(|(end, _)| end.fault = None);
        said
    }

    pub(super) fn has_partner(&self, node: NodeId) -> bool {
        self.partners.contains(&node)
    }

    pub(super) fn lacks(&self) -> bool {
        !self.lacking.is_empty()
    }

    /// Blocks that are lacking, in order.
    pub(super) fn lacking_blocks(&self) -> impl Iterator<Item = BlockIndex> {
        self.lacking.keys().copied()
    }

    /// The number of the run that a block is in.
    pub(super) fn run_of(&self, block: BlockIndex) -> u32 {
        u32::try_from(self.run_starts.partition_point(|start| *start <= block.0)).unwrap_or(u32::MAX)
    }

    /// What neighbours may ask for of it, from scratch.
    pub(super) fn has(&self, content: ContentId) -> ToNeighbour {
        ToNeighbour::Has { content, blocks: self.exchange.offers().clone() }
    }

    /// Those of `blocks` that are lacking.
    pub(super) fn open<'a>(&'a self, blocks: &'a [BlockIndex]) -> impl Iterator<Item = BlockIndex> + 'a {
        blocks.iter().copied().filter(|block| self.lacking.contains_key(block))
    }

    /// Takes notice of all that a neighbour has; says whether it is the first that is heard of it.
    pub(super) fn neighbour_has(&mut self, node: NodeId, blocks: BlockSet, now: Time) -> bool {
        if blocks.count() != self.exchange.have().count() {
            return false;
        }
        let first = self.partners.insert(node);
        if first {
            self.exchange.handle(exchange::Input::NeighbourUp { node }, now);
        }
        self.exchange.handle(exchange::Input::NeighbourHas { node, blocks }, now);
        first
    }

    pub(super) fn neighbour_landed(&mut self, node: NodeId, blocks: &[BlockRange], now: Time) {
        // A range may name any block up to 2^32: only those that exist are expanded.
        let count = self.exchange.have().count();
        let blocks = blocks.iter().flat_map(|r| r.start.0..r.end.0.min(count)).take(count as usize).map(BlockIndex);
        let blocks = blocks.collect();
        self.exchange.handle(exchange::Input::NeighbourLanded { node, blocks }, now);
    }

    pub(super) fn neighbour_has_room(&mut self, node: NodeId, now: Time) {
        self.exchange.handle(exchange::Input::Offered { node }, now);
    }

    pub(super) fn neighbour_left(&mut self, node: NodeId, now: Time) {
        if self.partners.remove(&node) {
            self.exchange.handle(exchange::Input::NeighbourDown { node }, now);
        }
    }

    /// A block that was read over the WAN is stored.
    pub(super) fn landed(&mut self, block: BlockIndex, now: Time) {
        if self.lacking.remove(&block).is_some() {
            self.exchange.handle(exchange::Input::Landed { block, from: Source::Wan }, now);
            self.say(block, REPORT_DELAY, now);
        }
    }

    /// A block that a neighbour sent is stored; says whether it was lacking.
    pub(super) fn fetched(&mut self, node: NodeId, block: BlockIndex, bytes: u64, took: Duration, now: Time) -> bool {
        // One of the site's first copies: its reader's stake is free, and the coordinator may grant it more. Others may be
        // counted that offer it while it still arrives.
        let second = self.exchange.is_awaited(block);
        self.exchange.handle(exchange::Input::Fetched { node, block, bytes, took }, now);
        let lacked = self.lacking.remove(&block).is_some();
        if lacked {
            self.say(block, if second { Duration::ZERO } else { REPORT_DELAY }, now);
        }
        lacked
    }

    /// Has the coordinator told that the block landed, at the latest after `delay`.
    fn say(&mut self, block: BlockIndex, delay: Duration, now: Time) {
        self.unsaid.push(block);
        let delay = if self.unsaid.len() >= REPORT_BLOCKS { Duration::ZERO } else { delay };
        let at = now + delay;
        self.say_at = Some(self.say_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Takes a lease, unless it is held already.
    pub(super) fn granted(&mut self, lease: LeaseId, blocks: Vec<BlockIndex>, terms: Terms, now: Time) -> bool {
        let count = self.exchange.have().count();
        if self.leases.contains_key(&lease) || blocks.iter().any(|block| block.0 >= count) {
            return false;
        }
        let open: Vec<_> = self.open(&blocks).collect();
        if !lease.is_own() {
            self.credits.granted(lease, open.iter().map(|block| u64::from(self.lacking[block])).sum(), terms);
        }
        self.exchange.handle(exchange::Input::LeaseHeld { blocks: open }, now);
        self.leases.insert(lease, blocks);
        true
    }

    /// Ends a lease that is held; says which of its blocks landed.
    pub(super) fn lease_ended(&mut self, lease: LeaseId, begun: &[Lacking], now: Time) -> Option<Vec<BlockRange>> {
        let blocks = self.leases.remove(&lease)?;
        self.credits.ended(lease);
        for begun in begun {
            if let Some(bytes) = self.lacking.get_mut(&begun.block) {
                *bytes = begun.bytes;
            }
        }
        self.exchange.handle(exchange::Input::LeaseOver { blocks: self.open(&blocks).collect() }, now);
        Some(self.landed_of(&blocks))
    }

    /// Those of `blocks` that are complete.
    pub(super) fn landed_of(&self, blocks: &[BlockIndex]) -> Vec<BlockRange> {
        ranges(blocks.iter().copied().filter(|block| !self.lacking.contains_key(block)))
    }

    pub(super) fn tick(&mut self, now: Time) {
        self.exchange.handle(exchange::Input::Tick, now);
    }

    pub(super) fn next_wake(&self) -> Option<(Time, Why)> {
        let exchange = self.exchange.next_wake().map(|(at, _)| (at, Why::Exchange));
        let report = self.say_at.map(|at| (at, Why::Report));
        exchange.into_iter().chain(report).min_by_key(|(at, _)| *at)
    }

    /// Says what follows from what was handled.
    pub(super) fn drain(&mut self, content: ContentId, now: Time, out: &mut VecDeque<Output>) {
        while let Some(output) = self.exchange.poll() {
            self.on_exchange(output, content, out);
        }
        while let Some((lease, bytes)) = self.credits.due() {
            out.push_back(Output::Coordinator(ToCoordinator::CreditWanted { content, lease, bytes }));
        }
        if self.say_at.is_some_and(|at| at <= now) {
            self.say_at = None;
            let blocks = ranges(std::mem::take(&mut self.unsaid).into_iter());
            out.push_back(Output::Coordinator(ToCoordinator::Landed { content, blocks }));
        }
        if self.lacking.is_empty() && self.sealing == Sealing::Lacking {
            self.sealing = Sealing::Asked;
            out.push_back(Output::Seal { content });
        }
    }

    fn on_exchange(&mut self, output: exchange::Output, content: ContentId, out: &mut VecDeque<Output>) {
        out.push_back(match output {
            exchange::Output::Fetch { node, block } => Output::Fetch { node, content, block },
            exchange::Output::Cancel { node, block } => Output::CancelFetch { node, content, block },
            exchange::Output::Announce { to, blocks } => {
                let blocks = ranges(blocks.into_iter());
                Output::Neighbour { to, message: ToNeighbour::Landed { content, blocks } }
            }
            exchange::Output::AnnounceAll { to } => Output::Neighbour { to, message: self.has(content) },
            exchange::Output::Serve { node, request } => Output::Serve { node, request },
            exchange::Output::BreakOff { node, request } => Output::BreakOff { node, request },
            exchange::Output::Refuse { node, request } => Output::Refuse { node, request },
            exchange::Output::Decline { node, request } => Output::Decline { node, request },
            exchange::Output::Offer { to } => Output::Neighbour { to, message: ToNeighbour::Room { content } },
            exchange::Output::Lied { node, .. } => {
                Output::Coordinator(ToCoordinator::Lied { neighbour: node, content })
            }
            exchange::Output::Stuck { blocks } => {
                let blocks = ranges(blocks.into_iter());
                Output::Coordinator(ToCoordinator::Stuck { content, blocks })
            }
            exchange::Output::LeftOff { lacking } => {
                Output::Coordinator(ToCoordinator::Begun { content, lacking: self.left_off(lacking) })
            }
            exchange::Output::Complete => return,
        });
    }

    /// Takes notice of what is lacking of blocks that nobody brings.
    fn left_off(&mut self, lacking: Vec<(BlockIndex, u32)>) -> Vec<Lacking> {
        let mut left = Vec::with_capacity(lacking.len());
        for (block, bytes) in lacking {
            if let Some(known) = self.lacking.get_mut(&block) {
                *known = bytes;
                left.push(Lacking { block, bytes });
            }
        }
        left
    }

    pub(super) fn check(&self) {
        self.exchange.check();
        for block in (0..self.exchange.have().count()).map(BlockIndex) {
            assert_ne!(self.exchange.have().contains(block), self.lacking.contains_key(&block), "block {block}");
        }
        assert!(self.unsaid.is_empty() || self.say_at.is_some(), "blocks that nobody would be told of");
    }
}

/// Blocks as runs; they are sorted first.
pub(super) fn ranges(blocks: impl Iterator<Item = BlockIndex>) -> Vec<BlockRange> {
    let mut blocks: Vec<_> = blocks.collect();
    blocks.sort_unstable();
    BlockRange::runs(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_join_neighbours_in_any_order() {
        let run = |start, end| BlockRange { start: BlockIndex(start), end: BlockIndex(end) };
        let found = ranges([5, 1, 2, 2, 7, 6].into_iter().map(BlockIndex));
        assert_eq!(found, [run(1, 3), run(5, 8)]);
    }
}
