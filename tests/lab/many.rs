//! Hundreds of real nodes against one coordinator on one machine: what they cost at rest, and what a deployment to all of
//! them takes.
//!
//! The nodes of a site share a host, since links for hundreds would measure the machine. All times are the coordinator's,
//! so that what two cores need to run hundreds of scripts is in them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde_json::Value;
use shoal_tests::until_seen;

use crate::lab::{COORDINATOR_PORT, Lab, NODE_PORT};
use crate::measure::{cpu_seconds, peak_rss_mib, rss_mib};
use crate::network::{Place, Shape, Socket};

/// How long hundreds of processes may take to start, join and connect, or to end a deployment, on a busy machine.
const LONG: Duration = Duration::from_secs(600);

/// How long resting is measured: several heartbeats of channels that are not used.
const REST: Duration = Duration::from_secs(36);

/// How long nothing happens before that: channels count as unused then (`CONTROL_UNUSED_AFTER`).
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// Connections are settled once their number has not changed for this long: longer than changes of rosters are collected.
const SETTLED: Duration = Duration::from_secs(3);

/// Neighbours of a node in a large site.
const NEIGHBOURS_MAX: f64 = 16.0;

/// Frames of the package over a WAN, and of the control messages of a site's nodes: 1 to 2 % of a package of 32 MiB.
const COPIES_MAX: f64 = 1.08;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    /// The network, whose sites are crowded.
    pub(crate) shape: Shape,
    /// The package's size in MiB; none to measure only the rest.
    pub(crate) mib: Option<u64>,
}

/// Runs it and prints a table; whether every target was kept.
///
/// # Panics
/// If anything but the measured figures is not as it should be.
pub(crate) fn run(crowd: Crowd) -> bool {
    let bytes = crowd.mib.unwrap_or(1) << 20;
    let mut lab = Lab::start(crowd.shape, bytes);
    let places = lab.places();
    let mut table = Table::begin(places.len());
    let alone_mib = coordinator_rss(&lab);
    let started = Instant::now();
    places.iter().for_each(|place| lab.start_node(*place));
    lab.await_online(places.len(), LONG);
    table.row("start of the first node to the last one online", Some(started.elapsed().as_secs_f64()), "s", None);
    await_settled(&lab);
    rest(&lab, alone_mib, &mut table);
    if crowd.mib.is_some() {
        deploy(&lab, bytes, &mut table);
    }
    table.kept
}

/// Connections of nodes, by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Connections {
    coordinator: usize,
    neighbours: usize,
    bulk: usize,
    feed: usize,
}

fn connections(lab: &Lab) -> BTreeMap<u32, Connections> {
    let mut found: BTreeMap<u32, Connections> =
        lab.nodes.values().map(|node| (node.id(), Default::default())).collect();
    let sites: std::collections::BTreeSet<_> = lab.nodes.keys().map(|(site, _)| *site).collect();
    for socket in sites.into_iter().flat_map(|site| lab.network.sockets(Place::Node(site, 1))) {
        let Some(of_node) = found.get_mut(&socket.process) else { continue };
        *match socket {
            Socket { to_origin: true, peer_port: COORDINATOR_PORT, .. } => &mut of_node.coordinator,
            Socket { to_origin: true, peer_port: 8080, .. } => &mut of_node.feed,
            Socket { to_origin: false, local_port, peer_port, .. } if [local_port, peer_port].contains(&NODE_PORT) => {
                &mut of_node.neighbours
            }
            _ => &mut of_node.bulk,
        } += 1;
    }
    found
}

fn await_settled(lab: &Lab) {
    let mut last = (BTreeMap::new(), Instant::now());
    until_seen("the nodes have their connections", LONG, || {
        let seen = connections(lab);
        let all = seen.values().all(|of_node| of_node.coordinator == 1);
        if seen != last.0 {
            last = (seen, Instant::now());
        }
        if all && last.1.elapsed() >= SETTLED { Ok(()) } else { Err(format!("{:?}", last.0)) }
    });
}

/// Bytes of the coordinator's control connections so far, both ways.
fn control_bytes(lab: &Lab) -> f64 {
    let sockets = lab.network.sockets(Place::Origin);
    sockets.iter().filter(|socket| socket.local_port == COORDINATOR_PORT).map(|socket| socket.bytes as f64).sum()
}

