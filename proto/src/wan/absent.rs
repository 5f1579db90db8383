//! Members that come, go, and come no more.

use std::time::Duration;

use super::member::Member;
use super::site::Site;
use super::{Absence, Why};
use crate::id::NodeId;
use crate::limits::{CLOSED_HOLDER_GRACE, CLOSED_HOLDER_GRACE_AT_END, HOLDER_GRACE};
use crate::time::Time;

/// How often it is seen whether the site waits for nothing but a node that is away.
const ABSENT_LOOKED_AT_EVERY: Duration = Duration::from_millis(250);

impl Site {
    pub(super) fn node_up(&mut self, node: NodeId) {
        let Some(slot) = self.slots.get(&node).copied() else { return };
        let member = &mut self.members[slot];
        member.up |= member.away_until.take().is_some();
        // It is about to say what it wants and which leases it holds: what it were granted now would cross that on the way,
        // and be taken for a lease that it does not hold (WAN-ONCE).
        member.interested = false;
        self.least_stale = true;
        self.ready_all();
    }

    pub(super) fn node_down(&mut self, node: NodeId, absence: Absence, now: Time) {
        let Some(slot) = self.slots.get(&node).copied() else { return };
        let member = &mut self.members[slot];
        if member.up {
            member.up = false;
            self.lost = self.lost.saturating_add(u32::from(absence == Absence::Unheard));
            let grace = match absence {
                Absence::Closed => CLOSED_HOLDER_GRACE,
                Absence::Unheard => HOLDER_GRACE,
            };
            member.away_until = Some(now + grace);
            member.absence = absence;
            self.came.hurry(now);
            self.timers.insert((now + grace, Why::GraceOver(node)));
            self.timers.insert((now + grace.min(CLOSED_HOLDER_GRACE_AT_END), Why::GraceOver(node)));
            self.least_stale = true;
            self.ready_all();
        }
    }

    /// A member has been away for a while. At the end of the content, when nothing is left to grant, a reader whose process
    /// ended is waited for no longer if somebody else could read.
    pub(super) fn look_at_absent(&mut self, slot: usize, now: Time) {
        let member = &self.members[slot];
        let Some(until) = member.away_until else { return };
        if until <= now {
            return self.lose_member(slot, now);
        }
        let others_wait = member.absence == Absence::Closed && member.at_stake_bytes > 0;
        if !others_wait {
            return;
        }
        if self.missing.is_empty() && self.stuck.is_empty() && self.members.iter().any(Member::trusted) {
            return self.lose_member(slot, now);
        }
        self.timers.insert((now + ABSENT_LOOKED_AT_EVERY, Why::GraceOver(member.id)));
    }

    /// The time of grace is over: what the member has and holds counts no more.
    fn lose_member(&mut self, slot: usize, now: Time) {
        self.members[slot].away_until = None;
        let reads_on = self.members[slot].absence == Absence::Unheard;
        for lease in self.members[slot].queue.clone() {
            self.lose_lease(lease, reads_on);
        }
        let had: Vec<_> = self.members[slot].has.iter().collect();
        had.into_iter().for_each(|block| self.uncount_holder(block, now));
    }

    pub(super) fn release(&mut self, node: NodeId, now: Time) {
        let Some(slot) = self.slots.get(&node).copied() else { return };
        self.members[slot].interested = false;
        self.came.hurry(now);
        self.least_stale = true;
        for lease in self.members[slot].queue.clone() {
            self.revoke(lease, now);
        }
        self.ready_all();
    }
}
