//! The package store: whole packages and their recipes on disk, verified segment by segment.
//!
//! The cache is the chunk store: a package's file is what steps use, what peers are served from, and where the next
//! version finds the segments that it shares. Below the data directory stand `packages/<package id>` and
//! `recipes/<recipe id>` (plain form), the same with `.part` while incomplete, `index/` (one small record per package) and
//! `set-aside/` for what the store did not understand.
//!
//! Invariants: a segment counts as present only after its hash matched the recipe (VERIFIED); a file under its final name
//! was complete and fsynced before it got that name, and its record is flushed before [`Store::seal`] returns
//! (ACKED-IS-KEPT); what is pinned or open is never dropped.
//!
//! Every call but [`Content::read_cached_segments`] blocks on the disk: not for async tasks. [`Store`] and [`Content`] are
//! shared freely between threads. What to fetch, from whom, and when to make room is decided elsewhere. Pin a package before
//! fetching its recipe ([`Store::replace_pins`]), or [`Store::collect`] may take the recipe for an orphan.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `content` | one open content: presence, writing, reading |
//! | `cached` | reading what memory has, without waiting |
//! | `reuse` | the index from segment to place in sealed packages |
//! | `open` | what is believed of the files found at start |
//! | `import` | packages that are already on this machine |
//! | `gc` | pins, and what goes when the cache is full |
//! | `state` | what is held, and who has it open |
//! | `room` | room on the disk, made sure of before it is used |
//! | `index`, `files`, `error` | sled; folders and durability; what goes wrong |

mod cached;
mod content;
mod error;
mod files;
mod gc;
mod import;
mod index;
mod open;
mod reuse;
mod room;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use shoal_proto::content::{Layout, Outline, OutlineError, Recipe};
use shoal_proto::id::{ContentId, DeploymentId, PackageId, RecipeId};
use shoal_proto::time::WallTime;
use tracing::warn;

pub use content::{Content, Written};
pub use error::{ReadError, StoreError, WriteError};
pub use files::Kind;
pub use gc::Collected;
pub use import::Import;

use content::Believed;
use state::{Claimed, Entry, Inner, Key};

/// The packages and recipes of one data directory. Clones share everything.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

/// How much of a content is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// Nothing that is known of.
    No,
    /// A file that is not complete; how much of it is good is known once it is begun.
    Partial,
    /// All of it, durably.
    Sealed,
}

/// One file of the store, for inventories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// What it is.
    pub content: ContentId,
    /// Of which kind.
    pub kind: Kind,
    /// How much of it.
    pub held: Held,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// For a package with a record: its recipe.
    pub recipe: Option<RecipeId>,
    /// For a package with a record: when it was last used.
    pub last_use: Option<WallTime>,
    /// For a package with a record: who pins it.
    pub pins: BTreeSet<DeploymentId>,
}

/// A content that was begun.
#[derive(Debug)]
pub struct Opened {
    /// The handle; [`Content::lacking`] says what is missing.
    pub content: Content,
    /// Bytes of segments that the file held already.
    pub resumed_bytes: u64,
    /// Bytes of segments that were copied from other packages.
    pub reused_bytes: u64,
    /// Packages in which a segment was not what their recipe says: worth a [`Store::recheck`].
    pub suspects: Vec<PackageId>,
}

impl Opened {
    fn already(content: Content) -> Self {
        Self { content, resumed_bytes: 0, reused_bytes: 0, suspects: Vec::new() }
    }
}

impl Store {
    /// Begins a package, or goes on with it: makes room for the file, writes the glue, hashes what an earlier run left of
    /// it, and fills in segments that other packages hold. Keeps the recipe. A package that is sealed or open already
    /// comes back as it is.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] before anything is fetched; [`StoreError::Busy`] if another thread begins it, or if it is
    /// open by another recipe.
    pub fn begin_package(&self, recipe: &Recipe) -> Result<Opened, StoreError> {
        self.keep_recipe(recipe)?;
        self.begin(Kind::Package, Layout::of_recipe(recipe), Some(recipe))
    }

    /// Begins a recipe, or goes on with it.
    ///
    /// # Errors
    /// As for packages; [`BeginRecipeError::Outline`] if the outline cannot be one.
    pub fn begin_recipe(&self, outline: &Outline) -> Result<Opened, BeginRecipeError> {
        let layout = Layout::of_outline(outline)?;
        Ok(self.begin(Kind::Recipe, layout, None)?)
    }

