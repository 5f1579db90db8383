//! Room on the disk for files that are about to be filled.
//!
//! Whether it is there is checked at once, so that a disk that is too small says so before the first byte crosses a WAN, and
//! without being filled up on the way to finding out. It is reserved piece by piece while the file is filled: some file
//! systems take as long to reserve a large file as to write it. What is not reserved yet is promised, and counts as taken.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::warn;

use crate::disk::{allocate, free_bytes};

/// Bytes reserved in one go: writers of the file wait meanwhile.
const PIECE_BYTES: u64 = 8 * 1024 * 1024;

/// Bytes that this store promised to files and has not reserved.
#[derive(Clone, Debug, Default)]
pub(super) struct Promised {
    bytes: Arc<AtomicU64>,
}

impl Promised {
    /// Makes sure of room for `file` to be `size` bytes long; all its pieces but the first are reserved later.
    pub(super) fn make_room(&self, file: &File, folder: &Path, size: u64) -> io::Result<()> {
        let wanted = size.saturating_sub(file.metadata()?.blocks().saturating_mul(512));
        let promised = self.bytes.fetch_add(wanted, Ordering::Relaxed) + wanted;
        let mut rest = Rest { promised: self.clone(), bytes: wanted };
        if free_bytes(folder).is_some_and(|free| promised > free) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let first = size.min(PIECE_BYTES);
        if first > 0 {
            allocate(file, 0, first)?;
            rest.keep(first);
        }
        file.set_len(size)?;
        if first < size {
            let file = file.try_clone()?;
            let reserve = move || {
                // Whoever fills the file sees it too, and says what to do.
                if let Err(error) = rest.reserve(&file, first, size) {
                    warn!(%error, size, "the disk was filled by somebody else before its room was reserved");
                }
            };
            std::thread::Builder::new().name("reserve".into()).spawn(reserve)?;
        }
        Ok(())
    }
}

/// What is still promised to one file; taken back with it.
struct Rest {
    promised: Promised,
    bytes: u64,
}

impl Rest {
    fn reserve(&mut self, file: &File, from: u64, size: u64) -> io::Result<()> {
        for offset in (from..size).step_by(PIECE_BYTES as usize) {
            // It was deleted.
            if file.metadata()?.nlink() == 0 {
                break;
            }
            let len = PIECE_BYTES.min(size - offset);
            allocate(file, offset, len)?;
            self.keep(len);
        }
        Ok(())
    }

    /// So many bytes are reserved, or were before.
    fn keep(&mut self, bytes: u64) {
        let kept = bytes.min(self.bytes);
        self.bytes -= kept;
        self.promised.bytes.fetch_sub(kept, Ordering::Relaxed);
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.keep(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn all_room_is_reserved_in_the_end_and_nothing_stays_promised() {
        let folder = tempfile::tempdir().unwrap();
        let promised = Promised::default();
        for size in [0, 1, PIECE_BYTES, 3 * PIECE_BYTES + 5] {
            let file = File::create(folder.path().join("file")).unwrap();
            promised.make_room(&file, folder.path(), size).unwrap();
            assert_eq!(file.metadata().unwrap().len(), size);
            let deadline = Instant::now() + Duration::from_secs(20);
            while promised.bytes.load(Ordering::Relaxed) > 0 {
                assert!(Instant::now() < deadline, "still promised");
                std::thread::yield_now();
            }
            assert!(file.metadata().unwrap().blocks() * 512 >= size, "{size}");
        }
    }

    #[test]
    fn what_is_promised_is_promised_to_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let free = free_bytes(folder.path()).unwrap();
        let promised = Promised::default();
        promised.bytes.store(free, Ordering::Relaxed);
        let file = File::create(folder.path().join("file")).unwrap();
        let error = promised.make_room(&file, folder.path(), 1 << 20).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(promised.bytes.load(Ordering::Relaxed), free, "what did not fit is taken back");
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}
