//! x
/// x
pub struct BlockSet;
