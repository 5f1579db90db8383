//! Layouts: what the swarm needs to know of a package or a recipe.
use crate::id::{RecipeId, SegmentHash};
use serde::{Deserialize, Serialize};

/// placeholder
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    /// id
    pub recipe: RecipeId,
    /// size
    pub size: u64,
    /// hashes
    pub pieces: Vec<SegmentHash>,
}
/// placeholder
pub struct Segment;
/// placeholder
pub struct Layout;
