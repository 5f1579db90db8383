//! Puts segments together from bytes that arrive in pieces, and gathers whole ones for one write.
//!
//! A batch is handed over when it is full, or when a block is whole with it: others wait for blocks. Parts of a large block
//! are handed over as they come, since they are passed on; and what is read slowly does not wait, for it is lost with the
//! process.

use std::collections::BTreeMap;
use std::time::Instant;

use shoal_proto::content::Segment;
use shoal_proto::id::BlockIndex;
use shoal_proto::limits::{PART_TIME, PASSED_ON_BYTES_MIN, UNWRITTEN_TIME_MAX};

use super::buffers::{BUFFER_BYTES, Buffer, Buffers};
use crate::store::Content;

/// Segments of one content that have begun to arrive. Pieces come in any order, as several ranges are in flight, but each
/// byte once.
pub(super) struct Assembler {
    content: Content,
    begun: BTreeMap<usize, Begun>,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
    /// How many segments each block still lacks.
    awaited: BTreeMap<BlockIndex, usize>,
    batch: Option<Batch>,
    buffers: Buffers,
}

/// Whole segments, to be verified and written.
pub(super) struct Batch {
    /// Indices into the layout's segments.
    pub(super) segments: Vec<usize>,
    /// Their bytes, one after the other.
    pub(super) bytes: Buffer,
    /// When the first of them came.
    pub(super) since: Instant,
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

impl Assembler {
    /// For those segments of `blocks` that `content` lacks.
    pub(super) fn new(content: Content, blocks: &[BlockIndex], buffers: Buffers) -> Self {
        let lacks = |block| content.missing_segments(block).into_iter().map(|run| run.len()).sum();
        let awaited = blocks.iter().map(|block| (*block, lacks(*block))).collect();
        Self { content, begun: BTreeMap::new(), spare: Vec::new(), awaited, batch: None, buffers }
    }

    /// Takes bytes that stand at `offset` of the content; bytes of no segment are skipped. Batches that are to be written go
    /// to `ready`.
    pub(super) fn take(&mut self, mut offset: u64, mut bytes: &[u8], ready: &mut Vec<Batch>) {
        while !bytes.is_empty() {
            let segments = self.content.layout().segments();
            let index = segments.partition_point(|segment| segment.end() <= offset);
            let Some(segment) = segments.get(index).copied() else { return };
            if segment.offset > offset {
                let skipped = usize::try_from(segment.offset - offset).unwrap_or(usize::MAX);
                bytes = bytes.get(skipped..).unwrap_or_default();
                offset = segment.offset;
                continue;
            }
            let left = usize::try_from(segment.end() - offset).unwrap_or(usize::MAX);
            let (piece, rest) = bytes.split_at(left.min(bytes.len()));
            self.piece(index, segment, offset, piece, ready);
            offset += piece.len() as u64;
            bytes = rest;
        }
    }

    /// What was not handed over.
    pub(super) fn rest(&mut self) -> Option<Batch> {
        self.batch.take()
    }

    fn piece(&mut self, index: usize, segment: Segment, offset: u64, piece: &[u8], ready: &mut Vec<Batch>) {
        let len = segment.len as usize;
        if piece.len() == len {
            return self.whole(index, piece, ready);
        }
        let spare = &mut self.spare;
        let begun = self.begun.entry(index).or_insert_with(|| Begun::new(spare.pop().unwrap_or_default(), len));
        if !begun.take(usize::try_from(offset - segment.offset).unwrap_or(len), piece) {
            return;
        }
        let Some(Begun { bytes, .. }) = self.begun.remove(&index) else { return };
        self.whole(index, &bytes, ready);
        self.spare.push(bytes);
    }

    fn whole(&mut self, index: usize, bytes: &[u8], ready: &mut Vec<Batch>) {
        if self.batch.as_ref().is_some_and(|batch| batch.bytes.len() + bytes.len() > BUFFER_BYTES) {
            ready.extend(self.batch.take());
        }
        let batch = self.batch.get_or_insert_with(|| Batch::new(self.buffers.take()));
        batch.segments.push(index);
        batch.bytes.extend_from_slice(bytes);
        let age = batch.since.elapsed();
        let layout = self.content.layout();
        let Some(block) = layout.block_of_segment(index) else { return };
        let Some(awaited) = self.awaited.get_mut(&block) else { return };
        *awaited = awaited.saturating_sub(1);
        let passed_on = layout.block_bytes(block) >= PASSED_ON_BYTES_MIN;
        if *awaited == 0 || age >= if passed_on { PART_TIME } else { UNWRITTEN_TIME_MAX } {
            ready.extend(self.batch.take());
        }
    }
}

impl Batch {
    fn new(mut bytes: Buffer) -> Self {
        bytes.clear();
        Self { segments: Vec::new(), bytes, since: Instant::now() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::package;
    use super::*;
    use crate::store::Store;

    /// A content of several blocks that lacks everything, and its bytes.
    fn content() -> (tempfile::TempDir, Content, Vec<u8>) {
        let (bytes, recipe) = package();
        let folder = tempfile::tempdir().unwrap();
        let content = Store::open(folder.path()).unwrap().begin_package(&recipe).unwrap().content;
        assert!(content.layout().block_count() > 8);
        (folder, content, bytes)
    }

    fn blocks(content: &Content) -> Vec<BlockIndex> {
        content.layout().blocks().collect()
    }

    #[test]
    fn a_block_is_handed_over_with_its_last_byte_whatever_the_order() {
        let (_folder, content, bytes) = content();
        let mut assembler = Assembler::new(content.clone(), &blocks(&content), Buffers::default());
        let mut landed = Vec::new();
        // Each block as two ranges at a time, in pieces that end within segments; the second half comes first.
        for block in blocks(&content) {
            let places = &content.layout().segments()[content.layout().block_segments(block)];
            let (start, end) = (places[0].offset, places[places.len() - 1].end());
            let middle = (start + end) / 2;
            let mut ready = Vec::new();
            for range in [middle..end, start..middle] {
                assert!(!content.missing_segments(block).is_empty(), "block {block:?} is not whole yet");
                for at in range.clone().step_by(10_007) {
                    let piece = &bytes[at as usize..range.end.min(at + 10_007) as usize];
                    assembler.take(at, piece, &mut ready);
                }
            }
            for batch in ready {
                assert!(batch.bytes.len() <= BUFFER_BYTES);
                landed.extend(content.write_segments(&batch.segments, &batch.bytes).unwrap());
            }
            assert_eq!(landed.last(), Some(&block), "it does not wait for the next");
        }
        assert!(assembler.rest().is_none());
        assert_eq!((landed, content.missing_bytes()), (blocks(&content), 0));
    }

    #[test]
    fn what_no_block_was_whole_with_is_the_rest() {
        let (_folder, content, bytes) = content();
        let mut assembler = Assembler::new(content.clone(), &blocks(&content), Buffers::default());
        let segments = content.layout().segments();
        assert!(content.layout().block_segments(BlockIndex(0)).len() > 1);
        let mut ready = Vec::new();
        // The first segment, and a part of the second.
        assembler.take(0, &bytes[..segments[0].end() as usize + 1], &mut ready);
        assert!(ready.is_empty());
        let rest = assembler.rest().expect("a segment is whole");
        assert_eq!((rest.segments, rest.bytes.len()), (vec![0], segments[0].len as usize));
        assert!(assembler.rest().is_none());
    }
}
