//! Unpacks a package to `<to>/releases/<release>` and points the link `<to>/current` at it.
//!
//! Invariant: what has a release's name is whole. A release is unpacked beside the others under a hidden name, brought to
//! disk, and renamed; if it was there before, both are exchanged in one move. Then the link is replaced by a rename. At any
//! moment, and after any crash, `current` leads to a whole release, the old or the new one. A lock file keeps two runs
//! out of each other's way, and everything hidden that a run finds was left behind by one that was interrupted.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use shoal_proto::id::Name;
use shoal_proto::limits::{UNPACK_BYTES_PER_BYTE_MAX, UNPACK_ENTRIES_MAX};

use super::archive;
use crate::disk::free_bytes;

/// Prefix of hidden folders: unpacked halfway, replaced, or being removed.
const HIDDEN: &str = ".shoal-";

/// How often a lock that another process holds is tried: short against what unpacking takes.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// What to unpack and where.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) package: PathBuf,
    pub(super) to: PathBuf,
    pub(super) release: Name,
    /// How many releases stay, this one included.
    pub(super) keep: u32,
}

/// What was unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unpacked {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) folder: PathBuf,
    /// Old releases that went.
    pub(super) removed: Vec<String>,
    /// Why an old release could not be removed; no reason to fail.
    pub(super) not_removed: Option<String>,
}

impl std::fmt::Display for Unpacked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unpacked {} entries, {} bytes to {}", self.entries, self.bytes, self.folder.display())?;
        if !self.removed.is_empty() {
            write!(f, "; removed {}", self.removed.join(", "))?;
        }
        match &self.not_removed {
            Some(cause) => write!(f, "; an old release stays: {cause}"),
            None => Ok(()),
        }
    }
}

/// Why a package was not unpacked. Nothing has changed then, unless only the link could not be set.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    #[error("`{}` is no absolute path without `..`: write the whole path", to.display())]
    BadPath { to: PathBuf },
    #[error("`{}` is no link, so that it is not replaced: move it away", current.display())]
    CurrentIsNoLink { current: PathBuf },
    #[error("`{}` is no zip, tar, tar.gz or tar.zst", package.display())]
    NotAnArchive { package: PathBuf },
    #[error("the archive cannot be read: {cause}")]
    Corrupt { cause: String },
    #[error("entry `{entry}` would leave its folder: {how}")]
    Leaves { entry: String, how: &'static str },
    #[error("entry `{entry}` is a folder and something else at once")]
    Conflict { entry: String },
    #[error("entry `{entry}` is a device, pipe or something else that is not unpacked")]
    Special { entry: String },
    #[error("the archive has more than {UNPACK_ENTRIES_MAX} entries")]
    TooManyEntries,
    #[error(
        "the archive holds more than {bytes_max} bytes, over {UNPACK_BYTES_PER_BYTE_MAX} times its own size: a bomb"
    )]
    TooLarge { bytes_max: u64 },
    #[error("no space for {}: free some", path.display())]
    DiskFull { path: PathBuf },
    #[error("no space in {}: the release needs more than the {free_bytes} bytes free: free some", folder.display())]
    NoSpace { folder: PathBuf, free_bytes: u64 },
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("it was stopped")]
    Stopped,
}

impl UnpackError {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::DiskFull { path: path.to_owned() },
            _ => Self::Io { doing, path: path.to_owned(), source },
        }
    }

    /// Tells how much room there was when what had been written in `folder` is gone again.
    fn in_folder(self, folder: &Path) -> Self {
        match (&self, free_bytes(folder)) {
            (Self::DiskFull { .. }, Some(free_bytes)) => Self::NoSpace { folder: folder.to_owned(), free_bytes },
            _ => self,
        }
    }
}

/// Does `job`, and stops soon after `stop` says so. Blocks.
pub(super) fn unpack(job: &Job, stop: &dyn Fn() -> bool) -> Result<Unpacked, UnpackError> {
    let whole_path = job.to.is_absolute() && !job.to.components().any(|part| part == Component::ParentDir);
    if !whole_path {
        return Err(UnpackError::BadPath { to: job.to.clone() });
    }
    let releases = job.to.join("releases");
    fs::create_dir_all(&releases).map_err(|error| UnpackError::io("make", &releases, error))?;
    let _lock = lock(&releases, stop)?;
    remove_leftovers(&releases)?;
    let current = job.to.join("current");
    if fs::symlink_metadata(&current).is_ok_and(|there| !there.is_symlink()) {
        return Err(UnpackError::CurrentIsNoLink { current });
    }

    let hidden = releases.join(format!("{HIDDEN}new"));
    let (entries, bytes) = unpack_hidden(job, &hidden, stop).map_err(|error| {
        // The error that is reported matters more; what stays is removed by the next run.
        let _ = fs::remove_dir_all(&hidden);
        error.in_folder(&releases)
    })?;
    let folder = releases.join(job.release.as_str());
    publish(&hidden, &folder)?;
    sync(&releases)?;
    point(&current, &job.release, &job.to)?;

    let mut unpacked = Unpacked { entries, bytes, folder, removed: Vec::new(), not_removed: None };
    let pruned =
        remove_leftovers(&releases).and_then(|()| prune(&releases, &job.release, job.keep, &mut unpacked.removed));
    unpacked.not_removed = pruned.err().map(|error| error.to_string());
    Ok(unpacked)
}

