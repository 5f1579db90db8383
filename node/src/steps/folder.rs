//! Writes the entries of an archive inside one folder, and nowhere else, whatever the archive says.
//!
//! Invariant: every path that is written has only real folders above it, made or looked at by this writer, and every
//! symbolic link resolves inside. The second holds because a link's target may go up only at its start, and no higher
//! than the top: its own parents are real folders, so that going up from them is what it seems; what follows only goes
//! down, or through other links of which the same is true. Nobody else may write to the folder meanwhile.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use shoal_proto::limits::UNPACK_ENTRIES_MAX;

use super::unpack::UnpackError;

/// Mode bits that are taken from an archive: no set-user-id, set-group-id or sticky bit.
const MODE_MASK: u32 = 0o777;

/// Bytes copied between two looks at whether to stop.
const BUFFER_BYTES: usize = 128 * 1024;

/// Writes entries below its root.
pub(super) struct Folder<'a> {
    root: &'a Path,
    /// Folders below the root that are known to be real ones.
    real: HashSet<PathBuf>,
    /// Modes of folders, set at the end: a folder that may not be written to must be filled first.
    modes: Vec<(PathBuf, u32)>,
    entries: u64,
    bytes: u64,
    bytes_max: u64,
    stop: &'a dyn Fn() -> bool,
    buffer: Vec<u8>,
}

/// A path below the root: not empty, only plain names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inside(PathBuf);

impl Inside {
    /// Reads an entry's name; `None` for the root itself.
    pub(super) fn new(name: &[u8]) -> Result<Option<Self>, UnpackError> {
        let leaves = |how| UnpackError::Leaves { entry: shown(name), how };
        if name.starts_with(b"/") {
            return Err(leaves("its path is absolute"));
        }
        if name.contains(&0) {
            return Err(leaves("its path has a zero byte"));
        }
        let mut path = PathBuf::new();
        for part in name.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err(leaves("its path has `..`")),
                part => path.push(OsStr::from_bytes(part)),
            }
        }
        Ok((!path.as_os_str().is_empty()).then_some(Self(path)))
    }

    /// How many folders are above it, the root not counted.
    fn depth(&self) -> usize {
        self.0.components().count() - 1
    }
}

impl<'a> Folder<'a> {
    /// A writer for the empty folder `root`, that takes at most `bytes_max` bytes of files.
    pub(super) fn new(root: &'a Path, bytes_max: u64, stop: &'a dyn Fn() -> bool) -> Self {
        let (real, modes, buffer) = (HashSet::new(), Vec::new(), vec![0; BUFFER_BYTES]);
        Self { root, real, modes, entries: 0, bytes: 0, bytes_max, stop, buffer }
    }

    /// Entries and bytes of files so far.
    pub(super) fn written(&self) -> (u64, u64) {
        (self.entries, self.bytes)
    }

