//! The agent of Shoal as a library: what `shoal-node` is made of, and what the coordinator shares with it.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`driver`], [`clock`] | the one loop: events to the core of [`shoal_proto::node`], its outputs to the world; its time |
//! | [`net`] | the control and the bulk mesh; all that knows libp2p |
//! | [`store`] | packages and recipes on disk, verified segment by segment |
//! | [`transfer`], [`compress`] | payload from and to neighbours, and under leases |
//! | [`origin`] | byte ranges over HTTP |
//! | [`steps`], [`step_log`] | scripts, unpacking, checks, filled-in files; which of them were started |
//! | [`template`] | names of variables in scripts and files, and their values |
//! | [`runner`] | a step as a task, with its reports |
//! | [`membership`] | the node's key, and whom it obeys |
//! | [`open_files`] | how many files the process may have open |
//! | [`disk`] | room on disks, and small files that take the place of others |
//! | [`config`], [`cli`] | what the operator says |

pub mod cli;
pub mod clock;
pub mod compress;
pub mod config;
pub mod disk;
pub mod driver;
pub mod membership;
pub mod net;
pub mod open_files;
pub mod origin;
pub mod runner;
pub mod step_log;
pub mod steps;
pub mod store;
pub mod template;
pub mod transfer;
