//! What the simulated shell of one node remembers beside its exchange.

use std::collections::{BTreeSet, VecDeque};
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
    /// Open requests: of whom, for what; ascending.
    asked: Vec<((usize, BlockIndex), Since)>,
    /// Parts of each block that are there: always the first ones.
    pub(super) parts: Vec<u32>,
    /// Blocks that still arrive and who is sent their parts; ascending.
    waiting: Vec<(BlockIndex, usize)>,
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
            asked: Vec::new(),
            parts: vec![0; core.have().count() as usize],
            waiting: Vec::new(),
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

    /// A block is asked for.
    pub(super) fn ask(&mut self, from: usize, block: BlockIndex, since: Since) {
        match self.asked.binary_search_by_key(&(from, block), |(key, _)| *key) {
            Ok(at) => self.asked[at].1 = since,
            Err(at) => self.asked.insert(at, ((from, block), since)),
        }
    }

    /// Since when a block is asked for.
    pub(super) fn asked_since(&self, from: usize, block: BlockIndex) -> Option<Since> {
        self.asked.iter().find(|(key, _)| *key == (from, block)).map(|(_, since)| *since)
    }

    /// A request is over; since when it was open, if it was.
    pub(super) fn asked_no_more(&mut self, from: usize, block: BlockIndex) -> Option<Since> {
        let at = self.asked.iter().position(|(key, _)| *key == (from, block))?;
        Some(self.asked.remove(at).1)
    }

    /// All that is asked of `from` is over: the blocks, ascending.
    pub(super) fn asks_nothing_of(&mut self, from: usize) -> Vec<BlockIndex> {
        let over: Vec<_> = self.asked.iter().filter(|((of, _), _)| *of == from).map(|((_, block), _)| *block).collect();
        self.asked.retain(|((of, _), _)| *of != from);
        over
    }

    /// How many requests are open.
    pub(super) fn open_requests(&self) -> usize {
        self.asked.len()
    }

    /// `to` is sent the parts of a block as they come.
    pub(super) fn pass_on(&mut self, block: BlockIndex, to: usize) {
        if let Err(at) = self.waiting.binary_search(&(block, to)) {
            self.waiting.insert(at, (block, to));
        }
    }

    /// `to` is sent no more of a block; whether it was.
    pub(super) fn pass_on_no_more(&mut self, block: BlockIndex, to: usize) -> bool {
        self.waiting.binary_search(&(block, to)).map(|at| self.waiting.remove(at)).is_ok()
    }

    /// Where those stand who are sent the parts of a block ([`Host::waits`]).
    pub(super) fn waiting_for(&self, block: BlockIndex) -> Range<usize> {
        let first = self.waiting.partition_point(|(other, _)| *other < block);
        first..first + self.waiting[first..].iter().take_while(|(other, _)| *other == block).count()
    }

    /// Who stands there.
    pub(super) fn waits(&self, at: usize) -> usize {
        self.waiting[at].1
    }

    /// A node is sent nothing more, or what is there of a block is all of it.
    pub(super) fn pass_on_only(&mut self, keep: impl Fn(BlockIndex, usize) -> bool) {
        self.waiting.retain(|(block, to)| keep(*block, *to));
    }

    /// A part of a block came; whether it is a new one.
    pub(super) fn came(&mut self, part: Part) -> bool {
        let there = &mut self.parts[part.block.index()];
        let new = part.index == *there;
        *there += u32::from(new);
        new
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
