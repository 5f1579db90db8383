//! What a rollout is told: reports of nodes, commands of operators, and time.
//!
//! Everything here is serialisable, so that a recorded run is a test. Nothing here is trusted: a report that does not fit
//! (unknown node, other attempt, already known) changes nothing; a command that does not fit is answered with a
//! [`Refusal`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::hours::Shut;
use crate::id::{Name, NodeId, PackageIndex};
use crate::manifest::StepRef;
use crate::outputs::Outputs;
use crate::time::{Time, WallTime};

/// The moment at which something is decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// The process's own time, by which spans are measured.
    pub time: Time,
    /// The coordinator's clock: for times of day, and for records.
    pub wall: WallTime,
}

/// Who runs a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Actor {
    /// The coordinator itself, for steps `on: coordinator`.
    Coordinator,
    /// A target node.
    Node(NodeId),
}

impl Actor {
    /// The node, if it is one.
    pub fn node(self) -> Option<NodeId> {
        match self {
            Self::Coordinator => None,
            Self::Node(node) => Some(node),
        }
    }
}

/// How one attempt at a step ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepOutcome {
    /// It did what it says.
    Succeeded,
    /// It failed.
    Failed(Failure),
    /// It took longer than its time-out; its process tree was killed.
    TimedOut,
    /// It was cancelled: killed, or never started.
    Killed,
    /// Nobody saw how it ended, for instance because its node was restarted.
    Unknown,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The script ended with this exit code.
    Exit(i32),
    /// Anything else, for people; cut to [`crate::limits::CAUSE_BYTES_MAX`].
    Cause(String),
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// A node is connected. Not journaled: after a restart every node counts as not connected until this comes.
    NodeOnline(NodeId),
    /// A node's connection is gone.
    NodeOffline(NodeId),
    /// These nodes are not connected: said when a deployment begins, for what becomes of nodes that are away to be reckoned
    /// across restarts.
    Absent(Vec<NodeId>),
    /// These sites are shut, and no others, of whatever deployment.
    Hours(BTreeMap<Name, Shut>),
    /// A node holds a package, verified.
    Acquired {
        /// Which node.
        node: NodeId,
        /// Which package.
        package: PackageIndex,
    },
    /// A node gave up on a package: its disk is full, for instance. It tries again when it is told to acquire.
    AcquireFailed {
        /// Which node.
        node: NodeId,
        /// Which package.
        package: PackageIndex,
        /// Why, for people.
        cause: String,
    },
    /// A node that was asked for its site can run the first attempt of a step, and has not started it.
    StepReady {
        /// Which node.
        node: NodeId,
        /// Which step.
        step: StepRef,
    },
    /// An attempt was started: from here on it may have had effects.
    StepStarted {
        /// Who runs it.
        actor: Actor,
        /// Which step.
        step: StepRef,
        /// Which attempt, from 1.
        attempt: u32,
    },
    /// An attempt that is about to end well wrote values for later steps.
    StepWrote {
        /// Who runs it.
        actor: Actor,
        /// Which step.
        step: StepRef,
        /// Which attempt, from 1.
        attempt: u32,
        /// What.
        outputs: Outputs,
    },
    /// An attempt has ended, or was cancelled before it started.
    StepEnded {
        /// Who ran it.
        actor: Actor,
        /// Which step.
        step: StepRef,
        /// Which attempt, from 1.
        attempt: u32,
        /// How.
        outcome: StepOutcome,
    },
    /// An operator's command.
    Operator(Operator),
    /// The deployment cannot go on, whoever found out: a package changed in its feed after it was resolved, for instance.
    Stop {
        /// Why, for people: names the thing.
        cause: String,
    },
    /// Nothing but time has passed; also the first input after creation or replay.
    Tick,
}

/// A command of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    /// Ends the deployment: kills what runs, then runs the `always_after` scripts. Said again while a failed deployment
    /// waits for steps that still run, it kills those.
    Cancel,
    /// Ends the deployment, kills what runs, and has the nodes that it changed go back to what they had before; also while
    /// it ends because it failed.
    Rollback,
    /// Has nothing start and nothing be fetched; steps that run are let finish. A deployment that is ending is not held up.
    Pause,
    /// Goes on after a pause.
    Resume,
    /// Opens the gate of a deployment with `gate: manual`, once its quorum is reached and its time has come.
    Release,
    /// The same, and without waiting for its time.
    ReleaseNow,
    /// Lets its steps start also where and when a site is shut.
    AnyHour,
    /// Takes that back, from here on: what runs is let finish.
    KeepHours,
    /// Has the next wave begin: before the bake is over, or although too few nodes came through the wave before.
    Promote,
    /// Tries again what failed.
    Retry(Which),
    /// Counts failed steps as done.
    Ignore(Which),
    /// Goes on without nodes: those named, or all that wait for an answer.
    Exclude(Which),
    /// Fails the deployment because of what waits for an answer.
    Fail(Which),
}

/// What an answer is for; with nothing given, all that waits for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Which {
    /// Only this actor.
    pub actor: Option<Actor>,
    /// Only this step.
    pub step: Option<StepRef>,
}

/// Why an operator's command changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It is over.
    #[error("the deployment is over")]
    Over,
    /// It is ending, and the command would hold it up or come to nothing.
    #[error("the deployment is ending: only its last scripts or running steps are awaited")]
    Ending,
    /// It is paused.
    #[error("the deployment is paused: `shoal resume` goes on")]
    Paused,
    /// It is not paused.
    #[error("the deployment is not paused by an operator")]
    NotPaused,
    /// No failure matches.
    #[error("nothing that matches waits for an answer: see `shoal status`")]
    NothingWaits,
    /// The node is none of the deployment's.
    #[error("the node is no target of this deployment")]
    NotATarget,
    /// The node is excluded already.
    #[error("the node is excluded already")]
    AlreadyExcluded,
    /// A missing package cannot be ignored.
    #[error("a node that lacks a package cannot run the steps: answer `retry`, `exclude` or `fail`")]
    PackageMissing,
    /// The coordinator cannot be excluded.
    #[error("the step runs on the coordinator, which cannot be excluded: answer `retry`, `ignore` or `fail`")]
    CoordinatorNeeded,
    /// The step was tried [`crate::limits::ATTEMPTS_MAX`] times.
    #[error("the step was tried {} times: answer `ignore`, `exclude` or `fail`", crate::limits::ATTEMPTS_MAX)]
    AttemptsSpent,
    /// The gate has opened.
    #[error("the gate is open already")]
    GateOpen,
    /// No wave is through and waits for the next.
    #[error("no wave bakes or waits to be promoted: see `shoal status`")]
    NothingToPromote,
    /// The sites where it would start again are shut.
    #[error(
        "their sites are outside their maintenance windows or frozen: wait, or go past that with `shoal override-window`"
    )]
    Shut,
    /// The hours do not hold it up.
    #[error("the hours of sites do not hold it up already: it only stages, takes back, or they were overridden")]
    AnyHourAlready,
    /// Its hours were not overridden.
    #[error("the hours of sites were not overridden for it, or do not hold it up whatever an operator says")]
    HoursKept,
    /// The gate opens by itself at its time.
    #[error("the gate opens by itself at its time: `shoal release --now` opens it before")]
    GateTimed,
    /// The gate opens by itself.
    #[error("the gate opens by itself when its quorum is reached: `gate: manual` would make it wait")]
    GateAuto,
}
