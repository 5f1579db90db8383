//! The coordinator away for minutes to hours: in every fourth seed, so that the others mean what they meant.
//!
//! Of these, half are quiet otherwise; in them *progress* is judged: every node of the site has the packages that it was
//! acquiring when the coordinator went, within a bound, if the site had a deputy and somebody in it had the recipe.

use std::time::Duration;

use shoal_proto::id::ContentId;
use shoal_proto::limits::{COORDINATOR_GRACE, RETURN_MAX, VIEW_SETTLED};
use shoal_proto::manifest::Source;
use shoal_proto::rng::{Rng, mix};
use shoal_proto::time::Time;

use crate::faults::Fault;
use crate::links::Place;
use crate::scenario::{Mishaps, Scenario};
use crate::world::{Event, World};

/// Tells the random numbers of this file from those of the scenario.
const SALT: u64 = 0xa1a1;

/// How long ends may take to learn that a connection is gone.
const SILENCE: Duration = Duration::from_secs(12);

/// Who does not reach the coordinator.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Away {
    /// Nobody: its process is gone.
    All,
    /// One site.
    Site(usize),
    /// Some nodes of one site.
    Some(usize),
}

/// Packages that nodes were acquiring, and whether they must have them by the time that this is judged.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    wanted: Vec<(usize, u32, ContentId)>,
}

/// Makes a scenario one in which the coordinator goes away.
pub(crate) fn go(scenario: &mut Scenario, seed: u64) {
    let mut rng = Rng::new(mix(seed ^ SALT));
    scenario.swarm = true;
    for site in &mut scenario.sites {
        site.wan_rate = 50_000 << rng.below(6);
    }
    // Large enough to be on their way when the coordinator goes.
    for plan in &mut scenario.packages {
        let times = 2 + usize::try_from(rng.below(6)).expect("below 6");
        (plan.blocks, plan.changed) = (plan.blocks.repeat(times), plan.changed.repeat(times));
        plan.package.size *= times as u64;
    }
    for deployment in &mut scenario.deployments {
        deployment.source = if rng.below(8) == 0 { Source::Coordinator } else { Source::Feed };
    }
    scenario.quiet = rng.below(2) == 0;
    if scenario.quiet {
        scenario.faults.clear();
        scenario.mishaps = Mishaps::default();
        scenario.nodes.iter_mut().for_each(|node| node.lies = 0);
    }
    let first = scenario.deployments.iter().map(|deployment| deployment.at).min().unwrap_or(Time::ZERO);
    let at = first + Duration::from_millis(2_000 + rng.below(30_000));
    let site = usize::try_from(rng.below(scenario.sites.len() as u64)).expect("below a count");
    let away = match rng.below(4) {
        0 => Away::Site(site),
        1 => Away::Some(site),
        _ => Away::All,
    };
    let span = Duration::from_secs(120 << rng.below(5)).max(bound(scenario) + Duration::from_secs(10));
    scenario.faults.push((at, Fault::Away { away, span }));
    scenario.calm_at = scenario.calm_at.max(at + span + Duration::from_secs(20));
}

/// Within what time packages are complete without the coordinator: until deputies may read, then four times what the
/// slowest reader takes for everything, since runs are spread unevenly.
fn bound(scenario: &Scenario) -> Duration {
    let bytes: u64 = scenario.packages.iter().flat_map(|package| &package.blocks).map(|bytes| u64::from(*bytes)).sum();
    let wan = scenario.sites.iter().map(|site| site.wan_rate).min().unwrap_or(1);
    let node = scenario.nodes.iter().map(|node| node.rate).min().unwrap_or(1);
    let seconds = 4 * bytes / wan.min(node).max(1);
    SILENCE + COORDINATOR_GRACE + RETURN_MAX + VIEW_SETTLED + Duration::from_secs(seconds + 60)
}

impl World {
    pub(crate) fn go_away(&mut self, away: Away, span: Duration) {
        let until = self.now + span;
        self.note_progress(away);
        match away {
            Away::All => {
                self.crash_coordinator();
                self.control.away_until = until;
                self.queue.push(until, Event::StartCoordinator);
            }
            Away::Site(site) => self.cut(until, |world, node| world.scenario.nodes[node].site == site),
            Away::Some(site) => {
                let chance = 1 + self.rng.below(3);
                let chosen: Vec<_> = self.hosts.iter().map(|_| self.rng.below(4) < chance).collect();
                self.cut(until, |world, node| world.scenario.nodes[node].site == site && chosen[node]);
            }
        }
    }

    fn cut(&mut self, until: Time, concerned: impl Fn(&Self, usize) -> bool) {
        for node in (0..self.hosts.len()).filter(|node| concerned(self, *node)).collect::<Vec<_>>() {
            self.hosts[node].cut_until = until;
            self.break_links(|ends| ends.contains(&Place::Node(node)) && ends.contains(&Place::Coordinator));
        }
    }

    fn note_progress(&mut self, away: Away) {
        let concerned = |site: usize| match away {
            Away::All => true,
            Away::Site(of) => of == site,
            Away::Some(_) => false,
        };
        if !self.scenario.quiet {
            return;
        }
        for node in 0..self.hosts.len() {
            let site = self.scenario.nodes[node].site;
            let Some(process) = self.hosts[node].process.as_ref().filter(|_| concerned(site)) else { continue };
            for content in process.open.keys().copied() {
                let Some(plan) = self.scenario.package_of(content) else { continue };
                let recipe: ContentId = plan.package.recipe.recipe.into();
                let near = || (0..self.hosts.len()).filter(|other| self.scenario.nodes[*other].site == site);
                let deputy =
                    |other: &usize| self.hosts[*other].process.as_ref().is_some_and(|p| p.standbys.contains(&content));
                let known = near().any(|other| self.hosts[other].disk.is_sealed(recipe)) && near().any(|n| deputy(&n));
                if known && content != recipe && !self.hosts[node].disk.is_sealed(content) {
                    self.progress.wanted.push((node, self.hosts[node].life, content));
                }
            }
        }
        if !self.progress.wanted.is_empty() {
            self.queue.push(self.now + bound(&self.scenario), Event::JudgeProgress);
        }
    }

    pub(crate) fn judge_progress(&mut self) {
        let mut verdict = Ok(());
        for (node, life, content) in &self.progress.wanted {
            let same = self.hosts[*node].life == *life;
            if same && !self.hosts[*node].disk.is_sealed(*content) {
                verdict = Err(format!("node{node} still lacks {content:?}, the coordinator being away"));
            }
        }
        self.totals.completed_away += self.progress.wanted.len() as u64;
        self.verify("PROGRESS", verdict);
    }
}
