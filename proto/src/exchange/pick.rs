//! What to ask whom: rarest first, with ties in an order that each node has for itself.
//!
//! Nodes with the same view so ask for different blocks, and each becomes another source soon.

use std::time::Duration;

use crate::content::BlockSet;
use crate::id::BlockIndex;
use crate::limits::ASKERS_PER_COPY;
use crate::rng::mix;

/// Of the blocks that may be asked for, the one that the fewest neighbours have.
pub(super) fn rarest(candidates: &BlockSet, copies: &[u32], seed: u64) -> Option<BlockIndex> {
    candidates.iter().min_by_key(|block| (copies[block.index()], mix(seed ^ u64::from(block.0))))
}

/// How long a node with this lot, a random number, leaves a block with this many copies to others.
///
/// If all asked for a new block at once, each would wait for the one that has it, in a long queue, while the first ones
/// served could serve the others. So about [`ASKERS_PER_COPY`] nodes ask for each copy at once, and as many more each
/// time that a block takes, `turn`.
pub(super) fn turn_wait(lot: u64, copies: u32, neighbours: usize, turn: Duration) -> Duration {
    let askers = u128::from(copies.max(1)) * ASKERS_PER_COPY;
    // The neighbours stand in line by their lots: how many are before this one, in 1/1024.
    let place = (u128::from(lot) * neighbours as u128) >> 54;
    let rounds = (place / askers).saturating_sub(1024);
    Duration::from_nanos(u64::try_from(rounds * turn.as_nanos() / 1024).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn set(blocks: &[u32]) -> BlockSet {
        let mut set = BlockSet::new(8);
        blocks.iter().for_each(|block| assert!(set.insert(BlockIndex(*block))));
        set
    }

    #[test]
    fn the_rarest_that_both_allow_is_picked() {
        let copies = [1, 5, 2, 9, 9, 9, 9, 9];
        let cases: [(&[u32], &[u32], Option<u32>); 4] = [
            (&[0, 1, 2], &[1, 2, 3], Some(2)),
            (&[1], &[1, 2], Some(1)),
            (&[0, 2], &[1, 3], None),
            (&[], &[0, 1], None),
        ];
        for (missing, has, picked) in cases {
            assert_eq!(
                rarest(&set(missing).intersection(&set(has)), &copies, 7),
                picked.map(BlockIndex),
                "{missing:?} {has:?}"
            );
        }
    }

    #[test]
    fn nodes_break_ties_differently() {
        let all = set(&[0, 1, 2, 3, 4, 5, 6, 7]);
        let picks: BTreeSet<_> = (0..100).filter_map(|seed| rarest(&all, &[1; 8], mix(seed))).collect();
        assert_eq!(picks.len(), 8);
    }

    #[test]
    fn each_copy_has_a_few_askers_at_once_and_more_later() {
        let turn = Duration::from_millis(10);
        let askers = |copies, millis| {
            let asks = |seed: &u64| turn_wait(mix(*seed), copies, 1000, turn) <= Duration::from_millis(millis);
            (0..1000).filter(asks).count()
        };
        assert!((1..=6).contains(&askers(1, 0)), "{}", askers(1, 0));
        assert!((15..=35).contains(&askers(1, 110)), "{}", askers(1, 110));
        assert!((120..=280).contains(&askers(100, 0)), "{}", askers(100, 0));
        assert_eq!(askers(500, 0), 1000);
        assert_eq!(turn_wait(u64::MAX, 1, 1, turn), Duration::ZERO, "with one neighbour there is nobody to wait for");
    }
}
