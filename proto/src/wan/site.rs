//! One site that shares what it reads: its members, its blocks, and what each input changes.
//!
//! Invariant: a block counts as in the site while a member has it who is up or in its time of grace; it is missing if it
//! is neither in the site nor owned by a lease. `grant.rs` gives missing blocks away, `settle.rs` ends leases.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::budget::Budget;
use super::came::Came;
use super::credit::Terms;
use super::lease::{Lease, State};
use super::member::Member;
use super::meter::Meter;
use super::readers::Readers;
use super::{BlockRange, BudgetSums, Config, HeldLease, Input, Lacking, Output, Why};
use crate::content::BlockSet;
use crate::id::{BlockIndex, LeaseId, NodeId};
use crate::limits::{
    LEASE_RUNS_MAX, LEASES_PER_NODE_MAX, NODES_MAX, REVOKE_ANSWER_MAX, SEGMENT_BYTES_MAX, STUCK_GRANT_EVERY,
};
use crate::time::Time;

/// Bytes that a lease would read needlessly before it is worth to stop it: more than stopping may waste.
const NEEDLESS_BYTES_MIN: u64 = 2 * SEGMENT_BYTES_MAX as u64;

/// The leases of one site.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) block_bytes: Vec<u32>,
    pub(super) largest_block_bytes: u32,
    /// Bytes of all blocks.
    pub(super) total_bytes: u64,
    pub(super) blocks: Vec<Block>,
    pub(super) missing: BlockSet,
    /// The fewest bytes that a trusted member lacks of each block.
    pub(super) least: Vec<u32>,
    pub(super) least_stale: bool,
    pub(super) budget: Budget,
    pub(super) came: Came,
    /// The only node of the site, where nodes do not trade.
    alone: Option<NodeId>,
    /// How fast a node may read at present, in bytes a second.
    pub(super) allowed: Option<u64>,
    /// How fast the reader was that was measured last: what one is thought to be that never was.
    pub(super) usual_rate: Option<u64>,
    pub(super) members: Vec<Member>,
    pub(super) slots: BTreeMap<NodeId, usize>,
    pub(super) leases: BTreeMap<LeaseId, Lease>,
    /// Nodes that may hold blocks or leases and have not said so; nothing is granted meanwhile.
    pub(super) awaited: BTreeSet<NodeId>,
    /// Members that may have become able to take a lease.
    pub(super) ready: BTreeSet<usize>,
    /// Members whose leases own blocks.
    pub(super) active: u32,
    /// Of these, those that take far longer than others.
    pub(super) late: u32,
    /// How often a member was heard of no more: it may have been reading on.
    pub(super) lost: u32,
    /// Leased blocks that landed, ever.
    pub(super) landings: u64,
    pub(super) readers: Readers,
    /// How far ahead readers ask: as far as any did.
    pub(super) credit_step_bytes: u64,
    pub(super) origin: Origin,
    /// Blocks that the site has and a member cannot get.
    pub(super) stuck: BTreeMap<BlockIndex, usize>,
    pub(super) stuck_granted: BTreeMap<BlockIndex, Time>,
    pub(super) timers: BTreeSet<(Time, Why)>,
    pub(super) outputs: VecDeque<Output>,
    pub(super) said_budget_empty: bool,
    pub(super) said_no_reader: bool,
    pub(super) read_bytes: u64,
    pub(super) gap_bytes: u64,
    pub(super) in_site_bytes: u64,
    /// What lands from over the WAN.
    pub(super) wan_meter: Meter,
    /// What lands from other nodes.
    pub(super) peer_meter: Meter,
    pub(super) seed: u64,
    /// Whether an earlier run of the coordinator may have granted here.
    resumed: bool,
    /// The run of the coordinator that grants here.
    pub(super) run: u64,
    /// Leases of others than this run that are settled.
    pub(super) facts: BTreeSet<LeaseId>,
}

/// One block.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Block {
    /// Members that have it and count.
    pub(super) holders: u32,
    /// The lease that owns it.
    pub(super) lease: Option<LeaseId>,
    /// Who reads it or read it and has it at stake, and for how much: until another member has it.
    pub(super) at_stake: Option<(usize, u32)>,
}

