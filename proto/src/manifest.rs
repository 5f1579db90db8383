//! The manifest: one deployment with every choice made, as the coordinator signs it and nodes obey it.
//!
//! It names packages by content hash, target nodes by key, and steps in the order in which they run. Nothing in it is
//! looked up later: two nodes that hold the same manifest do the same thing. The signature covers the encoded bytes
//! ([`Signed`]), so that nobody needs to encode again in order to verify.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::content::Outline;
use crate::id::{ContentId, DeploymentId, Name, NodeId, PackageId, PackageIndex, StepIndex, TargetIndex};
use crate::limits::MANIFEST_BYTES_MAX;

/// One deployment, fully resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Its number.
    pub deployment: DeploymentId,
    /// The coordinator that made and signed it.
    pub coordinator: NodeId,
    /// What is deployed, as the deployment file names it.
    pub name: Name,
    /// Which release of it.
    pub release: Name,
    /// The packages, by [`PackageIndex`].
    pub packages: Vec<Package>,
    /// Which nodes get which packages; a node is in at most one group.
    pub groups: Vec<Group>,
    /// How packages come to the nodes.
    pub acquire: Acquire,
    /// What must hold before `steps` begin.
    pub gate: Gate,
    /// What runs before the first byte is fetched, by [`StepIndex`] counted from 0.
    pub before_acquire: Vec<Step>,
    /// What runs after the release gate, by [`StepIndex`] counted from 0.
    pub steps: Vec<Step>,
    /// In which order the target nodes go through `steps`; each is in one wave. Empty: all in one.
    pub waves: Vec<Wave>,
    /// What becomes of target nodes that are not connected.
    pub offline: Offline,
    /// What it takes back, if it does.
    pub rollback: Option<Rollback>,
}

/// That a deployment goes back to an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// The deployment that it takes back.
    pub of: DeploymentId,
    /// The release of that.
    pub from: Name,
    /// The deployment whose packages and steps it brings again.
    pub to: DeploymentId,
}

/// One package of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// What the deployment file calls it.
    pub name: Name,
    /// Where it came from, for people: `nuget-main Acme.Web 4.2.1`.
    pub reference: String,
    /// Hash of its bytes.
    pub id: PackageId,
    /// Its size in bytes.
    pub size: u64,
    /// Its recipe, as content that is traded like the package itself.
    pub recipe: Outline,
}

/// Nodes that get the same packages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The nodes, sorted.
    pub nodes: Vec<NodeId>,
    /// What each of them gets.
    pub packages: Vec<PackageIndex>,
}

/// How packages come to the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acquire {
    /// Who is the origin.
    pub source: Source,
    /// Whether the nodes of a site trade among themselves; if not, each reads everything from the origin.
    pub swarm: bool,
}

/// Who a site reads a package from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The feed, or its mirror for the site.
    Feed,
    /// The coordinator, over the mesh.
    Coordinator,
}

/// The release gate: what must hold before the first of `steps` starts anywhere (GATE).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// How many target nodes must have verified all their packages.
    pub quorum: Quorum,
    /// What becomes of the others.
    pub stragglers: Stragglers,
    /// Whether it also waits for an operator's `shoal release`.
    pub manual: bool,
}

/// A share of the target nodes. Excluded nodes are not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Quorum {
    /// This many per cent of them, 1 to 100, rounded up.
    Percent(u8),
    /// All but this many of them, but at least one.
    AllBut(u32),
}

impl Default for Quorum {
    fn default() -> Self {
        Self::Percent(100)
    }
}

/// What becomes of target nodes that lack packages when the gate opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stragglers {
    /// They join when they have their packages; each step waits for them at its barrier.
    #[default]
    Wait,
    /// Those that still lack packages this long after `acquire` began are excluded, once the gate is open.
    ExcludeAfter(Duration),
}

/// What becomes of target nodes that are away while they have something to do, from the begin of `acquire`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Offline {
    /// They are waited for.
    #[default]
    Wait,
    /// Those that are away for this long are excluded.
    SkipAfter(Duration),
    /// The deployment fails when one is away for this long.
    FailAfter(Duration),
    /// The others go on without those that are away for a while; one that returns runs what it missed.
    CatchUp {
        /// After how long the others go on.
        after: Duration,
        /// After how long away it is excluded.
        until: Duration,
    },
}

