//! The cores of the coordinator and of the nodes, joined by hand: one test for each thing that goes wrong between them and
//! must not matter. The storm (`shoal-sim`) finds such things; these name them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admit;
mod agent;
mod away;
mod budgets;
mod deployments;
mod join;
mod leases;
mod limits;
mod nodes;
mod plan;
mod restart;
mod rollback;
mod site;
mod standby;
mod steps;
