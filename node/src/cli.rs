//! The agent's command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, ConfigError, Settings};
use crate::driver::{Agent, AgentError};
use crate::membership::MembershipError;
use crate::open_files;

/// Exit code for a usage error.
const USAGE: u8 = 2;

/// Exit code for a node that its coordinator refuses, or that is told to obey another one.
const NOT_ALLOWED: u8 = 8;

const EXIT_CODES: &str = "Exit codes:
  0  stopped, as it was asked to
  1  something unexpected
  2  wrong usage, or a mistake in the settings file
  8  not allowed: the coordinator refuses this node (say, its join string is expired or revoked), or the join string is
     not of the coordinator that this node belongs to or that answers";

/// The agent of Shoal: fetches packages with its neighbours and runs the steps of deployments.
#[derive(Debug, Parser)]
#[command(name = "shoal-node", version, after_help = EXIT_CODES)]
pub struct Args {
    /// Join string, from `shoal token create`; needed at the first start.
    #[arg(long, value_name = "STRING", env = "SHOAL_JOIN", hide_env_values = true, conflicts_with = "join_file")]
    join: Option<String>,
    /// File that holds the join string.
    #[arg(long, value_name = "FILE", env = "SHOAL_JOIN_FILE")]
    join_file: Option<PathBuf>,
    /// Name of this node [default: the host name].
    #[arg(long, env = "SHOAL_NAME")]
    name: Option<String>,
    /// Site that this node should be in; must agree with the join string.
    #[arg(long, env = "SHOAL_SITE")]
    site: Option<String>,
    /// Label for selectors; may be given several times.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
    labels: Vec<(String, String)>,
    /// Where everything is kept [default: /var/lib/shoal-node].
    #[arg(long, value_name = "DIR", env = "SHOAL_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Most that the package cache may hold, such as `20 GiB`; what deployments need stays beyond it [default: all].
    #[arg(long, value_name = "SIZE", env = "SHOAL_CACHE_MAX")]
    cache_max: Option<String>,
    /// Most that is sent to neighbours, such as `2MB/s` [default: no limit].
    #[arg(long, value_name = "RATE", env = "SHOAL_UPLOAD_LIMIT")]
    upload_limit: Option<String>,
    /// Most that is received, from neighbours and over the WAN together [default: no limit].
    #[arg(long, value_name = "RATE", env = "SHOAL_DOWNLOAD_LIMIT")]
    download_limit: Option<String>,
    /// Address to listen on, `/ip4/0.0.0.0/tcp/7442` or `0.0.0.0:7442`; may be given several times.
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Address for bulk transfers [default: those of --listen with the next port].
    #[arg(long, value_name = "ADDR")]
    bulk_listen: Vec<String>,
    /// How long the coordinator is out of reach before this node may read packages in its absence [default: 30s].
    #[arg(long, value_name = "SPAN", hide = true)]
    coordinator_grace: Option<String>,
    /// Settings file; flags and environment go over it.
    #[arg(short, long, value_name = "FILE", env = "SHOAL_NODE_CONFIG")]
    config: Option<PathBuf>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE is wanted, such as role=web")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Args {
    fn check(self) -> Result<Config, ConfigError> {
        let file = self.config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
        let flags = Settings {
            join: self.join,
            join_file: self.join_file,
            name: self.name,
            site: self.site,
            labels: self.labels.into_iter().collect(),
            data_dir: self.data_dir,
            cache_max: self.cache_max,
            upload_limit: self.upload_limit,
            download_limit: self.download_limit,
            listen: self.listen,
            bulk_listen: self.bulk_listen,
            coordinator_grace: self.coordinator_grace,
        };
        let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        flags.over(file).check(&host)
    }
}

/// Runs the agent as the command line says, until it is told to stop.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_env("SHOAL_LOG").unwrap_or_else(|_| EnvFilter::new("info,libp2p_swarm=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let config = match args.check() {
        Ok(config) => config,
        Err(error) => return fail(&error, USAGE),
    };
    open_files::raise();
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(network_threads()).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return fail(&error, 1),
        };
    // As a task: what `block_on` itself runs is a thread of its own, to be woken for every event.
    match runtime.block_on(async { tokio::spawn(run(config)).await }) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => fail(&error, exit_code(&error)),
        Err(error) => fail(&error, 1),
    }
}

fn exit_code(error: &AgentError) -> u8 {
    match error {
        AgentError::Refused(_) | AgentError::Foreign { .. } => NOT_ALLOWED,
        AgentError::Membership(MembershipError::OtherCoordinator { .. }) => NOT_ALLOWED,
        AgentError::Membership(MembershipError::NotJoined) => USAGE,
        _ => 1,
    }
}

fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("shoal-node: {error}");
    ExitCode::from(code)
}

async fn run(config: Config) -> Result<(), AgentError> {
    let stop = CancellationToken::new();
    let on_signal = stop.clone();
    tokio::spawn(async move {
        stop_signal().await;
        on_signal.cancel();
    });
    Agent::start(config).await?.run(stop).await
}

/// Waits for Ctrl-C or a request to terminate.
pub async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// Threads for the network: half of the machine's cores, so that what the machine is for goes on, and at most four, which
/// keep up with 25 Gbit/s. Few of them also cost less for the same bytes, and at rest: they do not wake each other.
pub fn network_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, 4))
}
