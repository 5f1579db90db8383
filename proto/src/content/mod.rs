//! How a package becomes segments and blocks, and how sets of blocks are kept.
//!
//! [`Recipe`] describes a package; [`Outline`] describes a recipe as something to fetch; [`Layout`] is what both have in
//! common, and all that the swarm needs: segments with their hashes and places, grouped into blocks. [`ZipScan`] and
//! [`Cutter`] make a recipe from a package's bytes, which the caller reads.

mod blockset;
mod cut;
mod form;
mod layout;
mod recipe;
mod zip_scan;

pub use blockset::BlockSet;
pub use cut::{CutError, Cutter, Segmenter};
pub use layout::{Layout, Outline, OutlineError};
pub use recipe::{Part, Recipe, RecipeError, Repeat, Segment};
pub use zip_scan::{Shape, ZipEntries, ZipScan};

#[cfg(test)]
mod tests;