    /// Counts an entry, before anything is done with it.
    pub(super) fn begin_entry(&mut self) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > UNPACK_ENTRIES_MAX {
            return Err(UnpackError::TooManyEntries);
        }
        if (self.stop)() { Err(UnpackError::Stopped) } else { Ok(()) }
    }

    /// Makes a folder.
    pub(super) fn directory(&mut self, path: &Inside, mode: Option<u32>) -> Result<(), UnpackError> {
        self.make_real(&path.0)?;
        if let Some(mode) = mode {
            // The owner keeps all rights on folders, or a release could not be removed again.
            self.modes.push((self.root.join(&path.0), mode & MODE_MASK | 0o700));
        }
        Ok(())
    }

    /// Writes a file, in place of a file or link of that name that an earlier entry made.
    pub(super) fn file(&mut self, path: &Inside, mode: Option<u32>, content: &mut dyn Read) -> Result<(), UnpackError> {
        let target = self.make_way(path)?;
        let mode = mode.unwrap_or(0o644) & MODE_MASK;
        let failed = |error| UnpackError::io("write", &target, error);
        // `create_new` follows no link.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target).map_err(failed)?;
        self.copy(content, &mut file, &target)?;
        file.set_permissions(Permissions::from_mode(mode)).map_err(failed)
    }

    /// Makes a symbolic link, if it leads nowhere outside.
    pub(super) fn symlink(&mut self, path: &Inside, leads_to: &[u8]) -> Result<(), UnpackError> {
        if !stays_inside(path.depth(), leads_to) {
            return Err(UnpackError::Leaves { entry: path.0.display().to_string(), how: "the link points out" });
        }
        let target = self.make_way(path)?;
        std::os::unix::fs::symlink(OsStr::from_bytes(leads_to), &target)
            .map_err(|error| UnpackError::io("link", &target, error))
    }

    /// Makes a second name for a file of the archive.
    pub(super) fn hard_link(&mut self, path: &Inside, original: &Inside) -> Result<(), UnpackError> {
        let from = self.root.join(&original.0);
        let parents_real = original.0.parent().is_none_or(|parent| self.is_real(parent));
        // A link to a symbolic link would be that link at another depth, where it may lead out.
        let is_file = fs::symlink_metadata(&from).is_ok_and(|metadata| metadata.is_file());
        if !parents_real || !is_file {
            let how = "the hard link's original is no file of the archive";
            return Err(UnpackError::Leaves { entry: path.0.display().to_string(), how });
        }
        if path == original {
            return Ok(());
        }
        let target = self.make_way(path)?;
        fs::hard_link(&from, &target).map_err(|error| UnpackError::io("link", &target, error))
    }

    /// Sets the folders' modes, the deepest first.
    pub(super) fn finish(mut self) -> Result<(), UnpackError> {
        self.modes.sort_by(|(a, _), (b, _)| b.cmp(a));
        for (path, mode) in self.modes {
            fs::set_permissions(&path, Permissions::from_mode(mode))
                .map_err(|error| UnpackError::io("set the mode of", &path, error))?;
        }
        Ok(())
    }

    /// Makes the folders above `path`, removes what is in its place, and answers the whole path.
    fn make_way(&mut self, path: &Inside) -> Result<PathBuf, UnpackError> {
        if let Some(parent) = path.0.parent() {
            self.make_real(parent)?;
        }
        let target = self.root.join(&path.0);
        match fs::symlink_metadata(&target) {
            Ok(there) if there.is_dir() => Err(UnpackError::Conflict { entry: path.0.display().to_string() }),
            Ok(_) => {
                fs::remove_file(&target).map_err(|error| UnpackError::io("replace", &target, error))?;
                Ok(target)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(target),
            Err(error) => Err(UnpackError::io("look at", &target, error)),
        }
    }

    /// Makes sure that `path` and all above it are real folders.
    fn make_real(&mut self, path: &Path) -> Result<(), UnpackError> {
        if path.as_os_str().is_empty() || self.real.contains(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.make_real(parent)?;
        }
        let whole = self.root.join(path);
        match fs::symlink_metadata(&whole) {
            Ok(there) if there.is_dir() => {}
            Ok(there) if there.is_symlink() => {
                let how = "its path goes through a link";
                return Err(UnpackError::Leaves { entry: path.display().to_string(), how });
            }
            Ok(_) => return Err(UnpackError::Conflict { entry: path.display().to_string() }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir(&whole).map_err(|error| UnpackError::io("make", &whole, error))?;
            }
            Err(error) => return Err(UnpackError::io("look at", &whole, error)),
        }
        self.real.insert(path.to_owned());
        Ok(())
    }

    fn is_real(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || self.real.contains(path)
    }

    fn copy(&mut self, content: &mut dyn Read, file: &mut File, target: &Path) -> Result<(), UnpackError> {
        loop {
            if (self.stop)() {
                return Err(UnpackError::Stopped);
            }
            let read = match content.read(&mut self.buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(UnpackError::Corrupt { cause: error.to_string() }),
            };
            self.bytes += read as u64;
            if self.bytes > self.bytes_max {
                return Err(UnpackError::TooLarge { bytes_max: self.bytes_max });
            }
            file.write_all(&self.buffer[..read]).map_err(|error| UnpackError::io("write", target, error))?;
        }
    }
}

/// Whether a link with `depth` real folders above it stays inside when it leads to `target`.
fn stays_inside(depth: usize, target: &[u8]) -> bool {
    let (mut up, mut goes_down) = (0, false);
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if goes_down => return false,
            b".." => up += 1,
            _ => goes_down = true,
        }
    }
    !target.is_empty() && !target.starts_with(b"/") && !target.contains(&0) && up <= depth
}

/// A name for people: bounded, without control characters.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_entries_are_plain_paths_below_the_root() {
        let path = |name: &str| Inside::new(name.as_bytes()).map(|inside| inside.map(|inside| inside.0));
        assert_eq!(path("a/b.txt").unwrap(), Some("a/b.txt".into()));
        assert_eq!(path("./a//b/.").unwrap(), Some("a/b".into()));
        assert_eq!(path("./").unwrap(), None);
        assert_eq!(path("..a/b..").unwrap(), Some("..a/b..".into()));
        for bad in ["/a", "..", "a/../b", "a/..", "a\0b"] {
            assert!(matches!(path(bad), Err(UnpackError::Leaves { .. })), "{bad:?}");
        }
    }

    #[test]
    fn links_stay_inside_only_if_they_go_up_first_and_not_too_far() {
        let inside = |depth, target: &str| stays_inside(depth, target.as_bytes());
        for (depth, target) in [(0, "a"), (0, "./a/b"), (1, ".."), (1, "../a"), (2, "../../a/b/"), (3, "..")] {
            assert!(inside(depth, target), "{depth} {target}");
        }
        let out =
            [(0, ".."), (0, "../a"), (1, "../../a"), (2, "a/.."), (2, "../a/../../.."), (5, "/a"), (5, ""), (1, "a\0")];
        for (depth, target) in out {
            assert!(!inside(depth, target), "{depth} {target}");
        }
    }
}