    fn begin(&self, kind: Kind, layout: Layout, recipe: Option<&Recipe>) -> Result<Opened, StoreError> {
        let key = (kind, layout.content());
        let claim = match self.inner.claim(key)? {
            Claimed::Open(content) if *content.layout() == layout => return Ok(Opened::already(content)),
            Claimed::Open(_) => return Err(StoreError::Busy(key.1)),
            Claimed::Mine(claim) => claim,
        };
        if claim.sealed {
            // Sealed by another recipe, it must be verified by this one.
            if recipe.is_none_or(|recipe| self.inner.sealed_by(recipe)) {
                self.inner.know_segments(&layout, kind);
                return Ok(Opened::already(claim.open_sealed(layout)?));
            }
            self.inner.unseal(key)?;
        }
        if let Some(recipe) = recipe {
            self.inner.note_recipe(recipe)?;
        }
        let path = self.inner.folders.partial(kind, key.1);
        let (file, held_bytes) = files::preallocate(&path, layout.size(), &self.inner.promised)?;
        let content = Content::new(kind, layout, file, path, Believed::Nothing);
        if let Some(recipe) = recipe {
            content.write_glue(recipe)?;
        }
        let resumed_bytes = if held_bytes > 0 { content.resume()? } else { 0 };
        let (reused_bytes, suspects) = self.inner.fill(&content)?;
        claim.open(&content);
        Ok(Opened { content, resumed_bytes, reused_bytes, suspects })
    }

    /// A handle for serving: what is open, or what is sealed. `None` if there is neither; a partial file that is not open
    /// must be begun first.
    ///
    /// # Errors
    /// Those of the disk, and [`StoreError::Busy`].
    pub fn content(&self, content: ContentId) -> Result<Option<Content>, StoreError> {
        for kind in [Kind::Package, Kind::Recipe] {
            if !self.inner.state().entries.contains_key(&(kind, content)) {
                continue;
            }
            let claim = match self.inner.claim((kind, content))? {
                Claimed::Open(content) => return Ok(Some(content)),
                Claimed::Mine(claim) => claim,
            };
            if claim.sealed
                && let Some(layout) = self.layout(kind, content)?
            {
                return claim.open_sealed(layout).map(Some);
            }
        }
        Ok(None)
    }

    /// The layout of a sealed content, from the recipes held.
    fn layout(&self, kind: Kind, content: ContentId) -> Result<Option<Layout>, StoreError> {
        if kind == Kind::Recipe {
            let plain = self.inner.plain_form(RecipeId(content.0))?;
            return Ok(plain.and_then(|plain| Layout::of_outline(&Outline::of_plain_form(&plain)).ok()));
        }
        let record = self.inner.state().records.get(&PackageId(content.0)).cloned();
        let Some(record) = record else { return Ok(None) };
        let recipe = self.recipe(record.recipe)?.filter(|recipe| recipe.package().0 == content.0);
        Ok(recipe.map(|recipe| Layout::of_recipe(&recipe)))
    }

