//! Whom to serve: a few slots, and no queue. Who asks for more than there is room for is refused at once, and told when
//! there is.
//!
//! A request that waited here would be one that its node does not make elsewhere: requests would gather at some nodes while
//! others idle. Pairs stay together: a slot that became free is left to the node that it served, for the time of a
//! question, before it is offered to those that were refused, the one with the fewest blocks first. That time is measured:
//! where a block takes a few milliseconds, slots would else be free for as long as they are used. One that is far behind
//! goes before the pair, so that all end together. An upload that takes far longer than others holds no slot: it is the
//! receiver that is slow, and the uplink has room for somebody else.

use std::collections::BTreeSet;
use std::time::Duration;

use super::inflight::Times;
use crate::id::{BlockIndex, NodeId};
use crate::limits::{BEHIND_BLOCKS_MAX, OFFER_AFTER, OFFER_AFTER_MIN, UPLOADS_MAX};
use crate::time::Time;

/// Requests of neighbours that are served, and neighbours that would like to be.
#[derive(Debug)]
pub(super) struct Uploads {
    slots: usize,
    /// The oldest first.
    served: Vec<Served>,
    times: Times,
    /// Who was refused and neither served nor offered a slot since, numbered in their order.
    refused: Vec<(NodeId, u64)>,
    refusals: u64,
    /// Slots that are kept free for a while for these, and since when.
    offers: Vec<(NodeId, Time)>,
    /// No slot is offered before this.
    offer_from: Option<Time>,
    /// Who was served last, until when.
    last_done: Option<(NodeId, Time)>,
    /// How long nodes take to ask again, of late.
    asks_after: Duration,
}

/// A request that is served.
#[derive(Debug)]
struct Served {
    node: NodeId,
    request: u64,
    block: BlockIndex,
    since: Time,
}

impl Served {
    fn is(&self, node: NodeId, request: u64) -> bool {
        self.request == request && self.node == node
    }
}

