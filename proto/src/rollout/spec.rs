//! The deployment file, as a person writes it.
//!
//! Only its shape is checked here: keys, types, units. What it refers to is checked by [`super::plan::resolve`]. Unknown
//! keys are errors; [`known_keys`] and [`super::nearest::nearest`] let the shell that reads YAML suggest the right one.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::units::deserialize_duration_option;
use crate::id::{Name, PackageId};
use crate::manifest::{On, OnFailure, Quorum, Share};

/// A deployment file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeploymentSpec {
    /// What is deployed.
    pub name: Name,
    /// Which release of it.
    pub release: Name,
    /// Its packages, by the name that the rest of the file uses.
    #[serde(default)]
    pub packages: BTreeMap<Name, PackageSpec>,
    /// Which nodes get which packages.
    pub targets: Vec<TargetSpec>,
    /// Values that scripts and templates name; see [`super::variables`].
    #[serde(default)]
    pub variables: Vec<VariableSpec>,
    /// How packages come to the nodes, and when the gate opens.
    #[serde(default)]
    pub acquire: AcquireSpec,
    /// What runs before the first byte is fetched.
    #[serde(default)]
    pub before_acquire: Vec<StepSpec>,
    /// What runs after the gate.
    #[serde(default)]
    pub steps: Vec<StepSpec>,
    /// In which order the target nodes go through `steps`; all at once if none are given.
    #[serde(default)]
    pub waves: Vec<WaveSpec>,
    /// When its steps may start at the earliest, as operators write times.
    #[serde(default)]
    pub at: Option<String>,
    /// By when they must have begun, or for how long after `at`.
    #[serde(default)]
    pub expires: Option<String>,
    /// What becomes of target nodes that are not connected.
    #[serde(default)]
    pub offline: OfflineSpec,
    /// With another than `offline: wait`: after how long away.
    #[serde(default, deserialize_with = "deserialize_duration_option")]
    pub offline_after: Option<Duration>,
    /// With `offline: catch_up`: how long they may be away before they are excluded; 24 h if not given.
    #[serde(default, deserialize_with = "deserialize_duration_option")]
    pub offline_until: Option<Duration>,
}

/// What becomes of target nodes that are not connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OfflineSpec {
    /// They are waited for.
    #[default]
    Wait,
    /// They are excluded.
    Skip,
    /// The deployment fails.
    Fail,
    /// The others go on; one that returns runs what it missed.
    CatchUp,
}

/// Where a package comes from: `feed` with `id` and perhaps `version`, or `url`; with either, `blake3` may say which
/// bytes are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageSpec {
    /// The feed's name in the coordinator's configuration.
    pub feed: Option<Name>,
    /// What the feed calls it; for a folder, a path.
    pub id: Option<String>,
    /// Which version of it.
    pub version: Option<String>,
    /// Which of its files, where it has several.
    pub file: Option<String>,
    /// Which of its variants, where it has several: `linux/arm64`.
    pub platform: Option<String>,
    /// A file to fetch over HTTP.
    pub url: Option<String>,
    /// The hash that the bytes must have.
    #[serde(default, deserialize_with = "deserialize_parsed_option")]
    pub blake3: Option<PackageId>,
}

/// Nodes and what they get.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetSpec {
    /// Which nodes; see [`super::select::Selector`].
    pub select: String,
    /// Names of packages.
    #[serde(default)]
    pub packages: Vec<Name>,
}

/// A variable's value on some machines: on all of them without `site`, `select` and `node`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariableSpec {
    /// What it is called; several entries may be of one variable.
    pub name: String,
    /// Its value; without it and `value_file`, the operator gives it.
    pub value: Option<String>,
    /// A file of the coordinator's machine with its value, which is secret.
    pub value_file: Option<String>,
    /// Whether its value is masked in all that is written.
    #[serde(default)]
    pub secret: bool,
    /// Only at this site.
    pub site: Option<Name>,
    /// Only on the nodes that this selects.
    pub select: Option<String>,
    /// Only on this node.
    pub node: Option<Name>,
}

