//! The operator's HTTP API: JSON under `/v1/`, for the command line, scripts and the dashboard.

mod error;
mod text;
mod types_status;

pub mod command;
pub mod limits;
pub mod types;

pub use error::{ApiError, ErrorCode};
