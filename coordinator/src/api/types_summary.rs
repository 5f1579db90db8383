//! How a deployment ended: [`Summary`], made from its last [`Status`].

use serde::{Deserialize, Serialize};
use shoal_proto::id::DeploymentId;

use super::text::as_text;
use super::types::SummarySchema;
use super::types_status::{DeploymentState, NodeState, NodeStatus, SiteFigures, Status, StepCount, StepStatus};

/// How a deployment ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// What this is.
    pub schema: SummarySchema,
    /// The deployment's id.
    #[serde(with = "as_text")]
    pub deployment: DeploymentId,
    /// The deployment file's name.
    pub name: String,
    /// The deployment file's release.
    pub release: String,
    /// `succeeded`, `failed` or `cancelled`.
    pub outcome: DeploymentState,
    /// Milliseconds that it took.
    pub duration_ms: u64,
    /// Target nodes.
    pub nodes: u32,
    /// Steps after the gate.
    pub steps: u32,
    /// What each site moved.
    pub sites: Vec<SiteFigures>,
    /// Bytes that would have crossed a WAN if every node had read everything itself, and did not.
    pub saved_bytes: u64,
    /// Why it ended badly.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// The nodes that it ended without.
    #[serde(default)]
    pub excluded: Vec<String>,
    /// What failed on nodes, steps whose end nobody saw included.
    #[serde(default)]
    pub failures: Vec<Failure>,
}

/// What failed on a node: a step, or the node itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The node, or `coordinator`.
    pub node: String,
    /// Its site; none for the coordinator.
    #[serde(default)]
    pub site: Option<String>,
    /// The step, if it was one.
    #[serde(default)]
    pub step: Option<StepStatus>,
    /// [`NodeStatus::error`], if it was the node.
    #[serde(default)]
    pub error: Option<String>,
    /// Whether the deployment goes on without the node.
    #[serde(default)]
    pub excluded: bool,
}

impl Status {
    /// Fills in what follows from the rest: the counts of steps and, after the end, the summary. If `brief`, drops the
    /// nodes that need no attention.
    #[must_use]
    pub(crate) fn completed(mut self, brief: bool) -> Self {
        self.steps =
            StepCount::tally(self.coordinator_steps.iter().chain(self.nodes.iter().flat_map(|node| &node.steps)));
        self.summary = self.state.ended().then(|| self.summarise());
        if brief {
            self.nodes.retain(NodeStatus::is_trouble);
        }
        self
    }

    /// The summary of a deployment that ended; its `nodes` may be brief.
    pub fn summarise(&self) -> Summary {
        let sites: Vec<_> = self.sites.iter().map(|site| site.figures.clone()).collect();
        let saved_bytes = sites.iter().map(|site| site.wanted_bytes.saturating_sub(site.wan_bytes)).sum();
        let excluded = self.nodes.iter().filter(|node| node.state == NodeState::Excluded);
        Summary {
            schema: SummarySchema::V1,
            deployment: self.id,
            name: self.name.clone(),
            release: self.release.clone(),
            outcome: self.state,
            duration_ms: self.duration_ms,
            nodes: self.nodes_total,
            steps: self.steps_total,
            sites,
            saved_bytes,
            reasons: self.waiting.clone(),
            excluded: excluded.map(|node| node.name.clone()).collect(),
            failures: self.failures(),
        }
    }

    /// What failed and is not ignored: the coordinator's steps, then by node.
    pub fn failures(&self) -> Vec<Failure> {
        let mut failures = Vec::new();
        let none = Failure { node: "coordinator".to_owned(), site: None, step: None, error: None, excluded: false };
        let of_step = |place: &Failure, step: &StepStatus| Failure { step: Some(step.clone()), ..place.clone() };
        let steps = self.coordinator_steps.iter().filter(|step| step.is_trouble());
        failures.extend(steps.map(|step| of_step(&none, step)));
        for node in &self.nodes {
            let excluded = node.state == NodeState::Excluded;
            let place = Failure { node: node.name.clone(), site: Some(node.site.clone()), excluded, ..none.clone() };
            failures.extend(node.error.clone().map(|error| Failure { error: Some(error), ..place.clone() }));
            let steps = node.steps.iter().filter(|step| step.is_trouble());
            failures.extend(steps.map(|step| of_step(&place, step)));
        }
        failures
    }
}