fn coordinator_rss(lab: &Lab) -> f64 {
    lab.coordinator.as_ref().map_or(0.0, |process| rss_mib(process.id()))
}

/// Measures everything while nothing happens.
fn rest(lab: &Lab, alone_mib: f64, table: &mut Table) {
    let count = lab.nodes.len() as f64;
    let of_nodes = |figure: fn(u32) -> f64| lab.nodes.values().map(|node| figure(node.id())).collect::<Vec<_>>();
    // Neither is a wait for a state: what is measured is that nothing happens, and that it did not for a while.
    std::thread::sleep(LEFT_ALONE);
    let before = (of_nodes(cpu_seconds), lab.coordinator_cpu(), control_bytes(lab), Instant::now());
    std::thread::sleep(REST);
    let seconds = before.3.elapsed().as_secs_f64();
    let after = (of_nodes(cpu_seconds), lab.coordinator_cpu(), control_bytes(lab));
    let cpu: Vec<_> = after.0.iter().zip(&before.0).map(|(after, before)| (after - before) / seconds * 100.0).collect();
    let connections: Vec<_> = connections(lab).into_values().collect();
    let neighbours: Vec<_> = connections.iter().map(|of_node| of_node.neighbours as f64).collect();
    let others: usize = connections.iter().map(|of_node| of_node.bulk + of_node.feed).sum();
    let memory = of_nodes(rss_mib);
    let coordinator_mib = coordinator_rss(lab);
    let each_kb = (coordinator_mib - alone_mib) * 1024.0 * 1.024 / count;
    table.row("at rest: coordinator's memory", Some(coordinator_mib), "MiB", None);
    table.row("of it for each node", Some(each_kb), "kB", Some(100.0));
    table.row("coordinator's CPU", Some((after.1 - before.1) / seconds * 100.0), "% of a core", Some(1.0));
    table.row("control bytes of each node", Some((after.2 - before.2) / seconds / count), "B/s", None);
    table.row("node's memory, mean", Some(mean(&memory)), "MiB", Some(25.0));
    table.row("node's memory, largest", Some(largest(&memory)), "MiB", Some(25.0));
    table.row("node's CPU, mean", Some(mean(&cpu)), "% of a core", Some(0.5));
    table.row("neighbours of a node, mean", Some(mean(&neighbours)), "", Some(NEIGHBOURS_MAX));
    table.row("neighbours of a node, most", Some(largest(&neighbours)), "", None);
    table.row("other connections than those and the coordinator's", Some(others as f64), "", Some(0.0));
}

/// Deploys a package and two steps to all nodes.
fn deploy(lab: &Lab, bytes: u64, table: &mut Table) {
    let (count, sites) = (lab.nodes.len() as f64, f64::from(lab.shape().sites));
    let before = (lab.nodes_cpu(), lab.coordinator_cpu(), lab.feeds_cpu(), control_bytes(lab), lab.wan_bytes());
    let started = Instant::now();
    let id = lab.deploy(&format!(
        "name: lab\nrelease: 1\npackages:\n  data: {{ feed: lab, id: package.bin }}\n\
         targets: [{{ select: 'site!=elsewhere', packages: [data] }}]\n\
         steps:\n- {}\n- {{ name: after, run: 'true' }}\n",
        lab.stamp_step()
    ));
    until_seen("the deployment is over", LONG, || {
        let status = lab.json(&["status", &id]);
        if status["stage"] == "done" { Ok(()) } else { Err(format!("{}", status["waiting"])) }
    });
    let seconds = started.elapsed().as_secs_f64();
    let cpu = [lab.nodes_cpu() - before.0, lab.coordinator_cpu() - before.1, lab.feeds_cpu() - before.2];
    let control = control_bytes(lab) - before.3;
    let wan = (lab.wan_bytes() - before.4) as f64;
    let connections: Vec<_> = connections(lab).into_values().collect();
    let bulk: Vec<_> = connections.iter().map(|of_node| of_node.bulk as f64).collect();
    lab.compare(&lab.places());
    let gib = bytes as f64 * count / f64::from(1 << 30);
    let bound = lab.shape().wan.map(|rate| bytes as f64 * 8.0 / rate as f64);
    table.row(&format!("deployment of {} MiB and two steps", bytes >> 20), Some(seconds), "s", None);
    table.row("bound of its transfer", bound, "s", None);
    table.row("CPU-s per GiB delivered, all", Some(cpu.iter().sum::<f64>() / gib), "", None);
    table.row("CPU-s of the coordinator", Some(cpu[1]), "", None);
    table.row("control bytes of each node", Some(control / count / 1000.0), "kB", None);
    table.row("WAN copies, control included", Some(wan / sites / bytes as f64), "", Some(COPIES_MAX));
    table.row("bulk connections of a node, mean", Some(mean(&bulk)), "", None);
    table.row("bulk connections of a node, most", Some(largest(&bulk)), "", None);
    let peaks: Vec<_> = lab.nodes.values().map(|node| peak_rss_mib(node.id())).collect();
    table.row("node's memory, largest peak", Some(largest(&peaks)), "MiB", Some(48.0));
    steps(lab, &id, table);
}

