//! GATE of waves: no step starts on a node before its wave's gate opened, which is when the waves before are through and
//! baked, or when an operator promoted them. A second account, kept from the durable records.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_proto::id::{Name, NodeId, WaveIndex};
use shoal_proto::manifest::{Manifest, Share};
use shoal_proto::rollout::{Actor, Change, Exclusion};
use shoal_proto::time::WallTime;

/// The waves of one deployment, as the durable records say.
#[derive(Clone, Debug)]
pub(crate) struct Waves {
    waves: Vec<Wave>,
    /// The nodes of each lane, of all waves.
    pub(crate) lanes: Vec<BTreeSet<NodeId>>,
    failed: BTreeSet<NodeId>,
    /// Those that were excluded for another cause, or are away: they count for nothing.
    gone: BTreeSet<NodeId>,
}

#[derive(Clone, Debug)]
struct Wave {
    lanes: Vec<usize>,
    bake: Duration,
    max_parallel: usize,
    budget: Share,
    site_budget: Option<Share>,
    opened: bool,
    ended: Option<WallTime>,
    promoted: bool,
}

impl Waves {
    pub(crate) fn of(manifest: &Manifest) -> Self {
        let targets: Vec<NodeId> = manifest.targets().into_iter().collect();
        let mut new = Self { waves: Vec::new(), lanes: Vec::new(), failed: BTreeSet::new(), gone: BTreeSet::new() };
        for wave in &manifest.waves {
            let first = new.lanes.len();
            new.lanes.extend(wave.lanes.iter().map(|lane| lane.iter().map(|at| targets[at.index()]).collect()));
            new.waves.push(Wave {
                lanes: (first..new.lanes.len()).collect(),
                bake: wave.bake,
                max_parallel: wave.max_parallel.into(),
                budget: wave.max_failures,
                site_budget: wave.max_failures_per_site,
                opened: false,
                ended: None,
                promoted: false,
            });
        }
        if new.waves.is_empty() {
            new.lanes.push(targets.into_iter().collect());
            let (bake, max_parallel, budget, site_budget) = (Duration::ZERO, 1, Share::Count(0), None);
            let (opened, ended, promoted) = (false, None, false);
            new.waves.push(Wave { lanes: vec![0], bake, max_parallel, budget, site_budget, opened, ended, promoted });
        }
        new
    }

    /// Nodes joined: `manifest` has them in its lanes, and `behind` are behind the others.
    pub(crate) fn joined(&mut self, manifest: &Manifest, behind: &[NodeId]) {
        let Self { waves, lanes, .. } = Self::of(manifest);
        self.lanes = lanes;
        for (known, wave) in self.waves.iter_mut().zip(waves) {
            known.lanes = wave.lanes;
        }
        self.gone.extend(behind);
    }

    /// A change became durable; `through` says whether a lane has all its steps done.
    pub(crate) fn changed(
        &mut self,
        change: &Change,
        at: WallTime,
        sites: &BTreeMap<NodeId, Name>,
        through: impl Fn(&BTreeSet<NodeId>) -> Result<(), String>,
    ) -> Result<(), String> {
        match change {
            Change::WaveOpened { wave } => self.opened(*wave, at),
            Change::WaveEnded { wave } => {
                let known = &mut self.waves[wave.index()];
                known.ended = Some(at);
                known.lanes.iter().try_for_each(|lane| through(&self.lanes[*lane]))
            }
            Change::Promoted { wave } => {
                self.waves[wave.index()].promoted = true;
                Ok(())
            }
            Change::Excluded { node, why: Exclusion::Failed } => self.failed(*node, sites),
            Change::Excluded { node, .. } | Change::Behind { node } => {
                self.gone.insert(*node);
                Ok(())
            }
            Change::CaughtUp { node } => {
                self.gone.remove(node);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn opened(&mut self, wave: WaveIndex, at: WallTime) -> Result<(), String> {
        if let Some(before) = wave.index().checked_sub(1).map(|before| &self.waves[before]) {
            let ended = before.ended.ok_or_else(|| format!("wave {wave} begins before the one before is through"))?;
            let baked = u128::from(at.0.saturating_sub(ended.0)) >= before.bake.as_millis();
            if !baked && !before.promoted {
                return Err(format!("wave {wave} begins before the bake of the one before is over"));
            }
        }
        self.waves[wave.index()].opened = true;
        Ok(())
    }

    /// A node's failure is paid for by the budgets of its wave.
    fn failed(&mut self, node: NodeId, sites: &BTreeMap<NodeId, Name>) -> Result<(), String> {
        self.failed.insert(node);
        let wave = self.wave_of(node).ok_or_else(|| format!("{node:?} is in no wave"))?;
        let nodes = || wave.lanes.iter().flat_map(|lane| &self.lanes[*lane]).filter(|node| !self.gone.contains(*node));
        let of_site = || nodes().filter(|other| sites.get(other) == sites.get(&node));
        let failed =
            |nodes: &mut dyn Iterator<Item = &NodeId>| nodes.filter(|node| self.failed.contains(*node)).count();
        let over = failed(&mut nodes()) > wave.budget.rounded_down(nodes().count());
        let site_budget = wave.site_budget.map(|budget| budget.rounded_down(of_site().count()));
        if over || site_budget.is_some_and(|budget| failed(&mut of_site()) > budget) {
            return Err(format!("the deployment goes on although more nodes failed, {node:?} the last, than may"));
        }
        Ok(())
    }

    fn wave_of(&self, node: NodeId) -> Option<&Wave> {
        self.waves.iter().find(|wave| wave.lanes.iter().any(|lane| self.lanes[*lane].contains(&node)))
    }

    /// The lane of an actor; the coordinator is in none.
    pub(crate) fn lane_of(&self, actor: Actor) -> Option<&BTreeSet<NodeId>> {
        let node = actor.node()?;
        self.lanes.iter().find(|lane| lane.contains(&node))
    }

    /// A step of stage `steps` starts; `begun` and `through` say what is known of lanes.
    pub(crate) fn started(
        &self,
        actor: Actor,
        begun: impl Fn(&BTreeSet<NodeId>) -> bool,
        through: impl Fn(&BTreeSet<NodeId>) -> bool,
    ) -> Result<(), String> {
        let wave = match actor.node() {
            None => self.waves.first(),
            Some(node) => self.wave_of(node),
        };
        let wave = wave.filter(|wave| wave.opened).ok_or_else(|| format!("{actor:?} starts before its wave's gate"))?;
        let lanes = wave.lanes.iter().map(|lane| &self.lanes[*lane]);
        let under_way = lanes.filter(|lane| begun(lane) && !through(lane)).count();
        let fits = under_way <= wave.max_parallel;
        fits.then_some(()).ok_or_else(|| format!("{under_way} lanes are under way, and {} may", wave.max_parallel))
    }
}