    /// A recipe that is sealed, if it is.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn recipe(&self, recipe: RecipeId) -> Result<Option<Recipe>, StoreError> {
        if !self.inner.is_sealed((Kind::Recipe, recipe.into())) {
            return Ok(None);
        }
        Ok(self.inner.plain_form(recipe)?.and_then(|plain| Recipe::decode(&plain).ok()))
    }

    /// Makes sure that the recipe is sealed.
    fn keep_recipe(&self, recipe: &Recipe) -> Result<(), StoreError> {
        let key = (Kind::Recipe, ContentId::from(recipe.id()));
        if self.inner.is_sealed(key) {
            return Ok(());
        }
        let plain = recipe.encode();
        let foreign = || StoreError::ForeignRecipe { package: recipe.package(), recipe: recipe.id() };
        let layout = Layout::of_outline(&Outline::of_plain_form(&plain)).map_err(|_| foreign())?;
        let opened = self.begin(Kind::Recipe, layout, None)?;
        for (index, place) in opened.content.missing() {
            let bytes = &plain[place.offset as usize..place.end() as usize];
            match opened.content.write_segment(index, bytes) {
                Err(WriteError::Store(e)) => return Err(e),
                written => written.map_err(|_| foreign())?,
            };
        }
        self.seal(&opened.content)
    }

    /// Makes a complete content durable under its final name: flushes the file, renames it, flushes the folder and the
    /// record. Once this returns, the content survives any crash. Sealing twice does no harm.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`]; those of the disk, after which sealing can be tried again.
    pub fn seal(&self, content: &Content) -> Result<(), StoreError> {
        let _naming = content.naming();
        if content.is_sealed() {
            return Ok(());
        }
        let missing_bytes = content.missing_bytes();
        if missing_bytes > 0 {
            return Err(StoreError::Incomplete { content: content.id(), missing_bytes });
        }
        let (kind, id) = (content.kind(), content.id());
        let (partial, sealed) = (self.inner.folders.partial(kind, id), self.inner.folders.sealed(kind, id));
        // It has its final name already if an earlier attempt failed at the record.
        if partial.exists() || !sealed.exists() {
            files::publish(&content.shared.file, &partial, &sealed)?;
        }
        self.inner.note_sealed(content)?;
        content.set_sealed(true);
        Ok(())
    }

    /// Hashes an open content against its layout and makes what is damaged missing again; a sealed one is then no longer
    /// sealed. For when a peer says that it was sent wrong bytes. Returns how many bytes are missing afterwards; if that is
    /// none although the content is unsealed, its glue was damaged and has been written again: seal it.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn recheck(&self, content: &Content) -> Result<u64, StoreError> {
        let _naming = content.naming();
        let key = (content.kind(), content.id());
        let size = content.layout().size();
        let resized = content.shared.file.set_len(size);
        resized.map_err(|e| StoreError::io("resize", &self.inner.folders.sealed(key.0, key.1), size, e))?;
        let damaged = content.damaged_segments()?;
        let recipe = match key.0 {
            Kind::Package => self.inner.state().records.get(&PackageId(key.1.0)).map(|record| record.recipe),
            Kind::Recipe => None,
        };
        let recipe = recipe.map_or(Ok(None), |recipe| self.recipe(recipe))?;
        let glue_is_sound = recipe.as_ref().map_or(Ok(true), |recipe| content.glue_is_sound(recipe))?;
        if damaged.is_empty() && glue_is_sound {
            return Ok(content.missing_bytes());
        }
        if content.is_sealed() {
            warn!(content = %key.1, segments = damaged.len(), glue_is_sound, "damaged on disk; fetched again");
            self.inner.unseal(key)?;
            content.set_sealed(false);
        }
        content.unmark(&damaged);
        if let Some(recipe) = recipe.filter(|_| !glue_is_sound) {
            content.write_glue(&recipe)?;
        }
        Ok(content.missing_bytes())
    }

    /// The file of a sealed package, for a step to read. It counts as used.
    ///
    /// # Errors
    /// [`StoreError::NotHeld`].
    pub fn path_of(&self, package: PackageId) -> Result<PathBuf, StoreError> {
        let key = (Kind::Package, ContentId::from(package));
        if !self.inner.is_sealed(key) {
            return Err(StoreError::NotHeld(key.1));
        }
        self.inner.touch(package);
        Ok(self.inner.folders.sealed(key.0, key.1))
    }

    /// How much of a content is held.
    pub fn holds(&self, content: ContentId) -> Held {
        let state = self.inner.state();
        let held = |kind| state.entries.get(&(kind, content)).map_or(Held::No, Entry::held);
        held(Kind::Package).max(held(Kind::Recipe))
    }

    /// Everything held, packages first, each kind by id.
    pub fn list(&self) -> Vec<Holding> {
        let state = self.inner.state();
        let holding = |(&(kind, content), entry): (&Key, &Entry)| {
            let record = state.records.get(&PackageId(content.0)).filter(|_| kind == Kind::Package);
            Holding {
                content,
                kind,
                held: entry.held(),
                bytes: entry.bytes,
                recipe: record.map(|record| record.recipe),
                last_use: record.map(|record| record.last_use),
                pins: record.map(|record| record.pins.clone()).unwrap_or_default(),
            }
        };
        state.entries.iter().map(holding).collect()
    }
}

/// Why a recipe cannot be begun.
#[derive(Debug, thiserror::Error)]
pub enum BeginRecipeError {
    /// The outline contradicts itself.
    #[error(transparent)]
    Outline(#[from] OutlineError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}
