//! Sets of blocks: what a node has, wants or holds a lease for, one bit a block.
//!
//! A set knows how many blocks its content has and never holds one beyond. No operation panics on an index that came
//! over the wire: a block that does not exist is in no set and cannot be put into one.

use std::fmt;
use std::iter;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::id::BlockIndex;
use crate::limits::BLOCKS_MAX;

const WORD_BITS: u32 = u64::BITS;

/// A set of the blocks of one content. Encodes as runs or as bits, whichever is shorter.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "Encoded", try_from = "Encoded")]
pub struct BlockSet {
    count: u32,
    len: u32,
    /// Bits at or above `count` are 0.
    words: Vec<u64>,
}

impl BlockSet {
    /// No block of a content of `count` blocks.
    pub fn new(count: u32) -> Self {
        Self { count, len: 0, words: vec![0; count.div_ceil(WORD_BITS) as usize] }
    }

    /// All blocks of a content of `count` blocks.
    pub fn full(count: u32) -> Self {
        let mut set = Self::new(count);
        set.insert_range(0..count);
        set
    }

    /// How many blocks the content has.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How many blocks are in the set.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether no block is in the set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether every block is in the set.
    pub fn is_full(&self) -> bool {
        self.len == self.count
    }

    /// Whether `block` is in the set.
    pub fn contains(&self, block: BlockIndex) -> bool {
        block.0 < self.count && self.words[word(block.0)] & bit(block.0) != 0
    }

    /// Puts `block` in; whether that changed the set.
    pub fn insert(&mut self, block: BlockIndex) -> bool {
        let changed = block.0 < self.count && !self.contains(block);
        if changed {
            self.words[word(block.0)] |= bit(block.0);
            self.len += 1;
        }
        changed
    }

    /// Takes `block` out; whether that changed the set.
    pub fn remove(&mut self, block: BlockIndex) -> bool {
        let changed = self.contains(block);
        if changed {
            self.words[word(block.0)] &= !bit(block.0);
            self.len -= 1;
        }
        changed
    }

    /// Puts all blocks of `range` in; those that do not exist are left out.
    pub fn insert_range(&mut self, range: Range<u32>) {
        (range.start..range.end.min(self.count)).for_each(|block| {
            self.insert(BlockIndex(block));
        });
    }

    /// Adds the blocks of `other`; those that do not exist here are left out.
    pub fn union_with(&mut self, other: &Self) {
        self.combine(other, |mine, theirs| mine | theirs);
    }

    /// Keeps only what `other` has too.
    pub fn intersect_with(&mut self, other: &Self) {
        self.combine(other, |mine, theirs| mine & theirs);
    }

