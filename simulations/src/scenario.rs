//! What a seed means: sites, nodes, packages, deployments, and how bad the weather is. Small worlds that differ much.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_proto::content::Outline;
use shoal_proto::id::{ContentId, DeploymentId, Name, NodeId, PackageId, PackageIndex, RecipeId, SegmentHash};
use shoal_proto::limits::SEGMENT_BYTES_MAX;
use shoal_proto::manifest::{
    Acquire, Action, Gate, Group, Manifest, Offline, On, OnFailure, Pace, Package, Quorum, Source, Step, Stragglers,
};
use shoal_proto::rng::Rng;
use shoal_proto::rollout::plan::NodeFacts;
use shoal_proto::rollout::when::When;
use shoal_proto::time::Time;

use crate::absences::{self, Absence};
use crate::away;
use crate::disk::SEGMENT_BYTES;
use crate::faults::{Fault, forecast};
use crate::hours;
use crate::hushes;
use crate::limits;
use crate::returns;
use crate::waves::{self, WavePlan};

/// The coordinator's key.
pub(crate) const COORDINATOR: NodeId = NodeId([0xc0; 32]);

/// One world as it begins, and all that is going to be done to it.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) sites: Vec<SitePlan>,
    pub(crate) nodes: Vec<NodePlan>,
    pub(crate) packages: Vec<PackagePlan>,
    pub(crate) deployments: Vec<DeploymentPlan>,
    /// Whether nodes trade.
    pub(crate) swarm: bool,
    pub(crate) faults: Vec<(Time, Fault)>,
    /// Its deployments are releases of one project, some of which go back, and nodes join them.
    pub(crate) returns: bool,
    /// Nothing goes wrong but that the coordinator goes away.
    pub(crate) quiet: bool,
    /// When the coordinator goes away for hours.
    pub(crate) absences: Vec<Absence>,
    /// Whether a second operator contradicts the first.
    pub(crate) two_operators: bool,
    /// When the faults are over: from here on everything must come to its end.
    pub(crate) calm_at: Time,
    /// How often something small goes wrong by itself, in a thousand, before the calm.
    pub(crate) mishaps: Mishaps,
    /// One-way time of a message, at least and at most.
    pub(crate) latency: (Duration, Duration),
}

/// Chances in a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mishaps {
    pub(crate) read_fails: u64,
    pub(crate) wrong_bytes: u64,
    pub(crate) store_fails: u64,
    pub(crate) step_fails: u64,
    /// A node that is asked whether it can run a step hangs before it answers.
    pub(crate) answer_hangs: u64,
}

#[derive(Debug)]
pub(crate) struct SitePlan {
    pub(crate) name: Name,
    /// Bytes a second.
    pub(crate) wan_rate: u64,
}

#[derive(Debug)]
pub(crate) struct NodePlan {
    pub(crate) id: NodeId,
    pub(crate) name: Name,
    pub(crate) site: usize,
    /// Bytes a second within the site, each way; the WAN is read at most this fast.
    pub(crate) rate: u64,
    /// In a thousand blocks that it serves, how many are wrong.
    pub(crate) lies: u64,
    /// Whether it has the version before of the packages.
    pub(crate) old_version: bool,
}

