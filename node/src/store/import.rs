//! Packages that are on this machine already: how an origin gets what it serves.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use shoal_proto::content::{Layout, Recipe};
use shoal_proto::id::ContentId;

use super::content::Believed;
use super::files;
use super::state::Claimed;
use super::{Content, Kind, Store, StoreError, WriteError};

/// What becomes of the file that a package is imported from.
///
/// There is no hard link: who changes the one file would change the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Import {
    /// It stays, and is copied; every segment is verified on the way.
    Copy,
    /// It is the caller's own, who cut the recipe from the very bytes that went into it: it is renamed into the store, and
    /// not hashed again. From another file system it is copied and verified.
    Take,
}

impl Store {
    /// Makes a sealed package of a file and the recipe that was cut from it. If the package is sealed already, only
    /// [`Import::Take`] touches the file: it is deleted.
    ///
    /// # Errors
    /// [`WriteError::Mismatch`] if the file is not what the recipe says: it changed after it was cut.
    pub fn import(&self, path: &Path, recipe: &Recipe, import: Import) -> Result<(), WriteError> {
        let key = (Kind::Package, ContentId::from(recipe.package()));
        if self.inner.is_sealed(key) && self.inner.sealed_by(recipe) {
            self.inner.touch(recipe.package());
        } else if import == Import::Copy || !self.take(path, recipe)? {
            let opened = self.begin_package(recipe)?;
            copy(path, &opened.content)?;
            self.seal(&opened.content)?;
        }
        if import == Import::Take {
            files::remove(path)?;
        }
        Ok(())
    }

    /// Renames the file into the store; `false` if that cannot be done here.
    fn take(&self, path: &Path, recipe: &Recipe) -> Result<bool, StoreError> {
        let fail = |action, e| StoreError::io(action, path, 0, e);
        let file = File::options().read(true).write(true).open(path).map_err(|e| fail("open", e))?;
        let size = file.metadata().map_err(|e| fail("look at", e))?.len();
        let content = ContentId::from(recipe.package());
        // A file of another size, and a package that is being fetched, go the way on which every byte is looked at.
        let Claimed::Mine(claim) = self.inner.claim((Kind::Package, content))? else { return Ok(false) };
        if size != recipe.size() || claim.sealed {
            return Ok(false);
        }
        self.keep_recipe(recipe)?;
        self.inner.note_recipe(recipe)?;
        file.sync_all().map_err(|e| fail("flush", e))?;
        let partial = self.inner.folders.partial(Kind::Package, content);
        match fs::rename(path, &partial) {
            Err(e) if e.kind() == io::ErrorKind::CrossesDevices => return Ok(false),
            renamed => renamed.map_err(|e| fail("rename", e))?,
        }
        let layout = Layout::of_recipe(recipe);
        let content = Content::new(Kind::Package, layout, file, partial, Believed::Verified);
        claim.open(&content);
        self.seal(&content)?;
        Ok(true)
    }
}

fn copy(path: &Path, content: &Content) -> Result<(), WriteError> {
    let fail = |action, e| StoreError::io(action, path, 0, e);
    let source = File::open(path).map_err(|e| fail("open", e))?;
    let mut buffer = Vec::new();
    for (segment, place) in content.missing() {
        buffer.resize(place.len as usize, 0);
        match source.read_exact_at(&mut buffer, place.offset) {
            // A file that has become shorter has changed.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(WriteError::Mismatch { content: content.id(), segment });
            }
            read => read.map_err(|e| fail("read", e))?,
        }
        content.write_segment(segment, &buffer)?;
    }
    Ok(())
}
