//! One small durable record per package, in sled; the only file of the node that knows sled.
//!
//! Every write is flushed before it returns, except for times of use. The index is never the only copy of anything: sizes
//! and completeness can be had from the files, recipes from their folder, pins from the coordinator. So if sled does not
//! open, or what it holds makes no sense, its folder is moved aside with a loud log line and an empty one takes its place;
//! the store then hashes the files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shoal_proto::codec;
use shoal_proto::id::{DeploymentId, PackageId, RecipeId};
use shoal_proto::limits::PACKAGE_RECORD_BYTES_MAX;
use shoal_proto::time::WallTime;
use tracing::error;

use super::StoreError;
use super::files::Folders;

/// What is known of a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Its recipe, whether or not that is held.
    pub(super) recipe: RecipeId,
    /// Its size in bytes if its file was complete and fsynced.
    pub(super) sealed_bytes: Option<u64>,
    /// When it was last wanted or used.
    pub(super) last_use: WallTime,
    /// The deployments that want it kept.
    pub(super) pins: BTreeSet<DeploymentId>,
}

/// Written when an index is made. If it is missing from an index that was there, records were lost.
const MARK: &[u8] = b"shoal package index 1";

/// sled's page cache; the records of 10,000 packages fit.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;

/// The records' home.
#[derive(Debug)]
pub(super) struct Index {
    database: sled::Db,
    folder: PathBuf,
}

/// An index and what it held when it was opened.
pub(super) struct Opened {
    pub(super) index: Index,
    pub(super) records: BTreeMap<PackageId, Record>,
    /// An index was there and could not be read: pins are unknown.
    pub(super) lost: bool,
}

/// Why sled did not open.
enum Trouble {
    /// The lock of an index that this process closed a moment ago: sled's threads let go of it when they end.
    Locked,
    /// The operating system refused, which says nothing about what is on the disk.
    Refused(String),
    /// What is on the disk makes no sense.
    Damage(String),
}

/// How often an index is opened that is still being closed.
const LOCKED_TRIES_MAX: u32 = 10;

impl Index {
    /// Opens the index of `folders`, or makes an empty one.
    pub(super) fn open(folders: &Folders) -> Result<Opened, StoreError> {
        let folder = folders.index();
        let failed = |cause| StoreError::Index { folder: folders.index(), cause };
        let existed = folder.exists();
        match Self::read_unlocked(&folder, existed) {
            Ok((index, records)) => Ok(Opened { index, records, lost: false }),
            Err(Trouble::Damage(cause)) if existed => {
                error!(folder = %folder.display(), %cause, "the package index is damaged; package files are hashed instead");
                folders.set_aside(&folder, "sled could not read it")?;
                let (index, records) =
                    Self::read_unlocked(&folder, false).map_err(|trouble| failed(trouble.cause()))?;
                Ok(Opened { index, records, lost: true })
            }
            Err(trouble) => Err(failed(trouble.cause())),
        }
    }

    /// As [`Index::read`], after waiting for sled's threads to end if they have not. `store.lock` is ours, so that no
    /// other process can be the one that has the index.
    fn read_unlocked(folder: &Path, existed: bool) -> Result<(Self, BTreeMap<PackageId, Record>), Trouble> {
        for _ in 1..LOCKED_TRIES_MAX {
            match Self::read(folder, existed) {
                Err(Trouble::Locked) => {
                    let freed = File::open(folder.join("db")).and_then(|file| file.lock());
                    freed.map_err(|e| Trouble::Refused(e.to_string()))?;
                }
                read => return read,
            }
        }
        Self::read(folder, existed)
    }

