//! Who is granted what: the choice of the node, of the blocks and of the size.
//!
//! Every rule only narrows: a node that passes all of them takes the first missing blocks that it may, so that leases are
//! runs of adjacent blocks and different nodes read different ones.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::credit::Terms;
use super::lease::{Lease, State};
use super::member::Member;
use super::site::Site;
use super::{BlockRange, Notice, Output, Why};
use crate::id::{BlockIndex, LeaseId};
use crate::limits::{
    LEASE_BYTES_MAX, LEASE_BYTES_MIN, LEASE_RATE_GUESS, LEASE_RUNS_MAX, LEASE_TIME_MIN, LEASED_BYTES_PER_NODE_MAX,
    LEASES_PER_NODE_MAX, NODES_PER_STAKE_SHARE, REPLICATION_WAIT_MAX, STAKE_SHARES_MAX,
};
use crate::rng::mix;
use crate::time::Time;

/// The member with the fewest bytes leased goes first, then the one with the fewest ever granted; ties at random.
type Turn = (u64, u64, u64, usize);

/// Bounds of one lease.
#[derive(Clone, Copy, Debug)]
struct Room {
    bytes: u64,
    blocks: u32,
    /// The first block may be larger than `bytes`.
    first_free: bool,
    /// Whether blocks are left to the node that lacks the fewest bytes of them.
    strict: bool,
}

/// The blocks of one lease, with the bytes that the holder lacks of each.
#[derive(Debug, Default)]
struct Choice {
    blocks: Vec<(BlockIndex, u32)>,
    bytes: u64,
    cost: u64,
    for_stuck: bool,
    /// Blocks were left out because the budget does not pay for them.
    unaffordable: bool,
}

impl Site {
    /// Grants all that can be granted.
    pub(super) fn grant_all(&mut self, now: Time, next_lease: &mut u64) {
        if self.missing.is_empty() && self.stuck.is_empty() {
            self.take_from_late(now);
            self.ready.clear();
            self.said_budget_empty = false;
            self.said_no_reader = false;
            return;
        }
        if now < self.origin.retry_at || !self.awaited.is_empty() {
            return;
        }
        let mut unaffordable = false;
        let mut turns = self.turns();
        while let Some(Reverse((.., slot))) = turns.pop() {
            if self.least_stale {
                self.note_least_of_all(now);
            }
            let choice = self.room(slot, now).map(|room| self.choose(slot, room));
            unaffordable |= choice.as_ref().is_some_and(|choice| choice.unaffordable);
            match choice.filter(|choice| !choice.blocks.is_empty()) {
                Some(choice) => {
                    self.grant(slot, choice, now, next_lease);
                    turns.push(Reverse(self.turn(slot)));
                }
                None => {
                    self.ready.remove(&slot);
                    // A slow reader that has to rest makes all others ready.
                    if turns.len() != self.ready.len() {
                        turns = self.turns();
                    }
                }
            }
        }
        if unaffordable && self.active == 0 && self.end_rests_of_slow(now) {
            return self.grant_all(now, next_lease);
        }
        self.say_what_waits(unaffordable);
    }

    /// Nobody reads, and what is left costs others more than the budget has: who rests for being slow and has a part of it is
    /// not waited for any longer. Says whether there was one.
    fn end_rests_of_slow(&mut self, now: Time) -> bool {
        let slow = |member: &Member| member.reads() && member.failures == 0 && member.rests_until > now;
        let slow: Vec<_> = (0..self.members.len()).filter(|slot| slow(&self.members[*slot])).collect();
        for slot in &slow {
            self.members[*slot].rests_until = now;
            self.least_stale = true;
        }
        self.ready.extend(&slow);
        !slow.is_empty()
    }

    /// Whose turn it is of the members that may take a lease, the first on top. What a member is granted changes no turn but
    /// its own.
    fn turns(&self) -> BinaryHeap<Reverse<Turn>> {
        self.ready.iter().map(|slot| Reverse(self.turn(*slot))).collect()
    }

    fn turn(&self, slot: usize) -> Turn {
        let member = &self.members[slot];
        (member.leased_bytes, member.granted_bytes, mix(self.seed ^ slot as u64), slot)
    }

