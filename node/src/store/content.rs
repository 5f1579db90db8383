//! One open content: which of its segments are there, and the file that holds them.
//!
//! Invariant: a segment is marked present only after its bytes matched its hash and were written everywhere they occur,
//! and only present segments are read (VERIFIED). Marks live in memory; the file alone is never believed. A handle stays
//! good when its content is sealed or unsealed, because both only rename the file.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_proto::content::{BlockSet, Layout, Recipe, Repeat, Segment};
use shoal_proto::id::{BlockIndex, ContentId, SegmentHash};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::cached;
use super::error::READ_BYTES_MAX;
use super::files::Kind;
use super::{ReadError, StoreError, WriteError};

/// A handle on an open content, partial or sealed. Clones share everything; any number of threads may use them.
#[derive(Clone, Debug)]
pub struct Content {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) kind: Kind,
    layout: Layout,
    /// The layout's repeats in the order of their segments.
    repeats: Box<[Repeat]>,
    pub(super) file: File,
    /// For messages; the file is also known under its sealed name.
    path: PathBuf,
    presence: Mutex<Presence>,
    /// Told after segments were written.
    wrote: Notify,
    /// Held while the file gets or loses its final name.
    naming: Mutex<()>,
}

#[derive(Debug)]
struct Presence {
    /// One bit a segment.
    present: Box<[u64]>,
    /// Missing bytes of each block.
    block_bytes: Box<[u32]>,
    bytes: u64,
    sealed: bool,
}

/// What is known of a file when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Believed {
    /// Nothing: no segment is present.
    Nothing,
    /// Its bytes were verified, but it is not durable.
    Verified,
    /// It was sealed.
    Sealed,
}

/// What writing a segment changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The segment was missing before; `false` for a duplicate, which changes nothing.
    pub fresh: bool,
    /// This segment was the last missing one of its block. Said to one writer only.
    pub block_complete: bool,
    /// This segment was the last missing one of the content. Said to one writer only.
    pub complete: bool,
}

impl Content {
    pub(super) fn new(kind: Kind, layout: Layout, file: File, path: PathBuf, believed: Believed) -> Self {
        let mut repeats: Box<[Repeat]> = layout.repeats().into();
        repeats.sort_unstable_by_key(|repeat| (repeat.segment, repeat.offset));
        let presence = Mutex::new(Presence::new(&layout, believed));
        Self {
            shared: Arc::new(Shared {
                kind,
                layout,
                repeats,
                file,
                path,
                presence,
                wrote: Notify::new(),
                naming: Mutex::new(()),
            }),
        }
    }

    /// What it is.
    pub fn id(&self) -> ContentId {
        self.shared.layout.content()
    }

    /// Whether it is a package or a recipe.
    pub fn kind(&self) -> Kind {
        self.shared.kind
    }

    /// Its segments and blocks.
    pub fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    /// Whether it is complete and durable.
    pub fn is_sealed(&self) -> bool {
        self.presence().sealed
    }

    /// Bytes that are missing: of distinct segments, so what has to be transferred.
    pub fn missing_bytes(&self) -> u64 {
        self.presence().bytes
    }

    /// The blocks that are present as a whole.
    pub fn complete_blocks(&self) -> BlockSet {
        let presence = self.presence();
        let mut blocks = BlockSet::new(self.layout().block_count());
        for (block, missing) in self.layout().blocks().zip(&presence.block_bytes) {
            if *missing == 0 {
                blocks.insert(block);
            }
        }
        blocks
    }

    /// The blocks that are not present as a whole, ascending, each with the bytes that it lacks.
    pub fn lacking(&self) -> Vec<(BlockIndex, u32)> {
        let presence = self.presence();
        let blocks = self.layout().blocks().zip(presence.block_bytes.iter().copied());
        blocks.filter(|(_, missing)| *missing > 0).collect()
    }

    /// Bytes that are missing of a block.
    pub fn missing_of(&self, block: BlockIndex) -> u32 {
        self.presence().block_bytes.get(block.index()).copied().unwrap_or(0)
    }

