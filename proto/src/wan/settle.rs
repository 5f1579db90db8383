//! How leases end: answered, lost, found again; and what a failure says about a node and about the origin.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::lease::{Lease, State, refunds};
use super::member::backoff;
use super::site::Site;
use super::{HeldLease, Input, Notice, Outcome, Output, Why};
use crate::id::{BlockIndex, LeaseId, NodeId};
use crate::limits::{HOLDER_GRACE, LEASE_BYTES_MAX, LEASE_TIME_MIN, SEGMENT_BYTES_MAX};
use crate::time::Time;

/// Nodes that fail one after the other before it is the origin that fails.
const FAILING_NODES_MAX: usize = 8;

impl Site {
    /// The holder said how its lease ended.
    pub(super) fn lease_ended(&mut self, ended: Input, now: Time) {
        let Input::LeaseEnded { node, lease: id, read_bytes, landed, begun, outcome, whole_rest } = ended else {
            return;
        };
        let Some(slot) = self.slots.get(&node).copied() else { return };
        landed.iter().for_each(|block| self.landed_now(slot, *block, now));
        let Some(lease) = self.leases.get(&id).filter(|lease| lease.node == slot) else {
            return self.note_fact(id, read_bytes, &landed, &begun);
        };
        let blocks = lease.blocks.clone();
        let begun: Vec<_> = begun.into_iter().filter(|lacking| lease.charge(lacking.block) > 0).collect();
        let begun = begun.into_iter().filter(|lacking| self.note_part(slot, *lacking));
        let begun_blocks: BTreeSet<_> = begun.map(|lacking| lacking.block).collect();
        let member = &self.members[slot];
        let complete = blocks.iter().all(|(block, _)| member.has.contains(*block));
        let rank = |block| if member.has.contains(block) { 0 } else { 1 + u8::from(!begun_blocks.contains(&block)) };
        let (refunds, beyond) = refunds(&blocks, read_bytes, rank);
        self.read_bytes = self.read_bytes.saturating_add(read_bytes);
        self.gap_bytes = self.gap_bytes.saturating_add(beyond);
        self.remove_lease(id, &refunds, now);
        self.note_least(slot, now);
        self.judge(slot, outcome, complete, whole_rest, now);
    }

    fn judge(&mut self, slot: usize, outcome: Outcome, complete: bool, whole_rest: bool, now: Time) {
        if whole_rest && !self.origin.ignores_ranges {
            self.origin.ignores_ranges = true;
            let held: Vec<_> = self.leases.keys().copied().collect();
            held.into_iter().for_each(|lease| self.revoke(lease, now));
            return;
        }
        match outcome {
            Outcome::Failed { retryable } => self.note_failure(slot, retryable, now),
            Outcome::Done if !complete => self.note_failure(slot, true, now),
            Outcome::Done | Outcome::Revoked => {}
        }
    }

    /// Forgets a lease: its blocks are free, and `refunds` of its charges are taken back.
    fn remove_lease(&mut self, id: LeaseId, refunds: &[(BlockIndex, u32)], now: Time) {
        self.free_blocks(id);
        let taken_back = self.leases.remove(&id).map(|lease| lease.taken_back).unwrap_or_default();
        self.settled(id);
        self.take_back(taken_back, refunds);
        let freed: Vec<_> = refunds.iter().map(|(block, _)| *block).collect();
        freed.into_iter().for_each(|block| self.note_missing(block));
        self.ready_all();
        if self.active == 0 {
            self.readers.begin(now);
        }
    }

    /// Takes a lease out of its holder's queue and its blocks out of its hands.
    fn free_blocks(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        self.timers.remove(&(lease.deadline, Why::LeaseDeadline(id)));
        let slot = lease.node;
        let member = &mut self.members[slot];
        let queued = member.queue.len();
        member.queue.retain(|queued| *queued != id);
        if queued > 0 && member.queue.is_empty() {
            self.active -= 1;
        }
        let stopped = queued > 0 && member.queue.is_empty();
        for (block, charge) in &lease.blocks {
            let entry = &mut self.blocks[block.index()];
            if entry.lease == Some(id) {
                entry.lease = None;
                member.leased_bytes -= u64::from(*charge);
                if let Some((_, bytes)) = entry.at_stake.take_if(|(reader, _)| *reader == slot) {
                    member.at_stake_bytes -= u64::from(bytes);
                }
            }
        }
        if stopped {
            self.stopped_reading(slot);
        }
    }

    /// The holder is gone without a word: its blocks are free. What it may have read stays charged: what it had credit for,
    /// and if it may be reading on without a connection, all of a lease that it had credit for.
    pub(super) fn lose_lease(&mut self, id: LeaseId, reads_on: bool) {
        self.free_blocks(id);
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.state = State::Lost;
        let blocks: Vec<_> = lease.blocks.iter().map(|(block, _)| *block).collect();
        if !reads_on || lease.credit_bytes == 0 {
            lease.taken_back = lease.unread();
            let unread = lease.taken_back.clone();
            self.take_back(Vec::new(), &unread);
        }
        blocks.into_iter().for_each(|block| self.note_missing(block));
        self.ready_all();
    }

