//! Whether the coordinator reaches this node, or any node in sight.
//!
//! Each node tells its neighbours how many hops it is from a node that the coordinator reaches: 0 if it is one, else one
//! more than its nearest neighbour, up to [`REACH_HOPS_MAX`], which means that none is in sight (distance vectors; counting
//! up after a loss is what the bound ends). So one node that the coordinator reaches is known in its whole site, also in
//! large ones, where nobody is everybody's neighbour.
//!
//! Invariant: a neighbour that has not said how far it is counts as 0 hops, and one of the roster that is not connected
//! counts as 0 hops until it comes back if it never said that it is cut off as well, else until it has had the time to:
//! what is unknown keeps a deputy from reading.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::NodeId;
use crate::limits::{HOLDER_GRACE, NEIGHBOURS_MAX, REACH_HOPS_MAX, RETURN_MAX, VIEW_SETTLED};
use crate::time::Time;

/// What a node knows of the way to the coordinator.
#[derive(Debug)]
pub(super) struct Reach {
    grace: Duration,
    /// Since when the coordinator is away; `None` while it is there.
    down_since: Option<Time>,
    /// How far each connected neighbour is.
    hops: BTreeMap<NodeId, u8>,
    /// Neighbours of the roster that are not connected, and since when.
    absent: BTreeMap<NodeId, Time>,
    /// Those of them that last said that somebody reaches them, or said nothing. The coordinator takes a node that it does
    /// not reach out of the rosters of those that it does, and they drop it: they are gone from its sight, not from the site.
    reached: BTreeSet<NodeId>,
    roster: BTreeSet<NodeId>,
    /// When something of it changed last.
    changed: Time,
}

