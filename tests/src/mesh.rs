//! A coordinator and its nodes, each a process, in a folder and on a loopback address of their own.
//!
//! The coordinator's ports are fixed on an address that no other mesh has, so that it is found again after a restart.
//! Few meshes run at once, whatever the test runner does: they are several processes each.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::{Process, disk, program, until, until_seen};

/// Meshes at once.
const MESHES_MAX: u32 = 2;

/// How long a process may take to start or to be seen: long, since a loaded machine is slow, and nobody waits for it in vain.
const SOON: Duration = Duration::from_secs(30);

static MESHES: (Mutex<u32>, Condvar) = (Mutex::new(0), Condvar::new());

/// The right to run a mesh.
struct Permit;

impl Permit {
    fn acquire() -> Self {
        let running = MESHES.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running =
            MESHES.1.wait_while(running, |running| *running >= MESHES_MAX).unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        Self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *MESHES.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        MESHES.1.notify_one();
    }
}

/// A loopback address on which no coordinator listens.
fn free_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(number < 1000, "no loopback address is free");
        let address = format!("127.{}.{}.{}", 64 + std::process::id() % 128, 1 + number / 250, 1 + number % 250);
        if TcpListener::bind((address.as_str(), API_PORT)).is_ok() {
            return address;
        }
    }
}

const API_PORT: u16 = 7441;

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Standard output as one JSON document.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A coordinator and its nodes; all end when it is dropped. Fields end in their order.
pub struct Mesh {
    nodes: BTreeMap<String, Process>,
    coordinator: Option<Process>,
    joins: BTreeMap<String, String>,
    /// More arguments for every node.
    node_args: Vec<String>,
    /// More variables in the environment of the coordinator and every node.
    env: Vec<(String, String)>,
    /// What the shell's `ulimit` is to set before a process starts.
    ulimit: Option<String>,
    /// Sizes of the disks of nodes that have their own.
    disks: BTreeMap<String, String>,
    address: String,
    folder: TempDir,
    _permit: Permit,
}

impl Mesh {
    /// A coordinator with `settings` added to its configuration: feeds and sites. Waits until it is ready.
    pub fn start(settings: &str) -> Self {
        Self::start_in(settings, &[])
    }

    /// The same with more variables in the environment of the coordinator and of all nodes.
    pub fn start_in(settings: &str, env: &[(&str, &str)]) -> Self {
        let permit = Permit::acquire();
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let address = free_address();
        let config = format!(
            "data_dir = 'coordinator'\napi_listen = '{address}:{API_PORT}'\n\
             mesh_listen = ['/ip4/{address}/tcp/7440']\nbulk_listen = ['/ip4/{address}/tcp/7443']\n{settings}"
        );
        fs::write(folder.path().join("coordinator.toml"), config).expect("the folder can be written");
        let (nodes, joins, disks) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let node_args = Vec::new();
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (coordinator, ulimit) = (None, None);
        let mut mesh =
            Self { nodes, coordinator, joins, node_args, env, ulimit, disks, address, folder, _permit: permit };
        mesh.start_coordinator();
        mesh
    }

    /// A file or folder of this mesh.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The coordinator's API.
    pub fn api(&self) -> String {
        format!("http://{}:{API_PORT}", self.address)
    }

    /// What the coordinator has logged.
    pub fn coordinator_log(&self) -> String {
        fs::read_to_string(self.path("coordinator.log")).unwrap_or_default()
    }

    /// Starts the coordinator, again perhaps, and waits until it says that it is ready.
    pub fn start_coordinator(&mut self) {
        let mut command = Command::new(program("shoal"));
        command.arg("serve").arg("-c").arg(self.path("coordinator.toml")).envs(self.env.iter().cloned());
        let mut command = self.limited(command);
        let before = ready_lines(&self.coordinator_log());
        let mut process = Process::start("the coordinator", &mut command, &self.path("coordinator.log"));
        until("the coordinator is ready", SOON, || {
            let log = process.log();
            assert!(process.runs(), "the coordinator has ended:\n{log}");
            (ready_lines(&log) > before).then_some(())
        });
        self.coordinator = Some(process);
    }

    /// Kills the coordinator with `kill -9`.
    pub fn kill_coordinator(&mut self) {
        self.coordinator.take().expect("it runs").kill();
    }

    /// Asks the coordinator to end, and waits; its exit code.
    pub fn stop_coordinator(&mut self) -> Option<i32> {
        self.coordinator.take().expect("it runs").terminate(SOON).code()
    }

    /// Nodes that start from here on get these arguments as well.
    pub fn set_node_args(&mut self, args: &[&str]) {
        self.node_args = args.iter().map(|arg| (*arg).to_owned()).collect();
    }

    /// The coordinator and nodes that start from here on do so with what `ulimit`, given `limits`, sets.
    pub fn set_ulimit(&mut self, limits: &str) {
        self.ulimit = Some(limits.to_owned());
    }

    fn limited(&self, command: Command) -> Command {
        let Some(limits) = &self.ulimit else { return command };
        let mut within = Command::new("sh");
        within.args(["-c", &format!("ulimit {limits}; exec \"$@\""), "sh"]);
        within.arg(command.get_program()).args(command.get_args()).envs(self.env.iter().cloned());
        within
    }

    /// Puts the folder of node `name` on a disk of its own of `size`, such as `4m`: a fresh one when it starts, or the one
    /// that it has once it runs. See [`disk::unavailable`].
    pub fn set_disk(&mut self, name: &str, size: &str) {
        self.disks.insert(name.to_owned(), size.to_owned());
        if let Some(process) = self.nodes.get(name) {
            disk::resize(process.id(), &self.path(name), size);
        }
    }