    /// A member said what it has and which leases it still reads.
    pub(super) fn reconcile_leases(&mut self, slot: usize, held: &[HeldLease], now: Time) {
        let known: Vec<_> = self.leases.iter().filter(|(_, lease)| lease.node == slot).map(|(id, _)| *id).collect();
        // The first is the one that it was reading.
        for (place, id) in known.into_iter().enumerate().filter(|(_, id)| held.iter().all(|held| held.lease != *id)) {
            let in_doubt = if place == 0 { SEGMENT_BYTES_MAX as u32 } else { 0 };
            self.settle_by_what_it_has(id, in_doubt, now);
        }
        for held in held {
            match self.leases.get(&held.lease).map(|lease| (lease.node == slot, lease.state)) {
                None => self.adopt(slot, held, now),
                Some((true, State::Lost)) => self.find_again(held.lease, now),
                Some((true, State::Held)) => self.reads_freely(held.lease),
                // Told before, and lost on the way; or another node's number, which this one cannot hold.
                Some((true, State::Revoking) | (false, _)) => self.say_revoke(slot, held.lease),
            }
        }
    }

    /// Takes back charges: `refunds`, of which `before` was taken back already.
    fn take_back(&mut self, before: Vec<(BlockIndex, u32)>, refunds: &[(BlockIndex, u32)]) {
        let before: BTreeMap<_, _> = before.into_iter().collect();
        for (block, bytes) in refunds {
            let before = before.get(block).copied().unwrap_or(0);
            self.budget.refund(*block, bytes.saturating_sub(before));
            if before > *bytes {
                self.budget.charge_fact(*block, before - bytes);
            }
        }
    }

    /// A holder reads on: it may, and if it is lost, so much was read. One that does not hold the lease any more is told so.
    pub(super) fn credit_wanted(&mut self, node: NodeId, id: LeaseId, bytes: u64, now: Time) {
        let Some(slot) = self.slots.get(&node).copied() else { return };
        match self.leases.get_mut(&id).filter(|lease| lease.node == slot && lease.state == State::Held) {
            Some(lease) => {
                let step = bytes.saturating_sub(lease.credit_bytes).min(LEASE_BYTES_MAX);
                if lease.credit_bytes > 0 {
                    self.credit_step_bytes = self.credit_step_bytes.max(step);
                }
                lease.asked_for(bytes, now);
                self.outputs.push_back(Output::Credit { node, lease: id, bytes });
            }
            None => self.say_revoke(slot, id),
        }
    }

    /// The holder had no connection, and asked nobody how far it may read.
    fn reads_freely(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.credit_bytes = u64::MAX;
        for (block, bytes) in std::mem::take(&mut lease.taken_back) {
            self.budget.charge_fact(block, bytes);
        }
    }

    fn say_revoke(&mut self, slot: usize, lease: LeaseId) {
        self.outputs.push_back(Output::Revoke { node: self.members[slot].id, lease });
    }

    /// Ends a lease whose holder does not know it: it never came, or the holder started anew. What the holder lacks is
    /// refunded, but for what is in doubt: the segment that it was reading may have been lost before it was verified.
    fn settle_by_what_it_has(&mut self, id: LeaseId, in_doubt: u32, now: Time) {
        let lease = &self.leases[&id];
        let member = &self.members[lease.node];
        let mut doubt = in_doubt;
        let mut refunds = lease.blocks.clone();
        for (block, bytes) in &mut refunds {
            let charge = *bytes;
            // A disk may lose what landed; that was read all the same.
            let read = lease.landed.contains(block);
            let lacking = if read { 0 } else { member.lacking(*block, self.block_bytes[block.index()]).min(charge) };
            *bytes = lacking.saturating_sub(doubt);
            doubt = doubt.saturating_sub(lacking);
            self.read_bytes = self.read_bytes.saturating_add(u64::from(charge - *bytes));
        }
        self.remove_lease(id, &refunds, now);
    }

    /// A lease of an earlier run of the coordinator, or one that was forgotten.
    fn adopt(&mut self, slot: usize, held: &HeldLease, now: Time) {
        let member = &self.members[slot];
        let count = self.missing.count();
        let claimed = held.blocks.iter().flat_map(|range| (range.start.0..range.end.0.min(count)).map(BlockIndex));
        // A set: ranges of a message may overlap.
        let claimed: BTreeSet<_> = claimed.take(count as usize).filter(|block| !member.has.contains(*block)).collect();
        if claimed.is_empty() {
            return;
        }
        let blocks: Vec<_> =
            claimed.into_iter().map(|block| (block, member.lacking(block, self.block_bytes[block.index()]))).collect();
        blocks.iter().for_each(|(block, bytes)| self.budget.charge_fact(*block, *bytes));
        let lease = Lease {
            node: slot,
            blocks,
            landed: Default::default(),
            state: State::Lost,
            deadline: now,
            patience: LEASE_TIME_MIN,
            asked_at: None,
            progress: false,
            for_stuck: false,
            credit_bytes: u64::MAX,
            taken_back: Vec::new(),
        };
        self.leases.insert(held.lease, lease);
        self.find_again(held.lease, now);
    }

