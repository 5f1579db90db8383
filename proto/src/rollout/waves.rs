//! From the `waves` of a deployment file, and the windows of its steps, to those of a manifest: which target nodes go through the steps when.
//!
//! Waves take nodes in the order of the file, each from what those before it left, and within a wave in the order of the
//! nodes' names: the same file and mesh give the same waves. Percentages are of all target nodes that a wave's `select`
//! means, whoever has them already, so that `10%`, `30%` and the rest are what they say. Every target node is in one wave.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::plan::{NodeFacts, PlanError, traits, wrong as step_error};
use super::select::Selector;
use super::spec::{DeploymentSpec, OfflineSpec, StepSpec, SyncSpec, WaveSpec};
use crate::id::{Name, NodeId, TargetIndex};
use crate::limits::{CATCH_UP_UNTIL, TIMEOUT_MAX};
use crate::manifest::{Group, Offline, On, OnFailure, Pace, Quorum, Share, Wave};

/// The waves that `specs` mean for the target nodes of `groups`; none if the file has none.
pub(super) fn resolve(specs: &[WaveSpec], nodes: &[NodeFacts], groups: &[Group]) -> Result<Vec<Wave>, PlanError> {
    if specs.is_empty() {
        return Ok(Vec::new());
    }
    let mut names = BTreeSet::new();
    let mut left = Targets::of(nodes, groups);
    let mut waves = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        if !names.insert(&spec.name) {
            return Err(wrong(spec, "there are two waves of this name: give each its own"));
        }
        check(spec, index + 1 == specs.len())?;
        let lanes = left.take(spec)?;
        // Those before it may have all that it means, for instance where there is one node.
        if !lanes.is_empty() {
            waves.push(wave(spec, lanes));
        }
    }
    let missing = left.left.len();
    if missing > 0 {
        let cause = format!("{missing} target nodes are in no wave: add a last one for the rest, `- {{ name: rest }}`");
        return Err(PlanError::File(cause));
    }
    Ok(waves)
}

fn wrong(spec: &WaveSpec, cause: impl Into<String>) -> PlanError {
    PlanError::Wave { wave: spec.name.clone(), cause: cause.into() }
}

fn check(spec: &WaveSpec, is_last: bool) -> Result<(), PlanError> {
    if spec.count.is_some_and(Share::is_none) {
        return Err(wrong(spec, "`count` of no node: write at least `1`, or leave the wave out"));
    }
    if spec.per.is_none() && spec.max_parallel.is_some() {
        return Err(wrong(spec, "`max_parallel` is for `per: site`: add that, or remove it"));
    }
    if spec.max_parallel == Some(0) {
        return Err(wrong(spec, "`max_parallel: 0` would never begin: write at least 1"));
    }
    match spec.bake {
        Some(_) if is_last => Err(wrong(spec, "`bake` comes before the next wave, and this is the last: remove it")),
        Some(bake) if bake > TIMEOUT_MAX => Err(wrong(spec, "`bake` is at most 7d")),
        _ => Ok(()),
    }
}

fn wave(spec: &WaveSpec, lanes: Vec<Vec<TargetIndex>>) -> Wave {
    Wave {
        name: spec.name.clone(),
        max_parallel: spec.max_parallel.unwrap_or(u16::MAX),
        bake: spec.bake.unwrap_or(Duration::ZERO),
        // One node: what nobody came through does not go on by itself.
        success: spec.success.unwrap_or(Quorum::AllBut(u32::MAX)),
        max_failures: spec.max_failures.or(spec.max_failures_per_site.map(|_| Share::Percent(100))).unwrap_or(NONE),
        max_failures_per_site: spec.max_failures_per_site,
        lanes,
    }
}

const NONE: Share = Share::Count(0);

/// What becomes of target nodes that are away.
pub(super) fn offline(spec: &DeploymentSpec) -> Result<Offline, PlanError> {
    let error = |cause: &str| Err(PlanError::File(cause.to_owned()));
    if spec.offline != OfflineSpec::CatchUp && spec.offline_until.is_some() {
        return error("`offline_until` is for `offline: catch_up`: add that, or remove it");
    }
    match (spec.offline, spec.offline_after) {
        (OfflineSpec::Wait, None) => Ok(Offline::Wait),
        (OfflineSpec::Wait, Some(_)) => error("`offline_after` says when, but `offline: wait` is for ever: remove one"),
        (_, None) => error("`offline` needs to know when: add `offline_after`, for instance `offline_after: 10m`"),
        (OfflineSpec::Skip, Some(after)) => Ok(Offline::SkipAfter(after)),
        (OfflineSpec::Fail, Some(after)) => Ok(Offline::FailAfter(after)),
        (OfflineSpec::CatchUp, Some(after)) => {
            let until = spec.offline_until.unwrap_or(CATCH_UP_UNTIL.max(after));
            if until < after {
                return error("`offline_until` is before `offline_after`: raise it, or remove it");
            }
            Ok(Offline::CatchUp { after, until })
        }
    }
}

