//! Cutting: from a package's bytes, pushed in order, to its recipe.
//!
//! The recipe depends on the bytes alone, not on how they were pushed, so that all who cut a package make the same one.
//! It always tiles the package and always fits in a recipe's limits: where room runs short, the rest is cut coarsely.
//! Memory is the recipe, an index of its hashes and 1 MiB.
//!
//! | stretch of the package | becomes |
//! | --- | --- |
//! | data of a zip entry under 64 bytes | glue: a hash would cost about as much |
//! | data of a zip entry up to 128 KiB | one segment |
//! | data of a zip entry over 128 KiB | segments by FastCDC, within the entry |
//! | local header of a zip entry | glue |
//! | other bytes between entries, up to 64 KiB | glue |
//! | more than that (a self-extractor, a signing block) | segments by FastCDC |
//! | central directory and all behind it | glue, of any size: 97 % of it compresses against the version before |
//! | a package that is no zip | segments by FastCDC |
//!
//! A local header that contradicts the central directory makes its entry part of the bytes between entries.

use std::collections::BTreeMap;

use fastcdc::v2020::FastCDC;
use thiserror::Error;

use super::recipe::{Recipe, RecipeBuilder};
use super::zip_scan::{LOCAL_HEADER_LEN, Shape, ZipEntries, ZipEntry, local_header_len};
use crate::id::{PackageId, SegmentHash};
use crate::limits::{
    PACKAGE_BYTES_MAX, RECIPE_BYTES_MAX, RECIPE_SEGMENTS_MAX, SEGMENT_BYTES_AVG, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
    ZIP_ENTRIES_MAX, ZIP_ENTRY_DATA_BYTES_MIN, ZIP_ENTRY_WHOLE_BYTES_MAX, ZIP_GAP_BYTES_MAX,
};

const PIECE_MAX: u64 = SEGMENT_BYTES_MAX as u64;
/// Bytes are moved to the buffer's front only when it is full, so that each byte moves less than once.
const BUFFER_LEN: usize = 4 * SEGMENT_BYTES_MAX;
/// At least what a segment, or glue beside its bytes, takes in a recipe's plain form: a hash and a number.
const PART_COST: u64 = 40;
/// At most how many parts an entry takes that are shorter than the longest segment: what stands before it, its header,
/// and the end of its data.
const SHORT_PARTS_PER_ENTRY: u64 = 3;

// The largest package with the most entries fits in a recipe, cut as coarsely as allowed.
const _: () = {
    let parts = PACKAGE_BYTES_MAX / PIECE_MAX + SHORT_PARTS_PER_ENTRY * (ZIP_ENTRIES_MAX as u64 + 2);
    assert!(parts * PART_COST <= RECIPE_BYTES_MAX as u64);
    assert!(RECIPE_BYTES_MAX as u64 / PART_COST <= RECIPE_SEGMENTS_MAX as u64);
};

/// Why a package has no recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CutError {
    /// More than [`PACKAGE_BYTES_MAX`].
    #[error("a package of {size} bytes where at most {PACKAGE_BYTES_MAX} are allowed")]
    TooLarge {
        /// The size, in bytes.
        size: u64,
    },
    /// More or fewer bytes than were announced.
    #[error("a package of {found} bytes where {expected} were announced")]
    Size {
        /// The size that was announced, in bytes.
        expected: u64,
        /// The bytes that were pushed.
        found: u64,
    },
}

/// Makes a recipe from a package's bytes.
#[derive(Debug)]
pub struct Cutter {
    segments: Segmenter,
    package: blake3::Hasher,
}

impl Cutter {
    /// Starts on a package of the given shape.
    ///
    /// # Errors
    /// [`CutError::TooLarge`].
    pub fn new(shape: Shape) -> Result<Self, CutError> {
        Ok(Self { segments: Segmenter::new(shape)?, package: blake3::Hasher::new() })
    }

    /// Takes the next bytes of the package, in pieces of any size.
    pub fn push(&mut self, bytes: &[u8]) {
        self.package.update(bytes);
        self.segments.push(bytes);
    }

