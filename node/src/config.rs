//! How the agent is set up: flags over environment over `node.toml` over defaults, checked before anything starts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use shoal_proto::id::Name;
use shoal_proto::join::{JoinError, JoinString};
use shoal_proto::limits::{COORDINATOR_GRACE, RATE_LIMIT_MIN};
use shoal_proto::rollout::units::{UnitError, parse_duration, parse_rate, parse_size};
use thiserror::Error;

use crate::net::Multiaddr;

/// Port of the control mesh unless told otherwise; the bulk mesh takes the one after it.
pub const CONTROL_PORT: u16 = 7442;

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// How to join; `None` for a node that joined before.
    pub join: Option<JoinString>,
    /// What the node is called.
    pub name: Name,
    /// The site that the operator expects it to be in.
    pub site: Option<Name>,
    /// Its labels.
    pub labels: Vec<(Name, String)>,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// How much the package cache may hold, in bytes.
    pub cache_max: Option<u64>,
    /// How fast it sends to neighbours, in bytes per second.
    pub upload_limit: Option<u64>,
    /// How fast it receives, from neighbours and over the WAN together, in bytes per second.
    pub download_limit: Option<u64>,
    /// Where the control mesh listens.
    pub listen: Vec<Multiaddr>,
    /// Where the bulk mesh listens.
    pub bulk_listen: Vec<Multiaddr>,
    /// How long the coordinator is out of reach before this node may read packages in its absence.
    pub coordinator_grace: Duration,
}

/// `node.toml`, and what flags and environment say over it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The join string itself; flags and environment only.
    #[serde(skip)]
    pub join: Option<String>,
    /// A file that holds the join string.
    pub join_file: Option<PathBuf>,
    /// See [`Config::name`].
    pub name: Option<String>,
    /// See [`Config::site`].
    pub site: Option<String>,
    /// See [`Config::labels`].
    pub labels: std::collections::BTreeMap<String, String>,
    /// See [`Config::data_dir`].
    pub data_dir: Option<PathBuf>,
    /// See [`Config::cache_max`], with its unit.
    pub cache_max: Option<String>,
    /// See [`Config::upload_limit`], with its unit.
    pub upload_limit: Option<String>,
    /// See [`Config::download_limit`], with its unit.
    pub download_limit: Option<String>,
    /// Multiaddresses, or `address:port`.
    pub listen: Vec<String>,
    /// The same for the bulk mesh; by default the TCP addresses of `listen` with the next port.
    pub bulk_listen: Vec<String>,
    /// See [`Config::coordinator_grace`], with its unit. The same on all nodes of a site; longer than the coordinator takes
    /// to restart.
    pub coordinator_grace: Option<String>,
}

/// Why the agent cannot be set up.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `node.toml` does not say what it should.
    #[error("{path}: {message}")]
    Toml {
        /// Which file.
        path: PathBuf,
        /// Where and what, with the line.
        message: String,
    },
    /// Not a join string.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Not a name.
    #[error("{what}: {source}")]
    Name {
        /// Of what.
        what: &'static str,
        /// Why.
        source: shoal_proto::id::IdError,
    },
    /// The host has no name that could be the node's.
    #[error("the host name `{0}` cannot be the node's name: pass --name")]
    HostName(String),
    /// Not an address.
    #[error("`{0}` is not an address to listen on: /ip4/0.0.0.0/tcp/7442 or 0.0.0.0:7442 is wanted")]
    Listen(String),
    /// Not a size.
    #[error("cache_max: {0}")]
    CacheMax(#[from] UnitError),
    /// Not a rate.
    #[error("{key}: {source}")]
    Rate {
        /// Which setting.
        key: &'static str,
        /// Why.
        source: UnitError,
    },
    /// Too low a rate.
    #[error("{key}: `{text}` is too little: at least {RATE_LIMIT_MIN} B/s are wanted")]
    TooSlow {
        /// Which setting.
        key: &'static str,
        /// What it says.
        text: String,
    },
    /// Not a span.
    #[error("coordinator_grace: {0}")]
    CoordinatorGrace(UnitError),
}

