//! Readers that take far longer for a block than the others do: nobody waits for them.
//!
//! A late reader goes on, since what it has read of a block would have to be paid for again. But somebody else reads beside
//! it, and once nothing is left to grant, what it has not read is taken from it and given to a faster node. If nobody lands
//! anything, it is the WAN or the origin that is slow, and nobody is late.
//!
//! Invariant: only members that read are late, and `late` counts them.

use std::time::Duration;

use super::Why;
use super::lease::State;
use super::member::Member;
use super::site::Site;
use crate::id::NodeId;
use crate::limits::{READER_LATE_MIN, SLOW_FACTOR, SLOW_READER_REST};
use crate::time::Time;

/// Blocks that others have to land meanwhile at least; one for each of them that reads.
const LANDED_BY_OTHERS_MIN: u64 = 2;

/// How far a member is with what it reads.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// When it last landed a block, or began to read.
    since: Time,
    /// How many blocks had been landed in the site then.
    landings: u64,
    pub(super) late: bool,
    /// When it is looked at.
    look_at: Option<Time>,
}

impl Site {
    /// The member begins to read, or landed a block.
    pub(super) fn progressed(&mut self, slot: usize, now: Time) {
        let progress = &mut self.members[slot].progress;
        (progress.since, progress.landings) = (now, self.landings);
        self.late -= u32::from(std::mem::take(&mut progress.late));
        if progress.look_at.is_none() {
            self.look_later(slot, now);
        }
    }

    /// The member reads no more.
    pub(super) fn stopped_reading(&mut self, slot: usize) {
        let member = &mut self.members[slot];
        self.late -= u32::from(std::mem::take(&mut member.progress.late));
        if let Some(at) = member.progress.look_at.take() {
            self.timers.remove(&(at, Why::ReaderLate(member.id)));
        }
    }

    fn look_later(&mut self, slot: usize, since: Time) {
        let at = since + self.late_after().unwrap_or(READER_LATE_MIN);
        let member = &mut self.members[slot];
        member.progress.look_at = Some(at);
        self.timers.insert((at, Why::ReaderLate(member.id)));
    }

    /// How long a reader may take for a block: three times as long as is usual, if that is known.
    fn late_after(&self) -> Option<Duration> {
        let median = self.median_rate()?;
        let expected = Duration::from_millis(u64::from(self.largest_block_bytes) * 1000 / median.max(1));
        Some((expected * SLOW_FACTOR).max(READER_LATE_MIN))
    }

    /// The bytes that a node reads in a second, once that was measured.
    pub(super) fn median_rate(&self) -> Option<u64> {
        let members = self.members.iter().filter(|member| member.trusted() && !member.progress.late);
        let mut rates: Vec<_> = members.filter_map(|member| member.speed.rate()).collect();
        let middle = rates.len() / 2;
        (!rates.is_empty()).then(|| *rates.select_nth_unstable(middle).1)
    }

    /// It is time to look at a reader.
    pub(super) fn look_at_reader(&mut self, node: NodeId, now: Time) {
        let Some(slot) = self.slots.get(&node).copied() else { return };
        let progress = &mut self.members[slot].progress;
        progress.look_at = None;
        let (since, landed) = (progress.since, self.landings - progress.landings);
        // Where more read than when the usual time was measured, all of them take longer.
        let others = u64::from(self.reading().saturating_sub(1));
        match self.late_after() {
            Some(after) if since + after > now => return self.look_later(slot, since),
            Some(_) if landed >= others.max(LANDED_BY_OTHERS_MIN) => {}
            _ => return self.look_later(slot, now),
        }
        self.members[slot].progress.late = true;
        self.late += 1;
        self.ready_all();
    }

    /// How many read, late ones left out, but for more of them than may read.
    pub(super) fn reading(&self) -> u32 {
        self.active - self.late.min(self.readers.limit())
    }

    /// Nothing is left to grant: what late readers have not read is taken from them, if somebody else could read it and
    /// the budget pays for the block that is under way.
    pub(super) fn take_from_late(&mut self, now: Time) {
        if self.late == 0 || self.origin.ignores_ranges {
            return;
        }
        let could_read = |member: &Member| member.trusted() && member.queue.is_empty() && member.rests_until <= now;
        if !self.members.iter().any(could_read) {
            return;
        }
        let holds = |member: &Member| member.queue.iter().any(|lease| self.leases[lease].state == State::Held);
        let late = self.members.iter().enumerate().filter(|(_, member)| member.progress.late && holds(member));
        let late: Vec<_> = late.map(|(slot, _)| slot).collect();
        // What comes of a block until a reader stops may have to be paid for again: also of those that were told already.
        let stopping = self.leases.values().filter(|lease| lease.state == State::Revoking).count() as u64;
        let block = u64::from(self.largest_block_bytes);
        let mut left = self.budget.left_bytes().saturating_sub(block.saturating_mul(stopping));
        for slot in late {
            if left < block {
                return;
            }
            left -= block;
            self.rest_slow_reader(slot, now);
            self.members[slot].queue.clone().into_iter().for_each(|lease| self.revoke(lease, now));
        }
    }

    /// The member gets no lease for a while, and what it has a part of is not left to it.
    pub(super) fn rest_slow_reader(&mut self, slot: usize, now: Time) {
        let member = &mut self.members[slot];
        member.rests_until = member.rests_until.max(now + SLOW_READER_REST);
        self.timers.insert((member.rests_until, Why::CooledDown(member.id)));
        self.least_stale = true;
    }
}
