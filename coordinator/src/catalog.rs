//! The catalog: the recipe of every package that was ever resolved, so that each is read once by the coordinator.
//!
//! Invariants: an entry's recipe was cut here from the very bytes that its package id is the hash of, and from which the
//! feed's and the operator's hashes, if given, were checked; or an operator gave it and vouches for it (VERIFIED). Nothing
//! half-read stays: a package comes into a file of `incoming/`, which is empty after a start. The package's bytes are kept
//! only where the coordinator is their origin, in its package store ([`Store`]); which they are is for the caller to say.
//!
//! Files, under `<data_dir>/catalog`: `recipes/<id>.zst`, plain forms compressed; `entries/<hash>`, one per package.

mod error;
mod given;
mod pieces;
mod reading;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use shoal_node::compress::{compress, decompress};
use shoal_node::disk::replace;
use shoal_node::origin::OriginError;
use shoal_node::store::{Held, Import, Store};
use shoal_proto::codec;
use shoal_proto::content::{Outline, Recipe};
use shoal_proto::id::{ContentId, PackageId, RecipeId};
use shoal_proto::limits::{CATALOG_ENTRIES_MAX, CATALOG_ENTRY_BYTES_MAX, RECIPE_BYTES_MAX, SEGMENT_BYTES_MAX};
use shoal_proto::time::WallTime;

use crate::feeds::{Feeds, FolderFile, Place, Resolved};
pub use error::CatalogError;
use error::{failed, no_room};
use pieces::Pieces;
use reading::{Job, Source, Temporary, blocking, check_package, download, read_and_cut, remove};

/// What is known of a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogEntry {
    /// Where it came from, for people.
    pub description: String,
    /// The same for every version of one package.
    pub lineage: String,
    /// Hash of its bytes.
    pub package: PackageId,
    /// Its size in bytes.
    pub size: u64,
    /// Its recipe, as something to fetch.
    pub outline: Outline,
    /// When it was read.
    pub read_at: WallTime,
}

/// Entries and recipes. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Catalog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    entries: Mutex<BTreeMap<Key, CatalogEntry>>,
    pieces: Mutex<Pieces>,
    /// One package is read at a time: they share the coordinator's line and disk.
    reading: tokio::sync::Mutex<()>,
    temporary: AtomicU64,
    /// Held by who writes a file.
    writing: Mutex<()>,
}

/// Hash of what a package is looked up by, in hexadecimal digits: the name of an entry's file.
type Key = String;

