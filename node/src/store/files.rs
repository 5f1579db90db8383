//! Folders and files of the store: where they are, how they are made durable, and what happens to odd ones.
//!
//! Invariant: a file under its final name was complete and fsynced before it got that name. Nothing is deleted here
//! because it was not understood; it goes to `set-aside/` with a warning.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use shoal_proto::id::ContentId;
use tracing::warn;

use super::StoreError;
use super::room::Promised;

/// What a content is; each kind has a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A package's bytes.
    Package,
    /// A recipe's plain form.
    Recipe,
}

/// One file of the store whose name says what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) content: ContentId,
    pub(super) size: u64,
    pub(super) partial: bool,
}

/// The store's folders below a data directory, with the lock that keeps other processes out.
#[derive(Debug)]
pub(super) struct Folders {
    root: PathBuf,
    /// Held for as long as the store is open; the kernel releases it with the process, however that ends.
    _lock: File,
}

impl Folders {
    /// Creates what is missing and takes the lock.
    pub(super) fn open(root: &Path) -> Result<Self, StoreError> {
        for folder in [root.to_owned(), root.join("packages"), root.join("recipes")] {
            fs::create_dir_all(&folder).map_err(|e| StoreError::io("create", &folder, 0, e))?;
        }
        sync_folder(root)?;
        let path = root.join("store.lock");
        let lock = File::create(&path).map_err(|e| StoreError::io("create", &path, 0, e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { folder: root.to_owned() }),
            Err(TryLockError::Error(e)) => return Err(StoreError::io("lock", &path, 0, e)),
        }
        Ok(Self { root: root.to_owned(), _lock: lock })
    }

    pub(super) fn folder(&self, kind: Kind) -> PathBuf {
        self.root.join(match kind {
            Kind::Package => "packages",
            Kind::Recipe => "recipes",
        })
    }

    /// Where the index lives.
    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    /// The file of a complete content.
    pub(super) fn sealed(&self, kind: Kind, content: ContentId) -> PathBuf {
        self.folder(kind).join(content.to_string())
    }

    /// The file of a content that is not complete.
    pub(super) fn partial(&self, kind: Kind, content: ContentId) -> PathBuf {
        self.folder(kind).join(format!("{content}.part"))
    }

    /// The file that a content has: the complete one if there are two.
    pub(super) fn look(&self, kind: Kind, content: ContentId) -> Option<Found> {
        recognise(&self.sealed(kind, content)).or_else(|| recognise(&self.partial(kind, content)))
    }

    /// Everything in the folder of `kind`; what is not named as the store names things is set aside.
    pub(super) fn scan(&self, kind: Kind) -> Result<Vec<Found>, StoreError> {
        let folder = self.folder(kind);
        let fail = |e| StoreError::io("list", &folder, 0, e);
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            match recognise(&path) {
                Some(file) => found.push(file),
                None => self.set_aside(&path, "its name is not one that the store gives")?,
            }
        }
        Ok(found)
    }

    /// Moves a file or folder out of the way, to `set-aside/`, for a person to look at.
    pub(super) fn set_aside(&self, path: &Path, why: &str) -> Result<(), StoreError> {
        let folder = self.root.join("set-aside");
        fs::create_dir_all(&folder).map_err(|e| StoreError::io("create", &folder, 0, e))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let free = (0u64..).map(|n| if n == 0 { folder.join(&name) } else { folder.join(format!("{name}.{n}")) });
        let target = free.into_iter().find(|target| fs::symlink_metadata(target).is_err());
        let target = target.unwrap_or_else(|| folder.join(&name));
        warn!(file = %path.display(), to = %target.display(), why, "set aside; delete it if you do not need it");
        fs::rename(path, &target).map_err(|e| StoreError::io("move aside", path, 0, e))
    }
}

/// The content that a file holds by its name; `None` if it is no file or no name of the store's.
fn recognise(path: &Path) -> Option<Found> {
    let meta = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
    let name = path.file_name()?.to_str()?;
    let (stem, partial) = name.strip_suffix(".part").map_or((name, false), |stem| (stem, true));
    let content: ContentId = stem.parse().ok()?;
    // Ids are written in lower case only.
    (content.to_string() == stem).then_some(Found { content, size: meta.len(), partial })
}

/// Opens `path` for reading and writing, makes it exactly `size` bytes long and makes room for them. What it held stays.
///
/// Returns how many bytes it held before. On a full disk a file that did not exist does not exist afterwards.
pub(super) fn preallocate(path: &Path, size: u64, promised: &Promised) -> Result<(File, u64), StoreError> {
    let fail = |action, e| StoreError::io(action, path, size, e);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = file.map_err(|e| fail("open", e))?;
    let before = file.metadata().map_err(|e| fail("look at", e))?.len();
    if let Err(e) = promised.make_room(&file, path.parent().unwrap_or(path), size) {
        // The error is made before the file goes, so that the free bytes it names are those that did not suffice.
        let error = fail("reserve space for", e);
        if before == 0 {
            let _ = fs::remove_file(path);
        }
        return Err(error);
    }
    Ok((file, before))
}

/// Renames durably: contents first, then the name, then the folder.
pub(super) fn publish(file: &File, from: &Path, to: &Path) -> Result<(), StoreError> {
    file.sync_all().map_err(|e| StoreError::io("flush", from, 0, e))?;
    rename(from, to)
}

/// Renames and flushes the folder; both paths are in the same one.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|e| StoreError::io("rename", from, 0, e))?;
    sync_folder(to.parent().unwrap_or(to))
}

/// Deletes a file; none there is as good.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("delete", path, 0, e)),
        _ => Ok(()),
    }
}

fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|e| StoreError::io("flush", folder, 0, e))
}
