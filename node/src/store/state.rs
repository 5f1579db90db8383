//! What the store holds and who has it open: the tables behind [`Store`](super::Store), and the records that follow them.
//!
//! Invariants: one thread at a time opens or drops a content (a *claim*); memory never says more than the disk. The state
//! lock is held over small index writes but never over package bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use shoal_proto::content::{Layout, Recipe};
use shoal_proto::id::{ContentId, PackageId, RecipeId};
use shoal_proto::time::WallTime;
use tracing::{debug, warn};

use super::content::{Believed, Shared};
use super::files::{self, Folders};
use super::index::{Index, Record};
use super::reuse::SegmentIndex;
use super::room::Promised;
use super::{Content, Held, Kind, StoreError};

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) state: Mutex<State>,
    pub(super) index: Index,
    pub(super) promised: Promised,
    /// Last, so that the lock goes after the index is closed.
    pub(super) folders: Folders,
}

pub(super) type Key = (Kind, ContentId);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) records: BTreeMap<PackageId, Record>,
    pub(super) entries: BTreeMap<Key, Entry>,
    pub(super) segments: SegmentIndex,
    /// It is unknown what is pinned.
    pub(super) pins_lost: bool,
    pub(super) newest_use: WallTime,
}

/// A file of the store.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) bytes: u64,
    pub(super) sealed: bool,
    pub(super) usage: Usage,
}

#[derive(Debug)]
pub(super) enum Usage {
    Idle,
    /// One thread has it for itself: it opens or drops it.
    Claimed,
    Open(Weak<Shared>),
}

impl Entry {
    pub(super) fn held(&self) -> Held {
        if self.sealed { Held::Sealed } else { Held::Partial }
    }

    /// The handle that is open, if one is.
    pub(super) fn open(&self) -> Option<Content> {
        match &self.usage {
            Usage::Open(shared) => shared.upgrade().map(|shared| Content { shared }),
            Usage::Idle | Usage::Claimed => None,
        }
    }

    pub(super) fn in_use(&self) -> bool {
        matches!(self.usage, Usage::Claimed) || self.open().is_some()
    }
}

impl State {
    /// The present moment, later than every one before.
    pub(super) fn now(&mut self) -> WallTime {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        self.newest_use = WallTime(clock.max(self.newest_use.0 + 1));
        self.newest_use
    }
}

/// A content that one thread has for itself; dropped without [`Claim::open`], it is idle again.
pub(super) struct Claim<'a> {
    inner: &'a Inner,
    key: Key,
    pub(super) sealed: bool,
    open: bool,
}

pub(super) enum Claimed<'a> {
    Open(Content),
    Mine(Claim<'a>),
}

impl Claim<'_> {
    pub(super) fn open(mut self, content: &Content) {
        self.open = true;
        let (bytes, sealed) = (content.layout().size(), content.is_sealed());
        let usage = Usage::Open(Arc::downgrade(&content.shared));
        self.inner.state().entries.insert(self.key, Entry { bytes, sealed, usage });
    }

    pub(super) fn open_sealed(self, layout: Layout) -> Result<Content, StoreError> {
        let path = self.inner.folders.sealed(self.key.0, self.key.1);
        let file = File::options().read(true).write(true).open(&path);
        let file = file.map_err(|e| StoreError::io("open", &path, 0, e))?;
        let content = Content::new(self.key.0, layout, file, path, Believed::Sealed);
        self.open(&content);
        Ok(content)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.open {
            return;
        }
        let found = self.inner.folders.look(self.key.0, self.key.1);
        let mut state = self.inner.state();
        match found {
            Some(file) => {
                let entry = Entry { bytes: file.size, sealed: self.sealed && !file.partial, usage: Usage::Idle };
                state.entries.insert(self.key, entry);
            }
            None => {
                state.entries.remove(&self.key);
            }
        }
    }
}

impl Inner {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a bug that has been reported; the maps are usable between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_sealed(&self, key: Key) -> bool {
        self.state().entries.get(&key).is_some_and(|entry| entry.sealed)
    }

