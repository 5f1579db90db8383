//! What the simulated shell of one node remembers beside its exchange.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use shoal_proto::exchange::Exchange;
use shoal_proto::id::{BlockIndex, LeaseId, NodeId};
use shoal_proto::time::Time;
use shoal_proto::wan::credit::{Credit, Habit, Terms};
use shoal_proto::wan::credits::Credits;

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
    /// How many of their parts were asked for, or read.
    asked_parts: u32,
    /// What it was granted for.
    bytes: u64,
    pub(super) read_bytes: f64,
    terms: Terms,
    /// Once it is read.
    credit: Option<Credit>,
}

/// What a node reads next.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) block: BlockIndex,
    pub(super) parts: Range<u32>,
    /// Up to how many bytes of its lease it wants to read on, if it asks.
    pub(super) asks: Option<(LeaseId, u64)>,
}

impl HeldLease {
    fn new(lease: LeaseId, blocks: VecDeque<BlockIndex>, terms: Terms, bytes: u64) -> Self {
        Self { lease, blocks, bytes, asked_parts: 0, read_bytes: 0.0, terms, credit: None }
    }

    /// Up to `bytes` may be read.
    pub(super) fn confirm(&mut self, bytes: u64) {
        match &mut self.credit {
            Some(credit) => credit.confirm(bytes),
            None => self.terms.first_bytes = self.terms.first_bytes.max(bytes),
        }
    }
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
    /// What it asks for of them.
    pub(super) credits: Credits,
    habit: Habit,
    /// The block that is on its way over the WAN.
    pub(super) reading: Option<Since>,
    /// The next of its parts to read.
    pub(super) next_part: u32,
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
            credits: Credits::default(),
            habit: Habit::default(),
            reading: None,
            next_part: 0,
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

    /// A lease came.
    pub(super) fn granted(&mut self, lease: LeaseId, blocks: VecDeque<BlockIndex>, terms: Terms, bytes: u64) {
        self.credits.granted(lease, bytes, terms);
        self.leases.push_back(HeldLease::new(lease, blocks, terms, bytes));
    }

    /// What to read of the first lease, whose blocks come in so many `parts`, as far as its credit goes.
    pub(super) fn read_on(&mut self, parts: u32, part_bytes: f64, now: Time) -> Option<Next> {
        let block = *self.leases.front()?.blocks.front()?;
        if self.reading.is_none() {
            let since = self.since(block, now);
            (self.reading, self.next_part) = (Some(since), since.parts);
        }
        let lease = self.leases.front_mut()?;
        let credit = lease.credit.get_or_insert_with(|| Credit::new(lease.terms, lease.bytes, self.habit));
        let affords = (credit.confirmed_bytes() as f64 / part_bytes) as u32;
        let more = affords.saturating_sub(lease.asked_parts).min(parts - self.next_part);
        let first = self.next_part;
        self.next_part += more;
        lease.asked_parts += more;
        let read_bytes = lease.read_bytes as u64;
        let next_bytes = (part_bytes as u64).min(lease.bytes.saturating_sub(read_bytes));
        let asks = credit.ask(read_bytes, next_bytes).map(|bytes| (lease.lease, bytes));
        self.habit = credit.habit();
        if let Some((lease, bytes)) = asks {
            self.credits.wanted(lease, bytes);
        }
        Some(Next { block, parts: first..self.next_part, asks })
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
