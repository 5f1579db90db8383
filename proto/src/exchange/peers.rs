//! What an exchange knows of its neighbours: what each has, what it was asked for, how it answered, and who sent wrong bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::announce::Announcements;
use super::inflight::Window;
use super::neighbours::Neighbours;
use crate::content::BlockSet;
use crate::id::{BlockIndex, NodeId};
use crate::limits::{LIAR_REST, LIARS_MAX, LIES_MAX, NEIGHBOUR_REST_MAX, NEIGHBOUR_REST_MIN};
use crate::time::Time;

/// One neighbour.
#[derive(Debug)]
pub(super) struct Neighbour {
    pub(super) has: BlockSet,
    /// What it is not told of yet that this node offers.
    pub(super) untold: Announcements,
    /// What it was asked for, ascending, and when.
    pub(super) requests: Vec<(BlockIndex, Time)>,
    pub(super) window: Window,
    /// When it last delivered, or said that it has room.
    pub(super) delivered_at: Time,
    /// It is asked for nothing before this.
    pub(super) rests_until: Time,
    /// How long its blocks take, of late.
    pub(super) pace: Option<Duration>,
    /// Failures since it last delivered.
    failures: u32,
    /// How often it refused since it last delivered, and when it last did: requests that were made together count once.
    refusals: (u32, Time),
    /// Orders neighbours that are alike in all else.
    pub(super) tie: u64,
}

impl Neighbour {
    pub(super) fn new(blocks: u32, tie: u64) -> Self {
        Self {
            has: BlockSet::new(blocks),
            untold: Announcements::default(),
            requests: Vec::new(),
            window: Window::new(),
            delivered_at: Time::ZERO,
            rests_until: Time::ZERO,
            pace: None,
            failures: 0,
            refusals: (0, Time::ZERO),
            tie,
        }
    }

    /// It is asked for a block that it was not asked for.
    pub(super) fn asked(&mut self, block: BlockIndex, now: Time) {
        let at = self.requests.partition_point(|(other, _)| *other < block);
        self.requests.insert(at, (block, now));
    }

    /// Whether it was asked for a block.
    pub(super) fn was_asked(&self, block: BlockIndex) -> bool {
        self.requests.iter().any(|(asked, _)| *asked == block)
    }

    /// A request is over; when it was made, if there was one.
    pub(super) fn take_request(&mut self, block: BlockIndex) -> Option<Time> {
        let at = self.requests.iter().position(|(asked, _)| *asked == block)?;
        Some(self.requests.remove(at).1)
    }

    /// What it was asked for, ascending.
    pub(super) fn asked_blocks(&self) -> impl Iterator<Item = BlockIndex> {
        self.requests.iter().map(|(block, _)| *block)
    }

    /// Whether it may be asked for one block more.
    pub(super) fn has_room(&self, now: Time) -> bool {
        self.rests_until <= now && self.requests.len() < self.window.size()
    }

    pub(super) fn delivered(&mut self, took: Duration, now: Time) {
        self.failures = 0;
        self.refusals.0 = 0;
        self.pace = Some(self.pace.map_or(took, |pace| (pace + took) / 2));
        self.delivered_at = now;
        self.window.arrived(took, now);
    }

    /// It had no room; how often in a row.
    pub(super) fn refused(&mut self, now: Time) -> u32 {
        if self.refusals.1 < now || self.refusals.0 == 0 {
            self.refusals = (self.refusals.0.saturating_add(1), now);
        }
        self.refusals.0
    }

    /// A block was taken from it after this time.
    pub(super) fn lags(&mut self, age: Duration) {
        self.pace = Some(self.pace.map_or(age, |pace| pace.max(age)));
    }

    /// It failed: it rests, longer each time.
    pub(super) fn rest(&mut self, now: Time) {
        self.window.shrink();
        let span = (NEIGHBOUR_REST_MIN * (1 << self.failures.min(16))).min(NEIGHBOUR_REST_MAX);
        self.failures = self.failures.saturating_add(1);
        self.rests_until = now + span;
    }
}

/// Who sent wrong bytes, and how often. It is kept for as long as the exchange, whoever is connected: if a new connection
/// cleared it, or being named in a new roster, a liar could do either whenever it likes.
#[derive(Debug, Default)]
pub(super) struct Liars {
    known: BTreeMap<NodeId, Liar>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Liar {
    times: u32,
    rests_until: Time,
}

impl Liars {
    /// A neighbour sent wrong bytes; says whether that is new: what was asked of it before it had to rest is not.
    pub(super) fn caught(&mut self, node: NodeId, now: Time) -> bool {
        if self.known.len() >= LIARS_MAX && !self.known.contains_key(&node) {
            let least = self.known.iter().min_by_key(|(_, liar)| **liar).map(|(node, _)| *node);
            least.map(|node| self.known.remove(&node));
        }
        let liar = self.known.entry(node).or_insert(Liar { times: 0, rests_until: now });
        let new = liar.rests_until <= now && liar.times < LIES_MAX;
        if new {
            *liar = Liar { times: liar.times + 1, rests_until: now + LIAR_REST };
        }
        new
    }

    /// Whether nothing is asked of it ever again.
    pub(super) fn is_banned(&self, node: NodeId) -> bool {
        self.known.get(&node).is_some_and(|liar| liar.times >= LIES_MAX)
    }

    /// Until when nothing is asked of it, if it has sent wrong bytes.
    pub(super) fn rests_until(&self, node: NodeId) -> Option<Time> {
        self.known.get(&node).map(|liar| liar.rests_until)
    }

    pub(super) fn check(&self, neighbours: &Neighbours) {
        assert!(self.known.len() <= LIARS_MAX, "liars are bounded");
        for (place, neighbour) in neighbours.iter() {
            let node = neighbours.id(place);
            assert!(!self.is_banned(node), "{node} is banned and a neighbour");
            let rests = self.rests_until(node).is_none_or(|until| until <= neighbour.rests_until);
            assert!(rests, "{node} sent wrong bytes and is asked before its rest is over");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_liars_is_bounded_and_keeps_the_worst() {
        let node = |number: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&(number as u64).to_le_bytes());
            NodeId(key)
        };
        let mut liars = Liars::default();
        let later = Time::ZERO + LIAR_REST;
        for now in [Time::ZERO, later] {
            assert!(liars.caught(node(0), now));
        }
        for number in 1..=LIARS_MAX {
            assert!(liars.caught(node(number), later + Duration::from_secs(number as u64)));
        }
        assert_eq!(liars.known.len(), LIARS_MAX);
        assert!(liars.is_banned(node(0)));
        assert_eq!(liars.rests_until(node(1)), None, "the one whose rest is over first");
    }

    #[test]
    fn who_fails_rests_longer_each_time_until_it_delivers() {
        let mut neighbour = Neighbour::new(1, 0);
        let mut rests = || {
            neighbour.rest(Time::ZERO);
            neighbour.rests_until.since(Time::ZERO).as_millis()
        };
        assert_eq!([rests(), rests(), rests()], [50, 100, 200]);
        (0..30).for_each(|_| neighbour.rest(Time::ZERO));
        assert_eq!(neighbour.rests_until, Time::ZERO + NEIGHBOUR_REST_MAX);
        neighbour.delivered(Duration::from_millis(1), Time::from_millis(1));
        neighbour.rest(Time::ZERO);
        assert_eq!(neighbour.rests_until, Time::from_millis(50));
    }
}
