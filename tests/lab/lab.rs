//! The programs of a run: a feed, the coordinator and nodes, each a process at its place in a [`Network`].

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use shoal_tests::{Process, package, program, until, until_seen};
use tempfile::TempDir;

use crate::measure::cpu_seconds;
use crate::network::{Network, Place, Shape};

/// Bytes of memory of which the lab keeps one page: an eighth of what is returned to a host at least.
const TOUCHED_RUN: usize = 256 * 1024;

/// Bytes of a page of memory, or a few.
const PAGE: i64 = 4096;

/// How long one program may take to start, to join or to begin.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Where the coordinator's control mesh listens; its API does at the next port, its bulk mesh two further.
pub(crate) const COORDINATOR_PORT: u16 = 7440;

/// Where nodes listen; their bulk mesh does at the next port.
pub(crate) const NODE_PORT: u16 = 7442;

/// The number of a site and of a node in it, from 1.
pub(crate) type NodePlace = (u32, u32);

/// Everything that runs; it ends when this is dropped.
pub(crate) struct Lab {
    pub(crate) nodes: BTreeMap<NodePlace, Process>,
    pub(crate) coordinator: Option<Process>,
    feed: Option<Process>,
    joins: BTreeMap<u32, String>,
    /// CPU seconds of nodes and of feeds that have ended.
    ended_nodes_cpu: f64,
    ended_feeds_cpu: f64,
    pub(crate) network: Network,
    shape: Shape,
    folder: TempDir,
}

impl Lab {
    /// A network, a package of `bytes`, its feed, and a coordinator that is ready.
    pub(crate) fn start(shape: Shape, bytes: u64) -> Self {
        let folder = room(shape, bytes);
        package::write(&folder.path().join("package.bin"), bytes, bytes).expect("there is room for the package");
        let network = Network::up(shape);
        let (nodes, joins) = (BTreeMap::new(), BTreeMap::new());
        let (ended_nodes_cpu, ended_feeds_cpu) = (0.0, 0.0);
        let mut lab = Self {
            nodes,
            coordinator: None,
            feed: None,
            joins,
            ended_nodes_cpu,
            ended_feeds_cpu,
            network,
            shape,
            folder,
        };
        lab.start_feed();
        lab.start_coordinator();
        for site in 1..=shape.sites {
            let join = lab.join_string(&format!("s{site}"));
            lab.joins.insert(site, join);
        }
        lab
    }