#[derive(Debug)]
pub(crate) struct PackagePlan {
    pub(crate) package: Package,
    /// Bytes of each block.
    pub(crate) blocks: Vec<u32>,
    /// Bytes that a node lacks of each block if it has the version before.
    pub(crate) changed: Vec<u32>,
    /// Which nodes get it.
    pub(crate) targets: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct DeploymentPlan {
    pub(crate) at: Time,
    pub(crate) packages: Vec<usize>,
    pub(crate) source: Source,
    pub(crate) gate: Gate,
    pub(crate) before: Vec<Step>,
    pub(crate) steps: Vec<Step>,
    /// Waves by their numbers of nodes and what holds for them; the last has the rest.
    pub(crate) waves: Vec<WavePlan>,
    pub(crate) offline: Offline,
    pub(crate) stage_only: bool,
    pub(crate) when: When,
}

impl Scenario {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let sites: Vec<_> = (0..1 + rng.below(3)).map(|number| site(number, &mut rng)).collect();
        let nodes = nodes(sites.len(), &mut rng);
        let packages: Vec<_> = (0..1 + rng.below(3)).map(|number| package(number, nodes.len(), &mut rng)).collect();
        let calm_at = Time::from_millis(15_000 + rng.below(90_000));
        let deployments = (0..1 + rng.below(3)).map(|_| deployment(packages.len(), calm_at, &mut rng)).collect();
        let wild = rng.below(4);
        let mut chance = |most: u64| if wild == 0 { 0 } else { rng.below(most + 1) };
        let mishaps = Mishaps {
            read_fails: chance(80),
            wrong_bytes: chance(30) / 10,
            store_fails: chance(40),
            step_fails: chance(200),
            answer_hangs: 0,
        };
        let latency_ms = 1 + rng.below(40);
        let latency = (Duration::from_millis(latency_ms), Duration::from_millis(latency_ms * (1 + rng.below(4))));
        let swarm = rng.below(10) > 0;
        let faults = forecast(wild, nodes.len(), calm_at, &mut rng);
        let mut new = Self {
            sites,
            nodes,
            packages,
            deployments,
            swarm,
            faults,
            returns: false,
            quiet: false,
            absences: Vec::new(),
            two_operators: false,
            calm_at,
            mishaps,
            latency,
        };
        if seed.is_multiple_of(4) {
            away::go(&mut new, seed);
        }
        if seed.is_multiple_of(5) {
            waves::set(&mut new, seed);
        }
        if seed % 6 == 1 {
            returns::set(&mut new, seed);
        }
        // Where progress is judged by what the WAN allows, nothing else is to bound it.
        if (seed % 3 == 1 || seed.is_multiple_of(4)) && !new.quiet {
            limits::set(&mut new, seed);
        }
        if seed % 7 == 6 {
            hours::set(&mut new, seed);
        }
        if matches!(seed % 13, 1 | 9) && !new.quiet {
            absences::set(&mut new, seed);
        }
        if matches!(seed % 17, 1 | 4 | 9 | 13 | 15) && !new.quiet {
            hushes::set(&mut new, seed);
        }
        new.two_operators = matches!(seed % 13, 2 | 8) && !new.quiet;
        new
    }

    /// What is known of each node when a deployment is planned.
    pub(crate) fn facts(&self) -> Vec<NodeFacts> {
        let fact = |node: &NodePlan| NodeFacts {
            id: node.id,
            name: node.name.clone(),
            site: self.sites[node.site].name.clone(),
            labels: BTreeMap::new(),
        };
        self.nodes.iter().map(fact).collect()
    }

    /// The node with this key.
    pub(crate) fn node(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }

    /// The package plans of one deployment's packages.
    pub(crate) fn packages_of<'a>(&'a self, plan: &'a DeploymentPlan) -> impl Iterator<Item = &'a PackagePlan> {
        plan.packages.iter().map(|package| &self.packages[*package])
    }

    /// The package that a content is, or that it is the recipe of.
    pub(crate) fn package_of(&self, content: ContentId) -> Option<&PackagePlan> {
        self.packages
            .iter()
            .find(|plan| content == plan.package.id.into() || content == plan.package.recipe.recipe.into())
    }

    /// The manifest of a deployment under the number `id`.
    pub(crate) fn manifest(&self, plan: &DeploymentPlan, id: DeploymentId) -> Manifest {
        let mut groups: BTreeMap<Vec<PackageIndex>, Vec<NodeId>> = BTreeMap::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let gets = self.packages_of(plan).zip(0..).filter(|(package, _)| package.targets.contains(&number));
            let gets: Vec<_> = gets.map(|(_, index)| PackageIndex(index)).collect();
            if !gets.is_empty() {
                groups.entry(gets).or_default().push(node.id);
            }
        }
        let group = |(packages, mut nodes): (Vec<_>, Vec<NodeId>)| {
            nodes.sort_unstable();
            Group { nodes, packages }
        };
        Manifest {
            deployment: id,
            coordinator: COORDINATOR,
            // Two names, so that deployments overlap, and some may not.
            name: name(if id.0.is_multiple_of(2) && !self.returns { "squall" } else { "storm" }),
            release: name("r1"),
            packages: self.packages_of(plan).map(|plan| plan.package.clone()).collect(),
            groups: groups.into_iter().map(group).collect(),
            acquire: Acquire { source: plan.source, swarm: self.swarm },
            gate: plan.gate,
            before_acquire: plan.before.clone(),
            steps: plan.steps.clone(),
            waves: waves::resolve(&plan.waves, self, plan),
            offline: plan.offline,
            rollback: None,
        }
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("names in scenarios are well-formed")
}

fn hash(rng: &mut Rng) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.chunks_exact_mut(8).for_each(|part| part.copy_from_slice(&rng.next_u64().to_le_bytes()));
    bytes
}

fn site(number: u64, rng: &mut Rng) -> SitePlan {
    SitePlan { name: name(&format!("site{number}")), wan_rate: 200_000 << rng.below(7) }
}