    /// Takes out what `other` has.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, |mine, theirs| mine & !theirs);
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut set = self.clone();
        set.union_with(other);
        set
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut set = self.clone();
        set.intersect_with(other);
        set
    }

    /// What is here but not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut set = self.clone();
        set.subtract(other);
        set
    }

    /// The blocks that are not in the set, as a set.
    #[must_use]
    pub fn missing(&self) -> Self {
        Self::full(self.count).difference(self)
    }

    /// Whether every block here is in `other` too.
    pub fn is_subset(&self, other: &Self) -> bool {
        let theirs = other.words.iter().copied().chain(iter::repeat(0));
        self.words.iter().zip(theirs).all(|(mine, theirs)| mine & !theirs == 0)
    }

    /// The first block that is in the set.
    pub fn first(&self) -> Option<BlockIndex> {
        self.next(0, true).map(BlockIndex)
    }

    /// The first block that is not in the set.
    pub fn first_missing(&self) -> Option<BlockIndex> {
        self.next(0, false).map(BlockIndex)
    }

    /// The blocks of the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = BlockIndex> {
        self.positions(true)
    }

    /// The blocks that are in both, ascending: [`BlockSet::intersection`] without the set.
    pub fn common<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = BlockIndex> + 'a {
        self.words.iter().zip(&other.words).zip(0..).flat_map(|((mine, theirs), word)| {
            let mut both = mine & theirs;
            iter::from_fn(move || {
                let lowest = (both != 0).then(|| both.trailing_zeros())?;
                both &= both - 1;
                Some(BlockIndex(word * WORD_BITS + lowest))
            })
        })
    }

    /// The blocks that are not in the set, ascending.
    pub fn iter_missing(&self) -> impl Iterator<Item = BlockIndex> {
        self.positions(false)
    }

    /// The maximal runs of adjacent blocks of the set, ascending, none empty.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u32>> {
        let mut from = 0;
        iter::from_fn(move || {
            let start = self.next(from, true)?;
            from = self.next(start, false).unwrap_or(self.count);
            Some(start..from)
        })
    }

    fn positions(&self, present: bool) -> impl Iterator<Item = BlockIndex> {
        let mut from = 0;
        iter::from_fn(move || {
            let block = self.next(from, present)?;
            from = block + 1;
            Some(BlockIndex(block))
        })
    }

    /// The first block at or after `from` that is in the set, or with `present` false, that is not.
    fn next(&self, from: u32, present: bool) -> Option<u32> {
        let flip = if present { 0 } else { u64::MAX };
        let mut below = bit(from) - 1;
        for (index, bits) in self.words.iter().enumerate().skip(word(from)) {
            let found = (bits ^ flip) & !below;
            if found != 0 {
                let block = index as u32 * WORD_BITS + found.trailing_zeros();
                return (block < self.count).then_some(block);
            }
            below = 0;
        }
        None
    }

    fn combine(&mut self, other: &Self, op: impl Fn(u64, u64) -> u64) {
        let theirs = other.words.iter().copied().chain(iter::repeat(0));
        for (mine, theirs) in self.words.iter_mut().zip(theirs) {
            *mine = op(*mine, theirs);
        }
        if let Some(last) = self.words.last_mut().filter(|_| !self.count.is_multiple_of(WORD_BITS)) {
            *last &= bit(self.count) - 1;
        }
        self.len = self.words.iter().map(|word| word.count_ones()).sum();
    }
}

fn word(block: u32) -> usize {
    (block / WORD_BITS) as usize
}

fn bit(block: u32) -> u64 {
    1 << (block % WORD_BITS)
}

impl fmt::Debug for BlockSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} ", self.len, self.count)?;
        f.debug_list().entries(self.ranges()).finish()
    }
}

impl Extend<BlockIndex> for BlockSet {
    fn extend<I: IntoIterator<Item = BlockIndex>>(&mut self, blocks: I) {
        blocks.into_iter().for_each(|block| {
            self.insert(block);
        });
    }
}

/// What travels.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Encoded {
    count: u32,
    form: Form,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Form {
    /// Lengths of runs, in turn not in the set and in the set; only the first may be 0, and the last is in the set.
    Runs(Vec<u32>),
    /// A bit a block, the lowest bit of each byte first.
    Bits(Vec<u8>),
}

#[derive(Debug, Error)]
enum BlockSetError {
    #[error("{0} blocks where at most {BLOCKS_MAX} are allowed")]
    TooMany(u32),
    #[error("a set of blocks that is not in its one form")]
    NotCanonical,
}

impl From<BlockSet> for Encoded {
    fn from(set: BlockSet) -> Self {
        Self::of(&set)
    }
}

impl Encoded {
    fn of(set: &BlockSet) -> Self {
        let bits_len = set.count.div_ceil(8) as usize;
        let mut runs = Vec::new();
        let mut end = 0;
        for range in set.ranges() {
            runs.extend([range.start - end, range.end - range.start]);
            end = range.end;
            if runs.len() > bits_len {
                let bytes = set.words.iter().flat_map(|word| word.to_le_bytes()).take(bits_len);
                return Self { count: set.count, form: Form::Bits(bytes.collect()) };
            }
        }
        Self { count: set.count, form: Form::Runs(runs) }
    }
}

