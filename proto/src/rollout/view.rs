//! The status of a deployment, as plain data: all that a person is shown of it, by ids and indices.
//!
//! Made on demand from the state. Byte counts and rates are the shell's to add.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::input::{Actor, StepOutcome};
use super::record::{Exclusion, Outcome};
use super::when::When;
use crate::hours::Shut;
use crate::id::{DeploymentId, Generation, Name, NodeId, PackageIndex, WaveIndex};
use crate::manifest::StepRef;
use crate::outputs::Outputs;
use crate::time::WallTime;

/// A deployment's status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Which deployment.
    pub deployment: DeploymentId,
    /// What it deploys.
    pub name: Name,
    /// Which release of it.
    pub release: Name,
    /// How far it is.
    pub stage: Stage,
    /// How it is doing.
    pub state: State,
    /// How it ended, when it has.
    pub outcome: Option<Outcome>,
    /// Whether it ends before the gate.
    pub stage_only: bool,
    /// The current generation of its orders.
    pub generation: Generation,
    /// The release gate.
    pub gate: GateView,
    /// What it waits for, most urgent first; empty when it is over.
    pub waiting: Vec<Waiting>,
    /// The waves of the deployment file, in order.
    pub waves: Vec<WaveView>,
    /// The target nodes, sorted by id.
    pub nodes: Vec<NodeView>,
    /// Steps that run on the coordinator.
    pub coordinator: Vec<StepView>,
    /// When things happened.
    pub times: Times,
    /// When it may start.
    pub when: When,
    /// Sites that are shut, and at which steps are to start yet.
    pub shut: BTreeMap<Name, Shut>,
}

/// How far a deployment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Steps before the first byte is fetched.
    BeforeAcquire,
    /// Packages are on their way.
    Acquire,
    /// The quorum is reached; the gate waits for an operator or its time.
    Release,
    /// The gate is open.
    Steps,
    /// It is over.
    Done,
}

/// How a deployment is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Something goes on.
    Running,
    /// An operator paused it, or a failed step waits for an operator's answer.
    Paused,
    /// It goes on only when an operator acts, a node comes back, its time comes or a site opens.
    Blocked,
    /// It ended well, perhaps without some nodes.
    Succeeded,
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// The release gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateView {
    /// Whether it is open.
    pub open: bool,
    /// Nodes that hold all their packages, excluded ones not counted.
    pub ready: u32,
    /// How many of them it takes.
    pub needed: u32,
    /// Target nodes, excluded ones not counted.
    pub nodes: u32,
    /// Whether it waits for `shoal release`.
    pub manual: bool,
    /// Whether an operator has released it.
    pub released: bool,
}

/// A wave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaveView {
    /// What the deployment file calls it.
    pub name: Name,
    /// How far it is.
    pub state: WaveState,
    /// Its nodes.
    pub nodes: u32,
    /// Those that went through all steps.
    pub done: u32,
    /// Those that its failure budget paid for.
    pub failed: u32,
    /// Those that the deployment goes on without for other causes.
    pub excluded: u32,
    /// How many must be through before the next wave begins by itself.
    pub needed: u32,
}

/// How far a wave is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaveState {
    /// Its gate has not opened.
    Pending,
    /// Its nodes go through the steps.
    Running,
    /// It is through, and is watched before the next begins.
    Baking,
    /// It is through with too few nodes: an operator promotes it or ends the deployment.
    Short,
    /// It is through, and the next has begun or there is none.
    Done,
}

