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
//! | [`origin`] | where a package is read from over HTTP, and which ranges are asked for |
//! | [`rollout`] | from deployment file to manifest, and what happens when: stages, gate, steps |

pub mod codec;
pub mod content;
pub mod id;
pub mod limits;
pub mod manifest;
pub mod origin;
pub mod rollout;
pub mod time;
