//! Blocks that are passed on while they still arrive.
//!
//! A block that is announced only once it is there waits at every node for as long as it takes to arrive, and links that
//! could pass it on idle meanwhile. So a block is offered as soon as its rest is expected within about the time that blocks
//! take anyway: whoever asks for it is sent the parts that are there, and the others when they come. A block of which the
//! rest would take longer would hold the slots of all who ask for it, at the rate of its slow source.
//!
//! Invariant: nodes that wait for each other's parts never form a circle. A node offers a block only after its present
//! source sent some of it, and when that source fails or changes it breaks off all that it sends of the block
//! ([`Exchange::withdraw`]) before it asks another. So of the requests that would close a circle, the one that was served
//! first was served by a node whose own source had been served before it, which is the next one of the circle: there is no
//! such first one.
//!
//! What came of a block outlives its source. When nobody brings the rest the coordinator is told how much that is
//! ([`Output::LeftOff`]): a reader that dies has passed on most of the block that it read.

use std::time::Duration;

use super::transfer::{Exchange, State};
use super::{Arrived, Output, Source};
use crate::content::BlockSet;
use crate::id::{BlockIndex, NodeId};
use crate::limits::ANNOUNCED_AT_ONCE_COPIES;
use crate::time::Time;

/// A block is offered when its rest takes at most this fraction of the usual time: also while some more nodes than usual
/// read, whose blocks take that much longer.
const SOON: (u32, u32) = (4, 3);

impl Exchange {
    /// The blocks that neighbours may ask for: those that this node has, and those that are about to be complete.
    pub fn offers(&self) -> &BlockSet {
        &self.offers
    }

    /// Part of a block has arrived: it is offered if the rest comes soon. Says whether that changed what decisions look at.
    pub(super) fn arrives(&mut self, block: BlockIndex, arrived: Arrived, now: Time) -> bool {
        let Some(state) = self.blocks.get(block.index()).copied().filter(|state| *state != State::Have) else {
            return false;
        };
        if arrived.from.is_none() {
            self.read_pace = Some(arrived.took + arrived.rest());
        }
        // The end of a lease says what became of the block that was read for it.
        if arrived.from.is_some() && arrived.bytes > 0 {
            let rest = u32::try_from(arrived.of.saturating_sub(arrived.bytes)).unwrap_or(u32::MAX).max(1);
            self.begun.entry(block).and_modify(|least| *least = rest.min(*least)).or_insert(rest);
            self.may_be_left_off |= state == State::Missing;
        }
        let soon = || self.times.usual().is_none_or(|usual| arrived.rest() <= usual * SOON.0 / SOON.1);
        let offered =
            arrived.bytes > 0 && !self.offers.contains(block) && soon() && self.is_source(state, arrived.from);
        if offered {
            let source = arrived.from.is_none().then_some(Source::Wan);
            self.offer_block(block, source, now);
        }
        offered || arrived.from.is_none() || self.may_be_left_off
    }

    /// Whether a block in this state comes from there.
    fn is_source(&self, state: State, sender: Option<NodeId>) -> bool {
        match (state, sender) {
            (State::Leased, None) => true,
            (State::Requested { from, also }, Some(node)) => {
                self.neighbours.place(&node).is_some_and(|sender| sender == from || also == Some(sender))
            }
            _ => false,
        }
    }

    /// Neighbours may ask for a block, which comes from a neighbour if it has no `source`: they are told, unless they were.
    /// Who lacks it is told at once if it was just read or is awaited; all are, when it is the last one, so that they say
    /// nothing more to this node.
    pub(super) fn offer_block(&mut self, block: BlockIndex, source: Option<Source>, now: Time) {
        if !self.offers.insert(block) {
            return;
        }
        if source.is_none() {
            self.demand.came(block);
        }
        let wanted = source == Some(Source::Wan) || self.is_awaited(block);
        let complete = self.have.is_full();
        // Who has everything asks for nothing.
        for (_, neighbour) in self.neighbours.iter_mut().filter(|(_, neighbour)| !neighbour.has.is_full()) {
            let at_once = complete || wanted && !neighbour.has.contains(block);
            let due = neighbour.untold.add(block, at_once, now);
            self.announce_at = Some(self.announce_at.map_or(due, |earlier| earlier.min(due)));
        }
    }

    /// Whether others wait to hear that this node has a block which came from a neighbour: few have it, and what this node
    /// passes on is asked for.
    pub fn is_awaited(&self, block: BlockIndex) -> bool {
        self.demand.is_there() && self.copies(block) <= ANNOUNCED_AT_ONCE_COPIES
    }

    /// Says what is lacking of blocks of which a part came and that nobody brings.
    pub(super) fn say_left_off(&mut self) {
        if !std::mem::take(&mut self.may_be_left_off) {
            return;
        }
        let mut begun = std::mem::take(&mut self.begun);
        let lacking: Vec<_> = begun.extract_if(.., |block, _| self.is_left_off(*block)).collect();
        self.begun = begun;
        if !lacking.is_empty() {
            self.outputs.push_back(Output::LeftOff { lacking });
        }
    }

    /// Whether nobody brings the block, and no neighbour could be asked for it.
    pub(super) fn is_left_off(&self, block: BlockIndex) -> bool {
        self.missing.contains(block) && self.copies[block.index()] == 0
    }

    /// A block does not come from where it came from so far: those who are sent its parts have to look elsewhere.
    pub(super) fn withdraw(&mut self, block: BlockIndex) {
        if self.have.contains(block) || !self.offers.contains(block) {
            return;
        }
        let seemed_complete = self.offers.is_full();
        self.offers.remove(block);
        self.neighbours.iter_mut().for_each(|(_, neighbour)| neighbour.untold.forget(block));
        let broken = self.uploads.of_block(block);
        self.outputs.extend(broken.into_iter().map(|(node, request)| Output::BreakOff { node, request }));
        // Nobody else is told: who asks learns of it. But who seems to have everything is told nothing more.
        if seemed_complete {
            self.outputs.extend(self.neighbours.ids().map(|to| Output::AnnounceAll { to }));
        }
    }
}

impl Arrived {
    /// How long the rest takes if it comes as fast as what came so far.
    fn rest(&self) -> Duration {
        let left = u128::from(self.of.saturating_sub(self.bytes));
        let nanos = self.took.as_nanos().saturating_mul(left) / u128::from(self.bytes.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}