    /// Opens sled and reads all there is; any doubt is damage.
    fn read(folder: &Path, existed: bool) -> Result<(Self, BTreeMap<PackageId, Record>), Trouble> {
        let config = sled::Config::new().path(folder).cache_capacity(CACHE_BYTES).mode(sled::Mode::LowSpace);
        // sled panics on some kinds of damage.
        let opened = catch_unwind(AssertUnwindSafe(|| -> sled::Result<_> {
            let database = config.open()?;
            let entries = database.iter().collect::<sled::Result<Vec<_>>>()?;
            Ok((database, entries))
        }));
        let (database, entries) = opened.map_err(|_| Trouble::Damage("sled panicked".to_owned()))??;
        let index = Self { database, folder: folder.to_owned() };
        if !existed {
            index.database.insert(MARK, &[])?;
            index.database.flush()?;
            return Ok((index, BTreeMap::new()));
        }
        let mut marked = false;
        let mut records = BTreeMap::new();
        for (key, value) in entries {
            if key == MARK {
                marked = true;
                continue;
            }
            let key = <[u8; 32]>::try_from(key.as_ref());
            let package = key.map_err(|_| Trouble::Damage("a key is no package id".to_owned()))?;
            let record = codec::decode(&value, PACKAGE_RECORD_BYTES_MAX);
            records.insert(PackageId(package), record.map_err(|e| Trouble::Damage(e.to_string()))?);
        }
        if marked { Ok((index, records)) } else { Err(Trouble::Damage("it has lost its records".to_owned())) }
    }

    /// Writes a record durably.
    pub(super) fn put(&self, package: PackageId, record: &Record) -> Result<(), StoreError> {
        self.put_soon(package, record)?;
        self.flush()
    }

    /// Writes records durably; if that fails, any of them may be written.
    pub(super) fn put_all(&self, records: &[(PackageId, Record)]) -> Result<(), StoreError> {
        for (package, record) in records {
            self.put_soon(*package, record)?;
        }
        if records.is_empty() { Ok(()) } else { self.flush() }
    }

    /// Writes a record that a crash may undo.
    pub(super) fn put_soon(&self, package: PackageId, record: &Record) -> Result<(), StoreError> {
        let bytes = codec::encode(record, PACKAGE_RECORD_BYTES_MAX).map_err(|e| self.failed(&e))?;
        self.database.insert(package.0, bytes).map_err(|e| self.failed(&e))?;
        Ok(())
    }

    /// Removes a record durably.
    pub(super) fn remove(&self, package: PackageId) -> Result<(), StoreError> {
        self.database.remove(package.0).map_err(|e| self.failed(&e))?;
        self.flush()
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.database.flush().map_err(|e| self.failed(&e))?;
        Ok(())
    }

    fn failed(&self, cause: &dyn std::fmt::Display) -> StoreError {
        StoreError::Index { folder: self.folder.clone(), cause: cause.to_string() }
    }
}

impl Trouble {
    fn cause(self) -> String {
        match self {
            Self::Locked => "it is locked".to_owned(),
            Self::Refused(cause) | Self::Damage(cause) => cause,
        }
    }
}

impl From<sled::Error> for Trouble {
    fn from(error: sled::Error) -> Self {
        let cause = error.to_string();
        match error {
            // sled has no kind of its own for this.
            sled::Error::Io(e) if e.kind() == ErrorKind::Other && cause.contains("could not acquire lock") => {
                Self::Locked
            }
            sled::Error::Io(e) if e.raw_os_error().is_some() => Self::Refused(cause),
            _ => Self::Damage(cause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_is_still_locked_is_waited_for_and_not_taken_for_damaged() {
        let folder = tempfile::TempDir::new().unwrap();
        let folders = Folders::open(folder.path()).unwrap();
        drop(Index::open(&folders).unwrap());
        let holder = File::open(folders.index().join("db")).unwrap();
        holder.lock().unwrap();
        assert!(matches!(Index::read(&folders.index(), true), Err(Trouble::Locked)));
        std::thread::scope(|scope| {
            let opening = scope.spawn(|| Index::open(&folders).unwrap().lost);
            drop(holder);
            assert!(!opening.join().unwrap());
        });
    }

    #[test]
    fn what_the_operating_system_refuses_is_no_damage() {
        let refused = std::io::Error::from_raw_os_error(24);
        assert!(matches!(Trouble::from(sled::Error::Io(refused)), Trouble::Refused(_)));
        assert!(matches!(Trouble::from(sled::Error::Unsupported(String::new())), Trouble::Damage(_)));
    }
}