/// How packages come to the nodes, and when the gate opens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AcquireSpec {
    /// Who is the origin.
    pub source: SourceSpec,
    /// Whether the nodes of a site trade among themselves.
    pub swarm: bool,
    /// How many nodes must be ready before the gate opens: `100%`, `95%`, `all-2`.
    #[serde(deserialize_with = "deserialize_parsed")]
    pub quorum: Quorum,
    /// What becomes of the others.
    pub stragglers: StragglersSpec,
    /// With `stragglers: exclude`, how long after the begin of `acquire`.
    #[serde(deserialize_with = "deserialize_duration_option")]
    pub after: Option<Duration>,
    /// Whether the gate opens by itself.
    pub gate: GateSpec,
}

impl Default for AcquireSpec {
    fn default() -> Self {
        Self {
            source: SourceSpec::default(),
            swarm: true,
            quorum: Quorum::default(),
            stragglers: StragglersSpec::default(),
            after: None,
            gate: GateSpec::default(),
        }
    }
}

/// Who is the origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceSpec {
    /// The feed or its mirror for the site; the coordinator for packages that only it can read.
    #[default]
    Feed,
    /// The coordinator, over the mesh.
    Coordinator,
    /// Whatever the coordinator holds best: at present, as `feed`.
    Auto,
}

/// What becomes of nodes that lack packages when the gate opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StragglersSpec {
    /// They are waited for.
    #[default]
    Wait,
    /// They are excluded, `after` a while.
    Exclude,
}

/// Whether the gate opens by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GateSpec {
    /// When its quorum is reached.
    #[default]
    Auto,
    /// When an operator says `shoal release` and its quorum is reached.
    Manual,
}

/// A step: exactly one of `run`, `unpack`, `template` and `check`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepSpec {
    /// What it is called: unique in the file.
    pub name: Name,
    /// Where it runs.
    #[serde(default)]
    pub on: On,
    /// A shell script.
    pub run: Option<String>,
    /// The name of a package to unpack.
    pub unpack: Option<Name>,
    /// A file on the node, absolute, that is filled in with variables and written to `to`.
    pub template: Option<String>,
    /// With `unpack`: the folder, with `template`: the file, absolute; may have `${SHOAL_NODE}` and other variables of
    /// scripts in it, as `template` and `check` may.
    pub to: Option<String>,
    /// With `unpack`: how many releases stay.
    pub keep: Option<u32>,
    /// With `template`: who may read and write the file, as `0640`; `0600` if not given.
    pub mode: Option<String>,
    /// A service that must answer.
    pub check: Option<CheckSpec>,
    /// After this, its process tree is killed and it has failed.
    #[serde(default, deserialize_with = "deserialize_duration_option")]
    pub timeout: Option<Duration>,
    /// How often it is tried again after a failure.
    #[serde(default)]
    pub retries: u32,
    /// How long it waits before it is tried again the first time; doubled for each attempt more. 1 s if not given.
    #[serde(default, deserialize_with = "deserialize_duration_option")]
    pub backoff: Option<Duration>,
    /// What happens when it has failed for good.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Whether it may run again after an outcome that nobody saw.
    #[serde(default)]
    pub idempotent: bool,
    /// In `steps`: on how many nodes of a wave it runs at a time, `3` or `25%`; on all if not given.
    #[serde(default, deserialize_with = "deserialize_share_option")]
    pub window: Option<Share>,
    /// In `steps`, `sync: barrier`: all nodes of a wave start it together, once all can.
    pub sync: Option<SyncSpec>,
    /// Whether a rollback to this release runs it: `skip` if it does not, `only` if nothing else does.
    pub rollback: Option<RollbackSpec>,
    /// In `before_acquire`: a script that runs at the deployment's end, whatever it was.
    pub always_after: Option<String>,
}

