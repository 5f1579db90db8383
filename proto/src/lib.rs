//! Pure data, wire messages and decision cores of Shoal.
//!
//! Nothing in this crate blocks, waits or looks at the world: no clock, socket, file, thread, random source or payload
//! byte. Cores take [`time::Time`] and a seed as parameters, so that the node, the coordinator and the simulator run the
//! same decisions (ONE-CORE). `clippy.toml` beside this crate and a test over `cargo metadata` keep it so.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`id`], [`time`], [`limits`] | identities, points in time, every bound with its reason |
//! | [`codec`] | the one place that knows how values become bytes |
//! | [`content`] | how a package becomes segments and blocks; sets of blocks |
//! | [`manifest`] | the signed, fully resolved deployment |
//! | [`wan`] | which node reads what over the WAN (run by the coordinator) |
//! | [`exchange`] | who asks whom for which block within a site (run by every node) |
//! | [`rng`] | the seeded random numbers of the cores |

pub mod codec;
pub mod content;
pub mod exchange;
pub mod id;
pub mod limits;
pub mod manifest;
pub mod rng;
pub mod time;
pub mod wan;
