//! Recipes that were made where packages are built, so that the coordinator need not read those packages at all.
//!
//! Who gives a recipe vouches that it was cut from the bytes of the package that it names: an operator, who may have any
//! step run as well. It serves those deployment files alone that name the package by that hash; what a feed says of other
//! hashes is then not checked here. Nodes check each segment against the recipe as ever (VERIFIED).

use shoal_proto::content::Recipe;
use shoal_proto::id::PackageId;

use super::error::CatalogError;
use super::reading::blocking;
use super::{Catalog, CatalogEntry, Key, entry_key, hashed, wall_now};
use crate::feeds::Resolved;

impl Catalog {
    /// Keeps a recipe, given as its plain form, for deployment files that name its package by its hash. Writes the disk.
    ///
    /// # Errors
    /// [`CatalogError::Recipe`] if it is none; [`CatalogError::Io`], [`CatalogError::DiskFull`].
    pub fn give(&self, plain: &[u8]) -> Result<CatalogEntry, CatalogError> {
        let recipe = Recipe::decode(plain)?;
        let package = recipe.package();
        // No feed has named it yet: its lineage is its own.
        let entry = self.keep_recipe(&recipe, format!("recipe of package {package}"), own_lineage(package))?;
        self.keep_entry(given_key(package), entry)
    }

    /// The entry for a package that is `wanted` by its hash, if its recipe was given.
    pub(super) async fn given(
        &self,
        resolved: &Resolved,
        wanted: Option<PackageId>,
    ) -> Result<Option<CatalogEntry>, CatalogError> {
        let Some(given) = wanted.and_then(|package| self.0.entries().get(&given_key(package)).cloned()) else {
            return Ok(None);
        };
        // Other bytes than were wanted have most likely another size: what they are is found by reading them.
        if given.size != resolved.size() {
            return Ok(None);
        }
        let (catalog, resolved) = (self.clone(), resolved.clone());
        blocking(move || match catalog.recipe_bytes(given.outline.recipe) {
            Ok(_) => {
                let key = entry_key(&resolved, given.package);
                let Resolved { description, lineage, .. } = resolved;
                catalog.keep_entry(key, CatalogEntry { description, lineage, read_at: wall_now(), ..given }).map(Some)
            }
            // Damaged or gone, it is made again.
            Err(CatalogError::NoRecipe { .. }) => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }
}

fn given_key(package: PackageId) -> Key {
    hashed(&own_lineage(package))
}

fn own_lineage(package: PackageId) -> String {
    format!("given {package}")
}
