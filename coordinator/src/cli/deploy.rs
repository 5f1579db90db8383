//! `shoal deploy`: sends the deployment file, and watches if asked to.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::args::{DeployArgs, Format};
use super::client::Client;
use super::exit::{CliError, Exit};
use super::terminal::Terminal;
use super::units::count;
use super::watch::watch;
use crate::api::limits::BODY_BYTES_MAX;
use crate::api::types::{DeployRequest, Deployment};

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
    let text = read(&args.file)?;
    let file = args.file.display().to_string();
    let request = DeployRequest { file, text, stage_only: args.stage_only };
    terminal.note(&format!("resolving the packages of {}", request.file));
    let deployment = client.deploy(&request).await?;
    if args.watch {
        terminal.note(&started(&deployment));
        return watch(client, terminal, deployment.id, args.wait.wait_max, interrupted).await;
    }
    match terminal.format {
        Format::Table => {
            terminal.text(&format!("{}\n", deployment.id))?;
            terminal.note(&format!("{}; `shoal watch {}` follows it", started(&deployment), deployment.id));
        }
        Format::Json | Format::Jsonl => terminal.json(&deployment)?,
    }
    Ok(Exit::Done)
}

fn started(deployment: &Deployment) -> String {
    let Deployment { id, name, release, nodes, .. } = deployment;
    format!("deployment {id}: {name} {release} to {}", count(*nodes, "node"))
}

fn read(path: &Path) -> Result<String, CliError> {
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