impl Settings {
    /// Reads `node.toml`.
    ///
    /// # Errors
    /// [`ConfigError::Read`], or [`ConfigError::Toml`] with the line.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        toml::from_str(&text)
            .map_err(|error| ConfigError::Toml { path: path.to_owned(), message: error.to_string().trim().to_owned() })
    }

    /// These settings where they say something, those of `file` elsewhere.
    pub fn over(self, file: Self) -> Self {
        let or = |own: Vec<String>, other: Vec<String>| if own.is_empty() { other } else { own };
        let mut labels = file.labels;
        labels.extend(self.labels);
        Self {
            join_file: if self.join.is_some() { None } else { self.join_file.or(file.join_file) },
            join: self.join,
            name: self.name.or(file.name),
            site: self.site.or(file.site),
            labels,
            data_dir: self.data_dir.or(file.data_dir),
            cache_max: self.cache_max.or(file.cache_max),
            upload_limit: self.upload_limit.or(file.upload_limit),
            download_limit: self.download_limit.or(file.download_limit),
            listen: or(self.listen, file.listen),
            bulk_listen: or(self.bulk_listen, file.bulk_listen),
            coordinator_grace: self.coordinator_grace.or(file.coordinator_grace),
        }
    }

    /// Checks everything; `host` is the name of this machine.
    ///
    /// # Errors
    /// The first [`ConfigError`].
    pub fn check(self, host: &str) -> Result<Config, ConfigError> {
        let name = |what, text: String| Name::new(text).map_err(|source| ConfigError::Name { what, source });
        let join = match (self.join, self.join_file) {
            (Some(text), _) => Some(JoinString::from_text(&text)?),
            (None, Some(path)) => Some(JoinString::from_text(&read(&path)?)?),
            (None, None) => None,
        };
        let labels = self.labels.into_iter().map(|(key, value)| Ok((name("label", key)?, value)));
        let listen = match self.listen.is_empty() {
            true => vec![format!("0.0.0.0:{CONTROL_PORT}"), format!("/ip4/0.0.0.0/udp/{CONTROL_PORT}/quic-v1")],
            false => self.listen,
        };
        let listen = addresses(&listen)?;
        let bulk_listen = match self.bulk_listen.is_empty() {
            true => listen.iter().filter_map(next_port).collect(),
            false => addresses(&self.bulk_listen)?,
        };
        Ok(Config {
            join,
            name: match self.name {
                Some(text) => name("name", text)?,
                None => Name::new(host).map_err(|_| ConfigError::HostName(host.to_owned()))?,
            },
            site: self.site.map(|text| name("site", text)).transpose()?,
            labels: labels.collect::<Result<_, ConfigError>>()?,
            // Scripts run elsewhere and are told absolute paths.
            data_dir: absolute(self.data_dir.unwrap_or_else(|| "/var/lib/shoal-node".into()))?,
            cache_max: self.cache_max.map(|text| parse_size(&text)).transpose()?,
            upload_limit: limit("upload_limit", self.upload_limit)?,
            download_limit: limit("download_limit", self.download_limit)?,
            listen,
            bulk_listen,
            coordinator_grace: match self.coordinator_grace {
                Some(text) => parse_duration(&text).map_err(ConfigError::CoordinatorGrace)?,
                None => COORDINATOR_GRACE,
            },
        })
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

fn limit(key: &'static str, text: Option<String>) -> Result<Option<u64>, ConfigError> {
    let Some(text) = text else { return Ok(None) };
    let rate = parse_rate(&text).map_err(|source| ConfigError::Rate { key, source })?;
    if rate < RATE_LIMIT_MIN { Err(ConfigError::TooSlow { key, text }) } else { Ok(Some(rate)) }
}

fn absolute(path: PathBuf) -> Result<PathBuf, ConfigError> {
    std::path::absolute(&path).map_err(|source| ConfigError::Read { path, source })
}

fn addresses(texts: &[String]) -> Result<Vec<Multiaddr>, ConfigError> {
    texts.iter().map(|text| parse_address(text).ok_or_else(|| ConfigError::Listen(text.clone()))).collect()
}

/// A multiaddress, or `address:port` as one of TCP.
pub fn parse_address(text: &str) -> Option<Multiaddr> {
    let family = |address: &SocketAddr| if address.is_ipv4() { "ip4" } else { "ip6" };
    match text.parse::<SocketAddr>() {
        Ok(address) => format!("/{}/{}/tcp/{}", family(&address), address.ip(), address.port()).parse().ok(),
        Err(_) => text.parse().ok().filter(|address: &Multiaddr| !address.is_empty()),
    }
}

/// The TCP address with the next port (0 stays 0, any free one); `None` for other transports.
pub fn next_port(address: &Multiaddr) -> Option<Multiaddr> {
    let text = address.to_string();
    let (host, port) = text.split_once("/tcp/")?;
    let port: u16 = port.parse().ok()?;
    let next = if port == 0 { 0 } else { port.checked_add(1)? };
    format!("{host}/tcp/{next}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_two_spellings() {
        let text = |address: Option<Multiaddr>| address.map(|address| address.to_string());
        assert_eq!(text(parse_address("127.0.1.1:7442")).as_deref(), Some("/ip4/127.0.1.1/tcp/7442"));
        assert_eq!(text(parse_address("[::1]:9")).as_deref(), Some("/ip6/::1/tcp/9"));
        assert_eq!(text(parse_address("/ip4/0.0.0.0/tcp/1")).as_deref(), Some("/ip4/0.0.0.0/tcp/1"));
        assert_eq!(parse_address("nonsense"), None);
        assert_eq!(parse_address(""), None);
    }

    #[test]
    fn the_bulk_mesh_takes_the_next_tcp_port() {
        let of = |text: &str| next_port(&text.parse().unwrap()).map(|address| address.to_string());
        assert_eq!(of("/ip4/0.0.0.0/tcp/7442").as_deref(), Some("/ip4/0.0.0.0/tcp/7443"));
        assert_eq!(of("/ip4/127.0.1.1/tcp/0").as_deref(), Some("/ip4/127.0.1.1/tcp/0"));
        assert_eq!(of("/ip4/0.0.0.0/udp/7442/quic-v1"), None);
        assert_eq!(of("/ip4/0.0.0.0/tcp/65535"), None);
    }

    #[test]
    fn flags_go_over_the_file() {
        let file: Settings = toml::from_str("name = 'a'\nsite = 'syd'\nlabels = { role = 'web', rack = '1' }").unwrap();
        let flags = Settings {
            name: Some("b".into()),
            labels: [("rack".to_owned(), "2".to_owned())].into(),
            ..Settings::default()
        };
        let config = flags.over(file).check("host").unwrap();
        assert_eq!((config.name.as_str(), config.site.map(|site| site.to_string()).as_deref()), ("b", Some("syd")));
        let labels: Vec<_> = config.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(labels, ["rack=2", "role=web"]);
    }

    #[test]
    fn limits_have_units_and_are_not_too_low() {
        let check = |toml: &str| toml::from_str::<Settings>(toml).unwrap().check("host");
        let config = check("upload_limit = '2MB/s'\ndownload_limit = '8 Mbit/s'").unwrap();
        assert_eq!((config.upload_limit, config.download_limit), (Some(2_000_000), Some(1_000_000)));
        let error = |toml| check(toml).unwrap_err().to_string();
        assert_eq!(
            error("upload_limit = '1 kB/s'"),
            "upload_limit: `1 kB/s` is too little: at least 16384 B/s are wanted"
        );
        assert!(error("download_limit = '5'").starts_with("download_limit: "));
    }

    #[test]
    fn the_grace_of_the_coordinator_has_a_unit() {
        let grace = |text: &str| {
            let file: Settings = toml::from_str(text).unwrap();
            file.check("host").map(|config| config.coordinator_grace).map_err(|error| error.to_string())
        };
        assert_eq!(grace("coordinator_grace = '2m'"), Ok(Duration::from_secs(120)));
        assert_eq!(grace(""), Ok(COORDINATOR_GRACE));
        assert!(grace("coordinator_grace = 'soon'").unwrap_err().starts_with("coordinator_grace: "));
    }

    #[test]
    fn unknown_keys_are_errors_with_their_line() {
        let error = toml::from_str::<Settings>("name = 'a'\nnmae = 'b'").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("nmae"), "{error}");
    }
}
