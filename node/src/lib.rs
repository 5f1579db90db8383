//! Agent of Shoal: library and the shoal-node program.

pub mod origin;
pub mod net;
pub mod steps;
pub mod store;
