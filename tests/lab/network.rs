//! Sites with WAN and LAN links on one machine, made of network namespaces; removed when it is dropped.
//!
//! ```text
//! origin -- core --(WAN, both ways)-- site 1's router and bridge --(LAN, both ways)-- nodes 1.1, 1.2, …
//!             \----(WAN, both ways)-- site 2's router and bridge -- …
//! ```
//!
//! Links are shaped by `tbf` and counted at their sender, behind its shaper: frames, so that a package that crosses a
//! shaped link once counts 1.046 times. Every address and interface is inside the namespaces; the machine's own network
//! is not touched. Needs root, `ip` and `tc`.

use std::process::Command;

/// A link's rate in bits per second; `None` is as fast as the machine.
pub(crate) type Rate = Option<u64>;

/// What to build.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Sites.
    pub(crate) sites: u32,
    /// Nodes of each site.
    pub(crate) nodes: u32,
    /// Each site's WAN link, each way.
    pub(crate) wan: Rate,
    /// Each node's link, each way.
    pub(crate) lan: Rate,
    /// Whether the nodes of a site share one host and its link, each with an address of its own: for hundreds of them.
    pub(crate) crowded: bool,
}

/// A TCP connection as one of its ends sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    /// The process that has it.
    pub(crate) process: u32,
    /// Its own port.
    pub(crate) local_port: u16,
    /// The other end's port.
    pub(crate) peer_port: u16,
    /// Whether the other end is outside of all sites.
    pub(crate) to_origin: bool,
    /// Bytes that it sent and received so far, without headers.
    pub(crate) bytes: u64,
}

/// Where a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Outside of all sites: the feed and the coordinator.
    Origin,
    /// A node of a site; both count from 1.
    Node(u32, u32),
}

/// How long packets wait at a shaper, at most.
const QUEUE: &str = "50ms";

/// What a shaper lets through at once: more than a segmentation buffer of 64 KiB.
const WAN_BURST: &str = "128kb";
const LAN_BURST: &str = "512kb";

/// A network of namespaces.
#[derive(Debug)]
pub(crate) struct Network {
    prefix: String,
    shape: Shape,
    namespaces: Vec<String>,
}

impl Network {
    /// Builds it.
    ///
    /// # Panics
    /// If `ip` or `tc` is missing or fails: the lab cannot go on.
    pub(crate) fn up(shape: Shape) -> Self {
        let prefix = format!("shl{}", std::process::id());
        let mut network = Self { prefix, shape, namespaces: Vec::new() };
        network.router("core");
        network.namespace("o");
        network.link("core", "o", "o", "eth0");
        network.ip("core", "addr add 10.71.0.1/24 dev o");
        network.ip("o", "addr add 10.71.0.2/24 dev eth0");
        network.ip("o", "route add default via 10.71.0.1");
        for site in 1..=shape.sites {
            network.site(site);
        }
        network
    }

    /// The address of a place.
    pub(crate) fn address(place: Place) -> String {
        match place {
            Place::Origin => "10.71.0.2".to_owned(),
            Place::Node(site, number) => format!("10.71.{site}.{}", 10 + number),
        }
    }