    /// How much the member may be granted now, if anything.
    fn room(&mut self, slot: usize, now: Time) -> Option<Room> {
        let member = &self.members[slot];
        let node = member.id;
        if !member.reads() || member.progress.late {
            return None;
        }
        if now < member.rests_until {
            self.timers.insert((member.rests_until, Why::CooledDown(node)));
            return None;
        }
        if self.origin.ignores_ranges {
            let all = Room { bytes: u64::MAX, blocks: u32::MAX, first_free: true, strict: false };
            return (self.active == 0).then_some(all);
        }
        let revoking = member.queue.iter().any(|lease| self.leases[lease].state != State::Held);
        // With it if it reads already: of more readers than there are to be, some end.
        let readers = self.reading() + u32::from(member.queue.is_empty());
        if revoking || member.queue.len() >= LEASES_PER_NODE_MAX || readers > self.readers.limit() {
            return None;
        }
        if self.is_slow(slot) && self.somebody_else_reads(slot, now) {
            self.members[slot].speed = super::member::Speed::default();
            self.rest_slow_reader(slot, now);
            self.ready_all();
            return None;
        }
        let ahead = self.members[slot].speed.rate().unwrap_or(0).saturating_mul(2);
        let least = self.least_lease_bytes();
        let ahead = ahead.clamp(2 * least, LEASED_BYTES_PER_NODE_MAX.max(2 * least));
        let leased = self.members[slot].leased_bytes;
        let stake = self.stake_room(slot, now)?;
        let readers = self.readers.limit().min(u32::try_from(self.candidates()).unwrap_or(u32::MAX));
        Some(Room {
            bytes: (ahead / 2).clamp(least, LEASE_BYTES_MAX.max(least)).min(ahead.saturating_sub(leased)).min(stake),
            // Half of a fair share, so that the last leases are small and end together.
            blocks: (self.missing.len() / (2 * readers).max(1)).max(1),
            first_free: self.members[slot].at_stake_bytes == 0,
            strict: true,
        })
    }

    /// The smallest lease has room for any block: else none could be granted to who has something at stake, and one that is
    /// alone always has. The blocks of a large package may be larger than [`LEASE_BYTES_MIN`].
    fn least_lease_bytes(&self) -> u64 {
        LEASE_BYTES_MIN.max(u64::from(self.largest_block_bytes))
    }

    fn candidates(&self) -> usize {
        self.members.iter().filter(|member| member.reads()).count()
    }

    /// Bytes that the member may have at stake beyond what it has: the budget could pay for them if it were lost, and at a
    /// large site for several such losses.
    /// None if it has to wait until others have what it read.
    fn stake_room(&mut self, slot: usize, now: Time) -> Option<u64> {
        if self.is_alone(slot) {
            return Some(u64::MAX);
        }
        let bound = self.stake_bound();
        let member = &self.members[slot];
        let room = bound.saturating_sub(member.at_stake_bytes);
        if member.at_stake_bytes == 0 {
            // Half of it, so that a second lease waits behind the first.
            return Some(bound / 2);
        }
        // A second block waits behind the one that is read, so that there is no pause between the two: the reader is lost with
        // the one and with what it has asked for of the other.
        let block = u64::from(self.largest_block_bytes);
        let lost = block + self.credit_step_bytes.min(block);
        if (1..=block).contains(&member.at_stake_bytes)
            && (1 + 2 * self.losses_to_come()) * lost <= self.budget.left_bytes()
        {
            return Some(block);
        }
        let fits = room.min((bound / 2).max(1));
        if fits >= u64::from(self.largest_block_bytes) {
            return Some(fits);
        }
        // What fits may be less than any block that is missing; then one is put at stake beyond what the budget could pay for.
        let patience = member.stake_changed + REPLICATION_WAIT_MAX;
        if patience <= now {
            return Some(if fits > 0 { u64::from(self.largest_block_bytes) } else { self.least_lease_bytes() });
        }
        self.timers.insert((patience, Why::CooledDown(member.id)));
        (fits > 0).then_some(fits)
    }