impl Catalog {
    /// Opens or makes the catalog in `data_dir`. Entries that cannot be read are dropped with a warning: their packages are
    /// read again when they are wanted.
    ///
    /// # Errors
    /// [`CatalogError::Io`].
    pub fn open(data_dir: &Path) -> Result<Self, CatalogError> {
        let folder = data_dir.join("catalog");
        let incoming = folder.join("incoming");
        match fs::remove_dir_all(&incoming) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(failed("empty", &incoming)(source)),
            _ => {}
        }
        for name in ["incoming", "recipes", "entries"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(failed("make", &path))?;
        }
        drop_halves(&folder.join("recipes"))?;
        let entries = load(&folder.join("entries"))?;
        Ok(Self(Arc::new(Inner {
            folder,
            entries: Mutex::new(entries),
            pieces: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            temporary: AtomicU64::new(0),
            writing: Mutex::default(),
        })))
    }

    /// The entry of a package that was resolved; reads the package if the catalog has neither it nor, for the hash that
    /// is `wanted`, a recipe that was given. With `keep`, the package's bytes are in that store afterwards. `wanted` is
    /// the hash that the operator gave.
    ///
    /// # Errors
    /// Every [`CatalogError`]; nothing of the package stays then.
    pub async fn entry(
        &self,
        feeds: &Feeds,
        resolved: &Resolved,
        wanted: Option<PackageId>,
        keep: Option<&Store>,
    ) -> Result<CatalogEntry, CatalogError> {
        let _turn = self.0.reading.lock().await;
        if let Some(entry) = self.known(resolved) {
            check_package(&entry.description, entry.package, wanted)?;
            if self.held(&entry, resolved, keep).await? {
                return Ok(entry);
            }
        }
        if keep.is_none()
            && let Some(entry) = self.given(resolved, wanted).await?
        {
            return Ok(entry);
        }
        let job = Job { resolved: resolved.clone(), wanted, keep: keep.cloned() };
        if let Place::Folder(file) = &resolved.place {
            return self.add_file(job, file.clone()).await;
        }
        // `Resolved::places` gives every package that is no file a place.
        let mut ended = Err(CatalogError::Stopping);
        for place in resolved.places(None) {
            ended = self.add_download(job.clone(), &Source { feeds, resolved, place }).await;
            match &ended {
                Err(CatalogError::Origin { source, .. }) if source.is_passing() => {
                    tracing::warn!(%source, "a package is read from the next place that has it");
                }
                _ => break,
            }
        }
        ended
    }

    /// Every entry, in no particular order.
    pub fn entries(&self) -> Vec<CatalogEntry> {
        self.0.entries().values().cloned().collect()
    }

    /// The recipes of other versions of the package of `recipe`, the newest first: dictionaries for it.
    pub fn related(&self, recipe: RecipeId) -> Vec<RecipeId> {
        let entries = self.0.entries();
        let lineages: Vec<&str> =
            entries.values().filter(|e| e.outline.recipe == recipe).map(|entry| entry.lineage.as_str()).collect();
        let is_related =
            |entry: &&CatalogEntry| entry.outline.recipe != recipe && lineages.contains(&entry.lineage.as_str());
        let mut related: Vec<_> = entries.values().filter(is_related).collect();
        related.sort_by_key(|entry| std::cmp::Reverse(entry.read_at));
        let mut recipes: Vec<RecipeId> = related.into_iter().map(|entry| entry.outline.recipe).collect();
        recipes.dedup();
        recipes
    }

    /// A recipe.
    ///
    /// # Errors
    /// [`CatalogError::NoRecipe`], [`CatalogError::Io`].
    pub fn recipe(&self, recipe: RecipeId) -> Result<Recipe, CatalogError> {
        Recipe::decode(&self.recipe_bytes(recipe)?).map_err(|_| CatalogError::NoRecipe { recipe })
    }

    /// A recipe's plain form, verified. Reads the disk.
    ///
    /// # Errors
    /// [`CatalogError::NoRecipe`], [`CatalogError::Io`].
    pub fn recipe_bytes(&self, recipe: RecipeId) -> Result<Vec<u8>, CatalogError> {
        let path = self.0.recipe_path(recipe);
        let compressed = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(CatalogError::NoRecipe { recipe }),
            read => read.map_err(failed("read", &path))?,
        };
        let plain = decompress(&compressed, None, RECIPE_BYTES_MAX).ok();
        let sound = plain.filter(|plain| *blake3::hash(plain).as_bytes() == recipe.0);
        sound.ok_or(CatalogError::NoRecipe { recipe })
    }

    /// One piece of a recipe's outline, compressed against the plain form of another recipe if there is one; kept in
    /// memory, since every site wants the same. Reads the disk and computes.
    ///
    /// # Errors
    /// Those of [`Catalog::recipe_bytes`], for either recipe; [`CatalogError::NoPiece`].
    pub fn compressed_piece(
        &self,
        recipe: RecipeId,
        piece: u32,
        dictionary: Option<RecipeId>,
    ) -> Result<Arc<[u8]>, CatalogError> {
        let key = (recipe, piece, dictionary);
        if let Some(bytes) = self.0.pieces().find(&key) {
            return Ok(bytes);
        }
        let plain = self.recipe_bytes(recipe)?;
        let dictionary = dictionary.map(|id| self.recipe_bytes(id)).transpose()?;
        let wanted = plain.chunks(SEGMENT_BYTES_MAX).nth(piece as usize);
        let wanted = wanted.ok_or(CatalogError::NoPiece { recipe, piece })?;
        let compressed = compress(wanted, dictionary.as_deref());
        let bytes: Arc<[u8]> = compressed.map_err(failed("compress", &self.0.recipe_path(recipe)))?.into();
        self.0.pieces().insert(key, Arc::clone(&bytes));
        Ok(bytes)
    }

    fn known(&self, resolved: &Resolved) -> Option<CatalogEntry> {
        let entry = self.0.entries().get(&key(resolved)?).cloned()?;
        self.0.recipe_path(entry.outline.recipe).exists().then_some(entry)
    }

    /// Whether `keep`, if there is one, holds the package, after it was copied from a folder if need be.
    async fn held(
        &self,
        entry: &CatalogEntry,
        resolved: &Resolved,
        keep: Option<&Store>,
    ) -> Result<bool, CatalogError> {
        let Some(store) = keep.filter(|store| store.holds(ContentId::from(entry.package)) != Held::Sealed) else {
            return Ok(true);
        };
        let Place::Folder(file) = &resolved.place else { return Ok(false) };
        let (catalog, store, file, entry) = (self.clone(), store.clone(), file.clone(), entry.clone());
        blocking(move || {
            file.open().map_err(failed("open", &file.path))?;
            // A damaged recipe is no reason to give up: the file is read again.
            let Ok(recipe) = catalog.recipe(entry.outline.recipe) else { return Ok(false) };
            let imported = store.import(&file.path, &recipe, Import::Copy);
            imported.map(|()| true).map_err(|source| CatalogError::Store { what: entry.description, source })
        })
        .await
    }

    async fn add_file(&self, job: Job, file: FolderFile) -> Result<CatalogEntry, CatalogError> {
        let catalog = self.clone();
        blocking(move || {
            let opened = file.open().map_err(failed("open", &file.path))?;
            let recipe = job.cut_file(&opened, &file.path)?;
            // Once more, because it may have changed while it was read.
            file.open().map_err(failed("open", &file.path))?;
            catalog.add(&job, &recipe, &file.path, Import::Copy)
        })
        .await
    }

    async fn add_download(&self, job: Job, source: &Source<'_>) -> Result<CatalogEntry, CatalogError> {
        let number = self.0.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = Temporary(self.0.folder.join("incoming").join(number.to_string()));
        let (job, catalog) = (Arc::new(job), self.clone());
        let path = job.keep.is_some().then(|| temporary.0.clone());
        let recipe = match read_and_cut(source, Arc::clone(&job), path).await {
            Err(CatalogError::Origin { source: why, .. }) if matches!(*why, OriginError::IgnoresRanges { .. }) => {
                download(source, &temporary.0).await?;
                None
            }
            recipe => Some(recipe?),
        };
        blocking(move || {
            let recipe = recipe.map_or_else(|| job.cut_path(&temporary.0), Ok)?;
            catalog.add(&job, &recipe, &temporary.0, Import::Take)
        })
        .await
    }

    /// Keeps what was cut: the package first, so that an entry never speaks of one that is missing.
    fn add(&self, job: &Job, recipe: &Recipe, path: &Path, import: Import) -> Result<CatalogEntry, CatalogError> {
        if let Some(store) = &job.keep {
            let imported = store.import(path, recipe, import);
            imported.map_err(|source| CatalogError::Store { what: job.resolved.description.clone(), source })?;
        }
        self.keep_resolved(&job.resolved, recipe)
    }

    /// Keeps the recipe of a package that was resolved.
    fn keep_resolved(&self, resolved: &Resolved, recipe: &Recipe) -> Result<CatalogEntry, CatalogError> {
        let Resolved { description, lineage, .. } = resolved;
        let entry = self.keep_recipe(recipe, description.clone(), lineage.clone())?;
        self.keep_entry(entry_key(resolved, recipe.package()), entry)
    }

    /// Writes a recipe; the entry that may then speak of it.
    fn keep_recipe(&self, recipe: &Recipe, description: String, lineage: String) -> Result<CatalogEntry, CatalogError> {
        let plain = recipe.encode();
        let path = self.0.recipe_path(recipe.id());
        let compressed = compress(&plain, None).map_err(failed("compress", &path))?;
        self.0.write(&path, &compressed, &description)?;
        let (package, size, outline) = (recipe.package(), recipe.size(), Outline::of_plain_form(&plain));
        Ok(CatalogEntry { description, lineage, package, size, outline, read_at: wall_now() })
    }

    /// Keeps an entry whose recipe is there.
    fn keep_entry(&self, key: Key, entry: CatalogEntry) -> Result<CatalogEntry, CatalogError> {
        let path = self.0.entry_path(&key);
        let bytes = codec::encode(&entry, CATALOG_ENTRY_BYTES_MAX)
            .map_err(|error| failed("encode", &path)(io::Error::other(error)))?;
        self.0.write(&path, &bytes, &entry.description)?;
        self.0.entries().insert(key, entry.clone());
        self.0.evict();
        Ok(entry)
    }
}

