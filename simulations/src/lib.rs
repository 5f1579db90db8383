//! The cores of Shoal over a simulated network.
//!
//! The composite cores that the real processes run ([`shoal_proto::node::Node`], [`shoal_proto::coordinator::Coordinator`])
//! get their events from a simulated world instead of from sockets and disks. A seed decides everything, so that a run
//! can be had again. Nothing here waits or looks at a clock.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `scenario`, `waves`, `faults`, `away`, `absences`, `hushes`, `limits`, `returns` | what a seed means: the world, what goes wrong in it, who does not answer, limits of sites, who goes back |
//! | `world`, `queue` | time, and what happens when |
//! | `host`, `disk`, `transfer`, `passing` | a node's shell, its disk, bytes on the move, blocks that are passed on while they arrive |
//! | `control`, `operators` | the coordinator's shell, its journal and its operators |
//! | `links` | control connections: in order or broken |
//! | `checks` | the promises of DESIGN.md, one file each |
//! | `net` | links, flows and their fair rates |
//! | [`mod@bench`] | how near one site comes to the least possible time |
//! | [`storm`], `report`, `trace` | many seeds, their sums, and what happened in one |

mod absences;
mod away;
pub mod bench;
mod checks;
mod control;
mod disk;
mod faults;
mod host;
mod hours;
mod hushes;
mod limits;
mod links;
mod net;
mod operators;
mod passing;
mod queue;
mod report;
mod returns;
mod scenario;
pub mod storm;
mod trace;
mod transfer;
mod waves;
mod world;