/// Nodes that go through all steps before the next wave begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    /// What the deployment file calls it.
    pub name: Name,
    /// Its nodes, by lane. The nodes of a lane go through each step together, each lane for itself.
    pub lanes: Vec<Vec<TargetIndex>>,
    /// How many of its lanes are under way at a time, at least 1.
    pub max_parallel: u16,
    /// How long it is watched, once it is through, before the next wave begins.
    pub bake: Duration,
    /// How many of its nodes must be through before the next wave begins by itself.
    pub success: Quorum,
    /// How many of its nodes may fail, each of which the deployment then goes on without.
    pub max_failures: Share,
    /// The same for its nodes in each site.
    pub max_failures_per_site: Option<Share>,
}

/// Some of several nodes: so many of them, or so many per cent, 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Share {
    /// This many.
    Count(u32),
    /// This many per cent; which way it is rounded is said where it is used.
    Percent(u8),
}

/// Where a step runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum On {
    /// On every target node.
    #[default]
    Node,
    /// On one node of each site.
    Site,
    /// On the coordinator, once.
    Coordinator,
    /// On every target node, at the deployment's end, whatever that is.
    Always,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What the deployment file calls it.
    pub name: Name,
    /// Where it runs.
    pub on: On,
    /// What it does.
    pub action: Action,
    /// After this, its process tree is killed and it has failed.
    pub timeout: Duration,
    /// How often it is tried again after a failure, on each node.
    pub retries: u32,
    /// How long it waits before it is tried again the first time; doubled for each attempt more.
    pub backoff: Duration,
    /// What happens to the deployment when it has failed for good on a node.
    pub on_failure: OnFailure,
    /// Whether it may run again after an outcome that nobody saw.
    pub idempotent: bool,
    /// A script that runs after the deployment's end, whatever it was, where this step has run.
    pub always_after: Option<String>,
    /// On how many nodes of a lane it runs at a time.
    pub pace: Pace,
}

/// On how many nodes of a lane a step runs at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pace {
    /// On each as soon as it can.
    #[default]
    Each,
    /// On so many of them, at least one: the next starts when one is done.
    Window(Share),
    /// On all of them, when all can: they start together.
    Together,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Runs a shell script.
    Script {
        /// Its text, for `sh -c`.
        run: String,
    },
    /// Unpacks a package to `<to>/releases/<release>` and points `<to>/current` at it.
    Unpack {
        /// Which package.
        package: PackageIndex,
        /// The folder, absolute; the node puts values in place of `${SHOAL_NODE}` and what else scripts see.
        to: String,
        /// How many releases stay, this one included; at least 1.
        keep: u32,
    },
    /// Waits until a service answers.
    Check {
        /// What is asked.
        probe: Probe,
        /// How long it is asked again before the step has failed.
        within: Duration,
    },
    /// Fills in a file of the node with variables, and puts the result in another one's place.
    Template {
        /// The template, absolute; both paths may have `${SHOAL_NODE}` and what else scripts see.
        from: String,
        /// Where the result goes.
        to: String,
        /// Who may read and write it.
        mode: u32,
    },
}

/// How a service is asked whether it is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// A GET request.
    Http {
        /// Where to.
        url: String,
        /// The status that counts as up.
        expect: u16,
    },
    /// A TCP connection.
    Tcp {
        /// `host:port`.
        address: String,
    },
}

/// What happens to a deployment when a step has failed for good on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// No step starts until an operator answers: retry, ignore, exclude or fail.
    #[default]
    Pause,
    /// The deployment fails; steps that run are let finish.
    Fail,
    /// The step counts as done.
    Ignore,
    /// The deployment fails, and the nodes that it changed go back to what they had before.
    Rollback,
}

/// Which of a manifest's two lists a step is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// `before_acquire`.
    Before,
    /// `steps`, but for those `on: always`.
    Steps,
    /// Those of `steps` that are `on: always`, at the end.
    Always,
    /// The `always_after` scripts of `before_acquire`, in reverse order.
    After,
}