    /// How many of the first of these segments are present. One that the layout does not have counts, so that whoever reads
    /// it is told.
    pub fn present_first(&self, runs: &[Range<usize>]) -> usize {
        let presence = self.presence();
        let count = self.layout().segments().len();
        runs.iter().flat_map(Range::clone).take_while(|segment| *segment >= count || presence.has(*segment)).count()
    }

    /// Ends when segments are written after it was made.
    pub fn wrote(&self) -> Notified<'_> {
        self.shared.wrote.notified()
    }

    /// The missing segments of a block, as maximal runs of indices into the layout's segments, ascending.
    pub fn missing_segments(&self, block: BlockIndex) -> Vec<Range<usize>> {
        let presence = self.presence();
        let mut runs: Vec<Range<usize>> = Vec::new();
        for segment in self.layout().block_segments(block).filter(|segment| !presence.has(*segment)) {
            match runs.last_mut() {
                Some(run) if run.end == segment => run.end += 1,
                _ => runs.push(segment..segment + 1),
            }
        }
        runs
    }

    /// Verifies `bytes` and writes them wherever the segment occurs; `segment` is an index into the layout's segments.
    /// Not durable before the content is sealed.
    ///
    /// # Errors
    /// [`WriteError::Mismatch`] before anything is written; [`WriteError::Store`] if the disk refuses, in which case the
    /// segment stays missing.
    pub fn write_segment(&self, segment: usize, bytes: &[u8]) -> Result<Written, WriteError> {
        let place = self.verified(segment, bytes)?;
        if self.presence().has(segment) {
            return Ok(Written::default());
        }
        self.write_at(bytes, place.offset)?;
        let written = self.repeat_and_mark(segment, bytes)?;
        self.shared.wrote.notify_waiters();
        Ok(written)
    }

    /// Verifies segments whose bytes follow each other in `bytes`, then writes them as [`Content::write_segment`] does, those
    /// that are neighbours in the file in one go. Answers the blocks of which one was the last missing segment.
    ///
    /// # Errors
    /// As [`Content::write_segment`]; a mismatch of one is told before any is written.
    pub fn write_segments(&self, segments: &[usize], bytes: &[u8]) -> Result<Vec<BlockIndex>, WriteError> {
        let mut parts = Vec::with_capacity(segments.len());
        let mut rest = bytes;
        for &segment in segments {
            let len = self.layout().segments().get(segment).map_or(0, |place| place.len as usize);
            // If too few are left, they do not match.
            let (part, after) = rest.split_at(len.min(rest.len()));
            parts.push((segment, self.verified(segment, part)?, part));
            rest = after;
        }
        rest = bytes;
        for adjacent in parts.chunk_by(|(_, one, _), (_, next, _)| one.end() == next.offset) {
            let len = adjacent.iter().map(|(_, _, part)| part.len()).sum();
            let (here, after) = rest.split_at(len);
            self.write_at(here, adjacent[0].1.offset)?;
            rest = after;
        }
        let mut landed = Vec::new();
        for (segment, _, part) in parts {
            if self.repeat_and_mark(segment, part)?.block_complete {
                landed.extend(self.layout().block_of_segment(segment));
            }
        }
        self.shared.wrote.notify_waiters();
        Ok(landed)
    }

    /// Where a segment belongs whose bytes these are (VERIFIED).
    fn verified(&self, segment: usize, bytes: &[u8]) -> Result<Segment, WriteError> {
        let content = self.id();
        let place = *self.layout().segments().get(segment).ok_or(WriteError::NoSuchSegment { content, segment })?;
        if place.len as usize != bytes.len() || SegmentHash::of(bytes) != place.hash {
            return Err(WriteError::Mismatch { content, segment });
        }
        Ok(place)
    }

    /// Reads the segments of `run`, one after the other without what lies between them, into `buffer`, whose former
    /// content goes. Bytes that rotted on the disk since they were written are not noticed here: whoever receives them
    /// verifies, and reports.
    ///
    /// # Errors
    /// [`ReadError::Absent`] if one of them is not present; [`ReadError::TooLong`] if they are more than a block; [`ReadError::Store`] if the disk refuses.
    pub fn read_segments(&self, run: Range<usize>, buffer: &mut Vec<u8>) -> Result<(), ReadError> {
        self.read_with(run, buffer, |here, offset| self.read_at(here, offset).map(|()| true)).map(drop)
    }

    /// The same if no disk has to be waited for; whether that was so.
    ///
    /// # Errors
    /// As [`Content::read_segments`].
    pub fn read_cached_segments(&self, run: Range<usize>, buffer: &mut Vec<u8>) -> Result<bool, ReadError> {
        self.read_with(run, buffer, |here, offset| {
            let read = cached::read_exact_at(&self.shared.file, here, offset);
            read.map_err(|e| StoreError::io("read", &self.shared.path, 0, e))
        })
    }

    fn read_with(
        &self,
        run: Range<usize>,
        buffer: &mut Vec<u8>,
        read: impl Fn(&mut [u8], u64) -> Result<bool, StoreError>,
    ) -> Result<bool, ReadError> {
        let content = self.id();
        let Some(places) = self.layout().segments().get(run.clone()) else {
            return Err(ReadError::Absent { content, segment: run.start.max(self.layout().segments().len()) });
        };
        {
            let presence = self.presence();
            if let Some(segment) = run.into_iter().find(|segment| !presence.has(*segment)) {
                return Err(ReadError::Absent { content, segment });
            }
        }
        let len_bytes = places.iter().map(|place| u64::from(place.len)).sum();
        if len_bytes > READ_BYTES_MAX {
            return Err(ReadError::TooLong { content, len_bytes });
        }
        buffer.resize(len_bytes as usize, 0);
        let mut rest = &mut buffer[..];
        // Neighbours in the file are read in one go.
        for adjacent in places.chunk_by(|one, next| one.end() == next.offset) {
            let len = adjacent.iter().map(|place| place.len as usize).sum();
            let (here, after) = rest.split_at_mut(len);
            if !read(here, adjacent[0].offset)? {
                return Ok(false);
            }
            rest = after;
        }
        Ok(true)
    }

    /// Writes glue where it belongs; it needs no verification because it is part of the recipe, whose id is verified.
    pub(super) fn write_glue(&self, recipe: &Recipe) -> Result<(), StoreError> {
        recipe.glue().try_for_each(|(offset, bytes)| self.write_at(bytes, offset))
    }

    /// Marks what the file already holds, after hashing it; returns how many bytes that is.
    pub(super) fn resume(&self) -> Result<u64, StoreError> {
        let mut buffer = Vec::new();
        let mut found_bytes = 0;
        for (index, place) in self.layout().segments().iter().enumerate() {
            if self.matches(place, place.offset, &mut buffer)? {
                self.repeat_and_mark(index, &buffer)?;
                found_bytes += u64::from(place.len);
            }
        }
        Ok(found_bytes)
    }

    /// Whether the file holds the segment at `offset`; its bytes are then in `buffer`.
    fn matches(&self, place: &Segment, offset: u64, buffer: &mut Vec<u8>) -> Result<bool, StoreError> {
        buffer.resize(place.len as usize, 0);
        self.read_at(buffer, offset)?;
        Ok(SegmentHash::of(buffer) == place.hash)
    }

    /// Hashes everything against the layout: the segments that are not everywhere they should be.
    pub(super) fn damaged_segments(&self) -> Result<Vec<usize>, StoreError> {
        let mut buffer = Vec::new();
        let mut damaged = Vec::new();
        for (index, place) in self.layout().segments().iter().enumerate() {
            let copies = self.repeats_of(index).iter().map(|repeat| repeat.offset);
            for offset in std::iter::once(place.offset).chain(copies) {
                if !self.matches(place, offset, &mut buffer)? {
                    damaged.push(index);
                    break;
                }
            }
        }
        Ok(damaged)
    }

    /// Whether the file holds the recipe's glue.
    pub(super) fn glue_is_sound(&self, recipe: &Recipe) -> Result<bool, StoreError> {
        let mut buffer = Vec::new();
        for (offset, bytes) in recipe.glue() {
            buffer.resize(bytes.len(), 0);
            self.read_at(&mut buffer, offset)?;
            if buffer != bytes {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes segments missing again.
    pub(super) fn unmark(&self, segments: &[usize]) {
        let mut presence = self.presence();
        for &segment in segments {
            presence.unmark(self.layout(), segment);
        }
    }

    /// The missing segments with their places.
    pub(super) fn missing(&self) -> Vec<(usize, Segment)> {
        let presence = self.presence();
        let segments = self.layout().segments().iter().copied().enumerate();
        segments.filter(|(segment, _)| !presence.has(*segment)).collect()
    }

    pub(super) fn set_sealed(&self, sealed: bool) {
        self.presence().sealed = sealed;
    }

    /// Writes verified bytes to the segment's further places, then marks it.
    fn repeat_and_mark(&self, segment: usize, bytes: &[u8]) -> Result<Written, StoreError> {
        for repeat in self.repeats_of(segment) {
            self.write_at(bytes, repeat.offset)?;
        }
        Ok(self.presence().mark(self.layout(), segment))
    }

    fn repeats_of(&self, segment: usize) -> &[Repeat] {
        let repeats = &self.shared.repeats;
        let start = repeats.partition_point(|repeat| (repeat.segment as usize) < segment);
        let count = repeats[start..].partition_point(|repeat| repeat.segment as usize == segment);
        &repeats[start..start + count]
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        let written = self.shared.file.write_all_at(bytes, offset);
        written.map_err(|e| StoreError::io("write", &self.shared.path, bytes.len() as u64, e))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        let read = self.shared.file.read_exact_at(buffer, offset);
        read.map_err(|e| StoreError::io("read", &self.shared.path, 0, e))
    }

    /// Only one thread at a time may seal, check or unseal it.
    pub(super) fn naming(&self) -> MutexGuard<'_, ()> {
        self.shared.naming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn presence(&self) -> MutexGuard<'_, Presence> {
        // Nothing that holds the lock can panic half-way through a change.
        self.shared.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Presence {
    fn new(layout: &Layout, believed: Believed) -> Self {
        let all = believed != Believed::Nothing;
        let words = layout.segments().len().div_ceil(64);
        let missing = |block| if all { 0 } else { layout.block_bytes(block) as u32 };
        Self {
            present: vec![if all { u64::MAX } else { 0 }; words].into(),
            block_bytes: layout.blocks().map(missing).collect(),
            bytes: if all { 0 } else { layout.transfer_bytes() },
            sealed: believed == Believed::Sealed,
        }
    }

    fn has(&self, segment: usize) -> bool {
        self.present[segment / 64] & 1 << (segment % 64) != 0
    }

    fn mark(&mut self, layout: &Layout, segment: usize) -> Written {
        let Some(block) = layout.block_of_segment(segment).filter(|_| !self.has(segment)) else {
            return Written::default();
        };
        let len = layout.segments()[segment].len;
        self.present[segment / 64] |= 1 << (segment % 64);
        self.block_bytes[block.index()] -= len;
        self.bytes -= u64::from(len);
        Written { fresh: true, block_complete: self.block_bytes[block.index()] == 0, complete: self.bytes == 0 }
    }

    fn unmark(&mut self, layout: &Layout, segment: usize) {
        let Some(block) = layout.block_of_segment(segment).filter(|_| self.has(segment)) else { return };
        let len = layout.segments()[segment].len;
        self.present[segment / 64] &= !(1 << (segment % 64));
        self.block_bytes[block.index()] += len;
        self.bytes += u64::from(len);
    }
}
