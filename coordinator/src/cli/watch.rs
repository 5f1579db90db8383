//! Follows a deployment until it ends, the wait is over or Ctrl-C: detaching never touches the deployment.

use std::future;
use std::time::{Duration, Instant};

use shoal_proto::id::DeploymentId;
use tokio::time::sleep;

use super::args::Format;
use super::client::Client;
use super::exit::{CliError, Exit};
use super::progress::Progress;
use super::render::stage;
use super::summary;
use super::terminal::Terminal;
use super::units::duration;
use crate::api::types::{Events, Status};

/// How long one request waits for events: also how often progress is refreshed when nothing happens.
const EVENTS_WAIT: Duration = Duration::from_secs(1);

/// Progress is refreshed at most this often, however fast events come.
const REFRESH: Duration = Duration::from_millis(500);

/// How long a coordinator that went away is waited for: it restarts within seconds, and the deployment goes on.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long to wait between two tries to reach it.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Why watching ended.
enum End {
    Over,
    Detached,
    TimedOut,
}

/// Shows deployment `id` until it ends, and then its summary; at most `wait_max`, and until `interrupted` is ready.
///
/// # Errors
/// If the coordinator does not answer for longer than `PATIENCE`, or standard output cannot be written.
pub async fn watch(
    client: &Client,
    terminal: &mut Terminal,
    id: DeploymentId,
    wait_max: Option<Duration>,
    interrupted: impl Future<Output = ()>,
) -> Result<Exit, CliError> {
    let mut progress = Progress::new(terminal);
    let timed_out = async {
        match wait_max {
            Some(limit) => sleep(limit).await,
            None => future::pending().await,
        }
    };
    let end = tokio::select! {
        biased;
        () = interrupted => Ok(End::Detached),
        followed = follow(client, terminal, &mut progress, id) => followed.map(|()| End::Over),
        () = timed_out => Ok(End::TimedOut),
    };
    progress.clear();
    match end? {
        End::Over => conclude(client, terminal, id).await,
        End::Detached => {
            let again = format!("`shoal watch {id}` shows it again, `shoal cancel {id}` ends it");
            Err(CliError::new(Exit::Detached, format!("detached: deployment {id} goes on")).next(again))
        }
        End::TimedOut => Err(still_going(&client.status(Some(id), true).await?)),
    }
}

async fn follow(
    client: &Client,
    terminal: &mut Terminal,
    progress: &mut Progress,
    id: DeploymentId,
) -> Result<(), CliError> {
    // Not patient yet: a coordinator that was never there is an error at once.
    progress.status(&client.status(Some(id), true).await?, terminal);
    let mut refreshed = Instant::now();
    let mut after = 0;
    loop {
        let Events { events, next, ended, .. } = patiently(terminal, || client.events(id, after, EVENTS_WAIT)).await?;
        for event in &events {
            progress.event(event, terminal);
            if terminal.format == Format::Jsonl {
                terminal.json(event)?;
            }
        }
        after = next;
        if ended {
            return Ok(());
        }
        if refreshed.elapsed() >= REFRESH {
            let status = patiently(terminal, || client.status(Some(id), true)).await?;
            progress.status(&status, terminal);
            refreshed = Instant::now();
        }
    }
}

/// Tries again while the coordinator cannot be reached, up to [`PATIENCE`].
pub(super) async fn patiently<T, F>(terminal: &mut Terminal, request: impl Fn() -> F) -> Result<T, CliError>
where
    F: Future<Output = Result<T, CliError>>,
{
    let mut lost: Option<Instant> = None;
    loop {
        match request().await {
            Err(error) if error.exit == Exit::Unreachable => {
                let since = *lost.get_or_insert_with(|| {
                    terminal.note(&format!("{}; waiting for it up to {} s", error.message, PATIENCE.as_secs()));
                    Instant::now()
                });
                if since.elapsed() > PATIENCE {
                    return Err(error);
                }
                sleep(RETRY_PAUSE).await;
            }
            answer => return answer,
        }
    }
}

async fn conclude(client: &Client, terminal: &mut Terminal, id: DeploymentId) -> Result<Exit, CliError> {
    let status = patiently(terminal, || client.status(Some(id), true)).await?;
    let summary = status.summary.clone().unwrap_or_else(|| status.summarise());
    match terminal.format {
        Format::Table => terminal.text(&summary::render(&summary, terminal.paint))?,
        Format::Json => terminal.json(&summary)?,
        // The last event said it.
        Format::Jsonl => {}
    }
    for by in &status.taken_back_by {
        terminal.note(&format!("{by} takes {id} back: `shoal watch {by}`"));
    }
    Ok(Exit::of_deployment(summary.outcome, summary.excluded.len()))
}

fn still_going(status: &Status) -> CliError {
    let exit = Exit::of_deployment(status.state, 0);
    let (id, stage, time) = (status.id, stage(status.stage), duration(status.duration_ms));
    let reason = status.waiting.first().map_or(String::new(), |reason| format!(": {reason}"));
    CliError::new(exit, format!("deployment {id} is still in stage {stage} after {time}{reason}"))
        .next(format!("it goes on; `shoal watch {id}` shows it again"))
}
