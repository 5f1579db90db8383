//! What the simulated shell of one node remembers beside its exchange.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use shoal_proto::exchange::Exchange;
use shoal_proto::id::{BlockIndex, LeaseId, NodeId};
use shoal_proto::time::Time;

use super::wires::Part;

/// How long landed blocks wait for others before the coordinator is told, as in `shoal_proto::node`.
const REPORT_DELAY: Duration = Duration::from_millis(100);

/// How many landed blocks are told without waiting for more, as there.
const REPORT_BLOCKS: usize = 8;

/// A lease that a node reads, or will.
#[derive(Debug)]
pub(super) struct HeldLease {
    pub(super) lease: LeaseId,
    pub(super) blocks: VecDeque<BlockIndex>,
    pub(super) read_bytes: f64,
}

/// When a block was asked for, and how many of its parts were there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Since {
    pub(super) at: Time,
    pub(super) parts: u32,
}

/// One node.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) core: Exchange,
    pub(super) alive: bool,
    pub(super) neighbours: BTreeSet<usize>,
    /// Read one after the other.
    pub(super) leases: VecDeque<HeldLease>,
    /// The block that is on its way over the WAN.
    pub(super) reading: Option<Since>,
    /// Open requests: of whom, for what.
    pub(super) asked: BTreeMap<(usize, BlockIndex), Since>,
    /// Parts of each block that are there: always the first ones.
    pub(super) parts: Vec<u32>,
    /// Who is sent the parts of a block that still arrives.
    pub(super) waiting: BTreeMap<BlockIndex, BTreeSet<usize>>,
    pub(super) wake: Option<Time>,
    pub(super) done_at: Option<Time>,
    unsaid: Vec<BlockIndex>,
    pub(super) report_at: Option<Time>,
}

impl Host {
    pub(super) fn new(core: Exchange) -> Self {
        Self {
            alive: true,
            neighbours: BTreeSet::new(),
            leases: VecDeque::new(),
            reading: None,
            asked: BTreeMap::new(),
            parts: vec![0; core.have().count() as usize],
            waiting: BTreeMap::new(),
            core,
            wake: None,
            done_at: None,
            unsaid: Vec::new(),
            report_at: None,
        }
    }

    /// A block landed; when the coordinator is to be told, if that is sooner than was known. The site's second copy is told
    /// at once.
    pub(super) fn landed(&mut self, block: BlockIndex, second: bool, now: Time) -> Option<Time> {
        self.unsaid.push(block);
        let at = if second || self.unsaid.len() >= REPORT_BLOCKS { now } else { now + REPORT_DELAY };
        let sooner = self.report_at.is_none_or(|set| at < set);
        self.report_at = if sooner { Some(at) } else { self.report_at };
        sooner.then_some(at)
    }

    /// That a block is asked for at `now`.
    pub(super) fn since(&self, block: BlockIndex, at: Time) -> Since {
        Since { at, parts: self.parts[block.index()] }
    }

    /// A part of a block came; who waits for it, unless it came before.
    pub(super) fn came(&mut self, part: Part) -> Option<Vec<usize>> {
        let there = &mut self.parts[part.block.index()];
        if part.index != *there {
            return None;
        }
        *there += 1;
        Some(self.waiting.get(&part.block).into_iter().flatten().copied().collect())
    }

    /// What to tell the coordinator.
    pub(super) fn report(&mut self) -> Vec<BlockIndex> {
        self.report_at = None;
        std::mem::take(&mut self.unsaid)
    }
}

/// The key of a node: its number is scattered over the ring positions by the hash that orders each ring.
pub(super) fn id(node: usize) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(node as u64 + 1).to_le_bytes());
    NodeId(bytes)
}

/// The node with this key.
pub(super) fn number(id: NodeId) -> usize {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&id.0[..8]);
    u64::from_le_bytes(bytes) as usize - 1
}