fn nodes(sites: usize, rng: &mut Rng) -> Vec<NodePlan> {
    let mut nodes = Vec::new();
    let old = rng.below(3);
    for site in 0..sites {
        let most = 1 + rng.below(8);
        for _ in 0..1 + rng.below(most) {
            let number = nodes.len();
            let lies = if rng.below(12) == 0 { 20 + rng.below(500) } else { 0 };
            nodes.push(NodePlan {
                id: NodeId(hash(rng)),
                name: name(&format!("node{number}")),
                site,
                rate: 1_000_000 << rng.below(6),
                lies,
                old_version: old > 0 && rng.below(3) < old,
            });
        }
    }
    nodes
}

fn package(number: u64, nodes: usize, rng: &mut Rng) -> PackagePlan {
    let most = 1 + rng.below(60);
    let count = 1 + rng.below(most);
    let blocks: Vec<u32> = (0..count).map(|_| 2 * SEGMENT_BYTES + below(rng, 2 * SEGMENT_BYTES)).collect();
    let changed = blocks.iter().map(|bytes| match rng.below(3) {
        0 => 0,
        1 => *bytes,
        _ => 1 + below(rng, *bytes),
    });
    let changed = changed.collect();
    let pieces = 1 + rng.below(3);
    let last = 1 + rng.below(SEGMENT_BYTES_MAX as u64 - 1);
    let recipe = Outline {
        recipe: RecipeId(hash(rng)),
        size: (pieces - 1) * SEGMENT_BYTES_MAX as u64 + last,
        pieces: (0..pieces).map(|_| SegmentHash(hash(rng))).collect(),
    };
    let package = Package {
        name: name(&format!("package{number}")),
        reference: format!("storm package{number} 1.0.0"),
        id: PackageId(hash(rng)),
        size: blocks.iter().map(|bytes| u64::from(*bytes)).sum(),
        recipe,
    };
    let all = rng.below(2) == 0;
    let mut targets: BTreeSet<usize> = (0..nodes).filter(|_| all || rng.below(4) > 0).collect();
    if targets.is_empty() {
        targets.insert(0);
    }
    PackagePlan { package, blocks, changed, targets }
}

fn below(rng: &mut Rng, bound: u32) -> u32 {
    u32::try_from(rng.below(u64::from(bound))).expect("below a bound of 32 bits")
}

fn deployment(packages: usize, calm_at: Time, rng: &mut Rng) -> DeploymentPlan {
    let mut chosen: Vec<usize> = (0..packages).filter(|_| rng.below(3) > 0).collect();
    if chosen.is_empty() {
        chosen.push(0);
    }
    let before = (0..rng.below(3)).map(|number| step(&format!("before{number}"), true, rng)).collect();
    let steps = (0..rng.below(5)).map(|number| step(&format!("step{number}"), false, rng)).collect();
    let stragglers = match rng.below(3) {
        0 => Stragglers::ExcludeAfter(Duration::from_secs(10 + rng.below(600))),
        _ => Stragglers::Wait,
    };
    let quorum = match rng.below(3) {
        0 => Quorum::Percent(u8::try_from(1 + rng.below(100)).expect("at most 100")),
        1 => Quorum::AllBut(u32::try_from(rng.below(3)).expect("below 3")),
        _ => Quorum::default(),
    };
    DeploymentPlan {
        at: Time::from_millis(500 + rng.below(calm_at.since(Time::ZERO).as_millis() as u64 / 2)),
        packages: chosen,
        source: if rng.below(2) == 0 { Source::Feed } else { Source::Coordinator },
        gate: Gate { quorum, stragglers, manual: rng.below(4) == 0 },
        before,
        steps,
        waves: Vec::new(),
        offline: Offline::Wait,
        stage_only: rng.below(10) == 0,
        when: When::default(),
    }
}

pub(crate) fn step(text: &str, before: bool, rng: &mut Rng) -> Step {
    let on = match rng.below(5) {
        0 => On::Coordinator,
        1 => On::Site,
        _ => On::Node,
    };
    let on_failure = match rng.below(8) {
        0 => OnFailure::Fail,
        1 | 2 => OnFailure::Ignore,
        3 if !before => OnFailure::Rollback,
        _ => OnFailure::Pause,
    };
    Step {
        name: name(text),
        on,
        action: Action::Script { run: "true".to_owned() },
        timeout: Duration::from_secs(60),
        retries: u32::try_from(rng.below(3)).expect("below 3"),
        backoff: Duration::ZERO,
        on_failure,
        idempotent: rng.below(2) == 0,
        always_after: (before && rng.below(2) == 0).then(|| "true".to_owned()),
        pace: Pace::Each,
    }
}
