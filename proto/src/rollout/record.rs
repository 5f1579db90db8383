//! What the journal of a deployment holds: facts that were reported and choices that were made, in order.
//!
//! A rollout's state is its manifest, its options and these, applied one by one; nothing else survives a restart. Records
//! are small but for [`Change::Ordered`] and [`Change::Away`], which name up to [`crate::limits::NODES_MAX`] actors.

use serde::{Deserialize, Serialize};

use super::input::{Actor, StepOutcome};
use crate::codec::{self, CodecError};
use crate::hours::Shut;
use crate::id::{LaneIndex, Name, NodeId, PackageIndex, WaveIndex};
use crate::limits::RECORD_BYTES_MAX;
use crate::manifest::StepRef;
use crate::outputs::Outputs;
use crate::time::WallTime;

/// One entry of a deployment's journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When, by the coordinator's clock: for people, and for what passed of a wait when the coordinator restarts.
    pub at: WallTime,
    /// What.
    pub change: Change,
}

impl Record {
    /// Its bytes for the journal.
    ///
    /// # Errors
    /// [`CodecError::TooLarge`] if it is over [`RECORD_BYTES_MAX`], which no record of an admitted manifest is.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(self, RECORD_BYTES_MAX)
    }

    /// The record that `bytes` encode.
    ///
    /// # Errors
    /// Every [`CodecError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(bytes, RECORD_BYTES_MAX)
    }
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A step's turn has come; its attempts may be ordered.
    StepOpened {
        /// Which step.
        step: StepRef,
        /// In stage `steps`: of which lane.
        lane: Option<LaneIndex>,
    },
    /// These actors may start this attempt, each once.
    Ordered {
        /// Which step.
        step: StepRef,
        /// Which attempt, from 1.
        attempt: u32,
        /// Who; for `on: site`, the nodes that were chosen.
        actors: Vec<Actor>,
    },
    /// An attempt was started.
    Started {
        /// Who runs it.
        actor: Actor,
        /// Which step.
        step: StepRef,
        /// Which attempt.
        attempt: u32,
    },
    /// An attempt has ended.
    Ended {
        /// Who ran it.
        actor: Actor,
        /// Which step.
        step: StepRef,
        /// Which attempt.
        attempt: u32,
        /// How.
        outcome: StepOutcome,
    },
    /// An attempt's outcome is awaited no longer: its node was excluded, or is away while the deployment ends.
    Abandoned {
        /// Who was to run it.
        actor: Actor,
        /// Which step.
        step: StepRef,
    },
    /// A step that failed, or whose outcome nobody saw, counts as done.
    Accepted {
        /// Who ran it.
        actor: Actor,
        /// Which step.
        step: StepRef,
    },
    /// The target nodes begin to acquire.
    AcquireBegan,
    /// A node holds a package, verified.
    Acquired {
        /// Which node.
        node: NodeId,
        /// Which package.
        package: PackageIndex,
    },
    /// A node gave up on a package.
    AcquireFailed {
        /// Which node.
        node: NodeId,
        /// Which package.
        package: PackageIndex,
        /// Why.
        cause: String,
    },
    /// A node tries again to acquire what it gave up on.
    AcquireRetried {
        /// Which node.
        node: NodeId,
    },
    /// An operator paused the deployment: nothing starts, and nothing is fetched, until it is resumed.
    Paused,
    /// An operator resumed it.
    Resumed,
    /// An operator released the gate.
    Released,
    /// The release gate opened (GATE).
    GateOpened,
    /// The gate of a wave opened: its lanes may begin (GATE).
    WaveOpened {
        /// Which wave.
        wave: WaveIndex,
    },
    /// A lane went through all steps.
    LaneEnded {
        /// Which lane.
        lane: LaneIndex,
    },
    /// All lanes of a wave went through all steps; its bake begins.
    WaveEnded {
        /// Which wave.
        wave: WaveIndex,
    },
    /// An operator has the next wave begin, whatever became of this one.
    Promoted {
        /// The wave that is through.
        wave: WaveIndex,
    },
    /// The deployment goes on without a node, for good.
    Excluded {
        /// Which node.
        node: NodeId,
        /// Why.
        why: Exclusion,
    },
    /// A node is away for so long that the others go on; it catches up when it is back.
    Behind {
        /// Which node.
        node: NodeId,
    },
    /// A node has run what it missed, and goes on with the others.
    CaughtUp {
        /// Which node.
        node: NodeId,
    },
    /// Nothing more is started but steps `on: always` and `always_after` scripts. What runs is let finish, unless the end is a cancel.
    Closing {
        /// How the deployment is going to end.
        end: End,
    },
    /// What still runs of a failed deployment is killed.
    Killing,
    /// The deployment is over.
    Finished {
        /// How it ended.
        outcome: Outcome,
    },
    /// These nodes are asked, each for its site, whether they can run a step `on: site`. None of them may start it yet.
    Elected {
        /// Which step.
        step: StepRef,
        /// Who, one of each site.
        nodes: Vec<NodeId>,
    },
    /// A node that was asked is not going to run the step: it never got an order to.
    Withdrawn {
        /// Which step.
        step: StepRef,
        /// Which node.
        node: NodeId,
    },
    /// An attempt wrote values for later steps, and is about to end well.
    Wrote {
        /// Who runs it.
        actor: Actor,
        /// Which step.
        step: StepRef,
        /// Which attempt.
        attempt: u32,
        /// Whether others than who runs it see it.
        shared: bool,
        /// What.
        outputs: Outputs,
    },
    /// Nodes are not connected, of a deployment for which that matters.
    Away {
        /// Which nodes.
        nodes: Vec<NodeId>,
    },
    /// One of them is.
    Back {
        /// Which node.
        node: NodeId,
    },
    /// None of `steps` starts at a site until it opens.
    Shut {
        /// Which site.
        site: Name,
        /// Why, and until when.
        shut: Shut,
    },
    /// A site that was shut is open.
    Opened {
        /// Which site.
        site: Name,
    },
    /// An operator lets steps start wherever a site is shut.
    AnyHour,
    /// An operator has the gate not wait for its time.
    Hurried,
    /// An operator lets steps start only where a site is open, again.
    HoursKept,
    /// A node that was away says that it never started an attempt that it was ordered to: the order is taken back.
    NotBegun {
        /// Who was to run it.
        actor: Actor,
        /// Which step.
        step: StepRef,
    },
}

/// Why a node is excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exclusion {
    /// It lacked packages for longer than `stragglers` allows.
    Straggler,
    /// An operator said so.
    Operator,
    /// It was not connected for longer than `offline` allows.
    Offline,
    /// A step failed on it for good, and its wave's failure budget had room for that.
    Failed,
}

/// How a deployment is going to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// All steps are done.
    Success,
    /// It cannot go on.
    Failure {
        /// Why, for people.
        cause: String,
    },
    /// It cannot go on, or is not to; the nodes that it changed go back to what they had before.
    Rollback {
        /// Why, for people.
        cause: String,
    },
    /// An operator cancelled it.
    Cancel,
}

/// How a deployment ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// On every target node.
    Succeeded,
    /// On all but the excluded nodes.
    SucceededWithout {
        /// How many were excluded.
        excluded: u32,
    },
    /// It failed.
    Failed {
        /// Why, for people.
        cause: String,
    },
    /// An operator cancelled it.
    Cancelled,
}