/// What is known of the origin.
#[derive(Debug, Default)]
pub(super) struct Origin {
    /// Failures since it last answered.
    pub(super) failures: u32,
    /// The members that failed since.
    pub(super) failed: BTreeSet<usize>,
    /// Times that all of them had failed since.
    pub(super) rounds: u32,
    /// Nobody tries before this.
    pub(super) retry_at: Time,
    /// It answered a range with the whole.
    pub(super) ignores_ranges: bool,
}

impl Site {
    pub(super) fn new(block_bytes: &[u32], config: &Config, alone: Option<NodeId>) -> Self {
        let count = u32::try_from(block_bytes.len()).unwrap_or(u32::MAX);
        let largest_block_bytes = block_bytes.iter().copied().max().unwrap_or(0);
        Self {
            block_bytes: block_bytes.to_vec(),
            largest_block_bytes,
            total_bytes: block_bytes.iter().map(|bytes| u64::from(*bytes)).sum(),
            blocks: vec![Block::default(); block_bytes.len()],
            missing: BlockSet::full(count),
            least: block_bytes.to_vec(),
            least_stale: false,
            budget: Budget::new(block_bytes.len()),
            came: Came::new(count),
            alone,
            allowed: None,
            usual_rate: None,
            members: Vec::new(),
            slots: BTreeMap::new(),
            leases: BTreeMap::new(),
            awaited: BTreeSet::new(),
            ready: BTreeSet::new(),
            active: 0,
            late: 0,
            lost: 0,
            landings: 0,
            readers: Readers::new(),
            credit_step_bytes: Terms::first_step(largest_block_bytes),
            origin: Origin::default(),
            stuck: BTreeMap::new(),
            stuck_granted: BTreeMap::new(),
            timers: BTreeSet::new(),
            outputs: VecDeque::new(),
            said_budget_empty: false,
            said_no_reader: false,
            read_bytes: 0,
            gap_bytes: 0,
            in_site_bytes: 0,
            wan_meter: Meter::default(),
            peer_meter: Meter::default(),
            seed: config.seed,
            resumed: config.resumed,
            run: 0,
            facts: BTreeSet::new(),
        }
    }

    /// Takes one input and grants what it makes possible. `next_lease` is the number of the next lease.
    pub(super) fn handle(&mut self, input: Input, now: Time, next_lease: &mut u64) {
        self.run = *next_lease >> 32;
        self.fire(now);
        match input {
            Input::Wants { node, lacking, held } => self.wants(node, &lacking, &held, now),
            Input::Landed { node, blocks } => {
                if let Some(slot) = self.slots.get(&node).copied() {
                    blocks.iter().for_each(|block| self.landed_now(slot, *block, now));
                }
            }
            Input::Begun { node, lacking } => {
                if let Some(slot) = self.slots.get(&node).copied() {
                    for part in lacking {
                        self.note_part(slot, part);
                    }
                    self.note_least(slot, now);
                    self.ready.insert(slot);
                }
            }
            Input::CreditWanted { node, lease, bytes } => self.credit_wanted(node, lease, bytes, now),
            ended @ Input::LeaseEnded { .. } => self.lease_ended(ended, now),
            Input::NodeUp { node } => self.node_up(node),
            Input::NodeDown { node, absence } => self.node_down(node, absence, now),
            Input::Release { node } => self.release(node, now),
            Input::Stuck { node, blocks } => self.note_stuck(node, &blocks, now),
            Input::Await { nodes, until } => {
                self.awaited.extend(nodes);
                self.timers.insert((until, Why::AwaitOver));
            }
            Input::Allowed { rate } => self.allow(rate, now),
            Input::Override { bytes, .. } => {
                self.budget.add(bytes);
                self.said_budget_empty = false;
                self.ready_all();
            }
            Input::Tick => {}
        }
        self.tell_what_came(now);
        self.grant_all(now, next_lease);
    }

    /// Goes on from what an earlier run of the coordinator left.
    pub(super) fn carry(&mut self, sums: BudgetSums, came: &[BlockRange]) {
        self.budget.carry(sums);
        let count = self.missing.count();
        for block in came.iter().flat_map(|range| range.start.0..range.end.0.min(count)).map(BlockIndex) {
            self.came.know(block);
            self.budget.was_read_before(block);
        }
    }

    fn tell_what_came(&mut self, now: Time) {
        let blocks = BlockRange::runs(self.came.take_due(now));
        if !blocks.is_empty() {
            self.outputs.push_back(Output::Came { node: self.alone, blocks });
        }
    }

