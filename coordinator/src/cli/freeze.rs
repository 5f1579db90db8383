//! `shoal freeze`: has no step start at some sites, or anywhere.

use super::args::FreezeArgs;
use super::client::Client;
use super::done;
use super::exit::{CliError, Exit};
use super::terminal::Terminal;
use crate::api::types::FreezeRequest;

/// Begins a freeze; why is for whoever finds a deployment waiting.
///
/// # Errors
/// Without a reason, or if the coordinator refuses it.
pub async fn begin(client: &Client, terminal: &mut Terminal, args: FreezeArgs) -> Result<(), CliError> {
    let FreezeArgs { sites, until, for_time } = args;
    let missing = || CliError::new(Exit::Usage, "a freeze wants a reason").next("say why: `--reason TEXT`");
    let reason = client.reason().ok_or_else(missing)?.to_owned();
    let for_ms = for_time.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    done(terminal, client.freeze(&FreezeRequest { sites, reason, until, for_ms }).await?)
}
