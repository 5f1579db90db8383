//! From a deployment file to a manifest: every reference resolved, every choice made, or an error that names the thing,
//! the cause and the next step.
//!
//! Pure: which nodes there are and which bytes the packages have is passed in. The order of things is that of the file,
//! with packages and nodes sorted, so that the same file and mesh give the same manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use thiserror::Error;

use super::Options;
use super::nearest::nearest;
use super::select::{SelectError, Selector, Traits};
use super::spec::{
    AcquireSpec, CheckSpec, DeploymentSpec, GateSpec, RollbackSpec, SourceSpec, StepSpec, StragglersSpec,
};
use super::when::When;
use crate::codec::{self, CodecError};
use crate::directory::Membership;
use crate::id::{DeploymentId, Name, NodeId, PackageIndex};
use crate::limits::{
    ATTEMPTS_MAX, BACKOFF, KEEP_MAX, MANIFEST_BYTES_MAX, NODES_MAX, PACKAGES_PER_DEPLOYMENT_MAX, SCRIPT_BYTES_MAX,
    STEP_TIMEOUT, STEPS_MAX, TARGETS_MAX, TIMEOUT_MAX, WAVES_MAX,
};
use crate::manifest::{
    Acquire, Action, Gate, Group, Manifest, On, OnFailure, Package, Probe, Source, Step, Stragglers,
};

/// How long a check asks unless the file says otherwise.
const WITHIN: Duration = Duration::from_secs(60);

/// How much longer than its check a step may take, so that the check says itself that it gave up.
const WITHIN_MARGIN: Duration = Duration::from_secs(30);

/// Releases that stay unless the file says otherwise: the one before, to go back to, and the one before that.
const KEEP: u32 = 3;

/// What is known of a node when a deployment is planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Which node.
    pub id: NodeId,
    /// Its name.
    pub name: Name,
    /// Its site.
    pub site: Name,
    /// Its labels, each with its values.
    pub labels: BTreeMap<String, BTreeSet<String>>,
}

impl NodeFacts {
    /// What is known of a member.
    pub fn of(membership: &Membership) -> Self {
        let mut labels = BTreeMap::<String, BTreeSet<String>>::new();
        for (key, value) in membership.all_labels() {
            labels.entry(key).or_default().insert(value);
        }
        Self { id: membership.node, name: membership.name.clone(), site: membership.site.clone(), labels }
    }
}

/// Why a deployment file gives no manifest.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// Something missing, or present twice, or of which there is too much.
    #[error("{0}")]
    File(String),
    /// A selector that cannot be read.
    #[error("target {target}: `select: {select}`: {error}")]
    Select {
        /// Which target, from 1.
        target: usize,
        /// Its selector.
        select: String,
        /// What is wrong with it.
        error: SelectError,
    },
    /// A selector that means no node.
    #[error("target {target}: `select: {select}` means none of the {nodes} nodes: compare with `shoal nodes ls`")]
    NoNode {
        /// Which target, from 1.
        target: usize,
        /// Its selector.
        select: String,
        /// How many nodes there are.
        nodes: usize,
    },
    /// A package that the file does not have.
    #[error("{place}: there is no package `{package}`{}", suggestion(.nearest))]
    UnknownPackage {
        /// Where it is named.
        place: String,
        /// The name.
        package: Name,
        /// What may be meant.
        nearest: Option<String>,
    },
    /// A step with something wrong in it.
    #[error("step `{step}`: {cause}")]
    Step {
        /// Which step.
        step: Name,
        /// What, and what to do.
        cause: String,
    },
    /// A wave with something wrong in it.
    #[error("wave `{wave}`: {cause}")]
    Wave {
        /// Which wave.
        wave: Name,
        /// What, and what to do.
        cause: String,
    },
    /// A variable with something wrong in it.
    #[error("variable `{name}`: {cause}")]
    Variable {
        /// Which variable.
        name: String,
        /// What, and what to do.
        cause: String,
    },
    /// A manifest that is too large to send.
    #[error("the deployment is too large: {0}; split it in two, or put scripts into a package")]
    TooLarge(CodecError),
}

fn suggestion(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |name| format!(" (is `{name}` meant?)"))
}

