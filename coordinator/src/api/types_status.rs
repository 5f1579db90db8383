//! How a deployment stands: [`Status`], and the figures of its sites.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};
use shoal_proto::id::DeploymentId;

use super::text::{Timestamp, as_text};
use super::types::StatusSchema;
use super::types_summary::Summary;
use super::types_when::ShutSite;

/// How a deployment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeploymentState {
    /// It goes on by itself.
    Running,
    /// An operator paused it, or it waits for an operator's answer to a failed step.
    Paused,
    /// It waits for a gate.
    Blocked,
    /// It ended well, perhaps without some nodes.
    Succeeded,
    /// It ended badly.
    Failed,
    /// An operator ended it.
    Cancelled,
}

impl DeploymentState {
    /// Whether it will not change any more.
    pub fn ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// What a deployment is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Steps before the first byte is fetched.
    BeforeAcquire,
    /// Packages come to the nodes.
    Acquire,
    /// The release gate.
    Release,
    /// Steps.
    Steps,
    /// Ended.
    Done,
}

/// Answer to `GET /v1/deployments/{id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// What this is.
    pub schema: StatusSchema,
    /// The deployment's id.
    #[serde(with = "as_text")]
    pub id: DeploymentId,
    /// The deployment file's name.
    pub name: String,
    /// The deployment file's release.
    pub release: String,
    /// The deployment that it takes back, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes_back: Option<String>,
    /// The deployments that took it back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken_back_by: Vec<String>,
    /// Nodes that it goes on without, though it means them, or that are not taken back with it: sentences that say why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// How it stands.
    pub state: DeploymentState,
    /// What it is at.
    pub stage: Stage,
    /// When it was accepted.
    pub started: Timestamp,
    /// When it ended.
    #[serde(default)]
    pub ended: Option<Timestamp>,
    /// Milliseconds since it was accepted, or that it took.
    pub duration_ms: u64,
    /// Target nodes.
    pub nodes_total: u32,
    /// Steps after the gate.
    pub steps_total: u32,
    /// The release gate.
    pub gate: Gate,
    /// When its steps may start at the earliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// By when they must have begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Whether an operator lets its steps start also where a site is shut.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub any_hour: bool,
    /// Sites that are shut, and at which its steps are to start yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shut: Vec<ShutSite>,
    /// What it waits for or why it ended badly: sentences that name the thing, the cause and the next step.
    #[serde(default)]
    pub waiting: Vec<String>,
    /// The waves of the deployment file, in order.
    #[serde(default)]
    pub waves: Vec<WaveStatus>,
    /// The target nodes by site and name; in a brief answer only those that [need attention](NodeStatus::is_trouble).
    pub nodes: Vec<NodeStatus>,
    /// On how many nodes each step stands how (the API counts them).
    #[serde(default)]
    pub steps: Vec<StepCount>,
    /// Steps that run on the coordinator.
    #[serde(default)]
    pub coordinator_steps: Vec<StepStatus>,
    /// The sites with target nodes, by name.
    pub sites: Vec<SiteStatus>,
    /// The summary, when it ended (the API fills it in from the rest).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}

/// The release gate of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// Whether an operator has to open it.
    pub manual: bool,
    /// The quorum as the deployment file says it: `100%`.
    pub quorum: String,
    /// How many nodes must be verified.
    pub wanted: u32,
    /// How many are.
    pub acquired: u32,
    /// Whether it is open.
    pub open: bool,
}

/// How a wave stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaveStatus {
    /// What the deployment file calls it.
    pub name: String,
    /// How far it is.
    pub state: WaveState,
    /// Its nodes.
    pub nodes: u32,
    /// Those that went through all steps.
    pub done: u32,
    /// Those on which a step failed, and that `max_failures` lets the deployment go on without.
    pub failed: u32,
    /// Those that it goes on without for other causes; they count for nothing.
    pub excluded: u32,
    /// How many must be through before the next wave begins by itself.
    pub needed: u32,
}

/// How far a wave is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaveState {
    /// Not begun.
    Pending,
    /// Its nodes go through the steps.
    Running,
    /// It is through, and is watched before the next begins.
    Baking,
    /// It is through with too few nodes: an operator's word is wanted.
    Short,
    /// It is through, and the next has begun or there is none.
    Done,
}