    /// The recipe of all that was pushed.
    ///
    /// # Errors
    /// [`CutError::Size`].
    pub fn finish(self) -> Result<Recipe, CutError> {
        self.segments.finish(PackageId(*self.package.finalize().as_bytes()))
    }
}

/// A [`Cutter`] that leaves it to its caller to hash the whole package, for example in another thread: hashing it takes about
/// half as long as all else.
#[derive(Debug)]
pub struct Segmenter {
    size: u64,
    pushed: u64,
    stretches: Stretches,
    current: Stretch,
    /// What was pushed and not yet cut.
    buffer: Vec<u8>,
    /// Where in the buffer that starts.
    start: usize,
    recipe: RecipeBuilder,
    known: BTreeMap<SegmentHash, u32>,
    budget: u64,
}

/// A stretch of the package, all of which is treated alike.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    kind: Kind,
    /// How many bytes of it are not cut yet.
    left: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A local header whose length is not known yet; `left` is the part of it that tells.
    Header,
    /// Into the recipe as it is.
    Glue,
    /// Pieces as long as allowed.
    Pieces,
    /// By content.
    Content,
}

impl Segmenter {
    /// Starts on a package of the given shape.
    ///
    /// # Errors
    /// [`CutError::TooLarge`].
    pub fn new(shape: Shape) -> Result<Self, CutError> {
        Self::with_budget(shape, RECIPE_BYTES_MAX as u64)
    }

    /// As [`Segmenter::new`], for a recipe of at most `budget` bytes.
    pub(super) fn with_budget(shape: Shape, budget: u64) -> Result<Self, CutError> {
        let stretches = Stretches::new(shape);
        let size = stretches.size;
        if size > PACKAGE_BYTES_MAX {
            return Err(CutError::TooLarge { size });
        }
        let mut cutter = Self {
            size,
            pushed: 0,
            stretches,
            current: Stretch { kind: Kind::Glue, left: 0 },
            buffer: Vec::new(),
            start: 0,
            recipe: RecipeBuilder::default(),
            known: BTreeMap::new(),
            // What frames the parts: version, package id, their count.
            budget: budget.saturating_sub(64),
        };
        cutter.advance();
        Ok(cutter)
    }

    /// Takes the next bytes of the package, in pieces of any size.
    pub fn push(&mut self, mut bytes: &[u8]) {
        self.pushed += bytes.len() as u64;
        if self.pushed > self.size {
            return;
        }
        while !bytes.is_empty() {
            let wanted = self.current.left.min(PIECE_MAX) as usize;
            let lacking = wanted - (self.buffer.len() - self.start);
            let (taken, rest) = bytes.split_at(lacking.min(bytes.len()));
            self.buffer_up(taken);
            bytes = rest;
            // What one stretch did not use may be all that the next one wants.
            while self.current.left > 0 && self.buffer.len() - self.start >= self.current.left.min(PIECE_MAX) as usize {
                self.cut_once();
            }
        }
    }

    /// The recipe of all that was pushed, which is `package`.
    ///
    /// # Errors
    /// [`CutError::Size`].
    pub fn finish(self, package: PackageId) -> Result<Recipe, CutError> {
        if self.pushed != self.size {
            return Err(CutError::Size { expected: self.size, found: self.pushed });
        }
        Ok(self.recipe.finish(package, None))
    }