impl Inner {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<Key, CatalogEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pieces(&self) -> MutexGuard<'_, Pieces> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recipe_path(&self, recipe: RecipeId) -> PathBuf {
        self.folder.join("recipes").join(format!("{recipe}.zst"))
    }

    fn entry_path(&self, key: &Key) -> PathBuf {
        self.folder.join("entries").join(key)
    }

    /// Writes a file so that it is there as a whole or not at all. Two packages may have one recipe: one after the other.
    fn write(&self, path: &Path, bytes: &[u8], what: &str) -> Result<(), CatalogError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        replace(path, bytes, None).map_err(|source| no_room(what, path, source))
    }

    /// Drops the oldest entries over the limit, and recipes that no entry speaks of any more.
    fn evict(&self) {
        let mut entries = self.entries();
        while entries.len() > CATALOG_ENTRIES_MAX {
            let oldest = entries.iter().min_by_key(|(_, entry)| entry.read_at).map(|(key, _)| key.clone());
            let Some((key, entry)) = oldest.and_then(|key| entries.remove_entry(&key)) else { return };
            remove(&self.entry_path(&key));
            if !entries.values().any(|other| other.outline.recipe == entry.outline.recipe) {
                remove(&self.recipe_path(entry.outline.recipe));
            }
        }
    }
}

