//! What goes wrong in the store, in words that name the file, the cause and what to do.

use std::io;
use std::path::{Path, PathBuf};

use shoal_proto::id::{ContentId, PackageId, RecipeId};
use shoal_proto::limits::{BLOCK_BYTES_MAX, SEGMENT_BYTES_MAX};
use thiserror::Error;

/// Bytes that are read at once: the longest block, which ends with the segment that reaches the target size.
pub(super) const READ_BYTES_MAX: u64 = BLOCK_BYTES_MAX + SEGMENT_BYTES_MAX as u64;

/// Why an operation on the store failed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another process has the folder open.
    #[error("{} is in use by another process: stop it, or choose another data_dir", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// The disk is full, or a quota or file size limit is reached.
    #[error(
        "no space in {}: {needed_bytes} bytes needed, {free_bytes} bytes free: free some, or lower cache_max",
        folder.display()
    )]
    NoSpace {
        /// The folder in which there is no space.
        folder: PathBuf,
        /// Bytes that were asked for.
        needed_bytes: u64,
        /// Bytes that the file system says are free.
        free_bytes: u64,
    },
    /// The operating system refused something else.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The index could not be written or read.
    #[error("the package index in {} failed: {cause}", folder.display())]
    Index {
        /// The index's folder.
        folder: PathBuf,
        /// What it said.
        cause: String,
    },
    /// Someone else is opening, checking or dropping the same content at this moment.
    #[error("{0} is being opened or dropped by another task")]
    Busy(ContentId),
    /// The content is not held, or not completely.
    #[error("{0} is not held completely")]
    NotHeld(ContentId),
    /// Segments are still missing.
    #[error("{content} cannot be sealed: {missing_bytes} bytes are missing")]
    Incomplete {
        /// What was to be sealed.
        content: ContentId,
        /// How much is missing.
        missing_bytes: u64,
    },
    /// The recipe is not the recipe of that package.
    #[error("recipe {recipe} is not a recipe of package {package}")]
    ForeignRecipe {
        /// The package.
        package: PackageId,
        /// What was taken for its recipe.
        recipe: RecipeId,
    },
}

/// Why a segment was not written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The bytes are not those of the segment; nothing was written or marked (VERIFIED).
    #[error("segment {segment} of {content}: wrong bytes")]
    Mismatch {
        /// The content.
        content: ContentId,
        /// Position of the segment.
        segment: usize,
    },
    /// There is no such segment.
    #[error("{content} has no segment {segment}")]
    NoSuchSegment {
        /// The content.
        content: ContentId,
        /// Position asked for.
        segment: usize,
    },
    /// The file could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why segments were not read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// At least one of them is not present, or there is no such segment (VERIFIED).
    #[error("segment {segment} of {content} is not present")]
    Absent {
        /// The content.
        content: ContentId,
        /// The first one that is not present.
        segment: usize,
    },
    /// More than a block was asked for.
    #[error("{len_bytes} bytes of {content} asked for at once where a block has at most {READ_BYTES_MAX}")]
    TooLong {
        /// The content.
        content: ContentId,
        /// The bytes asked for.
        len_bytes: u64,
    },
    /// The file could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StoreError {
    /// Puts `source` in context; a full disk becomes [`StoreError::NoSpace`].
    pub(super) fn io(action: &'static str, path: &Path, needed_bytes: u64, source: io::Error) -> Self {
        // A file size limit is to an operator what a full disk is: the file does not fit.
        let full = matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        if !full {
            return Self::Io { action, path: path.to_owned(), source };
        }
        let folder = path.parent().unwrap_or(path).to_owned();
        let free_bytes = super::files::free_bytes(&folder).unwrap_or(0);
        Self::NoSpace { folder, needed_bytes, free_bytes }
    }
}