/// The manifest that `spec` means for these `nodes`, with `packages` being those of the file, resolved.
///
/// # Errors
/// Every [`PlanError`]; the first that is found.
pub fn resolve(
    spec: &DeploymentSpec,
    deployment: DeploymentId,
    coordinator: NodeId,
    nodes: &[NodeFacts],
    packages: &[Package],
) -> Result<Manifest, PlanError> {
    check_counts(spec, nodes)?;
    let packages = packages_of(spec, packages)?;
    let groups = groups(spec, nodes, &packages)?;
    let context = Context { packages: &packages, groups: &groups };
    let list = |steps: &[StepSpec], before| {
        // What only a rollback runs is in no manifest but that of a rollback.
        let own = steps.iter().filter(|step| step.rollback != Some(RollbackSpec::Only));
        own.map(|step| context.step(step, before)).collect::<Result<Vec<_>, _>>()
    };
    let manifest = Manifest {
        deployment,
        coordinator,
        name: spec.name.clone(),
        release: spec.release.clone(),
        acquire: Acquire { source: source(spec.acquire.source), swarm: spec.acquire.swarm },
        gate: gate(&spec.acquire)?,
        before_acquire: list(&spec.before_acquire, true)?,
        steps: list(&spec.steps, false)?,
        waves: super::waves::resolve(&spec.waves, nodes, &groups)?,
        offline: super::waves::offline(spec)?,
        rollback: None,
        packages,
        groups,
    };
    codec::encode(&manifest, MANIFEST_BYTES_MAX).map_err(PlanError::TooLarge)?;
    Ok(manifest)
}

/// A step of `spec` that is not in `manifest`, which `spec` gave.
pub(super) fn step(spec: &StepSpec, manifest: &Manifest, before: bool) -> Result<Step, PlanError> {
    Context { packages: &manifest.packages, groups: &manifest.groups }.step(spec, before)
}

impl Options {
    /// What a rollout of `manifest` needs to know beside it.
    pub fn for_targets(manifest: &Manifest, nodes: &[NodeFacts], stage_only: bool) -> Self {
        let targets = manifest.targets();
        let nodes = nodes.iter().filter(|node| targets.contains(&node.id));
        let names = nodes.map(|node| (node.id, node.name.clone())).collect();
        Self { names, stage_only, when: When::default() }
    }
}

/// The site of each target node of `manifest`.
pub fn sites(manifest: &Manifest, nodes: &[NodeFacts]) -> BTreeMap<NodeId, Name> {
    let targets = manifest.targets();
    let nodes = nodes.iter().filter(|node| targets.contains(&node.id));
    nodes.map(|node| (node.id, node.site.clone())).collect()
}

fn check_counts(spec: &DeploymentSpec, nodes: &[NodeFacts]) -> Result<(), PlanError> {
    let counts = [
        ("packages", spec.packages.len(), PACKAGES_PER_DEPLOYMENT_MAX),
        ("targets", spec.targets.len(), TARGETS_MAX),
        ("steps before acquire", spec.before_acquire.len(), STEPS_MAX),
        ("steps", spec.steps.len(), STEPS_MAX),
        ("waves", spec.waves.len(), WAVES_MAX),
        ("nodes in the mesh", nodes.len(), NODES_MAX),
    ];
    for (things, count, max) in counts {
        if count > max {
            return Err(PlanError::File(format!(
                "{count} {things}, but at most {max} are allowed: split the deployment"
            )));
        }
    }
    if spec.targets.is_empty() {
        return Err(PlanError::File("`targets` is empty: add one such as `{ select: all }`".to_owned()));
    }
    let mut names = BTreeSet::new();
    for step in spec.before_acquire.iter().chain(&spec.steps) {
        if !names.insert(&step.name) {
            return Err(wrong(
                step,
                "there are two steps of this name: give each its own, since commands name steps by it",
            ));
        }
    }
    Ok(())
}