/// Removes what writes left that a crash ended.
fn drop_halves(folder: &Path) -> Result<(), CatalogError> {
    for file in fs::read_dir(folder).map_err(failed("list", folder))? {
        let path = file.map_err(failed("list", folder))?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            remove(&path);
        }
    }
    Ok(())
}

fn load(folder: &Path) -> Result<BTreeMap<Key, CatalogEntry>, CatalogError> {
    let mut entries = BTreeMap::new();
    for file in fs::read_dir(folder).map_err(failed("list", folder))? {
        let path = file.map_err(failed("list", folder))?.path();
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        let name = path.file_name().and_then(|name| name.to_str());
        match (name, codec::decode(&bytes, CATALOG_ENTRY_BYTES_MAX)) {
            (Some(name), Ok(entry)) => drop(entries.insert(name.to_owned(), entry)),
            (_, Err(error)) => {
                tracing::warn!(path = %path.display(), %error, "dropped an entry of the catalog that cannot be read");
                remove(&path);
            }
            (None, Ok(_)) => {}
        }
    }
    Ok(entries)
}

/// What a package is looked up by, if its feed tells enough to know that it is still the same.
fn key(resolved: &Resolved) -> Option<Key> {
    let Resolved { description, digests, .. } = resolved;
    let digests: Vec<_> = digests.iter().map(ToString::to_string).collect();
    Some(hashed(&format!("{description}\n{}\n{}", resolved.validator()?, digests.join(" "))))
}

/// The key of an entry for what was resolved. Without a validator nobody can tell whether the feed still has these bytes: the
/// entry is then for its recipe alone.
fn entry_key(resolved: &Resolved, package: PackageId) -> Key {
    key(resolved).unwrap_or_else(|| hashed(&format!("{package}\n{}", resolved.lineage)))
}

fn hashed(text: &str) -> Key {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

fn wall_now() -> WallTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