/// What a step is to rollbacks, which run all that are not marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RollbackSpec {
    /// They do not run it.
    Skip,
    /// Nothing else runs it.
    Only,
}

/// How the starts of a step on the nodes of a wave hang together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncSpec {
    /// None starts before all can.
    Barrier,
}

/// Target nodes that go through all steps before the next wave begins.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaveSpec {
    /// What it is called: unique in the file.
    pub name: Name,
    /// Which of the target nodes that no wave before it has; see [`super::select::Selector`]. All if not given.
    pub select: Option<String>,
    /// How many of those that `select` means; `count: 1`, `count: 10%`. All if not given.
    #[serde(default, deserialize_with = "deserialize_share_option")]
    pub count: Option<Share>,
    /// With `per: site`, `count` is of each site, and each site goes through the steps by itself.
    pub per: Option<PerSpec>,
    /// With `per: site`: how many sites are under way at a time. All if not given.
    pub max_parallel: Option<u16>,
    /// How long it is watched, once it is through, before the next wave begins.
    #[serde(default, deserialize_with = "deserialize_duration_option")]
    pub bake: Option<Duration>,
    /// How many of its nodes must be through before the next wave begins by itself; one if not given.
    #[serde(default, deserialize_with = "deserialize_parsed_option")]
    pub success: Option<Quorum>,
    /// How many of its nodes may fail before the deployment stops; none if neither this nor the next is given.
    #[serde(default, deserialize_with = "deserialize_share_option")]
    pub max_failures: Option<Share>,
    /// The same for its nodes in each site; given alone, it alone counts.
    #[serde(default, deserialize_with = "deserialize_share_option")]
    pub max_failures_per_site: Option<Share>,
}

/// What a wave is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PerSpec {
    /// Sites.
    Site,
}

/// A service that must answer: exactly one of `http` and `tcp`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckSpec {
    /// A URL to GET.
    pub http: Option<String>,
    /// `host:port` to connect to.
    pub tcp: Option<String>,
    /// With `http`: the status that counts as up; 200 if not given.
    pub expect: Option<u16>,
    /// How long it is asked again; 60 s if not given.
    #[serde(default, deserialize_with = "deserialize_duration_option")]
    pub within: Option<Duration>,
}

/// The keys that a part of the file may have, by what holds them: `deployment`, `package`, `target`, `variable`,
/// `acquire`, `step`, `wave`, `check`.
pub fn known_keys(part: &str) -> Option<&'static [&'static str]> {
    PARTS.iter().find(|(name, _)| *name == part).map(|(_, keys)| *keys)
}

const PARTS: &[(&str, &[&str])] = &[
    (
        "deployment",
        &[
            "name",
            "release",
            "packages",
            "targets",
            "variables",
            "acquire",
            "before_acquire",
            "steps",
            "waves",
            "at",
            "expires",
            "offline",
            "offline_after",
            "offline_until",
        ],
    ),
    ("package", &["feed", "id", "version", "file", "platform", "url", "blake3"]),
    ("target", &["select", "packages"]),
    ("variable", &["name", "value", "value_file", "secret", "site", "select", "node"]),
    ("acquire", &["source", "swarm", "quorum", "stragglers", "after", "gate"]),
    (
        "step",
        &[
            "name",
            "on",
            "run",
            "unpack",
            "template",
            "to",
            "keep",
            "mode",
            "check",
            "timeout",
            "retries",
            "backoff",
            "on_failure",
            "idempotent",
            "window",
            "sync",
            "rollback",
            "always_after",
        ],
    ),
    (
        "wave",
        &["name", "select", "count", "per", "max_parallel", "bake", "success", "max_failures", "max_failures_per_site"],
    ),
    ("check", &["http", "tcp", "expect", "within"]),
];

fn deserialize_parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    deserializer.deserialize_any(Parsed(PhantomData))
}

fn deserialize_share_option<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Share>, D::Error> {
    deserialize_parsed(deserializer).map(Some)
}

