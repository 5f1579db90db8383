//! Everything that runs in a demo: feed, coordinator, WANs and agents, in one process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use shoal_node::config::Settings;
use shoal_node::driver::{Agent, AgentError};
use shoal_proto::id::Name;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::origin::FileServer;
use super::relay::{Link, Wan};
use super::{Folders, failed};
use crate::api::types::TokenRequest;
use crate::cli::args::DemoArgs;
use crate::cli::client::Client;
use crate::cli::exit::{CliError, Exit};
use crate::config::Config;
use crate::driver::{ServeError, Server};

/// What sites are called: airports. The demo has at most so many.
const SITES: [&str; 8] = ["syd", "osl", "gru", "nrt", "fra", "iad", "bom", "jnb"];

/// The last number of the address of a site's relays, past those of its nodes.
const RELAY_HOST: u8 = 254;

/// How long nodes may take to join.
const JOIN_MAX: Duration = Duration::from_secs(60);

/// How often the coordinator is asked whether they have.
const JOIN_POLL: Duration = Duration::from_millis(200);

/// How long agents and coordinator may take to stop.
const STOP_MAX: Duration = Duration::from_secs(5);

/// How long join strings work, in seconds.
const TOKEN_TTL_S: u64 = 3600;

/// A mesh that runs; what is left of it ends when it is dropped.
pub(super) struct Mesh {
    client: Client,
    sites: Vec<Site>,
    nodes: usize,
    agents: JoinSet<(String, Result<(), AgentError>)>,
    server: JoinHandle<Result<(), ServeError>>,
    stop_agents: CancellationToken,
    stop_server: CancellationToken,
    /// Serves what nodes have installed: stands for the services of all nodes.
    _machines: FileServer,
    /// Their base URL.
    health: String,
    _origin: FileServer,
}

/// One site's WAN.
struct Site {
    name: Name,
    feed: Link,
    control: Link,
    bulk: Link,
}

/// Payload bytes that a site received over its WAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SiteCrossed {
    /// The site.
    pub site: String,
    /// From the feed: whole HTTP answers.
    pub feed: u64,
    /// From the coordinator: control, recipes, and all of their encryption.
    pub coordinator: u64,
}

impl Mesh {
    /// Starts everything; nodes then join by themselves.
    ///
    /// # Errors
    /// If something does not start.
    pub(super) async fn start(args: &DemoArgs, folders: &Folders) -> Result<Self, CliError> {
        let origin = FileServer::start(&folders.feed).await.map_err(failed("start the feed"))?;
        let machines = FileServer::start(&folders.machines).await.map_err(failed("start the nodes' services"))?;
        let mut wans = Vec::new();
        for (number, name) in (1..=args.sites).zip(SITES) {
            let (wan, inside) = (Wan::new(args.wan), host(number, RELAY_HOST));
            let feed = wan.link(inside, origin.address()).await.map_err(failed("relay the feed"))?;
            wans.push((Name::new(name).expect("a name"), inside, wan, feed));
        }
        let feeds: Vec<_> = wans.iter().map(|(name, _, _, feed)| (name.as_str(), feed.address())).collect();
        let text = coordinator_toml(origin.address(), &feeds, args.wan);
        let path = folders.root.join("coordinator.toml");
        std::fs::write(&path, &text).map_err(failed("write coordinator.toml"))?;
        let config = Config::load(&path).map_err(failed("read coordinator.toml"))?;
        let token_file = config.data_dir.join("admin.token");
        let server = Server::start(config).await.map_err(failed("start the coordinator"))?;
        let (control, bulk) = (tcp_address(server.control())?, tcp_address(server.bulk())?);
        let token = std::fs::read_to_string(token_file).map_err(failed("read the operator's token"))?;
        let client = Client::new(&format!("http://{}", server.api()), Some(token.trim().to_owned()))?;
        let stop_server = CancellationToken::new();
        let server = tokio::spawn(server.run(stop_server.clone()));

        let mut sites = Vec::new();
        for (name, inside, wan, feed) in wans {
            let relay = async |target| wan.link(inside, target).await.map_err(failed("relay the coordinator"));
            sites.push(Site { name, feed, control: relay(control).await?, bulk: relay(bulk).await? });
        }
        let health = format!("http://{}", machines.address());
        let nodes = usize::from(args.sites) * usize::from(args.nodes);
        let (agents, stop_agents) = (JoinSet::new(), CancellationToken::new());
        let mut mesh = Self {
            client,
            sites,
            nodes,
            agents,
            server,
            stop_agents,
            stop_server,
            _machines: machines,
            health,
            _origin: origin,
        };
        mesh.start_agents(args.nodes, &folders.root).await?;
        Ok(mesh)
    }

