//! The course of a deployment: which target nodes go through the steps together, and after whom.
//!
//! Waves come one after another. The lanes of a wave are under way at the same time, each at a step of its own; a step is
//! a barrier for the nodes of its lane. A deployment without waves is one wave of one lane. Fixed once made.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::id::{LaneIndex, Name, NodeId, StepIndex, WaveIndex};
use crate::manifest::{Manifest, On, Quorum, Share};

/// Waves and their lanes, in order.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) waves: Vec<WavePlan>,
    pub(super) lanes: Vec<LanePlan>,
    places: BTreeMap<NodeId, LaneIndex>,
}

/// What is fixed about a wave.
#[derive(Debug)]
pub(super) struct WavePlan {
    /// None for the only wave of a deployment without waves.
    pub(super) name: Option<Name>,
    lanes: Range<u16>,
    pub(super) max_parallel: usize,
    pub(super) bake: Duration,
    pub(super) success: Quorum,
    pub(super) max_failures: Share,
    pub(super) max_failures_per_site: Option<Share>,
}

/// What is fixed about a lane.
#[derive(Debug)]
pub(super) struct LanePlan {
    pub(super) wave: WaveIndex,
    pub(super) nodes: Vec<NodeId>,
}

impl Course {
    pub(super) fn of(manifest: &Manifest) -> Self {
        let targets: Vec<NodeId> = manifest.targets().into_iter().collect();
        let mut new = Self { waves: Vec::new(), lanes: Vec::new(), places: BTreeMap::new() };
        for wave in &manifest.waves {
            let node = |place: &crate::id::TargetIndex| targets.get(place.index()).copied();
            let lanes = wave.lanes.iter().map(|lane| lane.iter().filter_map(node).collect());
            let plan = WavePlan {
                name: Some(wave.name.clone()),
                lanes: 0..0,
                max_parallel: usize::from(wave.max_parallel),
                bake: wave.bake,
                success: wave.success,
                max_failures: wave.max_failures,
                max_failures_per_site: wave.max_failures_per_site,
            };
            new.push(plan, lanes.collect());
        }
        if new.waves.is_empty() {
            let only = WavePlan {
                name: None,
                lanes: 0..0,
                max_parallel: 1,
                bake: Duration::ZERO,
                success: Quorum::AllBut(u32::MAX),
                max_failures: Share::Count(0),
                max_failures_per_site: None,
            };
            new.push(only, vec![targets]);
        }
        new
    }

    fn push(&mut self, wave: WavePlan, lanes: Vec<Vec<NodeId>>) {
        let index = WaveIndex(small(self.waves.len()));
        let first = small(self.lanes.len());
        for nodes in lanes {
            let lane = LaneIndex(small(self.lanes.len()));
            self.places.extend(nodes.iter().map(|node| (*node, lane)));
            self.lanes.push(LanePlan { wave: index, nodes });
        }
        self.waves.push(WavePlan { lanes: first..small(self.lanes.len()), ..wave });
    }

    /// The lane of a target node. A manifest that leaves a node out is no coordinator's: it is in the last lane then, and
    /// no step waits for it.
    pub(super) fn lane_of(&self, node: NodeId) -> LaneIndex {
        self.places.get(&node).copied().unwrap_or(LaneIndex(small(self.lanes.len().saturating_sub(1))))
    }

    pub(super) fn wave_of(&self, node: NodeId) -> WaveIndex {
        self.lanes.get(self.lane_of(node).index()).map_or(WaveIndex(0), |lane| lane.wave)
    }

    pub(super) fn wave(&self, wave: WaveIndex) -> Option<&WavePlan> {
        self.waves.get(wave.index())
    }

    /// The nodes of a lane.
    pub(super) fn nodes(&self, lane: LaneIndex) -> &[NodeId] {
        self.lanes.get(lane.index()).map_or(&[], |lane| &lane.nodes)
    }

    /// The lanes of a wave.
    pub(super) fn lanes(&self, wave: WaveIndex) -> impl Iterator<Item = LaneIndex> + use<> {
        self.wave(wave).map_or(0..0, |wave| wave.lanes.clone()).map(LaneIndex)
    }

    /// The nodes of a wave.
    pub(super) fn nodes_of_wave(&self, wave: WaveIndex) -> impl Iterator<Item = NodeId> {
        self.lanes(wave).flat_map(|lane| self.nodes(lane).iter().copied())
    }

    /// The wave after `wave`.
    pub(super) fn after(&self, wave: WaveIndex) -> Option<WaveIndex> {
        let next = wave.index() + 1;
        (next < self.waves.len()).then(|| WaveIndex(small(next)))
    }
}

/// The step of `steps` that follows one, or the first; those `on: always` come at the end.
pub(super) fn step_after(manifest: &Manifest, step: Option<StepIndex>) -> Option<StepIndex> {
    let begin = step.map_or(0, |step| step.index() + 1);
    let next = manifest.steps.iter().skip(begin).position(|step| step.on != On::Always)?;
    Some(StepIndex(small(begin + next)))
}

/// As an index: there are at most `NODES_MAX` lanes, and fewer steps and waves.
fn small(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}