/// The packages in the file's order; each has its own environment variable in steps.
fn packages_of(spec: &DeploymentSpec, resolved: &[Package]) -> Result<Vec<Package>, PlanError> {
    let mut packages: Vec<Package> = Vec::new();
    for name in spec.packages.keys() {
        let package = resolved.iter().find(|package| package.name == *name);
        let package =
            package.ok_or_else(|| PlanError::File(format!("package `{name}` is not resolved: look it up first")))?;
        let used = spec.targets.iter().any(|target| target.packages.contains(name));
        if !used {
            let cause = format!("package `{name}` goes to no target: name it in a target's `packages`, or remove it");
            return Err(PlanError::File(cause));
        }
        let variable = package.variable();
        if let Some(other) = packages.iter().find(|other| other.variable() == variable) {
            let cause = format!("packages `{}` and `{name}` are both `{variable}` for steps: rename one", other.name);
            return Err(PlanError::File(cause));
        }
        packages.push(package.clone());
    }
    Ok(packages)
}

/// Nodes by what they get: a node that several targets mean gets the packages of all of them.
fn groups(spec: &DeploymentSpec, nodes: &[NodeFacts], packages: &[Package]) -> Result<Vec<Group>, PlanError> {
    let mut wanted: BTreeMap<NodeId, BTreeSet<PackageIndex>> = BTreeMap::new();
    for (index, target) in spec.targets.iter().enumerate() {
        let number = index + 1;
        let select = || target.select.clone();
        let parsed = target.select.parse::<Selector>();
        let selector = parsed.map_err(|error| PlanError::Select { target: number, select: select(), error })?;
        let gets = target.packages.iter().map(|name| package_index(&format!("target {number}"), name, packages));
        let gets: BTreeSet<PackageIndex> = gets.collect::<Result<_, _>>()?;
        let traits = |node: &NodeFacts| selector.matches(traits(node));
        let mut meant = nodes.iter().filter(|node| traits(node)).peekable();
        if meant.peek().is_none() {
            return Err(PlanError::NoNode { target: number, select: select(), nodes: nodes.len() });
        }
        meant.for_each(|node| wanted.entry(node.id).or_default().extend(&gets));
    }
    let mut groups: BTreeMap<BTreeSet<PackageIndex>, Vec<NodeId>> = BTreeMap::new();
    for (node, packages) in wanted {
        groups.entry(packages).or_default().push(node);
    }
    let group = |(packages, nodes): (BTreeSet<_>, _)| Group { nodes, packages: packages.into_iter().collect() };
    Ok(groups.into_iter().map(group).collect())
}

pub(super) fn traits(node: &NodeFacts) -> Traits<'_> {
    Traits { name: node.name.as_str(), site: node.site.as_str(), labels: &node.labels }
}

fn package_index(place: &str, name: &Name, packages: &[Package]) -> Result<PackageIndex, PlanError> {
    let index = packages.iter().position(|package| package.name == *name);
    index.and_then(|index| u16::try_from(index).ok()).map(PackageIndex).ok_or_else(|| {
        let known: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
        PlanError::UnknownPackage {
            place: place.to_owned(),
            package: name.clone(),
            nearest: nearest(name.as_str(), &known).map(str::to_owned),
        }
    })
}

fn source(source: SourceSpec) -> Source {
    match source {
        SourceSpec::Feed | SourceSpec::Auto => Source::Feed,
        SourceSpec::Coordinator => Source::Coordinator,
    }
}

fn gate(acquire: &AcquireSpec) -> Result<Gate, PlanError> {
    let error = |cause: &str| PlanError::File(format!("acquire: {cause}"));
    let stragglers = match (acquire.stragglers, acquire.after) {
        (StragglersSpec::Wait, None) => Stragglers::Wait,
        (StragglersSpec::Wait, Some(_)) => {
            return Err(error("`after` is for `stragglers: exclude`: add that, or remove `after`"));
        }
        (StragglersSpec::Exclude, None) => {
            return Err(error("`stragglers: exclude` needs to know when: add `after`, for instance `after: 10m`"));
        }
        (StragglersSpec::Exclude, Some(_)) if acquire.quorum.takes_all() => {
            let cause = "with `quorum: 100%` there is no straggler to exclude: lower the quorum, for instance to `95%`";
            return Err(error(cause));
        }
        (StragglersSpec::Exclude, Some(after)) => Stragglers::ExcludeAfter(after),
    };
    Ok(Gate { quorum: acquire.quorum, stragglers, manual: acquire.gate == GateSpec::Manual })
}

