//! Agent of Shoal: library and the shoal-node program.

pub mod origin;
