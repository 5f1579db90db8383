//! One run of one scenario: a [`Lab`], a deployment, its fault, and what it came to.
//!
//! The package's recipe is made before, as where it is built. Time counts from the start of the first node's process to the
//! first step on the last node that is to have the package, so joining and opening the gate are in it. Afterwards each
//! node's file is compared byte for byte, and what Shoal says that it read over the WANs with what the links counted.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use shoal_tests::{Lazily, until, until_seen};

use crate::lab::{Lab, NodePlace, SOON};
use crate::measure::peak_rss_mib;
use crate::network::Place;
use crate::scenario::{Fault, Scenario, Source};

/// Where a node beside the coordinator listens: apart from the coordinator's ports, 7440 to 7443.
const BESIDE_PORT: u16 = 7452;

/// How long a run may take.
const RUN_MAX: Duration = Duration::from_secs(300);

/// A site is still once its nodes got no more than this between two looks for so long: less than a block, and more than
/// heartbeats take.
const STILL_BYTES: u64 = 32 * 1024;
const STILL: Duration = Duration::from_secs(3);

/// What a run came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// From the start of the first node to the first step of the last.
    pub(crate) seconds: f64,
    /// How much of it `shoal deploy` took.
    pub(crate) deploy_seconds: f64,
    /// Frames into the sites, in packages per site.
    pub(crate) copies: f64,
    /// CPU seconds per GiB delivered, of all nodes,
    pub(crate) node_cpu: f64,
    /// of the coordinator,
    pub(crate) coordinator_cpu: f64,
    /// and of the feed.
    pub(crate) feed_cpu: f64,
    /// Peak resident memory of the largest node, in MiB.
    pub(crate) node_rss_mib: f64,
    /// The same of the coordinator.
    pub(crate) coordinator_rss_mib: f64,
}

struct Run {
    scenario: Scenario,
    lab: Lab,
}

/// Runs `scenario`.
///
/// # Panics
/// If anything but the measured figures is not as it should be: a process ends, the deployment fails, bytes differ.
pub(crate) fn run(scenario: Scenario) -> Outcome {
    let mut run = Run { scenario, lab: Lab::start(scenario.shape, scenario.bytes()) };
    let package = run.give_recipe();
    if scenario.held {
        run.let_coordinator_hold(&package);
    }
    let (coordinator_before, feeds_before) = (run.lab.coordinator_cpu(), run.lab.feeds_cpu());
    let started = Instant::now();
    let places = run.lab.places();
    places.iter().for_each(|place| run.lab.start_node(*place));
    run.lab.await_online(places.len(), SOON);
    let wanted = run.before_deployment(&places);
    let wan_before = run.lab.wan_bytes();
    let deployed = Instant::now();
    let id = run.deploy("site!=elsewhere", &package);
    let deploy_seconds = deployed.elapsed().as_secs_f64();
    run.fault(&id);
    let cancelled = scenario.fault == Some(Fault::Cancelled);
    let seconds = if cancelled { run.await_quiet() } else { run.await_steps(started, &id, &wanted) };
    let gib = wanted.len() as f64 * scenario.mib as f64 / 1024.0;
    let lab = &run.lab;
    let outcome = Outcome {
        seconds: seconds.as_secs_f64(),
        deploy_seconds,
        copies: (lab.wan_bytes() - wan_before) as f64 / (scenario.bytes() * u64::from(scenario.shape.sites)) as f64,
        node_cpu: lab.nodes_cpu() / gib,
        coordinator_cpu: (lab.coordinator_cpu() - coordinator_before) / gib,
        feed_cpu: (lab.feeds_cpu() - feeds_before) / gib,
        node_rss_mib: lab.nodes.values().map(|node| peak_rss_mib(node.id())).fold(0.0, f64::max),
        coordinator_rss_mib: lab.coordinator.as_ref().map_or(0.0, |process| peak_rss_mib(process.id())),
    };
    if !cancelled {
        lab.compare(&wanted);
        run.compare_counts(&id, wan_before);
    }
    outcome
}

impl Run {
    /// The node that faults befall.
    fn victim(&self) -> NodePlace {
        (1, self.scenario.shape.nodes)
    }

    /// Prepares the fault; the nodes that are to have the package in the measured time.
    fn before_deployment(&mut self, places: &[NodePlace]) -> Vec<NodePlace> {
        let victim = self.victim();
        let others = || places.iter().copied().filter(|place| *place != victim).collect();
        match self.scenario.fault {
            Some(Fault::NodeKilled) => others(),
            Some(Fault::NodeSlow) => {
                let wan = self.scenario.shape.wan.expect("a fault needs a slow WAN");
                self.lab.network.limit_node(victim.0, victim.1, wan / 10);
                others()
            }
            Some(Fault::NodeLate) => {
                self.lab.kill_node(victim);
                self.lab.await_online(places.len() - 1, SOON);
                places.to_vec()
            }
            Some(Fault::WanCut(_) | Fault::OriginRestarted | Fault::Cancelled) | None => places.to_vec(),
        }
    }

