//! A node's disk: all that outlives its process.

use std::collections::BTreeMap;

use shoal_proto::id::{BlockIndex, ContentId};
use shoal_proto::node::Opened;
use shoal_proto::runs::StepRecord;
use shoal_proto::wan::Lacking;

/// Bytes of a block that are verified and stored together.
pub(crate) const SEGMENT_BYTES: u32 = 64 * 1024;

/// What one disk holds.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    contents: BTreeMap<ContentId, Stored>,
    /// What the node wrote down of the steps that it ran.
    pub(crate) steps: Vec<StepRecord>,
}

#[derive(Debug)]
struct Stored {
    blocks: Vec<u32>,
    /// Bytes lacking of each block.
    lacking: Vec<u32>,
    sealed: bool,
}

impl Disk {
    /// Makes room for a content, with `lacking` bytes of each block to come; nothing happens if it is there.
    pub(crate) fn add(&mut self, content: ContentId, blocks: &[u32], lacking: &[u32]) {
        let stored = Stored { blocks: blocks.to_vec(), lacking: lacking.to_vec(), sealed: false };
        self.contents.entry(content).or_insert(stored);
    }

    pub(crate) fn opened(&self, content: ContentId) -> Option<Opened> {
        let stored = self.contents.get(&content)?;
        let lacking = stored.lacking.iter().zip(0..).filter(|(bytes, _)| **bytes > 0);
        let lacking = lacking.map(|(bytes, block)| Lacking { block: BlockIndex(block), bytes: *bytes });
        let sum = |bytes: &[u32]| bytes.iter().map(|bytes| u64::from(*bytes)).sum::<u64>();
        Some(Opened {
            block_bytes: stored.blocks.clone(),
            lacking: lacking.collect(),
            local_bytes: sum(&stored.blocks) - sum(&stored.lacking),
            sealed: stored.sealed,
        })
    }

    /// Bytes lacking of a block; `None` if the content or block is not known here.
    pub(crate) fn lacking(&self, content: ContentId, block: BlockIndex) -> Option<u32> {
        self.contents.get(&content)?.lacking.get(block.index()).copied()
    }

    pub(crate) fn has(&self, content: ContentId, block: BlockIndex) -> bool {
        self.lacking(content, block) == Some(0)
    }

    pub(crate) fn is_sealed(&self, content: ContentId) -> bool {
        self.contents.get(&content).is_some_and(|stored| stored.sealed)
    }

    /// Stores a whole block; says whether some of it was lacking.
    pub(crate) fn store(&mut self, content: ContentId, block: BlockIndex) -> bool {
        let lacking = self.contents.get_mut(&content).and_then(|stored| stored.lacking.get_mut(block.index()));
        lacking.is_some_and(|lacking| std::mem::take(lacking) > 0)
    }

    /// Stores what is verified of `bytes` that were read of a block, but never all of it; says how much that was.
    pub(crate) fn store_part(&mut self, content: ContentId, block: BlockIndex, bytes: u32) -> u32 {
        let lacking = self.contents.get_mut(&content).and_then(|stored| stored.lacking.get_mut(block.index()));
        let Some(lacking) = lacking.filter(|lacking| **lacking > 0) else { return 0 };
        let whole = bytes / SEGMENT_BYTES * SEGMENT_BYTES;
        let kept = whole.min((*lacking - 1) / SEGMENT_BYTES * SEGMENT_BYTES);
        *lacking -= kept;
        kept
    }

    /// Loses what was written of contents that are not sealed, as a power failure may; says how many bytes of which block.
    pub(crate) fn lose_unsealed(&mut self) -> Vec<(ContentId, BlockIndex, u64)> {
        let mut lost = Vec::new();
        for (content, stored) in self.contents.iter_mut().filter(|(_, stored)| !stored.sealed) {
            let there = stored.blocks.iter().zip(&stored.lacking).zip(0..);
            lost.extend(
                there.map(|((bytes, lacking), block)| (*content, BlockIndex(block), u64::from(bytes - lacking))),
            );
            stored.lacking.clone_from(&stored.blocks);
        }
        lost
    }

    /// Makes a content durable; says whether it is whole.
    pub(crate) fn seal(&mut self, content: ContentId) -> bool {
        let Some(stored) = self.contents.get_mut(&content) else { return false };
        stored.sealed = stored.lacking.iter().all(|bytes| *bytes == 0);
        stored.sealed
    }
}
