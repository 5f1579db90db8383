//! Which blocks came to the site, ever: what the next run of the coordinator must know, where no node says it any more.
//!
//! A ledger is rebuilt from what nodes say that they have. Who alone had a block and is gone, lost its disk or was excluded
//! says nothing: the block would seem to be one that the site never had, and its second reading a first one (WAN-ONCE). So
//! what came is told to be put on record, with others, and at once when it may be the last that is heard of it.
//!
//! Not covered: a block that came within [`CAME_TOLD_EVERY`] of a crash, and whose only holder was lost before the restart.

use crate::content::BlockSet;
use crate::id::BlockIndex;
use crate::limits::CAME_TOLD_EVERY;
use crate::time::Time;

#[derive(Debug)]
pub(super) struct Came {
    blocks: BlockSet,
    untold: Vec<BlockIndex>,
    /// When `untold` is to be told; `None` if there is nothing.
    due: Option<Time>,
}

impl Came {
    pub(super) fn new(count: u32) -> Self {
        Self { blocks: BlockSet::new(count), untold: Vec::new(), due: None }
    }

    /// A block is on record already.
    pub(super) fn know(&mut self, block: BlockIndex) {
        self.blocks.insert(block);
    }

    pub(super) fn contains(&self, block: BlockIndex) -> bool {
        self.blocks.contains(block)
    }

    /// A block is in the site; when it is to be told if it is the first of several.
    pub(super) fn note(&mut self, block: BlockIndex, now: Time) -> Option<Time> {
        if !self.blocks.insert(block) {
            return None;
        }
        self.untold.push(block);
        let first = self.due.is_none();
        let due = *self.due.get_or_insert(now + CAME_TOLD_EVERY);
        first.then_some(due)
    }

    /// Somebody who may have some of them alone leaves.
    pub(super) fn hurry(&mut self, now: Time) {
        self.due = self.due.map(|due| due.min(now));
    }

    /// What is to be told now, ascending.
    pub(super) fn take_due(&mut self, now: Time) -> Vec<BlockIndex> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.due = None;
        let mut blocks = std::mem::take(&mut self.untold);
        blocks.sort_unstable();
        blocks
    }

    pub(super) fn check(&self) {
        assert_eq!(self.due.is_some(), !self.untold.is_empty(), "what came is told in time");
        assert!(self.untold.iter().all(|block| self.blocks.contains(*block)), "what is told came");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_told_once_and_with_others() {
        let mut came = Came::new(4);
        came.know(BlockIndex(3));
        let now = Time::from_millis(100);
        assert_eq!(came.note(BlockIndex(3), now), None, "on record");
        let due = came.note(BlockIndex(2), now).expect("the first");
        assert_eq!(came.note(BlockIndex(0), due), None, "told with it");
        came.check();
        assert_eq!(came.take_due(now), []);
        assert_eq!(came.take_due(due), [BlockIndex(0), BlockIndex(2)]);
        assert_eq!(came.note(BlockIndex(0), due), None, "it came before");
        assert_eq!(came.take_due(due + CAME_TOLD_EVERY), []);
        came.check();
    }

    #[test]
    fn who_leaves_is_not_waited_for() {
        let mut came = Came::new(1);
        let now = Time::from_millis(100);
        came.hurry(now);
        came.note(BlockIndex(0), now);
        came.hurry(now);
        assert_eq!(came.take_due(now), [BlockIndex(0)]);
        came.check();
    }
}