/// Unpacks to `hidden` and brings it to disk.
fn unpack_hidden(job: &Job, hidden: &Path, stop: &dyn Fn() -> bool) -> Result<(u64, u64), UnpackError> {
    fs::create_dir(hidden).map_err(|error| UnpackError::io("make", hidden, error))?;
    let written = archive::extract(&job.package, hidden, stop)?;
    sync_all_below(hidden)?;
    if stop() { Err(UnpackError::Stopped) } else { Ok(written) }
}

/// Holds `<to>/releases/.shoal-lock` until the file is dropped, or the process ends in any way. Agents of one machine that
/// unpack to one folder take turns.
fn lock(releases: &Path, stop: &dyn Fn() -> bool) -> Result<File, UnpackError> {
    let path = releases.join(format!("{HIDDEN}lock"));
    let failed = |error| UnpackError::io("lock", &path, error);
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
            Err(fs::TryLockError::WouldBlock) if stop() => return Err(UnpackError::Stopped),
            // Waiting in the kernel could not be stopped.
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_POLL),
        }
    }
}

/// Removes hidden folders. The lock is held, so that nobody works in them.
fn remove_leftovers(releases: &Path) -> Result<(), UnpackError> {
    for (name, path) in folders(releases)? {
        if name.starts_with(HIDDEN) {
            fs::remove_dir_all(&path).map_err(|error| UnpackError::io("remove", &path, error))?;
        }
    }
    Ok(())
}

/// Real folders in `releases`, by name.
fn folders(releases: &Path) -> Result<Vec<(String, PathBuf)>, UnpackError> {
    let failed = |error| UnpackError::io("list", releases, error);
    let mut found = Vec::new();
    for entry in fs::read_dir(releases).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Some(name) = entry.file_name().to_str()
            && entry.file_type().map_err(failed)?.is_dir()
        {
            found.push((name.to_owned(), entry.path()));
        }
    }
    Ok(found)
}

/// Gives `hidden` the name `folder`. What had that name is hidden afterwards.
fn publish(hidden: &Path, folder: &Path) -> Result<(), UnpackError> {
    let failed = |error| UnpackError::io("replace", folder, error);
    if fs::symlink_metadata(folder).is_err() {
        return fs::rename(hidden, folder).map_err(failed);
    }
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
        if renameat2(AT_FDCWD, hidden, AT_FDCWD, folder, RenameFlags::RENAME_EXCHANGE).is_ok() {
            return Ok(());
        }
    }
    // A file system that cannot exchange: for a moment there is no folder of that name.
    let old = hidden.with_file_name(format!("{HIDDEN}old"));
    fs::rename(folder, &old).map_err(failed)?;
    fs::rename(hidden, folder).map_err(failed)
}

/// Points the link `current` at a release, in one move.
fn point(current: &Path, release: &Name, to: &Path) -> Result<(), UnpackError> {
    let next = to.join(format!("{HIDDEN}current"));
    match fs::remove_file(&next) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(UnpackError::io("remove", &next, error)),
        _ => {}
    }
    symlink(Path::new("releases").join(release.as_str()), &next)
        .map_err(|error| UnpackError::io("link", &next, error))?;
    fs::rename(&next, current).map_err(|error| UnpackError::io("replace", current, error))?;
    sync(to)
}

/// Removes the oldest releases but for `keep`, and never `release`, which is the current one.
fn prune(releases: &Path, release: &Name, keep: u32, removed: &mut Vec<String>) -> Result<(), UnpackError> {
    let mut others: Vec<(SystemTime, String, PathBuf)> = Vec::new();
    for (name, path) in folders(releases)? {
        // What cannot be a release's name was put there by somebody else.
        if name != release.as_str() && Name::new(name.as_str()).is_ok() {
            let changed = fs::metadata(&path).and_then(|metadata| metadata.modified());
            others.push((changed.map_err(|error| UnpackError::io("look at", &path, error))?, name, path));
        }
    }
    others.sort();
    let too_many = others.len().saturating_sub(keep.max(1) as usize - 1);
    for (_, name, path) in others.into_iter().take(too_many) {
        // Hidden first: what has a release's name is whole.
        let going = releases.join(format!("{HIDDEN}going"));
        let gone = fs::rename(&path, &going).and_then(|()| fs::remove_dir_all(&going));
        gone.map_err(|error| UnpackError::io("remove", &path, error))?;
        removed.push(name);
    }
    Ok(())
}

/// Brings a folder's own entries to disk.
fn sync(folder: &Path) -> Result<(), UnpackError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| UnpackError::io("sync", folder, error))
}

/// Brings all that was written below `folder` to disk: one call for the whole file system, since one for each of
/// thousands of files takes far longer.
fn sync_all_below(folder: &Path) -> Result<(), UnpackError> {
    #[cfg(target_os = "linux")]
    {
        let opened = File::open(folder).map_err(|error| UnpackError::io("sync", folder, error))?;
        nix::unistd::syncfs(&opened).map_err(|error| UnpackError::io("sync", folder, error.into()))
    }
    #[cfg(not(target_os = "linux"))]
    {
        nix::unistd::sync();
        sync(folder)
    }
}