    async fn start_agents(&mut self, nodes: u8, root: &Path) -> Result<(), CliError> {
        for (number, site) in (1..).zip(&self.sites) {
            let request = TokenRequest {
                site: site.name.clone(),
                roles: vec![Name::new("demo").expect("a name")],
                ttl_s: TOKEN_TTL_S,
                advertise: vec![multiaddress(site.control.address())],
                advertise_bulk: vec![multiaddress(site.bulk.address())],
            };
            let join = self.client.create_token(&request).await?.join;
            for node in 1..=nodes {
                let name = format!("{}-{node}", site.name);
                let listen = vec![multiaddress(SocketAddr::new(host(number, node), 0))];
                let settings = Settings {
                    join: Some(join.clone()),
                    name: Some(name.clone()),
                    data_dir: Some(root.join("nodes").join(&name)),
                    bulk_listen: listen.clone(),
                    listen,
                    ..Settings::default()
                };
                let config = settings.check(&name).map_err(failed("set up a node"))?;
                let stop = self.stop_agents.clone();
                self.agents.spawn(async move {
                    let ran = match Agent::start(config).await {
                        Ok(agent) => agent.run(stop).await,
                        Err(error) => Err(error),
                    };
                    (name, ran)
                });
            }
        }
        Ok(())
    }

    /// The operator's way to the coordinator.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Base URL of the nodes' services.
    pub(super) fn health(&self) -> &str {
        &self.health
    }

    /// Waits until all nodes have joined.
    ///
    /// # Errors
    /// If one does not in [`JOIN_MAX`].
    pub(super) async fn online(&mut self) -> Result<(), CliError> {
        let (client, wanted, started) = (self.client.clone(), self.nodes, Instant::now());
        let joined = async {
            loop {
                let online = client.nodes().await?.nodes.iter().filter(|node| node.online).count();
                if online == wanted {
                    return Ok(());
                }
                if started.elapsed() > JOIN_MAX {
                    let message = format!("{online} of {wanted} nodes joined within {} s", JOIN_MAX.as_secs());
                    return Err(CliError::new(Exit::Unexpected, message).next("`shoal -vv demo` shows what they do"));
                }
                sleep(JOIN_POLL).await;
            }
        };
        tokio::select! {
            joined = joined => joined,
            error = self.broken() => Err(error),
        }
    }

    /// Waits until an agent or the coordinator ends by itself, which it should not.
    pub(super) async fn broken(&mut self) -> CliError {
        let cause = tokio::select! {
            Some(ended) = self.agents.join_next() => match ended {
                Ok((name, Err(error))) => format!("node {name} ended: {error}"),
                Ok((name, Ok(()))) => format!("node {name} ended"),
                Err(error) => format!("a node ended: {error}"),
            },
            ended = &mut self.server => match ended {
                Ok(Err(error)) => format!("the coordinator ended: {error}"),
                Ok(Ok(())) => "the coordinator ended".to_owned(),
                Err(error) => format!("the coordinator ended: {error}"),
            },
        };
        CliError::new(Exit::Unexpected, cause)
    }