impl Uploads {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            slots,
            served: Vec::new(),
            times: Times::default(),
            refused: Vec::new(),
            refusals: 0,
            offers: Vec::new(),
            offer_from: None,
            last_done: None,
            asks_after: OFFER_AFTER,
        }
    }

    /// How long a slot is left to the node that it served: half as long again as they take to ask.
    fn offer_after(&self) -> Duration {
        (self.asks_after * 3 / 2).clamp(OFFER_AFTER_MIN, OFFER_AFTER)
    }

    /// How long a slot is kept for the node that it was offered to: it has to choose as well.
    fn offer_stands(&self) -> Duration {
        self.offer_after() * 8 / 5
    }

    /// Whether there is room for a request; it is then served. `progress` says how many blocks a neighbour has that lacks
    /// one of this node's.
    pub(super) fn ask(
        &mut self,
        node: NodeId,
        request: u64,
        block: BlockIndex,
        now: Time,
        progress: impl Fn(NodeId) -> Option<u32>,
    ) -> bool {
        if self.served.iter().any(|served| served.is(node, request)) {
            return false;
        }
        if let Some((_, done)) = self.last_done.take_if(|(last, _)| *last == node) {
            self.asks_after = (self.asks_after * 3 + now.since(done).min(OFFER_AFTER)) / 4;
        }
        let offered = take_out(&mut self.offers, node);
        let free = self.served.len() < UPLOADS_MAX && self.has_free_slot(now);
        let somebody_is_behind = || {
            let least = self.refused.iter().filter_map(|(refused, _)| progress(*refused)).min();
            least.is_some_and(|least| progress(node).is_some_and(|has| has > least + BEHIND_BLOCKS_MAX))
        };
        if free && (offered || !somebody_is_behind()) {
            take_out(&mut self.refused, node);
            self.served.push(Served { node, request, block, since: now });
            return true;
        }
        if free {
            self.offer_from = None;
        }
        self.refusals += 1;
        if self.refused.iter().all(|(refused, _)| *refused != node) {
            self.refused.push((node, self.refusals));
        }
        false
    }

    /// The neighbour to offer a slot to, if one is free and was not just now.
    pub(super) fn offer(&mut self, now: Time, progress: impl Fn(NodeId) -> Option<u32>) -> Option<NodeId> {
        let stands = self.offer_stands();
        self.offers.retain(|(_, since)| *since + stands > now);
        if self.offer_from.is_some_and(|from| from > now) {
            return None;
        }
        self.offer_from = None;
        if self.refused.is_empty() || !self.has_free_slot(now) {
            return None;
        }
        let mut first = None;
        self.refused.retain(|(node, turn)| {
            let Some(has) = progress(*node) else { return false };
            let turn = (has, *turn, *node);
            first = Some(first.map_or(turn, |first| turn.min(first)));
            true
        });
        let (.., node) = first?;
        take_out(&mut self.refused, node);
        self.offers.push((node, now));
        Some(node)
    }

    /// When [`Uploads::offer`] may have something to say because time passed.
    pub(super) fn next_wake(&self) -> Option<Time> {
        if self.refused.is_empty() {
            return None;
        }
        let stands = self.offers.iter().map(|(_, since)| *since + self.offer_stands());
        stands.chain(self.offer_from).min()
    }

    /// When a slot becomes free because time passed, if nothing else frees it.
    pub(super) fn room_changes(&self, now: Time) -> Option<Time> {
        let patience = self.times.patience(false);
        let late = self.served.iter().map(|served| served.since + patience).find(|at| *at > now);
        let stands = self.offers.iter().map(|(_, since)| *since + self.offer_stands());
        late.filter(|_| !self.refused.is_empty()).into_iter().chain(stands).min()
    }

    fn has_free_slot(&self, now: Time) -> bool {
        let patience = self.times.patience(false);
        let late = self.served.iter().take_while(|served| served.since + patience <= now).count();
        self.served.len() - late + self.offers.len() < self.slots
    }

    /// Who is served a block, and by which request, ascending.
    pub(super) fn of_block(&self, block: BlockIndex) -> Vec<(NodeId, u64)> {
        let of_block = self.served.iter().filter(|served| served.block == block);
        let mut requests: Vec<_> = of_block.map(|served| (served.node, served.request)).collect();
        requests.sort_unstable();
        requests
    }

    /// A request is over, served or not.
    pub(super) fn done(&mut self, node: NodeId, request: u64, now: Time) {
        if let Some(at) = self.served.iter().position(|served| served.is(node, request)) {
            let Served { since, .. } = self.served.remove(at);
            self.times.add(now.since(since).max(Duration::from_nanos(1)));
            self.offer_from = Some(now + self.offer_after());
            self.last_done = Some((node, now));
        }
    }

    /// All requests of a neighbour are over.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.served.retain(|served| served.node != node);
        take_out(&mut self.refused, node);
        take_out(&mut self.offers, node);
    }

    pub(super) fn check(&self, is_neighbour: impl Fn(NodeId) -> bool) {
        assert!(self.served.len() <= UPLOADS_MAX, "uploads are bounded");
        assert!(self.offers.len() <= self.slots, "an offer has a slot");
        assert!(self.served.is_sorted_by_key(|served| served.since), "the oldest is served first");
        let refused: BTreeSet<_> = self.refused.iter().map(|(node, _)| *node).collect();
        let offered: BTreeSet<_> = self.offers.iter().map(|(node, _)| *node).collect();
        let known = self.served.iter().map(|served| &served.node).chain(&refused).chain(&offered);
        known.for_each(|node| assert!(is_neighbour(*node), "only neighbours are served"));
        assert!(refused.is_disjoint(&offered), "who has an offer does not wait for one");
        assert_eq!((refused.len(), offered.len()), (self.refused.len(), self.offers.len()), "nobody waits twice");
    }
}

