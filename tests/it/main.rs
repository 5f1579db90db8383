//! Every test that needs more than one crate, in one binary.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod audit;
mod away;
mod cache;
mod crashes;
mod deploy;
mod disks;
mod elections;
mod errors;
mod feeds;
mod github;
mod guards;
mod liars;
mod limits;
mod nuget;
mod open_files;
mod origins;
mod outputs;
mod plan;
mod real;
mod registry;
mod rollbacks;
mod rollouts;
mod steps;
mod stores;
mod tidy;
mod variables;
mod when;