impl TryFrom<Encoded> for BlockSet {
    type Error = BlockSetError;

    fn try_from(encoded: Encoded) -> Result<Self, BlockSetError> {
        if encoded.count > BLOCKS_MAX {
            return Err(BlockSetError::TooMany(encoded.count));
        }
        let mut set = Self::new(encoded.count);
        match &encoded.form {
            Form::Runs(runs) => {
                let mut end = 0u32;
                for (index, run) in runs.iter().enumerate() {
                    let start = end;
                    end = start.checked_add(*run).ok_or(BlockSetError::NotCanonical)?;
                    if index % 2 == 1 {
                        set.insert_range(start..end);
                    }
                }
            }
            Form::Bits(bytes) => {
                for (index, byte) in bytes.iter().enumerate().take(encoded.count.div_ceil(8) as usize) {
                    set.words[index / 8] |= u64::from(*byte) << (index % 8 * 8);
                }
                // Drops bits beyond the end and counts.
                set.union_with(&Self::new(0));
            }
        }
        // One set has one form: whatever else was sent (a trailing gap, a bit beyond the end) does not come out again.
        if Encoded::of(&set) == encoded { Ok(set) } else { Err(BlockSetError::NotCanonical) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::codec;

    fn set(count: u32, blocks: &BTreeSet<u32>) -> BlockSet {
        let mut set = BlockSet::new(count);
        set.extend(blocks.iter().copied().map(BlockIndex));
        set
    }

    fn blocks(set: &BlockSet) -> BTreeSet<u32> {
        set.iter().map(|block| block.0).collect()
    }

    /// A count, and two sets of numbers some of which are beyond it.
    fn two_sets() -> impl Strategy<Value = (u32, BTreeSet<u32>, BTreeSet<u32>)> {
        let numbers = || {
            prop_oneof![
                prop::collection::btree_set(0u32..300, 0..200),
                (0u32..300, 0u32..300).prop_map(|(a, b)| (a.min(b)..a.max(b)).collect()),
            ]
        };
        (prop_oneof![0u32..280, Just(64), Just(128)], numbers(), numbers())
    }

    proptest! {
        #[test]
        fn agrees_with_a_btree_set((count, a, b) in two_sets()) {
            let (mine, theirs) = (set(count, &a), set(count, &b));
            let a: BTreeSet<u32> = a.range(..count).copied().collect();
            let b: BTreeSet<u32> = b.range(..count).copied().collect();
            let all: BTreeSet<u32> = (0..count).collect();

            prop_assert_eq!(&blocks(&mine), &a);
            prop_assert_eq!(mine.len() as usize, a.len());
            prop_assert_eq!((mine.is_empty(), mine.is_full()), (a.is_empty(), a == all));
            prop_assert_eq!(blocks(&mine.union(&theirs)), &a | &b);
            prop_assert_eq!(blocks(&mine.intersection(&theirs)), &a & &b);
            prop_assert_eq!(blocks(&mine.difference(&theirs)), &a - &b);
            prop_assert_eq!(mine.union(&theirs).len() as usize, (&a | &b).len());
            prop_assert_eq!(mine.common(&theirs).collect::<Vec<_>>(), mine.intersection(&theirs).iter().collect::<Vec<_>>());
            prop_assert_eq!(mine.is_subset(&theirs), a.is_subset(&b));
            prop_assert_eq!(blocks(&mine.missing()), &all - &a);
            prop_assert_eq!(mine.iter_missing().map(|block| block.0).collect::<BTreeSet<_>>(), &all - &a);
            prop_assert_eq!(mine.first(), a.first().copied().map(BlockIndex));
            prop_assert_eq!(mine.first_missing(), (&all - &a).first().copied().map(BlockIndex));
        }

        #[test]
        fn inserts_and_removes_like_a_btree_set((count, start, changes) in two_sets()) {
            let mut mine = set(count, &start);
            let mut model: BTreeSet<u32> = start.range(..count).copied().collect();
            for number in changes {
                let block = BlockIndex(number);
                prop_assert_eq!(mine.contains(block), model.contains(&number));
                if number % 2 == 0 {
                    prop_assert_eq!(mine.insert(block), number < count && model.insert(number));
                } else {
                    prop_assert_eq!(mine.remove(block), model.remove(&number));
                }
                prop_assert_eq!(mine.len() as usize, model.len());
            }
            prop_assert_eq!(blocks(&mine), model);
        }

        #[test]
        fn ranges_are_maximal_and_cover_the_set((count, a, _) in two_sets()) {
            let mine = set(count, &a);
            let ranges: Vec<_> = mine.ranges().collect();
            prop_assert!(ranges.iter().all(|range| range.start < range.end));
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert_eq!(ranges.into_iter().flatten().collect::<BTreeSet<_>>(), blocks(&mine));
        }

        #[test]
        fn sets_of_different_contents_mix_without_panic((count, a, b) in two_sets(), other in 0u32..280) {
            let (mine, theirs) = (set(count, &a), set(other, &b));
            let expected: BTreeSet<u32> = a.iter().chain(b.range(..other)).copied().filter(|n| *n < count).collect();
            prop_assert_eq!(blocks(&mine.union(&theirs)), expected);
            prop_assert_eq!(mine.is_subset(&theirs), blocks(&mine).is_subset(&blocks(&theirs)));
        }

        #[test]
        fn travels_compactly_and_back((count, a, _) in two_sets()) {
            let mine = set(count, &a);
            let bytes = codec::encode(&mine, 1 << 20).unwrap();
            prop_assert!(bytes.len() as u32 <= count.div_ceil(8) * 3 + 8, "{} bytes for {count} blocks", bytes.len());
            prop_assert_eq!(codec::decode::<BlockSet>(&bytes, 1 << 20).unwrap(), mine);
        }

        #[test]
        fn what_decodes_encodes_to_the_same_bytes(body in prop::collection::vec(0u8..12, 0..30)) {
            let mut bytes = vec![codec::VERSION];
            bytes.extend(body);
            if let Ok(decoded) = codec::decode::<BlockSet>(&bytes, 1 << 20) {
                prop_assert_eq!(codec::encode(&decoded, 1 << 20).unwrap(), bytes);
            }
        }
    }

    #[test]
    fn a_swarm_of_sets_is_small_on_the_wire() {
        let bytes = |set: &BlockSet| codec::encode(set, 1 << 20).unwrap().len();
        assert!(bytes(&BlockSet::full(30_000)) < 16);
        let mut scattered = BlockSet::new(30_000);
        scattered.extend((0..30_000).step_by(2).map(BlockIndex));
        assert!(bytes(&scattered) < 30_000 / 8 + 16);
    }

    #[test]
    fn other_spellings_and_sizes_are_refused() {
        let decode = |encoded: &Encoded| codec::decode::<BlockSet>(&codec::encode(encoded, 1 << 20).unwrap(), 1 << 20);
        let runs = |count, runs: &[u32]| Encoded { count, form: Form::Runs(runs.to_vec()) };
        assert_eq!(decode(&runs(100, &[3, 4, 1, 2])).unwrap().ranges().collect::<Vec<_>>(), [3..7, 8..10]);
        for (wrong, why) in [
            (runs(100, &[3, 4, 1]), "a gap at the end"),
            (runs(100, &[3, 4, 0, 2]), "a run in two pieces"),
            (runs(100, &[3, 0]), "an empty run"),
            (runs(8, &[3, 6]), "a run beyond the end"),
            (runs(100, &[1, u32::MAX, 1, 1]), "an overflow"),
            (runs(BLOCKS_MAX + 1, &[]), "too many blocks"),
            (Encoded { count: 64, form: Form::Bits(vec![0xff; 8]) }, "bits where runs are shorter"),
            (Encoded { count: 4, form: Form::Bits(vec![0x15]) }, "a bit beyond the end"),
        ] {
            assert!(decode(&wrong).is_err(), "{why}");
        }
    }
}
