//! Pure data, wire messages and decision cores of Shoal.
//!
//! Nothing in this crate blocks, waits or looks at the world: no clock, socket, file, thread or random source, and the
//! cores see no payload. Cores take [`time::Time`] and a seed as parameters, so that the node, the coordinator and the
//! simulator run the same decisions (ONE-CORE). `clippy.toml` beside this crate and a test over `cargo metadata` keep it
//! so.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`id`], [`time`], [`rng`], [`limits`] | identities, points in time, seeded random numbers, every bound with its reason |
//! | [`codec`] | the one place that knows how values become bytes |
//! | [`content`] | how a package becomes segments and blocks; sets of blocks |
//! | [`manifest`] | the signed, fully resolved deployment |
//! | [`origin`] | where a package is read from over HTTP, and which ranges are asked for |
//! | [`mirrors`] | which of the places that have a package a site reads it from |
//! | [`wire`], [`bulk`] | the messages of the control mesh; requests for segments and their answers |
//! | [`exchange`] | who asks whom for which block within a site (run by every node) |
//! | [`wan`] | which node reads what over the WAN (run by the coordinator) |
//! | [`rollout`] | from deployment file to manifest, and what happens when: stages, gate, steps |
//! | [`hours`] | when steps may start at a site: windows and freezes |
//! | [`join`] | join strings |
//! | [`directory`] | who is where: tokens, members, sites, neighbours |
//! | [`outputs`] | what steps write for later ones, and who sees it |
//! | [`runs`] | which runs of steps were started, each at most once |
//! | [`node`] | all decisions of a node, joined from the cores above |
//! | [`coordinator`] | all decisions of the coordinator, joined from the cores above |

pub mod bulk;
pub mod codec;
pub mod content;
pub mod coordinator;
pub mod directory;
pub mod exchange;
pub mod hours;
pub mod id;
pub mod join;
pub mod limits;
pub mod manifest;
pub mod mirrors;
pub mod node;
pub mod origin;
pub mod outputs;
mod rendezvous;
pub mod rng;
pub mod rollout;
pub mod runs;
pub mod time;
pub mod wan;
pub mod wire;
