//! How fast this node may read over its site's WAN: what its coordinator says, and what holds while that is out of reach.
//!
//! Nobody divides the site's limit anew then, so that a node goes by what it was told for that case. The rules:
//!
//! - For [`HOLDER_GRACE`](crate::limits::HOLDER_GRACE) nothing changes: the coordinator keeps leases for so long, and the
//!   shares of those that hold them.
//! - If the coordinator reaches somebody in sight, this node's leases are lost by then, and its share is another's: it waits.
//! - If it reaches nobody, those that hold leases slow down to what they have beside deputies; from when deputies may read,
//!   each reads at that rate, or at a deputy's part of the limit once nobody else is known to read.
//!
//! Not guaranteed: that one that lost sight of its whole site, but not of the origin, is counted; and in sites of more than
//! 24 nodes, that a deputy hears of all that hold leases.

use super::deputy::Deputy;
use super::reach::Reach;
use crate::time::Time;
use crate::wire::WanRates;

/// A node's rate over the WAN.
#[derive(Debug, Default)]
pub(super) struct WanRate {
    told: WanRates,
    /// Deputies may read since the coordinator went, as this node sees it.
    free: bool,
    /// What the shell was told to keep to.
    said: Option<u64>,
}

impl WanRate {
    /// The coordinator says what holds.
    pub(super) fn set(&mut self, rates: WanRates) {
        self.told = rates;
    }

    /// What the shell is to keep to, if that changes.
    pub(super) fn change(&mut self, deputy: &Deputy, now: Time) -> Option<Option<u64>> {
        let reach = &deputy.reach;
        self.free = reach.is_cut() && (self.free || reach.free_at().is_some_and(|at| at <= now));
        let rate = self.at(reach, || deputy.others_read(), now);
        (std::mem::replace(&mut self.said, rate) != rate).then_some(rate)
    }

    fn at(&self, reach: &Reach, others_read: impl Fn() -> bool, now: Time) -> Option<u64> {
        let WanRates { rate, away, alone } = self.told;
        let kept = reach.kept_until().is_none_or(|until| now < until);
        if away.is_none() || kept && !self.free {
            return rate;
        }
        match self.free {
            _ if !reach.is_lost() => Some(0),
            false => away.map(|away| rate.map_or(away, |rate| rate.min(away))),
            true if others_read() => away,
            true => alone,
        }
    }

    /// When its rate may change unless something happens before.
    pub(super) fn next_wake(&self, reach: &Reach, now: Time) -> Option<Time> {
        let limited = self.told.away.is_some() && !self.free;
        let times = [reach.kept_until(), reach.free_at()].into_iter().flatten();
        times.filter(|at| limited && *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;
    use crate::limits::{COORDINATOR_GRACE, REACH_HOPS_MAX, RETURN_MAX};

    const NEAR: NodeId = NodeId([1; 32]);

    const TOLD: WanRates = WanRates { rate: Some(60), away: Some(10), alone: Some(30) };

    fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1000)
    }

    /// A node with a neighbour, whose coordinator went 100 s ago.
    fn cut(near_hops: u8) -> Reach {
        let mut reach = Reach::new(COORDINATOR_GRACE);
        reach.coordinator_up();
        reach.roster([NEAR].into_iter(), at(1));
        reach.neighbour_up(NEAR, at(1));
        reach.coordinator_down(at(100));
        reach.neighbour_says(NEAR, near_hops, at(101));
        reach
    }

    #[test]
    fn a_limit_is_kept_without_the_coordinator() {
        let (lost, reached) = (cut(REACH_HOPS_MAX), cut(0));
        let (holds, alone) = (|| true, || false);
        let rate = |told, free| WanRate { told, free, said: None };
        type Case<'a> = (&'a Reach, u64, bool, &'a dyn Fn() -> bool, Option<u64>, &'a str);
        let cases: [Case; 6] = [
            (&lost, 105, false, &holds, Some(60), "leases are kept, and shares with them"),
            (&lost, 115, false, &holds, Some(10), "a holder makes room for deputies"),
            (&lost, 140, true, &holds, Some(10), "a deputy beside holders"),
            (&lost, 140, true, &alone, Some(30), "deputies alone"),
            (&reached, 105, false, &holds, Some(60), "the coordinator keeps its share for a while"),
            (&reached, 115, false, &holds, Some(0), "its share is another's"),
        ];
        for (reach, now, free, others_read, expected, why) in cases {
            assert_eq!(rate(TOLD, free).at(reach, others_read, at(now)), expected, "{why}");
        }
        let waits = WanRate { told: WanRates { rate: Some(0), ..TOLD }, free: false, said: None };
        assert_eq!(waits.at(&lost, holds, at(115)), Some(0), "one without a lease has none to read");
        let unlimited = rate(WanRates::default(), true);
        assert_eq!(unlimited.at(&reached, holds, at(500)), None);
    }

    #[test]
    fn it_is_woken_when_its_rate_changes() {
        let reach = cut(REACH_HOPS_MAX);
        let rate = WanRate { told: TOLD, free: false, said: None };
        let kept = reach.kept_until().unwrap();
        assert!(kept < at(100) + RETURN_MAX);
        assert_eq!(rate.next_wake(&reach, at(101)), Some(kept));
        assert_eq!(rate.next_wake(&reach, kept), reach.free_at());
        assert_eq!(WanRate::default().next_wake(&reach, at(101)), None, "nothing changes without a limit");
    }
}
