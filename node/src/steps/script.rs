//! Runs a step's script: `sh -c` in a process group of its own, with an environment of Shoal's making.
//!
//! The step ends when the shell ends. A process that it left in the background may go on (it may be the service that was
//! to be started), but does not hold the step open, even if it keeps the output open; what it writes later is lost. When
//! the step is ended by its timeout or cancelled, the whole tree goes: first asked (TERM), then killed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nix::sys::signal::Signal;
use shoal_proto::limits::{OUTPUT_BYTES_MAX, OUTPUT_CHUNK_BYTES_MAX, STEP_VALUES_BYTES_MAX, STEP_VALUES_MAX};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::processes::Tree;
use super::{Outcome, OutputChunk, OutputStream, StepRun};
use crate::open_files;

/// How long a tree has between TERM and KILL when its time is over: to undo what it did half.
const GRACE_TIMEOUT: Duration = Duration::from_secs(5);

/// The same when an operator cancelled, and waits.
const GRACE_CANCEL: Duration = Duration::from_secs(2);

/// How long a killed tree may take to be gone; a process in the midst of disk I/O takes a little.
const KILL_TAKES_MAX: Duration = Duration::from_secs(2);

/// After the shell's end, output is read until nothing came for this long.
const OUTPUT_QUIET: Duration = Duration::from_millis(200);

/// And at most for this long, if a background process keeps writing.
const OUTPUT_AFTER_END_MAX: Duration = Duration::from_secs(5);

/// What a script inherits from the agent: where programs and files are, language and time zone; no secrets.
const INHERITED: [&str; 12] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
];

/// Runs `text`.
pub(super) async fn run(
    run: &StepRun,
    text: &str,
    output: &mpsc::Sender<OutputChunk>,
    cancel: &CancellationToken,
) -> Outcome {
    let values_file = match prepare(run) {
        Ok(path) => path,
        Err(error) => return Outcome::failed(format!("cannot use {}: {error}", run.work_dir.display())),
    };
    let mut script = match Script::start(run, text, &values_file, output) {
        Ok(script) => script,
        Err(error) => return Outcome::failed(format!("cannot start `sh`: {error}")),
    };
    let deadline = Instant::now() + run.timeout;
    let ended = tokio::select! {
        status = script.wait() => Ok(status),
        () = sleep_until(deadline) => Err((Outcome::TimedOut, GRACE_TIMEOUT)),
        () = cancel.cancelled() => Err((Outcome::Killed, GRACE_CANCEL)),
    };
    match ended {
        Ok(status) => {
            script.rest_of_output().await;
            outcome(status, &values_file)
        }
        Err((outcome, grace)) => {
            script.end_tree(grace).await;
            outcome
        }
    }
}

/// Makes the work folder and an empty file for `$SHOAL_OUTPUT` in it.
fn prepare(run: &StepRun) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(&run.work_dir)?;
    let path = run.work_dir.join(format!(".output-{}", run.step));
    std::fs::write(&path, "")?;
    Ok(path)
}

/// What a script sees.
fn environment(run: &StepRun, values_file: &Path) -> BTreeMap<String, std::ffi::OsString> {
    let inherited = INHERITED.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var_os(name)?)));
    let mut all: BTreeMap<String, std::ffi::OsString> = inherited.collect();
    all.extend(variables(run));
    all.insert("SHOAL_OUTPUT".into(), values_file.into());
    all
}