impl Phase {
    /// Whether its steps run at the deployment's end, whatever that is.
    pub fn is_last(self) -> bool {
        matches!(self, Self::Always | Self::After)
    }
}

/// A step of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StepRef {
    /// Which list.
    pub phase: Phase,
    /// Where in it; for [`Phase::After`], the step of `before_acquire` that it belongs to.
    pub index: StepIndex,
}

impl Package {
    /// The environment variable that tells a step where the verified file is: `SHOAL_PACKAGE_` and the name in capitals,
    /// with `_` for what is no letter or digit.
    pub fn variable(&self) -> String {
        let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        "SHOAL_PACKAGE_".chars().chain(self.name.as_str().chars().map(letter)).collect()
    }
}

impl Manifest {
    /// The packages that `node` gets; empty if it is no target.
    pub fn packages_of(&self, node: NodeId) -> impl Iterator<Item = (PackageIndex, &Package)> {
        let group = self.groups.iter().find(|group| group.nodes.binary_search(&node).is_ok());
        let wanted = group.map_or(&[][..], |group| &group.packages);
        wanted.iter().filter_map(|index| Some((*index, self.packages.get(index.index())?)))
    }

    /// Whether `node` gets a package.
    pub fn gets(&self, node: NodeId, package: PackageIndex) -> bool {
        self.packages_of(node).any(|(index, _)| index == package)
    }

    /// Which package `content` is, and whether it is the package's recipe; `None` if it is neither.
    pub fn part(&self, content: ContentId) -> Option<(PackageIndex, bool)> {
        self.packages.iter().zip(0..).find_map(|(package, index)| {
            let recipe = content == package.recipe.recipe.into();
            (recipe || content == package.id.into()).then_some((PackageIndex(index), recipe))
        })
    }

    /// Every target node.
    pub fn targets(&self) -> BTreeSet<NodeId> {
        self.groups.iter().flat_map(|group| group.nodes.iter().copied()).collect()
    }

    /// The step that `step` names, if there is one.
    pub fn step(&self, step: StepRef) -> Option<&Step> {
        let list = match step.phase {
            Phase::Before | Phase::After => &self.before_acquire,
            Phase::Steps | Phase::Always => &self.steps,
        };
        list.get(step.index.index())
    }
}

/// A manifest's bytes with the coordinator's signature over them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    bytes: Vec<u8>,
    signature: Vec<u8>,
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signed({} bytes)", self.bytes.len())
    }
}

impl Signed {
    /// Encodes `manifest` and has `sign` sign the bytes (behind a prefix that names the purpose).
    ///
    /// # Errors
    /// [`CodecError::TooLarge`] if the manifest is over [`MANIFEST_BYTES_MAX`].
    pub fn seal(manifest: &Manifest, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Result<Self, CodecError> {
        let bytes = codec::encode(manifest, MANIFEST_BYTES_MAX)?;
        let signature = sign(&Self::domain(&bytes));
        Ok(Self { bytes, signature })
    }

    /// The manifest, if `verify` accepts the signature (its arguments: what was signed, the signature).
    ///
    /// # Errors
    /// [`SignedError::BadSignature`] before a byte of it is decoded; [`SignedError::Codec`] if it does not decode.
    pub fn open(&self, verify: impl FnOnce(&[u8], &[u8]) -> bool) -> Result<Manifest, SignedError> {
        if !verify(&Self::domain(&self.bytes), &self.signature) {
            return Err(SignedError::BadSignature);
        }
        Ok(codec::decode(&self.bytes, MANIFEST_BYTES_MAX)?)
    }

    /// What is signed: the purpose, so that a signature for something else is none for a manifest, then the bytes.
    fn domain(bytes: &[u8]) -> Vec<u8> {
        [b"shoal manifest v1\0".as_slice(), bytes].concat()
    }
}

/// Why a signed manifest is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// Not signed by the coordinator that this node joined.
    #[error("the manifest is not signed by the coordinator that this node joined")]
    BadSignature,
    /// Signed, but not readable.
    #[error(transparent)]
    Codec(#[from] CodecError),
}
