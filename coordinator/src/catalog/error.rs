//! Why a package does not come into the catalog, in words that name the package and what to do.

use std::io;
use std::path::{Path, PathBuf};

use shoal_node::origin::OriginError;
use shoal_node::store::WriteError;
use shoal_proto::content::{CutError, RecipeError};
use shoal_proto::id::RecipeId;
use thiserror::Error;

use crate::feeds::FeedError;

/// Why a package does not come into the catalog, or a recipe not out of it.
#[derive(Debug, Error)]
pub enum CatalogError {
    /// The feed.
    #[error(transparent)]
    Feed(Box<FeedError>),
    /// Reading the package over HTTP; [`OriginError::Changed`] if it is no longer what was resolved.
    #[error("cannot read {what}: {source}")]
    Origin {
        /// Which package.
        what: String,
        /// Why.
        source: Box<OriginError>,
    },
    /// The disk.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No room.
    #[error("the disk is full: no room for {what} in {folder}; make room, then repeat the command")]
    DiskFull {
        /// What was to be written.
        what: String,
        /// Where.
        folder: PathBuf,
    },
    /// It is too large, or changed while it was cut.
    #[error("{what} cannot be cut: {source}")]
    Cut {
        /// Which package.
        what: String,
        /// Why.
        source: CutError,
    },
    /// Other bytes than were wanted.
    #[error(
        "{what} has the {kind} {found}, but {wanted} is wanted: the feed has other bytes, or they changed on the way"
    )]
    WrongHash {
        /// Which package.
        what: String,
        /// Which hash function.
        kind: &'static str,
        /// That of the bytes.
        found: String,
        /// The one that the operator or the feed gave.
        wanted: String,
    },
    /// The package store.
    #[error("cannot keep {what}: {source}")]
    Store {
        /// Which package.
        what: String,
        /// Why.
        source: WriteError,
    },
    /// What was given as a recipe is none.
    #[error("this is no recipe: {0}")]
    Recipe(#[from] RecipeError),
    /// A recipe that the catalog does not have, or has only damaged.
    #[error("the catalog has no sound recipe {recipe}: deploy its package again")]
    NoRecipe {
        /// Which recipe.
        recipe: RecipeId,
    },
    /// A piece past the recipe's end.
    #[error("recipe {recipe} has no piece {piece}")]
    NoPiece {
        /// Which recipe.
        recipe: RecipeId,
        /// Which piece.
        piece: u32,
    },
    /// The coordinator is stopping.
    #[error("the coordinator is stopping")]
    Stopping,
}

impl From<FeedError> for CatalogError {
    fn from(error: FeedError) -> Self {
        Self::Feed(Box::new(error))
    }
}

pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CatalogError {
    let path = path.to_owned();
    move |source| CatalogError::Io { doing, path, source }
}

pub(super) fn no_room(what: &str, path: &Path, source: io::Error) -> CatalogError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            CatalogError::DiskFull { what: what.to_owned(), folder: path.parent().unwrap_or(path).to_owned() }
        }
        _ => failed("write", path)(source),
    }
}