impl Reach {
    /// Of a node that has just started. Deputies read once the coordinator was away for `grace`.
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            grace,
            down_since: Some(Time::ZERO),
            hops: BTreeMap::new(),
            absent: BTreeMap::new(),
            reached: BTreeSet::new(),
            roster: BTreeSet::new(),
            changed: Time::ZERO,
        }
    }

    pub(super) fn set_grace(&mut self, grace: Duration) {
        self.grace = grace;
    }

    pub(super) fn coordinator_up(&mut self) {
        self.down_since = None;
    }

    pub(super) fn coordinator_down(&mut self, now: Time) {
        self.down_since.get_or_insert(now);
    }

    /// Whether the coordinator is away.
    pub(super) fn is_cut(&self) -> bool {
        self.down_since.is_some()
    }

    pub(super) fn roster(&mut self, neighbours: impl Iterator<Item = NodeId>, now: Time) {
        self.roster = neighbours.take(NEIGHBOURS_MAX).collect();
        let roster = &self.roster;
        self.absent.retain(|node, _| roster.contains(node));
        self.reached.retain(|node| roster.contains(node));
        for node in roster.iter().filter(|node| !self.hops.contains_key(node)) {
            self.absent.entry(*node).or_insert(now);
        }
        self.changed = now;
    }

    pub(super) fn neighbour_up(&mut self, node: NodeId, now: Time) {
        if self.hops.contains_key(&node) || self.hops.len() < NEIGHBOURS_MAX {
            self.hops.insert(node, 0);
            self.absent.remove(&node);
            self.reached.remove(&node);
            self.changed = now;
        }
    }

    pub(super) fn neighbour_down(&mut self, node: NodeId, now: Time) {
        let hops = self.hops.remove(&node).filter(|_| self.roster.contains(&node));
        if let Some(hops) = hops {
            self.absent.insert(node, now);
            if hops < REACH_HOPS_MAX {
                self.reached.insert(node);
            }
        }
        self.changed = now;
    }

    pub(super) fn neighbour_says(&mut self, node: NodeId, hops: u8, now: Time) {
        let hops = hops.min(REACH_HOPS_MAX);
        if let Some(known) = self.hops.get_mut(&node).filter(|known| **known != hops) {
            *known = hops;
            self.changed = now;
        }
    }

    /// Something else of what a deputy goes by changed.
    pub(super) fn changed(&mut self, now: Time) {
        self.changed = now;
    }

    /// Connected neighbours.
    pub(super) fn connected(&self) -> impl Iterator<Item = NodeId> {
        self.hops.keys().copied()
    }

    pub(super) fn is_connected(&self, node: NodeId) -> bool {
        self.hops.contains_key(&node)
    }

    /// How far this node is from one that the coordinator reaches.
    pub(super) fn hops(&self) -> u8 {
        if self.down_since.is_none() {
            return 0;
        }
        let gone = self.reached.first().map(|_| &0);
        self.hops
            .values()
            .chain(gone)
            .min()
            .map_or(REACH_HOPS_MAX, |nearest| nearest.saturating_add(1).min(REACH_HOPS_MAX))
    }

    /// Whether the coordinator reaches nobody in sight, as far as is known.
    pub(super) fn is_lost(&self) -> bool {
        self.hops() == REACH_HOPS_MAX
    }

    /// Until when the coordinator counts on this node to come back, if it is away: then its leases are lost.
    pub(super) fn kept_until(&self) -> Option<Time> {
        self.down_since.map(|since| since + HOLDER_GRACE.min(self.grace))
    }

    /// From when on a deputy may read if nothing changes; `None` if something has to change first.
    pub(super) fn free_at(&self) -> Option<Time> {
        let down_since = self.down_since.filter(|_| self.is_lost())?;
        let returned = self.absent.values().map(|since| *since + RETURN_MAX);
        // Those that have been away for longer are gone.
        let settled = self.changed + VIEW_SETTLED;
        [down_since + self.grace, settled].into_iter().chain(returned).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::COORDINATOR_GRACE;

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);

    fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1000)
    }

    fn between_two() -> Reach {
        let mut reach = Reach::new(COORDINATOR_GRACE);
        reach.coordinator_up();
        reach.roster([A, B].into_iter(), at(1));
        reach.neighbour_up(A, at(1));
        reach.neighbour_up(B, at(1));
        reach.coordinator_down(at(100));
        reach
    }

    #[test]
    fn one_neighbour_that_the_coordinator_reaches_is_enough_to_wait() {
        let mut reach = between_two();
        assert_eq!((reach.hops(), reach.free_at()), (1, None), "neither said that it is cut off");
        reach.neighbour_says(A, REACH_HOPS_MAX, at(101));
        assert_eq!(reach.free_at(), None);
        reach.neighbour_says(B, REACH_HOPS_MAX, at(101));
        assert_eq!((reach.hops(), reach.free_at()), (REACH_HOPS_MAX, Some(at(130))));
        reach.neighbour_says(B, 3, at(131));
        assert_eq!((reach.hops(), reach.free_at()), (4, None), "one is in sight");
        reach.neighbour_says(B, REACH_HOPS_MAX, at(140));
        assert_eq!(reach.free_at(), Some(at(142)), "views have to stand for a while");
        reach.coordinator_up();
        assert_eq!((reach.hops(), reach.free_at()), (0, None));
    }

    #[test]
    fn a_neighbour_that_is_gone_is_waited_for() {
        let mut reach = between_two();
        reach.neighbour_says(A, REACH_HOPS_MAX, at(101));
        reach.neighbour_says(B, REACH_HOPS_MAX, at(101));
        reach.neighbour_down(B, at(129));
        assert_eq!(reach.free_at(), Some(at(129) + RETURN_MAX));
    }

    #[test]
    fn one_that_was_reached_when_it_went_out_of_sight_is_not_forgotten() {
        let mut reach = between_two();
        reach.neighbour_says(A, REACH_HOPS_MAX, at(101));
        reach.neighbour_down(B, at(102));
        assert_eq!((reach.hops(), reach.free_at()), (1, None));
        reach.neighbour_up(B, at(200));
        reach.neighbour_says(B, REACH_HOPS_MAX, at(200));
        assert_eq!(reach.free_at(), Some(at(202)));
    }

    #[test]
    fn counting_up_comes_to_an_end() {
        let (mut one, mut other) = (between_two(), between_two());
        one.neighbour_says(B, REACH_HOPS_MAX, at(100));
        other.neighbour_says(B, REACH_HOPS_MAX, at(100));
        for _ in 0..=REACH_HOPS_MAX {
            let said = one.hops();
            other.neighbour_says(A, said, at(101));
            let said = other.hops();
            one.neighbour_says(A, said, at(101));
        }
        assert!(one.is_lost() && other.is_lost());
    }
}
