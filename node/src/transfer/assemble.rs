//! Puts segments together from bytes that arrive in pieces, and writes each when it is whole.

use std::collections::BTreeMap;

use shoal_proto::content::Segment;
use shoal_proto::id::BlockIndex;

use crate::store::{Content, WriteError};

/// Segments of one content that have begun to arrive. Pieces come in any order, as several ranges are in flight, but each
/// byte once.
pub(super) struct Assembler<'a> {
    content: &'a Content,
    begun: BTreeMap<usize, Begun>,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
}

/// A segment of which something has arrived.
struct Begun {
    /// As many as the segment has, wherever nothing has arrived zeros.
    bytes: Vec<u8>,
    /// How many have arrived.
    have: usize,
}

impl Begun {
    fn new(mut buffer: Vec<u8>, len: usize) -> Self {
        buffer.clear();
        buffer.resize(len, 0);
        Self { bytes: buffer, have: 0 }
    }

    /// Puts a piece where it belongs; whether the segment is whole.
    fn take(&mut self, at: usize, piece: &[u8]) -> bool {
        if let Some(place) = self.bytes.get_mut(at..).and_then(|rest| rest.get_mut(..piece.len())) {
            place.copy_from_slice(piece);
            self.have += piece.len();
        }
        self.have >= self.bytes.len()
    }
}

impl<'a> Assembler<'a> {
    pub(super) fn new(content: &'a Content) -> Self {
        Self { content, begun: BTreeMap::new(), spare: Vec::new() }
    }

    /// Takes bytes that stand at `offset` of the content; bytes of no segment are skipped. Blocks that became complete are
    /// given to `landed`.
    ///
    /// # Errors
    /// [`WriteError`]: wrong bytes, or a disk that refuses.
    pub(super) fn take(
        &mut self,
        mut offset: u64,
        mut bytes: &[u8],
        mut landed: impl FnMut(BlockIndex),
    ) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            let segments = self.content.layout().segments();
            let index = segments.partition_point(|segment| segment.end() <= offset);
            let Some(segment) = segments.get(index).copied() else { return Ok(()) };
            if segment.offset > offset {
                let skipped = usize::try_from(segment.offset - offset).unwrap_or(usize::MAX);
                bytes = bytes.get(skipped..).unwrap_or_default();
                offset = segment.offset;
                continue;
            }
            let left = usize::try_from(segment.end() - offset).unwrap_or(usize::MAX);
            let (piece, rest) = bytes.split_at(left.min(bytes.len()));
            if let Some(block) = self.piece(index, segment, offset, piece)? {
                landed(block);
            }
            offset += piece.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    fn piece(
        &mut self,
        index: usize,
        segment: Segment,
        offset: u64,
        piece: &[u8],
    ) -> Result<Option<BlockIndex>, WriteError> {
        let len = segment.len as usize;
        if piece.len() == len {
            return self.write(index, piece);
        }
        let spare = &mut self.spare;
        let begun = self.begun.entry(index).or_insert_with(|| Begun::new(spare.pop().unwrap_or_default(), len));
        if !begun.take(usize::try_from(offset - segment.offset).unwrap_or(len), piece) {
            return Ok(None);
        }
        let Some(Begun { bytes, .. }) = self.begun.remove(&index) else { return Ok(None) };
        let written = self.write(index, &bytes);
        self.spare.push(bytes);
        written
    }

    fn write(&self, index: usize, bytes: &[u8]) -> Result<Option<BlockIndex>, WriteError> {
        let written = self.content.write_segment(index, bytes)?;
        Ok(if written.block_complete { self.content.layout().block_of_segment(index) } else { None })
    }
}
