//! Recipes that were made where packages are built, so that the coordinator need not read those packages at all.
//!
//! Who gives a recipe vouches that it was cut from the bytes of the package that it names: an operator, who may have any
//! step run as well. It serves those deployment files alone that name the package by that hash; what a feed says of other
//! hashes is then not checked here. Nodes check each segment against the recipe as ever (VERIFIED).

use shoal_proto::content::Recipe;
use shoal_proto::id::PackageId;

use super::error::CatalogError;
use super::reading::blocking;
use super::{Catalog, CatalogEntry, Key, hashed};
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
        let (description, lineage) = (format!("recipe of package {package}"), format!("given {package}"));
        self.keep_recipe(given_key(package), &recipe, description, lineage)
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
        blocking(move || match catalog.recipe(given.outline.recipe) {
            Ok(recipe) => catalog.keep_resolved(&resolved, &recipe).map(Some),
            // Damaged or gone, it is made again.
            Err(CatalogError::NoRecipe { .. }) => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }
}

fn given_key(package: PackageId) -> Key {
    hashed(&format!("given {package}"))
}