/// One target node of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its site.
    pub site: String,
    /// Its wave, where the deployment file has waves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<String>,
    /// How it stands.
    pub state: NodeState,
    /// Whether it is connected to the coordinator.
    pub online: bool,
    /// Whether it has all of its packages, verified.
    pub acquired: bool,
    /// Bytes of its packages.
    pub package_bytes: u64,
    /// Bytes of them that it has, verified.
    pub have_bytes: u64,
    /// Why it gave up on a package, or why the deployment goes on without it, in a sentence.
    #[serde(default)]
    pub error: Option<String>,
    /// Its steps, in their order.
    pub steps: Vec<StepStatus>,
}

/// How a target node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// Nothing happened on it yet.
    Pending,
    /// Packages come to it.
    Acquiring,
    /// It has its packages and waits for the gate or its next step.
    Ready,
    /// A step runs on it.
    Running,
    /// A step failed on it, or nobody saw how it ended: an operator's answer is wanted.
    NeedsAnswer,
    /// It is done.
    Succeeded,
    /// It failed for good.
    Failed,
    /// The deployment goes on without it.
    Excluded,
}

impl NodeStatus {
    /// Whether a person should look at the node.
    pub fn is_trouble(&self) -> bool {
        let state = matches!(self.state, NodeState::NeedsAnswer | NodeState::Failed | NodeState::Excluded);
        state || self.error.is_some() || self.steps.iter().any(StepStatus::is_trouble)
    }
}

/// One step on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepStatus {
    /// Its name.
    pub name: String,
    /// Which list of the deployment file it is in.
    pub phase: StepPhase,
    /// How it stands.
    pub state: StepState,
    /// Attempts that started.
    pub attempts: u32,
    /// Exit code of the last attempt, if it ended with one.
    pub exit_code: Option<i32>,
    /// Whether an operator, or the deployment file, let it count as done although it failed or is unknown.
    #[serde(default)]
    pub ignored: bool,
    /// When the last attempt was ordered, for [`StepCount::started_within_ms`].
    #[serde(skip)]
    pub(crate) ordered: Option<Timestamp>,
    /// When the last attempt started, as far as was reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// Why the last attempt failed, in a sentence, if it did.
    #[serde(default)]
    pub error: Option<String>,
    /// How long the last attempt took, if it ended.
    #[serde(default)]
    pub duration_ms: Option<u64>,
    /// What the last attempt wrote to `$SHOAL_OUTPUT` for later steps, as far as that is kept.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, String>,
    /// The last lines that it wrote, if it failed; at most [`super::limits::TAIL_LINES_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tail: Vec<String>,
}

/// How one step stands on all of its nodes together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepCount {
    /// Its name.
    pub name: String,
    /// Which list of the deployment file it is in.
    pub phase: StepPhase,
    /// Nodes on which it is yet to start.
    pub pending: u32,
    /// Nodes on which it runs.
    pub running: u32,
    /// Nodes on which it succeeded, was skipped or is ignored.
    pub done: u32,
    /// Nodes on which it failed, or nobody saw how it ended.
    pub failed: u32,
    /// Milliseconds between the first and the last start of those that were told to start at the same moment, first attempts
    /// only, and the longest of several, such as waves: with `sync: barrier`, the skew. None where each was told by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_within_ms: Option<u64>,
}

/// Which list of the deployment file a step is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepPhase {
    /// `before_acquire`.
    BeforeAcquire,
    /// `steps`.
    Steps,
    /// A step of `steps` that is `on: always`.
    Always,
    /// An `always_after` of `before_acquire`.
    AlwaysAfter,
}

/// How a step stands on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    /// Not started.
    Pending,
    /// Started, not ended.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Never ran and never will.
    Skipped,
    /// Started; nobody saw how it ended.
    Unknown,
}

/// What a site moved for a deployment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteFigures {
    /// The site.
    pub site: String,
    /// Its target nodes.
    pub nodes: u32,
    /// Bytes of the packages of one node (of the distinct packages, where its nodes get different ones).
    pub package_bytes: u64,
    /// Bytes of the packages of all its nodes together.
    pub wanted_bytes: u64,
    /// Bytes that crossed its WAN, gaps and repetitions included.
    pub wan_bytes: u64,
    /// `wan_bytes` / `package_bytes`.
    pub copies: f64,
    /// Bytes that its nodes got from each other.
    pub peer_bytes: u64,
    /// Bytes that its nodes had already, in other packages or from before.
    pub local_bytes: u64,
    /// Milliseconds from the stage's start until all its nodes had everything (until this moment, while they have not).
    pub acquire_ms: u64,
    /// The least possible time: missing bytes / WAN rate, or the slowest node's link; none where no rate is known.
    pub bound_ms: Option<u64>,
    /// `bound_ms` / `acquire_ms`.
    pub of_bound: Option<f64>,
}