/// What a step of any kind knows of its run, by the names that scripts see.
pub(super) fn variables(run: &StepRun) -> BTreeMap<String, std::ffi::OsString> {
    let mut all = BTreeMap::new();
    for (step, outputs) in &run.outputs {
        let step = variable(step.as_str());
        for (key, value) in outputs {
            all.insert(format!("SHOAL_OUTPUT_{step}_{}", variable(key)), value.into());
            // Later steps come later, and what they say is newer.
            all.insert(format!("SHOAL_VALUE_{}", variable(key)), value.into());
        }
    }
    for (name, value) in run.variables.plain.iter().chain(&run.variables.secret) {
        all.insert(format!("SHOAL_VAR_{}", variable(name)), value.into());
    }
    for package in &run.packages {
        all.insert(format!("SHOAL_PACKAGE_{}", variable(package.name.as_str())), package.path.clone().into());
    }
    all.insert("SHOAL_DEPLOYMENT".into(), run.deployment.to_string().into());
    all.insert("SHOAL_RELEASE".into(), run.release.as_str().into());
    if let Some(from) = &run.rollback_from {
        all.insert("SHOAL_ROLLBACK_FROM".into(), from.as_str().into());
    }
    all.insert("SHOAL_NODE".into(), run.node.as_str().into());
    all.insert("SHOAL_SITE".into(), run.site.as_str().into());
    all.insert("SHOAL_STEP".into(), run.step.as_str().into());
    all
}

/// `name` as part of a variable's name.
fn variable(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

fn outcome(status: std::io::Result<ExitStatus>, values_file: &Path) -> Outcome {
    use std::os::unix::process::ExitStatusExt;
    let status = match status {
        Ok(status) => status,
        Err(error) => return Outcome::failed(format!("cannot wait for `sh`: {error}")),
    };
    if status.success() {
        return match read_values(values_file) {
            Ok(values) => Outcome::Succeeded { values },
            Err(cause) => Outcome::Failed { exit_code: Some(0), cause },
        };
    }
    match (status.code(), status.signal()) {
        (Some(code), _) => Outcome::Failed { exit_code: Some(code), cause: format!("exit code {code}") },
        (None, signal) => {
            let number = signal.unwrap_or_default();
            let name = Signal::try_from(number).map_or_else(|_| number.to_string(), |signal| signal.to_string());
            Outcome::Failed { exit_code: Some(128 + number), cause: format!("ended by signal {name}") }
        }
    }
}

/// Reads the `key=value` lines that a script wrote for later steps.
fn read_values(path: &Path) -> Result<BTreeMap<String, String>, String> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|error| format!("cannot read $SHOAL_OUTPUT: {error}"))?;
    let mut text = String::new();
    let read = file.take(STEP_VALUES_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| format!("cannot read $SHOAL_OUTPUT: {error}"))?;
    if text.len() as u64 > STEP_VALUES_BYTES_MAX {
        return Err(format!("$SHOAL_OUTPUT is over {STEP_VALUES_BYTES_MAX} bytes"));
    }
    let mut values = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let pair = line.split_once('=').filter(|(key, _)| is_key(key));
        let (key, value) = pair.ok_or_else(|| format!("line {number} of $SHOAL_OUTPUT is not `key=value`"))?;
        values.insert(key.to_owned(), value.to_owned());
        if values.len() > STEP_VALUES_MAX {
            return Err(format!("$SHOAL_OUTPUT has more than {STEP_VALUES_MAX} values"));
        }
    }
    Ok(values)
}

fn is_key(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A script that runs. Dropping it kills what is left of its tree, unless the shell ended by itself.
struct Script<'a> {
    child: Child,
    tree: Tree,
    pump: Pump<'a>,
    ended: bool,
}

impl<'a> Script<'a> {
    fn start(
        run: &StepRun,
        text: &str,
        values_file: &Path,
        output: &'a mpsc::Sender<OutputChunk>,
    ) -> std::io::Result<Self> {
        let mut child = Command::new("/bin/sh")
            .arg("-c")
            .arg(open_files::as_before(text))
            .env_clear()
            .envs(environment(run, values_file))
            .current_dir(&run.work_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let missing = || std::io::Error::other("it ended before it could be seen");
        let leader = child.id().and_then(|id| i32::try_from(id).ok()).ok_or_else(missing)?;
        let pump = Pump { stdout: child.stdout.take(), stderr: child.stderr.take(), sent: 0, cut: false, output };
        Ok(Self { tree: Tree::new(leader), child, pump, ended: false })
    }

    /// Waits for the shell's end and sends on its output meanwhile.
    async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        let status = loop {
            tokio::select! {
                biased;
                status = self.child.wait() => break status,
                () = self.pump.step(), if self.pump.is_open() => {}
            }
        };
        self.ended = true;
        self.tree.leader_reaped();
        status
    }