pub(super) fn wrong(step: &StepSpec, cause: impl Into<String>) -> PlanError {
    PlanError::Step { step: step.name.clone(), cause: cause.into() }
}

struct Context<'a> {
    packages: &'a [Package],
    groups: &'a [Group],
}

impl Context<'_> {
    fn step(&self, spec: &StepSpec, before: bool) -> Result<Step, PlanError> {
        if spec.retries >= ATTEMPTS_MAX {
            return Err(wrong(spec, format!("`retries: {}`: at most {} are allowed", spec.retries, ATTEMPTS_MAX - 1)));
        }
        if spec.unpack.is_none() && (spec.to.is_some() && spec.template.is_none() || spec.keep.is_some()) {
            return Err(wrong(spec, "`to` and `keep` are for `unpack`: add that, or remove them"));
        }
        if spec.template.is_none() && spec.mode.is_some() {
            return Err(wrong(spec, "`mode` is for `template`: add that, or remove it"));
        }
        if spec.always_after.is_some() && !before {
            return Err(wrong(
                spec,
                "`always_after` is for steps of `before_acquire`: move the step there, or remove it",
            ));
        }
        if before && spec.on_failure == OnFailure::Rollback {
            return Err(wrong(spec, "nothing is changed yet that could be rolled back: write `on_failure: fail`"));
        }
        super::waves::check_always(spec, before)?;
        let action = self.action(spec, before)?;
        let always_after = spec.always_after.as_ref().map(|script| checked_script(spec, script)).transpose()?;
        Ok(Step {
            name: spec.name.clone(),
            on: spec.on,
            timeout: timeout(spec, &action)?,
            action,
            pace: super::waves::pace(spec, before)?,
            retries: spec.retries,
            backoff: backoff(spec)?,
            on_failure: spec.on_failure,
            idempotent: spec.idempotent,
            always_after,
        })
    }

    fn action(&self, spec: &StepSpec, before: bool) -> Result<Action, PlanError> {
        match (&spec.run, &spec.unpack, &spec.template, &spec.check) {
            (Some(run), None, None, None) => Ok(Action::Script { run: checked_script(spec, run)? }),
            (None, Some(package), None, None) => self.unpack(spec, package, before),
            (None, None, Some(from), None) => template(spec, from),
            (None, None, None, Some(check)) => probe(spec, check),
            (None, None, None, None) => Err(wrong(spec, "it does nothing: add `run`, `unpack`, `template` or `check`")),
            _ => {
                Err(wrong(spec, "it has more than one of `run`, `unpack`, `template` and `check`: make a step of each"))
            }
        }
    }

    fn unpack(&self, spec: &StepSpec, name: &Name, before: bool) -> Result<Action, PlanError> {
        if before {
            return Err(wrong(spec, "no package is there before `acquire`: move the step to `steps`"));
        }
        if spec.on == On::Coordinator {
            return Err(wrong(
                spec,
                "packages go to the target nodes, not to the coordinator: remove `on: coordinator`",
            ));
        }
        let package = package_index(&format!("step `{}`", spec.name), name, self.packages)?;
        let without = self.groups.iter().filter(|group| !group.packages.contains(&package));
        let without: usize = without.map(|group| group.nodes.len()).sum();
        if without > 0 {
            let cause = format!("{without} of the target nodes do not get package `{name}`: name it in their target");
            return Err(wrong(spec, cause));
        }
        let to = spec
            .to
            .as_deref()
            .ok_or_else(|| wrong(spec, "`unpack` needs a folder: add `to`, for instance `to: /srv/web`"))?;
        if !is_safe_folder(to) {
            return Err(wrong(
                spec,
                format!("`to: {to}` is no absolute path of a folder without `..`: write one such as `/srv/web`"),
            ));
        }
        let keep = spec.keep.unwrap_or(KEEP);
        if !(1..=KEEP_MAX).contains(&keep) {
            return Err(wrong(spec, format!("`keep: {keep}`: 1 to {KEEP_MAX} releases can stay")));
        }
        Ok(Action::Unpack { package, to: to.to_owned(), keep })
    }
}

