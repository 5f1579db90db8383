//! Runs one step of a manifest as a task: from the order to reports of what it wrote and how it ended.
//!
//! Used by the node for its steps and by the coordinator for its own. Whether a step may run, and that it does so once, is
//! decided and written down before (GATE).

use std::path::PathBuf;

use shoal_proto::id::Name;
use shoal_proto::limits::CAUSE_BYTES_MAX;
use shoal_proto::manifest::{Action, Manifest, Phase};
use shoal_proto::outputs::{Named, Outputs};
use shoal_proto::rollout::variables::Told;
use shoal_proto::rollout::{Failure, StepOutcome};
use shoal_proto::wire::{OutputStream, StepRun};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::steps::{self, Masker, OutputChunk, PackageFile};

/// Chunks of output that wait to be reported; a step that writes faster is slowed.
const OUTPUT_CHUNKS: usize = 16;

/// What is reported of a run.
#[derive(Debug)]
pub enum RunReport {
    /// It wrote something.
    Output {
        /// Which run.
        run: StepRun,
        /// Where.
        stream: OutputStream,
        /// The text; bytes that are no UTF-8 are replaced.
        text: String,
    },
    /// It is over; comes last.
    Ended {
        /// Which run.
        run: StepRun,
        /// How.
        outcome: StepOutcome,
        /// What it wrote for later steps.
        outputs: Outputs,
    },
}

/// What a step sees of the machine it runs on.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The machine's name.
    pub node: Name,
    /// Its site.
    pub site: Name,
    /// Packages that are here, verified.
    pub packages: Vec<PackageFile>,
    /// What earlier steps of the deployment wrote that the step sees.
    pub outputs: Named,
    /// The deployment's variables that the machine may see.
    pub variables: Told,
    /// Where scripts run.
    pub work_dir: PathBuf,
}

/// Runs `run` of `manifest` to its end; reports go to `reports`.
pub async fn run_step<E: From<RunReport> + Send + 'static>(
    run: StepRun,
    manifest: &Manifest,
    surroundings: Surroundings,
    cancel: CancellationToken,
    reports: mpsc::Sender<E>,
) {
    let masker = Masker::new(surroundings.variables.secret.values());
    let (outcome, outputs) = match job(run, manifest, surroundings) {
        Some(job) => {
            let (sender, receiver) = mpsc::channel(OUTPUT_CHUNKS);
            let running = async {
                let outcome = steps::run(&job, &sender, &cancel).await;
                drop(sender);
                outcome
            };
            let (outcome, ()) = tokio::join!(running, forward(run, receiver, &masker, &reports));
            without_secrets(told(outcome), &masker)
        }
        None => (StepOutcome::Failed(Failure::Cause("the manifest has no such step".to_owned())), Outputs::new()),
    };
    // The driver is gone only when the process ends.
    let _ = reports.send(RunReport::Ended { run, outcome, outputs }.into()).await;
}

fn job(run: StepRun, manifest: &Manifest, surroundings: Surroundings) -> Option<steps::StepRun> {
    let step = manifest.step(run.step)?;
    let action = match run.step.phase {
        Phase::Before | Phase::Steps | Phase::Always => step.action.clone(),
        Phase::After => Action::Script { run: step.always_after.clone()? },
    };
    Some(steps::StepRun {
        deployment: run.deployment,
        release: manifest.release.clone(),
        rollback_from: manifest.rollback.as_ref().map(|rollback| rollback.from.clone()),
        node: surroundings.node,
        site: surroundings.site,
        step: step.name.clone(),
        action,
        timeout: step.timeout,
        packages: surroundings.packages,
        outputs: surroundings.outputs,
        variables: surroundings.variables,
        work_dir: surroundings.work_dir,
    })
}