/// How long after the gate, and after the first step was over, the last node began its step.
fn steps(lab: &Lab, id: &str, table: &mut Table) {
    let printed = lab.shoal(&["watch", id, "-o", "jsonl"]);
    let events: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).expect("events are JSON")).collect();
    let began = |step: &str| -> Vec<f64> {
        let of_step = events.iter().filter(|event| event["event"] == "step-started" && event["step"] == step);
        of_step.map(milliseconds).collect()
    };
    let at = |kind: &str| events.iter().filter(|event| event["event"] == kind).map(milliseconds).fold(0.0, f64::max);
    let ended = events.iter().filter(|event| event["event"] == "step-succeeded" && event["step"] == "stamp");
    let first_over = ended.map(milliseconds).fold(0.0, f64::max);
    assert_eq!(began("stamp").len(), lab.nodes.len(), "each node began the first step once");
    table.row(
        "gate open to the last first step's start",
        Some(largest(&began("stamp")) - at("gate-opened")),
        "ms",
        None,
    );
    table.row(
        "first step over to the last second step's start",
        Some(largest(&began("after")) - first_over),
        "ms",
        None,
    );
}

/// The time of day of an event in milliseconds.
fn milliseconds(event: &Value) -> f64 {
    let time = event["time"].as_str().and_then(|time| time.split_once('T')).map_or("", |(_, time)| time);
    let mut parts = time.trim_end_matches('Z').split(':').map(|part| part.parse::<f64>().unwrap_or(f64::NAN));
    let mut next = || parts.next().unwrap_or(f64::NAN);
    ((next() * 60.0 + next()) * 60.0 + next()) * 1000.0
}

fn mean(figures: &[f64]) -> f64 {
    figures.iter().sum::<f64>() / figures.len() as f64
}

fn largest(figures: &[f64]) -> f64 {
    figures.iter().copied().fold(0.0, f64::max)
}

/// Figures with their targets, printed as they come.
struct Table {
    kept: bool,
}

impl Table {
    fn begin(nodes: usize) -> Self {
        println!("| {nodes} nodes | figure | target |\n| --- | --- | --- |");
        Self { kept: true }
    }

    fn row(&mut self, what: &str, figure: Option<f64>, unit: &str, most: Option<f64>) {
        let (Some(figure), shown) = (figure, |figure: f64| Shown { figure, unit }) else { return };
        let target = most.map_or(String::new(), |most| format!("≤ {}", shown(most)));
        let missed = most.is_some_and(|most| figure > most);
        self.kept &= !missed;
        let mark = if missed { " **missed**" } else { "" };
        println!("| {what} | {}{mark} | {target} |", shown(figure));
    }
}

struct Shown<'a> {
    figure: f64,
    unit: &'a str,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.figure.fract() == 0.0 || self.figure >= 100.0 { 0 } else { 2 };
        write!(f, "{:.digits$}", self.figure)?;
        if self.unit.is_empty() { Ok(()) } else { write!(f, " {}", self.unit) }
    }
}