    /// Sends on what the shell wrote before its end, but waits for no background process.
    async fn rest_of_output(&mut self) {
        let end = Instant::now() + OUTPUT_AFTER_END_MAX;
        while self.pump.is_open() {
            let step = timeout(OUTPUT_QUIET, self.pump.step());
            if !matches!(timeout_at(end, step).await, Ok(Ok(()))) {
                break;
            }
        }
    }

    /// Ends the whole tree: TERM, then KILL after `grace`.
    async fn end_tree(&mut self, grace: Duration) {
        for (signal, patience) in [(Signal::SIGTERM, grace), (Signal::SIGKILL, KILL_TAKES_MAX)] {
            self.tree.signal(signal);
            if timeout(patience, self.until_gone(signal == Signal::SIGKILL)).await.is_ok() {
                self.ended = true;
                return;
            }
        }
        tracing::warn!("processes of a step that was killed are still there, probably waiting for a disk");
    }

    /// Waits until nobody of the tree is left; `killing` also those who joined it meanwhile.
    async fn until_gone(&mut self, killing: bool) {
        // Nothing tells when a process ends that is not a child of ours, so it is looked for.
        let mut look = tokio::time::interval(Duration::from_millis(20));
        loop {
            tokio::select! {
                _ = self.child.wait(), if !self.ended => {
                    self.ended = true;
                    self.tree.leader_reaped();
                }
                () = self.pump.step(), if self.pump.is_open() => {}
                _ = look.tick() => {
                    if self.ended && self.tree.is_gone() {
                        return;
                    }
                    if killing {
                        self.tree.signal(Signal::SIGKILL);
                    }
                }
            }
        }
    }
}

impl Drop for Script<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.tree.signal(Signal::SIGKILL);
        }
    }
}

/// Carries a script's output to its channel, up to [`OUTPUT_BYTES_MAX`].
struct Pump<'a> {
    /// `None` once it is closed.
    stdout: Option<tokio::process::ChildStdout>,
    stderr: Option<tokio::process::ChildStderr>,
    sent: u64,
    /// The bound was reached and its notice sent; the rest is read and thrown away.
    cut: bool,
    output: &'a mpsc::Sender<OutputChunk>,
}

impl Pump<'_> {
    fn is_open(&self) -> bool {
        self.stdout.is_some() || self.stderr.is_some()
    }

    /// Reads once and sends it on. Nothing is lost if it is dropped on the way: room in the channel comes first.
    async fn step(&mut self) {
        let permit = if self.output.is_closed() { None } else { self.output.reserve().await.ok() };
        let (stream, bytes) = tokio::select! {
            bytes = read(&mut self.stdout), if self.stdout.is_some() => (OutputStream::Stdout, bytes),
            bytes = read(&mut self.stderr), if self.stderr.is_some() => (OutputStream::Stderr, bytes),
            else => return,
        };
        if bytes.is_empty() || self.cut {
            return;
        }
        self.sent += bytes.len() as u64;
        self.cut = self.sent > OUTPUT_BYTES_MAX;
        let chunk = if self.cut {
            OutputChunk { stream: OutputStream::Notice, bytes: Bytes::from(cut_notice()) }
        } else {
            OutputChunk { stream, bytes }
        };
        if let Some(permit) = permit {
            permit.send(chunk);
        }
    }
}

fn cut_notice() -> String {
    format!("[the output goes on, but only {} MiB are kept]\n", OUTPUT_BYTES_MAX / 1024 / 1024)
}

/// Reads what is there; nothing at the end, where the stream is closed.
async fn read<R: AsyncRead + Unpin>(stream: &mut Option<R>) -> Bytes {
    let mut buffer = BytesMut::with_capacity(OUTPUT_CHUNK_BYTES_MAX);
    if let Some(open) = stream
        && let Ok(1..) = open.take(OUTPUT_CHUNK_BYTES_MAX as u64).read_buf(&mut buffer).await
    {
        return buffer.freeze();
    }
    // An error of a pipe means the same as its end: there is no more.
    *stream = None;
    Bytes::new()
}