    /// Leases that have not ended, with who holds them.
    pub(super) fn open_leases(&self) -> impl Iterator<Item = (NodeId, LeaseId)> {
        self.leases.iter().map(|(id, lease)| (self.members[lease.node].id, *id))
    }

    fn fire(&mut self, now: Time) {
        while let Some((at, why)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, why));
            match why {
                Why::LeaseDeadline(lease) => self.deadline(lease, now),
                Why::GraceOver(node) => self.look_at_absent(self.slots[&node], now),
                Why::CooledDown(node) => {
                    self.ready.insert(self.slots[&node]);
                    self.least_stale = true;
                }
                Why::ReaderLate(node) => self.look_at_reader(node, now),
                Why::OriginRetry => self.ready_all(),
                // Told after any input.
                Why::Came => {}
                Why::AwaitOver => {
                    self.awaited.clear();
                    self.ready_all();
                }
            }
        }
    }

    pub(super) fn ready_all(&mut self) {
        self.ready.extend(0..self.members.len());
    }

    /// The slot of a node, made if there is room for one more.
    fn slot(&mut self, node: NodeId) -> Option<usize> {
        if let Some(slot) = self.slots.get(&node) {
            return Some(*slot);
        }
        let slot = self.members.len();
        if slot >= NODES_MAX {
            return None;
        }
        self.members.push(Member::new(node, self.missing.count()));
        self.slots.insert(node, slot);
        Some(slot)
    }

    fn wants(&mut self, node: NodeId, lacking: &[Lacking], held: &[HeldLease], now: Time) {
        // Until the last of them nothing is granted, whoever is ready.
        if self.awaited.remove(&node) && self.awaited.is_empty() {
            self.ready_all();
        }
        let returned = self.slots.contains_key(&node);
        let Some(slot) = self.slot(node) else { return };
        let mut has = BlockSet::full(self.missing.count());
        let mut partial = BTreeMap::new();
        for Lacking { block, bytes } in lacking {
            has.remove(*block);
            if self.block_bytes.get(block.index()).is_some_and(|full| bytes < full) {
                partial.insert(*block, (*bytes).max(1));
            }
        }
        self.replace_has(slot, &has, partial, now);
        self.members[slot].interested = true;
        let held = &held[..held.len().min(4 * LEASES_PER_NODE_MAX)];
        self.reconcile_leases(slot, held, now);
        self.revoke_what_is_too_much(slot, now);
        if returned {
            self.least_stale = true;
            self.ready_all();
        } else {
            self.note_least(slot, now);
            self.ready.insert(slot);
        }
    }

    /// The member is up and has exactly `has`.
    fn replace_has(&mut self, slot: usize, has: &BlockSet, partial: BTreeMap<BlockIndex, u32>, now: Time) {
        let counted = self.members[slot].counts();
        let gone = self.members[slot].has.difference(has);
        for block in gone.iter() {
            self.members[slot].has.remove(block);
            if counted {
                self.uncount_holder(block, now);
            }
        }
        let member = &mut self.members[slot];
        (member.up, member.away_until) = (true, None);
        if !counted {
            let kept: Vec<_> = member.has.iter().collect();
            kept.into_iter().for_each(|block| self.count_holder(slot, block, now));
        }
        for block in has.difference(&self.members[slot].has).iter() {
            self.landed(slot, block, now);
        }
        self.members[slot].partial = partial;
        let leased: BTreeSet<_> = has.iter().filter_map(|block| self.blocks[block.index()].lease).collect();
        leased.into_iter().for_each(|lease| self.revoke_if_needless(lease, now));
    }

    /// A member has a part of a block; says whether it lacks less of it than was known.
    pub(super) fn note_part(&mut self, slot: usize, Lacking { block, bytes }: Lacking) -> bool {
        let Some(full) = self.block_bytes.get(block.index()) else { return false };
        let member = &mut self.members[slot];
        let less = bytes < member.lacking(block, *full);
        if less {
            member.partial.insert(block, bytes.max(1));
        }
        less
    }

    /// A block has just come to a member, from wherever.
    pub(super) fn landed_now(&mut self, slot: usize, block: BlockIndex, now: Time) {
        let (Some(member), Some(full)) = (self.members.get(slot), self.block_bytes.get(block.index())) else { return };
        let bytes = u64::from(member.lacking(block, *full));
        let leased = self.blocks[block.index()].lease.is_some_and(|id| self.leases[&id].node == slot);
        if leased {
            self.wan_meter.add(bytes, now)
        } else {
            self.peer_meter.add(bytes, now)
        }
        self.landed(slot, block, now);
    }

    /// A member has a block complete.
    pub(super) fn landed(&mut self, slot: usize, block: BlockIndex, now: Time) {
        let member = &mut self.members[slot];
        if !member.has.insert(block) {
            return;
        }
        member.partial.remove(&block);
        member.stuck_since = None;
        let counts = member.counts();
        let lease = self.blocks[block.index()].lease;
        if let Some(id) = lease.filter(|id| self.leases[id].node == slot) {
            self.leased_block_landed(slot, id, block, now);
        }
        if counts {
            self.count_holder(slot, block, now);
        }
        if self.members[slot].has.is_full() {
            self.least_stale |= !self.missing.is_empty();
        }
    }

    fn leased_block_landed(&mut self, slot: usize, id: LeaseId, block: BlockIndex, now: Time) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.progress = true;
        lease.landed.insert(block);
        let charge = lease.charge(block);
        let entry = &mut self.blocks[block.index()];
        entry.lease = None;
        // Whoever had it besides may be gone again.
        if entry.holders == 0 && entry.at_stake.is_none() {
            self.put_at_stake(slot, block, charge);
        }
        let member = &mut self.members[slot];
        member.leased_bytes -= u64::from(charge);
        member.speed.landed(charge, now);
        self.usual_rate = member.speed.rate().or(self.usual_rate);
        member.failures = 0;
        self.ready.insert(slot);
        self.landings += 1;
        self.progressed(slot, now);
        self.origin_answered();
        if self.readers.landed(charge, now) {
            self.ready_all();
        }
    }

    /// A member that counts has the block. One that got it of its reader may say so first.
    fn count_holder(&mut self, slot: usize, block: BlockIndex, now: Time) {
        let entry = &mut self.blocks[block.index()];
        entry.holders += 1;
        if entry.holders == 1 {
            self.in_site_bytes += u64::from(self.block_bytes[block.index()]);
            self.missing.remove(block);
            self.budget.expect(block, 0);
            let due = self.came.note(block, now);
            self.timers.extend(due.map(|due| (due, Why::Came)));
        }
        let entry = &self.blocks[block.index()];
        if entry.at_stake.is_some_and(|(reader, _)| reader != slot || entry.holders > 1)
            && let Some(reader) = self.take_off_stake(block)
        {
            self.members[reader].stake_changed = now;
            self.ready.insert(reader);
        }
    }

    /// A member reads the block, or alone has it: if it is lost, so is what it was charged for.
    pub(super) fn put_at_stake(&mut self, slot: usize, block: BlockIndex, charge: u32) {
        self.blocks[block.index()].at_stake = Some((slot, charge));
        self.members[slot].at_stake_bytes += u64::from(charge);
    }

    /// The block is not at stake any more; says who had it at stake.
    pub(super) fn take_off_stake(&mut self, block: BlockIndex) -> Option<usize> {
        let (reader, bytes) = self.blocks[block.index()].at_stake.take()?;
        self.members[reader].at_stake_bytes -= u64::from(bytes);
        Some(reader)
    }

    /// A member that counted no longer has the block, or no longer counts.
    pub(super) fn uncount_holder(&mut self, block: BlockIndex, now: Time) {
        let entry = &mut self.blocks[block.index()];
        entry.holders -= 1;
        if entry.holders > 0 {
            return;
        }
        self.take_off_stake(block);
        self.put_back_at_stake(block);
        self.in_site_bytes -= u64::from(self.block_bytes[block.index()]);
        self.stuck.remove(&block);
        if self.resumed {
            self.budget.was_read_before(block);
        }
        self.came.hurry(now);
        self.note_missing(block);
    }

    /// Nobody else has what is read of the block any more.
    fn put_back_at_stake(&mut self, block: BlockIndex) {
        let lease = self.blocks[block.index()].lease.map(|id| &self.leases[&id]);
        if let Some(lease) = lease.filter(|lease| !lease.for_stuck) {
            let (slot, charge) = (lease.node, lease.charge(block));
            self.put_at_stake(slot, block, charge);
        }
    }

    /// Puts the block among the missing if it is.
    pub(super) fn note_missing(&mut self, block: BlockIndex) {
        let entry = self.blocks[block.index()];
        if entry.holders == 0 && entry.lease.is_none() {
            self.missing.insert(block);
            self.least_stale = true;
            self.ready_all();
        }
    }

    fn note_stuck(&mut self, node: NodeId, blocks: &[BlockIndex], now: Time) {
        let Some(slot) = self.slots.get(&node).copied().filter(|slot| self.members[*slot].reads()) else { return };
        let since = *self.members[slot].stuck_since.get_or_insert(now);
        let long = since + STUCK_GRANT_EVERY <= now;
        for block in blocks.iter().take(LEASE_RUNS_MAX) {
            let Some(entry) = self.blocks.get(block.index()) else { continue };
            // A block that more have is on its way through the site, and a holder that is away may come back; unless
            // nobody serves this node at all.
            let away = |member: &Member| member.away_until.is_some() && member.has.contains(*block);
            let few = matches!(entry.holders, 1 | 2) || long && entry.holders > 0;
            let rare = few && entry.lease.is_none() && !self.members.iter().any(away);
            let again = self.stuck_granted.get(block).is_none_or(|at| *at + STUCK_GRANT_EVERY <= now);
            if rare && again && !self.members[slot].has.contains(*block) {
                self.stuck.insert(*block, slot);
                self.ready.insert(slot);
            }
        }
    }

    /// Tells the holder to stop, and waits for its answer.
    pub(super) fn revoke(&mut self, id: LeaseId, now: Time) {
        let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.state == State::Held) else { return };
        lease.state = State::Revoking;
        self.timers.remove(&(lease.deadline, Why::LeaseDeadline(id)));
        lease.deadline = now + REVOKE_ANSWER_MAX;
        self.timers.insert((lease.deadline, Why::LeaseDeadline(id)));
        self.outputs.push_back(Output::Revoke { node: self.members[lease.node].id, lease: id });
    }

    /// A node that was alone may have more at stake than the budget could pay for: with a second candidate that ends, unless
    /// it reads in one go.
    fn revoke_what_is_too_much(&mut self, joined: usize, now: Time) {
        if self.origin.ignores_ranges {
            return;
        }
        let others = self.members.iter().enumerate().filter(|(slot, member)| *slot != joined && member.up);
        let others: Vec<_> = others.map(|(slot, _)| slot).collect();
        let [alone] = others[..] else { return };
        let mut at_stake = self.members[alone].at_stake_bytes;
        for id in self.members[alone].queue.clone().into_iter().rev() {
            if at_stake <= self.budget.left_bytes() {
                return;
            }
            let blocks = self.leases[&id].blocks.iter().map(|(block, _)| self.blocks[block.index()]);
            let owned = blocks.filter(|block| block.lease == Some(id)).filter_map(|block| block.at_stake);
            at_stake -= owned.filter(|(reader, _)| *reader == alone).map(|(_, bytes)| u64::from(bytes)).sum::<u64>();
            self.revoke(id, now);
        }
    }

    /// Ends a lease of which a node that came back has most: what is left of it is granted again. Stopping may waste the
    /// segment that is being read, so little is let be read twice. Who reads in one go goes on while anything is missing: the
    /// next one would read it all again.
    fn revoke_if_needless(&mut self, id: LeaseId, now: Time) {
        let Some(lease) = self.leases.get(&id).filter(|lease| !lease.for_stuck) else { return };
        let owned = lease.blocks.iter().filter(|(block, _)| self.blocks[block.index()].lease == Some(id));
        let (there, missing): (Vec<_>, Vec<_>) = owned.partition(|(block, _)| self.blocks[block.index()].holders > 0);
        let sum = |blocks: &[&(BlockIndex, u32)]| blocks.iter().map(|(_, bytes)| u64::from(*bytes)).sum::<u64>();
        let there_bytes = sum(&there);
        let most = there_bytes > sum(&missing) && there_bytes >= NEEDLESS_BYTES_MIN;
        if missing.is_empty() || most && !self.origin.ignores_ranges {
            self.revoke(id, now);
        }
    }
}
