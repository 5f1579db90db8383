//! Puts segments together from bytes that arrive in pieces, and writes each when it is whole.

use std::collections::BTreeMap;

use shoal_proto::content::Segment;
use shoal_proto::id::BlockIndex;

use crate::store::{Content, WriteError};

/// Segments of one content that have begun to arrive. Pieces of one segment come in order; those of different segments
/// may alternate, as several ranges are in flight.
pub(super) struct Assembler<'a> {
    content: &'a Content,
    begun: BTreeMap<usize, Vec<u8>>,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
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
        let have = self.begun.get(&index).map_or(0, Vec::len);
        // The rest of a segment whose beginning was not wanted: nothing to put it behind.
        if offset != segment.offset + have as u64 {
            return Ok(None);
        }
        let spare = &mut self.spare;
        let buffer = self.begun.entry(index).or_insert_with(|| spare.pop().unwrap_or_default());
        buffer.extend_from_slice(piece);
        if buffer.len() < len {
            return Ok(None);
        }
        let mut buffer = self.begun.remove(&index).unwrap_or_default();
        let written = self.write(index, &buffer);
        buffer.clear();
        self.spare.push(buffer);
        written
    }

    fn write(&self, index: usize, bytes: &[u8]) -> Result<Option<BlockIndex>, WriteError> {
        let written = self.content.write_segment(index, bytes)?;
        Ok(if written.block_complete { self.content.layout().block_of_segment(index) } else { None })
    }
}