    /// A file or folder of this run.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The network's shape.
    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// Where nodes are, or will be.
    pub(crate) fn places(&self) -> Vec<NodePlace> {
        let Shape { sites, nodes, .. } = self.shape;
        (1..=sites).flat_map(|site| (1..=nodes).map(move |number| (site, number))).collect()
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

    /// Ends the feed at once and starts it again.
    pub(crate) fn restart_feed(&mut self) {
        let mut feed = self.feed.take().expect("it runs");
        self.ended_feeds_cpu += cpu(&feed);
        feed.kill();
        fs::remove_file(self.path("feed.log")).expect("the feed has a log");
        self.start_feed();
    }

    fn start_coordinator(&mut self) {
        let address = Network::address(Place::Origin);
        let (control, api, bulk) = (COORDINATOR_PORT, COORDINATOR_PORT + 1, COORDINATOR_PORT + 3);
        let config = format!(
            "data_dir = 'coordinator'\napi_listen = '{address}:{api}'\n\
             mesh_listen = ['/ip4/{address}/tcp/{control}']\nbulk_listen = ['/ip4/{address}/tcp/{bulk}']\n\
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

    /// A string with which nodes join `site`.
    pub(crate) fn join_string(&self, site: &str) -> String {
        self.shoal(&["token", "create", "--site", site]).trim().to_owned()
    }

    /// Starts the node of a place.
    pub(crate) fn start_node(&mut self, place: NodePlace) {
        let (site, number) = place;
        let process = self.node_process(Place::Node(site, number), &node_name(place), &self.joins[&site], NODE_PORT);
        self.nodes.insert(place, process);
    }

    /// Starts a node anywhere that listens at `port` and the next one.
    pub(crate) fn node_process(&self, place: Place, name: &str, join: &str, port: u16) -> Process {
        let mut command = self.network.command(place, program("shoal-node"));
        command.args(["--join", join, "--name", name, "--data-dir"]).arg(self.path(name));
        command.args(["--listen", &format!("/ip4/{}/tcp/{port}", Network::address(place))]);
        Process::start(name, &mut command, &self.path(&format!("{name}.log")))
    }

    /// Kills a node with `kill -9`.
    pub(crate) fn kill_node(&mut self, place: NodePlace) {
        let mut process = self.nodes.remove(&place).expect("it runs");
        self.ended_nodes_cpu += cpu(&process);
        process.kill();
    }

    /// Asks a node to end, and waits until it has.
    pub(crate) fn stop_node(&mut self, place: NodePlace) {
        let mut process = self.nodes.remove(&place).expect("it runs");
        self.ended_nodes_cpu += cpu(&process);
        process.terminate(SOON);
    }

    /// Where a node keeps everything.
    pub(crate) fn data_dir(&self, place: NodePlace) -> PathBuf {
        self.path(&node_name(place))
    }

    /// What the operator's command line prints.
    pub(crate) fn shoal(&self, args: &[&str]) -> String {
        let mut command = self.network.command(Place::Origin, program("shoal"));
        let api = format!("http://{}:{}", Network::address(Place::Origin), COORDINATOR_PORT + 1);
        command.args(["--coordinator", &api, "--token-file"]).arg(self.path("coordinator/admin.token")).args(args);
        ran(command.current_dir(self.folder.path()))
    }

    /// The same as one JSON document.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let text = self.shoal(&[args, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Starts the deployment that the text of a deployment file describes; its id.
    pub(crate) fn deploy(&self, text: &str) -> String {
        fs::write(self.path("deploy.yaml"), text).expect("the folder can be written");
        let deployment = self.json(&["deploy", "-f", "deploy.yaml", "--detach"]);
        deployment["id"].as_str().expect("a deployment has an id").to_owned()
    }

    /// Waits until the coordinator sees exactly `count` nodes.
    pub(crate) fn await_online(&self, count: usize, within: Duration) {
        until_seen("every node is online", within, || match self.online() {
            online if online == count => Ok(()),
            online => Err(format!("{online} of {count}")),
        });
    }

    fn online(&self) -> usize {
        let nodes = self.json(&["nodes", "ls"]);
        nodes["nodes"].as_array().map_or(0, |nodes| nodes.iter().filter(|node| node["online"] == true).count())
    }

    /// CPU seconds of all nodes so far.
    pub(crate) fn nodes_cpu(&self) -> f64 {
        self.ended_nodes_cpu + self.nodes.values().map(cpu).sum::<f64>()
    }

    /// CPU seconds of the coordinator so far.
    pub(crate) fn coordinator_cpu(&self) -> f64 {
        self.coordinator.iter().map(cpu).sum()
    }

    /// CPU seconds of all feeds so far.
    pub(crate) fn feeds_cpu(&self) -> f64 {
        self.ended_feeds_cpu + self.feed.iter().map(cpu).sum::<f64>()
    }

    /// Bytes that the WAN links let into all sites.
    pub(crate) fn wan_bytes(&self) -> u64 {
        (1..=self.shape.sites).map(|site| self.network.wan_bytes(site)).sum()
    }

    /// Where the step `stamp` of a deployment writes the path of a node's file.
    pub(crate) fn stamp(&self, place: NodePlace) -> PathBuf {
        self.path(&format!("{}.stamp", node_name(place)))
    }

    /// A step that does so.
    pub(crate) fn stamp_step(&self) -> String {
        let folder = self.folder.path().display();
        format!("{{ name: stamp, run: 'echo \"$SHOAL_PACKAGE_DATA\" > {folder}/$SHOAL_NODE.stamp' }}")
    }

    /// Compares the file of each of these nodes with the package.
    ///
    /// # Panics
    /// If one has other bytes, or none.
    pub(crate) fn compare(&self, places: &[NodePlace]) {
        let package = self.path("package.bin");
        for place in places {
            let name = node_name(*place);
            let stamp = fs::read_to_string(self.stamp(*place)).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(same(&package, Path::new(stamp.trim())), "{name} has other bytes");
        }
    }
}

fn cpu(process: &Process) -> f64 {
    cpu_seconds(process.id())
}

fn node_name((site, number): NodePlace) -> String {
    format!("s{site}n{number}")
}

/// Runs a command to its end; what it printed.
fn ran(command: &mut Command) -> String {
    let ran = command.output().expect("it starts");
    assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

/// A folder in memory where there is room, so that no disk is measured; on a disk else.
fn room(shape: Shape, bytes: u64) -> TempDir {
    let needed = bytes * u64::from(shape.sites * shape.nodes + 3);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = available.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    let kib = kib.unwrap_or(0);
    let folder = match kib * 512 > needed {
        true => tempfile::tempdir_in("/dev/shm").inspect(|folder| touch(folder.path(), (3 * needed).min(kib * 512))),
        false => tempfile::tempdir(),
    };
    folder.or_else(|_| tempfile::tempdir()).expect("there is room for a folder")
}

/// Has the machine own `bytes` of memory while `folder` is there, most of it free: what the programs are given is then the
/// same pages. A virtual machine returns to its host what is free in runs of megabytes, soon after it became so, and the
/// first touch of such memory costs up to 3 CPU seconds per GiB: more than all that is measured here, and another amount each
/// time. So a file in memory keeps a page of every [`TOUCHED_RUN`] bytes.
#[cfg(target_os = "linux")]
fn touch(folder: &Path, bytes: u64) {
    use nix::fcntl::{FallocateFlags, fallocate};

    let mut zeros = std::io::repeat(0).take(bytes);
    let file = fs::File::create(folder.join("touched")).expect("the folder was just made");
    std::io::copy(&mut zeros, &mut &file).expect("there is room for everything");
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    for run in (0..bytes as i64).step_by(TOUCHED_RUN) {
        fallocate(&file, hole, run + PAGE, TOUCHED_RUN as i64 - PAGE).expect("files in memory may have holes");
    }
}

/// Elsewhere nothing is measured in memory.
#[cfg(not(target_os = "linux"))]
fn touch(_: &Path, _: u64) {}

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