    /// What one member may have at stake: what the budget has left for it when those that are away are lost.
    fn stake_bound(&self) -> u64 {
        let away = self.members.iter().filter(|member| member.away_until.is_some());
        let away: u64 = away.map(|member| member.at_stake_bytes).sum();
        let shares = (self.candidates() as u64 / NODES_PER_STAKE_SHARE).clamp(1, STAKE_SHARES_MAX);
        self.budget.left_bytes().saturating_sub(away) / shares
    }

    /// How many of those that read are going to be lost, if nodes go on to be lost as they were while the site got what it has.
    fn losses_to_come(&self) -> u64 {
        let to_come =
            u128::from(self.lost) * u128::from(self.total_bytes - self.in_site_bytes) * u128::from(self.active);
        let seen = u128::from(self.in_site_bytes.max(1)) * self.candidates().max(1) as u128;
        u64::try_from(to_come.div_ceil(seen)).unwrap_or(u64::MAX)
    }

    /// Whether the member reads at less than a third of the others' median. Under a limit, a
    /// reader is first as slow as its share, which begins small: then it has to be far below what it may.
    fn is_slow(&self, slot: usize) -> bool {
        let Some(rate) = self.members[slot].speed.rate() else { return false };
        if self.allowed.is_some_and(|allowed| rate >= allowed / 10) {
            return false;
        }
        self.median_rate().is_some_and(|median| rate < median / 3)
    }

    /// Whether another member neither rests nor failed: slow reading is better than none.
    fn somebody_else_reads(&self, slot: usize, now: Time) -> bool {
        let reads = |member: &Member| member.trusted() && member.rests_until <= now && !member.progress.late;
        self.members.iter().enumerate().any(|(other, member)| other != slot && reads(member))
    }

    /// The first missing blocks that the member may have, within `room`.
    fn choose(&self, slot: usize, room: Room) -> Choice {
        let mut choice = Choice::default();
        let left = self.budget.left_bytes();
        let member = &self.members[slot];
        let mut runs = 0;
        for block in self.missing.iter() {
            let bytes = member.lacking(block, self.block_bytes[block.index()]);
            if bytes == 0 || room.strict && bytes > self.least[block.index()] {
                continue;
            }
            let cost = self.budget.cost(block, bytes);
            if choice.cost + cost > left {
                choice.unaffordable = true;
                continue;
            }
            let adjacent = choice.blocks.last().is_some_and(|(last, _)| last.0 + 1 == block.0);
            runs += usize::from(!adjacent);
            let fits = choice.bytes.saturating_add(u64::from(bytes)) <= room.bytes;
            let first = choice.blocks.is_empty() && room.first_free;
            if !fits && !first || choice.blocks.len() as u64 >= u64::from(room.blocks) || runs > LEASE_RUNS_MAX {
                break;
            }
            choice.add(block, bytes, cost);
        }
        if choice.blocks.is_empty() { self.choose_stuck(slot, choice) } else { choice }
    }

    /// Blocks that the site has and the member cannot get, as far as the budget pays for them.
    fn choose_stuck(&self, slot: usize, mut choice: Choice) -> Choice {
        for (block, _) in self.stuck.iter().filter(|(_, stuck)| **stuck == slot) {
            let bytes = self.members[slot].lacking(*block, self.block_bytes[block.index()]);
            let cost = self.budget.cost_again(*block, bytes);
            if bytes == 0 || self.blocks[block.index()].lease.is_some() {
                continue;
            }
            if choice.cost + cost > self.budget.left_bytes() {
                choice.unaffordable = true;
                continue;
            }
            choice.add(*block, bytes, cost);
            choice.for_stuck = true;
        }
        choice
    }

