//! Buffers for payload, which all transfers of a process share.
//!
//! A buffer that is dropped goes back to the others, whoever had it. Memory is then what is in use at the same time; if each
//! batch allocated its own, each thread's part of the allocator would keep room for the most that it ever had.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_proto::limits::{SEGMENT_BYTES_MAX, SPARE_BUFFERS_MAX};

/// Bytes that a buffer has room for: more than the longest segment, and most blocks of a package of up to 256 MiB with the
/// segment that ends them. So many cost little to hand over to another thread, and are still in the CPU's cache there.
pub(super) const BUFFER_BYTES: usize = SEGMENT_BYTES_MAX + SEGMENT_BYTES_MAX / 2;

/// Where buffers come from and go to. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer with room for [`BUFFER_BYTES`]; what it holds at first is left from its last use.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    home: Buffers,
}

impl Buffers {
    pub(super) fn take(&self) -> Buffer {
        let spare = self.spare().pop();
        Buffer { bytes: spare.unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES)), home: self.clone() }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        // A push or a pop is done or not.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    /// Room for `len` bytes behind the first `start`. Where it holds any from its last use, they are left: zeroing what is
    /// filled at once would be a second write of each byte.
    pub(super) fn room(&mut self, start: usize, len: usize) -> &mut [u8] {
        let end = start + len;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[start..end]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut spare = self.home.spare();
        if spare.len() < SPARE_BUFFERS_MAX {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_and_few_are_kept() {
        let buffers = Buffers::default();
        let mut first = buffers.take();
        first.extend_from_slice(b"left");
        drop(first);
        assert_eq!(*buffers.take(), b"left");
        let many: Vec<_> = (0..SPARE_BUFFERS_MAX + 3).map(|_| buffers.clone().take()).collect();
        assert!(buffers.spare().is_empty());
        drop(many);
        assert_eq!(buffers.spare().len(), SPARE_BUFFERS_MAX);
    }
}
