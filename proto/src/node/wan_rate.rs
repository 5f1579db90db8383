//! How fast this node may read over its site's WAN: what its coordinator says, and what holds while that is out of reach.
//!
//! Nobody divides the site's limit anew then, so that a node goes by what it was told for that case. The rules:
//!
//! - For [`HOLDER_GRACE`](crate::limits::HOLDER_GRACE) nothing changes: the coordinator keeps leases for so long, and the
//!   shares of those that hold them.
//! - If the coordinator reaches somebody in sight, this node's leases are lost by then, and its share is another's: it waits.
//! - If it reaches nobody, those that hold leases slow down to what they have beside deputies; from when deputies may read,
//!   each reads at that rate, or at a deputy's part of the limit once nobody else is known to read.
//! - Rates that were told at different times may add up to more than the limit: by a coordinator that has not heard of all
//!   readers since it started, for instance. So nodes that are cut off tell their neighbours how fast they may read by what
//!   they were told, and where that is too much together, each reads less in proportion.
//!
//! Not guaranteed: that one that lost sight of its whole site, but not of the origin, is counted; and in sites of more than
//! 24 nodes, that a deputy hears of all that hold leases.

use std::collections::{BTreeMap, VecDeque};

use super::contents::Contents;
use super::deputy::Deputy;
use super::reach::Reach;
use super::{Input, Output};
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::{ToNeighbour, WanRates};

/// A node's rate over the WAN.
#[derive(Debug, Default)]
pub(super) struct WanRate {
    told: WanRates,
    /// What the whole site may read.
    limit: Option<u64>,
    /// Deputies may read since the coordinator went, as this node sees it.
    free: bool,
    /// What the shell was told to keep to.
    said: Option<u64>,
    /// How fast connected neighbours that are cut off too may read by what they were told.
    others: BTreeMap<NodeId, u64>,
    /// What they were told of this node.
    said_others: BTreeMap<NodeId, u64>,
}

impl WanRate {
    /// The coordinator says what holds.
    pub(super) fn set(&mut self, rates: WanRates) {
        self.told = rates;
    }

    /// The coordinator says of what limit that is a part.
    pub(super) fn set_limit(&mut self, limit: Option<u64>) {
        self.limit = limit;
    }

    /// Takes notice of what neighbours may read.
    pub(super) fn note(&mut self, input: &Input, reach: &Reach) {
        match input {
            Input::NeighbourUp(node) | Input::NeighbourDown(node) => {
                self.others.remove(node);
                self.said_others.remove(node);
            }
            Input::Neighbour { from, message: ToNeighbour::WanRate { rate } } if reach.is_connected(*from) => {
                self.others.insert(*from, *rate);
            }
            _ => {}
        }
    }

    /// What the shell is to keep to, if that changes.
    pub(super) fn change(&mut self, deputy: &Deputy, now: Time) -> Option<Option<u64>> {
        let reach = &deputy.reach;
        self.free = reach.is_cut() && (self.free || reach.free_at().is_some_and(|at| at <= now));
        let told = self.at(reach, || deputy.others_read(), now);
        let rate = told.map(|told| if reach.is_cut() { self.beside_others(told) } else { told });
        (std::mem::replace(&mut self.said, rate) != rate).then_some(rate)
    }

    /// Tells neighbours how fast this node may read by what it was told, where they do not know.
    pub(super) fn say(&mut self, deputy: &Deputy, contents: &Contents, now: Time, out: &mut VecDeque<Output>) {
        let reach = &deputy.reach;
        let reads = reach.is_cut() && contents.all_traded().any(|(_, trade)| !trade.leases.is_empty());
        let told = if reads { self.at(reach, || deputy.others_read(), now) } else { None };
        let rate = told.unwrap_or(0);
        for to in reach.connected() {
            if self.said_others.insert(to, rate).unwrap_or(0) != rate {
                out.push_back(Output::Neighbour { to, message: ToNeighbour::WanRate { rate } });
            }
        }
    }

    /// What is left of a rate of `told` beside what neighbours may read.
    fn beside_others(&self, told: u64) -> u64 {
        let sum = self.others.values().map(|rate| u128::from(*rate)).sum::<u128>() + u128::from(told);
        let limit = self.limit.map_or(u128::MAX, u128::from);
        if sum <= limit { told } else { u64::try_from(u128::from(told) * limit / sum).unwrap_or(told) }
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
        let rate = |told, free| WanRate { told, free, ..WanRate::default() };
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
        let waits = WanRate { told: WanRates { rate: Some(0), ..TOLD }, ..WanRate::default() };
        assert_eq!(waits.at(&lost, holds, at(115)), Some(0), "one without a lease has none to read");
        let unlimited = rate(WanRates::default(), true);
        assert_eq!(unlimited.at(&reached, holds, at(500)), None);
    }

    #[test]
    fn rates_that_are_too_much_together_are_all_lowered() {
        let beside = |others: &[u64], told| {
            let others = others.iter().zip(1..).map(|(rate, node)| (NodeId([node; 32]), *rate)).collect();
            WanRate { limit: Some(60), others, ..WanRate::default() }.beside_others(told)
        };
        assert_eq!(beside(&[], 60), 60);
        assert_eq!(beside(&[10, 20], 30), 30, "the limit is kept");
        assert_eq!([beside(&[60], 30), beside(&[30], 60)], [20, 40]);
        assert_eq!(beside(&[u64::MAX, u64::MAX], u64::MAX), 20);
        let unlimited = WanRate { others: [(NEAR, u64::MAX)].into(), ..WanRate::default() };
        assert_eq!(unlimited.beside_others(5), 5);
    }

    #[test]
    fn it_is_woken_when_its_rate_changes() {
        let reach = cut(REACH_HOPS_MAX);
        let rate = WanRate { told: TOLD, ..WanRate::default() };
        let kept = reach.kept_until().unwrap();
        assert!(kept < at(100) + RETURN_MAX);
        assert_eq!(rate.next_wake(&reach, at(101)), Some(kept));
        assert_eq!(rate.next_wake(&reach, kept), reach.free_at());
        assert_eq!(WanRate::default().next_wake(&reach, at(101)), None, "nothing changes without a limit");
    }
}