    fn buffer_up(&mut self, bytes: &[u8]) {
        if self.buffer.len() + bytes.len() > BUFFER_LEN {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Cuts one part from the buffer, which holds the rest of the stretch or as much as the longest segment.
    fn cut_once(&mut self) {
        let window = &self.buffer[self.start..];
        let window = &window[..window.len().min(self.current.left.min(PIECE_MAX) as usize)];
        let len = match self.current.kind {
            Kind::Header => {
                let kept = self.stretches.header(local_header_len(window));
                self.current = self.with_room(kept);
                return;
            }
            Kind::Glue => {
                self.budget = self.budget.saturating_sub(window.len() as u64);
                self.recipe.glue(window);
                window.len()
            }
            Kind::Pieces => window.len(),
            Kind::Content if self.room() < PART_COST => window.len(),
            Kind::Content => {
                FastCDC::new(window, SEGMENT_BYTES_MIN, SEGMENT_BYTES_AVG, SEGMENT_BYTES_MAX).cut(0, window.len()).1
            }
        };
        if self.current.kind != Kind::Glue {
            let hash = SegmentHash::of(&window[..len]);
            if let Some(&known) = self.known.get(&hash) {
                self.recipe.repeat(known);
            } else {
                self.known.insert(hash, self.recipe.segments().len() as u32);
                self.recipe.segment(hash, len as u32);
            }
            self.budget = self.budget.saturating_sub(PART_COST);
        }
        self.start += len;
        self.current.left -= len as u64;
        if self.current.left == 0 {
            self.advance();
        }
    }

    fn advance(&mut self) {
        let next = self.stretches.next(self.recipe.position());
        self.current = self.with_room(next);
    }

    /// Turns glue into segments where the recipe has no room for it.
    fn with_room(&mut self, stretch: Stretch) -> Stretch {
        match stretch.kind {
            Kind::Glue if stretch.left + PART_COST > self.room() => Stretch { kind: Kind::Content, ..stretch },
            Kind::Glue => {
                self.budget = self.budget.saturating_sub(PART_COST);
                stretch
            }
            Kind::Header | Kind::Pieces | Kind::Content => stretch,
        }
    }

    /// How many bytes the recipe has left beyond what cutting the rest as coarsely as allowed would take.
    fn room(&self) -> u64 {
        let pieces = (self.size - self.recipe.position()) / PIECE_MAX;
        let short_parts = SHORT_PARTS_PER_ENTRY * (self.stretches.entries_left() + 2);
        self.budget.saturating_sub((pieces + short_parts) * PART_COST)
    }
}

/// Goes through the package and says for each place what comes next.
#[derive(Debug)]
struct Stretches {
    size: u64,
    entries: std::iter::Peekable<std::vec::IntoIter<ZipEntry>>,
    /// Where the central directory starts; in a plain package its end.
    directory_at: u64,
    is_zip: bool,
    /// The entry whose data comes next.
    data_len: Option<u64>,
}

impl Stretches {
    fn new(shape: Shape) -> Self {
        let is_zip = matches!(shape, Shape::Zip(_));
        let (size, entries, directory_at) = match shape {
            Shape::Plain { size } => (size, Vec::new(), size),
            Shape::Zip(ZipEntries { size, entries, directory_at }) => (size, entries, directory_at),
        };
        Self { size, entries: entries.into_iter().peekable(), directory_at, is_zip, data_len: None }
    }

    fn entries_left(&self) -> u64 {
        self.entries.len() as u64
    }

    fn next(&mut self, position: u64) -> Stretch {
        if let Some(left) = self.data_len.take() {
            let kind = match left {
                len if len < ZIP_ENTRY_DATA_BYTES_MIN => Kind::Glue,
                len if len <= ZIP_ENTRY_WHOLE_BYTES_MAX => Kind::Pieces,
                _ => Kind::Content,
            };
            return Stretch { kind, left };
        }
        let next_at = self.next_header_at();
        if position < next_at {
            return self.gap(next_at - position);
        }
        match self.entries.peek() {
            Some(_) => Stretch { kind: Kind::Header, left: LOCAL_HEADER_LEN },
            None => Stretch { kind: Kind::Glue, left: self.size - position },
        }
    }

    /// What becomes of a header that turned out to be `len` bytes long, or not to be one.
    fn header(&mut self, len: Option<u64>) -> Stretch {
        let Some(entry) = self.entries.next() else { return self.gap(0) };
        let room = self.next_header_at() - entry.header_at;
        match len.filter(|len| len + entry.data_len <= room) {
            Some(left) => {
                self.data_len = Some(entry.data_len).filter(|len| *len > 0);
                Stretch { kind: Kind::Glue, left }
            }
            None => self.gap(room),
        }
    }

    fn gap(&self, left: u64) -> Stretch {
        let is_glue = self.is_zip && left <= ZIP_GAP_BYTES_MAX;
        Stretch { kind: if is_glue { Kind::Glue } else { Kind::Content }, left }
    }

    fn next_header_at(&mut self) -> u64 {
        self.entries.peek().map_or(self.directory_at, |entry| entry.header_at)
    }
}
