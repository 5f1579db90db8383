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

    /// Whether some block is in both; cheaper than [`BlockSet::intersection`].
    pub fn intersects(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).any(|(mine, theirs)| mine & theirs != 0)
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
        if let Some(last) = self.words.last_mut().filter(|_| self.count % WORD_BITS != 0) {
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