    /// The holder of a lost lease still reads it: it owns its blocks again, unless one of them is another's by now.
    fn find_again(&mut self, id: LeaseId, now: Time) {
        let lease = &self.leases[&id];
        let slot = lease.node;
        let has = &self.members[slot].has;
        let rest: Vec<_> = lease.blocks.iter().copied().filter(|(block, _)| !has.contains(*block)).collect();
        if rest.is_empty() || rest.iter().any(|(block, _)| !self.missing.contains(*block)) {
            self.say_revoke(slot, id);
            return;
        }
        self.reads_freely(id);
        for (block, charge) in rest {
            self.blocks[block.index()].lease = Some(id);
            self.missing.remove(block);
            self.members[slot].leased_bytes += u64::from(charge);
            self.put_at_stake(slot, block, charge);
        }
        let member = &mut self.members[slot];
        member.stake_changed = now;
        let begins = member.queue.is_empty();
        self.active += u32::from(begins);
        member.queue.push(id);
        member.speed.begin(now);
        if begins {
            self.progressed(slot, now);
        }
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.state = State::Held;
        lease.deadline = now + lease.patience;
        self.timers.insert((lease.deadline, Why::LeaseDeadline(id)));
    }

    /// Nodes may read this fast: leases that were granted when more was allowed get the time that they need.
    pub(super) fn allow(&mut self, rate: Option<u64>, now: Time) {
        if self.allowed == rate {
            return;
        }
        self.allowed = rate;
        let held = self.leases.iter().filter(|(_, lease)| lease.state == State::Held);
        let held: Vec<_> = held.map(|(id, lease)| (*id, lease.node)).collect();
        for (id, slot) in held {
            let patience = self.patience(slot);
            let Some(lease) = self.leases.get_mut(&id) else { continue };
            lease.patience = lease.patience.max(patience);
            if now + patience > lease.deadline {
                self.timers.remove(&(lease.deadline, Why::LeaseDeadline(id)));
                lease.deadline = now + patience;
                self.timers.insert((lease.deadline, Why::LeaseDeadline(id)));
            }
        }
    }

    /// A lease should have ended, or its revocation been answered. One that is read, however slowly, goes on: what was read of
    /// a block would be paid for again. Who is slower than others is [late](super::late), and who stands still is not waited
    /// for.
    pub(super) fn deadline(&mut self, id: LeaseId, now: Time) {
        let Some(lease) = self.leases.get(&id).filter(|lease| lease.deadline <= now) else { return };
        let slot = lease.node;
        match lease.state {
            State::Lost => {}
            State::Revoking => {
                self.note_failure(slot, true, now);
                self.lose_lease(id, true);
            }
            State::Held if !self.members[slot].up => self.extend(id, now, HOLDER_GRACE),
            State::Held => {
                let first = self.members[slot].queue.first() == Some(&id);
                let patience = lease.patience;
                if lease.progress || !first {
                    self.extend(id, now, patience);
                } else {
                    self.note_failure(slot, true, now);
                    // Those queued behind it wait as long.
                    self.members[slot].queue.clone().into_iter().for_each(|lease| self.revoke(lease, now));
                }
            }
        }
    }

    fn extend(&mut self, id: LeaseId, now: Time, span: Duration) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.deadline = now + span;
            lease.progress = false;
            self.timers.insert((lease.deadline, Why::LeaseDeadline(id)));
        }
    }

    fn note_failure(&mut self, slot: usize, retryable: bool, now: Time) {
        let member = &mut self.members[slot];
        member.fail(retryable, now);
        let node = member.id;
        self.timers.insert((member.rests_until, Why::CooledDown(node)));
        self.least_stale = true;
        self.ready_all();
        let origin = &mut self.origin;
        origin.failures = origin.failures.saturating_add(1);
        origin.failed.insert(slot);
        let readers = self.members.iter().filter(|member| member.reads()).count();
        if origin.failed.len() < readers.clamp(1, FAILING_NODES_MAX) || origin.retry_at > now {
            return;
        }
        origin.rounds += 1;
        origin.retry_at = now + backoff(origin.rounds.saturating_add(1));
        let (failures, retry_at) = (origin.failures, origin.retry_at);
        self.timers.insert((retry_at, Why::OriginRetry));
        self.outputs.push_back(Output::Notice(Notice::OriginFailing { failures, retry_at }));
    }

    pub(super) fn origin_answered(&mut self) {
        if self.origin.rounds > 0 {
            self.outputs.push_back(Output::Notice(Notice::OriginBack));
            self.ready_all();
        }
        let ignores_ranges = self.origin.ignores_ranges;
        self.origin = super::site::Origin { ignores_ranges, ..Default::default() };
    }
}