/// What a step `on: always` may be: it is tried once at the end, whether or not its node has packages.
pub(super) fn check_always(spec: &StepSpec, before: bool) -> Result<(), PlanError> {
    if spec.on != On::Always {
        return Ok(());
    }
    if before {
        return Err(step_error(
            spec,
            "`on: always` is for `steps`: move the step there, or give another `always_after`",
        ));
    }
    if spec.unpack.is_some() || spec.retries > 0 || spec.on_failure != OnFailure::default() {
        let cause =
            "a step `on: always` is tried once, also without packages: remove `unpack`, `retries` and `on_failure`";
        return Err(step_error(spec, cause));
    }
    Ok(())
}

/// On how many nodes a step runs at a time.
pub(super) fn pace(spec: &StepSpec, before: bool) -> Result<Pace, PlanError> {
    let cause = match (spec.window, spec.sync) {
        (None, None) => return Ok(Pace::Each),
        _ if before => "`window` and `sync` are for `steps`: move the step there, or remove them",
        _ if spec.on != On::Node => "`window` and `sync` are for steps on every node: remove them, or `on`",
        (Some(_), Some(_)) => "`window` has nodes start one after another, `sync: barrier` together: remove one",
        (Some(window), None) if window.is_none() => "`window` of no node: write at least `1`",
        (Some(window), None) => return Ok(Pace::Window(window)),
        (None, Some(SyncSpec::Barrier)) => return Ok(Pace::Together),
    };
    Err(step_error(spec, cause))
}

/// Target nodes, by site and name.
struct Targets<'a> {
    all: Vec<(&'a NodeFacts, TargetIndex)>,
    left: BTreeSet<TargetIndex>,
}

impl<'a> Targets<'a> {
    fn of(nodes: &'a [NodeFacts], groups: &[Group]) -> Self {
        let ids: BTreeSet<NodeId> = groups.iter().flat_map(|group| group.nodes.iter().copied()).collect();
        let places: BTreeMap<NodeId, TargetIndex> = ids.into_iter().zip((0..).map(TargetIndex)).collect();
        let place = |node: &'a NodeFacts| places.get(&node.id).map(|place| (node, *place));
        let mut all: Vec<_> = nodes.iter().filter_map(place).collect();
        all.sort_by_key(|(node, _)| (&node.name, node.id));
        let left = all.iter().map(|(_, place)| *place).collect();
        Self { all, left }
    }

    /// The lanes of the next wave; none if nothing is left for it.
    fn take(&mut self, spec: &WaveSpec) -> Result<Vec<Vec<TargetIndex>>, PlanError> {
        let selector = spec.select.as_deref().map(str::parse::<Selector>).transpose();
        let select = spec.select.as_deref().unwrap_or("all");
        let selector = selector.map_err(|error| wrong(spec, format!("`select: {select}`: {error}")))?;
        let meant = |node: &NodeFacts| selector.as_ref().is_none_or(|selector| selector.matches(traits(node)));
        let mut lanes: BTreeMap<Option<&Name>, Vec<TargetIndex>> = BTreeMap::new();
        for (node, place) in self.all.iter().filter(|(node, _)| meant(node)) {
            lanes.entry(spec.per.map(|_| &node.site)).or_default().push(*place);
        }
        if lanes.is_empty() {
            let cause = format!("`select: {select}` means none of the {} target nodes", self.all.len());
            return Err(wrong(spec, cause + ": compare with `shoal nodes ls`"));
        }
        let lanes: Vec<_> = lanes.into_values().map(|meant| self.take_lane(spec, &meant)).collect();
        Ok(lanes.into_iter().filter(|lane| !lane.is_empty()).collect())
    }

    fn take_lane(&mut self, spec: &WaveSpec, meant: &[TargetIndex]) -> Vec<TargetIndex> {
        let count = spec.count.map_or(meant.len(), |count| count.rounded_up(meant.len()));
        let free = meant.iter().copied().filter(|place| self.left.contains(place));
        let lane: BTreeSet<TargetIndex> = free.take(count).collect();
        self.left.retain(|place| !lane.contains(place));
        lane.into_iter().collect()
    }
}
