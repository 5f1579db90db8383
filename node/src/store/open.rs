//! What is believed of the files found at start, and what is done about the rest.
//!
//! A package's file is believed if it has its final name and a flushed record of its size. Every other one under a final
//! name (the index was lost, or a crash came between the rename and the record) is hashed against its recipe first: what
//! is sound is kept, what is not becomes a partial file, what has no recipe is set aside. Recipes are small and hashed
//! at every start. Nothing is deleted.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use shoal_proto::content::{Layout, Recipe};
use shoal_proto::id::{ContentId, PackageId, RecipeId};
use shoal_proto::time::WallTime;
use tracing::{info, warn};

use super::content::Believed;
use super::files::{self, Folders, Found};
use super::index::{Index, Record};
use super::room::Promised;
use super::state::{Entry, Inner, State, Usage};
use super::{Content, Kind, Store, StoreError};

impl Store {
    /// Opens the store in a data directory, or makes one there. Reads every recipe, and hashes those packages whose
    /// records are missing.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process has it; those of the disk.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let folders = Folders::open(data_dir)?;
        let opened = Index::open(&folders)?;
        let newest_use = opened.records.values().map(|record| record.last_use).max().unwrap_or_default();
        let state = State { records: opened.records, pins_lost: opened.lost, newest_use, ..State::default() };
        let inner = Inner { state: Mutex::new(state), index: opened.index, promised: Promised::default(), folders };
        let packages = inner.note_files(Kind::Package)?;
        inner.note_files(Kind::Recipe)?;
        let mut unproven = inner.believe_packages(&packages)?;
        inner.read_recipes(&mut unproven)?;
        for file in unproven.values() {
            inner.folders.set_aside(&inner.folders.sealed(Kind::Package, file.content), "no recipe for it is held")?;
            inner.state().entries.remove(&(Kind::Package, file.content));
        }
        inner.drop_empty_records()?;
        let held = inner.state().entries.len();
        info!(folder = %data_dir.display(), files = held, "store opened");
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Inner {
    /// Lists a folder into the state, everything as not sealed; returns the files with final names.
    fn note_files(&self, kind: Kind) -> Result<Vec<Found>, StoreError> {
        let (partial, complete): (Vec<_>, Vec<_>) = self.folders.scan(kind)?.into_iter().partition(|file| file.partial);
        let mut state = self.state();
        for file in partial.iter().chain(&complete) {
            let entry = Entry { bytes: file.size, sealed: false, usage: Usage::Idle };
            if state.entries.insert((kind, file.content), entry).is_some() {
                self.folders.set_aside(&self.folders.partial(kind, file.content), "a complete file is there too")?;
            }
        }
        Ok(complete)
    }

    /// Takes packages for sealed whose record says so; returns the others, and takes back what records say too much.
    fn believe_packages(&self, files: &[Found]) -> Result<BTreeMap<PackageId, Found>, StoreError> {
        let mut unproven: BTreeMap<_, _> = files.iter().map(|file| (PackageId(file.content.0), *file)).collect();
        let mut state = self.state();
        let state = &mut *state;
        for (package, record) in &mut state.records {
            let Some(size) = record.sealed_bytes else { continue };
            if unproven.get(package).is_some_and(|file| file.size == size) {
                unproven.remove(package);
                if let Some(entry) = state.entries.get_mut(&(Kind::Package, ContentId::from(*package))) {
                    entry.sealed = true;
                }
                continue;
            }
            warn!(%package, size, "the package's file is missing or has another size");
            record.sealed_bytes = None;
            self.index.put(*package, record)?;
        }
        Ok(unproven)
    }

    /// Reads every recipe: proves packages with it, and makes the segments of sealed ones known.
    fn read_recipes(&self, unproven: &mut BTreeMap<PackageId, Found>) -> Result<(), StoreError> {
        let ids: Vec<_> = self.state().entries.keys().filter(|(kind, _)| *kind == Kind::Recipe).copied().collect();
        for key in ids {
            let path = self.folders.sealed(key.0, key.1);
            if !path.exists() {
                continue;
            }
            let Some(plain) = self.plain_form(RecipeId(key.1.0))? else { continue };
            let recipe = match Recipe::decode(&plain) {
                Ok(recipe) => recipe,
                Err(e) => {
                    self.folders.set_aside(&path, &e.to_string())?;
                    self.state().entries.remove(&key);
                    continue;
                }
            };
            if let Some(entry) = self.state().entries.get_mut(&key) {
                entry.sealed = true;
            }
            if let Some(file) = unproven.remove(&recipe.package()) {
                self.prove(file, &recipe)?;
            }
            if self.sealed_by(&recipe) {
                self.state().segments.add(recipe.package(), recipe.segments());
            }
        }
        Ok(())
    }

    /// Hashes a package's file against its recipe and seals or unseals it accordingly.
    fn prove(&self, file: Found, recipe: &Recipe) -> Result<(), StoreError> {
        let (package, key) = (recipe.package(), (Kind::Package, file.content));
        let path = self.folders.sealed(key.0, key.1);
        info!(%package, "hashing a package whose record is missing");
        let sound = file.size == recipe.size() && {
            let opened = File::open(&path).map_err(|e| StoreError::io("open", &path, 0, e))?;
            let content = Content::new(key.0, Layout::of_recipe(recipe), opened, path.clone(), Believed::Nothing);
            content.damaged_segments()?.is_empty() && content.glue_is_sound(recipe)?
        };
        if !sound {
            warn!(%package, "the package is not complete; what is good of it is kept");
            files::rename(&path, &self.folders.partial(key.0, key.1))?;
            return Ok(());
        }
        let modified = path.metadata().and_then(|meta| meta.modified()).unwrap_or(UNIX_EPOCH);
        let last_use = WallTime(modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64));
        let mut state = self.state();
        let pins = state.records.get(&package).map(|record| record.pins.clone()).unwrap_or_default();
        let record = Record { recipe: recipe.id(), sealed_bytes: Some(recipe.size()), last_use, pins };
        self.index.put(package, &record)?;
        state.records.insert(package, record);
        if let Some(entry) = state.entries.get_mut(&key) {
            entry.sealed = true;
        }
        Ok(())
    }

    /// Removes records that neither a file nor a pin gives a reason for.
    fn drop_empty_records(&self) -> Result<(), StoreError> {
        let mut state = self.state();
        let state = &mut *state;
        let empty = |(package, record): (&PackageId, &Record)| {
            let held = state.entries.contains_key(&(Kind::Package, ContentId::from(*package)));
            (!held && record.pins.is_empty()).then_some(*package)
        };
        let empty: Vec<_> = state.records.iter().filter_map(empty).collect();
        for package in empty {
            self.index.remove(package)?;
            state.records.remove(&package);
        }
        Ok(())
    }
}
