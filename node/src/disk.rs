//! What the file system says of room, and how room is kept for what must be written later.

use std::fs::File;
use std::io;
use std::path::Path;

/// Bytes that this process may still write in `folder`, if the file system says.
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(folder).ok()?;
    // Both are 32 bits wide on some systems.
    #[allow(clippy::useless_conversion)]
    Some(u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size())))
}

/// Makes `file` at least `len_bytes` long, with room for all of it. Where the file system cannot promise room, it is only
/// made longer, or not even that.
///
/// # Errors
/// No room, above all.
pub(crate) fn allocate(file: &File, len_bytes: u64) -> io::Result<()> {
    fallocate(file, len_bytes, true)
}

/// Keeps room for the first `len_bytes` of `file` without making it longer, where the file system can.
///
/// # Errors
/// No room, above all.
pub(crate) fn keep_room(file: &File, len_bytes: u64) -> io::Result<()> {
    fallocate(file, len_bytes, false)
}

#[cfg(target_os = "linux")]
fn fallocate(file: &File, len_bytes: u64, grow: bool) -> io::Result<()> {
    use nix::errno::Errno;
    use nix::fcntl::{FallocateFlags, fallocate};

    let len = i64::try_from(len_bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let flags = if grow { FallocateFlags::empty() } else { FallocateFlags::FALLOC_FL_KEEP_SIZE };
    match fallocate(file, flags, 0, len) {
        // Some file systems cannot reserve; `posix_fallocate` would write the whole file once instead.
        Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn fallocate(_file: &File, _len_bytes: u64, _grow: bool) -> io::Result<()> {
    Ok(())
}
