//! What was read without this ledger: under leases of an earlier run of the coordinator, or by deputies while it was away.
//!
//! Nodes tell the ends of such leases when the coordinator is back, perhaps several times. Each is charged once: the sums of
//! the site are then what crossed its WAN, and a block that was read before its first grant has its allowance from the fact.
//! Not known is how much of each block the reader lacked: what it read is shared among the blocks by their sizes.

use super::Lacking;
use super::site::Site;
use crate::id::{BlockIndex, LeaseId};
use crate::limits::FACTS_MAX;

impl Site {
    /// A lease that this ledger does not know has ended.
    pub(super) fn note_fact(&mut self, id: LeaseId, read_bytes: u64, landed: &[BlockIndex], begun: &[Lacking]) {
        let foreign = id.0 >> 32 != self.run;
        if read_bytes == 0 || !foreign || self.facts.len() >= FACTS_MAX || !self.facts.insert(id) {
            return;
        }
        let size = |block: &BlockIndex| self.block_bytes.get(block.index()).copied().unwrap_or(0);
        let whole = landed.iter().map(|block| (*block, size(block)));
        let parts = begun.iter().map(|part| (part.block, size(&part.block).saturating_sub(part.bytes)));
        let blocks: Vec<_> = whole.chain(parts).filter(|(_, bytes)| *bytes > 0).collect();
        let all: u64 = blocks.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
        let mut left = read_bytes;
        for (block, bytes) in blocks {
            let share = u128::from(read_bytes) * u128::from(bytes) / u128::from(all);
            // Rounded up, so that the shares add up to what was read.
            let share = u32::try_from(share + 1).unwrap_or(u32::MAX).min(bytes);
            let share = u64::from(share).min(left);
            left -= share;
            self.budget.charge_fact(block, u32::try_from(share).unwrap_or(u32::MAX));
        }
        self.read_bytes = self.read_bytes.saturating_add(read_bytes);
        self.gap_bytes = self.gap_bytes.saturating_add(left);
    }

    /// A lease is settled: if it is told again, that is nothing new.
    pub(super) fn settled(&mut self, id: LeaseId) {
        if id.0 >> 32 != self.run && self.facts.len() < FACTS_MAX {
            self.facts.insert(id);
        }
    }
}
