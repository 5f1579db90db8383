//! Recipes: which segments and which glue, in which order, make a package.
//!
//! A recipe tiles its package exactly: every byte is in one segment, one repeat of an earlier segment, or glue. It keeps
//! segments and repeats with their places and all glue in one run of bytes; where glue stands is what lies between them,
//! so that a recipe cannot be made that does not tile. How a recipe becomes bytes is in `form`; whether its hashes belong
//! to the package that it names is known to whoever cut it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::form;
use crate::id::{PackageId, RecipeId, SegmentHash};
use crate::limits::{PACKAGE_BYTES_MAX, RECIPE_BYTES_MAX, RECIPE_SEGMENTS_MAX, SEGMENT_BYTES_MAX};

/// A run of a content, with its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Hash of its bytes.
    pub hash: SegmentHash,
    /// Where it starts in the content, in bytes.
    pub offset: u64,
    /// Its length in bytes, from 1 to [`SEGMENT_BYTES_MAX`].
    pub len: u32,
}

impl Segment {
    /// Where it ends in the content, in bytes.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }
}

/// A further occurrence of a segment: filled by copying, never transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// Which segment, as an index into the distinct segments; that segment stands before this place.
    pub segment: u32,
    /// Where it occurs again in the content, in bytes.
    pub offset: u64,
}

/// Why bytes are not the plain form of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecipeError {
    /// More than [`RECIPE_BYTES_MAX`].
    #[error("a recipe of {len} bytes where at most {RECIPE_BYTES_MAX} are allowed")]
    TooLarge {
        /// The size found, in bytes.
        len: usize,
    },
    /// Another version of the form.
    #[error("recipe version {found}, but this program reads version {version}", version = form::VERSION)]
    Version {
        /// The version found.
        found: u8,
    },
    /// The bytes end too early.
    #[error("the recipe ends in the middle")]
    Truncated,
    /// The bytes do not end where the recipe does.
    #[error("{0} bytes after the end of the recipe")]
    Trailing(usize),
    /// A number that is too large or not in its shortest form.
    #[error("a malformed number in the recipe")]
    Number,
    /// More segments and repeats than [`RECIPE_SEGMENTS_MAX`].
    #[error("a recipe of more than {RECIPE_SEGMENTS_MAX} segments")]
    TooManySegments,
    /// A part of an unknown kind.
    #[error("part {part} is of an unknown kind")]
    PartKind {
        /// Which part, from 0.
        part: usize,
    },
    /// A part whose length is not allowed: empty, or a segment over [`SEGMENT_BYTES_MAX`].
    #[error("part {part} has a length of {len} bytes")]
    PartLength {
        /// Which part, from 0.
        part: usize,
        /// The length found, in bytes.
        len: u64,
    },
    /// Glue directly after glue: two spellings of one recipe.
    #[error("part {part} is glue and follows glue")]
    SplitGlue {
        /// Which part, from 0.
        part: usize,
    },
    /// A repeat of a segment that does not stand before it.
    #[error("part {part} repeats a segment that is not before it")]
    Repeat {
        /// Which part, from 0.
        part: usize,
    },
    /// One hash for two segments: two spellings of one recipe, or two lengths for one hash.
    #[error("segment {segment} has the hash of another one")]
    SameHash {
        /// Which of the distinct segments, from 0.
        segment: usize,
    },
    /// A package of more than [`PACKAGE_BYTES_MAX`].
    #[error("a recipe of a package of over {PACKAGE_BYTES_MAX} bytes")]
    PackageTooLarge,
}

/// How one package is put together. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    id: RecipeId,
    package: PackageId,
    size: u64,
    segments: Arc<[Segment]>,
    repeats: Arc<[Repeat]>,
    glue: Arc<[u8]>,
}