/// Takes a node out of a list; whether it was there.
fn take_out<T>(list: &mut Vec<(NodeId, T)>, node: NodeId) -> bool {
    let at = list.iter().position(|(other, _)| *other == node);
    at.map(|at| list.swap_remove(at)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: usize = 3;
    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);
    const C: NodeId = NodeId([3; 32]);
    const BLOCK: BlockIndex = BlockIndex(0);
    const NOW: Time = Time::from_millis(1000);

    fn alike(_: NodeId) -> Option<u32> {
        Some(10)
    }

    /// All slots serve A, and B and C were refused.
    fn full() -> Uploads {
        let mut uploads = Uploads::new(SLOTS);
        assert!((0..SLOTS as u64).all(|request| uploads.ask(A, request, BLOCK, NOW, alike)));
        assert!(!uploads.ask(B, 0, BLOCK, NOW, alike) && !uploads.ask(C, 0, BLOCK, NOW, alike), "no slot is free");
        assert_eq!((uploads.offer(NOW, alike), uploads.next_wake()), (None, None));
        uploads
    }

    #[test]
    fn slots_are_bounded_and_given_on() {
        let mut uploads = full();
        uploads.done(A, 1, NOW);
        assert!(uploads.ask(B, 0, BLOCK, NOW, alike));
        uploads.forget(A);
        assert!(!uploads.ask(B, 0, BLOCK, NOW, alike), "one number, one request");
        assert!(uploads.ask(B, 1, BLOCK, NOW, alike));
    }

    #[test]
    fn a_free_slot_is_left_to_its_pair_and_then_offered_to_who_was_refused_first() {
        let mut uploads = full();
        uploads.done(A, 1, NOW);
        assert_eq!(uploads.offer(NOW, alike), None, "A may ask for more");
        let later = NOW + OFFER_AFTER;
        assert_eq!(uploads.next_wake(), Some(later));
        assert_eq!(uploads.offer(later, alike), Some(B));
        assert_eq!(uploads.offer(later, alike), None, "the only free slot");
        assert!(!uploads.ask(A, 9, BLOCK, later, alike), "it is kept for B");
        let over = later + uploads.offer_stands();
        assert_eq!(uploads.next_wake(), Some(over));
        assert_eq!(uploads.offer(over, alike), Some(C), "B did not take it");
        assert!(uploads.ask(C, 0, BLOCK, over, alike));
        uploads.check(|_| true);
    }

    #[test]
    fn a_slot_is_left_for_half_as_long_again_as_nodes_take_to_ask_within_bounds() {
        let mut uploads = full();
        let mut now = NOW;
        let mut asks_after = |micros: u64| {
            for request in 100..120 {
                let (node, number) = uploads.served.first().map(|served| (served.node, served.request)).unwrap();
                uploads.done(node, number, now);
                now = now + Duration::from_micros(micros);
                assert!(uploads.ask(node, request + micros * 1000, BLOCK, now, alike));
            }
            uploads.offer_after().as_micros()
        };
        assert!((1500..1520).contains(&asks_after(1000)));
        assert_eq!(asks_after(10), OFFER_AFTER_MIN.as_micros());
        assert_eq!(asks_after(50_000), OFFER_AFTER.as_micros());
    }

    #[test]
    fn who_is_far_behind_goes_before_the_pair() {
        let progress = |node| Some(if node == C { 10 } else { 10 + BEHIND_BLOCKS_MAX + 1 });
        let mut uploads = full();
        uploads.done(A, 1, NOW);
        assert!(!uploads.ask(A, 9, BLOCK, NOW, progress));
        assert_eq!(uploads.offer(NOW, progress), Some(C), "at once");
        assert!(uploads.ask(C, 0, BLOCK, NOW, progress));
        uploads.done(A, 2, NOW);
        assert!(uploads.ask(A, 10, BLOCK, NOW, progress), "C has what it asked for");
    }

    #[test]
    fn who_lacks_nothing_that_is_here_is_offered_nothing() {
        let mut uploads = full();
        uploads.done(A, 1, NOW);
        assert_eq!(uploads.offer(NOW + OFFER_AFTER, |node| (node == C).then_some(10)), Some(C));
        assert_eq!(uploads.next_wake(), None, "nobody waits");
    }

    #[test]
    fn who_takes_far_longer_than_others_holds_no_slot() {
        let mut uploads = full();
        let patience = uploads.times.patience(false);
        assert!(!uploads.ask(B, 0, BLOCK, NOW + (patience - Duration::from_millis(1)), alike));
        let late = NOW + patience;
        assert!(uploads.ask(B, 0, BLOCK, late, alike));
        let ask = |round: &u64| uploads.ask(B, *round, BLOCK, late + Duration::from_secs(60 * round), alike);
        let taken = (1..100).filter(ask).count();
        assert_eq!(uploads.served.len(), UPLOADS_MAX, "{taken} taken");
    }
}
