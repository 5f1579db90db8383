//! What comes piece by piece while a deployment goes on: output of its steps, and events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shoal_proto::id::DeploymentId;

use super::text::{Timestamp, as_text};
use super::types::{EventsSchema, LogsSchema, OutputsSchema};

/// Answer to `GET /v1/deployments/{id}/logs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// What this is.
    pub schema: LogsSchema,
    /// The deployment's id.
    #[serde(with = "as_text")]
    pub id: DeploymentId,
    /// The lines after the one that was asked for, at most [`super::limits::LOG_LINES_MAX`].
    pub lines: Vec<LogLine>,
    /// What to pass as `after` to go on.
    pub next: u64,
    /// Whether no more lines will come after these.
    pub ended: bool,
}

/// What the steps of a deployment wrote for later ones; the command line makes it from [`super::types::Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outputs {
    /// What this is.
    pub schema: OutputsSchema,
    /// The deployment's id.
    #[serde(with = "as_text")]
    pub id: DeploymentId,
    /// What each of them wrote, if it wrote anything: those on the coordinator first.
    pub outputs: Vec<StepOutputs>,
}

/// What one step wrote on one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepOutputs {
    /// The node, or `coordinator`.
    pub node: String,
    /// The step.
    pub step: String,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// What, by key.
    pub values: BTreeMap<String, String>,
}

/// One line of a step's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Its number in the deployment, from 1, without promise of being contiguous.
    pub seq: u64,
    /// When the coordinator got it.
    pub time: Timestamp,
    /// The node, or `coordinator`.
    pub node: String,
    /// The step.
    pub step: String,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// Where the step wrote it.
    pub stream: Stream,
    /// The line, without its end.
    pub text: String,
}

/// Where a step wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Said by Shoal, such as that output was cut.
    Notice,
}

/// Answer to `GET /v1/deployments/{id}/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// What this is.
    pub schema: EventsSchema,
    /// The events after the one that was asked for, at most [`super::limits::EVENTS_MAX`].
    pub events: Vec<Event>,
    /// What to pass as `after` to go on.
    pub next: u64,
    /// Whether the deployment ended and no more events will come after these.
    pub ended: bool,
}

/// Something that happened in a deployment; one line of `-o jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// What.
    pub event: EventKind,
    /// The deployment's id.
    #[serde(with = "as_text")]
    pub deployment: DeploymentId,
    /// Its number in the deployment, from 1.
    pub seq: u64,
    /// Where, if at one site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Where, if on one node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Which step, if about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Which attempt at the step, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The step's exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The event in a sentence, for people.
    pub message: String,
}

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The deployment was accepted.
    Started,
    /// It entered a stage.
    Stage,
    /// A node has all of its packages, verified.
    Acquired,
    /// The release gate opened.
    GateOpened,
    /// A wave began or is through.
    Wave,
    /// An attempt at a step started on a node.
    StepStarted,
    /// An attempt at a step succeeded on a node.
    StepSucceeded,
    /// An attempt at a step failed on a node.
    StepFailed,
    /// What became of an attempt is not known.
    StepUnknown,
    /// It waits for something that an operator may want to know.
    Waiting,
    /// A target node was lost or came back.
    Node,
    /// An operator did something.
    Operator,
    /// The deployment ended.
    Ended,
    /// A kind that this program does not know yet.
    #[serde(other)]
    Other,
}
