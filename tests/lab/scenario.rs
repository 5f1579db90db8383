//! What the lab runs: the scenarios of the table, and small versions of them that a check of every commit can afford.

use std::time::Duration;

use crate::network::{Rate, Shape};

const MBIT: u64 = 1_000_000;
const GBIT: u64 = 1_000 * MBIT;

/// How long the coordinator waits for a node whose connection was closed before others read what it held.
const DEAD_NODE_GRACE: Duration = Duration::from_secs(3);

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
    /// The deployment is cancelled when half a package has crossed the WAN. Time counts from there until nothing moves.
    Cancelled,
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
    /// then the pair of holder and node is measured, and not how the coordinator reads the package.
    pub(crate) held: bool,
    /// What goes wrong.
    pub(crate) fault: Option<Fault>,
    /// What it has to reach.
    pub(crate) target: Target,
}

const fn shape(sites: u32, nodes: u32, wan: Rate, lan: Rate) -> Shape {
    Shape { sites, nodes, wan, lan, crowded: false }
}

const NONE: Target = Target { of_bound: None, seconds: None, copies: None, cpu: None, rss_mib: None };

/// What a small version takes at most, in seconds, whatever the programs are built for: it ends a stall.
const fn fast(seconds: f64, copies: f64) -> Target {
    Target { seconds: Some(seconds), copies: Some(copies), ..NONE }
}

const fn scenario(name: &'static str, shape: Shape, mib: u64, target: Target) -> Scenario {
    Scenario { name, shape, mib, source: Source::Feed, held: false, fault: None, target }
}

/// A scenario that goes wrong. Starting and joining are in its time, so that a package this small takes
/// `of_bound` times the bound at best.
const fn faulty(name: &'static str, fault: Fault, of_bound: f64, copies: f64) -> Scenario {
    let target = Target { of_bound: Some(of_bound), copies: Some(copies), ..NONE };
    let shape = shape(1, 5, Some(100 * MBIT), Some(GBIT));
    Scenario { name, shape, mib: 64, source: Source::Feed, held: false, fault: Some(fault), target }
}

/// Everything that the lab knows.
pub(crate) const SCENARIOS: [Scenario; 14] = [
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
    faulty("killed", Fault::NodeKilled, 1.25, 1.07),
    faulty("late", Fault::NodeLate, 1.25, 1.06),
    faulty("slow", Fault::NodeSlow, 1.25, 1.06),
    faulty("wan-cut", Fault::WanCut(Duration::from_secs(20)), 1.25, 1.07),
    faulty("origin-restart", Fault::OriginRestarted, 1.25, 1.07),
    Scenario { target: Target { seconds: Some(2.0), ..NONE }, ..faulty("cancel", Fault::Cancelled, 0.0, 0.0) },
    scenario("fast-A", shape(1, 4, Some(200 * MBIT), None), 32, fast(10.0, 1.08)),
    scenario("fast-B", shape(2, 2, Some(100 * MBIT), Some(GBIT)), 16, fast(10.0, 1.10)),
    scenario("fast-C", shape(1, 3, None, None), 64, fast(10.0, 1.04)),
    Scenario {
        name: "fast-D",
        shape: shape(1, 1, None, None),
        mib: 64,
        source: Source::Coordinator,
        held: true,
        fault: None,
        target: Target { seconds: Some(10.0), ..NONE },
    },
];

/// The scenarios of the table.
pub(crate) const TABLE: [&str; 10] =
    ["A", "B", "C", "D", "killed", "late", "slow", "wan-cut", "origin-restart", "cancel"];

/// The scenarios of every check.
pub(crate) const FAST: [&str; 9] =
    ["fast-A", "fast-B", "fast-C", "fast-D", "killed", "late", "slow", "origin-restart", "cancel"];

/// The scenario of this name.
pub(crate) fn find(name: &str) -> Option<Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name).copied()
}

impl Scenario {
    /// The package's size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.mib << 20
    }

    /// The least possible time: the package's bits over the WAN's rate, and what the fault takes of it whatever is done.
    pub(crate) fn bound(&self) -> Option<Duration> {
        let bits = (self.bytes() * 8) as f64;
        let undisturbed = self.shape.wan.map(|rate| Duration::from_secs_f64(bits / rate as f64))?;
        Some(match self.fault {
            Some(Fault::Cancelled) => return None,
            // What only the dead node had is read again once it is given up; all else is there by then, or comes meanwhile.
            Some(Fault::NodeKilled) => undisturbed.max(undisturbed / 2 + DEAD_NODE_GRACE),
            // Nothing moves while the WAN is cut.
            Some(Fault::WanCut(pause)) => undisturbed + pause,
            // The feed is back at once. A node that is late gets the first half while the second crosses the WAN; without the
            // slow one the others have all that they need.
            Some(Fault::OriginRestarted | Fault::NodeLate | Fault::NodeSlow) | None => undisturbed,
        })
    }
}