/// Reports what a step writes, without the secrets in it.
async fn forward<E: From<RunReport>>(
    run: StepRun,
    mut chunks: mpsc::Receiver<OutputChunk>,
    masker: &Masker,
    reports: &mpsc::Sender<E>,
) {
    let streams = [OutputStream::Stdout, OutputStream::Stderr, OutputStream::Notice];
    let mut texts = [(); 3].map(|()| (Utf8::default(), masker.clone()));
    let report = async |stream, text: String| {
        if !text.is_empty() {
            let _ = reports.send(RunReport::Output { run, stream, text }.into()).await;
        }
    };
    while let Some(chunk) = chunks.recv().await {
        let index = match chunk.stream {
            steps::OutputStream::Stdout => 0,
            steps::OutputStream::Stderr => 1,
            steps::OutputStream::Notice => 2,
        };
        let (utf8, masker) = &mut texts[index];
        let text = masker.push(&utf8.take(&chunk.bytes));
        report(streams[index], text).await;
    }
    for (stream, (_, masker)) in streams.into_iter().zip(&mut texts) {
        report(stream, masker.finish()).await;
    }
}

/// A cause may quote a secret, and is masked. A value for later steps may not hold one: it goes to other machines, and into
/// the coordinator's journal for good.
fn without_secrets((outcome, outputs): (StepOutcome, Outputs), masker: &Masker) -> (StepOutcome, Outputs) {
    if let Some(key) = outputs.iter().find(|(_, value)| masker.whole(value) != **value).map(|(key, _)| key) {
        let cause =
            format!("`{key}` in $SHOAL_OUTPUT holds a secret, which is not handed to later steps: leave it out");
        return (StepOutcome::Failed(Failure::Cause(cause)), Outputs::new());
    }
    let outcome = match outcome {
        StepOutcome::Failed(Failure::Cause(cause)) => StepOutcome::Failed(Failure::Cause(masker.whole(&cause))),
        other => other,
    };
    (outcome, outputs)
}

fn told(outcome: steps::Outcome) -> (StepOutcome, Outputs) {
    let outcome = match outcome {
        steps::Outcome::Succeeded { values } => return (StepOutcome::Succeeded, values),
        steps::Outcome::Failed { exit_code: Some(code), .. } => StepOutcome::Failed(Failure::Exit(code)),
        steps::Outcome::Failed { exit_code: None, mut cause } => {
            cause.truncate(cause.floor_char_boundary(CAUSE_BYTES_MAX));
            StepOutcome::Failed(Failure::Cause(cause))
        }
        steps::Outcome::TimedOut => StepOutcome::TimedOut,
        steps::Outcome::Killed => StepOutcome::Killed,
    };
    (outcome, Outputs::new())
}

/// Makes text of bytes that are cut anywhere.
#[derive(Default)]
struct Utf8 {
    /// The beginning of a character whose rest has not come.
    begun: Vec<u8>,
}

impl Utf8 {
    fn take(&mut self, bytes: &[u8]) -> String {
        self.begun.extend_from_slice(bytes);
        let cut = match std::str::from_utf8(&self.begun) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            // Whole, or wrong at some place: what is wrong is replaced, but for the beginning of a character at the end.
            _ => self.begun.len() - incomplete_tail(&self.begun),
        };
        let text = String::from_utf8_lossy(&self.begun[..cut]).into_owned();
        self.begun.drain(..cut);
        text
    }
}

/// How many bytes at the end are the beginning of a character that more bytes could complete.
fn incomplete_tail(bytes: &[u8]) -> usize {
    let tail = (1..=3.min(bytes.len())).find(|len| {
        let tail = &bytes[bytes.len() - len..];
        std::str::from_utf8(tail).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    });
    tail.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_cut_in_two_stay_whole() {
        let bytes = "aß€😀z".as_bytes();
        for cut in 0..=bytes.len() {
            let mut text = Utf8::default();
            assert_eq!(text.take(&bytes[..cut]) + &text.take(&bytes[cut..]), "aß€😀z", "cut at {cut}");
        }
        let mut text = Utf8::default();
        assert_eq!(text.take(b"a\xffb\xe2\x82") + &text.take(b"\xacc"), "a\u{fffd}b€c");
    }
}
