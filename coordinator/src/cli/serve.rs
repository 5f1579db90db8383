//! `shoal serve`: runs the coordinator until it is told to stop.

use std::path::Path;

use shoal_node::cli::stop_signal;
use shoal_node::open_files;
use tokio_util::sync::CancellationToken;

use super::exit::{CliError, Exit};
use crate::config::Config;
use crate::driver::Server;

/// Runs the coordinator that the file at `config` describes.
///
/// # Errors
/// What is wrong with the file, or why the coordinator cannot start or go on.
pub async fn run(config: &Path) -> Result<(), CliError> {
    // Paths in the file are taken from its folder; scripts run elsewhere and are told absolute ones.
    let path = std::path::absolute(config).map_err(|error| CliError::new(Exit::Usage, error.to_string()))?;
    let config = Config::load(&path).map_err(|error| CliError::new(Exit::Usage, error.to_string()))?;
    let failed = |error: crate::driver::ServeError| CliError::new(Exit::Unexpected, error.to_string());
    open_files::raise();
    let server = Server::start(config).await.map_err(failed)?;
    let stop = CancellationToken::new();
    let on_signal = stop.clone();
    tokio::spawn(async move {
        stop_signal().await;
        on_signal.cancel();
    });
    // As a task: what `block_on` itself runs is a thread of its own, to be woken for every event.
    let ended = tokio::spawn(server.run(stop)).await;
    ended.map_err(|error| CliError::new(Exit::Unexpected, error.to_string()))?.map_err(failed)
}
