//! Coordinator and operator command line of Shoal.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`config`], [`spec_file`], [`input_file`] | what people write, read and checked |
//! | [`journal`], [`audit`] | what was decided, durable and in order |
//! | [`api`] | the operator's HTTP API: documents, and the commands that it asks of the driver |
//! | [`cli`] | the operator's command line, which speaks to the API |

pub mod api;
pub mod audit;
pub mod cli;
pub mod config;
pub mod input_file;
pub mod journal;
pub mod spec_file;
