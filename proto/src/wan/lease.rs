//! One lease: what it charged, how far it is, and how a report about it divides its charge.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::id::BlockIndex;
use crate::limits::{CREDIT_BYTES_MIN, SLOW_FACTOR};
use crate::time::Time;

/// What one node was granted.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    /// The holder, as index into the site's members.
    pub(super) node: usize,
    /// Each block, ascending, and what it was charged for. A block that landed stays here until the charge is settled.
    pub(super) blocks: Vec<(BlockIndex, u32)>,
    /// Those of them that landed: they were read, whatever became of them since.
    pub(super) landed: BTreeSet<BlockIndex>,
    pub(super) state: State,
    /// When something is done about it, in states `Held` and `Revoking`.
    pub(super) deadline: Time,
    /// Three times the time that it was expected to take, or that a step of it took.
    pub(super) patience: Duration,
    /// When its holder asked last to read on.
    pub(super) asked_at: Option<Time>,
    /// Whether a block landed, or was read on in, since the deadline was set.
    pub(super) progress: bool,
    /// Granted though the site has its blocks, because its holder is stuck.
    pub(super) for_stuck: bool,
    /// Bytes that the holder may have read, as far as the ledger knows.
    pub(super) credit_bytes: u64,
    /// What of the charges was taken back when the holder was lost, since it had no credit to read it.
    pub(super) taken_back: Vec<(BlockIndex, u32)>,
}

/// Where a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The holder reads it, or will.
    Held,
    /// The holder was told to stop; its blocks are nobody else's before it answered.
    Revoking,
    /// The holder is gone. Its blocks are free; the lease is kept for its charge, until the holder comes back.
    Lost,
}

impl Lease {
    /// What `block` was charged for; 0 if it is not of this lease.
    pub(super) fn charge(&self, block: BlockIndex) -> u32 {
        let found = self.blocks.binary_search_by_key(&block, |(block, _)| *block);
        found.map_or(0, |index| self.blocks[index].1)
    }

    /// Its holder asks for `bytes` in all, which tells that it reads: a whole step more, and not beyond the end, where it asks
    /// on behalf of the next lease. Who reads nothing has nothing to ask for.
    pub(super) fn asked_for(&mut self, bytes: u64, now: Time) {
        let lease_bytes: u64 = self.blocks.iter().map(|(_, charge)| u64::from(*charge)).sum();
        if bytes <= lease_bytes && bytes.saturating_sub(self.credit_bytes) >= CREDIT_BYTES_MIN {
            self.progress = true;
            if let Some(before) = self.asked_at.replace(now) {
                self.patience = self.patience.max(now.since(before) * SLOW_FACTOR);
            }
        }
        self.credit_bytes = self.credit_bytes.max(bytes);
    }

    /// What of each charge cannot have been read: what is beyond the credit, and beyond what landed.
    pub(super) fn unread(&self) -> Vec<(BlockIndex, u32)> {
        let landed: u64 = self.landed.iter().map(|block| u64::from(self.charge(*block))).sum();
        let rank = |block| u8::from(!self.landed.contains(&block));
        refunds(&self.blocks, self.credit_bytes.max(landed), rank).0
    }
}

/// What to take back of each charge if `read_bytes` were read: those that `rank` puts first were read first. Returns the
/// refunds and the bytes read beyond all charges.
pub(super) fn refunds(
    blocks: &[(BlockIndex, u32)],
    read_bytes: u64,
    rank: impl Fn(BlockIndex) -> u8,
) -> (Vec<(BlockIndex, u32)>, u64) {
    let mut order = blocks.to_vec();
    order.sort_by_key(|(block, _)| rank(*block));
    let mut left = read_bytes;
    for (_, charge) in &mut order {
        let read = u32::try_from(left).unwrap_or(u32::MAX).min(*charge);
        left -= u64::from(read);
        *charge -= read;
    }
    (order, left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_landed_was_read_before_what_did_not() {
        let blocks: Vec<_> = (0..3).map(|block| (BlockIndex(block), 100)).collect();
        let landed_last = |block: BlockIndex| u8::from(block != BlockIndex(2));
        type Case = (u64, [(u32, u32); 3], u64);
        let cases: [Case; 4] = [
            (0, [(2, 100), (0, 100), (1, 100)], 0),
            (130, [(2, 0), (0, 70), (1, 100)], 0),
            (300, [(2, 0), (0, 0), (1, 0)], 0),
            (340, [(2, 0), (0, 0), (1, 0)], 40),
        ];
        for (read_bytes, refunded, beyond) in cases {
            let refunded = refunded.map(|(block, bytes)| (BlockIndex(block), bytes)).to_vec();
            assert_eq!(refunds(&blocks, read_bytes, landed_last), (refunded, beyond), "{read_bytes} bytes read");
        }
    }
}