    /// Deploys the package to a node beside the coordinator, which ends again.
    fn let_coordinator_hold(&mut self, package: &str) {
        let join = self.lab.join_string("elsewhere");
        let mut node = self.lab.node_process(Place::Origin, "beside", &join, BESIDE_PORT);
        self.lab.await_online(1, SOON);
        let id = self.deploy("site=elsewhere", package);
        until("the node beside has it", RUN_MAX, || self.lab.path("beside.stamp").exists().then_some(()));
        until("the deployment is over", SOON, || (self.lab.json(&["status", &id])["stage"] == "done").then_some(()));
        node.kill();
        fs::remove_dir_all(self.lab.path("beside")).expect("the node has ended");
        self.lab.await_online(0, SOON);
    }

    /// Cuts the package where it is and gives its recipe to the coordinator; the package's hash.
    fn give_recipe(&self) -> String {
        let recipe = self.lab.json(&["recipe", "make", "package.bin"]);
        self.lab.shoal(&["recipe", "add", "package.bin.recipe"]);
        recipe["package"].as_str().expect("a recipe names its package").to_owned()
    }

    /// Deploys the package with this hash to the nodes that `select` selects.
    fn deploy(&self, select: &str, package: &str) -> String {
        let source = match self.scenario.source {
            Source::Feed => "feed",
            Source::Coordinator => "coordinator",
        };
        let without = matches!(self.scenario.fault, Some(Fault::NodeKilled | Fault::NodeSlow));
        let quorum = if without { "all-1" } else { "100%" };
        self.lab.deploy(&format!(
            "name: lab\nrelease: 1\npackages:\n  data: {{ feed: lab, id: package.bin, blake3: {package} }}\n\
             targets: [{{ select: '{select}', packages: [data] }}]\nacquire: {{ source: {source}, quorum: {quorum} }}\n\
             steps:\n- {}\n",
            self.lab.stamp_step()
        ))
    }

    fn fault(&mut self, id: &str) {
        let Some(fault) = self.scenario.fault else { return };
        let before = self.lab.network.wan_bytes(1);
        let half = self.scenario.bytes() / 2;
        until("half a package has crossed the WAN", RUN_MAX, || {
            (self.lab.network.wan_bytes(1) - before >= half).then_some(())
        });
        let victim = self.victim();
        match fault {
            Fault::NodeKilled => self.lab.kill_node(victim),
            Fault::NodeLate => self.lab.start_node(victim),
            Fault::NodeSlow => {}
            Fault::WanCut(pause) => {
                self.lab.network.cut(victim.0);
                // Not a wait for a state: the pause is the scenario.
                std::thread::sleep(pause);
                self.lab.network.mend(victim.0);
            }
            Fault::OriginRestarted => self.lab.restart_feed(),
            Fault::Cancelled => drop(self.lab.shoal(&["cancel", id])),
        }
    }

    /// Waits until nothing moves to the nodes of site 1 any more: how long something still did.
    fn await_quiet(&self) -> Duration {
        let started = Instant::now();
        let (mut seen, mut moved) = (self.lab.network.node_bytes(1), started);
        until("nothing moves", RUN_MAX, || {
            let now = (self.lab.network.node_bytes(1), Instant::now());
            if now.0 - seen > STILL_BYTES {
                moved = now.1;
            }
            seen = now.0;
            (moved.elapsed() >= STILL).then_some(())
        });
        moved - started
    }

    /// Waits until the step has run on all of `wanted`: the time of the last one since `started`.
    fn await_steps(&self, started: Instant, id: &str, wanted: &[NodePlace]) -> Duration {
        let stamps: Vec<_> = wanted.iter().map(|place| self.lab.stamp(*place)).collect();
        until_seen("the step has run on every node", RUN_MAX, || {
            match stamps.iter().filter(|stamp| !written(stamp)).count() {
                0 => Ok(()),
                // To ask each time would take much of a small machine.
                missing => {
                    Err(Lazily(move || format!("{missing} nodes have not; {:#}", self.lab.json(&["status", id]))))
                }
            }
        });
        let age = |stamp: &PathBuf| {
            let modified = stamp.metadata().and_then(|metadata| metadata.modified()).expect("the stamp is there");
            SystemTime::now().duration_since(modified).unwrap_or_default()
        };
        let since = started.elapsed();
        let youngest = stamps.iter().map(age).min().expect("there is a node");
        since - youngest
    }

    /// Checks that all that was read from outside the sites crossed the WAN links, and was counted there.
    fn compare_counts(&self, id: &str, wan_before: u64) {
        let status = self.lab.json(&["status", id]);
        let said = |site: &serde_json::Value| site["wan_bytes"].as_u64().expect("a site says what it read");
        let said: u64 = status["sites"].as_array().expect("a deployment has sites").iter().map(said).sum();
        let counted = self.lab.wan_bytes() - wan_before;
        let least = self.scenario.bytes() * u64::from(self.scenario.shape.sites);
        assert!(counted >= least, "{counted} bytes crossed the WANs, and {least} were missing");
        assert!(said <= counted, "{said} bytes were read from outside the sites, and {counted} crossed their WANs");
    }
}

fn written(stamp: &Path) -> bool {
    stamp.metadata().is_ok_and(|metadata| metadata.len() > 0)
}
