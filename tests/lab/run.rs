//! One run of one scenario: real processes in a [`Network`], a deployment, its fault, and what it came to.
//!
//! Time counts from the start of the first node's process to the first step on the last node that is to have the package,
//! so joining, making the recipe and opening the gate are in it. Each node's file is compared byte for byte afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use shoal_tests::{Process, package, program, until, until_seen};
use tempfile::TempDir;

use crate::measure::{cpu_seconds, peak_rss_mib};
use crate::network::{Network, Place};
use crate::scenario::{Fault, Scenario, Source};

/// How long starting, joining and beginning may take each.
const SOON: Duration = Duration::from_secs(30);

/// Where nodes listen.
const NODE_PORT: u16 = 7442;

/// Where a node beside the coordinator does: apart from the coordinator's ports, 7440 to 7443.
const BESIDE_PORT: u16 = 7452;

/// How long a run may take.
const RUN_MAX: Duration = Duration::from_secs(300);

/// What a run came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// From the start of the first node to the first step of the last.
    pub(crate) seconds: f64,
    /// How much of it `shoal deploy` took, which reads the package and makes its recipe.
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

struct Lab {
    scenario: Scenario,
    nodes: BTreeMap<(u32, u32), Process>,
    coordinator: Option<Process>,
    feed: Option<Process>,
    joins: BTreeMap<u32, String>,
    /// CPU seconds of nodes and of feeds that have ended.
    nodes_cpu: f64,
    feeds_cpu: f64,
    network: Network,
    folder: TempDir,
}

/// Runs `scenario`.
///
/// # Panics
/// If anything but the measured figures is not as it should be: a process ends, the deployment fails, bytes differ.
pub(crate) fn run(scenario: Scenario) -> Outcome {
    let mut lab = Lab::start(scenario);
    if scenario.held {
        lab.let_coordinator_hold();
    }
    let used_before = lab.servers_cpu();
    let started = Instant::now();
    let places = lab.places();
    for (site, number) in &places {
        lab.start_node(*site, *number);
    }
    lab.await_online(places.len());
    let wanted = lab.before_deployment(&places);
    let wan_before = lab.wan_bytes();
    let deployed = Instant::now();
    let id = lab.deploy("site!=elsewhere");
    let deploy_seconds = deployed.elapsed().as_secs_f64();
    lab.fault();
    let seconds = lab.await_steps(started, &id, &wanted);
    let gib = wanted.len() as f64 * scenario.mib as f64 / 1024.0;
    let wan = lab.wan_bytes() - wan_before;
    let used = lab.servers_cpu();
    let outcome = Outcome {
        seconds: seconds.as_secs_f64(),
        deploy_seconds,
        copies: wan as f64 / (scenario.bytes() * u64::from(scenario.shape.sites)) as f64,
        node_cpu: (lab.nodes_cpu + lab.nodes.values().map(cpu).sum::<f64>()) / gib,
        coordinator_cpu: (used.0 - used_before.0) / gib,
        feed_cpu: (used.1 - used_before.1) / gib,
        node_rss_mib: lab.nodes.values().map(|node| peak_rss_mib(node.id())).fold(0.0, f64::max),
        coordinator_rss_mib: lab.coordinator.as_ref().map_or(0.0, |process| peak_rss_mib(process.id())),
    };
    lab.compare(&wanted);
    outcome
}