    /// What the relays counted so far.
    pub(super) fn crossed(&self) -> Vec<SiteCrossed> {
        let of = |site: &Site| SiteCrossed {
            site: site.name.to_string(),
            feed: site.feed.crossed().down,
            coordinator: site.control.crossed().down + site.bulk.crossed().down,
        };
        self.sites.iter().map(of).collect()
    }

    /// Stops the agents, then the coordinator; what does not stop in time is dropped.
    pub(super) async fn stop(mut self) {
        self.stop_agents.cancel();
        let all_ended = async { while self.agents.join_next().await.is_some() {} };
        let _ = timeout(STOP_MAX, all_ended).await;
        self.stop_server.cancel();
        if !self.server.is_finished() {
            let _ = timeout(STOP_MAX, &mut self.server).await;
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A loopback address of a site: 127.0.1.x is the first one's.
fn host(site: u8, host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, site, host))
}

fn multiaddress(address: SocketAddr) -> String {
    format!("/ip4/{}/tcp/{}", address.ip(), address.port())
}

/// The address of TCP among those that the coordinator listens on.
fn tcp_address(addresses: &[shoal_node::net::Multiaddr]) -> Result<SocketAddr, CliError> {
    let parse = |address: &shoal_node::net::Multiaddr| {
        let text = address.to_string();
        let (host, port) = text.strip_prefix("/ip4/")?.split_once("/tcp/")?;
        Some(SocketAddr::new(host.parse().ok()?, port.parse().ok()?))
    };
    let none = || CliError::new(Exit::Unexpected, "the coordinator listens on no TCP address");
    addresses.iter().find_map(parse).ok_or_else(none)
}

/// The coordinator's configuration: the feed, for each site by its own WAN; the rates, for the bound in the summary.
fn coordinator_toml(origin: SocketAddr, sites: &[(&str, SocketAddr)], wan: u64) -> String {
    let url = |address: &SocketAddr| format!("http://{address}/{{id}}-{{version}}.zip");
    let mirror =
        |(site, feed): &(&str, SocketAddr)| format!("  {{ sites = [\"{site}\"], url = \"{}\" }},\n", url(feed));
    let mirrors: String = sites.iter().map(mirror).collect();
    let limit = |(site, _): &(&str, SocketAddr)| {
        format!("\n[[site]]\nname = \"{site}\"\nwan_limit = \"{} bit/s\"\n", wan.saturating_mul(8))
    };
    let limits: String = sites.iter().map(limit).collect();
    format!(
        r#"data_dir = "coordinator"
mesh_listen = ["/ip4/127.0.0.1/tcp/0"]
bulk_listen = ["/ip4/127.0.0.1/tcp/0"]
api_listen = "127.0.0.1:0"

[[feed]]
name = "origin"
kind = "http"
url = "{}"
mirrors = [
{mirrors}]
{limits}"#,
        url(&origin)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::feed::FeedPlace;

    #[test]
    fn the_configuration_is_one_that_a_coordinator_reads() {
        let address = |text: &str| text.parse().unwrap();
        let sites = [("syd", address("127.0.1.254:11")), ("osl", address("127.0.2.254:12"))];
        let text = coordinator_toml(address("127.0.0.1:10"), &sites, 6_250_000);
        let config = Config::parse(&text, Path::new("/demo/coordinator.toml")).unwrap();
        assert_eq!(config.data_dir, Path::new("/demo/coordinator"));
        let limits: Vec<_> = config.sites.values().map(|site| site.calendar.base).collect();
        assert_eq!(limits, [Some(6_250_000); 2]);
        let Some(FeedPlace::Remote(feed)) = config.feeds.values().next().map(|feed| &feed.place) else {
            panic!("{config:?}")
        };
        assert_eq!(feed.url, "http://127.0.0.1:10/{id}-{version}.zip");
        let of_osl = feed.mirrors.iter().find(|mirror| mirror.sites[0].matches(&Name::new("osl").unwrap()));
        assert_eq!(of_osl.map(|mirror| mirror.url.as_str()), Some("http://127.0.2.254:12/{id}-{version}.zip"));
    }
}
