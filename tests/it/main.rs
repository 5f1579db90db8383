//! Every test that needs more than one crate, in one binary.

mod crashes;
mod deploy;
mod errors;
mod origins;
mod steps;
mod tidy;
