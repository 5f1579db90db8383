//! How a package becomes segments and blocks, and how sets of blocks are kept.
//!
//! [`Recipe`] describes a package; [`Outline`] describes a recipe as something to fetch; [`Layout`] is what both have in
//! common, and all that the swarm needs: segments with their hashes and places, grouped into blocks.

mod blockset;
mod form;
mod layout;
mod recipe;

pub use blockset::BlockSet;
pub use layout::{Layout, Outline, OutlineError};
pub use recipe::{Part, Recipe, RecipeError, Repeat, Segment};
