//! What an exchange counts.

use serde::{Deserialize, Serialize};

/// The sums of one exchange, in bytes unless named otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Blocks that this node has.
    pub have_blocks: u32,
    /// Their bytes.
    pub have_bytes: u64,
    /// Blocks that neighbours were asked for.
    pub requested_blocks: u32,
    /// Blocks that this node reads over the WAN.
    pub leased_blocks: u32,
    /// Neighbours that are connected.
    pub neighbours: u32,
    /// Fetched from neighbours.
    pub fetched_bytes: u64,
    /// Of these, for blocks that were there already.
    pub duplicate_bytes: u64,
    /// Served to neighbours, as far as they asked.
    pub served_bytes: u64,
    /// Requests taken from a slow neighbour.
    pub steals: u64,
    /// Requests that neighbours refused.
    pub refused: u64,
}
