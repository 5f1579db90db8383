//! x
/// x
pub struct Recipe;
/// x
pub struct RecipeError;