    /// A command that runs `program` at `place`.
    pub(crate) fn command(&self, place: Place, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.full(&self.host(place))]).arg(program);
        command
    }

    /// The open TCP connections of the host at `place`.
    pub(crate) fn sockets(&self, place: Place) -> Vec<Socket> {
        let host = self.full(&self.host(place));
        let shown = output("ip", &["netns", "exec", &host, "ss", "-HOtinp", "state", "established"]);
        shown.lines().filter_map(socket).collect()
    }

    /// The name of the host that a place is on.
    fn host(&self, place: Place) -> String {
        match place {
            Place::Origin => "o".to_owned(),
            Place::Node(site, number) => host_name(site, if self.shape.crowded { 1 } else { number }),
        }
    }

    /// Bytes that the WAN link of `site` let into the site.
    pub(crate) fn wan_bytes(&self, site: u32) -> u64 {
        let (core, device) = (self.full("core"), format!("w{site}"));
        if self.shape.wan.is_some() {
            let shown = output("ip", &["netns", "exec", &core, "tc", "-s", "qdisc", "show", "dev", &device, "root"]);
            let sent = shown.split_whitespace().skip_while(|word| *word != "Sent").nth(1);
            return sent.and_then(|bytes| bytes.parse().ok()).expect("tc tells what was sent");
        }
        let file = format!("/sys/class/net/{device}/statistics/tx_bytes");
        let shown = output("ip", &["netns", "exec", &core, "cat", &file]);
        shown.trim().parse().expect("a counter is a number")
    }

    /// Bytes that the links of all nodes of `site` let out to them.
    pub(crate) fn node_bytes(&self, site: u32) -> u64 {
        let router = self.full(&format!("s{site}"));
        let files = "cat /sys/class/net/p*/statistics/tx_bytes";
        let shown = output("ip", &["netns", "exec", &router, "sh", "-c", files]);
        shown.lines().map(|line| line.parse::<u64>().expect("a counter is a number")).sum()
    }

    /// Drops whatever crosses the WAN of `site`, both ways, without a word.
    pub(crate) fn cut(&self, site: u32) {
        self.ip("core", &format!("route replace blackhole 10.71.{site}.0/24"));
        self.ip(&format!("s{site}"), "route replace blackhole default");
    }

    /// The end of [`Self::cut`].
    pub(crate) fn mend(&self, site: u32) {
        self.ip("core", &format!("route del blackhole 10.71.{site}.0/24"));
        self.ip("core", &format!("route replace 10.71.{site}.0/24 via 10.71.{}.2", 100 + site));
        self.ip(&format!("s{site}"), "route del blackhole default");
        self.ip(&format!("s{site}"), &format!("route replace default via 10.71.{}.1", 100 + site));
    }

    /// Gives one node a link of its own rate.
    pub(crate) fn limit_node(&self, site: u32, number: u32, rate: u64) {
        self.shape_link(&format!("s{site}"), &format!("p{number}"), Some(rate), LAN_BURST);
        self.shape_link(&host_name(site, number), "eth0", Some(rate), LAN_BURST);
    }

    fn site(&mut self, site: u32) {
        let Shape { nodes, wan, lan, .. } = self.shape;
        let router = format!("s{site}");
        let uplink = format!("w{site}");
        self.router(&router);
        self.link("core", &uplink, &router, "wan");
        self.ip("core", &format!("addr add 10.71.{}.1/30 dev {uplink}", 100 + site));
        self.ip(&router, &format!("addr add 10.71.{}.2/30 dev wan", 100 + site));
        self.ip("core", &format!("route add 10.71.{site}.0/24 via 10.71.{}.2", 100 + site));
        self.ip(&router, &format!("route add default via 10.71.{}.1", 100 + site));
        self.shape_link("core", &uplink, wan, WAN_BURST);
        self.shape_link(&router, "wan", wan, WAN_BURST);
        self.ip(&router, "link add lan type bridge mcast_snooping 0");
        self.ip(&router, "link set lan up");
        self.ip(&router, &format!("addr add 10.71.{site}.1/24 dev lan"));
        let hosts = if self.shape.crowded { 1 } else { nodes };
        for number in 1..=hosts {
            let (host, port) = (host_name(site, number), format!("p{number}"));
            self.namespace(&host);
            self.link(&router, &port, &host, "eth0");
            self.ip(&router, &format!("link set {port} master lan"));
            let addresses = if self.shape.crowded { 1..=nodes } else { number..=number };
            for number in addresses {
                self.ip(&host, &format!("addr add {}/24 dev eth0", Self::address(Place::Node(site, number))));
            }
            self.ip(&host, &format!("route add default via 10.71.{site}.1"));
            self.shape_link(&router, &port, lan, LAN_BURST);
            self.shape_link(&host, "eth0", lan, LAN_BURST);
        }
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn namespace(&mut self, name: &str) {
        let full = self.full(name);
        output("ip", &["netns", "add", &full]);
        self.namespaces.push(full.clone());
        self.ip(name, "link set lo up");
        let settings = ["net.ipv6.conf.all.disable_ipv6=1", "net.ipv4.tcp_no_metrics_save=1"];
        output("ip", &[&["netns", "exec", &full, "sysctl", "-qw"][..], &settings[..]].concat());
    }

    fn router(&mut self, name: &str) {
        self.namespace(name);
        output("ip", &["netns", "exec", &self.full(name), "sysctl", "-qw", "net.ipv4.ip_forward=1"]);
    }

    fn link(&self, a: &str, a_device: &str, b: &str, b_device: &str) {
        let peer = format!("link add {a_device} type veth peer name {b_device} netns {}", self.full(b));
        self.ip(a, &peer);
        // Shapers of the kind used here need a queue length, which a virtual link has not by itself.
        self.ip(a, &format!("link set {a_device} txqueuelen 1000 up"));
        self.ip(b, &format!("link set {b_device} txqueuelen 1000 up"));
    }

    fn shape_link(&self, namespace: &str, device: &str, rate: Rate, burst: &str) {
        let Some(rate) = rate else { return };
        let (namespace, rate) = (self.full(namespace), format!("{rate}bit"));
        let tbf = ["tbf", "rate", &rate, "burst", burst, "latency", QUEUE];
        let qdisc = ["netns", "exec", &namespace, "tc", "qdisc", "replace", "dev", device, "root"];
        output("ip", &[&qdisc[..], &tbf[..]].concat());
    }

    fn ip(&self, namespace: &str, words: &str) {
        let namespace = self.full(namespace);
        let mut args = vec!["-n", &namespace];
        args.extend(words.split_whitespace());
        output("ip", &args);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            // The others are to be removed whatever happens with one.
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

fn host_name(site: u32, number: u32) -> String {
    format!("s{site}n{number}")
}

/// A line of `ss`: two queues, two addresses, who has it, and what it counts.
fn socket(line: &str) -> Option<Socket> {
    let mut words = line.split_whitespace().skip(2);
    let (local, peer) = (words.next()?, words.next()?);
    let port = |address: &str| address.rsplit_once(':')?.1.parse().ok();
    let process = line.split_once("pid=")?.1.split(',').next()?.parse().ok()?;
    let count = |name: &str| words.clone().find_map(|word| word.strip_prefix(name)?.parse::<u64>().ok()).unwrap_or(0);
    let bytes = count("bytes_sent:") + count("bytes_received:");
    let to_origin = peer.starts_with(&Network::address(Place::Origin));
    Some(Socket { process, local_port: port(local)?, peer_port: port(peer)?, to_origin, bytes })
}

fn output(program: &str, args: &[&str]) -> String {
    let ran = Command::new(program).args(args).output();
    let ran = ran.unwrap_or_else(|error| panic!("{program} does not start: {error}; the lab needs iproute2"));
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{program} {}: {}", args.join(" "), said.trim());
    String::from_utf8_lossy(&ran.stdout).into_owned()
}