    /// A file or folder of this mesh as node `name` sees it, its own disk included.
    pub fn path_on(&self, name: &str, path: &str) -> PathBuf {
        let root = format!("/proc/{}/root", self.nodes[name].id());
        PathBuf::from(root + &self.path(path).to_string_lossy())
    }

    /// Starts nodes with role `web` at `site` and waits until they are online.
    pub fn join(&mut self, site: &str, names: &[&str]) {
        let token = self.shoal(&["token", "create", "--site", site, "--role", "web"]);
        assert_eq!(token.code, 0, "{token:?}");
        for name in names {
            self.joins.insert((*name).to_owned(), token.stdout.trim().to_owned());
            self.start_node(name);
        }
        for name in names {
            self.await_online(name);
        }
    }

    /// The command that runs node `name` with a join string.
    pub fn node_command(&self, name: &str, join: &str) -> Command {
        let mut command = Command::new(program("shoal-node"));
        command.args(["--join", join, "--name", name, "--listen", &format!("{}:0", self.address), "--data-dir"]);
        command.arg(self.path(name)).args(&self.node_args).envs(self.env.iter().cloned());
        command
    }

    /// Starts a node that joined before, or is about to.
    pub fn start_node(&mut self, name: &str) {
        let mut command = self.limited(self.node_command(name, &self.joins[name]));
        if let Some(size) = self.disks.get(name) {
            command = disk::with_disk(&command, &self.path(name), size);
        }
        let process = Process::start(name, &mut command, &self.path(&format!("{name}.log")));
        self.nodes.insert(name.to_owned(), process);
    }

    /// Waits until the coordinator sees node `name`.
    pub fn await_online(&self, name: &str) {
        until(&format!("{name} is online"), SOON, || self.node(name)?["online"].as_bool().filter(|online| *online));
    }

    /// Waits until the coordinator sees that node `name` is gone.
    pub fn await_offline(&self, name: &str) {
        until(&format!("{name} is offline"), SOON, || self.node(name)?["online"].as_bool().filter(|online| !online));
    }

    fn node(&self, name: &str) -> Option<Value> {
        let nodes = self.shoal(&["nodes", "ls", "-o", "json"]).json();
        nodes["nodes"].as_array()?.iter().find(|node| node["name"] == name).cloned()
    }

    /// Kills node `name` with `kill -9`.
    pub fn kill_node(&mut self, name: &str) {
        self.nodes.remove(name).expect("it runs").kill();
    }

    /// Has node `name` do nothing at all until it is killed or thawed; its connections stay for a while.
    pub fn freeze_node(&self, name: &str) {
        self.nodes[name].freeze();
    }

    /// Has a frozen node go on.
    pub fn thaw_node(&self, name: &str) {
        self.nodes[name].thaw();
    }

    /// Runs the operator's command line.
    pub fn shoal(&self, args: &[&str]) -> Ran {
        self.shoal_with_token(&self.path("coordinator/admin.token"), args)
    }

    /// The same with another token file.
    pub fn shoal_with_token(&self, token: &std::path::Path, args: &[&str]) -> Ran {
        let mut command = Command::new(program("shoal"));
        command.args(["--coordinator", &self.api(), "--token-file"]).arg(token).args(args);
        let ran = command.env("NO_COLOR", "1").env_remove("SHOAL_TOKEN").current_dir(self.folder.path()).output();
        let ran = ran.expect("shoal starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { code: ran.status.code().unwrap_or(-1), stdout: text(&ran.stdout), stderr: text(&ran.stderr) }
    }

    /// Writes `file` as `deploy.yaml` and runs `shoal deploy` on it with more arguments.
    pub fn deploy(&self, file: &str, args: &[&str]) -> Ran {
        fs::write(self.path("deploy.yaml"), file).expect("the folder can be written");
        self.shoal(&[&["deploy", "-f", "deploy.yaml"], args].concat())
    }

    /// Starts a deployment and returns its id.
    pub fn begin(&self, file: &str) -> String {
        let deployment = self.deploy(file, &["--detach", "-o", "json"]).json();
        assert_eq!(deployment["schema"], "shoal.deployment/v1");
        deployment["id"].as_str().expect("a deployment has an id").to_owned()
    }

    /// How a deployment stands.
    pub fn status(&self, id: &str) -> Value {
        self.shoal(&["status", id, "-o", "json"]).json()
    }

    /// Waits until a deployment's status is as wanted, and returns it.
    pub fn await_status(&self, id: &str, what: &str, within: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        until_seen(&format!("{id}: {what}"), within, || {
            let status = self.status(id);
            if wanted(&status) { Ok(status) } else { Err(format!("{status:#}")) }
        })
    }

    /// Waits until a deployment is in `state`, and returns its status.
    pub fn await_state(&self, id: &str, state: &str, within: Duration) -> Value {
        self.await_status(id, state, within, |status| status["state"] == state)
    }

    /// `text` without what differs between runs: the folder, and the coordinator's address.
    pub fn plain(&self, text: &str) -> String {
        let folder = self.folder.path().to_string_lossy();
        text.replace(&*folder, "FOLDER").replace(&self.api(), "API").replace(&self.address, "ADDRESS")
    }
}

fn ready_lines(log: &str) -> usize {
    log.lines().filter(|line| line.split_whitespace().any(|word| word.trim_end_matches(':') == "ready")).count()
}