/// As text in any case: a hash of digits alone is no number.
fn deserialize_parsed_option<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    deserializer.deserialize_str(Parsed(PhantomData)).map(Some)
}

/// A value with a text form; a bare number is taken as its text, so that its error names it.
struct Parsed<T>(PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> de::Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;

    /// The keys that serde names when it refuses one.
    fn keys_of<T: DeserializeOwned>() -> Vec<String> {
        let error = serde_json::from_str::<T>(r#"{"no such key": 1}"#).err().unwrap().to_string();
        assert!(error.starts_with("unknown field `no such key`, expected"), "{error}");
        error.split('`').skip(3).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_lists_of_known_keys_are_those_that_are_read() {
        assert_eq!(known_keys("deployment").unwrap(), keys_of::<DeploymentSpec>());
        assert_eq!(known_keys("package").unwrap(), keys_of::<PackageSpec>());
        assert_eq!(known_keys("target").unwrap(), keys_of::<TargetSpec>());
        assert_eq!(known_keys("variable").unwrap(), keys_of::<VariableSpec>());
        assert_eq!(known_keys("acquire").unwrap(), keys_of::<AcquireSpec>());
        assert_eq!(known_keys("step").unwrap(), keys_of::<StepSpec>());
        assert_eq!(known_keys("wave").unwrap(), keys_of::<WaveSpec>());
        assert_eq!(known_keys("check").unwrap(), keys_of::<CheckSpec>());
        assert_eq!(known_keys("waves"), None);
    }

    #[test]
    fn defaults_are_those_of_the_manual() {
        let acquire: AcquireSpec = serde_json::from_str("{}").unwrap();
        assert_eq!(acquire, AcquireSpec::default());
        assert!(acquire.swarm);
        let step: StepSpec = serde_json::from_str(r#"{"name": "x", "run": "true"}"#).unwrap();
        assert_eq!((step.on, step.retries, step.on_failure), (On::Node, 0, OnFailure::Pause));
        assert!(!step.idempotent);
    }

    #[test]
    fn every_value_is_read() {
        let acquire: AcquireSpec = serde_json::from_str(
            r#"{"source": "coordinator", "swarm": false, "quorum": "all-2", "stragglers": "exclude", "after": "10m",
                "gate": "manual"}"#,
        )
        .unwrap();
        let wanted = AcquireSpec {
            source: SourceSpec::Coordinator,
            swarm: false,
            quorum: Quorum::AllBut(2),
            stragglers: StragglersSpec::Exclude,
            after: Some(Duration::from_secs(600)),
            gate: GateSpec::Manual,
        };
        assert_eq!(acquire, wanted);
        let hash = "af".repeat(32);
        let package: PackageSpec =
            serde_json::from_str(&format!(r#"{{"url": "https://x/y", "blake3": "{hash}"}}"#)).unwrap();
        assert_eq!(package.blake3, Some(PackageId([0xaf; 32])));
    }

    #[test]
    fn wrong_values_are_named() {
        let table = [
            (r#"{"quorum": 95}"#, "`95` is no quorum: write a share of the target nodes such as `95%`"),
            (r#"{"after": 10}"#, "`10` has no unit: write for instance `10s`"),
            (r#"{"source": "feeds"}"#, "unknown variant `feeds`, expected one of `feed`, `coordinator`, `auto`"),
            (r#"{"stragglers": "drop"}"#, "unknown variant `drop`"),
        ];
        for (text, wanted) in table {
            let error = serde_json::from_str::<AcquireSpec>(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        let error = serde_json::from_str::<StepSpec>(r#"{"name": "x", "waves": []}"#).unwrap_err().to_string();
        assert!(error.contains("unknown field `waves`"), "{error}");
        let error = serde_json::from_str::<StepSpec>(r#"{"name": "x", "rollback": "never"}"#).unwrap_err().to_string();
        assert!(error.contains("unknown variant `never`, expected `skip` or `only`"), "{error}");
    }
}