    fn grant(&mut self, slot: usize, choice: Choice, now: Time, next_lease: &mut u64) {
        // A node may claim to hold any number.
        while self.leases.contains_key(&LeaseId(*next_lease)) {
            *next_lease += 1;
        }
        let id = LeaseId(*next_lease);
        *next_lease += 1;
        self.said_budget_empty &= choice.cost == 0;
        for (block, bytes) in &choice.blocks {
            if choice.for_stuck {
                self.budget.charge_again(*block, *bytes);
            } else {
                self.budget.charge(*block, *bytes);
            }
            self.missing.remove(*block);
            self.blocks[block.index()].lease = Some(id);
            if choice.for_stuck {
                self.stuck.remove(block);
                self.stuck_granted.insert(*block, now);
            } else {
                self.put_at_stake(slot, *block, *bytes);
            }
        }
        if self.members[slot].queue.is_empty() {
            self.progressed(slot, now);
            self.members[slot].speed.begin(now);
            self.active += 1;
            if self.active == 1 {
                self.readers.begin(now);
            }
        }
        let member = &mut self.members[slot];
        member.queue.push(id);
        member.leased_bytes += choice.bytes;
        member.granted_bytes += choice.bytes;
        member.stake_changed = now;
        let patience = self.patience(slot);
        let deadline = now + patience;
        self.timers.insert((deadline, Why::LeaseDeadline(id)));
        let blocks = BlockRange::runs(choice.blocks.iter().map(|(block, _)| *block));
        let at_once = self.members[slot].queue.len() == 1;
        let terms = self.terms(slot, at_once);
        let member = &self.members[slot];
        self.outputs.push_back(Output::Grant { node: member.id, lease: id, blocks, terms, deadline });
        let lease = Lease {
            node: slot,
            blocks: choice.blocks,
            landed: Default::default(),
            state: State::Held,
            deadline,
            patience,
            asked_at: None,
            progress: false,
            for_stuck: choice.for_stuck,
            credit_bytes: terms.first_bytes,
            taken_back: Vec::new(),
        };
        self.leases.insert(id, lease);
    }

    /// How much of a lease a member may read before it asks for more: all, if nobody else could read what it loses. How far
    /// ahead it asks is lost with it, so that it is a part of what the budget could pay for if nodes go on to be lost.
    fn terms(&self, slot: usize, at_once: bool) -> Terms {
        if self.origin.ignores_ranges || self.is_alone(slot) {
            return Terms::new(u64::MAX, u64::MAX, at_once);
        }
        let affordable = self.stake_bound() / (2 * (1 + 2 * self.losses_to_come()));
        Terms::new(Terms::first_step(self.largest_block_bytes), affordable, at_once)
    }

    fn is_alone(&self, slot: usize) -> bool {
        self.members.iter().enumerate().all(|(other, member)| other == slot || !member.up)
    }

    /// Takes into account what one member lacks, which may be less than all others do.
    pub(super) fn note_least(&mut self, slot: usize, now: Time) {
        let member = &self.members[slot];
        if !member.leads(now) {
            self.least_stale = true;
            return;
        }
        for block in member.has.iter_missing() {
            let lacking = member.lacking(block, self.block_bytes[block.index()]);
            let least = &mut self.least[block.index()];
            *least = (*least).min(lacking);
            if self.blocks[block.index()].holders == 0 {
                self.budget.expect(block, *least);
            }
        }
    }

    fn note_least_of_all(&mut self, now: Time) {
        self.least_stale = false;
        self.least.copy_from_slice(&self.block_bytes);
        let nobody = !self.members.iter().any(|member| member.leads(now));
        for member in self.members.iter().filter(|member| member.leads(now) || nobody && member.reads()) {
            for (block, bytes) in &member.partial {
                let least = &mut self.least[block.index()];
                *least = (*least).min(*bytes);
            }
        }
        for (index, block) in self.blocks.iter().enumerate() {
            let expected = if block.holders == 0 { self.least[index] } else { 0 };
            self.budget.expect(BlockIndex(index as u32), expected);
        }
    }

    /// What the budget would have to pay for all that is missing or that a node cannot get.
    pub(super) fn wanted_beyond(&self) -> u64 {
        let cost = |block: BlockIndex| self.budget.cost(block, self.least[block.index()]);
        let stuck = self.stuck.iter().map(|(block, slot)| {
            let lacking = self.members[*slot].lacking(*block, self.block_bytes[block.index()]);
            self.budget.cost_again(*block, lacking)
        });
        self.missing.iter().map(cost).chain(stuck).sum()
    }

