//! How near the swarm comes to the least possible time: one site of real [`Exchange`](shoal_proto::exchange::Exchange)s and
//! a real [`WanLedger`](shoal_proto::wan::WanLedger) over a network of fluid flows.
//!
//! What is real: every decision, the neighbours that the coordinator would name, announcements and reports in batches, the
//! time of grace of a lost holder. What is modelled: links by their rates (no slow start, no loss), messages by a fixed
//! latency, disks and hashing by nothing. A connection sends one block after the other, as the node's does. A
//! request that is taken back is served all the same, as there.
//!
//! The bound is the greatest of: what the site lacks over the WAN's rate; the package over the link of the slowest node
//! that the quorum needs; all their copies over everything that can send.

mod case;
mod host;
mod outcome;
mod table;
mod wires;
mod world;

pub use case::Case;
pub use outcome::Outcome;
pub use table::{Row, rows};

/// Runs one case until the quorum is done, or for thirty bounds. The same case has the same outcome.
///
/// # Panics
/// If the cores break an invariant.
pub fn run(case: &Case) -> Outcome {
    world::World::new(case).run()
}