fn template(spec: &StepSpec, from: &str) -> Result<Action, PlanError> {
    let to = spec.to.as_deref().unwrap_or_default();
    for (key, path) in [("template", from), ("to", to)] {
        if !is_safe_folder(path) {
            let cause = format!(
                "`{key}: {path}` is no absolute path of a file without `..`: write one such as `/etc/acme.conf`"
            );
            return Err(wrong(spec, cause));
        }
    }
    let mode = spec.mode.as_deref().unwrap_or("0600");
    let parsed = u32::from_str_radix(mode, 8).ok().filter(|bits| mode.starts_with('0') && *bits <= 0o777);
    let mode = parsed.ok_or_else(|| wrong(spec, format!("`mode: {mode}` is none: write for instance `0640`")))?;
    Ok(Action::Template { from: from.to_owned(), to: to.to_owned(), mode })
}

fn is_safe_folder(path: &str) -> bool {
    let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
    path.starts_with('/')
        && parts.peek().is_some()
        && parts.all(|part| part != ".." && part != "." && !part.contains('\0'))
}

fn checked_script(spec: &StepSpec, script: &str) -> Result<String, PlanError> {
    if script.trim().is_empty() {
        return Err(wrong(spec, "its script is empty: write one, or remove the step"));
    }
    if script.contains('\0') {
        return Err(wrong(spec, "its script has a NUL character, which a shell cannot read: remove it"));
    }
    if script.len() > SCRIPT_BYTES_MAX {
        let cause = format!("its script has {} bytes, but at most {SCRIPT_BYTES_MAX} are allowed", script.len());
        return Err(wrong(spec, format!("{cause}: put it into a package")));
    }
    Ok(script.to_owned())
}

fn probe(spec: &StepSpec, check: &CheckSpec) -> Result<Action, PlanError> {
    let probe = match (&check.http, &check.tcp) {
        (Some(url), None) => {
            let expect = check.expect.unwrap_or(200);
            if !(100..=599).contains(&expect) {
                return Err(wrong(spec, format!("`expect: {expect}` is no HTTP status: write one from 100 to 599")));
            }
            let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
            if host.is_none_or(|host| host.is_empty() || host.starts_with('/')) {
                return Err(wrong(
                    spec,
                    format!("`http: {url}` is no URL: write one such as `http://127.0.0.1:8080/health`"),
                ));
            }
            Probe::Http { url: url.clone(), expect }
        }
        (None, Some(_)) if check.expect.is_some() => {
            return Err(wrong(spec, "`expect` is for `http`: remove it"));
        }
        (None, Some(address)) => {
            let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            if port.and_then(|(_, port)| port.parse::<u16>().ok()).is_none_or(|port| port == 0) {
                return Err(wrong(
                    spec,
                    format!("`tcp: {address}` is no `host:port`: write one such as `127.0.0.1:8080`"),
                ));
            }
            Probe::Tcp { address: address.clone() }
        }
        _ => return Err(wrong(spec, "`check` needs exactly one of `http` and `tcp`")),
    };
    let within = check.within.unwrap_or(WITHIN);
    if within.is_zero() || within > TIMEOUT_MAX {
        return Err(wrong(spec, "`within` must be more than 0 and at most 7d"));
    }
    Ok(Action::Check { probe, within })
}

fn backoff(spec: &StepSpec) -> Result<Duration, PlanError> {
    match spec.backoff {
        Some(backoff) if backoff > TIMEOUT_MAX => Err(wrong(spec, "`backoff` is at most 7d")),
        given => Ok(given.unwrap_or(BACKOFF)),
    }
}

fn timeout(spec: &StepSpec, action: &Action) -> Result<Duration, PlanError> {
    let within = match action {
        Action::Check { within, .. } => *within,
        Action::Script { .. } | Action::Unpack { .. } | Action::Template { .. } => Duration::ZERO,
    };
    let Some(timeout) = spec.timeout else { return Ok(STEP_TIMEOUT.max(within + WITHIN_MARGIN)) };
    if timeout.is_zero() || timeout > TIMEOUT_MAX {
        return Err(wrong(spec, "`timeout` must be more than 0 and at most 7d"));
    }
    if timeout < within {
        return Err(wrong(spec, "`timeout` is shorter than the check's `within`: raise it, or remove it"));
    }
    Ok(timeout)
}