    pub(super) fn claim(&self, key: Key) -> Result<Claimed<'_>, StoreError> {
        let mut state = self.state();
        let entry = state.entries.entry(key).or_insert(Entry { bytes: 0, sealed: false, usage: Usage::Idle });
        if let Some(content) = entry.open() {
            return Ok(Claimed::Open(content));
        }
        if matches!(entry.usage, Usage::Claimed) {
            return Err(StoreError::Busy(key.1));
        }
        entry.usage = Usage::Claimed;
        Ok(Claimed::Mine(Claim { inner: self, key, sealed: entry.sealed, open: false }))
    }

    /// Whether the package was sealed by this very recipe.
    pub(super) fn sealed_by(&self, recipe: &Recipe) -> bool {
        let state = self.state();
        state
            .records
            .get(&recipe.package())
            .is_some_and(|record| record.recipe == recipe.id() && record.sealed_bytes == Some(recipe.size()))
    }

    /// Makes the segments of a sealed package known, unless they are: its recipe may have come back after a loss.
    pub(super) fn know_segments(&self, layout: &Layout, kind: Kind) {
        if kind == Kind::Package {
            self.state().segments.add(PackageId(layout.content().0), layout.segments());
        }
    }

    /// Records that the package is wanted by this recipe.
    pub(super) fn note_recipe(&self, recipe: &Recipe) -> Result<(), StoreError> {
        self.change_record(recipe.package(), recipe.id(), |record| {
            let changed = record.recipe != recipe.id();
            record.recipe = recipe.id();
            changed
        })
    }

    /// Records that the content is complete and durable under its final name.
    pub(super) fn note_sealed(&self, content: &Content) -> Result<(), StoreError> {
        let (kind, id, size) = (content.kind(), content.id(), content.layout().size());
        if kind == Kind::Package {
            let package = PackageId(id.0);
            let known = self.state().records.get(&package).map(|record| record.recipe);
            let recipe = known.ok_or(StoreError::NotHeld(id))?;
            self.change_record(package, recipe, |record| record.sealed_bytes.replace(size) != Some(size))?;
        }
        self.know_segments(content.layout(), kind);
        if let Some(entry) = self.state().entries.get_mut(&(kind, id)) {
            entry.sealed = true;
            entry.bytes = size;
        }
        Ok(())
    }

    /// Takes back that a content is complete: first durably in the record, then in the file's name, so that no crash in
    /// between leaves a damaged file that is believed.
    pub(super) fn unseal(&self, key: Key) -> Result<(), StoreError> {
        let (kind, content) = key;
        if kind == Kind::Package {
            let package = PackageId(content.0);
            let mut state = self.state();
            state.segments.remove(package);
            if let Some(record) = state.records.get_mut(&package) {
                record.sealed_bytes = None;
                self.index.put(package, record)?;
            }
        }
        files::rename(&self.folders.sealed(kind, content), &self.folders.partial(kind, content))?;
        if let Some(entry) = self.state().entries.get_mut(&key) {
            entry.sealed = false;
        }
        Ok(())
    }

    /// Marks a package as used at this moment; a crash may forget it.
    pub(super) fn touch(&self, package: PackageId) {
        let mut state = self.state();
        let last_use = state.now();
        let Some(record) = state.records.get_mut(&package) else { return };
        record.last_use = last_use;
        self.note_use(package, record);
    }

    /// Writes down when a package was used. That fails on a full disk, where the package can be used all the same.
    fn note_use(&self, package: PackageId, record: &Record) {
        if let Err(error) = self.index.put_soon(package, record) {
            debug!(%package, %error, "when the package was last used is not written down");
        }
    }

    /// Changes a package's record, or a fresh one made for `recipe`, and flushes it if `change` says that it changed.
    /// Memory follows the disk, never the other way.
    pub(super) fn change_record(
        &self,
        package: PackageId,
        recipe: RecipeId,
        change: impl FnOnce(&mut Record) -> bool,
    ) -> Result<(), StoreError> {
        let mut state = self.state();
        let last_use = state.now();
        let known = state.records.get(&package);
        let fresh = || Record { recipe, sealed_bytes: None, last_use, pins: BTreeSet::new() };
        let mut record = known.cloned().unwrap_or_else(fresh);
        let is_fresh = known.is_none();
        record.last_use = last_use;
        if change(&mut record) || is_fresh {
            self.index.put(package, &record)?;
        } else {
            self.note_use(package, &record);
        }
        state.records.insert(package, record);
        Ok(())
    }

    /// The plain form of a recipe from its file; `None` if that is damaged, which takes it out of use.
    pub(super) fn plain_form(&self, recipe: RecipeId) -> Result<Option<Vec<u8>>, StoreError> {
        let key = (Kind::Recipe, ContentId::from(recipe));
        let path = self.folders.sealed(key.0, key.1);
        let plain = fs::read(&path).map_err(|e| StoreError::io("read", &path, 0, e))?;
        if blake3::hash(&plain) == recipe.0 {
            return Ok(Some(plain));
        }
        warn!(%recipe, "the recipe is damaged on disk; fetched again");
        let open = self.state().entries.get(&key).and_then(Entry::open);
        let _naming = open.as_ref().map(Content::naming);
        self.unseal(key)?;
        if let Some(content) = &open {
            content.set_sealed(false);
            content.unmark(&content.damaged_segments()?);
        }
        Ok(None)
    }
}
