//! What is deployed in these tests: packages of blocks of 1 MiB, and deployments of them.

use std::time::Duration;

use shoal_proto::content::Outline;
use shoal_proto::id::{ContentId, DeploymentId, Name, NodeId, PackageId, PackageIndex, StepIndex};
use shoal_proto::manifest::{
    Acquire, Action, Gate, Group, Manifest, On, OnFailure, Pace, Package, Phase, Source, Step, StepRef,
};
use shoal_proto::wire::StepRun;

/// Bytes of a block.
pub(crate) const MIB: u32 = 1024 * 1024;

/// The first nodes of a site.
pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;
pub(crate) const C: usize = 2;

/// The key of a node.
pub(crate) fn id(node: usize) -> NodeId {
    NodeId([u8::try_from(node + 1).unwrap(); 32])
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A package of so many blocks.
pub(crate) fn package(text: &str, blocks: u32) -> Package {
    Package {
        name: name(text),
        reference: format!("files {text} 1"),
        id: PackageId(*blake3::hash(text.as_bytes()).as_bytes()),
        size: u64::from(blocks) * u64::from(MIB),
        recipe: Outline::of_plain_form(format!("the recipe of {text}").as_bytes()),
    }
}

/// The content that a package is.
pub(crate) fn content(package: &Package) -> ContentId {
    package.id.into()
}

/// A deployment without steps that brings all its packages to all of `nodes`.
pub(crate) fn deployment(number: u64, packages: &[&Package], nodes: &[usize]) -> Manifest {
    let all = (0..packages.len()).map(|index| PackageIndex(u16::try_from(index).unwrap())).collect();
    Manifest {
        deployment: DeploymentId(number),
        coordinator: NodeId([0xc0; 32]),
        name: name("storefront"),
        release: name("r1"),
        packages: packages.iter().copied().cloned().collect(),
        groups: vec![Group { nodes: nodes.iter().map(|node| id(*node)).collect(), packages: all }],
        acquire: Acquire { source: Source::Feed, swarm: true },
        gate: Gate::default(),
        before_acquire: Vec::new(),
        steps: Vec::new(),
        waves: Vec::new(),
        offline: shoal_proto::manifest::Offline::Wait,
        rollback: None,
    }
}

/// The same of another name, which may have the same nodes at the same time.
pub(crate) fn another(number: u64, packages: &[&Package], nodes: &[usize]) -> Manifest {
    Manifest { name: name("backoffice"), ..deployment(number, packages, nodes) }
}

/// A script that runs on every node.
pub(crate) fn step(text: &str) -> Step {
    Step {
        name: name(text),
        on: On::Node,
        action: Action::Script { run: "true".to_owned() },
        timeout: Duration::from_secs(60),
        retries: 0,
        backoff: Duration::ZERO,
        on_failure: OnFailure::Pause,
        idempotent: false,
        always_after: None,
        pace: Pace::Each,
    }
}

/// The first attempt at the first step after the gate of a deployment.
pub(crate) fn first_run(deployment: u64) -> StepRun {
    let step = StepRef { phase: Phase::Steps, index: StepIndex(0) };
    StepRun { deployment: DeploymentId(deployment), step, attempt: 1 }
}
