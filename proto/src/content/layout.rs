//! Layouts: what the swarm and the store need to know of a package or a recipe.
//!
//! Both are segments with hashes and places, grouped into blocks; each distinct segment is in exactly one block and is
//! transferred once. Everything is derived from a [`Recipe`] or an [`Outline`], so that all who hold the same one agree
//! on its blocks without a word.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::recipe::{Recipe, Repeat, Segment};
use crate::id::{BlockIndex, ContentId, RecipeId, SegmentHash};
use crate::limits::{BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, BLOCKS_PER_PACKAGE, RECIPE_BYTES_MAX, SEGMENT_BYTES_MAX};

/// A recipe as something to fetch: pieces of [`SEGMENT_BYTES_MAX`] of its plain form (the last may be shorter), each one
/// segment and one block. Part of the signed manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    /// The recipe.
    pub recipe: RecipeId,
    /// Size of its plain form in bytes.
    pub size: u64,
    /// Hashes of its pieces, in order.
    pub pieces: Vec<SegmentHash>,
}

/// Why an outline cannot be that of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OutlineError {
    /// A size that no recipe has.
    #[error("a recipe of {size} bytes where 1 to {RECIPE_BYTES_MAX} are allowed")]
    Size {
        /// The size found, in bytes.
        size: u64,
    },
    /// More or fewer pieces than the size calls for.
    #[error("{found} pieces for a recipe of {size} bytes")]
    PieceCount {
        /// The number of pieces found.
        found: usize,
        /// The size of the recipe, in bytes.
        size: u64,
    },
    /// The short last piece has the hash of a full one.
    #[error("two pieces of different length have the same hash")]
    SameHash,
}

impl Outline {
    /// The outline of a recipe's plain form.
    pub fn of_plain_form(plain: &[u8]) -> Self {
        Self {
            recipe: RecipeId(*blake3::hash(plain).as_bytes()),
            size: plain.len() as u64,
            pieces: plain.chunks(SEGMENT_BYTES_MAX).map(SegmentHash::of).collect(),
        }
    }

    /// Checks that the pieces can make up a recipe.
    ///
    /// # Errors
    /// Every [`OutlineError`].
    pub fn validate(&self) -> Result<(), OutlineError> {
        let (size, piece) = (self.size, SEGMENT_BYTES_MAX as u64);
        if size == 0 || size > RECIPE_BYTES_MAX as u64 {
            return Err(OutlineError::Size { size });
        }
        if self.pieces.len() as u64 != size.div_ceil(piece) {
            return Err(OutlineError::PieceCount { found: self.pieces.len(), size });
        }
        match self.pieces.split_last() {
            Some((last, full)) if !size.is_multiple_of(piece) && full.contains(last) => Err(OutlineError::SameHash),
            _ => Ok(()),
        }
    }
}

/// The segments and blocks of one content. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    content: ContentId,
    size: u64,
    segments: Arc<[Segment]>,
    repeats: Arc<[Repeat]>,
    /// Where each block starts, and where the last ends.
    bounds: Arc<[Bound]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound {
    /// Index of the first segment of the block.
    segment: u32,
    /// Bytes of all segments before it.
    bytes: u64,
}

impl Layout {
    /// The layout of the package that `recipe` describes. A block ends with the segment that reaches the target size.
    pub fn of_recipe(recipe: &Recipe) -> Self {
        let size = recipe.size();
        let target = (size / BLOCKS_PER_PACKAGE).clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX);
        let segments = recipe.shared_segments();
        let bounds = bounds(&segments, target);
        Self { content: recipe.package().into(), size, segments, repeats: recipe.shared_repeats(), bounds }
    }

    /// The layout of a recipe's plain form.
    ///
    /// # Errors
    /// What [`Outline::validate`] says.
    pub fn of_outline(outline: &Outline) -> Result<Self, OutlineError> {
        outline.validate()?;
        let mut first = BTreeMap::new();
        let (mut segments, mut repeats) = (Vec::new(), Vec::new());
        for (&hash, offset) in outline.pieces.iter().zip((0u64..).step_by(SEGMENT_BYTES_MAX)) {
            if let Some(&segment) = first.get(&hash) {
                repeats.push(Repeat { segment, offset });
            } else {
                first.insert(hash, segments.len() as u32);
                let len = (outline.size - offset).min(SEGMENT_BYTES_MAX as u64) as u32;
                segments.push(Segment { hash, offset, len });
            }
        }
        let bounds = bounds(&segments, 1);
        let (content, size) = (outline.recipe.into(), outline.size);
        Ok(Self { content, size, segments: segments.into(), repeats: repeats.into(), bounds })
    }

    /// What it is the layout of.
    pub fn content(&self) -> ContentId {
        self.content
    }

    /// Size of the content in bytes, glue and repeats included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Each distinct segment once, where it occurs first, in ascending order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The further occurrences of segments, in ascending order.
    pub fn repeats(&self) -> &[Repeat] {
        &self.repeats
    }

    /// Bytes of all distinct segments: what is transferred to a node that has nothing.
    pub fn transfer_bytes(&self) -> u64 {
        self.bounds[self.bounds.len() - 1].bytes
    }

    /// How many blocks there are, at most [`BLOCKS_MAX`](crate::limits::BLOCKS_MAX).
    pub fn block_count(&self) -> u32 {
        self.bounds.len() as u32 - 1
    }

    /// Every block, in order.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = BlockIndex> + use<> {
        (0..self.block_count()).map(BlockIndex)
    }

    /// The segments of a block, as indices into [`Layout::segments`]; none for a block that does not exist.
    pub fn block_segments(&self, block: BlockIndex) -> Range<usize> {
        self.block_bounds(block).map_or(0..0, |[start, end]| start.segment as usize..end.segment as usize)
    }

    /// How many bytes the segments of a block have; 0 for a block that does not exist.
    pub fn block_bytes(&self, block: BlockIndex) -> u64 {
        self.block_bounds(block).map_or(0, |[start, end]| end.bytes - start.bytes)
    }

    /// The stretch of the content from a block's first byte to its last, with what lies between its segments.
    pub fn block_span(&self, block: BlockIndex) -> Range<u64> {
        match &self.segments[self.block_segments(block)] {
            [] => 0..0,
            [only] => only.offset..only.end(),
            [first, .., last] => first.offset..last.end(),
        }
    }

    /// The block that a segment belongs to, by its index into [`Layout::segments`]; none if there is no such segment.
    pub fn block_of_segment(&self, segment: usize) -> Option<BlockIndex> {
        let after = self.bounds.partition_point(|bound| bound.segment as usize <= segment);
        (segment < self.segments.len()).then(|| BlockIndex(after as u32 - 1))
    }

    fn block_bounds(&self, block: BlockIndex) -> Option<[Bound; 2]> {
        let index = block.index();
        Some([*self.bounds.get(index)?, *self.bounds.get(index + 1)?])
    }
}

fn bounds(segments: &[Segment], target: u64) -> Arc<[Bound]> {
    let mut bound = Bound { segment: 0, bytes: 0 };
    let mut bounds = vec![bound];
    let mut block_start = 0;
    for segment in segments {
        bound.segment += 1;
        bound.bytes += u64::from(segment.len);
        if bound.bytes - block_start >= target {
            bounds.push(bound);
            block_start = bound.bytes;
        }
    }
    if bound.bytes > block_start {
        bounds.push(bound);
    }
    bounds.into()
}