impl Lab {
    fn start(scenario: Scenario) -> Self {
        let folder = room(scenario);
        let package = folder.path().join("package.bin");
        let len = usize::try_from(scenario.bytes()).expect("it fits into memory");
        fs::write(&package, package::bytes(scenario.mib, len)).expect("there is room for the package");
        let network = Network::up(scenario.shape);
        let (nodes, joins) = (BTreeMap::new(), BTreeMap::new());
        let (coordinator, feed, nodes_cpu, feeds_cpu) = (None, None, 0.0, 0.0);
        let mut lab = Self { scenario, nodes, coordinator, feed, joins, nodes_cpu, feeds_cpu, network, folder };
        lab.start_feed();
        lab.start_coordinator();
        for site in 1..=scenario.shape.sites {
            let name = format!("s{site}");
            let join = lab.shoal(&["token", "create", "--site", &name]);
            lab.joins.insert(site, join.trim().to_owned());
        }
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn places(&self) -> Vec<(u32, u32)> {
        let shape = self.scenario.shape;
        (1..=shape.sites).flat_map(|site| (1..=shape.nodes).map(move |number| (site, number))).collect()
    }

    /// The node that faults befall.
    fn victim(&self) -> (u32, u32) {
        (1, self.scenario.shape.nodes)
    }

    fn start_feed(&mut self) {
        let own = std::env::current_exe().expect("the lab's own path is known");
        let mut command = self.network.command(Place::Origin, own);
        command.arg("feed").arg(self.path("package.bin")).arg(format!("{}:8080", Network::address(Place::Origin)));
        let mut feed = Process::start("the feed", &mut command, &self.path("feed.log"));
        until("the feed listens", SOON, || {
            assert!(feed.runs(), "the feed has ended:\n{}", feed.log());
            feed.log().contains("listening").then_some(())
        });
        self.feed = Some(feed);
    }

    fn start_coordinator(&mut self) {
        let address = Network::address(Place::Origin);
        let config = format!(
            "data_dir = 'coordinator'\napi_listen = '{address}:7441'\n\
             mesh_listen = ['/ip4/{address}/tcp/7440']\nbulk_listen = ['/ip4/{address}/tcp/7443']\n\
             [[feed]]\nname = 'lab'\nkind = 'http'\nurl = 'http://{address}:8080/'\n"
        );
        fs::write(self.path("coordinator.toml"), config).expect("the folder can be written");
        let mut command = self.network.command(Place::Origin, program("shoal"));
        command.arg("serve").arg("-c").arg(self.path("coordinator.toml"));
        let mut process = Process::start("the coordinator", &mut command, &self.path("coordinator.log"));
        until("the coordinator is ready", SOON, || {
            let log = process.log();
            assert!(process.runs(), "the coordinator has ended:\n{log}");
            log.lines().any(|line| line.contains(" ready")).then_some(())
        });
        self.coordinator = Some(process);
    }

    fn start_node(&mut self, site: u32, number: u32) {
        let process =
            self.node_process(Place::Node(site, number), &node_name(site, number), &self.joins[&site], NODE_PORT);
        self.nodes.insert((site, number), process);
    }

    /// Starts a node; its bulk mesh takes the port after `port`.
    fn node_process(&self, place: Place, name: &str, join: &str, port: u16) -> Process {
        let mut command = self.network.command(place, program("shoal-node"));
        command.args(["--join", join, "--name", name, "--data-dir"]).arg(self.path(name));
        command.args(["--listen", &format!("/ip4/{}/tcp/{port}", Network::address(place))]);
        Process::start(name, &mut command, &self.path(&format!("{name}.log")))
    }

    fn kill_node(&mut self, place: (u32, u32)) {
        let mut process = self.nodes.remove(&place).expect("it runs");
        self.nodes_cpu += cpu(&process);
        process.kill();
    }

    /// What the operator's command line prints.
    fn shoal(&self, args: &[&str]) -> String {
        let mut command = self.network.command(Place::Origin, program("shoal"));
        let api = format!("http://{}:7441", Network::address(Place::Origin));
        command.args(["--coordinator", &api, "--token-file"]).arg(self.path("coordinator/admin.token")).args(args);
        let ran = command.current_dir(self.folder.path()).output().expect("shoal starts");
        assert!(ran.status.success(), "shoal {}: {}", args.join(" "), String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).into_owned()
    }

    fn json(&self, args: &[&str]) -> Value {
        let text = self.shoal(&[args, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    fn online(&self) -> usize {
        let nodes = self.json(&["nodes", "ls"]);
        nodes["nodes"].as_array().map_or(0, |nodes| nodes.iter().filter(|node| node["online"] == true).count())
    }

    fn await_online(&self, count: usize) {
        until_seen("every node is online", SOON, || match self.online() {
            online if online == count => Ok(()),
            online => Err(format!("{online} of {count}")),
        });
    }

    /// Prepares the fault; the nodes that are to have the package in the measured time.
    fn before_deployment(&mut self, places: &[(u32, u32)]) -> Vec<(u32, u32)> {
        let victim = self.victim();
        let others = || places.iter().copied().filter(|place| *place != victim).collect();
        match self.scenario.fault {
            Some(Fault::NodeKilled) => others(),
            Some(Fault::NodeSlow) => {
                let wan = self.scenario.shape.wan.expect("a fault needs a slow WAN");
                self.network.limit_node(victim.0, victim.1, wan / 10);
                others()
            }
            Some(Fault::NodeLate) => {
                self.kill_node(victim);
                self.await_online(places.len() - 1);
                places.to_vec()
            }
            Some(Fault::WanCut(_) | Fault::OriginRestarted) | None => places.to_vec(),
        }
    }

    /// CPU seconds of the coordinator, and of all feeds.
    fn servers_cpu(&self) -> (f64, f64) {
        (self.coordinator.iter().map(cpu).sum(), self.feeds_cpu + self.feed.iter().map(cpu).sum::<f64>())
    }

    /// Deploys the package to a node beside the coordinator, which ends again.
    fn let_coordinator_hold(&mut self) {
        let join = self.shoal(&["token", "create", "--site", "elsewhere"]);
        let mut node = self.node_process(Place::Origin, "beside", join.trim(), BESIDE_PORT);
        self.await_online(1);
        let id = self.deploy("site=elsewhere");
        until("the node beside has it", RUN_MAX, || self.path("beside.stamp").exists().then_some(()));
        until("the deployment is over", SOON, || (self.json(&["status", &id])["stage"] == "done").then_some(()));
        node.kill();
        fs::remove_dir_all(self.path("beside")).expect("the node has ended");
        self.await_online(0);
    }

    fn deploy(&self, select: &str) -> String {
        let source = match self.scenario.source {
            Source::Feed => "feed",
            Source::Coordinator => "coordinator",
        };
        let without = matches!(self.scenario.fault, Some(Fault::NodeKilled | Fault::NodeSlow));
        let quorum = if without { "all-1" } else { "100%" };
        let folder = self.folder.path().display();
        let file = format!(
            "name: lab\nrelease: 1\npackages:\n  data: {{ feed: lab, id: package.bin }}\n\
             targets: [{{ select: '{select}', packages: [data] }}]\nacquire: {{ source: {source}, quorum: {quorum} }}\n\
             steps:\n- {{ name: stamp, run: 'echo \"$SHOAL_PACKAGE_DATA\" > {folder}/$SHOAL_NODE.stamp' }}\n"
        );
        fs::write(self.path("deploy.yaml"), file).expect("the folder can be written");
        let deployment = self.json(&["deploy", "-f", "deploy.yaml", "--detach"]);
        deployment["id"].as_str().expect("a deployment has an id").to_owned()
    }

    fn fault(&mut self) {
        let Some(fault) = self.scenario.fault else { return };
        let before = self.network.wan_bytes(1);
        let half = self.scenario.bytes() / 2;
        until("half a package has crossed the WAN", RUN_MAX, || {
            (self.network.wan_bytes(1) - before >= half).then_some(())
        });
        let (site, number) = self.victim();
        match fault {
            Fault::NodeKilled => self.kill_node((site, number)),
            Fault::NodeLate => self.start_node(site, number),
            Fault::NodeSlow => {}
            Fault::WanCut(pause) => {
                self.network.cut(site);
                // Not a wait for a state: the pause is the scenario.
                std::thread::sleep(pause);
                self.network.mend(site);
            }
            Fault::OriginRestarted => {
                let mut feed = self.feed.take().expect("it runs");
                self.feeds_cpu += cpu(&feed);
                feed.kill();
                fs::remove_file(self.path("feed.log")).expect("the feed has a log");
                self.start_feed();
            }
        }
    }

    /// Waits until the step has run on all of `wanted`: the time of the last one since `started`.
    fn await_steps(&self, started: Instant, id: &str, wanted: &[(u32, u32)]) -> Duration {
        let stamps: Vec<_> = wanted.iter().map(|(site, number)| self.stamp(*site, *number)).collect();
        until_seen("the step has run on every node", RUN_MAX, || {
            match stamps.iter().filter(|stamp| !written(stamp)).count() {
                0 => Ok(()),
                missing => Err(format!("{missing} nodes have not; {:#}", self.json(&["status", id]))),
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

    fn stamp(&self, site: u32, number: u32) -> PathBuf {
        self.path(&format!("{}.stamp", node_name(site, number)))
    }

    fn wan_bytes(&self) -> u64 {
        (1..=self.scenario.shape.sites).map(|site| self.network.wan_bytes(site)).sum()
    }

    /// Compares each node's file with the package.
    fn compare(&self, wanted: &[(u32, u32)]) {
        let package = self.path("package.bin");
        for (site, number) in wanted {
            let stamp = fs::read_to_string(self.stamp(*site, *number)).expect("the step has run");
            assert!(same(&package, Path::new(stamp.trim())), "node {number} of site {site} has other bytes");
        }
    }
}

fn cpu(process: &Process) -> f64 {
    cpu_seconds(process.id())
}

fn node_name(site: u32, number: u32) -> String {
    format!("s{site}n{number}")
}

fn written(stamp: &Path) -> bool {
    stamp.metadata().is_ok_and(|metadata| metadata.len() > 0)
}

/// A folder in memory where there is room, so that no disk is measured; on a disk else.
fn room(scenario: Scenario) -> TempDir {
    let needed = scenario.bytes() * u64::from(scenario.shape.sites * scenario.shape.nodes + 3);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = available.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    let folder = match kib.is_some_and(|kib| kib * 1024 / 2 > needed) {
        true => tempfile::tempdir_in("/dev/shm"),
        false => tempfile::tempdir(),
    };
    folder.or_else(|_| tempfile::tempdir()).expect("there is room for a folder")
}

/// Whether two files have the same bytes.
fn same(a: &Path, b: &Path) -> bool {
    let open = |path: &Path| fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut a, mut b) = (open(a), open(b));
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let read = a.read(&mut left).expect("the package can be read");
        if read == 0 {
            return b.read(&mut right).expect("a node's file can be read") == 0;
        }
        if b.read_exact(&mut right[..read]).is_err() || left[..read] != right[..read] {
            return false;
        }
    }
}
