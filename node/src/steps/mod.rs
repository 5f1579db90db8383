//! Runs one step of a manifest on this machine and tells how it ended. Whether and when it may run is decided elsewhere
//! (GATE); here it runs once per call.
//!
//! Every step ends by its timeout at the latest, and soon after it is cancelled, and leaves no process of its tree behind
//! when it was ended so. Its output comes in bounded chunks; a full channel slows the step.

mod archive;
mod check;
mod expand;
mod folder;
mod mask;
mod processes;
mod render;
mod script;
#[cfg(test)]
mod tests;
mod unpack;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use shoal_proto::id::{DeploymentId, Name, PackageIndex};
use shoal_proto::manifest::{Action, Probe};
use shoal_proto::outputs::Named;
use shoal_proto::rollout::variables::Told;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::template::{self, Outputs, Purpose};
pub use mask::Masker;

/// A step to run, with all that it sees.
#[derive(Clone, Debug)]
pub struct StepRun {
    /// The deployment, as `SHOAL_DEPLOYMENT`.
    pub deployment: DeploymentId,
    /// What is released, as `SHOAL_RELEASE` and as the folder of an unpacked package.
    pub release: Name,
    /// This machine, as `SHOAL_NODE`.
    pub node: Name,
    /// Its site, as `SHOAL_SITE`.
    pub site: Name,
    /// The step, as `SHOAL_STEP`.
    pub step: Name,
    /// What to do.
    pub action: Action,
    /// After this it is ended and has failed.
    pub timeout: Duration,
    /// The packages that this machine holds, verified, as `SHOAL_PACKAGE_<NAME>`.
    pub packages: Vec<PackageFile>,
    /// In a rollback, the release that is taken back.
    pub rollback_from: Option<Name>,
    /// What earlier steps wrote to `$SHOAL_OUTPUT`, as `SHOAL_OUTPUT_<STEP>_<KEY>`, and as `SHOAL_VALUE_<KEY>` what the last
    /// of them wrote that wrote the key.
    pub outputs: Named,
    /// The deployment's variables that this machine may see, as `SHOAL_VAR_<NAME>`.
    pub variables: Told,
    /// Where scripts run; made if it is missing.
    pub work_dir: PathBuf,
}

/// A verified package on this machine.
#[derive(Clone, Debug)]
pub struct PackageFile {
    /// Its place in the manifest.
    pub index: PackageIndex,
    /// What the deployment file calls it.
    pub name: Name,
    /// The file.
    pub path: PathBuf,
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, with the values for later steps.
    Succeeded {
        /// What it wrote to `$SHOAL_OUTPUT`.
        values: BTreeMap<String, String>,
    },
    /// It ended by itself, but not well.
    Failed {
        /// The script's exit code; 128 and the signal's number if a signal ended it. `None` if nothing exited.
        exit_code: Option<i32>,
        /// Why, for people.
        cause: String,
    },
    /// It took longer than its timeout and was ended.
    TimedOut,
    /// It was cancelled and ended.
    Killed,
}

impl Outcome {
    fn failed(cause: impl ToString) -> Self {
        Self::Failed { exit_code: None, cause: cause.to_string() }
    }
}

/// A piece of what a step wrote, at most
/// [`OUTPUT_CHUNK_BYTES_MAX`](shoal_proto::limits::OUTPUT_CHUNK_BYTES_MAX) long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputChunk {
    /// Where it was written.
    pub stream: OutputStream,
    /// The bytes, in any encoding and cut anywhere.
    pub bytes: Bytes,
}

/// Where output comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output, and what `unpack` and `check` have to say.
    Stdout,
    /// Standard error.
    Stderr,
    /// Shoal itself, about the output.
    Notice,
}

