//! When a neighbour is told what it may ask for: every 100 ms or 8 blocks, and at once what it waits for ([`Demand`]).

use crate::content::BlockSet;
use crate::id::BlockIndex;
use crate::limits::{ANNOUNCE_EVERY, ANNOUNCED_BLOCKS};
use crate::time::Time;

/// Blocks that came of late are about so many.
const OF_LATE: u32 = 32;

/// All of what came of late.
const ALL: u32 = 1 << 16;

/// Whether neighbours ask this node for what came from a neighbour. They do not where each node is told of all that is read,
/// and whoever reads it has the time to send it to everybody: there they need not be told at once.
#[derive(Debug)]
pub(super) struct Demand {
    /// What came from a neighbour and was not asked for yet.
    unasked: BlockSet,
    /// The share of what came of late that was asked for, of [`ALL`].
    share: u32,
}

impl Demand {
    pub(super) fn new(count: u32) -> Self {
        Self { unasked: BlockSet::new(count), share: ALL }
    }

    /// A block comes from a neighbour.
    pub(super) fn came(&mut self, block: BlockIndex) {
        self.unasked.insert(block);
        self.share -= self.share / OF_LATE;
    }

    /// A neighbour asks for a block.
    pub(super) fn asked(&mut self, block: BlockIndex) {
        if self.unasked.remove(block) {
            self.share += ALL / OF_LATE;
        }
    }

    /// Whether one of 16 is asked for, which is less than anybody's share where nodes depend on each other.
    pub(super) fn is_there(&self) -> bool {
        self.share >= ALL / 16
    }
}

/// The blocks that a neighbour was not told of yet.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    blocks: Vec<BlockIndex>,
    due: Option<Time>,
}

impl Announcements {
    /// Adds a block; when it is time then.
    pub(super) fn add(&mut self, block: BlockIndex, at_once: bool, now: Time) -> Time {
        self.blocks.push(block);
        let wait = now + ANNOUNCE_EVERY;
        let due = if at_once || self.blocks.len() >= ANNOUNCED_BLOCKS { now } else { wait };
        let due = self.due.map_or(due, |earlier| earlier.min(due));
        self.due = Some(due);
        due
    }

    /// A block is not to be announced any more.
    pub(super) fn forget(&mut self, block: BlockIndex) {
        self.blocks.retain(|waits| *waits != block);
        if self.blocks.is_empty() {
            self.due = None;
        }
    }

    /// When the blocks are to be announced.
    pub(super) fn due(&self) -> Option<Time> {
        self.due
    }

    /// The blocks to announce, if it is time.
    pub(super) fn take_due(&mut self, now: Time) -> Option<Vec<BlockIndex>> {
        self.due.filter(|due| *due <= now)?;
        self.due = None;
        Some(std::mem::take(&mut self.blocks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_demand_until_nothing_is_asked_for_and_again_when_something_is() {
        let mut demand = Demand::new(300);
        for block in 0..100 {
            demand.came(BlockIndex(block));
            if block % 10 == 0 {
                demand.asked(BlockIndex(block));
            }
        }
        assert!(demand.is_there(), "a tenth is enough");
        for block in 100..200 {
            demand.came(BlockIndex(block));
        }
        assert!(!demand.is_there());
        demand.asked(BlockIndex(299));
        for _ in 0..9 {
            demand.asked(BlockIndex(150));
        }
        assert!(!demand.is_there(), "only what came counts, and once");
        demand.asked(BlockIndex(151));
        assert!(demand.is_there());
    }

    #[test]
    fn blocks_wait_for_time_or_company() {
        let mut pending = Announcements::default();
        pending.add(BlockIndex(1), false, Time::ZERO);
        pending.add(BlockIndex(2), false, Time::from_millis(60));
        assert_eq!(pending.take_due(Time::from_millis(99)), None);
        assert_eq!(pending.take_due(Time::from_millis(100)), Some(vec![BlockIndex(1), BlockIndex(2)]));
        for block in 0..7 {
            pending.add(BlockIndex(block), false, Time::from_millis(200));
        }
        assert_eq!(pending.take_due(Time::from_millis(200)), None);
        pending.add(BlockIndex(7), false, Time::from_millis(200));
        assert_eq!(pending.take_due(Time::from_millis(200)).map(|blocks| blocks.len()), Some(8));
        pending.add(BlockIndex(8), true, Time::from_millis(300));
        assert_eq!(pending.take_due(Time::from_millis(300)), Some(vec![BlockIndex(8)]));
        assert_eq!(pending.due(), None);
    }
}
