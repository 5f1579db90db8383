//! Plans: what a deployment would do, and what that stands on.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use shoal_proto::id::{DeploymentId, FileHash, Name, NodeId, PackageId, PlanHash, ValuesHash};
use shoal_proto::rollout::basis::{Basis, Target};

use super::text::as_text;
use super::types::{PlanSchema, WayBackSchema};
use super::types_status::StepPhase;

/// Answer to `POST /v1/plans`: what the file would do at this moment. Nothing is changed by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What this is.
    pub schema: PlanSchema,
    /// Which plan it is: the same where the same would be done to the same nodes.
    #[serde(with = "as_text")]
    pub hash: PlanHash,
    /// The deployment file, as messages call it.
    pub file: String,
    /// The hash of its text.
    #[serde(with = "as_text")]
    pub file_hash: FileHash,
    /// The hash of what its variables come to; a secret is in it by a print that only the coordinator can make.
    #[serde(with = "as_text")]
    pub variables_hash: ValuesHash,
    /// The deployment file's name.
    pub name: Name,
    /// The deployment file's release.
    pub release: Name,
    /// Whether it ends when the packages are there, before the gate.
    #[serde(default)]
    pub stage_only: bool,
    /// The packages, in the manifest's order.
    pub packages: Vec<PlannedPackage>,
    /// The target nodes, by site and name.
    pub nodes: Vec<PlannedNode>,
    /// The sites of the target nodes, by name.
    #[serde(default)]
    pub sites: Vec<PlannedSite>,
    /// The waves, in their order; none where the deployment file has none.
    #[serde(default)]
    pub waves: Vec<PlannedWave>,
    /// The steps, in their order.
    #[serde(default)]
    pub steps: Vec<PlannedStep>,
    /// When the gate opens, in words.
    #[serde(default)]
    pub gate: String,
    /// Milliseconds until the last site has its packages, if every site's rate is known. Steps are not counted.
    #[serde(default)]
    pub estimate_ms: Option<u64>,
    /// What would keep it from beginning or from going on, in sentences.
    #[serde(default)]
    pub blockers: Vec<String>,
    /// The deployment that did all of this, if nothing was deployed under the name since.
    #[serde(default)]
    pub as_wanted_since: Option<String>,
}

/// A package as it resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedPackage {
    /// What the deployment file calls it.
    pub name: Name,
    /// Where it comes from, for people.
    pub reference: String,
    /// The hash of its bytes.
    #[serde(with = "as_text")]
    pub blake3: PackageId,
    /// Its size in bytes.
    pub size: u64,
}

/// A target node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedNode {
    /// Its name.
    pub name: Name,
    /// Its site.
    pub site: Name,
    /// Its key.
    #[serde(with = "as_text")]
    pub id: NodeId,
    /// The packages that it gets.
    pub packages: BTreeSet<Name>,
    /// Its wave, where the deployment file has waves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<Name>,
    /// Whether it is connected.
    #[serde(default)]
    pub online: bool,
}

/// A wave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedWave {
    /// What the deployment file calls it.
    pub name: Name,
    /// Its nodes.
    pub nodes: u32,
    /// In how many groups they go through the steps, each for itself: with `per: site` its sites, else one.
    pub groups: u32,
    /// How many of these are under way at a time.
    pub groups_at_a_time: u32,
    /// How many nodes must be through before the next wave begins by itself.
    pub needed: u32,
    /// How many nodes may fail.
    pub max_failures: u32,
    /// The same in each site, as the deployment file says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failures_per_site: Option<String>,
    /// Milliseconds for which it is watched before the next wave begins.
    pub bake_ms: u64,
}

/// What would move in one site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedSite {
    /// Which site.
    pub site: Name,
    /// Target nodes.
    pub nodes: u32,
    /// How many of them are connected and said what they hold; the others count as if they held nothing.
    pub known_nodes: u32,
    /// Bytes of packages that one node gets; of the node that gets most.
    pub package_bytes: u64,
    /// Bytes of packages that all its nodes get.
    pub wanted_bytes: u64,
    /// What is there already.
    pub local_bytes: u64,
    /// What would cross the WAN, recipes not counted.
    pub wan_bytes: u64,
    /// What would come from neighbours.
    pub peer_bytes: u64,
    /// How fast the WAN is thought to be, in bytes per second.
    #[serde(default)]
    pub wan_rate: Option<u64>,
    /// Why that is thought: `limit` or `measured`.
    #[serde(default)]
    pub rate_from: Option<RateFrom>,
    /// Milliseconds that the WAN takes at that rate.
    #[serde(default)]
    pub estimate_ms: Option<u64>,
}

/// Where the rate of a site's WAN is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateFrom {
    /// The site's limit at this hour.
    Limit,
    /// The last deployment that read there.
    Measured,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// What the deployment file calls it.
    pub name: Name,
    /// In which list it is.
    pub phase: StepPhase,
    /// Where it runs: `node`, `site` or `coordinator`.
    pub on: String,
}

/// Answer to `GET /v1/deployments/{id}/way-back`: what `shoal rollback` would do at this moment. Nothing is changed by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayBack {
    /// What this is.
    pub schema: WayBackSchema,
    /// Which plan it is: the same where the same would be done to the same nodes.
    #[serde(with = "as_text")]
    pub hash: PlanHash,
    /// The deployment that would be taken back.
    #[serde(with = "as_text")]
    pub of: DeploymentId,
    /// The deployments that would do so, one for each release that its nodes had before.
    pub ways: Vec<PlannedWay>,
    /// Nodes that had no release before, and stay as they are.
    #[serde(default)]
    pub stay: Vec<String>,
    /// What would keep it from beginning or from going on, in sentences.
    #[serde(default)]
    pub blockers: Vec<String>,
}

/// A deployment that takes nodes back to one release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedWay {
    /// The deployment that brought the release.
    #[serde(with = "as_text")]
    pub to: DeploymentId,
    /// The release.
    pub release: Name,
    /// Its packages.
    pub packages: Vec<PlannedPackage>,
    /// The nodes that go back to it, by site and name.
    pub nodes: Vec<PlannedReturn>,
    /// What would move in each site: nothing over the WAN where nodes have kept it.
    pub sites: Vec<PlannedSite>,
    /// The steps that would run, in their order.
    pub steps: Vec<PlannedStep>,
}

/// A node that goes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedReturn {
    /// Its name, or its id in short if it is no member any more and the release does not know it.
    pub name: String,
    /// Its site.
    pub site: Name,
    /// Whether it is connected.
    pub online: bool,
    /// Whether it holds all packages of the release; none if it has not said.
    pub holds: Option<bool>,
}

impl Plan {
    /// What it stands on.
    pub fn basis(&self) -> Basis {
        let target = |node: &PlannedNode| {
            let target = Target { node: node.id, site: node.site.clone(), packages: node.packages.clone() };
            (node.name.clone(), target)
        };
        Basis {
            file: self.file_hash,
            variables: self.variables_hash,
            packages: self.packages.iter().map(|package| (package.name.clone(), package.blake3)).collect(),
            nodes: self.nodes.iter().map(target).collect(),
        }
    }
}
