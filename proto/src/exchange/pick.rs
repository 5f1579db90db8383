//! What to ask whom: rarest first, with ties in an order that each node has for itself.
//!
//! Nodes with the same view so ask for different blocks, and each becomes another source soon.

use crate::id::BlockIndex;
use crate::rng::mix;

/// Of the blocks that may be asked for, the one that the fewest neighbours have.
pub(super) fn rarest(candidates: impl Iterator<Item = BlockIndex>, copies: &[u32], seed: u64) -> Option<BlockIndex> {
    let tie = |block: &BlockIndex| mix(seed ^ u64::from(block.0));
    let rarer =
        |a: &BlockIndex, b: &BlockIndex| copies[a.index()].cmp(&copies[b.index()]).then_with(|| tie(a).cmp(&tie(b)));
    candidates.min_by(rarer)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::content::BlockSet;

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
                rarest(set(missing).common(&set(has)), &copies, 7),
                picked.map(BlockIndex),
                "{missing:?} {has:?}"
            );
        }
    }

    #[test]
    fn nodes_break_ties_differently() {
        let all = set(&[0, 1, 2, 3, 4, 5, 6, 7]);
        let picks: BTreeSet<_> = (0..100).filter_map(|seed| rarest(all.iter(), &[1; 8], mix(seed))).collect();
        assert_eq!(picks.len(), 8);
    }
}
