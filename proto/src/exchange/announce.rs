//! When a neighbour is told what it may ask for: every 100 ms or 8 blocks, and at once what it waits for.

use crate::id::BlockIndex;
use crate::limits::{ANNOUNCE_EVERY, ANNOUNCED_BLOCKS};
use crate::time::Time;

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