/// One part of a recipe, in the order of the package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// The first occurrence of a segment.
    Segment(&'a Segment),
    /// A further occurrence of a segment.
    Repeat(&'a Repeat),
    /// Bytes that stand in the recipe itself; never directly after other glue.
    Glue {
        /// Where they start in the package, in bytes.
        offset: u64,
        /// The bytes, at least one.
        bytes: &'a [u8],
    },
}

impl Recipe {
    /// The hash of the plain form.
    pub fn id(&self) -> RecipeId {
        self.id
    }

    /// The package that it describes.
    pub fn package(&self) -> PackageId {
        self.package
    }

    /// The package's size in bytes.
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

    /// How many bytes of the package are glue.
    pub fn glue_bytes(&self) -> usize {
        self.glue.len()
    }

    /// The parts, which tile the package from its first byte to its last.
    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        Parts { recipe: self, position: 0, segment: 0, repeat: 0, glue: 0 }
    }

    /// The glue, as places in the package and bytes, in ascending order.
    pub fn glue(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.parts().filter_map(|part| match part {
            Part::Glue { offset, bytes } => Some((offset, bytes)),
            Part::Segment(_) | Part::Repeat(_) => None,
        })
    }

    /// The plain form: canonical, at most [`RECIPE_BYTES_MAX`] bytes, and what [`Recipe::id`] is the hash of.
    pub fn encode(&self) -> Vec<u8> {
        form::encode(self)
    }

    /// Reads a plain form, of which nothing is believed: memory stays within a small multiple of its size, and every
    /// accepted byte string is what [`Recipe::encode`] gives for the result.
    ///
    /// # Errors
    /// Every [`RecipeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecipeError> {
        form::decode(bytes)
    }

    pub(super) fn shared_segments(&self) -> Arc<[Segment]> {
        Arc::clone(&self.segments)
    }

    pub(super) fn shared_repeats(&self) -> Arc<[Repeat]> {
        Arc::clone(&self.repeats)
    }
}

struct Parts<'a> {
    recipe: &'a Recipe,
    position: u64,
    segment: usize,
    repeat: usize,
    glue: usize,
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        let recipe = self.recipe;
        let segment = recipe.segments.get(self.segment);
        if let Some(segment) = segment.filter(|segment| segment.offset == self.position) {
            self.segment += 1;
            self.position = segment.end();
            return Some(Part::Segment(segment));
        }
        let repeat = recipe.repeats.get(self.repeat);
        if let Some(repeat) = repeat.filter(|repeat| repeat.offset == self.position) {
            self.repeat += 1;
            self.position += u64::from(recipe.segments[repeat.segment as usize].len);
            return Some(Part::Repeat(repeat));
        }
        let next_segment = segment.map_or(recipe.size, |segment| segment.offset);
        let end = repeat.map_or(next_segment, |repeat| repeat.offset.min(next_segment));
        if end == self.position {
            return None;
        }
        let (offset, start) = (self.position, self.glue);
        self.glue += (end - offset) as usize;
        self.position = end;
        Some(Part::Glue { offset, bytes: &recipe.glue[start..self.glue] })
    }
}

/// Puts parts one after the other, so that they tile. Leaves the limits of bytes to its two users, `form` and `cut`.
#[derive(Debug, Default)]
pub(super) struct RecipeBuilder {
    position: u64,
    segments: Vec<Segment>,
    repeats: Vec<Repeat>,
    glue: Vec<u8>,
}

impl RecipeBuilder {
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    pub(super) fn occurrences(&self) -> usize {
        self.segments.len() + self.repeats.len()
    }

    /// The next distinct segment; the hash may be filled in later by [`RecipeBuilder::set_hashes`].
    pub(super) fn segment(&mut self, hash: SegmentHash, len: u32) {
        debug_assert!(len > 0 && len as usize <= SEGMENT_BYTES_MAX);
        self.segments.push(Segment { hash, offset: self.position, len });
        self.position += u64::from(len);
    }

    /// A further occurrence of the distinct segment with this index.
    pub(super) fn repeat(&mut self, segment: u32) {
        let len = self.segments[segment as usize].len;
        self.repeats.push(Repeat { segment, offset: self.position });
        self.position += u64::from(len);
    }

    pub(super) fn glue(&mut self, bytes: &[u8]) {
        self.glue.extend_from_slice(bytes);
        self.position += bytes.len() as u64;
    }

    /// Glue whose bytes follow with [`RecipeBuilder::set_glue`].
    pub(super) fn glue_place(&mut self, len: u64) {
        self.position += len;
    }

    pub(super) fn set_hashes<'a>(&mut self, hashes: impl Iterator<Item = &'a [u8; 32]>) {
        for (segment, hash) in self.segments.iter_mut().zip(hashes) {
            segment.hash = SegmentHash(*hash);
        }
    }

    pub(super) fn set_glue(&mut self, bytes: &[u8]) {
        self.glue = bytes.to_vec();
    }

    /// The recipe; `plain` is its plain form where that is at hand.
    pub(super) fn finish(self, package: PackageId, plain: Option<&[u8]>) -> Recipe {
        debug_assert!(self.position <= PACKAGE_BYTES_MAX && self.occurrences() <= RECIPE_SEGMENTS_MAX);
        let mut recipe = Recipe {
            id: RecipeId([0; 32]),
            package,
            size: self.position,
            segments: self.segments.into(),
            repeats: self.repeats.into(),
            glue: self.glue.into(),
        };
        let hash = plain.map_or_else(|| blake3::hash(&form::encode(&recipe)), blake3::hash);
        recipe.id = RecipeId(*hash.as_bytes());
        recipe
    }
}
