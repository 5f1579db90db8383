//! The coordinator of Shoal and the operator's command line.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`driver`] | the one loop: nodes and operators to the core of [`shoal_proto::coordinator`], its outputs to the world |
//! | [`config`], [`spec_file`], [`input_file`] | what people write, read and checked |
//! | [`feeds`], [`catalog`] | from a reference to where the bytes are; recipes of all that was read |
//! | [`commit`] | records of the core on disk before anything that it wants is done |
//! | [`journal`], [`audit`] | what was decided, durable, in order and chained |
//! | [`trail`] | what operators did, in the same log |
//! | [`secrets`] | secrets of deployments that are not over |
//! | [`api`] | the operator's HTTP API: documents, and the commands that it asks of the driver |
//! | [`moment`] | times of day as operators write and read them |
//! | [`demo`] | a whole mesh in one process, to see what Shoal does |
//! | [`cli`] | the operator's command line, which speaks to the API |

pub mod api;
pub mod audit;
pub mod catalog;
pub mod cli;
pub mod commit;
pub mod config;
pub mod demo;
pub mod driver;
pub mod feeds;
pub mod input_file;
pub mod journal;
pub mod moment;
pub mod secrets;
pub mod spec_file;
pub mod trail;
