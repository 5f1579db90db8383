//! Recipes that operators give: kept in a task, since they are large, then written down as what an operator did.

use bytes::Bytes;

use super::acts::done;
use super::deploy::catalog_error;
use super::{Event, ServeError, Server};
use crate::api::ApiError;
use crate::api::command::Reply;
use crate::api::types::{Done, DoneSchema};
use crate::catalog::{CatalogEntry, CatalogError};
use crate::cli::units;
use crate::trail::By;

/// What became of a recipe that was given.
pub(super) struct RecipeKept {
    result: Result<CatalogEntry, ApiError>,
    by: By,
    reply: Reply<Done>,
}

impl Server {
    /// Keeps a recipe in a task; [`Self::on_recipe_kept`] goes on.
    pub(super) fn add_recipe(&self, plain: Bytes, by: By, reply: Reply<Done>) {
        let (catalog, events) = (self.catalog.clone(), self.events_sender.clone());
        tokio::spawn(async move {
            let kept = tokio::task::spawn_blocking(move || catalog.give(&plain)).await;
            let result = kept.unwrap_or(Err(CatalogError::Stopping)).map_err(catalog_error);
            let _ = events.send(Event::RecipeKept(RecipeKept { result, by, reply })).await;
        });
    }

    pub(super) async fn on_recipe_kept(&mut self, kept: RecipeKept) -> Result<(), ServeError> {
        let RecipeKept { result, by, reply } = kept;
        let what = match &result {
            Ok(CatalogEntry { outline, package, .. }) => format!("recipe {} of package {package}", outline.recipe),
            Err(_) => "a recipe".to_owned(),
        };
        let answer = result.map(|entry| {
            let (package, size) = (entry.package, units::bytes(entry.size));
            let message = format!(
                "the recipe of package {package} ({size}) is known: with that hash as its `blake3:` in a deployment file, \
                 the package is not read here"
            );
            Done { schema: DoneSchema::V1, message, nodes: Vec::new() }
        });
        self.conclude(by, done("recipe add", what), answer, reply).await
    }
}