/// What a deployment waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Waiting {
    /// An operator's `shoal resume`.
    Resume,
    /// An operator's answer to a failed step: retry, ignore, exclude or fail.
    Answer {
        /// Who ran it.
        actor: Actor,
        /// Which step.
        step: StepRef,
        /// The attempt that was the last.
        attempt: u32,
        /// How that ended.
        outcome: StepOutcome,
    },
    /// An operator's answer to a node that gave up on a package: retry, exclude or fail.
    Package {
        /// Which node.
        node: NodeId,
        /// Which package.
        package: PackageIndex,
        /// Why it gave up.
        cause: String,
    },
    /// An operator's `shoal release`.
    Release,
    /// The bake of a wave; `shoal promote` does not wait for it.
    Bake {
        /// Which wave.
        wave: WaveIndex,
        /// How much longer, in milliseconds.
        left_ms: u64,
    },
    /// An operator's `shoal promote`: too few nodes came through a wave.
    Promote {
        /// Which wave.
        wave: WaveIndex,
        /// How many nodes succeeded.
        succeeded: u32,
        /// How many it takes.
        needed: u32,
    },
    /// The moment at which a step that failed is tried again.
    Retry {
        /// Who ran it.
        actor: Actor,
        /// Which step.
        step: StepRef,
        /// How often it was tried.
        attempts: u32,
        /// How much longer, in milliseconds.
        left_ms: u64,
    },
    /// A node that was away and has to catch up.
    CatchingUp {
        /// Which node.
        node: NodeId,
    },
    /// A node that has something to do and is not connected.
    Offline {
        /// Which node.
        node: NodeId,
    },
    /// A node that was asked whether it can run a step `on: site`, has not answered in time, and is the only one to ask.
    Silent {
        /// Which node.
        node: NodeId,
        /// Which step.
        step: StepRef,
    },
    /// Any node of a site, to run a step `on: site`: none that could is connected.
    Site {
        /// Which site.
        site: Name,
        /// Which step.
        step: StepRef,
    },
    /// Nodes that still acquire.
    Acquiring {
        /// How many.
        nodes: u32,
    },
    /// The time before which the gate does not open.
    Time {
        /// When that is.
        at: WallTime,
    },
    /// A site that is shut, for the steps that are to start there.
    Hours {
        /// Which site.
        site: Name,
        /// Why, and until when.
        shut: Shut,
    },
    /// Actors that still run a step.
    Running {
        /// Which step.
        step: StepRef,
        /// How many.
        actors: u32,
    },
}

/// A target node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Which node.
    pub node: NodeId,
    /// Its name.
    pub name: Name,
    /// Its site.
    pub site: Name,
    /// Whether it is connected.
    pub online: bool,
    /// Its wave.
    pub wave: WaveIndex,
    /// Why the deployment goes on without it, if so.
    pub excluded: Option<Exclusion>,
    /// Whether it holds all its packages.
    pub acquired: bool,
    /// Its packages.
    pub packages: Vec<PackageView>,
    /// Steps that it runs, ran or will run, in their order; of steps `on: site` only those that it was chosen for.
    pub steps: Vec<StepView>,
}

/// A package on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageView {
    /// Which package.
    pub package: PackageIndex,
    /// How it is doing.
    pub state: PackageState,
}

/// How a package is doing on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageState {
    /// Not there yet.
    Missing,
    /// There, verified.
    Acquired {
        /// Since when.
        at: WallTime,
    },
    /// The node gave up on it.
    Failed {
        /// Why.
        cause: String,
    },
}

/// A step on an actor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepView {
    /// Which step.
    pub step: StepRef,
    /// What the deployment file calls it.
    pub name: Name,
    /// How it is doing.
    pub state: StepState,
    /// Whether it counts as done although it failed or nobody saw how it ended.
    pub ignored: bool,
    /// Attempts ordered so far.
    pub attempts: u32,
    /// How the last attempt ended.
    pub outcome: Option<StepOutcome>,
    /// What the last attempt wrote for later steps, as far as that is kept.
    pub outputs: Outputs,
    /// When the last attempt was ordered.
    pub ordered: Option<WallTime>,
    /// When the last attempt started, as far as was reported.
    pub started: Option<WallTime>,
    /// When the last attempt ended.
    pub ended: Option<WallTime>,
}

/// How a step is doing on an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    /// Its turn has not come, or the order to run it is on its way.
    Pending,
    /// It runs.
    Running,
    /// It did what it says.
    Succeeded,
    /// It failed, timed out or was killed.
    Failed,
    /// It never ran and never will.
    Skipped,
    /// Nobody saw how it ended.
    Unknown,
}

/// When things happened, as far as they have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// The first change.
    pub began: Option<WallTime>,
    /// The nodes began to acquire.
    pub acquire_began: Option<WallTime>,
    /// The gate opened.
    pub gate_opened: Option<WallTime>,
    /// It was over.
    pub finished: Option<WallTime>,
}
