//! `shoal deploy`: sends the deployment file, and watches if asked to.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use shoal_proto::id::DeploymentId;

use super::args::{DeployArgs, Format};
use super::client::Client;
use super::exit::{CliError, Exit};
use super::plan::{self, as_wanted};
use super::terminal::Terminal;
use super::units::{count, local};
use super::watch::watch;
use crate::api::limits::BODY_BYTES_MAX;
use crate::api::types::{DeployRequest, Deployment, Plan};

/// How long one look at a deployment that has the nodes takes at most.
const HELD_WAIT: Duration = Duration::from_secs(5);

/// Starts a deployment; the coordinator reads the file, so that its messages are the same from everywhere.
///
/// # Errors
/// If the file cannot be read or the coordinator refuses it, and as [`watch`].
pub async fn run(
    client: &Client,
    terminal: &mut Terminal,
    args: DeployArgs,
    interrupted: impl Future<Output = ()>,
) -> Result<Exit, CliError> {
    let request = request(&args)?;
    let because = args.override_window.clone().map(|why| client.because(why));
    let client = because.as_ref().unwrap_or(client);
    terminal.note(&format!("resolving the packages of {}", request.file));
    let deployment =
        if args.wait { in_turn(client, terminal, &request).await? } else { client.deploy(&request).await? };
    if deployment.unchanged {
        terminal.note(&format!("nothing was done: {}", as_wanted(&deployment.id.to_string())));
    } else if args.watch {
        terminal.note(&started(&deployment));
        return watch(client, terminal, deployment.id, args.watching.wait_max, interrupted).await;
    }
    match terminal.format {
        Format::Table => {
            terminal.text(&format!("{}\n", deployment.id))?;
            if !deployment.unchanged {
                terminal.note(&format!("{}; `shoal watch {}` follows it", started(&deployment), deployment.id));
            }
        }
        Format::Json | Format::Jsonl => terminal.json(&deployment)?,
    }
    Ok(Exit::Done)
}

fn request(args: &DeployArgs) -> Result<DeployRequest, CliError> {
    let load = |path| plan::load::<Plan>(path, "shoal plan -f FILE --out PLAN");
    let plan = args.plan.as_deref().map(load).transpose()?.map(Box::new);
    let planned = plan.as_ref().map(|plan| PathBuf::from(&plan.file));
    let path = args.file.clone().or(planned).unwrap_or_default();
    let stage_only = args.stage_only || plan.as_ref().is_some_and(|plan| plan.stage_only);
    let variables = args.variables.given.iter().cloned().collect();
    let (file, text) = (path.display().to_string(), read(&path)?);
    let (at, expires, override_window) = (args.at.clone(), args.expires.clone(), args.override_window.clone());
    Ok(DeployRequest { file, text, stage_only, again: args.again, variables, at, expires, override_window, plan })
}

/// Begins when no other deployment of the same name has some of the nodes. Nothing is kept of those who wait: whoever asks
/// first then is the next.
async fn in_turn(client: &Client, terminal: &mut Terminal, request: &DeployRequest) -> Result<Deployment, CliError> {
    let mut told = String::new();
    loop {
        match client.deploy(request).await {
            Err(error) if error.held.is_some() => {
                if told != error.message {
                    terminal.note(&format!("{}; waiting", error.message));
                    told.clone_from(&error.message);
                }
                if let Some(by) = error.held {
                    until_over(client, by).await?;
                }
            }
            answer => return answer,
        }
    }
}

async fn until_over(client: &Client, id: DeploymentId) -> Result<(), CliError> {
    let mut after = 0;
    loop {
        let events = client.events(id, after, HELD_WAIT).await?;
        if events.ended {
            return Ok(());
        }
        after = events.next;
    }
}

fn started(deployment: &Deployment) -> String {
    let Deployment { id, name, release, nodes, at, expires, .. } = deployment;
    let at = at.map_or_else(String::new, |at| format!(", steps not before {}", local(at)));
    let expires = expires.map_or_else(String::new, |at| format!(", expires {}", local(at)));
    format!("deployment {id}: {name} {release} to {}{at}{expires}", count(*nodes, "node"))
}

/// The text of a deployment file.
///
/// # Errors
/// If it cannot be read.
pub(super) fn read(path: &Path) -> Result<String, CliError> {
    let failed = |error: io::Error| {
        let message = format!("cannot read the deployment file {}: {error}", path.display());
        CliError::new(Exit::Usage, message)
    };
    let source: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path).map_err(failed)?) };
    let mut text = String::new();
    // The limit is on the JSON that carries it; what is over that here is over it there.
    source.take(BODY_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() > BODY_BYTES_MAX {
        let message = format!("the deployment file {} is over {BODY_BYTES_MAX} bytes", path.display());
        return Err(CliError::new(Exit::Usage, message).next("keep large scripts in a package"));
    }
    Ok(text)
}
