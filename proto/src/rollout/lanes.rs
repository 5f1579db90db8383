//! Stage `steps`: waves come one after another, their lanes go from step to step (GATE).

use super::course::step_after;
use super::input::Actor;
use super::next::fail;
use super::record::{Change, Exclusion};
use super::sight::Sight;
use super::state::LaneStand;
use super::turn::Places;
use crate::id::{LaneIndex, WaveIndex};
use crate::manifest::{Phase, StepRef};
use crate::time::Time;

/// What follows once the release gate is open, as long as no failure waits for an answer.
pub(super) enum Goes {
    On(Vec<Change>),
    /// All waves are through.
    Over,
}

pub(super) fn go(sight: &Sight<'_>) -> Goes {
    if step_after(sight.manifest, None).is_none() {
        return Goes::Over;
    }
    match sight.state.wave() {
        None => Goes::On(vec![Change::WaveOpened { wave: WaveIndex(0) }]),
        Some(wave) if sight.state.waves[wave.index()].ended => at_wave_gate(sight, wave),
        Some(wave) => Goes::On(within(sight, wave)),
    }
}

fn at_wave_gate(sight: &Sight<'_>, wave: WaveIndex) -> Goes {
    let tally = Tally::of(sight, wave);
    let Some(next) = sight.course.after(wave) else {
        let failed = tally.is_short() && tally.counted > 0;
        return if failed { Goes::On(vec![fail(tally.describe(sight, wave))]) } else { Goes::Over };
    };
    let opens = sight.state.waves[wave.index()].promoted || (!tally.is_short() && sight.baked_at(wave) <= sight.now);
    Goes::On(if opens { vec![Change::WaveOpened { wave: next }] } else { Vec::new() })
}

/// Lanes go on each for itself; as many are under way as the wave says.
fn within(sight: &Sight<'_>, wave: WaveIndex) -> Vec<Change> {
    let mut changes = Vec::new();
    let (mut under_way, mut over) = (0, true);
    for lane in sight.course.lanes(wave) {
        let stand = sight.state.lanes[lane.index()].stand;
        over &= stand == LaneStand::Over;
        if let LaneStand::At(index) = stand {
            under_way += 1;
            let step = StepRef { phase: Phase::Steps, index };
            let places = Places::of(sight, step, Some(lane));
            let change = if places.done { Some(following(sight, lane)) } else { places.first(sight, step) };
            // A step on the coordinator is everyone's, and ordered once.
            changes.extend(change.filter(|change| !changes.contains(change)));
        }
    }
    if over {
        return vec![Change::WaveEnded { wave }];
    }
    let max = sight.course.wave(wave).map_or(1, |wave| wave.max_parallel);
    let pending = |lane: &LaneIndex| sight.state.lanes[lane.index()].stand == LaneStand::Pending;
    let begin = sight.course.lanes(wave).filter(pending).take(usize::saturating_sub(max, under_way));
    changes.extend(begin.map(|lane| following(sight, lane)));
    changes
}

fn following(sight: &Sight<'_>, lane: LaneIndex) -> Change {
    let last = match sight.state.lanes[lane.index()].stand {
        LaneStand::At(step) => Some(step),
        LaneStand::Pending | LaneStand::Over => None,
    };
    match step_after(sight.manifest, last) {
        Some(index) => Change::StepOpened { step: StepRef { phase: Phase::Steps, index }, lane: Some(lane) },
        None => Change::LaneEnded { lane },
    }
}

/// The nodes of a wave that count: not those that were offline or late for too long, or that an operator excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) counted: usize,
    /// Those that went, or may still go, through all steps.
    pub(super) sound: usize,
    /// How many of those it takes before the next wave begins by itself: at least one, so that nobody's failure is none.
    pub(super) needed: usize,
}

impl Tally {
    pub(super) fn of(sight: &Sight<'_>, wave: WaveIndex) -> Self {
        let nodes = sight.course.nodes_of_wave(wave).filter_map(|node| sight.state.nodes.get(&node));
        let (mut counted, mut sound) = (0, 0);
        for node in nodes {
            sound += usize::from(node.is_awaited());
            counted += usize::from(node.is_awaited() || node.excluded == Some(Exclusion::Failed));
        }
        let needed = sight.course.wave(wave).map_or(1, |wave| wave.success.needed(counted));
        Self { counted, sound, needed }
    }

    pub(super) fn is_short(self) -> bool {
        self.sound < self.needed
    }

    fn describe(self, sight: &Sight<'_>, wave: WaveIndex) -> String {
        let Self { counted, sound, needed } = self;
        let name = sight.course.wave(wave).and_then(|wave| wave.name.as_ref());
        let name = name.map_or_else(String::new, |name| format!("wave `{name}`: "));
        format!("{name}{sound} of {counted} nodes succeeded, and {needed} are needed")
    }
}

impl Sight<'_> {
    /// Whether a step is not over with the end of this one run: another of the same turn is in flight.
    pub(super) fn others_in_flight(&self, step: StepRef, actor: Actor) -> bool {
        match actor.node() {
            _ if step.phase != Phase::Steps => self.state.in_flight > 1,
            Some(node) => self.state.lanes[self.course.lane_of(node).index()].in_flight > 1,
            None => false,
        }
    }

    /// When the bake of a wave that is through is over.
    pub(super) fn baked_at(&self, wave: WaveIndex) -> Time {
        let bake = self.course.wave(wave).map_or(std::time::Duration::ZERO, |wave| wave.bake);
        self.soft.baked(wave, bake).unwrap_or(self.now + bake)
    }

    /// Whether a wave is through, and the next waits for its bake or for an operator.
    pub(super) fn waiting_wave(&self) -> Option<WaveIndex> {
        let wave = self.state.wave().filter(|wave| self.state.waves[wave.index()].ended)?;
        let waits = self.state.closing.is_none() && self.course.after(wave).is_some();
        waits.then_some(wave)
    }

    /// Whether the failure budget of a node's wave has room for its failure, those before it counted.
    pub(super) fn affords(&self, node: crate::id::NodeId) -> bool {
        let wave = self.course.wave_of(node);
        let (Some(plan), Some(state)) = (self.course.wave(wave), self.state.waves.get(wave.index())) else {
            return false;
        };
        if plan.max_failures.is_none() {
            return false;
        }
        let nodes = || self.course.nodes_of_wave(wave).filter_map(|id| Some((id, self.state.nodes.get(&id)?)));
        let counts =
            |(_, node): &(_, &super::state::Node)| node.is_awaited() || node.excluded == Some(Exclusion::Failed);
        // Strictly more failures than the budget stop the deployment.
        if state.failures >= plan.max_failures.rounded_down(nodes().filter(counts).count()) {
            return false;
        }
        let Some(budget) = plan.max_failures_per_site else { return true };
        let of_site = || nodes().filter(counts).filter(|(id, _)| self.site(*id) == self.site(node));
        let failed = of_site().filter(|(_, node)| node.excluded.is_some()).count();
        failed < budget.rounded_down(of_site().count())
    }
}
