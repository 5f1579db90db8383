//! The operator's HTTP API: JSON under `/v1/`, for the command line, scripts and the dashboard.
//!
//! It owns no state. Each request with the right bearer token becomes one [`command::Command`] to the driver,
//! and the driver's answer becomes the response; errors are documents with a code, a message and a next step
//! ([`ApiError`]). Every wait has a limit ([`limits`]).

mod by;
mod error;
mod extract;
mod listener;
mod routes;
mod text;
mod token;
mod types_audit;
mod types_feeds;
mod types_flow;
mod types_plan;
mod types_status;
mod types_summary;
mod types_when;

pub mod command;
pub mod limits;
pub mod types;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;

use tokio::net::TcpListener;
use tokio::sync::mpsc;

pub use by::{OPERATOR_HEADER, REASON_HEADER};
pub use error::{ApiError, ErrorCode};
pub use token::{AdminToken, TokenFileError, admin_token};

use command::Command;
use listener::Bounded;

/// Serves the API on `listener` until `stop` is ready and the requests at that moment are answered. `commands` should
/// hold [`limits::COMMANDS_QUEUED_MAX`].
///
/// # Errors
/// If the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    token: AdminToken,
    commands: mpsc::Sender<Command>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = routes::router(token, commands);
    axum::serve(Bounded::new(listener, limits::CONNECTIONS_MAX), router).with_graceful_shutdown(stop).await
}
