//! Reads what memory has of a file, without waiting for a disk.
//!
//! Who may have to wait hands its read over to another thread, and two threads are woken for it. What was just written, or
//! is read by many, is in the page cache: there it costs less to read it at once.

use std::fs::File;
use std::io;

/// Fills `buffer` from `offset` on if that needs no disk; says whether it did. What is in `buffer` otherwise is no use.
///
/// # Errors
/// What reading gives; a file that ends before is one too.
#[cfg(target_os = "linux")]
pub(super) fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;

    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    while !buffer.is_empty() {
        match preadv2(file, &mut [io::IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                offset += read as u64;
                buffer = &mut buffer[read..];
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(false),
            // Some file systems cannot be asked, this one because it never waits.
            Err(Errno::OPNOTSUPP) if is_tmpfs(file) => return file.read_exact_at(buffer, offset).map(|()| true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

#[cfg(target_os = "linux")]
fn is_tmpfs(file: &File) -> bool {
    use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

    fstatfs(file).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC)
}

/// Elsewhere nobody says what memory has.
#[cfg(not(target_os = "linux"))]
pub(super) fn read_exact_at(_: &File, _: &mut [u8], _: u64) -> io::Result<bool> {
    Ok(false)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::Write;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    /// Writes to `file`, reads some of it, and tries to read beyond; whether it could be read at once.
    fn written_and_read(mut file: File) -> bool {
        let bytes: Vec<u8> = (0..200_000_u32).map(|at| at as u8).collect();
        file.write_all(&bytes).unwrap();
        let mut buffer = vec![0; 150_000];
        let done = read_exact_at(&file, &mut buffer, 1_000).unwrap();
        if done {
            assert!(buffer == bytes[1_000..151_000]);
            let beyond = read_exact_at(&file, &mut buffer, 100_000);
            assert_eq!(beyond.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
        done
    }

    #[test]
    fn what_is_in_memory_alone_is_always_read_at_once() {
        assert!(written_and_read(memfd_create("cached", MFdFlags::empty()).unwrap().into()));
    }

    #[test]
    fn what_was_just_written_to_a_disk_is_read_at_once_or_not_at_all() {
        // Not every file system can be asked, and memory may be short.
        written_and_read(tempfile::tempfile().unwrap());
    }
}
