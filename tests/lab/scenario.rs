//! What the lab runs: the scenarios of the table, and small versions of them that a check of every commit can afford.

use std::time::Duration;

use crate::network::{Rate, Shape};

const MBIT: u64 = 1_000_000;
const GBIT: u64 = 1_000 * MBIT;

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The last node of site 1 is killed when half a package has crossed the WAN, and stays away.
    NodeKilled,
    /// The last node of site 1 is away when the deployment begins, and comes when half a package has crossed the WAN.
    NodeLate,
    /// The last node of site 1 has a link of a tenth of the WAN's rate.
    NodeSlow,
    /// The WAN of site 1 drops everything for this long, when half a package has crossed it.
    WanCut(Duration),
    /// The feed is ended when half a package has crossed the WAN of site 1, and started again.
    OriginRestarted,
}

/// Where the package is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// An HTTP server.
    Feed,
    /// The coordinator, encrypted like what nodes trade.
    Coordinator,
}

/// What a run has to reach; a figure that is `None` is only shown.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Target {
    /// Time over the bound.
    pub(crate) of_bound: Option<f64>,
    /// Seconds.
    pub(crate) seconds: Option<f64>,
    /// Frames over the WAN, in packages.
    pub(crate) copies: Option<f64>,
    /// CPU seconds of coordinator, nodes and feed per GiB delivered.
    pub(crate) cpu: Option<f64>,
    /// Peak resident memory of a node in MiB.
    pub(crate) rss_mib: Option<f64>,
}

/// One scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    /// What it is called on the command line.
    pub(crate) name: &'static str,
    /// The network.
    pub(crate) shape: Shape,
    /// The package's size in MiB.
    pub(crate) mib: u64,
    /// Where it is read from.
    pub(crate) source: Source,
    /// Whether the coordinator holds the package before the first measured node starts, for a deployment to another site:
    /// then the pair of holder and node is measured, and not how a recipe is made.
    pub(crate) held: bool,
    /// What goes wrong.
    pub(crate) fault: Option<Fault>,
    /// What it has to reach.
    pub(crate) target: Target,
}

const fn shape(sites: u32, nodes: u32, wan: Rate, lan: Rate) -> Shape {
    Shape { sites, nodes, wan, lan }
}

const NONE: Target = Target { of_bound: None, seconds: None, copies: None, cpu: None, rss_mib: None };

const fn scenario(name: &'static str, shape: Shape, mib: u64, target: Target) -> Scenario {
    Scenario { name, shape, mib, source: Source::Feed, held: false, fault: None, target }
}

const fn faulty(name: &'static str, fault: Fault, copies: f64) -> Scenario {
    let target = Target { copies: Some(copies), ..NONE };
    let shape = shape(1, 5, Some(100 * MBIT), Some(GBIT));
    Scenario { name, shape, mib: 64, source: Source::Feed, held: false, fault: Some(fault), target }
}

/// Everything that the lab knows.
pub(crate) const SCENARIOS: [Scenario; 13] = [
    scenario(
        "A",
        shape(1, 8, Some(200 * MBIT), None),
        256,
        Target { of_bound: Some(1.10), seconds: None, copies: Some(1.06), cpu: Some(4.0), rss_mib: Some(48.0) },
    ),
    scenario(
        "B",
        shape(3, 4, Some(100 * MBIT), Some(GBIT)),
        256,
        Target { of_bound: Some(1.07), seconds: None, copies: Some(1.06), cpu: Some(4.5), rss_mib: Some(48.0) },
    ),
    scenario(
        "C",
        shape(1, 8, None, None),
        1024,
        Target { of_bound: None, seconds: Some(18.0), copies: Some(1.02), cpu: Some(4.3), rss_mib: Some(48.0) },
    ),
    Scenario {
        name: "D",
        shape: shape(1, 1, None, None),
        mib: 1024,
        source: Source::Coordinator,
        held: true,
        fault: None,
        target: Target { of_bound: None, seconds: Some(2.5), copies: None, cpu: Some(3.2), rss_mib: Some(48.0) },
    },
    faulty("killed", Fault::NodeKilled, 1.07),
    faulty("late", Fault::NodeLate, 1.06),
    faulty("slow", Fault::NodeSlow, 1.06),
    faulty("wan-cut", Fault::WanCut(Duration::from_secs(20)), 1.07),
    faulty("origin-restart", Fault::OriginRestarted, 1.07),
    scenario("fast-A", shape(1, 4, Some(200 * MBIT), None), 32, Target { copies: Some(1.08), ..NONE }),
    scenario("fast-B", shape(2, 2, Some(100 * MBIT), Some(GBIT)), 16, Target { copies: Some(1.10), ..NONE }),
    scenario("fast-C", shape(1, 3, None, None), 64, Target { copies: Some(1.04), ..NONE }),
    Scenario {
        name: "fast-D",
        shape: shape(1, 1, None, None),
        mib: 64,
        source: Source::Coordinator,
        held: true,
        fault: None,
        target: NONE,
    },
];

/// The scenarios of the table.
pub(crate) const TABLE: [&str; 9] = ["A", "B", "C", "D", "killed", "late", "slow", "wan-cut", "origin-restart"];

/// The scenarios of every check.
pub(crate) const FAST: [&str; 8] = ["fast-A", "fast-B", "fast-C", "fast-D", "killed", "late", "slow", "origin-restart"];

/// The scenario of this name.
pub(crate) fn find(name: &str) -> Option<Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name).copied()
}

impl Scenario {
    /// The package's size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.mib << 20
    }

    /// The least possible time: the package's bits over the WAN's rate.
    pub(crate) fn bound(&self) -> Option<Duration> {
        let bits = (self.bytes() * 8) as f64;
        self.shape.wan.map(|rate| Duration::from_secs_f64(bits / rate as f64))
    }
}
