//! What the file system says of room, how room is kept for what must be written later, and how a small file takes the place of
//! another one.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Puts a file of `bytes` at `path`: at any moment, also after a crash, there is all of it or what was there before. Durable when
/// this returns. It has exactly `mode`, and nobody else reads it before it has; without one, what the process's mask leaves of
/// `rw` for all. What is left of a write that a crash ended is written over by the next; two at once for one path are the caller's
/// to keep apart.
///
/// # Errors
/// Those of the file system.
pub fn replace(path: &Path, bytes: &[u8], mode: Option<u32>) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("it is no file's name"))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fresh = folder.join(format!(".{}.shoal", name.to_string_lossy()));
    let write = || {
        // Somebody may still have what was left of an earlier write open.
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let first = if mode.is_some() { 0o600 } else { 0o666 };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(first).open(&fresh)?;
        file.write_all(bytes)?;
        mode.map_or(Ok(()), |mode| file.set_permissions(Permissions::from_mode(mode)))?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        File::open(folder)?.sync_all()
    };
    write().inspect_err(|_| drop(fs::remove_file(&fresh)))
}

/// Bytes that this process may still write in `folder`, if the file system says.
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(folder).ok()?;
    // Both are 32 bits wide on some systems.
    #[allow(clippy::useless_conversion)]
    Some(u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size())))
}

/// Makes `file` at least `offset + len_bytes` long, with room for these bytes. Where the file system cannot promise room, it
/// is only made longer, or not even that.
///
/// # Errors
/// No room, above all.
pub(crate) fn allocate(file: &File, offset: u64, len_bytes: u64) -> io::Result<()> {
    fallocate(file, offset, len_bytes, true)
}

/// Keeps room for the first `len_bytes` of `file` without making it longer, where the file system can.
///
/// # Errors
/// No room, above all.
pub(crate) fn keep_room(file: &File, len_bytes: u64) -> io::Result<()> {
    fallocate(file, 0, len_bytes, false)
}

#[cfg(target_os = "linux")]
fn fallocate(file: &File, offset: u64, len_bytes: u64, grow: bool) -> io::Result<()> {
    use nix::errno::Errno;
    use nix::fcntl::{FallocateFlags, fallocate};

    let too_large = |_| io::ErrorKind::FileTooLarge;
    let (offset, len) = (i64::try_from(offset).map_err(too_large)?, i64::try_from(len_bytes).map_err(too_large)?);
    let flags = if grow { FallocateFlags::empty() } else { FallocateFlags::FALLOC_FL_KEEP_SIZE };
    match fallocate(file, flags, offset, len) {
        // Some file systems cannot reserve; `posix_fallocate` would write the whole file once instead.
        Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn fallocate(_file: &File, _offset: u64, _len_bytes: u64, _grow: bool) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_takes_the_place_of_another_whole_with_its_own_mode_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.conf");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        fs::write(&path, "before").unwrap();
        fs::write(folder.path().join(".app.conf.shoal"), "from a write that was killed, and longer than the next")
            .unwrap();
        for wanted in [0o600, 0o644, 0o400] {
            replace(&path, b"after", Some(wanted)).unwrap();
            assert_eq!((fs::read(&path).unwrap(), mode()), (b"after".to_vec(), wanted));
        }
        replace(&path, b"", None).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        assert_eq!(mode() & 0o600, 0o600, "what the mask leaves");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.conf");
        fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"after", None).is_err());
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        assert!(replace(Path::new("/"), b"", None).is_err());
    }
}
