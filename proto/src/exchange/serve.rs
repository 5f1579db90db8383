//! Whom to serve: a bounded queue of the neighbours' requests and a few slots.
//!
//! The next slot goes to the block that the fewest neighbours have, so that what just came over the WAN gets a second
//! holder before anything is sent twice; then to the neighbour that was sent the fewest bytes; then to the oldest.

use std::collections::BTreeMap;

use crate::id::{BlockIndex, NodeId};
use crate::limits::{NEIGHBOURS_MAX, UPLOAD_SLOTS, UPLOADS_QUEUED_PER_NEIGHBOUR_MAX};

/// Requests of neighbours, waiting and served.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    waiting: BTreeMap<(NodeId, u64), Waiting>,
    served: BTreeMap<(NodeId, u64), BlockIndex>,
    /// Bytes that each neighbour was sent.
    sent: BTreeMap<NodeId, u64>,
    arrivals: u64,
}

#[derive(Debug)]
struct Waiting {
    block: BlockIndex,
    bytes: u64,
    arrival: u64,
}

impl Uploads {
    /// Takes a request; whether there is room for it.
    pub(super) fn ask(&mut self, node: NodeId, request: u64, block: BlockIndex, bytes: u64) -> bool {
        let queued = self.waiting.range((node, 0)..=(node, u64::MAX)).count();
        let known = self.waiting.contains_key(&(node, request)) || self.served.contains_key(&(node, request));
        if known || queued >= UPLOADS_QUEUED_PER_NEIGHBOUR_MAX {
            return false;
        }
        self.arrivals += 1;
        self.waiting.insert((node, request), Waiting { block, bytes, arrival: self.arrivals });
        true
    }

    /// A request is over, served or not.
    pub(super) fn done(&mut self, node: NodeId, request: u64) {
        self.waiting.remove(&(node, request));
        self.served.remove(&(node, request));
    }

    /// All requests of a neighbour are over.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.waiting.retain(|(of, _), _| *of != node);
        self.served.retain(|(of, _), _| *of != node);
        self.sent.remove(&node);
    }

    /// The request to serve next, if a slot is free, with the bytes that it asks for. `copies` says how many neighbours
    /// have a block.
    pub(super) fn next(&mut self, copies: impl Fn(BlockIndex) -> u32) -> Option<(NodeId, u64, u64)> {
        if self.served.len() >= UPLOAD_SLOTS {
            return None;
        }
        let under_way = |block: BlockIndex| self.served.values().filter(|served| **served == block).count() as u32;
        let order = |((node, request), waiting): (&(NodeId, u64), &Waiting)| {
            let sent = self.sent.get(node).copied().unwrap_or(0);
            let copies = copies(waiting.block) + under_way(waiting.block);
            (copies, sent, waiting.arrival, *node, *request)
        };
        let (_, _, _, node, request) = self.waiting.iter().map(order).min()?;
        let waiting = self.waiting.remove(&(node, request))?;
        self.served.insert((node, request), waiting.block);
        let sent = self.sent.entry(node).or_default();
        *sent = sent.saturating_add(waiting.bytes);
        Some((node, request, waiting.bytes))
    }

    pub(super) fn check(&self, is_neighbour: impl Fn(NodeId) -> bool) {
        assert!(self.served.len() <= UPLOAD_SLOTS, "slots");
        assert!(self.waiting.len() <= NEIGHBOURS_MAX * UPLOADS_QUEUED_PER_NEIGHBOUR_MAX, "the queue is bounded");
        assert!(self.waiting.is_empty() || self.served.len() == UPLOAD_SLOTS, "no slot is free while a request waits");
        let keys = self.waiting.keys().chain(self.served.keys()).map(|(node, _)| node).chain(self.sent.keys());
        keys.for_each(|node| assert!(is_neighbour(*node), "only neighbours are served"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);

    fn served(uploads: &mut Uploads, copies: impl Fn(BlockIndex) -> u32 + Copy) -> Vec<(NodeId, u64)> {
        std::iter::from_fn(|| uploads.next(copies)).map(|(node, request, _)| (node, request)).collect()
    }

    #[test]
    fn rare_blocks_first_then_who_got_least_then_the_oldest() {
        let mut uploads = Uploads::default();
        for (node, request, block) in [(A, 1, 5), (A, 2, 6), (B, 1, 5), (B, 2, 7), (A, 3, 7)] {
            assert!(uploads.ask(node, request, BlockIndex(block), 10));
        }
        let order = served(&mut uploads, |block| if block.0 == 7 { 0 } else { 3 });
        assert_eq!(order, [(B, 2), (A, 3), (A, 1), (A, 2), (B, 1)], "7 to both; then 5, and 6 before 5 again");
    }

    #[test]
    fn slots_are_bounded_and_given_on() {
        let mut uploads = Uploads::default();
        for request in 0..=UPLOAD_SLOTS as u64 {
            assert!(uploads.ask(A, request, BlockIndex(0), 1));
        }
        assert_eq!(served(&mut uploads, |_| 0).len(), UPLOAD_SLOTS);
        uploads.done(A, 3);
        assert_eq!(served(&mut uploads, |_| 0), [(A, UPLOAD_SLOTS as u64)], "the slot of the one that is done");
    }

    #[test]
    fn the_queue_of_one_neighbour_does_not_grow_without_bound() {
        let mut uploads = Uploads::default();
        let taken = (0..100).filter(|request| uploads.ask(A, *request, BlockIndex(0), 1)).count();
        assert_eq!(taken, UPLOADS_QUEUED_PER_NEIGHBOUR_MAX);
        assert!(uploads.ask(B, 0, BlockIndex(0), 1), "others still have room");
        assert!(!uploads.ask(B, 0, BlockIndex(0), 1), "one number, one request");
        uploads.forget(A);
        assert_eq!(served(&mut uploads, |_| 0), [(B, 0)]);
    }
}