    fn say_what_waits(&mut self, unaffordable: bool) {
        if unaffordable && !self.said_budget_empty {
            let (wanted_bytes, left_bytes) = (self.wanted_beyond(), self.budget.left_bytes());
            self.outputs.push_back(Output::Notice(Notice::BudgetEmpty { wanted_bytes, left_bytes }));
        }
        self.said_budget_empty |= unaffordable;
        let wanted = self.members.iter().any(|member| member.interested && !member.has.is_full());
        let no_reader = wanted && !self.missing.is_empty() && self.active == 0 && self.candidates() == 0;
        if no_reader && !self.said_no_reader {
            let missing_blocks = self.missing.len();
            self.outputs.push_back(Output::Notice(Notice::NoReader { missing_blocks }));
        }
        self.said_no_reader = no_reader;
    }

    /// How long a member is waited for that reads all that it was granted, as fast as it was measured, or another was.
    pub(super) fn patience(&self, slot: usize) -> Duration {
        let member = &self.members[slot];
        patience(member.leased_bytes, member.speed.rate().or(self.usual_rate), self.allowed)
    }
}

impl Choice {
    fn add(&mut self, block: BlockIndex, bytes: u32, cost: u64) {
        self.blocks.push((block, bytes));
        self.bytes += u64::from(bytes);
        self.cost += cost;
    }
}

/// Three times what reading `bytes` should take.
fn patience(bytes: u64, rate: Option<u64>, allowed: Option<u64>) -> Duration {
    let rate = rate.unwrap_or(LEASE_RATE_GUESS).min(allowed.unwrap_or(u64::MAX)).max(1);
    Duration::from_millis(bytes.saturating_mul(3_000) / rate).max(LEASE_TIME_MIN)
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Input, Lacking};
    use super::*;
    use crate::id::{Epoch, NodeId};
    use crate::limits::SLOW_READER_REST;

    #[test]
    fn patience_is_three_times_the_expected_time() {
        assert_eq!(patience(100_000_000, Some(10_000_000), None), Duration::from_secs(30));
        assert_eq!(patience(1, Some(10_000_000), None), LEASE_TIME_MIN);
        assert_eq!(patience(u64::MAX, Some(0), None).as_secs(), u64::MAX / 1000, "saturates");
        assert_eq!(patience(10_000_000, Some(10_000_000), Some(100_000)).as_secs(), 300, "what is allowed bounds it");
    }

    /// What B is granted of a content of which A has a part of block 0, and rests for `rest`.
    fn granted_beside_one_that_rests(rest: Duration) -> Vec<BlockRange> {
        const MIB: u32 = 1 << 20;
        let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
        let config = Config { epoch: Epoch(1), swarm: true, seed: 7, resumed: false };
        let mut site = Site::new(&[MIB; 4], &config, None);
        let mut next_lease = 1 << 32;
        let mut tell = |site: &mut Site, input| site.handle(input, Time::ZERO, &mut next_lease);
        let wants = |node, first: u32| {
            let bytes = |block| if block == 0 { first } else { MIB };
            let lacking = (0..4).map(|block| Lacking { block: BlockIndex(block), bytes: bytes(block) }).collect();
            Input::Wants { node, lacking, held: Vec::new() }
        };
        tell(&mut site, Input::Await { nodes: vec![b], until: Time::from_millis(500) });
        tell(&mut site, wants(a, MIB / 4));
        site.members[0].rests_until = Time::ZERO + rest;
        site.least_stale = true;
        tell(&mut site, wants(b, MIB));
        let grants = site.outputs.into_iter().map(|output| match output {
            Output::Grant { node, blocks, .. } if node == b => blocks,
            other => panic!("{other:?}"),
        });
        grants.flatten().collect()
    }

    #[test]
    fn a_block_is_left_to_the_node_that_has_a_part_of_it_unless_that_rests_for_long() {
        let first = |rest| granted_beside_one_that_rests(Duration::from_secs(rest)).first().map(|range| range.start);
        assert_eq!(first(1), Some(BlockIndex(1)), "A reads the rest of block 0 soon");
        assert_eq!(first(SLOW_READER_REST.as_secs()), Some(BlockIndex(0)));
    }
}
