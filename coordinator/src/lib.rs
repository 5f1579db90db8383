//! Coordinator and operator command line of Shoal.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`config`], [`spec_file`], [`input_file`] | what people write, read and checked |
//! | [`feeds`] | from a reference to where the bytes are |
//! | [`journal`], [`audit`] | what was decided, durable and in order |

pub mod audit;
pub mod config;
pub mod feeds;
pub mod input_file;
pub mod journal;
pub mod spec_file;

pub mod api;
pub mod cli;