impl SiteFigures {
    /// Fills in the ratios from the rest.
    #[must_use]
    pub fn with_ratios(mut self) -> Self {
        self.copies = if self.package_bytes == 0 { 0.0 } else { self.wan_bytes as f64 / self.package_bytes as f64 };
        let bound = self.bound_ms.filter(|bound| *bound > 0 && self.acquire_ms > 0);
        self.of_bound = bound.map(|bound| bound as f64 / self.acquire_ms as f64);
        self
    }
}

/// A site of a running deployment: its figures so far and what happens at this moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteStatus {
    /// What it moved so far.
    #[serde(flatten)]
    pub figures: SiteFigures,
    /// Nodes that have all of their packages, verified.
    pub nodes_acquired: u32,
    /// Bytes that its nodes have, verified; `wanted_bytes` at the end.
    pub have_bytes: u64,
    /// Bytes that are nowhere in the site yet and have to cross its WAN.
    pub missing_bytes: u64,
    /// What crosses its WAN, in bytes per second.
    pub wan_rate: u64,
    /// What its nodes send each other, in bytes per second.
    pub peer_rate: u64,
}

impl StepCount {
    /// Counts `steps`; in the order in which the steps first appear, `before_acquire` first.
    pub(super) fn tally<'a>(steps: impl Iterator<Item = &'a StepStatus>) -> Vec<Self> {
        let mut counts: Vec<Self> = Vec::new();
        // By when they were ordered: the first start and the last one.
        let mut starts: Vec<BTreeMap<Option<Timestamp>, (Timestamp, Timestamp)>> = Vec::new();
        for step in steps {
            let known = counts.iter().position(|count| count.phase == step.phase && count.name == step.name);
            let index = known.unwrap_or_else(|| {
                let (name, phase) = (step.name.clone(), step.phase);
                counts.push(Self { name, phase, pending: 0, running: 0, done: 0, failed: 0, started_within_ms: None });
                starts.push(BTreeMap::new());
                counts.len() - 1
            });
            let count = &mut counts[index];
            if let Some(at) = step.started.filter(|_| step.attempts == 1) {
                match starts[index].entry(step.ordered) {
                    Entry::Vacant(alone) => drop(alone.insert((at, at))),
                    Entry::Occupied(mut together) => {
                        let (first, last) = *together.get();
                        let (first, last) = (at.min(first), at.max(last));
                        together.insert((first, last));
                        count.started_within_ms = count.started_within_ms.max(Some(last.ms_since(first)));
                    }
                }
            }
            *match step.state {
                _ if step.ignored => &mut count.done,
                StepState::Pending => &mut count.pending,
                StepState::Running => &mut count.running,
                StepState::Succeeded | StepState::Skipped => &mut count.done,
                StepState::Failed | StepState::Unknown => &mut count.failed,
            } += 1;
        }
        counts.sort_by_key(|count| count.phase);
        counts
    }
}

impl StepStatus {
    /// Whether a person should look at the step.
    pub fn is_trouble(&self) -> bool {
        !self.ignored && matches!(self.state, StepState::Failed | StepState::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::sample;

    /// Attempt `attempts` of a step, ordered and started at these milliseconds.
    fn started(ordered: u64, started: u64, attempts: u32) -> StepStatus {
        let at = |ms: u64| Some(shoal_proto::time::WallTime(ms).into());
        StepStatus {
            ordered: at(ordered),
            started: at(started),
            attempts,
            ..sample::step("swap", StepState::Succeeded)
        }
    }

    #[test]
    fn the_skew_is_that_of_those_that_were_told_to_start_together() {
        let within = |steps: &[StepStatus]| StepCount::tally(steps.iter())[0].started_within_ms;
        let canary = [started(100, 112, 1), started(100, 105, 1)];
        let rest = [started(9_000, 9_030, 1), started(9_000, 9_010, 1), started(9_000, 9_041, 1)];
        assert_eq!(within(&canary), Some(7));
        assert_eq!(within(&[&canary[..], &rest].concat()), Some(31), "of two waves the longer, not what is between");
        assert_eq!(within(&[&rest[..], &canary].concat()), Some(31));
        let again = started(20_000, 20_500, 2);
        assert_eq!(within(&[&canary[..], std::slice::from_ref(&again)].concat()), Some(7), "one that was tried again");
        assert_eq!(within(&[again]), None);
        assert_eq!(within(&[started(100, 112, 1), started(200, 205, 1)]), None, "one after another, in a window");
        assert_eq!(within(&[sample::step("swap", StepState::Pending)]), None);
    }
}