/// Runs `run` to its end and sends its output to `output`. Without a receiver, output is thrown away.
///
/// Dropping the future kills a script's processes at once. An `unpack` that is dropped goes on to its next entry and
/// then stops, without having changed a release.
pub async fn run(run: &StepRun, output: &mpsc::Sender<OutputChunk>, cancel: &CancellationToken) -> Outcome {
    match &run.action {
        Action::Script { run: text } => match template::render(text, values(run), Purpose::Script) {
            Ok(text) => script::run(run, &text, output, cancel).await,
            Err(error) => Outcome::failed(error),
        },
        Action::Template { from, to, mode } => match render::render(run, from, to, *mode) {
            Ok(said) => {
                say(output, said).await;
                Outcome::Succeeded { values: BTreeMap::new() }
            }
            Err(cause) => Outcome::failed(cause),
        },
        Action::Unpack { package, to, keep } => {
            let to = match expand::expand(to, &script::variables(run)) {
                Ok(to) => to.into(),
                Err(error) => return Outcome::failed(error),
            };
            let Some(file) = run.packages.iter().find(|file| file.index == *package) else {
                return Outcome::failed(format!("package {package} of the manifest is not on this machine"));
            };
            let job = unpack::Job { package: file.path.clone(), to, release: run.release.clone(), keep: *keep };
            unpack_in_time(job, run.timeout, output, cancel).await
        }
        Action::Check { probe, within } => match expand::expand_probe(probe, &script::variables(run)) {
            Ok(probe) => check_in_time(&probe, *within, run.timeout, output, cancel).await,
            Err(error) => Outcome::failed(error),
        },
    }
}

/// What templates of a step are filled in with.
fn values(run: &StepRun) -> template::Values<'_> {
    let Told { plain, secret } = &run.variables;
    template::Values { plain, secret, outputs: Outputs::Written(&run.outputs) }
}

async fn check_in_time(
    probe: &Probe,
    within: Duration,
    timeout: Duration,
    output: &mpsc::Sender<OutputChunk>,
    cancel: &CancellationToken,
) -> Outcome {
    let checking = check::wait_until_up(probe, within);
    tokio::select! {
        result = tokio::time::timeout(timeout, checking) => match result {
            Ok(Ok(said)) => {
                say(output, said).await;
                Outcome::Succeeded { values: BTreeMap::new() }
            }
            Ok(Err(error)) => Outcome::failed(error),
            Err(_) => Outcome::TimedOut,
        },
        () = cancel.cancelled() => Outcome::Killed,
    }
}

/// Unpacks on a thread that may block, and stops it between two buffers when the time is over.
async fn unpack_in_time(
    job: unpack::Job,
    timeout: Duration,
    output: &mpsc::Sender<OutputChunk>,
    cancel: &CancellationToken,
) -> Outcome {
    let stop = cancel.child_token();
    let _stop_on_drop = stop.clone().drop_guard();
    let until_stopped = stop.clone();
    let mut unpacking = tokio::task::spawn_blocking(move || unpack::unpack(&job, &|| until_stopped.is_cancelled()));
    let (result, timed_out) = match tokio::time::timeout(timeout, &mut unpacking).await {
        Ok(result) => (result, false),
        Err(_) => {
            stop.cancel();
            (unpacking.await, true)
        }
    };
    match result {
        Ok(Ok(unpacked)) => {
            say(output, unpacked.to_string()).await;
            Outcome::Succeeded { values: BTreeMap::new() }
        }
        Ok(Err(unpack::UnpackError::Stopped)) if timed_out => Outcome::TimedOut,
        Ok(Err(unpack::UnpackError::Stopped)) => Outcome::Killed,
        Ok(Err(error)) => Outcome::failed(error),
        Err(_) => Outcome::failed("unpacking ended by a bug in Shoal; see the agent's log"),
    }
}

/// Puts a line of Shoal's own into the output.
async fn say(output: &mpsc::Sender<OutputChunk>, line: String) {
    let bytes = Bytes::from(line + "\n");
    // Nobody listens: nothing to do.
    let _ = output.send(OutputChunk { stream: OutputStream::Stdout, bytes }).await;
}
